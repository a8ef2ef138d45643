"""Facts about what people are told: every event has its mail, it reaches whom it concerns, and a link in it turns it off."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as site
from django.test import Client
from django.utils import timezone

from accounts import mailing
from accounts.models import Membership, OutboxMessage, User
from billing.models import AlertSettings
from billing.notices import telling, unsubscribing

NOW = timezone.now()
SAMPLES: dict[str, object] = {
    "threshold_percent": 80,
    "days_left": 2,
    "days": 7,
    "strikes": 1,
    "is_auto": True,
    "expires_at": NOW,
    "period_end": NOW,
    "starts_at": NOW,
    "ends_at": NOW,
    "evidence_due_at": NOW,
}
OTHERS: dict[str, dict[str, object]] = {
    "welcome": {"name": "Alice"},
    "invitation": {"account_name": "Acme", "inviter": "Alice", "role": "viewer", "link": "https://gateway.test/x", "days": 7},
}


def sample(event: telling.Event) -> dict[str, object]:
    amounts = {name: 12_345_000_000 if name.endswith("_nano") else 1234 for name in event.context if name.endswith(("_nano", "_minor"))}
    return {name: SAMPLES.get(name, f"the {name}") for name in event.context} | amounts


def join(account: Any, role: str) -> str:
    user = User.objects.create_user(f"{role}-{uuid.uuid4().hex}@example.com")
    Membership.objects.create(account=account, user=user, role=role)
    return user.email


def mails(account: Any) -> list[OutboxMessage]:
    return list(OutboxMessage.objects.filter(account=account, kind="mail").order_by("id"))


@pytest.mark.parametrize("event", [event for event in telling.EVENTS.values() if event.who != "staff" and event.template])
def test_every_event_has_a_mail_that_says_what_it_was_given(event: telling.Event, new_customer: Callable[..., Any]) -> None:
    account = new_customer().account
    account.billing_email = f"{uuid.uuid4().hex}@example.com"
    account.name = "Acme & Sons"
    account.save()
    join(account, "owner")
    telling.tell(account=account, event=event.name, dedupe_key="x", context=sample(event), now=NOW)
    (message,) = mails(account)
    text, html = message.content["text"], message.content["html"]
    assert "{" not in message.subject + text
    assert "Acme & Sons" in message.subject + text
    assert "Acme &amp; Sons" in html
    assert "Acme & Sons" not in html
    for amount in ("$12.34",) if any(name.endswith("_minor") for name in event.context) else ():
        assert amount in message.subject + text
    assert ("/unsubscribe/" in text) == ("/unsubscribe/" in html) == bool(event.setting)
    assert f'href="{site.PUBLIC_URL}' in html


@pytest.mark.parametrize("event", [event for event in telling.EVENTS.values() if event.who == "staff"])
def test_the_staff_is_told_by_mail_once(event: telling.Event, settings: Any) -> None:
    settings.STAFF_ALERT_EMAILS = [f"{uuid.uuid4().hex}@example.com", f"{uuid.uuid4().hex}@example.com"]
    for _ in range(2):
        telling.tell_staff(event=event.name, dedupe_key=settings.STAFF_ALERT_EMAILS[0], context=sample(event), now=NOW)
    assert OutboxMessage.objects.filter(recipient__in=settings.STAFF_ALERT_EMAILS).count() == 2


def test_without_addresses_of_the_staff_nothing_is_queued(settings: Any) -> None:
    settings.STAFF_ALERT_EMAILS = []
    key = uuid.uuid4().hex
    telling.tell_staff(event="staff.alert", dedupe_key=key, context={"summary": "s", "details": "d"}, now=NOW)
    assert not OutboxMessage.objects.filter(dedupe_key__contains=key).exists()


@pytest.mark.parametrize("template", OTHERS)
def test_the_other_mails_render(template: str) -> None:
    rendered = mailing.render(template, OTHERS[template])
    assert rendered.subject
    assert "{" not in rendered.subject + rendered.text
    assert "color-scheme" in rendered.html


def test_every_mail_has_its_text_and_its_html() -> None:
    folder = Path(site.BASE_DIR) / "templates/emails"
    texts, pages = ({path.stem for path in folder.glob(f"*.{kind}")} for kind in ("txt", "html"))
    assert texts - {"footer"} == pages - {"base"}


def test_without_a_billing_address_owners_and_billing_members_are_told(customer: Any) -> None:
    expected = sorted(join(customer.account, role) for role in ("owner", "billing"))
    for role in ("admin", "developer", "viewer"):
        join(customer.account, role)
    gone = join(customer.account, "owner")
    User.objects.filter(email=gone).update(is_active=False)
    telling.tell(account=customer.account, event="plan.ended", dedupe_key="x", context={"plan": "p", "plan_name": "P"}, now=NOW)
    assert sorted(message.recipient for message in mails(customer.account)) == expected


def test_the_same_thing_is_told_once(customer: Any) -> None:
    join(customer.account, "owner")
    for key in ("x", "x", "y"):
        telling.tell(account=customer.account, event="plan.ended", dedupe_key=key, context={"plan": "p", "plan_name": "P"}, now=NOW)
    assert len(mails(customer.account)) == 2


def test_an_event_that_is_not_declared_is_refused(customer: Any) -> None:
    with pytest.raises(KeyError):
        telling.tell(account=customer.account, event="no.such", dedupe_key="x", context={}, now=NOW)


def test_times_are_shown_in_the_accounts_zone(customer: Any) -> None:
    customer.account.timezone = "Asia/Tokyo"
    join(customer.account, "owner")
    moment = NOW.replace(year=2026, month=3, day=31, hour=20, minute=0)
    context = {"key_id": 1, "key_name": "CI", "expires_at": moment, "days": 1}
    telling.tell(account=customer.account, event="key.expiring", dedupe_key="x", context=context, now=NOW)
    assert "1 April 2026, 05:00 (Asia/Tokyo)" in mails(customer.account)[0].content["text"]


# -- Unsubscribing -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", unsubscribing.COLUMNS)
def test_one_click_turns_the_mails_of_its_kind_off_and_no_others(setting: unsubscribing.Setting, customer: Any) -> None:
    join(customer.account, "owner")
    event = next(event for event in telling.EVENTS.values() if event.setting == setting)
    path = unsubscribing.link(account=customer.account, setting=setting).removeprefix(site.PUBLIC_URL)
    client = Client(enforce_csrf_checks=True)
    assert "Stop sending" in client.get(path).content.decode()
    assert not AlertSettings.objects.filter(account=customer.account).exists(), "looking changes nothing"
    for _ in range(2):
        assert client.post(path, {"List-Unsubscribe": "One-Click"}).status_code == 200
    telling.tell(account=customer.account, event=event.name, dedupe_key="x", context=sample(event), now=NOW)
    assert mails(customer.account) == []
    assert customer.account.audit_events.filter(action="alerts.turned_off").count() == 1
    telling.tell(account=customer.account, event="plan.ended", dedupe_key="x", context={"plan": "p", "plan_name": "P"}, now=NOW)
    assert len(mails(customer.account)) == 1
    wishes = AlertSettings.objects.get(account=customer.account)
    assert [name for name, column in unsubscribing.COLUMNS.items() if not getattr(wishes, column)] == [setting]


def test_a_link_that_was_not_made_here_turns_nothing_off(customer: Any) -> None:
    path = unsubscribing.link(account=customer.account, setting="limits").removeprefix(site.PUBLIC_URL)
    for bad in (path[:-1] + ("A" if path[-1] != "A" else "B"), "/unsubscribe/x", "/unsubscribe/WzEsImxpbWl0cyJd:x:y"):
        assert Client().post(bad).status_code == 404
    assert not AlertSettings.objects.filter(account=customer.account).exists()
