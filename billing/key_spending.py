"""An account's keys with what each spent of its budget: the list, page by page, in a fixed number of queries however many keys there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db import connection
from django.db.models import Q

from accounts.models import Account
from billing.reports import InvalidParameter
from keys import budgets
from keys.models import ApiKey

PAGE_ROWS = 50
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Spending:
    """A key, and what it was charged in the current window of its budget (of a month's, without one). Nano-USD."""

    key: ApiKey
    spent: int
    held: int
    window: budgets.Window


@dataclass(frozen=True, slots=True)
class Page:
    """Some keys, the newest first, and where the older ones begin: pass that as `before`; empty on the last page."""

    rows: list[Spending]
    older: str


def page(
    *, account: Account, now: datetime, text: str = "", ended: bool = False, before: str = "", rows: int = PAGE_ROWS, budgeted: bool = False
) -> Page:
    """One page of the account's keys: those whose name, start or last four have `text` in them; with `ended`, deleted and expired ones too;
    with `budgeted`, only those that have a budget.

    Raises: billing.reports.InvalidParameter for a place that no page gave out.
    """
    found = ApiKey.objects.filter(account=account)
    if not ended:
        found = found.filter(Q(expires_at=None) | Q(expires_at__gt=now), revoked_at=None)
    if text:
        start, _, last = text.replace("...", "…").partition("…")
        wanted = Q(name__icontains=text) | Q(start__startswith=text) | Q(last_four=text)
        found = found.filter(wanted | Q(start=start, last_four=last) if last else wanted)
    if budgeted:
        found = found.filter(budget_nano__isnull=False)
    if before:
        moment, key_id = _read_place(before)
        found = found.filter(Q(created_at__lt=moment) | Q(created_at=moment, pk__lt=key_id), created_at__lte=moment)
    keys = list(found.select_related("account").order_by("-created_at", "-pk")[: rows + 1])
    more, keys = len(keys) > rows, keys[:rows]
    return Page(spending_of(keys, now=now), _place(keys[-1]) if more else "")


def spending_of(keys: Sequence[ApiKey], *, now: datetime) -> list[Spending]:
    """What each of `keys` (with their accounts) spent in its current window, in one query: the window's row, or the slots it is made from."""
    windows = [budgets.window_at(key.budget_window, now, timezone=key.account.timezone) for key in keys]
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT a.key_id, COALESCE(w.spent, s.cost, 0), COALESCE(w.held, 0)
            FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[]) a(key_id, starts_at, ends_at)
            LEFT JOIN billing_spendwindow w
                ON w.subject_kind = 'key' AND w.subject_id = a.key_id AND w.window_start = a.starts_at AND w.window_end = a.ends_at
            LEFT JOIN LATERAL (SELECT SUM(u.cost) AS cost FROM billing_usageslot u
                WHERE w.id IS NULL AND u.key_id = a.key_id AND u.starts_at >= a.starts_at AND u.starts_at < a.ends_at) s ON TRUE""",
            [[key.pk for key in keys], [window.starts_at for window in windows], [window.ends_at for window in windows]],
        )
        found = {key_id: (int(spent), int(held)) for key_id, spent, held in cursor.fetchall()}
    return [Spending(key, *found[key.pk], window) for key, window in zip(keys, windows, strict=True)]


def _place(key: ApiKey) -> str:
    return f"{(key.created_at - _EPOCH) // timedelta(microseconds=1)}-{key.pk}"


def _read_place(text: str) -> tuple[datetime, int]:
    microseconds, _, key_id = text.partition("-")
    if len(text) > 40 or not (text.isascii() and microseconds.isdecimal() and key_id.isdecimal()):
        raise InvalidParameter("before", "Is not a place in this list.")
    try:
        return _EPOCH + timedelta(microseconds=int(microseconds)), int(key_id)
    except OverflowError:
        raise InvalidParameter("before", "Is not a place in this list.") from None
