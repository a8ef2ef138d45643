"""Facts about the pages of codes, alerts and webhook endpoints."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts import form_tokens
from accounts.models import AuditEvent, OutboxMessage
from billing.gifts import codes
from billing.models import AlertSettings, WebhookEndpoint
from tests.billing.pages.conftest import Purse
from tests.conftest import USD


@pytest.fixture
def endpoint(purse: Purse) -> WebhookEndpoint:
    answer = send(purse, "/webhooks", url="https://example.com/hook")
    assert answer.status_code == 200
    return WebhookEndpoint.objects.get(account=purse.account)


def send(purse: Purse, address: str, *, role: str = "billing", token: str = "", **fields: Any) -> Any:
    return purse.browser(role).post(f"{purse.base}{address}", {form_tokens.FIELD: token or form_tokens.new(), **fields})


def test_a_code_becomes_credit_once_and_says_what_is_wrong_with_others(purse: Purse) -> None:
    now = timezone.now()
    (code,) = codes.create_codes(count=1, amount_nano=7 * USD, user=None, now=now, credit_days=30)
    (late,) = codes.create_codes(count=1, amount_nano=USD, user=None, now=now - timedelta(days=2), expires_at=now - timedelta(days=1))
    for _ in range(2):
        assert send(purse, "/billing/credits", code=code.code.lower().replace("-", " ")).status_code == 302
    purse.wallet.refresh_from_db()
    assert purse.wallet.balance == 7 * USD
    assert "Given" in purse.text("/billing/credits", role="viewer")
    for typed, words in ((late.code, "This code expired on"), ("TG-2222-3333-4444", "There is no such code"), ("", "required")):
        answer = send(purse, "/billing/credits", code=typed)
        assert answer.status_code == 400
        assert words in answer.content.decode()


def test_credits_are_listed_in_the_order_in_which_they_burn(purse: Purse) -> None:
    now = timezone.now()
    purse.give("5", kind="paid")
    purse.give("3", note="for the record of staff")
    purse.give("2", expires_at=now + timedelta(days=9))
    purse.give("1", expires_at=now + timedelta(days=2))
    said = purse.text("/billing/credits")
    assert "for the record" not in said + purse.text("/billing/ledger")
    places = [said.index(f"{kind} ${usd}.00") for kind, usd in (("Given", 1), ("Given", 2), ("Given", 3), ("Bought", 5))]
    assert places == sorted(places)


def test_alerts_are_changed_once_and_written_down(purse: Purse) -> None:
    wish = {"low_balance_nano": "12.50", "days_left": "0", "receipts": "on"}
    for _ in range(2):
        assert send(purse, "/billing/alerts", **wish).status_code == 302
    saved = AlertSettings.objects.get(account=purse.account)
    assert (saved.low_balance_nano, saved.days_left, saved.limits, saved.receipts) == (12_500_000_000, 0, False, True)
    (event,) = AuditEvent.objects.filter(account=purse.account, action="alerts.changed")
    assert event.details["low_balance_nano"] == [5 * USD, 12_500_000_000]
    assert "below $12.50" in purse.text("/billing/alerts", role="viewer")
    assert send(purse, "/billing/alerts", low_balance_nano="-1", days_left="3").status_code == 400


def test_an_endpoints_secret_is_shown_once(purse: Purse) -> None:
    token = form_tokens.new()
    first = send(purse, "/webhooks", token=token, url="https://example.com/hook", events=["top_up.paid"])
    assert "whsec_" in first.content.decode()
    again = send(purse, "/webhooks", token=token, url="https://example.com/hook", events=["top_up.paid"])
    assert again.status_code == 302
    endpoint = WebhookEndpoint.objects.get(account=purse.account)
    assert endpoint.events == ["top_up.paid"]
    for page in ("/webhooks", f"/webhooks/{endpoint.pk}"):
        assert "whsec_" not in purse.browser("owner").get(f"{purse.base}{page}").content.decode()


@pytest.mark.parametrize("fields", [{"url": "http://example.com"}, {"url": "https://127.0.0.1/x"}, {"url": ""},
                                    {"url": "https://example.com", "events": "no.such"}])  # fmt: skip
def test_an_endpoint_that_may_not_be_called_is_refused(purse: Purse, fields: dict[str, str]) -> None:
    assert send(purse, "/webhooks", **fields).status_code == 400
    assert not WebhookEndpoint.objects.filter(account=purse.account).exists()


def test_an_endpoint_is_changed_tried_given_a_new_secret_and_switched_off_and_on(purse: Purse, endpoint: WebhookEndpoint) -> None:
    here = f"/webhooks/{endpoint.pk}"
    assert send(purse, here, url="https://example.com/other", events=["balance.low"]).status_code == 302
    token = form_tokens.new()
    for _ in range(2):
        assert send(purse, f"{here}/test", token=token).status_code == 302
    assert OutboxMessage.objects.filter(recipient=str(endpoint.pk)).count() == 1
    said = purse.text(here, role="viewer")
    assert "https://example.com/other" in said
    assert "webhook_endpoint.test" in said
    rotated = send(purse, f"{here}/secret", token=token[::-1])
    assert "whsec_" in rotated.content.decode()
    assert send(purse, f"{here}/secret", token=token[::-1]).status_code == 302
    assert "signatures of the old and the new secret" in purse.text(here)
    send(purse, f"{here}/disable")
    assert "Switched off by hand." in purse.text("/webhooks")
    send(purse, f"{here}/enable")
    endpoint.refresh_from_db()
    assert endpoint.is_enabled
    assert send(purse, f"{here}/remove")["Location"] == f"{purse.base}/webhooks"
    assert not WebhookEndpoint.objects.filter(pk=endpoint.pk).exists()


def test_another_accounts_endpoint_is_not_there(endpoint: WebhookEndpoint) -> None:
    other = Purse()
    assert other.browser("owner").get(f"{other.base}/webhooks/{endpoint.pk}").status_code == 404
    for deed in ("secret", "enable", "disable", "remove", "test"):
        assert send(other, f"/webhooks/{endpoint.pk}/{deed}").status_code == 404
    endpoint.refresh_from_db()
    assert endpoint.is_enabled


def test_a_form_without_its_token_is_no_form_of_ours(purse: Purse, endpoint: WebhookEndpoint) -> None:
    address = f"{purse.base}/webhooks/{endpoint.pk}"
    assert purse.browser("billing").post(f"{address}/remove").status_code == 400
    assert WebhookEndpoint.objects.filter(pk=endpoint.pk).exists()
