"""Telling an account, or the staff, of an event: which mail, to whom, and which webhooks. `EVENTS` declares all there are.

Everything is queued in the caller's transaction and delivered afterwards (`accounts.outbox`).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

import structlog
from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from accounts import outbox
from accounts.models import Account, Membership
from billing.models import AlertSettings, WebhookEndpoint
from billing.notices import unsubscribing
from catalog import money
from gateway_site import metrics

log = structlog.get_logger(__name__)

Who = Literal["billing", "admins", "staff"]
ROLES: Mapping[str, tuple[str, ...]] = {
    "billing": (Membership.Role.OWNER, Membership.Role.BILLING),
    "admins": (Membership.Role.OWNER, Membership.Role.ADMIN),
}
NANO_PER_MINOR = 10_000_000  # a cent
# What the mails' buttons lead to: names of pages of an account.
PAGES: Mapping[str, str] = {"billing_url": "billing", "keys_url": "keys", "webhooks_url": "webhooks"}


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that people are told of.

    `template` names the mail in `templates/emails`; empty: webhooks only. `who` reads it: `billing` is the account's billing address, else
    its owners and billing members; `admins` its owners and admins; `staff` the operator. `setting` is the switch of `AlertSettings` that
    turns the mail off, also by its unsubscribe link; empty: it is always sent. `context` are the names that the caller gives.
    """

    name: str
    template: str
    who: Who
    words: str
    context: tuple[str, ...]
    setting: unsubscribing.Setting | Literal[""] = ""


_EVENTS = (
    Event(
        "balance.low", "low_balance", "billing", "The balance fell below the threshold.", ("balance_nano", "threshold_nano"), "low_balance"
    ),
    Event(
        "balance.days_left",
        "days_left",
        "billing",
        "At the pace of the last seven days, the balance ends soon.",
        ("balance_nano", "days_left", "burn_nano"),
        "days_left",
    ),
    Event(
        "budget.threshold",
        "budget_threshold",
        "admins",
        "A key has spent 50, 80 or 100 % of its budget.",
        ("key_id", "key_name", "threshold_percent", "spent_nano", "budget_nano", "window"),
        "limits",
    ),
    Event(
        "quota.threshold",
        "quota_threshold",
        "billing",
        "The account has used 50, 80 or 100 % of the tokens that its plan includes.",
        ("threshold_percent", "direction", "used_tokens", "quota_tokens", "window"),
        "limits",
    ),
    Event("key.expiring", "key_expiring", "admins", "A key expires within 7 days, or 1.", ("key_id", "key_name", "expires_at", "days")),
    Event(
        "top_up.paid",
        "receipt",
        "billing",
        "A payment has arrived and the credit is in the wallet.",
        ("top_up_id", "credit_nano", "paid_minor", "balance_nano", "receipt_url", "is_auto"),
        "receipts",
    ),
    Event("top_up.failed", "payment_failed", "billing", "A payment failed; nothing was charged.", ("top_up_id", "charge_minor", "failure")),
    Event(
        "top_up.action_needed",
        "action_needed",
        "billing",
        "The bank wants the customer's consent to a payment.",
        ("top_up_id", "charge_minor", "action_url"),
    ),
    Event(
        "auto_top_up.failed",
        "auto_top_up_failed",
        "billing",
        "An automatic top-up failed; it will be tried again.",
        ("top_up_id", "charge_minor", "failure", "strikes"),
    ),
    Event(
        "auto_top_up.capped",
        "auto_top_up_capped",
        "billing",
        "The monthly cap of automatic top-ups is reached.",
        ("monthly_cap_nano", "used_nano", "amount_nano", "balance_nano", "resumes_at"),
    ),
    Event("auto_top_up.turned_off", "auto_top_up_turned_off", "billing", "Automatic top-up was turned off.", ("reason",)),
    Event(
        "top_up.refunded",
        "refund",
        "billing",
        "A payment was refunded, and its credit taken back.",
        ("top_up_id", "refund_id", "amount_minor", "clawed_nano", "balance_nano"),
    ),
    Event(
        "top_up.disputed",
        "dispute",
        "billing",
        "A payment is disputed at the bank, and its credit taken back until that is decided.",
        ("top_up_id", "dispute_id", "amount_minor", "clawed_nano", "balance_nano", "reason"),
    ),
    Event(
        "top_up.dispute_won",
        "dispute_won",
        "billing",
        "A dispute was decided for the payment, and its credit given back.",
        ("top_up_id", "dispute_id", "amount_minor", "balance_nano"),
    ),
    Event("plan.started", "plan_started", "billing", "A plan began.", ("plan", "plan_name", "period_end")),
    Event(
        "plan.renewed", "plan_renewed", "billing", "A plan was renewed for another period.", ("plan", "plan_name", "period_end"), "receipts"
    ),
    Event("plan.changed", "plan_changed", "billing", "Another plan is, or will be, in effect.", ("plan", "plan_name", "starts_at")),
    Event("plan.past_due", "plan_past_due", "billing", "The payment for a plan failed.", ("plan", "plan_name", "pay_url", "ends_at")),
    Event("plan.ended", "plan_ended", "billing", "A plan ended.", ("plan", "plan_name")),
    Event(
        "webhook_endpoint.disabled",
        "webhook_endpoint_disabled",
        "admins",
        "An endpoint for webhooks could not be reached for days and was switched off.",
        ("endpoint_id", "url", "reason"),
    ),
    Event("webhook_endpoint.test", "", "admins", "A test that somebody asked for.", ()),
    Event(
        "staff.dispute",
        "staff_dispute",
        "staff",
        "A customer disputes a payment.",
        ("account", "amount_minor", "reason", "evidence_due_at"),
    ),
    Event("staff.quarantined", "staff_alert", "staff", "A payment or an event of Stripe waits for a decision.", ("summary", "details")),
    Event("staff.alert", "staff_alert", "staff", "Something needs a person.", ("summary", "details")),
)
EVENTS: Mapping[str, Event] = {event.name: event for event in _EVENTS}
FOR_WEBHOOKS = tuple(event.name for event in _EVENTS if event.who != "staff")


def tell(*, account: Account, event: str, dedupe_key: str, context: Mapping[str, object], now: datetime) -> None:
    """Queue what `account` is told of `event`, in the caller's transaction: mails and webhook calls, once for each `dedupe_key`.

    `context` are plain values. Of `…_nano` (nano-USD) and `…_minor` (cents) the mails also get the amount in words, without that ending.

    Raises: KeyError for an event that is not declared.
    """
    declared = EVENTS[event]
    if missing := set(declared.context) - set(context):
        log.warning("told_with_less", told=event, missing=sorted(missing))
    if declared.template and _is_wanted(account, declared):
        shown = {**_pages(account), **_amounts(context), **context}
        unsubscribe_url = unsubscribing.link(account=account, setting=declared.setting) if declared.setting else ""
        with timezone.override(ZoneInfo(account.timezone)):
            for address in _addresses(account, declared):
                outbox.queue_mail(
                    dedupe_key=outbox.key("mail", event, dedupe_key, address),
                    to=address,
                    template=declared.template,
                    context=shown,
                    account=account,
                    now=now,
                    unsubscribe_url=unsubscribe_url,
                )
    _call(account, event, dedupe_key, context, now, WebhookEndpoint.objects.filter(account=account, is_enabled=True))


def tell_endpoint(*, endpoint: WebhookEndpoint, event: str, dedupe_key: str, context: Mapping[str, object], now: datetime) -> None:
    """Queue a call of one endpoint, whatever events it wants: a test."""
    _call(endpoint.account, event, dedupe_key, context, now, [endpoint], whatever_it_wants=True)


def tell_staff(*, event: str, dedupe_key: str, context: Mapping[str, object], now: datetime) -> None:
    """Queue a mail to each of STAFF_ALERT_EMAILS, in the caller's transaction; with none, log an error and count it.

    Raises: KeyError for an event that is not declared.
    """
    declared = EVENTS[event]
    addresses: list[str] = settings.STAFF_ALERT_EMAILS
    metrics.STAFF_ALERTS.labels(event).inc()
    if not addresses:
        log.error("staff_alert", about=event, dedupe_key=dedupe_key, details={name: str(value) for name, value in context.items()})
        return
    for address in addresses:
        outbox.queue_mail(
            dedupe_key=outbox.key("staff", event, dedupe_key, address),
            to=address,
            template=declared.template,
            context={**_amounts(context), **context, "about": declared.words, "tenant": context.get("account", "")},
            account=None,
            now=now,
        )


def _is_wanted(account: Account, event: Event) -> bool:
    """Whether the account wants this mail; a threshold of 0 is "never"."""
    if not event.setting:
        return True
    wishes = AlertSettings.objects.filter(account=account).first() or AlertSettings(account=account)
    return bool(getattr(wishes, unsubscribing.COLUMNS[event.setting]))


def _addresses(account: Account, event: Event) -> list[str]:
    if event.who == "billing" and account.billing_email:
        return [account.billing_email]
    members = account.memberships.filter(role__in=ROLES[event.who], user__is_active=True)
    return sorted(members.values_list("user__email", flat=True))


def _call(
    account: Account,
    event: str,
    dedupe_key: str,
    context: Mapping[str, object],
    now: datetime,
    endpoints: Any,
    *,
    whatever_it_wants: bool = False,
) -> None:
    body: dict[str, Any] | None = None
    for endpoint in endpoints:
        if whatever_it_wants or not endpoint.events or event in endpoint.events:
            body = body or {
                "type": event,
                "timestamp": now.astimezone(UTC).isoformat(),
                "data": {"account": account.slug, **_plain(context)},
            }
            outbox.queue_webhook(
                dedupe_key=outbox.key("webhook", event, dedupe_key, endpoint.pk),
                endpoint_id=str(endpoint.pk),
                event=event,
                body=body,
                account=account,
                now=now,
            )


def _plain(context: Mapping[str, object]) -> dict[str, Any]:
    """The context as JSON; what JSON does not know is written as text."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(context), cls=_Encoder))
    for name, value in context.items():
        if name.endswith("_nano") and isinstance(value, int):
            plain[f"{name.removesuffix('_nano')}_usd"] = money.usd(value)
    return plain


class _Encoder(DjangoJSONEncoder):
    def default(self, o: Any) -> Any:
        try:
            return super().default(o)
        except TypeError:
            return str(o)


def _amounts(context: Mapping[str, object]) -> dict[str, str]:
    """Each amount as people read it, under its name without the unit."""
    return dict(_in_words(context))


def _in_words(context: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in context.items():
        if isinstance(value, int) and name.endswith("_nano"):
            yield name.removesuffix("_nano"), _dollars(value)
        elif isinstance(value, int) and name.endswith("_minor"):
            yield name.removesuffix("_minor"), _dollars(value * NANO_PER_MINOR)


def _pages(account: Account) -> dict[str, str]:
    """Where a mail's buttons lead: to the account's page of that name, or to its first page."""
    return {name: settings.PUBLIC_URL + _path(page, account) for name, page in PAGES.items()}


def _path(page: str, account: Account) -> str:
    for name in (page, "overview"):
        try:
            return reverse(name, args=[account.slug])
        except NoReverseMatch:
            continue
    return "/"


def _dollars(nano: int) -> str:
    """Dollars with their cents; a part of a cent is not shown."""
    cents = abs(nano) // NANO_PER_MINOR
    return f"{'-' if nano < 0 else ''}${cents // 100:,}.{cents % 100:02d}"
