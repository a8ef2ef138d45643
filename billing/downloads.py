"""The files an account can take away from its pages: its ledger, and its usage by request or added up. Thin: read what is asked, ask once, stream."""

from datetime import datetime

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.models import Account, Membership
from accounts.pages import account_page
from accounts.permissions import Permission
from billing import exports, reports, request_log, streaming
from billing.reports import InvalidParameter, Period
from keys.models import ApiKey

BY_REQUEST = "request"


@require_safe
@account_page(Permission.MANAGE_BILLING)
def ledger(request: HttpRequest, account: Account, membership: Membership, form: str) -> HttpResponseBase:  # noqa: ARG001
    """GET /a/<slug>/billing/ledger.csv (or .jsonl): the entries booked from `start` to `end`; of this month unless said."""
    try:
        period = read_period(request, account, now=timezone.now())
    except InvalidParameter as error:
        return _refused(error)
    rows = exports.ledger_rows(account=account, period=period)
    return streaming.download(request, header=exports.LEDGER_COLUMNS, rows=rows, name=_name("ledger", account, period), form=form)


@require_safe
@account_page(Permission.READ)
def usage(request: HttpRequest, account: Account, membership: Membership, form: str) -> HttpResponseBase:  # noqa: ARG001
    """GET /a/<slug>/usage.csv (or .jsonl): every request from `start` to `end`, or `by` model, day, hour, key or user.

    Requests may be narrowed by `model`, `key` (its id), `provider`, `status`, `user` and `request_id`; sums by `key`.
    """
    asked = request.GET
    try:
        period = read_period(request, account, now=timezone.now())
        by = asked.get("by") or BY_REQUEST
        grouping = None if by == BY_REQUEST else reports.read_grouping(by)
        key_id = read_key(request, account)
        search = request_log.Search(
            period=period,
            model=asked.get("model", ""),
            key_id=key_id,
            provider=asked.get("provider", ""),
            status=asked.get("status", ""),
            user_tag=asked.get("user", ""),
            request_id=asked.get("request_id", ""),
        )
        request_log.matching(account=account, search=search)  # what cannot be understood is refused before the answer begins
    except InvalidParameter as error:
        return _refused(error)
    if grouping is None:
        header, rows = exports.REQUEST_COLUMNS, exports.request_rows(account=account, search=search)
    else:
        header = exports.group_columns(grouping)
        rows = exports.group_rows(account=account, period=period, grouping=grouping, key_id=key_id)
    return streaming.download(request, header=header, rows=rows, name=_name(f"usage-by-{by}", account, period), form=form)


def read_period(request: HttpRequest, account: Account, *, now: datetime) -> Period:
    """The period that a page or file is asked for, as `/v1/usage` reads it. Raises: InvalidParameter."""
    return reports.read_period(request.GET.get("start"), request.GET.get("end"), timezone=account.timezone, now=now)


def read_key(request: HttpRequest, account: Account) -> int | None:
    """The key of the account that is asked for; None for all. Raises: InvalidParameter, also for another account's."""
    text = request.GET.get("key", "")
    if not text:
        return None
    if text.isascii() and text.isdecimal() and len(text) < 19 and ApiKey.objects.filter(pk=int(text), account=account).exists():
        return int(text)
    raise InvalidParameter("key", "Must be the id of one of the account's keys.")


def _name(what: str, account: Account, period: Period) -> str:
    return f"{account.slug}-{what}-{period.starts_at:%Y-%m-%d}-{period.ends_at:%Y-%m-%d}"


def _refused(error: InvalidParameter) -> HttpResponse:
    return HttpResponse(f"{error.param}: {error.message}\n", status=400, content_type="text/plain; charset=utf-8")
