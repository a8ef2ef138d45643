"""What the current month will have cost at its end, at the pace of the last days, and how that compares with a budget. Queries only."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q

from accounts.models import Account
from billing import periods, usage_reports
from billing.reports import Period
from billing.usage_reports import Filters
from billing.usage_table import Answer, Question
from keys import budgets, playground
from keys.models import ApiKey

PACE_DAYS = 7


@dataclass(frozen=True, slots=True)
class Day:
    """A day of the month: what was spent up to its end, and what will be, of which one is 0. Nano-USD."""

    starts_at: datetime
    spent: int
    expected: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """The account's current month. Nano-USD; `budget` is what its monthly budgets come to, None where something has none."""

    spent: int
    per_day: int
    expected: int
    budget: int | None
    days: list[Day]


def of_month(
    *, account: Account, now: datetime, filters: Filters = usage_reports.EVERYTHING, known: tuple[Question, Answer] | None = None
) -> Forecast:
    """Forecast the current month of what `filters` let through, at the pace of the last seven days (or since the first usage in them).

    What was answered already (`known`) is not looked up again, if it has the days that this is made of.
    """
    month = budgets.window_at("month", now, timezone=account.timezone)
    pace_from = now - timedelta(days=PACE_DAYS)
    latest = periods.latest_days(timezone=account.timezone, now=now, days=PACE_DAYS + 1)
    period = Period(min(month.starts_at, latest.starts_at), latest.ends_at)
    if known is not None and _covers(known[0], period, filters):
        steps = known[1].steps
    else:
        steps = usage_reports.series(account=account, period=period, step="day", filters=filters)
    per_day = _pace([(step.starts_at, step.sums.cost) for step in steps if step.sums.requests], pace_from=pace_from, now=now)
    by_day = {step.starts_at: step.sums.cost for step in steps}
    spent = sum(cost for starts_at, cost in by_day.items() if starts_at >= month.starts_at)
    days, so_far = [], 0
    whole = Period(month.starts_at, month.ends_at)
    begins = periods.steps_of(whole, "day", timezone=account.timezone)
    for starts_at, ends_at in zip(begins, [*begins[1:], month.ends_at], strict=True):
        if starts_at <= now:
            so_far += by_day.get(starts_at, 0)
            days.append(Day(starts_at, so_far, 0))
        else:
            days.append(Day(starts_at, 0, spent + per_day * int((ends_at - now).total_seconds()) // 86_400))
    expected = spent + per_day * int((month.ends_at - now).total_seconds()) // 86_400
    return Forecast(spent, per_day, expected, _budget(account, now=now, filters=filters), days)


def _covers(question: Question, period: Period, filters: Filters) -> bool:
    asked = question.period
    return (
        question.step == "day" and question.filters == filters and asked.starts_at <= period.starts_at and period.ends_at <= asked.ends_at
    )


def _pace(days: list[tuple[datetime, int]], *, pace_from: datetime, now: datetime) -> int:
    """What a day costs: whole days of usage, the oldest by the part of it that is not too old."""
    recent = [(starts_at, cost) for starts_at, cost in days if starts_at + timedelta(days=1) > pace_from]
    if not recent:
        return 0
    since = max(recent[0][0], pace_from)
    first, cost = recent[0]
    share = min(timedelta(days=1), first + timedelta(days=1) - since)
    total = cost * int(share.total_seconds()) // 86_400 + sum(cost for _, cost in recent[1:])
    return total * 86_400 // max(86_400, int((now - since).total_seconds()))


def _budget(account: Account, *, now: datetime, filters: Filters) -> int | None:
    """What the keys that are meant may spend in a month together; None if one of them may spend what the wallet has."""
    keys = ApiKey.objects.filter(account=account, revoked_at=None, kind=ApiKey.Kind.LIVE).exclude(name=playground.NAME)
    keys = keys.filter(Q(expires_at=None) | Q(expires_at__gt=now))
    if filters.keys:
        keys = keys.filter(pk__in=filters.keys)
    found = list(keys.values_list("budget_nano", "budget_window")[:1000])
    if not found or filters.models or filters.providers or any(amount is None or window != "month" for amount, window in found):
        return None
    return sum(amount for amount, _ in found if amount is not None)
