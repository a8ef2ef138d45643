"""Monthly statements: what a wallet held when the account's month began, what came and went, what it held when the month ended. Queries only.

A statement is made from the ledger's chain and adds up exactly: opening balance + movements - usage = closing balance. A month is the run of the
wallet's entries from the first one booked in it to the first one booked after it, so months meet without a gap. Usage is itemised from the slots
by when requests began; what was booked in another month than it began in is a line of its own, so that the items too sum up to the ledger.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from accounts.models import Account
from billing.models import Transfer, Wallet
from billing.reports import SLOT_TOKENS_IN, TOKENS_OUT, Period, key_names
from keys import budgets

# What an entry of each kind is called; a kind that is not here is called by its name.
KINDS = {
    "usage": "Usage",
    "overrun": "Usage that was booked late",
    "paid": "Credit bought",
    "promo": "Credit given",
    "plan": "Credit of the plan",
    "welcome": "Welcome gift",
    "code": "Code redeemed",
    "adjustment": "Adjustment",
    "refund": "Refund",
    "reinstatement": "Credit given back",
    "dispute": "Disputed payment",
    "clawback": "Credit taken back",
    "expiry": "Credit expired",
    "undelivered": "Paid back: not delivered",
    "debit": "Debit",
}
USAGE_KINDS = ("usage", "overrun")


class NoSuchMonth(Exception):
    """The account has no statement of this month: it lies before its first entry, or in the future."""


@dataclass(frozen=True, slots=True)
class Movement:
    """The entries of one kind, together: `amount` is nano-USD as the wallet sees it, negative when it left."""

    kind: str
    label: str
    count: int
    amount: int


@dataclass(frozen=True, slots=True)
class UsageLine:
    """What the requests of one model and key came to. `cost` in nano-USD."""

    model: str
    key_id: int
    key: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One month of one wallet. All amounts are nano-USD; opening + sum(movements) - used = closing, and sum(usage) + carried = used."""

    month: date
    period: Period
    is_final: bool
    opening: int
    movements: list[Movement]
    used: int
    usage: list[UsageLine]
    carried: int
    closing: int

    @property
    def taken(self) -> int:
        """The usage as the balance sees it."""
        return -self.used

    @property
    def requests(self) -> int:
        """How many requests began in the month."""
        return sum(line.requests for line in self.usage)


def months_of(account: Account, *, now: datetime) -> list[date]:
    """The months (their first days) that the account has statements of, the latest first."""
    first = Transfer.objects.filter(wallet__account=account, wallet_version=1).values_list("created_at", flat=True).first()
    if first is None:
        return []
    zone = budgets.zone(account.timezone)
    month, last = first.astimezone(zone).date().replace(day=1), now.astimezone(zone).date().replace(day=1)
    months = []
    while month <= last:
        months.append(month)
        month = _next(month)
    return months[::-1]


def statement(*, account: Account, month: date, now: datetime) -> Statement:
    """The account's statement of the month that begins on `month`; of the current one, what there is of it until now.

    Raises: NoSuchMonth.
    """
    month = month.replace(day=1)
    if month not in months_of(account, now=now):
        raise NoSuchMonth(f"{month:%Y-%m}")
    period = Period(_midnight(month, account), _midnight(_next(month), account))
    with _snapshot() as cursor:
        wallet = Wallet.objects.get(account=account)
        first, after = (_version_at(cursor, wallet, moment) for moment in (period.starts_at, period.ends_at))
        opening, closing = (_balance_before(cursor, wallet, version) for version in (first, after))
        movements = _movements(cursor, wallet, first, after)
        usage = _usage(cursor, account, period)
    used = opening + sum(movement.amount for movement in movements) - closing
    return Statement(
        month=month,
        period=period,
        is_final=period.ends_at <= now,
        opening=opening,
        movements=movements,
        used=used,
        usage=usage,
        carried=used - sum(line.cost for line in usage),
        closing=closing,
    )


def label_of(kind: str) -> str:
    """What an entry of this kind is called."""
    return KINDS.get(kind) or kind.replace("_", " ").capitalize()


@contextmanager
def _snapshot() -> Iterator[CursorWrapper]:
    """One consistent view of everything; within a transaction of the caller's, that one's."""
    if connection.in_atomic_block:
        with connection.cursor() as cursor:
            yield cursor
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield cursor


def _version_at(cursor: CursorWrapper, wallet: Wallet, moment: datetime) -> int:
    """The version of the first entry that was booked at `moment` or later; the one to come when there is none."""
    cursor.execute(
        """SELECT wallet_version FROM billing_transfer WHERE wallet_id = %s AND created_at >= %s AND wallet_version IS NOT NULL
        ORDER BY created_at, wallet_version LIMIT 1""",
        [wallet.pk, moment],
    )
    row = cursor.fetchone()
    return int(row[0]) if row else wallet.version + 1


def _balance_before(cursor: CursorWrapper, wallet: Wallet, version: int) -> int:
    cursor.execute("SELECT balance_after FROM billing_transfer WHERE wallet_id = %s AND wallet_version = %s", [wallet.pk, version - 1])
    row = cursor.fetchone()
    return int(row[0]) if row else 0


def _movements(cursor: CursorWrapper, wallet: Wallet, first: int, after: int) -> list[Movement]:
    """What came and went except usage, which is what the balances leave: so the many entries of usage need not be read."""
    cursor.execute(
        """SELECT kind, COUNT(*), SUM(CASE debit_account WHEN %s THEN -amount ELSE amount END) FROM billing_transfer
        WHERE wallet_id = %s AND wallet_version >= %s AND wallet_version < %s AND NOT (kind IN ('usage', 'overrun'))
        GROUP BY kind, debit_account = %s ORDER BY 3 DESC, 1""",
        [f"wallet:{wallet.pk}", wallet.pk, first, after, f"wallet:{wallet.pk}"],
    )
    return [Movement(kind, label_of(kind), count, int(amount)) for kind, count, amount in cursor.fetchall()]


def _usage(cursor: CursorWrapper, account: Account, period: Period) -> list[UsageLine]:
    cursor.execute(
        f"""SELECT u.model, u.key_id, SUM(u.requests), SUM({SLOT_TOKENS_IN}), SUM({TOKENS_OUT}), SUM(u.cost) FROM billing_usageslot u
        WHERE u.account_id = %s AND u.starts_at >= %s AND u.starts_at < %s GROUP BY 1, 2 ORDER BY 6 DESC, 1, 2""",  # noqa: S608 - constants
        [account.pk, period.starts_at, period.ends_at],
    )
    rows, names = cursor.fetchall(), key_names(account)
    return [UsageLine(model, key, names.get(key, ("", ""))[1] or f"key {key}", *map(int, sums)) for model, key, *sums in rows]


def _next(month: date) -> date:
    return (month + timedelta(days=32)).replace(day=1)


def _midnight(day: date, account: Account) -> datetime:
    return datetime.combine(day, time(), tzinfo=budgets.zone(account.timezone)).astimezone(UTC)
