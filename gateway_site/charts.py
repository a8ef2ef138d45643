"""Charts as inline SVG, drawn on the server: values in, markup out. Each says what it shows in words and has its figures as a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import floor, log10
from typing import Literal

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

WIDTH, HEIGHT = 720, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 8, 12, 26
COLOURS = 6  # series-1 … series-6 of chart.css; further ones begin anew
Number = int | float | Decimal


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or one colour of the bars: a name and a value for each label, never negative."""

    name: str
    values: Sequence[Number]


def draw(
    kind: Literal["bar", "line"],
    *,
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    show: Callable[[Number], str] = str,
    chart_id: str = "chart",
    limit: tuple[str, Number] | None = None,
) -> SafeString:
    """Draw `series` over `labels`: bars are stacked, lines are not. `show` writes a value for people; `chart_id` is unique on the page.
    `limit` is a name and a value that is drawn across, such as a budget.

    Raises: ValueError if a series has another length than the labels.
    """
    if any(len(each.values) != len(labels) for each in series):
        raise ValueError("each series has one value for each label")
    highest = max(_highest(kind, labels, series), float(limit[1]) if limit else 0.0)
    top, step = _scale(highest)
    parts = [_axes(top, step, show), _labels(labels)]
    parts.append(_bars(labels, series, top, show) if kind == "bar" else _lines(labels, series, top, show))
    if limit:
        parts.append(_limit(limit[0], limit[1], top, show))
    return format_html(
        '<figure class="chart-figure"><svg viewBox="0 0 {} {}" role="img" aria-labelledby="{}_title {}_desc">'
        '<title id="{}_title">{}</title><desc id="{}_desc">{}</desc>{}</svg>{}{}</figure>',
        *(WIDTH, HEIGHT, chart_id, chart_id, chart_id, title, chart_id, _told(labels, series, show)),
        format_html_join("", "{}", ((part,) for part in parts)),
        _legend(series),
        _table(title, labels, series, show),
    )


def _highest(kind: str, labels: Sequence[str], series: Sequence[Series]) -> float:
    if kind == "bar":
        return max((sum(float(each.values[place]) for each in series) for place in range(len(labels))), default=0.0)
    return max((float(value) for each in series for value in each.values), default=0.0)


def _scale(highest: float) -> tuple[float, float]:
    """The top of the axis and the distance of its ticks: 1, 2 or 5 times a power of ten, four or five of them."""
    if highest <= 0:
        return 1.0, 1.0
    rough = highest / 4
    power = 10.0 ** floor(log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999999)
    ticks = 1
    while step * ticks < highest * 0.999999:
        ticks += 1
    return step * ticks, step


def _x(place: float, count: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * place / max(count, 1)


def _y(value: float, top: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top)


def _f(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")


def _axes(top: float, step: float, show: Callable[[Number], str]) -> SafeString:
    values = [step * tick for tick in range(round(top / step) + 1)]
    return format_html_join(
        "",
        '<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"></line><text class="tick" x="{}" y="{}" text-anchor="end">{}</text>',
        (
            (LEFT, WIDTH - RIGHT, _f(_y(value, top)), _f(_y(value, top)), LEFT - 8, _f(_y(value, top) + 3.5), show(_plain(value)))
            for value in values
        ),
    )


def _plain(value: float) -> Number:
    """A tick as an integer where it is one, so that amounts in nano-USD stay integers."""
    return int(value) if value == int(value) else value


def _labels(labels: Sequence[str]) -> SafeString:
    """As many labels as fit, evenly."""
    every = max(1, -(-len(labels) // 8))
    return format_html_join(
        "",
        '<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>',
        ((_f(_x(place + 0.5, len(labels))), HEIGHT - 8, label) for place, label in enumerate(labels) if place % every == 0),
    )


def _bars(labels: Sequence[str], series: Sequence[Series], top: float, show: Callable[[Number], str]) -> SafeString:
    width = (WIDTH - LEFT - RIGHT) / max(len(labels), 1)
    bars = []
    for place, label in enumerate(labels):
        below = 0.0
        for number, each in enumerate(series):
            value = each.values[place]
            if value:
                upper, lower = _y(below + float(value), top), _y(below, top)
                told = f"{label}, {each.name}: {show(value)}"
                x = _x(place, len(labels)) + width * 0.15
                bars.append((number % COLOURS + 1, _f(x), _f(upper), _f(width * 0.7), _f(max(lower - upper, 0.5)), told))
                below += float(value)
    return format_html_join("", '<rect class="bar series-{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>', bars)


def _lines(labels: Sequence[str], series: Sequence[Series], top: float, show: Callable[[Number], str]) -> SafeString:
    lines, dots = [], []
    for number, each in enumerate(series):
        points = [(_f(_x(place + 0.5, len(labels))), _f(_y(float(value), top))) for place, value in enumerate(each.values)]
        lines.append((number % COLOURS + 1, " ".join(f"{x},{y}" for x, y in points)))
        if len(points) <= 62:
            told = (f"{label}, {each.name}: {show(value)}" for label, value in zip(labels, each.values, strict=True))
            dots += [(number % COLOURS + 1, x, y, text) for (x, y), text in zip(points, told, strict=True)]
    return format_html(
        "{}{}",
        format_html_join("", '<polyline class="line series-{}" points="{}"></polyline>', lines),
        format_html_join("", '<circle class="series-{}" cx="{}" cy="{}" r="2.5"><title>{}</title></circle>', dots),
    )


def _limit(name: str, value: Number, top: float, show: Callable[[Number], str]) -> SafeString:
    y = _y(float(value), top)
    text = f"{name}: {show(value)}"
    above = y - 5 if y > TOP + 14 else y + 13
    line = '<line class="limit" x1="{}" x2="{}" y1="{}" y2="{}"><title>{}</title></line><text class="limit-text" x="{}" y="{}">{}</text>'
    return format_html(line, LEFT, WIDTH - RIGHT, _f(y), _f(y), text, LEFT + 4, _f(above), text)


def _told(labels: Sequence[str], series: Sequence[Series], show: Callable[[Number], str]) -> str:
    """What the chart shows, in a sentence for who cannot see it."""
    if not labels or not series:
        return "No values."
    totals = "; ".join(f"{each.name}: highest {show(max(each.values))}" for each in series[:COLOURS])
    return f"From {labels[0]} to {labels[-1]}. {totals}."


def _legend(series: Sequence[Series]) -> SafeString:
    if len(series) < 2:
        return SafeString("")
    items = format_html_join(
        "",
        '<li><svg class="swatch" viewBox="0 0 10 10" aria-hidden="true"><rect class="series-{}" width="10" height="10"></rect></svg>{}</li>',
        ((number % COLOURS + 1, each.name) for number, each in enumerate(series)),
    )
    return format_html('<ul class="legend">{}</ul>', items)


def _table(title: str, labels: Sequence[str], series: Sequence[Series], show: Callable[[Number], str]) -> SafeString:
    head = format_html_join("", '<th scope="col" class="number">{}</th>', ((each.name,) for each in series))
    rows = format_html_join(
        "",
        '<tr><th scope="row">{}</th>{}</tr>',
        (
            (label, format_html_join("", '<td class="number">{}</td>', ((show(each.values[place]),) for each in series)))
            for place, label in enumerate(labels)
        ),
    )
    return format_html(
        '<details><summary>The figures as a table</summary><div class="table-wrap"><table><caption>{}</caption>'
        '<thead><tr><th scope="col"><span class="visually-hidden">Label</span></th>{}</tr></thead><tbody>{}</tbody></table></div></details>',
        *(title, head, rows),
    )
