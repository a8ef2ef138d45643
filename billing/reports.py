"""What an account used, and what it may still use: the questions behind `GET /v1/usage`, `/v1/credits` and `/v1/key`.

Every question names its account, and every figure is an integer: tokens, or nano-USD. `input_tokens` and `output_tokens` are all that went
in and came out, as quotas count them; `cached_input_tokens` and `reasoning_tokens` are the parts of these that were such. A request counts
where it started. Periods are half-open.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, LiteralString

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import Min, Q, Sum

from accounts.models import Account
from billing.models import CreditGrant, PlanAssignment, SpendWindow, Transfer, Wallet
from catalog import listing
from catalog.matching import ModelPatterns
from catalog.snapshot import ModelNotFound
from gateway_site.identifiers import lowest_uuid7
from keys import budgets
from keys.authentication import KeyGrant
from keys.models import ApiKey

LONGEST_PERIOD = timedelta(days=400)
MOST_ROWS = 10_000  # in one JSON answer; CSV is streamed and has no such bound
ROWS_AT_ONCE = 1000
SUMMING_MEMORY = "32MB"
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
# A request's id is made as it arrives and its start is noted once its body is read; partitions are ranges of ids. A day is ample.
ID_MARGIN = timedelta(days=1)
# The sums of a record's buckets, as `TokenUsage.total_input_tokens` and `total_output_tokens` have them.
TOKENS_IN = "u.input_tokens + u.cached_input_tokens + u.cache_write_tokens + u.cache_write_1h_tokens + u.audio_input_tokens"
TOKENS_OUT = "u.output_tokens + u.reasoning_tokens + u.audio_output_tokens"
# The same of a slot, where what was written to caches stands in one column.
SLOT_TOKENS_IN = "u.input_tokens + u.cached_input_tokens + u.cache_write_tokens + u.audio_input_tokens"
SLOT = timedelta(minutes=15)


class InvalidParameter(Exception):
    """A query parameter cannot be understood, or asks for too much; `param` names it."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param
        self.message = message


# -- Periods --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Period:
    """starts_at <= moment < ends_at, in UTC."""

    starts_at: datetime
    ends_at: datetime


def read_period(start: str | None, end: str | None, *, timezone: str, now: datetime) -> Period:
    """Read the bounds of a report: ISO 8601 dates or moments. A date, and a moment without an offset, are meant in the account's time zone.

    Without a start the period begins with the calendar month of its end; without an end it goes on until now, this second included.

    Raises: InvalidParameter.
    """
    ends_at = _read_moment("end", end, timezone) if end else now.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
    if start:
        starts_at = _read_moment("start", start, timezone)
    else:
        starts_at = budgets.window_at("month", ends_at - timedelta(microseconds=1), timezone=timezone).starts_at
    if starts_at >= ends_at:
        raise InvalidParameter("end" if end else "start", "The period must end after it starts (the end is exclusive).")
    if ends_at - starts_at > LONGEST_PERIOD:
        raise InvalidParameter("start", f"The period is longer than {LONGEST_PERIOD.days} days.")
    return Period(starts_at, ends_at)


def end_of_slot(now: datetime) -> datetime:
    """Where a period ends that goes on until now: with the slot that now is in, so that it never reaches into a day or a month to come."""
    return now - (now - EARLIEST) % SLOT + SLOT


def _read_moment(param: str, text: str, timezone: str) -> datetime:
    try:
        if len(text) == len("2026-01-31"):
            moment = datetime.combine(date.fromisoformat(text), time())
        else:
            moment = datetime.fromisoformat(
                text.replace(" ", "+") if "T" in text else text
            )  # a "+" that was not escaped arrives as a space
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=budgets.zone(timezone))
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidParameter(param, "Must be an ISO 8601 date or time, such as 2026-01-31 or 2026-01-31T12:00:00Z.") from None
    if not EARLIEST <= moment <= LATEST:
        raise InvalidParameter(param, f"Must be between the years {EARLIEST.year} and {LATEST.year}.")
    return moment


# -- Usage ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counts:
    """What some requests used. Tokens; `cost` in nano-USD, as it was charged."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    cost: int = 0

    @property
    def total_tokens(self) -> int:
        """All tokens in and out."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Row:
    """One group of a report: its name or names, and its counts."""

    names: tuple[Any, ...]
    counts: Counts


@dataclass(frozen=True, slots=True)
class UsageReport:
    """An account's usage in a period, all from one snapshot: the rows of each grouping sum up to the totals."""

    period: Period
    totals: Counts
    by_model: list[Row]  # (model, provider)
    by_group: list[Row]  # the grouping that was asked for, when it is another


# What a grouping groups by, and what its columns are called. Days and hours are the account's own. `u.moment` is when a record began, or its slot.
GROUPINGS: Mapping[str, tuple[LiteralString, tuple[str, ...]]] = {
    "model": ("NULL::text", ("model", "provider")),
    "day": ("(u.moment AT TIME ZONE %(zone)s)::date", ("day",)),
    "hour": ("date_trunc('hour', u.moment, %(zone)s)", ("hour",)),
    "key": ("u.key_id", ("key_id",)),
    "user": ("u.user_tag", ("user",)),
}
_COUNTS = """COALESCE(SUM(r.requests), 0), COALESCE(SUM(r.tokens_in), 0), COALESCE(SUM(r.tokens_out), 0), COALESCE(SUM(r.cached), 0),
    COALESCE(SUM(r.reasoning), 0), COALESCE(SUM(r.cost), 0)"""
_PARTIAL = """SUM(r.requests)::bigint AS requests, SUM(r.tokens_in)::bigint AS tokens_in, SUM(r.tokens_out)::bigint AS tokens_out,
    SUM(r.cached)::bigint AS cached, SUM(r.reasoning)::bigint AS reasoning, SUM(r.cost)::bigint AS cost"""


def read_grouping(text: str | None) -> str:
    """Which grouping is asked for; by model unless said. Raises: InvalidParameter."""
    grouping = text or "model"
    if grouping not in GROUPINGS:
        raise InvalidParameter("group_by", f"Must be one of {', '.join(GROUPINGS)}.")
    return grouping


def read_key_choice(text: str | None, current: ApiKey) -> int | None:
    """Which key of the account a report is of: an id, or "current"; None for all of them.

    A key of another account is as unknown as one that does not exist.

    Raises: InvalidParameter.
    """
    if not text or text == "all":
        return None
    if text == "current":
        return current.pk
    if text.isascii() and text.isdecimal() and len(text) < 19 and ApiKey.objects.filter(pk=int(text), account=current.account_id).exists():
        return int(text)
    raise InvalidParameter("key", 'Must be the id of one of the account\'s keys, "current" or "all".')


def usage(*, account: Account, period: Period, grouping: str = "model", key_id: int | None = None) -> UsageReport:
    """Add up what the requests that started in `period` used: in all, by model, and by `grouping` (of GROUPINGS).

    Raises: InvalidParameter when a grouping has more than MOST_ROWS groups.
    """
    if grouping in ("day", "key"):  # read once, into the few cells that both sums are made of
        cells = f"SELECT r.model, r.provider, r.name, {_PARTIAL} FROM ({_records(grouping, key_id)}) r GROUP BY 1, 2, 3"  # noqa: S608 - constants
        ahead, of_models, of_groups = f"WITH cells AS MATERIALIZED ({cells}) ", "cells", "cells"
    else:  # each by itself: so many hours or users, times models, that cells would save nothing
        ahead, of_models, of_groups = "", f"({_records('model', key_id)})", f"({_records(grouping, key_id)})"
    # One statement, so of one snapshot.
    models_by = f"SELECT TRUE, r.model, r.provider, NULL, {_COUNTS} FROM {of_models} r GROUP BY r.model, r.provider"  # noqa: S608 - constants
    query = f"{ahead}({models_by} LIMIT {MOST_ROWS + 1})"
    if grouping != "model":
        query += f" UNION ALL (SELECT FALSE, NULL, NULL, r.name, {_COUNTS} FROM {of_groups} r GROUP BY r.name LIMIT {MOST_ROWS + 1})"  # noqa: S608
    with summing() as cursor:
        cursor.execute(query, _parameters(account, period, key_id))
        rows = cursor.fetchall()
    models, groups = [], []
    for is_model, model, provider, group, *counts in rows:
        if is_model:
            models.append(Row((model, provider), _counts(counts)))
        else:
            groups.append(Row((group,), _counts(counts)))
    if max(len(models), len(groups)) > MOST_ROWS:
        raise InvalidParameter("group_by", f"There are more than {MOST_ROWS} groups: ask for a shorter period, or for format=csv.")
    models.sort(key=lambda row: (-row.counts.total_tokens, row.names))
    groups.sort(key=(lambda row: row.names) if grouping in ("day", "hour") else lambda row: (-row.counts.cost, row.names))
    return UsageReport(period, _sum(row.counts for row in models), models, groups)


@contextmanager
def summing() -> Iterator[CursorWrapper]:
    """A cursor for one statement that adds up many rows: with room to group them in memory. What it is given by default makes it sort on disk,
    three times as slow for a hundred thousand slots; and compiling such a statement takes longer than running it.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL work_mem = '{SUMMING_MEMORY}'; SET LOCAL jit = off")
        yield cursor


def usage_rows(*, account: Account, period: Period, grouping: str, key_id: int | None = None) -> Iterator[Row]:
    """The rows of one grouping, however many there are, ordered by name, without holding more than a piece of them in memory."""
    names = "r.model, r.provider" if grouping == "model" else "r.name"
    query = f"SELECT {names}, {_COUNTS} FROM ({_records(grouping, key_id)}) r GROUP BY {names} ORDER BY {names}"  # noqa: S608 - constants
    width = len(GROUPINGS[grouping][1])
    with connection.chunked_cursor() as cursor:
        cursor.execute(query, _parameters(account, period, key_id))
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            for row in rows:
                yield Row(tuple(row[:width]), _counts(row[width:]))


def key_names(account: Account) -> dict[int, tuple[str, str]]:
    """The account's keys by id: how each is recognised, and its name."""
    keys = ApiKey.objects.filter(account=account).values_list("pk", "start", "last_four", "name")
    return {pk: (f"{start}…{last_four}", name) for pk, start, last_four, name in keys}


def _records(grouping: str, key_id: int | None) -> str:
    """The rows that a report adds up: whole slots, and at both ends of the period, where it cuts through one, records.

    Both come from one snapshot, so nothing is counted twice or missed. Who the end users were is not in the slots: that is read from records.
    """
    one_key = "AND u.key_id = %(key)s" if key_id is not None else ""
    from_records = f"""SELECT u.model, u.provider, {GROUPINGS[grouping][0]} AS name, 1 AS requests, {TOKENS_IN} AS tokens_in,
            {TOKENS_OUT} AS tokens_out, u.cached_input_tokens AS cached, u.reasoning_tokens AS reasoning, u.cost
        FROM (SELECT u.*, u.started_at AS moment FROM billing_usagerecord u
            WHERE u.account_id = %(account)s AND u.started_at >= %(starts_at)s AND u.started_at < %(ends_at)s {one_key}
                AND u.request_id >= %(first_id)s AND u.request_id < %(last_id)s) u"""  # noqa: S608 - constants
    if grouping == "user":
        return from_records
    head = from_records.replace("%(ends_at)s", "%(slots_start)s").replace("%(last_id)s", "%(head_last_id)s")
    tail = from_records.replace("%(starts_at)s", "%(slots_end)s").replace("%(first_id)s", "%(tail_first_id)s")
    return f"""SELECT u.model, u.provider, {GROUPINGS[grouping][0]} AS name, u.requests, {SLOT_TOKENS_IN} AS tokens_in,
            {TOKENS_OUT} AS tokens_out, u.cached_input_tokens AS cached, u.reasoning_tokens AS reasoning, u.cost
        FROM (SELECT u.*, u.starts_at AS moment FROM billing_usageslot u
            WHERE u.account_id = %(account)s AND u.starts_at >= %(slots_start)s AND u.starts_at < %(slots_end)s {one_key}) u
        UNION ALL {head} UNION ALL {tail}"""  # noqa: S608 - constants


def _whole_slots(period: Period) -> tuple[datetime, datetime]:
    """The part of a period that is made of whole slots; where there is none it is empty and lies at the period's end."""
    into = (period.starts_at - EARLIEST) % SLOT
    start = period.starts_at if not into else period.starts_at - into + SLOT
    end = period.ends_at - (period.ends_at - EARLIEST) % SLOT
    return (start, end) if start <= end else (period.ends_at, period.ends_at)


def _parameters(account: Account, period: Period, key_id: int | None) -> dict[str, Any]:
    slots_start, slots_end = _whole_slots(period)
    return {
        "slots_start": slots_start,
        "slots_end": slots_end,
        "head_last_id": lowest_uuid7(slots_start + ID_MARGIN),
        "tail_first_id": lowest_uuid7(slots_end - ID_MARGIN),
        "account": account.pk,
        "starts_at": period.starts_at,
        "ends_at": period.ends_at,
        "first_id": lowest_uuid7(period.starts_at - ID_MARGIN),
        "last_id": lowest_uuid7(period.ends_at + ID_MARGIN),
        "zone": budgets.zone(account.timezone).key,
        "key": key_id,
    }


def _counts(row: Any) -> Counts:
    return Counts(*map(int, row))


def _sum(every: Iterable[Counts]) -> Counts:
    return Counts(*map(sum, zip(*(astuple(counts) for counts in every), strict=True)))


# -- Limits ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WindowUse:
    """What was used of a budget or quota in its current window. `spent` and `held` are nano-USD; `resets_at` is None when it never ends."""

    spent: int
    held: int
    input_tokens: int
    output_tokens: int
    starts_at: datetime
    resets_at: datetime | None


def plan_of(account: Account, *, now: datetime) -> PlanAssignment | None:
    """The account's assignment to the plan in effect, if it has a plan."""
    return PlanAssignment.objects.filter(account=account, starts_at__lte=now).select_related("plan").order_by("-starts_at").first()


def budget_use(key: ApiKey, *, now: datetime) -> WindowUse:
    """What `key` used in the current window of its budget (whether or not it has one)."""
    return _use("key", key.pk, budgets.window_at(key.budget_window, now, timezone=key.account.timezone))


def quota_use(account: Account, *, anchor_day: int, now: datetime) -> WindowUse:
    """What the account used in the current month of its plan's quota."""
    return _use("account", account.pk, budgets.window_at("month", now, timezone=account.timezone, anchor_day=anchor_day))


def _use(kind: str, subject_id: int, window: budgets.Window) -> WindowUse:
    """Read the window's row; while no limit has asked for one, add up the slots that it would be made from."""
    resets_at = None if window.kind == "total" else window.ends_at
    row = SpendWindow.objects.filter(
        subject_kind=kind, subject_id=subject_id, window_start=window.starts_at, window_end=window.ends_at
    ).first()
    if row is not None:
        return WindowUse(row.spent, row.held, row.input_tokens, row.output_tokens, window.starts_at, resets_at)
    whose = "u.key_id" if kind == "key" else "u.account_id"
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT COALESCE(SUM(u.cost), 0), COALESCE(SUM({SLOT_TOKENS_IN}), 0), COALESCE(SUM({TOKENS_OUT}), 0)
            FROM billing_usageslot u WHERE {whose} = %s AND u.starts_at >= %s AND u.starts_at < %s""",  # noqa: S608 - constants
            [subject_id, window.starts_at, window.ends_at],
        )
        spent, tokens_in, tokens_out = map(int, cursor.fetchone())
    return WindowUse(spent, 0, tokens_in, tokens_out, window.starts_at, resets_at)


@dataclass(frozen=True, slots=True)
class KeySpending:
    """What a key was charged in all, and since its account's day, week and month began. Nano-USD."""

    in_all: int
    this_day: int
    this_week: int
    this_month: int


def key_spending(key: ApiKey, *, now: datetime) -> KeySpending:
    """Add up what `key` was charged, over the account's calendar."""
    since = [budgets.window_at(kind, now, timezone=key.account.timezone).starts_at for kind in ("day", "week", "month")]
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT COALESCE(SUM(u.cost), 0), COALESCE(SUM(u.cost) FILTER (WHERE u.starts_at >= %s), 0),
                COALESCE(SUM(u.cost) FILTER (WHERE u.starts_at >= %s), 0), COALESCE(SUM(u.cost) FILTER (WHERE u.starts_at >= %s), 0)
            FROM billing_usageslot u WHERE u.key_id = %s""",
            [*since, key.pk],
        )
        return KeySpending(*map(int, cursor.fetchone()))


# -- Money ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Purse:
    """What is in a wallet. Nano-USD; `balance` may be negative after a clawback, and so may `free`."""

    balance: int
    held: int
    currency: str = "usd"

    @property
    def free(self) -> int:
        """What new requests may hold."""
        return self.balance - self.held


@dataclass(frozen=True, slots=True)
class GrantsLeft:
    """What is left of the credits of one kind, and when the first of them expires. Nano-USD."""

    kind: str
    amount: int
    remaining: int
    next_expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Credits:
    """An account's credit as OpenRouter counts it: `total_credits - total_usage` is the balance. Nano-USD."""

    purse: Purse
    total_usage: int
    grants: list[GrantsLeft]

    @property
    def total_credits(self) -> int:
        """All that was credited, less what was taken back or expired."""
        return self.purse.balance + self.total_usage


def purse_of(account: Account) -> Purse:
    """What is in the account's wallet; nothing if it has none."""
    wallet = Wallet.objects.filter(account=account).first()
    return Purse(int(wallet.balance), wallet.held, wallet.currency) if wallet is not None else Purse(0, 0)


def credits_of(account: Account) -> Credits:
    """The account's credit, its usage since it was opened, and its unspent grants by kind."""
    wallet = Wallet.objects.filter(account=account).first()
    if wallet is None:
        return Credits(Purse(0, 0), 0, [])
    # Everything that left the wallet was usage, save for the few transfers of another kind (an index of their own: `transfer_not_usage`).
    other = Transfer.objects.filter(~Q(kind__in=("usage", "overrun")), wallet=wallet, debit_account=f"wallet:{wallet.pk}")
    taken = other.aggregate(amount=Sum("amount"))["amount"] or 0
    left = (
        CreditGrant.objects.filter(wallet=wallet, remaining__gt=0)
        .values_list("kind")
        .annotate(amount=Sum("amount"), remaining=Sum("remaining"), next_expires_at=Min("expires_at"))
        .order_by("kind")
    )
    grants = [GrantsLeft(kind, int(amount), int(remaining), expires_at) for kind, amount, remaining, expires_at in left]
    return Credits(Purse(int(wallet.balance), wallet.held, wallet.currency), wallet.debits - int(taken), grants)


def has_paid(account: Account) -> bool:
    """Whether the account ever bought credit."""
    return CreditGrant.objects.filter(wallet__account=account, kind=CreditGrant.Kind.PAID).exists()


# -- Models ---------------------------------------------------------------------------------------------------------------------------


def models_for(*, account: Account, grant: KeyGrant, now: datetime) -> list[listing.Offer]:
    """The models for sale that both the key and the plan let through. A test key reaches the demo provider's only."""
    return _allowed(listing.for_sale(now=now, demo_only=grant.is_test), account, grant, now)


def model_for(name: str, *, account: Account, grant: KeyGrant, now: datetime) -> listing.Offer:
    """The model of this name or alias, if the key may use it.

    Raises: catalog.snapshot.ModelNotFound, also for a model that is not for this key: what else is sold is not its business.
    """
    allowed = _allowed(listing.for_sale(now=now, demo_only=grant.is_test, name=name), account, grant, now)
    if not allowed:
        raise ModelNotFound(name)
    return next((offer for offer in allowed if offer.slug == name), allowed[0])  # a model's own name comes before an alias


def _allowed(offers: list[listing.Offer], account: Account, grant: KeyGrant, now: datetime) -> list[listing.Offer]:
    assignment = plan_of(account, now=now)
    plan = ModelPatterns(assignment.plan.allowed_models if assignment is not None else ())
    return [offer for offer in offers if grant.models.allows(offer.slug) and plan.allows(offer.slug)]
