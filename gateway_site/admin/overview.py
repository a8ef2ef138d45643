"""The first page of the admin: how the business is doing now, what waits for a person, and which providers have trouble.

Each person sees the figures of what they may see. A figure that takes too long to count is left out, so that the page opens on a busy day.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

from django.db import OperationalError, connection, transaction
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from accounts.models import User
from billing import business, margins
from billing.models import Hold, TaskRun
from billing.reports import Period
from catalog import dollars, money
from catalog.models import Provider, ProviderKey, Route
from gateway_site import charts, set_up
from gateway_site.admin import system
from gateway_site.admin_base import Table, badge, link, may_see
from gateway_site.charts import Series
from proxy import breakers

Counted = TypeVar("Counted")
FIGURE_MILLISECONDS = 700
SOME_FAILED_PPM = 50_000  # from this share of failures on, something is shown in red
SHOWN = 5
CHARTED_DAYS = 30
HOUR = timedelta(hours=1)
NO_TASKS = "No task has run: is a worker running, and beat? manage.py doctor says."


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the first page; `value` is None when it took too long to count."""

    title: str
    value: str | None
    note: str = ""
    address: str = ""
    is_bad: bool = False


def overview(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add the live figures that this person may see to the first page."""
    now = timezone.now()
    figures: list[Figure] = []
    tables: list[Table] = []
    if may_see(request, "billing.usagerecord"):
        figures += _within_time(lambda: _trade(now)) or [Figure("Requests today", None), Figure("Revenue today", None)]
        figures += _within_time(lambda: _times(now)) or [Figure("Latency", None)]
    if may_see(request, "billing.wallet"):
        figures += _within_time(_wallets) or [Figure("Wallets", None)]
    figures += _within_time(lambda: _waiting(request)) or []
    figures += _within_time(lambda: _set_up(request, now)) or []
    if may_see(request, "billing.usagerecord"):
        resting = breakers.read(now=time.time())
        tables += _within_time(lambda: [_providers(now, resting)]) or []
        tables += _within_time(lambda: [_top("account", now), _top("model", now)]) or []
    if may_see(request, "billing.wallet"):
        tables += _within_time(lambda: [_low_wallets()]) or []
    if may_see(request, "billing.taskrun"):
        tables += _within_time(lambda: [_tasks()]) or []
    drawn = (_within_time(lambda: _charts(now)) or []) if may_see(request, "billing.usagerecord") else []
    return {**context, "figures": figures, "charts": drawn, "tables": tables}


def _within_time(count: Callable[[], Counted]) -> Counted | None:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {FIGURE_MILLISECONDS}; SET LOCAL jit = off")
            return count()
    except OperationalError:
        return None


def _charts(now: datetime) -> list[tuple[str, SafeString]]:
    """Money and traffic of the last days, each a title and a drawing."""
    today = business.day(now)
    days = business.by_day(period=Period(today.starts_at - timedelta(days=CHARTED_DAYS - 1), today.ends_at))
    labels = [f"{day.day} {day:%b}" for day, _ in days]
    money_made = [
        Series("Revenue", [each.revenue for _, each in days]),
        Series("Upstream cost", [each.upstream_cost for _, each in days]),
    ]
    traffic = [
        Series("Answered", [each.requests - each.errors for _, each in days]),
        Series("Failed", [each.errors for _, each in days]),
    ]
    return [
        (
            "Money",
            charts.draw("line", title="Revenue and upstream cost by day", labels=labels, series=money_made, show=_shown, chart_id="money"),
        ),
        (
            "Requests",
            charts.draw("bar", title="Requests by day", labels=labels, series=traffic, show="{:,.0f}".format, chart_id="requests"),
        ),
    ]


def _shown(nano: charts.Number) -> str:
    return _usd(int(nano))


# -- Figures ---------------------------------------------------------------------------------------------------------------------------


def _trade(now: datetime) -> list[Figure]:
    today, month = business.totals([business.day(now), business.month(now)])
    under_way = Hold.objects.count()
    usage = f"{_list('billing.usagerecord')}?period=24h"
    report = f"{reverse('admin:billing_providerinvoice_margin')}?first={business.month(now).starts_at:%Y-%m-%d}&last={now:%Y-%m-%d}"
    return [
        Figure("Revenue today", _usd(today.revenue), f"{_usd(month.revenue)} this month", report),
        Figure("Upstream cost today", _usd(today.upstream_cost), f"{_usd(month.upstream_cost)} this month", report),
        Figure(
            "Margin today",
            f"{_usd(today.margin)}{_of(today.margin_ppm)}",
            f"{_usd(month.margin)}{_of(month.margin_ppm)} this month · {_usd(month.written_off)} written off",
            report,
            is_bad=today.margin < 0,
        ),
        Figure("Requests today", f"{today.requests:,}", f"{month.requests:,} this month · {under_way:,} under way", usage),
        Figure(
            "Errors today",
            _percent(today.error_ppm) or "-",
            f"{today.errors:,} failed, were cut or swept · {_percent(month.error_ppm) or '-'} this month",
            f"{usage}&status__exact=error",
            is_bad=(today.error_ppm or 0) >= SOME_FAILED_PPM,
        ),
    ]


def _times(now: datetime) -> list[Figure]:
    found = business.times(since=now - HOUR)
    note = f"half and 95 % of {'the last ' if found.requests == business.MOST_TIMED else ''}{found.requests:,} requests of the last hour"
    usage = f"{_list('billing.usagerecord')}?period=1h"
    return [
        Figure("Latency p50 / p95", _pair(found.latency_p50, found.latency_p95), note, usage),
        Figure("First token p50 / p95", _pair(found.first_token_p50, found.first_token_p95), note, usage),
    ]


def _wallets() -> list[Figure]:
    found = business.money()
    wallets = _list("billing.wallet")
    return [
        Figure("In all wallets", _usd(found.balance), f"{found.frozen:,} frozen or closed · {found.low:,} running low", wallets),
        Figure("Held now", _usd(found.held), f"in {found.holding:,} wallets", _list("billing.hold")),
        Figure(
            "Books",
            "agree" if not found.drifts else f"{found.drifts} drifts",
            "holds against wallets; the audit checks everything",
            reverse("admin:billing_wallet_audit"),
            is_bad=bool(found.drifts),
        ),
    ]


def _set_up(request: HttpRequest, now: datetime) -> list[Figure]:
    """What is left to do before customers come; nothing once it is done."""
    if not system.may_look(request):
        return []
    steps = [step for step in set_up.look(user=cast("User", request.user), now=now) if not step.is_optional]
    left = [step.title.lower() for step in steps if not step.is_done]
    return [Figure("Set up", f"{len(steps) - len(left)} of {len(steps)}", f"next: {left[0]}", reverse("admin:system"))] if left else []


def _waiting(request: HttpRequest) -> list[Figure]:
    """What waits for a person, of what this one may see; nothing when nothing does."""
    found = business.waiting()
    lines = (
        ("billing.topup", "Paid, not credited", found.uncredited, "top-ups to decide about", "?state__exact=quarantined"),
        ("billing.stripeevent", "Stripe's events quarantined", found.events_quarantined, "to decide about", "?state__exact=quarantined"),
        ("billing.stripeevent", "Stripe's events failing", found.events_failed, "tried again by themselves", "?state__exact=failed"),
        ("billing.adjustment", "Adjustments waiting", found.adjustments, "for a second person", "?state__exact=waiting"),
        ("billing.taskrun", "Tasks failing", found.tasks_failed, "their last run ended with an error", ""),
    )
    return [
        Figure(title, f"{count:,}", note, f"{_list(model)}{query}", is_bad=True)
        for model, title, count, note, query in lines
        if count and may_see(request, model)
    ]


# -- Tables ----------------------------------------------------------------------------------------------------------------------------


def _providers(now: datetime, resting: list[breakers.Resting] | None) -> Table:
    """How each provider did in the last hour, and what rests there; the worst first."""
    ids = dict(Provider.objects.values_list("slug", "pk"))
    open_at = _resting_by_provider(resting or [])
    traffic = {one.name: one for one in business.providers(period=Period(now - HOUR, now))}
    rows = []
    for name in [*traffic, *(name for name in sorted(open_at) if name not in traffic)]:
        one = traffic.get(name) or business.ProviderTraffic(name, 0, 0, None, None)
        failed = f"{one.errors:,}"
        is_bad = one.errors * 1_000_000 > one.requests * SOME_FAILED_PPM
        rows.append(
            (
                link(reverse("admin:catalog_provider_change", args=[ids[name]]), name) if name in ids else name,
                link(f"{_list('billing.usagerecord')}?period=1h&provider={name}", f"{one.requests:,}"),
                badge(failed, "danger") if is_bad else failed,
                _milliseconds(one.latency_ms),
                _milliseconds(one.first_token_ms),
                "not known: Valkey is away" if resting is None else badge(open_at[name], "danger") if name in open_at else "closed",
            )
        )
    headers = ("Provider", "Requests", "Failed", "Mean latency", "Mean first token", "Breakers")
    return Table("Providers in the last hour", headers, rows, _list("catalog.provider"), "No requests in the last hour.")


def _resting_by_provider(resting: list[breakers.Resting]) -> dict[str, str]:
    """In words, what rests at which provider."""
    routes = {int(one.ident) for one in resting if one.kind == "route"}
    keys = {one.ident for one in resting if one.kind == "key"}
    owner: dict[tuple[str, str], str] = {
        ("route", str(pk)): slug for pk, slug in Route.objects.filter(pk__in=routes).values_list("pk", "provider__slug")
    }
    owner |= {("key", str(pk)): slug for pk, slug in ProviderKey.objects.filter(pk__in=keys).values_list("pk", "provider__slug")}
    owner |= {
        ("route", str(-pk)): slug
        for pk, slug in Provider.objects.filter(pk__in=[-route for route in routes if route < 0]).values_list("pk", "slug")
    }
    found: dict[str, list[breakers.Resting]] = {}
    for one in resting:
        if (slug := owner.get((one.kind, one.ident))) is not None:
            found.setdefault(slug, []).append(one)
    said = {}
    for slug, ones in found.items():
        parts = [_counted(len({one.ident for one in ones if one.kind == kind}), kind) for kind in ("route", "key")]
        processes = _counted(len({one.process for one in ones}), "process", "es")
        said[slug] = f"{' and '.join(filter(None, parts))} open in {processes}"
    return said


def _top(dimension: str, now: datetime) -> Table:
    rows = [
        (row.name or "-", f"{row.requests:,}", dollars.show(row.revenue), dollars.show(row.upstream_cost), _percent(row.margin_ppm) or "-")
        for row in margins.margins(period=business.day(now), dimension=dimension, limit=SHOWN)
    ]
    more = f"{reverse('admin:billing_providerinvoice_margin')}?by={dimension}"
    return Table(
        f"Top {dimension}s today",
        (dimension.capitalize(), "Requests", "Revenue", "Upstream cost", "Margin"),
        rows,
        more,
        "Nothing was charged since midnight, UTC.",
    )


def _low_wallets() -> Table:
    rows = [
        (link(reverse("admin:billing_wallet_change", args=[wallet]), slug), dollars.show(balance), dollars.show(threshold))
        for wallet, slug, balance, threshold in business.low_wallets(limit=SHOWN)
    ]
    return Table(
        "Wallets running low",
        ("Account", "Balance", "Warned below"),
        rows,
        _list("billing.wallet"),
        "No wallet is below what its account wants to be warned of.",
    )


def _tasks() -> Table:
    rows: list[tuple[SafeString | str, ...]] = [
        (
            link(reverse("admin:billing_taskrun_change", args=[run.pk]), run.name),
            _moment(run.last_started_at),
            _moment(run.last_finished_at),
            badge(run.last_error[:100], "danger") if run.last_error else badge("well", "success"),
            f"{run.findings:,}",
        )
        for run in TaskRun.objects.order_by("-last_started_at")
    ]
    return Table(
        "Last runs of tasks", ("Task", "Began, UTC", "Last ended well, UTC", "Ended", "Findings"), rows, _list("billing.taskrun"), NO_TASKS
    )


# -- Words -----------------------------------------------------------------------------------------------------------------------------


def _list(model: str) -> str:
    return reverse(f"admin:{model.replace('.', '_')}_changelist")


def _counted(count: int, what: str, several: str = "s") -> str:
    return f"{count} {what}{several if count > 1 else ''}" if count else ""


def _usd(nano: int) -> str:
    return money.usd_display(nano)


def _percent(ppm: int | None) -> str:
    return "" if ppm is None else f"{ppm / 10_000:.1f} %"


def _of(ppm: int | None) -> str:
    return "" if ppm is None else f" ({_percent(ppm)})"


def _milliseconds(value: int | None) -> str:
    return "-" if value is None else f"{value:,} ms"


def _pair(first: int | None, second: int | None) -> str:
    return "-" if first is None or second is None else f"{first:,} / {second:,} ms"


def _moment(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
