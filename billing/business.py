"""How the whole installation is doing, for its operator: money, traffic, times, and what waits for a person. Queries only.

Read from the usage slots, so that it is fast whatever there is; only the times of the last requests are read from records, and of those no
more than `MOST_TIMED`. Nano-USD, milliseconds; days and months are UTC's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db import connection

from billing.models import Adjustment, AlertSettings, Plan, StripeEvent, TaskRun, TopUp
from billing.reports import Period
from gateway_site.identifiers import lowest_uuid7

MOST_TIMED = 5000


@dataclass(frozen=True, slots=True)
class Totals:
    """What all requests of a period come to. `errors` are those that failed, were cut or swept."""

    requests: int
    errors: int
    revenue: int
    upstream_cost: int
    written_off: int

    @property
    def margin(self) -> int:
        """Revenue less upstream cost."""
        return self.revenue - self.upstream_cost

    @property
    def margin_ppm(self) -> int | None:
        """The margin per million of revenue; None without revenue."""
        return self.margin * 1_000_000 // self.revenue if self.revenue else None

    @property
    def error_ppm(self) -> int | None:
        """Errors per million requests; None without requests."""
        return self.errors * 1_000_000 // self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class Times:
    """Half and nineteen in twenty of the last requests were at least as quick, in milliseconds; None: nothing was timed.

    `requests` says how many were looked at: all since the moment asked for, or the last `MOST_TIMED`.
    """

    requests: int
    latency_p50: int | None
    latency_p95: int | None
    first_token_p50: int | None
    first_token_p95: int | None


@dataclass(frozen=True, slots=True)
class Money:
    """All wallets together."""

    balance: int
    held: int
    holding: int
    frozen: int
    low: int  # active wallets, once used, below the threshold that their account wants to be warned at
    drifts: int  # wallets whose held money is not the sum of their holds


@dataclass(frozen=True, slots=True)
class ProviderTraffic:
    """What was sent to one provider; times are means in milliseconds, None when nothing was timed."""

    name: str
    requests: int
    errors: int
    latency_ms: int | None
    first_token_ms: int | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for a person: `uncredited` payments came in and were not credited."""

    uncredited: int
    events_quarantined: int
    events_failed: int
    adjustments: int
    tasks_failed: int


def day(now: datetime) -> Period:
    """From midnight until `now`."""
    return Period(now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0), now)


def month(now: datetime) -> Period:
    """From the first of the month until `now`."""
    return Period(day(now).starts_at.replace(day=1), now)


def totals(periods: Sequence[Period]) -> list[Totals]:
    """What each of `periods` comes to, from one reading of the longest."""
    columns = ", ".join(
        f"COALESCE(SUM(s.{name}) FILTER (WHERE s.starts_at >= %s AND s.starts_at < %s), 0)"
        for _ in periods
        for name in ("requests", "errors", "cost", "upstream_cost", "written_off")
    )
    bounds = [moment for period in periods for moment in (period.starts_at, period.ends_at) * 5]
    first, last = min(period.starts_at for period in periods), max(period.ends_at for period in periods)
    (row,) = _rows(
        f"SELECT {columns} FROM billing_usageslot s WHERE s.starts_at >= %s AND s.starts_at < %s",  # noqa: S608 - constants
        *bounds,
        first,
        last,
    )
    sums = [int(value) for value in row]
    return [Totals(*sums[place * 5 : place * 5 + 5]) for place in range(len(periods))]


def by_day(*, period: Period) -> list[tuple[date, Totals]]:
    """What each day of `period` comes to, days without a request included."""
    rows = _rows(
        """SELECT (s.starts_at AT TIME ZONE 'UTC')::date, SUM(s.requests), SUM(s.errors), SUM(s.cost), SUM(s.upstream_cost), SUM(s.written_off)
        FROM billing_usageslot s WHERE s.starts_at >= %s AND s.starts_at < %s GROUP BY 1""",
        period.starts_at,
        period.ends_at,
    )
    found = {day: Totals(*map(int, sums)) for day, *sums in rows}
    first, last = period.starts_at.astimezone(UTC).date(), (period.ends_at - timedelta(microseconds=1)).astimezone(UTC).date()
    days = [first + timedelta(days=place) for place in range((last - first).days + 1)]
    return [(each, found.get(each, Totals(0, 0, 0, 0, 0))) for each in days]


def times(*, since: datetime) -> Times:
    """How quick the last requests since then were."""
    ((requests, latency, first_token),) = _rows(
        """SELECT COUNT(*), percentile_disc(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY latency_ms),
            percentile_disc(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY first_token_ms)
        FROM (SELECT latency_ms, first_token_ms FROM billing_usagerecord WHERE request_id >= %s ORDER BY request_id DESC LIMIT %s) u""",
        lowest_uuid7(since),
        MOST_TIMED,
    )
    return Times(int(requests), *(latency or (None, None)), *(first_token or (None, None)))


def providers(*, period: Period) -> list[ProviderTraffic]:
    """What each provider was sent, the most failures first."""
    rows = _rows(
        """SELECT s.provider, SUM(s.requests), SUM(s.errors), SUM(s.latency_ms) / NULLIF(SUM(s.timed), 0),
            SUM(s.first_token_ms) / NULLIF(SUM(s.first_timed), 0)
        FROM billing_usageslot s WHERE s.starts_at >= %s AND s.starts_at < %s AND s.provider <> ''
        GROUP BY 1 ORDER BY 3 DESC, 2 DESC, 1""",
        period.starts_at,
        period.ends_at,
    )
    return [
        ProviderTraffic(name, int(requests), int(errors), None if latency is None else int(latency), None if first is None else int(first))
        for name, requests, errors, latency, first in rows
    ]


def money() -> Money:
    """What all wallets hold, and whether what they say is held is what holds say, read in one statement."""
    threshold = AlertSettings().low_balance_nano  # its default
    ((balance, held, holding, frozen, low, drifts),) = _rows(
        """SELECT COALESCE(SUM(w.balance), 0), COALESCE(SUM(w.held), 0), COUNT(*) FILTER (WHERE w.held > 0),
            COUNT(*) FILTER (WHERE w.status <> 'active'),
            COUNT(*) FILTER (WHERE w.status = 'active' AND w.debits > 0 AND w.balance < COALESCE(s.low_balance_nano, %s)),
            COUNT(*) FILTER (WHERE w.held <> COALESCE(h.amount, 0))
        FROM billing_wallet w LEFT JOIN billing_alertsettings s ON s.account_id = w.account_id
        LEFT JOIN (SELECT wallet_id, SUM(amount) AS amount FROM billing_hold GROUP BY 1) h ON h.wallet_id = w.id""",
        threshold,
    )
    return Money(int(balance), int(held), int(holding), int(frozen), int(low), int(drifts))


def low_wallets(*, limit: int) -> list[tuple[int, str, int, int]]:
    """The emptiest active wallets below their account's threshold: (wallet's id, account's slug, balance, threshold)."""
    threshold = AlertSettings().low_balance_nano  # its default
    rows = _rows(
        """SELECT w.id, a.slug, w.balance, COALESCE(s.low_balance_nano, %s) FROM billing_wallet w
        JOIN accounts_account a ON a.id = w.account_id AND a.is_active
        LEFT JOIN billing_alertsettings s ON s.account_id = w.account_id
        WHERE w.status = 'active' AND w.debits > 0 AND w.balance < COALESCE(s.low_balance_nano, %s) ORDER BY w.balance, a.slug LIMIT %s""",
        threshold,
        threshold,
        limit,
    )
    return [(wallet, slug, int(balance), int(wanted)) for wallet, slug, balance, wanted in rows]


def waiting() -> Waiting:
    """What waits for a person now."""
    return Waiting(
        uncredited=TopUp.objects.filter(state=TopUp.State.QUARANTINED).count(),
        events_quarantined=StripeEvent.objects.filter(state=StripeEvent.State.QUARANTINED).count(),
        events_failed=StripeEvent.objects.filter(state=StripeEvent.State.FAILED).count(),
        adjustments=Adjustment.objects.filter(state=Adjustment.State.WAITING).count(),
        tasks_failed=TaskRun.objects.exclude(last_error="").count(),
    )


def accounts_on(plan: Plan, *, now: datetime) -> int:
    """How many open accounts are on `plan` now: what a change of it changes."""
    ((count,),) = _rows(
        """SELECT COUNT(*) FROM (SELECT DISTINCT account_id FROM billing_planassignment WHERE plan_id = %s) on_it
        JOIN accounts_account a ON a.id = on_it.account_id AND a.is_active
        CROSS JOIN LATERAL (SELECT plan_id FROM billing_planassignment p WHERE p.account_id = a.id AND p.starts_at <= %s
            ORDER BY p.starts_at DESC LIMIT 1) p WHERE p.plan_id = %s""",
        plan.pk,
        now,
        plan.pk,
    )
    return int(count)


def _rows(query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return list(cursor.fetchall())
