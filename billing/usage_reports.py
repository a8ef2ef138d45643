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
from billing import periods, reports
from billing.models import Wallet
from billing.reports import Period

BURN_DAYS = 7
MOST_ROWS = 1000

STEPS = periods.STEPS
DIMENSIONS: Mapping[str, LiteralString] = {"model": "s.model", "key": "s.key_id", "provider": "s.provider"}
# Which step a slot is in, counted from 1. Against moments reckoned beforehand, as every row would look its time zone up anew.
_STEP: LiteralString = "width_bucket(s.starts_at, %(begins)s::timestamptz[])"
# The columns of `Sums`, in its order.
_SUMS: LiteralString = """COALESCE(SUM(s.requests), 0), COALESCE(SUM(s.errors), 0),
    COALESCE(SUM(s.input_tokens + s.cached_input_tokens + s.cache_write_tokens + s.audio_input_tokens), 0),
    COALESCE(SUM(s.output_tokens + s.reasoning_tokens + s.audio_output_tokens), 0), COALESCE(SUM(s.cached_input_tokens), 0),
    COALESCE(SUM(s.reasoning_tokens), 0), COALESCE(SUM(s.images), 0), COALESCE(SUM(s.cost), 0), COALESCE(SUM(s.latency_ms), 0),
    COALESCE(SUM(s.timed), 0), COALESCE(SUM(s.first_token_ms), 0), COALESCE(SUM(s.first_timed), 0), COALESCE(SUM(s.cache_write_tokens), 0),
    COALESCE(SUM(s.audio_input_tokens), 0), COALESCE(SUM(s.audio_output_tokens), 0),
    COALESCE(SUM(s.web_searches), 0)"""
# The same columns of slots added up already, of which `_SUMS` can be made again.
_PARTIAL: LiteralString = """SUM(s.requests)::bigint AS requests, SUM(s.errors)::bigint AS errors, SUM(s.input_tokens)::bigint AS input_tokens,
    SUM(s.cached_input_tokens)::bigint AS cached_input_tokens, SUM(s.cache_write_tokens)::bigint AS cache_write_tokens,
    SUM(s.audio_input_tokens)::bigint AS audio_input_tokens, SUM(s.output_tokens)::bigint AS output_tokens,
    SUM(s.reasoning_tokens)::bigint AS reasoning_tokens, SUM(s.audio_output_tokens)::bigint AS audio_output_tokens,
    SUM(s.images)::bigint AS images, SUM(s.cost)::bigint AS cost, SUM(s.latency_ms)::bigint AS latency_ms, SUM(s.timed)::bigint AS timed,
    SUM(s.first_token_ms)::bigint AS first_token_ms, SUM(s.first_timed)::bigint AS first_timed,
    SUM(s.web_searches)::bigint AS web_searches"""
_SLOTS: LiteralString = """billing_usageslot s
    WHERE s.account_id = %(account)s AND s.starts_at >= %(starts_at)s AND s.starts_at < %(ends_at)s"""
_CHOSEN: LiteralString = """(%(models)s::text[] = '{}' OR s.model = ANY(%(models)s)) AND (%(keys)s::bigint[] = '{}' OR s.key_id = ANY(%(keys)s))
    AND (%(providers)s::text[] = '{}' OR s.provider = ANY(%(providers)s))"""


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
    web_searches: int = 0

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
class Breakdown:
    """Usage looked at from all sides at once; every part is of the same rows, read once.

    `steps` are those with usage, in order; `groups` the dearest first; `parts` the steps of the first few groups; `choices` what filters can be
    set to: every model, key (by id) and provider that was used in the period, whatever it is narrowed to.
    """

    steps: list[Step]
    groups: list[Slice]
    parts: dict[Any, dict[datetime, Sums]]
    choices: dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Burn:
    """How fast an account spends. `days_left` of what is free at that pace (rounded down); None when it spends nothing."""

    per_day: int
    free: int
    days_left: int | None


def series(*, account: Account, period: Period, step: str, filters: Filters = EVERYTHING) -> list[Step]:
    """What each `step` (of STEPS) of the period comes to, in order; steps without usage are left out."""
    begins = periods.steps_of(period, step, timezone=account.timezone)
    query = f"SELECT {_STEP}, {_SUMS} FROM {_SLOTS} AND {_CHOSEN} GROUP BY 1 ORDER BY 1"  # noqa: S608 - constants
    with reports.summing() as cursor:
        cursor.execute(query, _parameters(account, period, begins, filters))
        return [Step(begins[place - 1], _sums(counts)) for place, *counts in cursor.fetchall()]


def breakdown(
    *,
    account: Account,
    period: Period,
    step: str,
    dimension: str = "",
    filters: Filters = EVERYTHING,
    parts: int = 0,
    limit: int = MOST_ROWS,
) -> Breakdown:
    """Break usage down by `step` (of STEPS) and, if given, by `dimension` (of DIMENSIONS): at most `limit` groups, the first `parts` by step too.

    The slots are read once, into cells of a step, model, key and provider. A month has some thousand of these where it has a hundred thousand
    slots; everything that is answered is added up from them.
    """
    begins = periods.steps_of(period, step, timezone=account.timezone)
    with reports.summing() as cursor:
        cursor.execute(_breakdown(dimension), {**_parameters(account, period, begins, filters), "limit": limit, "parts": parts})
        rows = cursor.fetchall()
    found = Breakdown([], [], {}, {name: [] for name in DIMENSIONS})
    for kind, place, name, *counts in sorted(rows, key=lambda row: row[1]):
        if kind == "step":
            found.steps.append(Step(begins[place - 1], _sums(counts)))
        elif kind == "group":
            found.groups.append(Slice(_name(name, dimension), _sums(counts)))
        elif kind == "part":
            found.parts.setdefault(_name(name, dimension), {})[begins[place - 1]] = _sums(counts)
        else:
            found.choices[kind].append(_name(name, kind))
    for choices in found.choices.values():
        choices.sort()
    return found


def _breakdown(dimension: str) -> str:
    nothing = ", ".join(["NULL::numeric"] * _WIDTH)
    ranked, answers = "", [f"SELECT 'step', s.step, NULL, {_SUMS} FROM cells s WHERE {_CHOSEN} GROUP BY s.step"]  # noqa: S608 - constants
    answers += [f"SELECT DISTINCT '{each}', 0, {name}::text, {nothing} FROM cells s" for each, name in DIMENSIONS.items()]  # noqa: S608
    if dimension:
        name = DIMENSIONS[dimension]
        ranked = f""", ranked AS MATERIALIZED (
            SELECT {name} AS name, row_number() OVER (ORDER BY SUM(s.cost) DESC, SUM(s.requests) DESC, {name})::integer AS place
            FROM cells s WHERE {_CHOSEN} GROUP BY {name} ORDER BY place LIMIT %(limit)s)"""  # noqa: S608 - constants
        of_ranked = f"FROM cells s JOIN ranked ON ranked.name = {name} WHERE {_CHOSEN}"
        answers += [
            f"SELECT 'group', ranked.place, ranked.name::text, {_SUMS} {of_ranked} GROUP BY ranked.place, ranked.name",
            f"SELECT 'part', s.step, ranked.name::text, {_SUMS} {of_ranked} AND ranked.place <= %(parts)s GROUP BY s.step, ranked.name",
        ]
    cells = f"SELECT {_STEP} AS step, s.model, s.key_id, s.provider, {_PARTIAL} FROM {_SLOTS} GROUP BY 1, 2, 3, 4"  # noqa: S608 - constants
    return f"WITH cells AS MATERIALIZED ({cells}){ranked} {' UNION ALL '.join(answers)}"


def _name(text: str, dimension: str) -> Any:
    return int(text) if dimension == "key" else text


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


def _parameters(account: Account, period: Period, begins: Sequence[datetime], filters: Filters) -> dict[str, Any]:
    return {
        "account": account.pk,
        "starts_at": period.starts_at,
        "ends_at": period.ends_at,
        "begins": list(begins),
        "models": list(filters.models),
        "keys": list(filters.keys),
        "providers": list(filters.providers),
    }


def _sums(row: Sequence[Any]) -> Sums:
    return Sums(*map(int, row[:_WIDTH]))
