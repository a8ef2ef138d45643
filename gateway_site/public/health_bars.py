"""A row of small bars that says how something has been doing, as SVG: one for each step, coloured by how requests ended."""

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from billing.service_health import Health, State, Step

HEIGHT, GAP, WIDTH = 24, 2, 8
SAID: dict[State, str] = {"good": "no trouble", "warn": "some trouble", "bad": "trouble", "none": "no traffic"}


def bars(health: Health) -> SafeString:
    """Draw the steps of `health`."""
    steps = health.steps
    told = f"{health.name}: " + (f"{health.success_percent} % of requests ended well" if health.success_percent else "too little traffic")
    return format_html(
        '<svg class="health" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>',
        *(len(steps) * (WIDTH + GAP) - GAP, HEIGHT, told, format_html_join("", "{}", ((_bar(n, step),) for n, step in enumerate(steps)))),
    )


def _bar(place: int, step: Step) -> SafeString:
    said = f"{step.starts_at:%Y-%m-%d %H:%M} UTC: {SAID[step.state]}"
    return format_html(
        '<rect class="{}" x="{}" y="0" width="{}" height="{}" rx="1"><title>{}</title></rect>',
        *(step.state, place * (WIDTH + GAP), WIDTH, HEIGHT, said),
    )
