"""Plans that are bought: what members ask for. Stripe is asked, and `plan_changes.converge` writes down what it says, here as for events.

More costs more now: the change is invoiced at once, prorated by the second (`proration_behavior=always_invoice`), and is only made when that
is paid (`payment_behavior=error_if_incomplete`), so that nobody has a plan, and its credit, before the money. With `create_prorations` the
difference would wait for the next invoice, which whoever cancels never gets. Less costs less from the period's end on: at Stripe the item
has the new price at once, without proration, so that the renewal asks for the right amount whatever happens here; its metadata say which
plan is paid until when. Both are one call, so there is nothing half done.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import structlog
from django.conf import settings
from django.db.models import QuerySet

from accounts import audit
from accounts.models import Account, User
from billing import assignments
from billing.models import Plan, Subscription
from billing.payments import customers, plan_changes, stripe_client, stripe_plans
from billing.payments.stripe_client import StripeRefused
from billing.payments.stripe_plans import TAG, Standing

log = structlog.get_logger(__name__)

QUOTED_FOR = timedelta(hours=1)


class NotForSale(Exception):
    """The plan has no price at Stripe: staff assigns it."""


class NoSubscription(Exception):
    """The account buys no plan."""


class NothingToChange(Exception):
    """The account is on this plan, and stays on it."""


class ChangeScheduled(Exception):
    """The plan changes at the period's end: that has to be undone first (by changing to the plan in effect)."""


class CancelsAtEnd(Exception):
    """The subscription ends with its period: it has to be resumed first."""


class PaymentMissing(Exception):
    """A payment for the plan failed: it has to be made first, at `pay_url`."""

    def __init__(self, pay_url: str) -> None:
        super().__init__(pay_url)
        self.pay_url = pay_url


class PaymentRefused(Exception):
    """The change was not paid, so it was not made. `message` is for people."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class Quote:
    """What a change of plan means. `now`: it begins at once and `due_minor` (US cents, tax included) is charged; `at_end`: it begins at
    `starts_at` and nothing is charged before; `undo`: a change that was to come does not. Give `quoted_at` back to be charged just that.
    """

    kind: Literal["now", "at_end", "undo"]
    plan: Plan
    due_minor: int
    starts_at: datetime
    renews_at: datetime
    quoted_at: datetime


def for_sale() -> QuerySet[Plan]:
    """The plans that can be bought, the cheapest first."""
    return Plan.objects.exclude(stripe_price_id="").filter(price_nano__gt=0).order_by("price_nano", "slug")


def current(account: Account) -> Subscription | None:
    """The subscription that runs, paid or past due; None when the account buys no plan."""
    return Subscription.objects.filter(account=account, status__in=assignments.RUNNING).select_related("plan", "next_plan").first()


# -- Beginning -----------------------------------------------------------------------------------------------------------------------


def subscribe(*, account: Account, plan: Plan, user: User | None, success_url: str, cancel_url: str, now: datetime) -> str:
    """Ask Stripe for a page where `plan` can be bought; returns its address. In `success_url`, `{SUBSCRIPTION}` stands for our row's id.

    Asked twice it is the same page; a page for another plan is closed before, so that no two plans can be paid.

    Raises: NotForSale, assignments.SubscriptionRunning, assignments.NoDefaultPlan (there is nothing to return to when it ends),
    NotConfigured, StripeUnavailable, StripeRefused.
    """
    if not plan.stripe_price_id:
        raise NotForSale(plan.slug)
    assignments.check_no_subscription(account)
    assignments.default_plan()
    stripe_client.client()  # not configured: no row
    customer = customers.ensure(account=account, now=now)
    for open_one in Subscription.objects.filter(account=account, status=Subscription.Status.INCOMPLETE).exclude(session_id=None):
        session = stripe_plans.fetch_session(str(open_one.session_id))
        if session.status == "open" and open_one.plan_id == plan.pk:
            return session.url
        plan_changes.close_session(subscription_id=open_one.pk, now=now)
        assignments.check_no_subscription(account)
    row = Subscription.objects.create(account=account, plan=plan, requested_by=user, created_at=now, updated_at=now)
    try:
        session_id, url = _open_session(row, customer.customer_id, success_url, cancel_url)
    except StripeRefused as refused:
        if not (refused.is_missing and refused.param == "customer"):
            Subscription.objects.filter(pk=row.pk).update(status=Subscription.Status.CANCELED, updated_at=now)
            raise
        customers.mark_deleted(customer_id=customer.customer_id)  # deleted at Stripe, and the news is not here yet
        customer = customers.ensure(account=account, now=now)
        session_id, url = _open_session(row, customer.customer_id, success_url, cancel_url)
    Subscription.objects.filter(pk=row.pk).update(session_id=session_id, updated_at=now)
    return url


def _open_session(row: Subscription, customer_id: str, success_url: str, cancel_url: str) -> tuple[str, str]:
    metadata = {TAG: str(row.pk), "account": row.account.slug, "installation": settings.PUBLIC_URL}
    params: Any = {
        "mode": "subscription",
        "customer": customer_id,
        "client_reference_id": str(row.pk),
        "line_items": [{"price": row.plan.stripe_price_id, "quantity": 1}],
        "subscription_data": {"metadata": metadata},
        "metadata": metadata,
        "success_url": success_url.replace("{SUBSCRIPTION}", str(row.pk)),
        "cancel_url": cancel_url.replace("{SUBSCRIPTION}", str(row.pk)),
    }
    if settings.STRIPE_TAX:
        params |= {"automatic_tax": {"enabled": True}, "customer_update": {"address": "auto", "name": "auto"}}
    if settings.STRIPE_PROMOTION_CODES:
        params["allow_promotion_codes"] = True
    session = stripe_client.create_session(params, idempotency_key=f"{row.pk}:{customer_id}")
    return session.id, session.url


# -- Changing ------------------------------------------------------------------------------------------------------------------------


def quote(*, account: Account, plan: Plan, now: datetime) -> Quote:
    """Say what changing to `plan` would mean; nothing is changed.

    Raises: as `change_plan`.
    """
    subscription, standing = _changeable(account, plan, now)
    kind = _kind(subscription, plan)
    due = 0
    if kind == "now":
        due = stripe_plans.preview_change(standing.id, item_id=standing.item_id, price_id=plan.stripe_price_id, moment=now)
    starts_at = standing.period_end if kind == "at_end" else now
    return Quote(kind=kind, plan=plan, due_minor=due, starts_at=starts_at, renews_at=standing.period_end, quoted_at=now)


def change_plan(*, account: Account, plan: Plan, user: User, now: datetime, quoted_at: datetime | None = None) -> Subscription:
    """Change to `plan`: one that costs as much or more begins now and is charged for, a cheaper one begins at the period's end.

    The plan in effect undoes a change that was to come. `quoted_at` of a quote not older than an hour: what it said is charged.

    Raises: NoSubscription, NotForSale, NothingToChange, ChangeScheduled, CancelsAtEnd, PaymentMissing, PaymentRefused, NotConfigured,
    StripeUnavailable, StripeRefused.
    """
    subscription, standing = _changeable(account, plan, now)
    kind = _kind(subscription, plan)
    item: dict[str, Any] = {"id": standing.item_id, "price": plan.stripe_price_id}
    if kind == "now":
        moment = quoted_at if quoted_at and now - QUOTED_FOR <= quoted_at <= now and quoted_at >= standing.period_start else now
        _update(
            standing,
            {
                "items": [item],
                "proration_behavior": "always_invoice",
                "proration_date": int(moment.timestamp()),
                "payment_behavior": "error_if_incomplete",
                "metadata": plan_changes.kept(None),
            },
        )
    elif kind == "at_end":
        metadata = plan_changes.kept(standing if subscription.next_plan_id is None else None, subscription.plan)
        unchanged = subscription.next_plan_id is not None  # the notes of what is paid for stay
        _update(standing, {"items": [item], "proration_behavior": "none"} | ({} if unchanged else {"metadata": metadata}))
    else:
        item["price"] = plan_changes.price_kept(standing) or plan.stripe_price_id
        _update(standing, {"items": [item], "proration_behavior": "none", "metadata": plan_changes.kept(None)})
    return _done(subscription, standing, user, "plan.changed", {"from": subscription.plan.slug, "to": plan.slug, "when": kind}, now)


def cancel(*, account: Account, user: User, now: datetime, reason: str = "") -> Subscription:
    """Let the plan end with its period; until then nothing changes. A past due one ends at once. `reason` is what staff gives.

    Raises: NoSubscription, NotConfigured, StripeUnavailable, StripeRefused.
    """
    subscription = _running(account)
    standing = plan_changes.standing_of(subscription)
    if standing.status == "active":
        _update(standing, {"cancel_at_period_end": True})
    elif standing.status not in plan_changes.ENDED:
        stripe_plans.end_subscription(standing.id)
    return _done(subscription, standing, user, "plan.cancelled", _about(subscription, reason), now)


def resume(*, account: Account, user: User, now: datetime, reason: str = "") -> Subscription:
    """Let a plan that was to end with its period go on. `reason` is what staff gives.

    Raises: NoSubscription (also when it has ended), NotConfigured, StripeUnavailable, StripeRefused.
    """
    subscription = _running(account)
    standing = plan_changes.standing_of(subscription)
    if standing.cancels_at_end:
        _update(standing, {"cancel_at_period_end": False})
    return _done(subscription, standing, user, "plan.resumed", _about(subscription, reason), now)


def pay_url(subscription: Subscription) -> str:
    """Where the open invoice of a past due plan can be paid; empty when there is none. Raises: as `stripe_client.call`."""
    return plan_changes.open_page(stripe_plans.list_invoices(subscription_id=str(subscription.stripe_id)))


def _running(account: Account) -> Subscription:
    subscription = current(account)
    if subscription is None or not subscription.stripe_id:
        raise NoSubscription
    return subscription


def _changeable(account: Account, plan: Plan, now: datetime) -> tuple[Subscription, Standing]:
    """The subscription, as it stands at Stripe, if its plan can become `plan`."""
    subscription = _running(account)
    if not plan.stripe_price_id and plan.pk != subscription.plan_id:
        raise NotForSale(plan.slug)
    subscription = plan_changes.converge(stripe_id=str(subscription.stripe_id), now=now) or subscription
    standing = plan_changes.standing_of(subscription)
    if subscription.status == Subscription.Status.PAST_DUE:
        raise PaymentMissing(pay_url(subscription))
    if subscription.status != Subscription.Status.ACTIVE:
        raise NoSubscription
    if plan.pk in (subscription.next_plan_id, subscription.plan_id if subscription.next_plan_id is None else None):
        raise NothingToChange
    if standing.cancels_at_end:
        raise CancelsAtEnd
    if subscription.next_plan_id is not None and _kind(subscription, plan) == "now":
        raise ChangeScheduled
    return subscription, standing


def _kind(subscription: Subscription, plan: Plan) -> Literal["now", "at_end", "undo"]:
    if plan.pk == subscription.plan_id:
        return "undo"
    return "now" if plan.price_nano >= subscription.plan.price_nano else "at_end"


def _update(standing: Standing, params: dict[str, Any]) -> None:
    try:
        stripe_plans.update_subscription(standing.id, params)
    except StripeRefused as refused:
        if refused.payment_intent_id or refused.decline_code or refused.code in ("card_declined", "authentication_required"):
            raise PaymentRefused(refused.message) from refused
        raise


def _about(subscription: Subscription, reason: str) -> dict[str, Any]:
    return {"plan": subscription.plan.slug} | ({"reason": reason} if reason else {})


def _done(subscription: Subscription, standing: Standing, user: User, action: str, details: dict[str, Any], now: datetime) -> Subscription:
    """Take over what Stripe made of it, with who did it."""
    audit.record(account=subscription.account, actor=user, action=action, subject=str(subscription.pk), details=details, now=now)
    return plan_changes.converge(stripe_id=standing.id, now=now) or subscription
