"""The charts of usage: which figures of an answer are drawn over which steps, and how their values are written. Pure, but for the names of keys."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from django.utils.safestring import SafeString

from accounts.models import Account
from billing import periods, usage_table
from billing.forecasts import Forecast
from billing.usage_reports import Sums
from billing.usage_table import Answer, Question
from catalog import money
from gateway_site import charts
from gateway_site.charts import Number, Series


@dataclass(frozen=True, slots=True)
class Metric:
    """Something a chart can show: how it is read from sums, and written for people. A mean is drawn as a line and not split into groups."""

    name: str
    read: Callable[[Sums], int | None]
    show: Callable[[Number], str]
    is_mean: bool = False


def _count(value: Number) -> str:
    return f"{int(value):,}" if value == int(value) else f"{float(value):g}"


def _milliseconds(value: Number) -> str:
    return f"{int(value):,} ms"


METRICS: Mapping[str, Metric] = {
    "cost": Metric("Cost", lambda sums: sums.cost, lambda value: money.usd_display(int(value))),
    "requests": Metric("Requests", lambda sums: sums.requests, _count),
    "tokens": Metric("Tokens", lambda sums: sums.total_tokens, _count),
    "errors": Metric("Errors", lambda sums: sums.errors, _count),
    "latency": Metric("Latency", lambda sums: sums.mean_latency_ms, _milliseconds, is_mean=True),
    "first-token": Metric("First token", lambda sums: sums.mean_first_token_ms, _milliseconds, is_mean=True),
}
BUCKETS: tuple[tuple[str, Callable[[Sums], int]], ...] = (
    ("Input", lambda sums: sums.fresh_input_tokens),
    ("Cached input", lambda sums: sums.cached_input_tokens),
    ("Cache writes", lambda sums: sums.cache_write_tokens),
    ("Output", lambda sums: sums.visible_output_tokens),
    ("Reasoning", lambda sums: sums.reasoning_tokens),
    ("Audio", lambda sums: sums.audio_input_tokens + sums.audio_output_tokens),
)


def draw(question: Question, metric_name: str, answer: Answer, *, chart_id: str = "chart") -> SafeString:
    """The chart: bars of a metric, split into the first few groups (tokens into their buckets, where there are none), or the line of a mean."""
    metric, zone = METRICS[metric_name], question.account.timezone
    steps = [step for step in answer.steps if not metric.is_mean or metric.read(step.sums) is not None]
    short = question.period.ends_at - question.period.starts_at <= timedelta(hours=25)
    labels = [periods.label(step.starts_at, question.step, timezone=zone, short=short) for step in steps]
    whole = [metric.read(step.sums) or 0 for step in steps]
    if metric.is_mean:
        series = [Series(metric.name, whole)]
        return charts.draw("line", title=f"{metric.name}, mean", labels=labels, series=series, show=metric.show, chart_id=chart_id)
    if answer.parts:
        names = usage_table.names_of(question.by, answer.groups[: usage_table.IN_CHART], account=question.account)
        series = [
            Series(names[name], [metric.read(sums[step.starts_at]) or 0 if step.starts_at in sums else 0 for step in steps])
            for name, sums in answer.parts.items()
        ]
        rest = [value - sum(int(each.values[place]) for each in series) for place, value in enumerate(whole)]
        if any(value > 0 for value in rest):
            series.append(Series("The rest", [max(0, value) for value in rest]))
    elif metric_name == "tokens":
        series = [Series(name, [read(step.sums) for step in steps]) for name, read in BUCKETS]
        series = [each for each in series if any(each.values)] or series[:1]
    else:
        series = [Series(metric.name, whole)]
    return charts.draw("bar", title=metric.name, labels=labels, series=series, show=metric.show, chart_id=chart_id)


def draw_forecast(forecast: Forecast, account: Account) -> SafeString:
    """The month's cost as it grows: what was spent, what is to come at this pace, and the budget."""
    labels = [periods.label(day.starts_at, "day", timezone=account.timezone, short=False) for day in forecast.days]
    series = [Series("Spent", [day.spent for day in forecast.days]), Series("At this pace", [day.expected for day in forecast.days])]
    limit = ("Budget", forecast.budget) if forecast.budget else None
    show = METRICS["cost"].show
    return charts.draw("bar", title="Cost of this month", labels=labels, series=series, show=show, chart_id="forecast", limit=limit)
