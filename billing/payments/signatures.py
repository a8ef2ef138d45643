"""The signature of a webhook: who sent these bytes, and when. Pure; bytes in, bytes compared.

The scheme is Stripe's (https://docs.stripe.com/webhooks#verify-manually): HMAC-SHA256 over `<timestamp>.<body>`, in a header
`t=<timestamp>,v1=<hex>[,v1=<hex>…]`. Its own library accepts moments in the future and takes one secret; here both are bounded and tried.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import datetime

TOLERANCE_SECONDS = 300
LONGEST_HEADER = 4096
_PART = re.compile(r"\s*([a-z0-9]{1,10})=([0-9a-zA-Z]{1,128})\s*", re.ASCII)


class InvalidSignature(Exception):
    """None of our secrets made this signature, or its moment is too far from now."""


def verify(*, body: bytes, header: str, secrets: Sequence[str], now: datetime) -> None:
    """Check that one of `secrets` signed `body` within 300 seconds of `now`, in either direction.

    Raises: InvalidSignature.
    """
    moment, signatures = _read(header)
    if abs(now.timestamp() - moment) > TOLERANCE_SECONDS:
        raise InvalidSignature("the signature's timestamp is too far from now")
    signed = b"%d.%s" % (moment, body)
    for secret in secrets:
        expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode()
        if secret.strip() and any(hmac.compare_digest(expected, found) for found in signatures):
            return
    raise InvalidSignature("no secret of this installation made this signature")


def _read(header: str) -> tuple[int, list[bytes]]:
    if not header or len(header) > LONGEST_HEADER:
        raise InvalidSignature("there is no Stripe-Signature header, or it is too long")
    moment: int | None = None
    signatures: list[bytes] = []
    for part in header.split(","):
        found = _PART.fullmatch(part)
        if found is None:
            raise InvalidSignature("the Stripe-Signature header is no list of name=value")
        name, value = found.groups()
        if name == "t":
            if not value.isdigit() or len(value) > 12 or moment is not None:
                raise InvalidSignature("the timestamp is no moment")
            moment = int(value)
        elif name == "v1":
            signatures.append(value.encode())
    if moment is None or not signatures:
        raise InvalidSignature("the Stripe-Signature header lacks t or v1")
    return moment, signatures
