"""Filters and tags of every page: money, times in the account's zone, icons, meters, and forms that may be sent twice."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django import template
from django.forms import BoundField
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts import form_tokens
from catalog import money

register = template.Library()


@register.filter
def usd(nano: int | None) -> SafeString | str:
    """An amount of nano-USD with six significant digits; the exact amount is its title."""
    return "" if nano is None else format_html('<span title="${} exactly">{}</span>', money.usd(nano), money.usd_display(nano))


@register.filter
def usd_about(nano: int) -> str:
    """An amount of nano-USD that is an estimate: to the cent from a dollar on, else to three significant digits."""
    if abs(nano) >= money.NANO_PER_USD:
        return money.usd_display(round(nano, -7))
    return money.usd_display(round(nano, 3 - len(str(abs(nano)))))


@register.filter
def usd_plain(nano: int | None) -> str:
    """An amount of nano-USD with six significant digits, as mere text."""
    return "" if nano is None else money.usd_display(nano)


@register.filter
def usd_exact(nano: int | None) -> str:
    """An amount of nano-USD in full, as the books have it."""
    return "" if nano is None else f"{'-' if nano < 0 else ''}${money.usd(abs(nano))}"


@register.filter
def usd_headline(nano: int | None) -> SafeString | str:
    """A balance of nano-USD floored to cents, so that nobody sees money they do not have; the exact amount is its title."""
    if nano is None:
        return ""
    cents = money.usd_cents(nano)
    whole, _, part = cents.removeprefix("-").partition(".")
    sign = "-" if cents.startswith("-") else ""
    return format_html('<span title="${} exactly">{}${}.{}</span>', money.usd(nano), sign, f"{int(whole):,}", part)


@register.filter
def account_time(moment: datetime | None, style: str = "") -> SafeString | str:
    """A moment in the account's time zone (in UTC on pages of no account), to the minute; its title has the seconds and the zone.

    `style` may be "seconds" or "date".
    """
    if moment is None:
        return ""
    local = timezone.localtime(moment)
    shape = {"": "%Y-%m-%d %H:%M", "seconds": "%Y-%m-%d %H:%M:%S", "date": "%Y-%m-%d"}[style]
    return format_html(
        '<time datetime="{}" title="{}" class="nowrap">{}</time>',
        moment.isoformat(),
        f"{local:%Y-%m-%d %H:%M:%S} {timezone.get_current_timezone_name()}",
        local.strftime(shape),
    )


@register.filter
def zoned_time(moment: datetime) -> SafeString:
    """A moment in the account's time zone with the zone's name; on pages of no account in UTC, which a script makes the reader's."""
    zone = timezone.get_current_timezone_name()
    attribute = SafeString(" data-zoned") if zone == "UTC" else ""
    shown = f"{timezone.localtime(moment):%Y-%m-%d %H:%M} {zone}"
    return format_html('<time datetime="{}"{} class="nowrap">{}</time>', moment.isoformat(), attribute, shown)


@register.filter
def details(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the audit log says of an event, in words: what is not set is left out, amounts are dollars, moments are to the minute."""
    said = ((name, value) for name, value in told.items() if value not in (None, "", []))
    return [(name.removesuffix("_nano").removesuffix("_minor").replace("_", " "), _told(name, value)) for name, value in said]


def _told(name: str, value: Any) -> str:
    """A detail of an event as text; a change is what it was and what it became."""
    if isinstance(value, Mapping) and set(value) == {"from", "to"}:
        return " → ".join("nothing" if each in (None, "", []) else _told(name, each) for each in (value["from"], value["to"]))
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if name.endswith("_nano") and isinstance(value, int):
        return f"${money.usd(value)}"
    if name.endswith("_minor") and isinstance(value, int):
        return f"${value / 100:,.2f}"
    if (name.endswith("_at") or name == "until") and isinstance(value, str):
        try:
            return f"{timezone.localtime(datetime.fromisoformat(value)):%Y-%m-%d %H:%M}"
        except ValueError:  # no moment after all, or one without a zone
            return value
    return str(value)


@register.filter
def thousands(number: int | None) -> str:
    """An integer with commas."""
    return "" if number is None else f"{number:,}"


@register.filter
def lasts(days: int) -> str:
    """How long what is free lasts, in words."""
    if days < 1:
        return "what is free lasts less than a day"
    return f"what is free lasts about {days:,} day{'s' if days > 1 else ''}" if days < 400 else "what is free lasts for more than a year"


@register.filter
def last_days(days: int) -> str:
    """Which days a figure is of."""
    return f"in the last {days} days"


@register.filter
def held_in(count: int) -> str:
    """For how many requests something is held."""
    return f"for {count:,} requests under way"


@register.filter
def negative(number: int) -> int:
    """The number with the other sign: what is taken off."""
    return -number


@register.filter
def milliseconds(number: int | None) -> str:
    """A duration for people: 350 ms, 2.1 s, 3 min 05 s; nothing for none."""
    if number is None:
        return ""
    if number < 1000:
        return f"{number} ms"
    seconds = number / 1000
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


@register.filter
def percent_of_million(share: int | None) -> str:
    """Millionths as percent, to a tenth where it matters."""
    if share is None:
        return ""
    percent = share / 10_000
    return f"{percent:.1f} %" if 0 < percent < 10 else f"{percent:.0f} %"


@register.inclusion_tag("components/meter.html")
def meter_of(share_ppm: int) -> dict[str, Any]:
    """A share, in millionths, as a bar with its percentage."""
    return {
        "has_limit": True,
        "width": round(min(share_ppm, 1_000_000) / 10_000, 2),
        "percent": share_ppm // 10_000,
        "level": "",
        "text": percent_of_million(share_ppm),
        "label": "Share",
    }


@register.simple_tag
def icon(name: str) -> SafeString:
    """A symbol of icons.svg. It says nothing to a screen reader: the text beside it does."""
    return format_html('<svg class="icon" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>', static("icons.svg"), name)


@register.simple_tag
def form_token() -> SafeString:
    """The hidden field that lets a form act once (`accounts.form_tokens`)."""
    return format_html('<input type="hidden" name="{}" value="{}">', form_tokens.FIELD, form_tokens.new())


@register.simple_tag
def control(field: BoundField, *, bare: bool = False) -> SafeString:
    """A form field's control, told where its help and its errors are; `bare` takes out a placeholder that says no more than the label."""
    return field.as_widget(attrs={**_described(field), **({"placeholder": False} if bare else {})})


def _described(field: BoundField) -> dict[str, Any]:
    parts = [f"{field.auto_id}_help"] if field.help_text else []
    if field.errors:
        return {"aria-invalid": "true", "aria-describedby": " ".join([*parts, f"{field.auto_id}_problem"])}
    return {"aria-describedby": parts[0]} if parts else {}


@register.inclusion_tag("components/meter.html")
def meter(value: int, limit: int | None, text: str = "", label: str = "Used") -> dict[str, Any]:
    """How much of `limit` is used up, as a bar that changes colour at 80 and 100 %; nothing is drawn without a limit."""
    share = min(max(value / limit, 0.0), 1.0) if limit else 0.0
    full = bool(limit) and value >= (limit or 0)
    return {
        "has_limit": bool(limit),
        "width": round(share * 100, 2),
        "percent": int(share * 100),
        "level": "bad" if full else "warn" if share >= 0.8 else "",
        "text": text,
        "label": label,
    }
