"""The page of the ledger: every entry of the wallet, by kind and days."""

from datetime import UTC, date, datetime, time, timedelta
from urllib.parse import urlencode

from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_safe

from accounts.models import Account, Membership
from accounts.pages import account_page
from accounts.permissions import Permission
from billing.pages import entries, frame
from billing.reports import EARLIEST, LATEST, Period
from keys import budgets


class NotADay(ValueError):
    """What was typed is no day."""


@require_safe
@account_page(Permission.READ)
def ledger_page(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:
    """GET /a/<slug>/billing/ledger, narrowed by `kind`, `from` and `to` (days of the account's clock, both included)."""
    asked = {name: request.GET.get(name, "") for name in ("kind", "from", "to")}
    problem, period = "", None
    try:
        period = _period(asked["from"], asked["to"], account)
    except NotADay as error:
        problem = str(error)
    try:
        page = entries.page(account=account, choice=asked["kind"], period=period, before=request.GET.get("before", ""))
    except entries.NoSuchPlace:
        raise Http404 from None
    kept = {name: value for name, value in asked.items() if value}
    span = {"start": period.starts_at.isoformat(), "end": period.ends_at.isoformat()} if period and asked["from"] and asked["to"] else {}
    context = {
        "entries": page.entries,
        "choices": [(name, label) for name, (label, _) in entries.CHOICES.items()],
        "kind": asked["kind"],
        "first_day": asked["from"],
        "last_day": asked["to"],
        "problem": problem,
        "older_url": f"?{urlencode({**kept, 'before': page.older})}" if page.older else "",
        "newer_url": f"?{urlencode(kept)}" if request.GET.get("before") else "",
        "download_query": f"?{urlencode(span)}" if span else "",
    }
    return frame.show(request, account, membership, "billing/ledger.html", context, status=400 if problem else None)


def _period(first: str, last: str, account: Account) -> Period | None:
    """From the first day's beginning to the last day's end, open where nothing was typed. Raises: NotADay."""
    if not first and not last:
        return None
    starts_at = _midnight(first, 0, account) if first else EARLIEST
    ends_at = _midnight(last, 1, account) if last else LATEST
    if starts_at >= ends_at:
        raise NotADay("The last day lies before the first.")
    return Period(starts_at, ends_at)


def _midnight(text: str, days_later: int, account: Account) -> datetime:
    try:
        day = date.fromisoformat(text) + timedelta(days=days_later)
        return datetime.combine(day, time(), tzinfo=budgets.zone(account.timezone)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise NotADay("Days are written like 2026-01-31.") from None
