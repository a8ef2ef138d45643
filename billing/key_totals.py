"""How an account's keys stand: what each was charged in all and lately, and what it spent of its budget. Queries only, as many for a page as for one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

from accounts.models import Account
from billing import key_spending
from billing.reports import KeySpending
from keys import budgets
from keys.models import ApiKey

ZERO = KeySpending(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Standing:
    """A key, what it was charged, and what it spent and holds in the current window of its budget. Nano-USD."""

    key: ApiKey
    totals: KeySpending
    spent: int
    held: int
    window: budgets.Window

    @property
    def remaining(self) -> int:
        """What is left of the budget in this window; 0 without one."""
        return max(0, (self.key.budget_nano or 0) - self.spent)


@dataclass(frozen=True, slots=True)
class Page:
    """Some keys, the newest first, and where the older ones begin; empty on the last page."""

    rows: list[Standing]
    older: str


def page(
    *, account: Account, now: datetime, text: str = "", ended: bool = False, before: str = "", rows: int, budgeted: bool = False
) -> Page:
    """One page of the account's keys, as `billing.key_spending.page` finds them; with `budgeted`, those that have a budget.

    Raises: billing.reports.InvalidParameter for a place that no page gave out.
    """
    found = key_spending.page(account=account, now=now, text=text, ended=ended, before=before, rows=rows, budgeted=budgeted)
    return Page(_with_totals(found.rows, account, now), found.older)


def of(key: ApiKey, *, now: datetime) -> Standing:
    """How one key (with its account) stands."""
    return _with_totals(key_spending.spending_of([key], now=now), key.account, now)[0]


def _with_totals(rows: Sequence[key_spending.Spending], account: Account, now: datetime) -> list[Standing]:
    since = [budgets.window_at(kind, now, timezone=account.timezone).starts_at for kind in ("day", "week", "month")]
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT u.key_id, SUM(u.cost), COALESCE(SUM(u.cost) FILTER (WHERE u.starts_at >= %s), 0),
                COALESCE(SUM(u.cost) FILTER (WHERE u.starts_at >= %s), 0), COALESCE(SUM(u.cost) FILTER (WHERE u.starts_at >= %s), 0)
            FROM billing_usageslot u WHERE u.key_id = ANY(%s) GROUP BY u.key_id""",
            [*since, [row.key.pk for row in rows]],
        )
        totals = {key_id: KeySpending(*map(int, sums)) for key_id, *sums in cursor.fetchall()}
    return [Standing(row.key, totals.get(row.key.pk, ZERO), row.spent, row.held, row.window) for row in rows]
