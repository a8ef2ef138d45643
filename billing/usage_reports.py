"""What charts and lists show of usage, read from the slots: by time, model, key and provider; burn rate; errors and latency. Queries only.

Every question names its account and a half-open period; all figures are integers (tokens, nano-USD, milliseconds, requests). Slots are a
quarter of an hour, so a period counts whole slots: one that is cut through counts where it begins. Hours, days, weeks (from Monday) and months
are those of the account's own calendar.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, LiteralString

from django.db import connection

from accounts.models import Account
from billing import periods
from billing.models import Wallet
from billing.reports import Period
from keys import budgets

BURN_DAYS = 7
MOST_ROWS = 1000

STEPS: Mapping[str, LiteralString] = {
    "hour": "date_trunc('hour', s.starts_at, %(zone)s)",
    "day": "date_trunc('day', s.starts_at, %(zone)s)",
    "week": "date_trunc('week', s.starts_at, %(zone)s)",
    "month": "date_trunc('month', s.starts_at, %(zone)s)",
}
DIMENSIONS: Mapping[str, LiteralString] = {"model": "s.model", "key": "s.key_id", "provider": "s.provider"}
# The columns of `Sums`, in its order.
_SUMS: LiteralString = """COALESCE(SUM(s.requests), 0), COALESCE(SUM(s.errors), 0),
    COALESCE(SUM(s.input_tokens + s.cached_input_tokens + s.cache_write_tokens + s.audio_input_tokens), 0),
    COALESCE(SUM(s.output_tokens + s.reasoning_tokens + s.audio_output_tokens), 0), COALESCE(SUM(s.cached_input_tokens), 0),
    COALESCE(SUM(s.reasoning_tokens), 0), COALESCE(SUM(s.images), 0), COALESCE(SUM(s.cost), 0), COALESCE(SUM(s.latency_ms), 0),
    COALESCE(SUM(s.timed), 0), COALESCE(SUM(s.first_token_ms), 0), COALESCE(SUM(s.first_timed), 0), COALESCE(SUM(s.cache_write_tokens), 0),
    COALESCE(SUM(s.audio_input_tokens), 0), COALESCE(SUM(s.audio_output_tokens), 0)"""


@dataclass(frozen=True, slots=True)
class Filters:
    """What a report is narrowed to; an empty tuple is everything."""

    models: tuple[str, ...] = ()
    keys: tuple[int, ...] = ()
    providers: tuple[str, ...] = ()


EVERYTHING = Filters()


@dataclass(frozen=True, slots=True)
class Sums:
    """What some requests come to. `input_tokens` and `output_tokens` are all of either direction; the buckets below them are parts of these.

    `images` are pictures, and seconds of video for models that make videos.
    """

    requests: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    images: int = 0
    cost: int = 0
    latency_ms: int = 0
    timed: int = 0
    first_token_ms: int = 0
    first_timed: int = 0
    cache_write_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0

    @property
    def fresh_input_tokens(self) -> int:
        """Text that went in and was neither read from a cache nor written to one."""
        return self.input_tokens - self.cached_input_tokens - self.cache_write_tokens - self.audio_input_tokens

    @property
    def visible_output_tokens(self) -> int:
        """Text that came out and was not reasoning."""
        return self.output_tokens - self.reasoning_tokens - self.audio_output_tokens

    @property
    def total_tokens(self) -> int:
        """All tokens in and out."""
        return self.input_tokens + self.output_tokens

    @property
    def error_ppm(self) -> int:
        """Requests that failed, were cut or swept, per million."""
        return self.errors * 1_000_000 // self.requests if self.requests else 0

    @property
    def mean_latency_ms(self) -> int | None:
        """The mean time to the end of an answer; None when none was timed."""
        return self.latency_ms // self.timed if self.timed else None

    @property
    def mean_first_token_ms(self) -> int | None:
        """The mean time to the first token; None when none was timed."""
        return self.first_token_ms // self.first_timed if self.first_timed else None


_WIDTH = len(fields(Sums))


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a series: when it began (UTC), and what it comes to."""

    starts_at: datetime
    sums: Sums


@dataclass(frozen=True, slots=True)
class Slice:
    """What one model, key or provider comes to; `name` is its name, or a key's id."""

    name: Any
    sums: Sums


@dataclass(frozen=True, slots=True)
class Burn:
    """How fast an account spends. `days_left` of what is free at that pace (rounded down); None when it spends nothing."""

    per_day: int
    free: int
    days_left: int | None


def totals(*, account: Account, period: Period, filters: Filters = EVERYTHING) -> Sums:
    """What everything that began in `period` comes to."""
    return _sums(_rows(f"SELECT {_SUMS} FROM {{slots}}", account, period, filters)[0])  # noqa: S608 - constants


def series(*, account: Account, period: Period, step: str, filters: Filters = EVERYTHING) -> list[Step]:
    """What each `step` (of STEPS) of the period comes to, in order; steps without usage are left out."""
    rows = _rows(f"SELECT {STEPS[step]}, {_SUMS} FROM {{slots}} GROUP BY 1 ORDER BY 1", account, period, filters)  # noqa: S608 - constants
    return [Step(row[0], _sums(row[1:])) for row in rows]


def series_by(*, account: Account, period: Period, step: str, dimension: str, filters: Filters = EVERYTHING) -> dict[Any, list[Step]]:
    """The series of each model, key or provider (`dimension` of DIMENSIONS), for stacked charts."""
    query = f"SELECT {DIMENSIONS[dimension]}, {STEPS[step]}, {_SUMS} FROM {{slots}} GROUP BY 1, 2 ORDER BY 1, 2"  # noqa: S608 - constants
    found: dict[Any, list[Step]] = {}
    for name, starts_at, *counts in _rows(query, account, period, filters):
        found.setdefault(name, []).append(Step(starts_at, _sums(counts)))
    return found


def top(*, account: Account, period: Period, dimension: str, filters: Filters = EVERYTHING, limit: int = MOST_ROWS) -> list[Slice]:
    """The models, keys or providers (`dimension` of DIMENSIONS) that cost most, the dearest first."""
    name = DIMENSIONS[dimension]
    query = f"SELECT {name}, {_SUMS} FROM {{slots}} GROUP BY 1 ORDER BY SUM(s.cost) DESC, SUM(s.requests) DESC, 1 LIMIT %(limit)s"  # noqa: S608 - constants
    return [Slice(row[0], _sums(row[1:])) for row in _rows(query, account, period, filters, limit=limit)]


def choices(*, account: Account, period: Period) -> dict[str, list[Any]]:
    """What the filters can be set to: every model, key (by id) and provider that was used in the period."""
    query = f"SELECT DISTINCT {', '.join(DIMENSIONS.values())} FROM {{slots}}"  # noqa: S608 - constants
    rows = _rows(query, account, period, EVERYTHING)
    return {name: sorted({row[place] for row in rows}) for place, name in enumerate(DIMENSIONS)}


def burn(*, account: Account, now: datetime, days: int = BURN_DAYS) -> Burn:
    """How much the account spent a day over the last `days` (or since its first usage, if that is less), and how long what is free lasts."""
    wallet = Wallet.objects.filter(account=account).first()
    free = wallet.free if wallet is not None else 0
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT COALESCE(SUM(s.cost), 0), MIN(s.starts_at) FROM billing_usageslot s
            WHERE s.account_id = %s AND s.starts_at >= %s AND s.starts_at < %s""",
            [account.pk, now - timedelta(days=days), now],
        )
        spent, first = cursor.fetchone()
    if not spent:
        return Burn(0, free, None)
    lasted = min(timedelta(days=days), max(timedelta(days=1), now - first))
    per_day = int(spent) * 86_400 // max(1, int(lasted.total_seconds()))
    return Burn(per_day, free, max(0, free) // per_day if per_day else None)


def latest_days(*, account: Account, now: datetime, days: int) -> Period:
    """The account's last `days` calendar days, today included, up to the end of the slot that `now` is in."""
    return periods.latest_days(timezone=account.timezone, now=now, days=days)


def _rows(query: str, account: Account, period: Period, filters: Filters, **more: Any) -> Sequence[Any]:
    narrowed = "".join(
        f" AND {column} = ANY(%({name})s)"
        for name, column, chosen in (
            ("models", "s.model", filters.models),
            ("keys", "s.key_id", filters.keys),
            ("providers", "s.provider", filters.providers),
        )
        if chosen
    )
    slots = f"""billing_usageslot s
        WHERE s.account_id = %(account)s AND s.starts_at >= %(starts_at)s AND s.starts_at < %(ends_at)s{narrowed}"""
    parameters = {
        "account": account.pk,
        "starts_at": period.starts_at,
        "ends_at": period.ends_at,
        "zone": budgets.zone(account.timezone).key,
        "models": list(filters.models),
        "keys": list(filters.keys),
        "providers": list(filters.providers),
        **more,
    }
    with connection.cursor() as cursor:
        cursor.execute(query.format(slots=slots), parameters)
        return list(cursor.fetchall())


def _sums(row: Sequence[Any]) -> Sums:
    return Sums(*map(int, row[:_WIDTH]))
