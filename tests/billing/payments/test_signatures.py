"""Facts about signatures: Stripe's own library signs what is believed, and nothing else is, whatever the header says."""

from datetime import UTC, datetime, timedelta

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from billing.payments.signatures import InvalidSignature, verify

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SECRET = "whsec_0123456789"
BODY = b'{"id": "evt_1", "name": "caf\xc3\xa9"}'


def signed(body: bytes = BODY, secret: str = SECRET, at: datetime = NOW) -> str:
    return str(stripe.WebhookSignature.generate_signature_header(body.decode(), secret, int(at.timestamp())))


def test_what_stripes_library_signs_is_believed() -> None:
    verify(body=BODY, header=signed(), secrets=[SECRET], now=NOW)


def test_each_configured_secret_is_tried() -> None:
    verify(body=BODY, header=signed(secret="whsec_old"), secrets=[SECRET, "whsec_old"], now=NOW)
    verify(body=BODY, header=f"{signed()},{signed(secret='whsec_x').split(',')[1]},v0=0", secrets=["whsec_x"], now=NOW)


@pytest.mark.parametrize("seconds", [-300, 300])
def test_the_tolerance_is_five_minutes_both_ways(seconds: int) -> None:
    verify(body=BODY, header=signed(at=NOW + timedelta(seconds=seconds)), secrets=[SECRET], now=NOW)
    beyond = timedelta(seconds=seconds + (1 if seconds > 0 else -1))
    with pytest.raises(InvalidSignature):
        verify(body=BODY, header=signed(at=NOW + beyond), secrets=[SECRET], now=NOW)


@pytest.mark.parametrize("secret", ["", " ", "\t"])
def test_an_empty_secret_believes_nobody(secret: str) -> None:
    """Exploited elsewhere (CVE-2026-41432): anybody can sign with nothing."""
    import hashlib
    import hmac

    moment = int(NOW.timestamp())
    mark = hmac.new(secret.encode(), b"%d.%s" % (moment, BODY), hashlib.sha256).hexdigest()
    for secrets in ([secret], []):
        with pytest.raises(InvalidSignature):
            verify(body=BODY, header=f"t={moment},v1={mark}", secrets=secrets, now=NOW)


@given(
    header=st.one_of(st.text(max_size=200), st.from_regex(r"t=[0-9]{0,14},v1=[0-9a-fé]{0,70}(,v1=.{0,9})?", fullmatch=True)),
    body=st.binary(),
)
def test_no_header_is_believed_by_chance_and_none_breaks_it(header: str, body: bytes) -> None:
    with pytest.raises(InvalidSignature):
        verify(body=body, header=header, secrets=[SECRET], now=NOW)


@given(at=st.integers(0, len(BODY) - 1), flip=st.integers(1, 255))
def test_one_changed_byte_is_not_believed(at: int, flip: int) -> None:
    changed = BODY[:at] + bytes([BODY[at] ^ flip]) + BODY[at + 1 :]
    with pytest.raises(InvalidSignature):
        verify(body=changed, header=signed(), secrets=[SECRET], now=NOW)
