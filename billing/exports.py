"""What an account can take away: its ledger and its requests, row by row, however many there are. Queries only.

Rows are read a piece at a time, each piece by its key: an index leads to it, so the first line goes out at once, memory stays small, and no
transaction stays open while a client reads slowly (a cursor outside a transaction would first write all rows to disk). Money is written as
exact decimal strings of dollars, moments in UTC (ISO 8601).
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from django.db import connection

from accounts.models import Account
from billing import ledger, reports, request_log, statements
from billing.models import UsageRecord, Wallet
from billing.reports import Period
from billing.request_log import Search
from catalog import money
from catalog.usage import BUCKETS

ROWS_AT_ONCE = 1000
LEDGER_COLUMNS = ("version", "booked_at", "id", "kind", "description", "amount_usd", "balance_after_usd")
REQUEST_COLUMNS = (
    "request_id",
    "started_at",
    "ended_at",
    "key_id",
    "key",
    "model",
    "provider",
    "endpoint",
    "streamed",
    "status",
    "status_code",
    "error_code",
    "finish_reason",
    "user",
    *BUCKETS,
    "cost_usd",
    "list_cost_usd",
    "written_off_usd",
    "rule",
    "usage_source",
    "latency_ms",
    "first_token_ms",
    "transfer_id",
)
GROUP_COLUMNS = ("requests", "input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens", "cost_usd")


def ledger_rows(*, account: Account, period: Period) -> Iterator[tuple[Any, ...]]:
    """The wallet's entries that were booked in `period`, in the order of its chain: the columns of LEDGER_COLUMNS."""
    wallet = Wallet.objects.filter(account=account).first()
    if wallet is None:
        return
    code, last = ledger.wallet_code(wallet.pk), 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                """SELECT wallet_version, created_at, id, kind, CASE debit_account WHEN %s THEN -amount ELSE amount END, balance_after
                FROM billing_transfer WHERE wallet_id = %s AND wallet_version > %s AND created_at >= %s AND created_at < %s
                ORDER BY wallet_version LIMIT %s""",
                [code, wallet.pk, last, period.starts_at, period.ends_at, ROWS_AT_ONCE],
            )
            rows = cursor.fetchall()
        for version, booked_at, entry, kind, amount, balance in rows:
            yield version, moment(booked_at), str(entry), kind, statements.label_of(kind), money.usd(amount), money.usd(balance)
        if len(rows) < ROWS_AT_ONCE:
            return
        last = rows[-1][0]


def request_rows(*, account: Account, search: Search) -> Iterator[tuple[Any, ...]]:
    """The requests that `search` finds, newest first: the columns of REQUEST_COLUMNS.

    Raises: billing.reports.InvalidParameter, when the first row is asked for.
    """
    names, after = reports.key_names(account), None
    while True:
        page = request_log.page(account=account, search=search, after=after, rows=request_log.MOST_ROWS)
        for record in page.records:
            yield _request_row(record, names.get(record.key_id, ("", ""))[1])
        if page.next is None:
            return
        after = page.next


def group_rows(*, account: Account, period: Period, grouping: str, key_id: int | None = None) -> Iterator[tuple[Any, ...]]:
    """Usage in `period` by a grouping of `billing.reports.GROUPINGS`: the columns of `group_columns`."""
    names = reports.key_names(account) if grouping == "key" else {}
    for row in reports.usage_rows(account=account, period=period, grouping=grouping, key_id=key_id):
        cells = [row.names[0], names.get(row.names[0], ("", ""))[1]] if grouping == "key" else [_cell(name) for name in row.names]
        counts = row.counts
        yield (
            *cells,
            counts.requests,
            counts.input_tokens,
            counts.output_tokens,
            counts.cached_input_tokens,
            counts.reasoning_tokens,
            money.usd(counts.cost),
        )


def group_columns(grouping: str) -> tuple[str, ...]:
    """The columns of `group_rows`."""
    return (*(("key_id", "key") if grouping == "key" else reports.GROUPINGS[grouping][1]), *GROUP_COLUMNS)


def moment(when: datetime | None) -> str:
    """A moment in UTC; nothing for none."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z") if when is not None else ""


def _cell(name: Any) -> Any:
    if isinstance(name, datetime):
        return moment(name)
    return name if isinstance(name, str | int) else str(name)


def _request_row(record: UsageRecord, key: str) -> tuple[Any, ...]:
    return (
        str(record.request_id),
        moment(record.started_at),
        moment(record.ended_at),
        record.key_id,
        key,
        record.model,
        record.provider,
        record.endpoint,
        record.streamed,
        record.status,
        record.status_code,
        record.error_code,
        record.finish_reason,
        record.user_tag,
        *(getattr(record, bucket) for bucket in BUCKETS),
        money.usd(record.cost),
        money.usd(record.list_cost),
        money.usd(record.written_off),
        record.rule,
        record.usage_source,
        record.latency_ms,
        record.first_token_ms,
        str(record.transfer_id or ""),
    )
