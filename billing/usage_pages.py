"""The page of an account's usage: what is asked in its address, a chart, a table, the month's forecast, and the table as a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.models import Account, Membership
from accounts.pages import account_page, is_part, render_page
from accounts.permissions import Permission
from billing import forecasts, periods, streaming, usage_charts, usage_files, usage_table
from billing.periods import Chosen
from billing.reports import InvalidParameter
from billing.usage_reports import Filters, Sums
from billing.usage_table import Answer, Question
from keys.models import ApiKey

MOST_SHOWN = 100
DEFAULT_PERIOD = "30d"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address asks for. `address` is the same without what was left at its default."""

    question: Question
    chosen: Chosen
    metric: str
    address: dict[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what it is called, where it leads to, and what it comes to. `share_ppm` is of the whole cost."""

    name: str
    href: str
    sums: Sums
    share_ppm: int


@require_safe
@account_page(Permission.READ)
def usage(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:  # noqa: ARG001 - the decorator's signature
    """GET /a/<slug>/usage: a chart and a table of what is asked for; what cannot be understood is said, and the default shown.

    The table of end users is read from the requests, however many these are: the page asks for it when it is there itself (`HX-Request`),
    unless it is told to wait for it (`whole`).
    """
    now, problem = timezone.now(), ""
    try:
        asked = read(request.GET, account, now=now)
        if asked.question.by == "user" and is_part(request):
            answer = usage_table.answer_end_users(asked.question)
            return render_page(request, "usage/usage.html", _table_context(asked, answer), part="usage/table.html")
        answer = usage_table.answer(asked.question, with_end_users="whole" in request.GET)
    except InvalidParameter as error:
        problem, asked = error.message, read({}, account, now=now)
        answer = usage_table.answer(asked.question)
    question, choices = asked.question, answer.choices
    forecast = forecasts.of_month(account=account, now=now, filters=question.filters, known=(question, answer))
    context = {
        **_table_context(asked, answer),
        "problem": problem,
        "table_comes_later": question.by == "user" and "whole" not in request.GET,
        "chart": usage_charts.draw(question, asked.metric, answer),
        "forecast": forecast,
        "forecast_chart": usage_charts.draw_forecast(forecast, account),
        "presets": periods.PRESETS.items(),
        "steps": periods.STEPS.items(),
        "bys": usage_table.BY.items(),
        "metrics": [(name, metric.name) for name, metric in usage_charts.METRICS.items()],
        "models": sorted({*choices["model"], *question.filters.models}),
        "providers": sorted({*choices["provider"], *question.filters.providers} - {""}),
        "keys": _keys(account, {*choices["key"], *question.filters.keys}),
        "address": urlencode(asked.address),
        "log_address": urlencode(_log_address(asked)),
    }
    return render_page(request, "usage/usage.html", context, status=400 if problem else None)


def _table_context(asked: Asked, answer: Answer) -> dict[str, Any]:
    question = asked.question
    return {
        "account": question.account,
        "asked": asked,
        "question": question,
        "totals": answer.totals,
        "rows": table(asked, answer),
        "left_out": max(0, len(answer.groups) - MOST_SHOWN) if question.by != "time" else 0,
        "has_images": bool(answer.totals.images),
        "has_searches": bool(answer.totals.web_searches),
        "by_name": usage_table.BY[question.by],
        "file_address": urlencode(_file_address(asked)),
    }


@require_safe
@account_page(Permission.READ)
def usage_file(request: HttpRequest, account: Account, membership: Membership, form: str) -> HttpResponseBase:  # noqa: ARG001
    """GET /a/<slug>/usage/table.csv (or .json): the table that the page of the same address shows, whole."""
    try:
        asked = read(request.GET, account, now=timezone.now())
        answer = usage_table.answer(asked.question)
    except InvalidParameter as error:
        return HttpResponse(f"{error.param}: {error.message}\n", status=400, content_type="text/plain; charset=utf-8")
    if form == "json":
        return JsonResponse(usage_files.document(asked.question, answer), json_dumps_params={"ensure_ascii": False})
    header, rows = usage_files.table(asked.question, answer)
    name = f"{account.slug}-usage-{asked.chosen.first}-{asked.chosen.last}-by-{asked.question.by}"
    return streaming.download(request, header=header, rows=rows, name=name)


def read(given: Mapping[str, str], account: Account, *, now: datetime) -> Asked:
    """Read the address of the page. Raises: InvalidParameter."""
    chosen = periods.choose(given, timezone=account.timezone, now=now, default=DEFAULT_PERIOD)
    by, metric = given.get("by") or "model", given.get("show") or "cost"
    if by not in usage_table.BY:
        raise InvalidParameter("by", f"Must be one of {', '.join(usage_table.BY)}.")
    if metric not in usage_charts.METRICS:
        raise InvalidParameter("show", f"Must be one of {', '.join(usage_charts.METRICS)}.")
    key_id = read_key(given.get("key", ""), account)
    model, provider = given.get("model", ""), given.get("provider", "")
    if "\x00" in model + provider:
        raise InvalidParameter("model", "Has a character in it that no name has.")
    filters = Filters(models=(model,) if model else (), keys=(key_id,) if key_id else (), providers=(provider,) if provider else ())
    step = periods.read_step(given.get("step", ""), chosen.period)
    address = {"period": chosen.preset} if chosen.preset else {"from": chosen.first.isoformat(), "to": chosen.last.isoformat()}
    address |= {"by": by, "show": metric, "model": model, "key": str(key_id or ""), "provider": provider, "step": given.get("step", "")}
    question = Question(account=account, period=chosen.period, step=step, by=by, filters=filters)
    return Asked(question, chosen, metric, {name: value for name, value in address.items() if value})


def read_key(text: str, account: Account) -> int | None:
    """The key of the account that is asked for; None for all. Raises: InvalidParameter, also for another account's."""
    if not text:
        return None
    if text.isascii() and text.isdecimal() and len(text) < 19 and ApiKey.objects.filter(pk=int(text), account=account).exists():
        return int(text)
    raise InvalidParameter("key", "There is no such key.")


def table(asked: Asked, answer: Answer) -> list[Row]:
    """The lines of the table that are shown. A group leads to its own usage, an end user to their requests."""
    question = asked.question
    if question.by == "time":
        zone = question.account.timezone
        return [
            Row(periods.label(step.starts_at, question.step, timezone=zone, short=False), "", step.sums, _share(step.sums, answer))
            for step in answer.steps
            if step.sums.requests
        ][: -MOST_SHOWN - 1 : -1]
    groups = answer.groups[:MOST_SHOWN]
    names = usage_table.names_of(question.by, groups, account=question.account)
    return [Row(names[each.name], _href(asked, each.name), each.sums, _share(each.sums, answer)) for each in groups]


def _share(sums: Sums, answer: Answer) -> int:
    return sums.cost * 1_000_000 // answer.totals.cost if answer.totals.cost else 0


def _href(asked: Asked, name: Any) -> str:
    by = asked.question.by
    if by == "user":
        return f"requests?{urlencode({**_log_address(asked), 'user': name})}"
    if not name:
        return ""
    return f"?{urlencode({**asked.address, by: name, 'by': 'key' if by == 'model' else 'model'})}"


def _log_address(asked: Asked) -> dict[str, str]:
    """The same period and filters for the log of requests."""
    kept = ("period", "from", "to", "model", "key", "provider")
    return {name: asked.address[name] for name in kept if name in asked.address}


def _file_address(asked: Asked) -> dict[str, str]:
    """The same period and filters for the file of all requests (`billing.downloads`)."""
    period = asked.question.period
    return {
        "start": period.starts_at.isoformat(),
        "end": period.ends_at.isoformat(),
        **{name: asked.address[name] for name in ("model", "key", "provider") if name in asked.address},
    }


def _keys(account: Account, ids: set[int]) -> list[tuple[int, str]]:
    found = ApiKey.objects.filter(account=account, pk__in=ids).order_by("name", "pk")
    return [(key.pk, str(key)) for key in found]
