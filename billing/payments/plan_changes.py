"""What becomes of bought plans: Stripe's word on a subscription turned into our row, the account's plan, and the plan's credit.

`converge` fetches the subscription and its invoices and applies the difference under the row's lock; it does the same for every event, for
the customer's return from the checkout, and for the hourly round, so neither order nor repetition matters. Which plan is in effect, and which
comes next, follows from what Stripe says alone.

Each paid invoice grants the plan's included credit once, by its id: every line gives the share of the credit that its amount is of the
price, so a renewal grants all of it, and an upgrade in mid-period the rest of the larger less the rest of the smaller one. It expires with
the period. A plan that is past due stays for PAST_DUE_GRACE_DAYS; then, as when it ends, the account returns to the default plan.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import OuterRef, Q, QuerySet, Subquery

from accounts import audit
from accounts.models import Account
from billing import assignments, ledger
from billing.models import Plan, PlanAssignment, StripeCustomer, Subscription, Transfer
from billing.payments import cards, news, stripe_plans
from billing.payments.stripe_client import NotConfigured, StripeRefused, StripeUnavailable
from billing.payments.stripe_plans import TAG, Invoice, Standing

log = structlog.get_logger(__name__)

Status = Subscription.Status
STATUSES = {
    "incomplete": Status.INCOMPLETE,
    "trialing": Status.ACTIVE,
    "active": Status.ACTIVE,
    "past_due": Status.PAST_DUE,
    "unpaid": Status.PAST_DUE,
    "paused": Status.PAST_DUE,
}
NEVER_PAID = "incomplete_expired"
ENDED = ("canceled", NEVER_PAID)
GRANT = "plan"  # the kind of the ledger's entry, and the account that it is against
SOURCE = "invoice"
TRIES = 5
LATE = timedelta(hours=2)  # Stripe makes a renewal's invoice an hour before it is final


class UnknownSubscription(Exception):
    """A subscription of this installation whose row is not here: staff decides."""


class SecondSubscription(Exception):
    """The account has paid for two subscriptions: staff decides which one to end and refund."""


def converge(*, stripe_id: str, now: datetime) -> Subscription | None:
    """Bring a subscription's row, its account's plan and the credit to where Stripe says they are; None when it is nothing of ours.

    Raises: UnknownSubscription, SecondSubscription, NotConfigured, StripeUnavailable, StripeRefused.
    """
    for _ in range(TRIES):
        seen = _rows().filter(stripe_id=stripe_id).first() or _row_named(stripe_plans.fetch_subscription(stripe_id))
        if seen is None:
            return None
        # Asked for after the row was read: what is older than the row is never applied.
        standing = stripe_plans.fetch_subscription(stripe_id)
        invoices = stripe_plans.list_invoices(subscription_id=stripe_id)
        included = {invoice.id: included_in(invoice) for invoice in invoices if invoice.status == "paid" and not _is_granted(invoice)}
        for other in _others(seen):
            converge(stripe_id=str(other.stripe_id), now=now)  # it may have ended, and the news is not here yet
        applied = _apply(seen, standing, invoices, included, now)
        if applied is not None:
            _adopt_card(applied, standing, now)
            return applied
    return Subscription.objects.filter(stripe_id=stripe_id).first()


def converge_session(*, subscription_id: uuid.UUID, now: datetime) -> Subscription:
    """Bring a subscription that is being bought to where its checkout is: bought, still open, or expired.

    Raises: Subscription.DoesNotExist, and as `converge`.
    """
    row = Subscription.objects.get(pk=subscription_id)
    if row.stripe_id:
        return converge(stripe_id=row.stripe_id, now=now) or row
    if row.session_id:
        session = stripe_plans.fetch_session(row.session_id)
        if session.subscription_id:
            return converge(stripe_id=session.subscription_id, now=now) or row
        if session.status == "expired":
            _give_up(row, now)
    elif now - row.created_at > timedelta(days=1):
        _give_up(row, now)  # Stripe was never reached, and its sessions last a day
    row.refresh_from_db()
    return row


def close_session(*, subscription_id: uuid.UUID, now: datetime) -> None:
    """Close the checkout of a subscription that was not bought yet; one that was just bought is taken over instead. Raises: as `converge`."""
    row = Subscription.objects.get(pk=subscription_id)
    if row.session_id:
        stripe_plans.expire_session(row.session_id)
    converge_session(subscription_id=subscription_id, now=now)


def attend(*, now: datetime, limit: int) -> int:
    """Look after what no event has told of: checkouts that were left, renewals not heard of, graces that are over, accounts that are still on
    a plan that ended (because there was no default plan to return to). Returns how many.

    Raises: NotConfigured.
    """
    grace_over = Q(status=Status.PAST_DUE, past_due_since__lte=now - grace(), assignments__isnull=False)
    unheard = Q(status__in=assignments.RUNNING, period_end__lte=now - LATE)
    left = Q(status=Status.INCOMPLETE, created_at__lte=now - LATE)
    assigned = PlanAssignment.objects.filter(account=OuterRef("account"), starts_at__lte=now).order_by("-starts_at")
    not_returned = Q(status=Status.CANCELED, pk=Subquery(assigned.values("subscription")[:1]))
    due = list(Subscription.objects.filter(grace_over | unheard | left | not_returned).distinct().order_by("updated_at")[:limit])
    for row in due:
        Subscription.objects.filter(pk=row.pk).update(updated_at=now)  # so that it goes to the end of the queue, whatever comes of it
        try:
            converge_session(subscription_id=row.pk, now=now)
        except (StripeUnavailable, StripeRefused, UnknownSubscription, SecondSubscription) as error:
            log.error("subscription_not_attended", subscription=str(row.pk), error=str(error))
    return len(due)


def grace() -> timedelta:
    """How long a plan stays that is not paid."""
    return timedelta(days=settings.PAST_DUE_GRACE_DAYS)


def standing_of(subscription: Subscription) -> Standing:
    """How a subscription stands at Stripe. Raises: as `stripe_client.call`."""
    if not subscription.stripe_id:
        raise NotConfigured
    return stripe_plans.fetch_subscription(subscription.stripe_id)


# -- Which plan ----------------------------------------------------------------------------------------------------------------------


def kept(standing: Standing | None, plan: Plan | None = None) -> dict[str, str]:
    """The metadata that say which plan and price are paid until the period's end although the next ones are set; None: there are none."""
    if standing is None or plan is None:
        return {"plan_before": "", "price_before": "", "plan_before_until": ""}
    until = str(int(standing.period_end.timestamp()))
    return {"plan_before": plan.slug, "price_before": standing.price.id, "plan_before_until": until}


def price_kept(standing: Standing) -> str:
    """The price that is paid until the period's end; empty when it is the one that is set."""
    return standing.metadata.get("price_before", "") if _is_kept(standing) else ""


def _is_kept(standing: Standing) -> bool:
    until = standing.metadata.get("plan_before_until", "")
    return until.isdecimal() and int(standing.period_end.timestamp()) <= int(until)


def _plans_of(standing: Standing, row: Subscription) -> tuple[Plan, Plan | None]:
    """The plan in effect, and the one from the period's end on."""
    priced = stripe_plans.plan_of(standing.price)
    if priced is None:
        log.error("plan_of_price_unknown", subscription=str(row.pk), price=standing.price.id)
        return row.plan, row.next_plan
    before = Plan.objects.filter(slug=standing.metadata.get("plan_before", "")).first() if _is_kept(standing) else None
    return (priced, None) if before is None or before == priced else (before, priced)


def open_page(invoices: Iterable[Invoice]) -> str:
    """Where the oldest unpaid invoice can be paid; empty when there is none."""
    return next((invoice.page_url for invoice in invoices if invoice.status == "open"), "")


# -- Applying ------------------------------------------------------------------------------------------------------------------------


def _rows() -> QuerySet[Subscription]:
    return Subscription.objects.select_related("plan", "next_plan", "account")


def _row_named(standing: Standing) -> Subscription | None:
    """The row that Stripe's object names; None for another use of the same Stripe account.

    Another process may just have written down that it is this one's: then it is the row after all.
    """
    try:
        found = _rows().filter(pk=uuid.UUID(standing.metadata.get(TAG, ""))).first()
    except ValueError:
        return None
    if found is None and standing.metadata.get("installation") == settings.PUBLIC_URL:
        raise UnknownSubscription(f"subscription {standing.id} of account {standing.metadata.get('account', '?')} has no row here")
    if found is not None and found.stripe_id not in (None, "", standing.id):
        raise SecondSubscription(f"{standing.id} names the row of {found.stripe_id}")
    return found


def _others(row: Subscription) -> list[Subscription]:
    if row.status != Status.INCOMPLETE:
        return []
    return list(Subscription.objects.filter(account=row.account_id, status__in=assignments.RUNNING).exclude(stripe_id=None))


@transaction.atomic
def _apply(
    seen: Subscription, standing: Standing, invoices: Sequence[Invoice], included: Mapping[str, int], now: datetime
) -> Subscription | None:
    """Write what Stripe said on the row that was `seen`; None when it has changed since."""
    Account.objects.select_for_update(of=("self",), no_key=True).get(pk=seen.account_id)  # two subscriptions of it take turns
    row = Subscription.objects.select_for_update(of=("self",)).select_related("plan", "next_plan", "account").get(pk=seen.pk)
    if _position(row) != _position(seen):
        return None
    before = Subscription(status=row.status, period_start=row.period_start, plan=row.plan, next_plan=row.next_plan)
    row.status = Status.CANCELED if standing.status in ENDED else STATUSES.get(standing.status, Status.PAST_DUE)
    if row.status in assignments.RUNNING:
        other = Subscription.objects.filter(account=row.account_id, status__in=assignments.RUNNING).exclude(pk=row.pk).first()
        if other is not None:
            raise SecondSubscription(f"account {row.account.slug} pays {standing.id} besides {other.stripe_id}")
    row.plan, row.next_plan = _plans_of(standing, row)
    row.stripe_id, row.stripe_item_id = standing.id, standing.item_id
    row.period_start, row.period_end = standing.period_start, standing.period_end
    row.cancels_at_end = standing.cancels_at_end and row.status != Status.CANCELED
    unpaid = [invoice.created_at for invoice in invoices if invoice.status == "open" and invoice.was_attempted]
    row.past_due_since = min(unpaid, default=standing.period_start) if row.status == Status.PAST_DUE else None
    if _position(row) != _position(seen) or row.stripe_id != seen.stripe_id:
        row.updated_at = now
        row.save()
    _grant(row, invoices, included, now)
    _assign(row, before, standing, now)
    _tell(row, before, standing, invoices, now)
    return row


def _position(row: Subscription) -> tuple[object, ...]:
    return (
        row.status, row.plan_id, row.next_plan_id, row.stripe_id, row.stripe_item_id, row.period_start, row.period_end,
        row.cancels_at_end, row.past_due_since,
    )  # fmt: skip


@transaction.atomic
def _give_up(row: Subscription, now: datetime) -> None:
    Subscription.objects.filter(pk=row.pk, status=Status.INCOMPLETE, stripe_id=None).update(status=Status.CANCELED, updated_at=now)


def _assign(row: Subscription, before: Subscription, standing: Standing, now: datetime) -> None:
    """Put the account on the plan it pays for, or back on the default one, if it is not there."""
    account, anchor_day = row.account, assignments.anchor_of(standing.anchor_at, row.account)
    mine = PlanAssignment.objects.filter(subscription=row)
    last = PlanAssignment.objects.filter(account=account, starts_at__lte=now).order_by("-starts_at").first()
    if row.status == Status.ACTIVE or (row.status == Status.PAST_DUE and not _is_grace_over(row, now)):
        if last is not None and last.subscription_id == row.pk and last.plan_id == row.plan_id:
            return
        if not mine.exists():
            starts_at = standing.started_at
        elif before.next_plan_id == row.plan_id and before.period_start != row.period_start:
            starts_at = standing.period_start  # the change that was to come
        else:
            starts_at = now
        starts_at = min(starts_at, now) if last is None or starts_at > last.starts_at else now
        assignments.assign(account=account, plan=row.plan, starts_at=starts_at, anchor_day=anchor_day, subscription=row)
        return
    if row.status == Status.INCOMPLETE:
        return
    over_at = standing.ended_at or now
    if row.status == Status.PAST_DUE:
        is_over = last is None or last.subscription_id != row.pk
    else:  # whatever began after the end (another subscription, staff's choice) stays
        is_over = PlanAssignment.objects.filter(account=account, starts_at__gte=over_at).exclude(subscription=row).exists()
        is_over |= mine.exists() and last is not None and last.subscription_id != row.pk
    if is_over or standing.status == NEVER_PAID:
        return
    try:
        plan = assignments.default_plan()
    except assignments.NoDefaultPlan:
        problem = {
            "summary": f"There is no default plan to which {account.slug} could return.",
            "details": f"Subscription {row.pk} is over.",
        }
        news.tell_staff(event="staff.alert", dedupe_key=f"no_default_plan:{row.pk}", context=problem, now=now)
        return
    starts_at = over_at if row.status == Status.CANCELED and (last is None or over_at > last.starts_at) else now
    assignments.assign(account=account, plan=plan, starts_at=starts_at, anchor_day=anchor_day)


def _is_grace_over(row: Subscription, now: datetime) -> bool:
    return row.past_due_since is not None and row.past_due_since + grace() <= now


# -- The plan's credit ---------------------------------------------------------------------------------------------------------------


def _grant(row: Subscription, invoices: Iterable[Invoice], included: Mapping[str, int], now: datetime) -> None:
    """Grant what each paid invoice brings (`included`, nano-USD by the invoice's id), once."""
    for invoice in invoices:
        amount = included.get(invoice.id, 0)
        if amount > 0 and not _is_granted(invoice):
            ledger.credit(
                wallet_id=ledger.open_wallet(account=row.account).pk,
                amount=amount,
                kind=GRANT,
                debit_account=GRANT,
                source_type=SOURCE,
                source_id=invoice.id,
                actor="stripe",
                note=f"included in {row.plan.name or row.plan.slug}",
                now=now,
                expires_at=max(line.ends_at for line in invoice.lines if line.amount_minor > 0),
            )


def included_in(invoice: Invoice) -> int:
    """The credit that an invoice brings, in nano-USD: of each line, the share of its plan's that its amount is of the price."""
    total = 0
    for line in invoice.lines:
        if line.price_id and line.amount_minor:
            price = stripe_plans.fetch_price(line.price_id)
            plan = stripe_plans.plan_of(price)
            if plan is not None and price.unit_minor > 0:
                total += plan.included_credit_nano * line.amount_minor // price.unit_minor
    return max(0, total)


def grant_of(invoice_id: str) -> Transfer | None:
    """The entry that granted an invoice's credit, if there is one."""
    return Transfer.objects.filter(pk=ledger.transfer_id(kind=GRANT, source_type=SOURCE, source_id=invoice_id)).first()


def _is_granted(invoice: Invoice) -> bool:
    # Looked for, not just booked again: a plan's credit may have been changed since, and what was granted stays.
    return grant_of(invoice.id) is not None


# -- What people are told ------------------------------------------------------------------------------------------------------------


def _tell(row: Subscription, before: Subscription, standing: Standing, invoices: Sequence[Invoice], now: datetime) -> None:
    about: dict[str, object] = {"plan": row.plan.slug, "plan_name": row.plan.name or row.plan.slug, "period_end": row.period_end}
    name = str(row.pk)

    def tell(event: str, key: str, **more: object) -> None:
        news.tell(account=row.account, event=event, dedupe_key=f"{name}:{key}", context=about | more, now=now)

    def record(action: str, **details: object) -> None:
        audit.record(account=row.account, actor=None, actor_text="stripe", action=action, subject=name, details=details, now=now)

    period = int(standing.period_end.timestamp())
    if row.status == Status.ACTIVE:
        if before.status == Status.INCOMPLETE:
            tell("plan.started", "started")
            record("plan.started", plan=row.plan.slug)
        elif before.status == Status.PAST_DUE or before.period_start != row.period_start:
            tell("plan.renewed", str(period))
        if before.status != Status.INCOMPLETE and row.plan_id not in (before.plan_id, before.next_plan_id):
            tell("plan.changed", f"{period}:{row.plan.slug}:{int(now.timestamp())}", starts_at=now)
        if row.next_plan is not None and row.next_plan_id != before.next_plan_id:
            next_one = {"plan": row.next_plan.slug, "plan_name": row.next_plan.name or row.next_plan.slug}
            tell("plan.changed", f"{period}:{row.next_plan.slug}:{int(now.timestamp())}", starts_at=row.period_end, **next_one)
    elif row.status == Status.PAST_DUE and before.status != Status.PAST_DUE:
        ends_at = (row.past_due_since or now) + grace()
        tell("plan.past_due", str(period), pay_url=open_page(invoices), ends_at=ends_at)
        record("plan.past_due", plan=row.plan.slug)
    elif row.status == Status.CANCELED and before.status in assignments.RUNNING:
        tell("plan.ended", "ended")
        record("plan.ended", plan=row.plan.slug)


def _adopt_card(row: Subscription, standing: Standing, now: datetime) -> None:
    """Let the card that pays the plan be the saved one of an account that has none."""
    missing = StripeCustomer.objects.filter(account=row.account_id, customer_id=standing.customer_id, payment_method_id="")
    if row.status == Status.ACTIVE and standing.payment_method_id and missing.exists():
        by = str(row.requested_by_id or "")
        cards.adopt(payment_method_id=standing.payment_method_id, customer_id=standing.customer_id, now=now, by=by)
