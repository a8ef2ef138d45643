"""What the operator earns and pays: margins by model, provider or account, and our upstream costs against what providers say. Queries only.

For staff: these figures are of all accounts together. Nano-USD; days and months are UTC's, as on providers' invoices.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import LiteralString

from django.db import connection

from billing.models import ProviderInvoice
from billing.reports import Period

MOST_ROWS = 1000
MONTHS_SHOWN = 12
DIMENSIONS: Mapping[str, tuple[LiteralString, LiteralString]] = {
    "model": ("s.model", ""),
    "provider": ("s.provider", ""),
    "account": ("COALESCE(a.slug, s.account_id::text)", "LEFT JOIN accounts_account a ON a.id = s.account_id"),
}


@dataclass(frozen=True, slots=True)
class Margin:
    """What one model, provider or account brought in. `revenue` is what was charged, `upstream_cost` what we reckon it cost."""

    name: str
    requests: int
    revenue: int
    upstream_cost: int
    written_off: int

    @property
    def margin(self) -> int:
        """Revenue less upstream cost; write-offs were never revenue."""
        return self.revenue - self.upstream_cost

    @property
    def margin_ppm(self) -> int | None:
        """The margin per million of revenue; None without revenue."""
        return self.margin * 1_000_000 // self.revenue if self.revenue else None


@dataclass(frozen=True, slots=True)
class ReportedDay:
    """One provider's day: what we reckon the requests cost for which it told its own figure, and the sum of those figures."""

    provider: str
    day: date
    requests: int
    ours: int
    reported: int

    @property
    def difference_ppm(self) -> int | None:
        """How much more they say than we do, per million of ours; None when we say nothing."""
        return (self.reported - self.ours) * 1_000_000 // self.ours if self.ours else None


@dataclass(frozen=True, slots=True)
class InvoicedMonth:
    """One provider's month: our upstream cost, what it reported with its answers, and its invoice's total (None: not entered)."""

    provider: str
    month: date
    requests: int
    ours: int
    reported: int
    invoiced: int | None
    note: str

    @property
    def difference_ppm(self) -> int | None:
        """How much more the invoice says than we do, per million of ours; None when one of them is not there."""
        return None if self.invoiced is None or not self.ours else (self.invoiced - self.ours) * 1_000_000 // self.ours


def margins(*, period: Period, dimension: str = "model", limit: int = MOST_ROWS) -> list[Margin]:
    """What each model, provider or account (`dimension` of DIMENSIONS) brought in, the greatest revenue first."""
    name, join = DIMENSIONS[dimension]
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT {name}, SUM(s.requests), SUM(s.cost), SUM(s.upstream_cost), SUM(s.written_off) FROM billing_usageslot s {join}
            WHERE s.starts_at >= %s AND s.starts_at < %s GROUP BY 1 ORDER BY 3 DESC, 2 DESC, 1 LIMIT %s""",  # noqa: S608 - constants
            [period.starts_at, period.ends_at, limit],
        )
        return [Margin(name, *map(int, sums)) for name, *sums in cursor.fetchall()]


def total(period: Period) -> Margin:
    """All of it together."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT COALESCE(SUM(s.requests), 0), COALESCE(SUM(s.cost), 0), COALESCE(SUM(s.upstream_cost), 0),
                COALESCE(SUM(s.written_off), 0) FROM billing_usageslot s WHERE s.starts_at >= %s AND s.starts_at < %s""",
            [period.starts_at, period.ends_at],
        )
        return Margin("", *map(int, cursor.fetchone()))


def reported_days(*, period: Period) -> list[ReportedDay]:
    """Each day of each provider that tells what a request cost, the latest first: ours beside theirs, of the same requests."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT s.provider, (s.starts_at AT TIME ZONE 'UTC')::date, SUM(s.reported), SUM(s.reported_upstream_cost), SUM(s.reported_cost)
            FROM billing_usageslot s WHERE s.reported > 0 AND s.starts_at >= %s AND s.starts_at < %s
            GROUP BY 1, 2 ORDER BY 2 DESC, 1 LIMIT %s""",
            [period.starts_at, period.ends_at, MOST_ROWS],
        )
        return [ReportedDay(provider, day, *map(int, sums)) for provider, day, *sums in cursor.fetchall()]


def invoiced_months(*, now: datetime, months: int = MONTHS_SHOWN) -> list[InvoicedMonth]:
    """The last months of each provider, the latest first: our upstream cost beside its invoice."""
    first = now.astimezone(UTC).date().replace(day=1)
    for _ in range(months - 1):
        first = (first - timedelta(days=1)).replace(day=1)
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT s.provider, date_trunc('month', s.starts_at, 'UTC') AS month, SUM(s.requests), SUM(s.upstream_cost),
                SUM(s.reported_cost)
            FROM billing_usageslot s WHERE s.starts_at >= %s AND s.provider <> '' GROUP BY 1, 2""",
            [datetime.combine(first, time(), tzinfo=UTC)],
        )
        ours = {
            (provider, month.astimezone(UTC).date()): (int(requests), int(cost), int(reported))
            for provider, month, requests, cost, reported in cursor.fetchall()
        }
    invoices = {(invoice.provider, invoice.month): invoice for invoice in ProviderInvoice.objects.filter(month__gte=first)}
    found = []
    for provider, month in sorted({*ours, *invoices}, key=lambda pair: (-pair[1].toordinal(), pair[0])):
        invoice = invoices.get((provider, month))
        figures = ours.get((provider, month), (0, 0, 0))
        found.append(InvoicedMonth(provider, month, *figures, invoice.amount_nano if invoice else None, invoice.note if invoice else ""))
    return found
