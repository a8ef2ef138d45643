"""Which plan an account is on from when on: a row for each change, ending where the next begins. What was assigned stays; only the future goes.

Two write here: staff, for free, and a subscription, for money. While a subscription runs it alone decides, so that the two never undo each
other: staff ends the subscription first, at Stripe or on the account's plan page.
"""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from django.db import transaction

from accounts import audit
from accounts.models import Account, User
from billing.models import Plan, PlanAssignment, Subscription
from gateway_site import changes
from keys import budgets

RUNNING = (Subscription.Status.ACTIVE, Subscription.Status.PAST_DUE)
MOMENT = timedelta(microseconds=1)


class SubscriptionRunning(Exception):
    """The account buys its plan: until the subscription ends, that decides."""

    def __init__(self, subscription: Subscription) -> None:
        super().__init__(f"{subscription.account} has a subscription of {subscription.plan}")
        self.subscription = subscription


class NoDefaultPlan(Exception):
    """There is no plan that an account could return to: one has to be the default."""


def check_no_subscription(account: Account) -> None:
    """Refuse what a running subscription would undo. Raises: SubscriptionRunning."""
    running = Subscription.objects.filter(account=account, status__in=RUNNING).select_related("plan", "account").first()
    if running is not None:
        raise SubscriptionRunning(running)


def default_plan() -> Plan:
    """The plan of accounts that buy none. Raises: NoDefaultPlan."""
    plan = Plan.objects.filter(is_default=True).first()
    if plan is None:
        raise NoDefaultPlan
    return plan


def anchor_of(moment: datetime, account: Account) -> int:
    """The day of the month that `moment` is where the account is: its months begin on it."""
    zone: ZoneInfo = budgets.zone(account.timezone)
    return moment.astimezone(zone).day


@transaction.atomic
def assign_by_staff(
    *, account: Account, plan: Plan, user: User, now: datetime, starts_at: datetime | None = None, anchor_day: int = 1
) -> PlanAssignment:
    """Put `account` on `plan` for free, from now or from `starts_at` on. Raises: SubscriptionRunning."""
    check_no_subscription(Account.objects.select_for_update().get(pk=account.pk))
    made = assign(account=account, plan=plan, starts_at=starts_at or now, anchor_day=anchor_day)
    audit.record(
        account=account, actor=user, action="plan.assigned", subject=plan.slug, details={"starts_at": str(made.starts_at)}, now=now
    )
    return made


@transaction.atomic
def assign(
    *, account: Account, plan: Plan, starts_at: datetime, anchor_day: int, subscription: Subscription | None = None
) -> PlanAssignment:
    """Begin `plan` at `starts_at`, or right after the account's last assignment when that began later.

    For a subscription, what was planned for a later time is taken away: it would end what is paid for.
    """
    rows = PlanAssignment.objects.filter(account=account)
    if subscription is not None:
        rows.filter(starts_at__gt=starts_at, subscription=None).delete()
    if rows.filter(starts_at=starts_at).exists():
        starts_at = rows.latest("starts_at").starts_at + MOMENT
    made = PlanAssignment.objects.create(account=account, plan=plan, starts_at=starts_at, anchor_day=anchor_day, subscription=subscription)
    transaction.on_commit(lambda: changes.publish(f"account:{account.pk}"))
    return made
