"""Which stretch of time a page shows, as its address has it: a preset or two dates of the account's own calendar, and the steps it is cut into.

Pure: values in, values out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from billing import reports
from billing.reports import InvalidParameter, Period, end_of_slot
from keys import budgets

PRESETS: Mapping[str, str] = {
    "24h": "Last 24 hours",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
    "90d": "Last 90 days",
    "month": "This month",
    "last-month": "Last month",
}
_DAYS = {"7d": 7, "30d": 30, "90d": 90}
STEPS: Mapping[str, str] = {"hour": "Hours", "day": "Days", "week": "Weeks", "month": "Months"}
MOST_STEPS = 200
_LONGEST_STEP = {"hour": timedelta(hours=1), "day": timedelta(hours=23), "week": timedelta(days=6, hours=23), "month": timedelta(days=28)}


@dataclass(frozen=True, slots=True)
class Chosen:
    """A period and how it was asked for: by one of PRESETS, or (preset is empty) from one date to another, both included."""

    period: Period
    preset: str
    first: date
    last: date


def choose(asked: Mapping[str, str], *, timezone: str, now: datetime, default: str) -> Chosen:
    """Read `period`, or `from` and `to` (dates, both included), of what was asked for; `default` is the preset without any.

    Raises: billing.reports.InvalidParameter.
    """
    first, last = asked.get("from", ""), asked.get("to", "")
    if first or last:
        return _between(first, last, timezone=timezone, now=now)
    preset = asked.get("period") or default
    if preset not in PRESETS:
        raise InvalidParameter("period", f"Must be one of {', '.join(PRESETS)}.")
    period = _preset(preset, timezone=timezone, now=now)
    return Chosen(period, preset, *_dates(period, timezone))


def read_step(text: str, period: Period) -> str:
    """Which steps are asked for; such as give a readable chart without any. Raises: billing.reports.InvalidParameter."""
    length = period.ends_at - period.starts_at
    if not text:
        return "hour" if length <= timedelta(days=2) else "day" if length <= timedelta(days=93) else "week"
    if text not in STEPS:
        raise InvalidParameter("step", f"Must be one of {', '.join(STEPS)}.")
    if length / _LONGEST_STEP[text] > MOST_STEPS:
        raise InvalidParameter(
            "step", f"The period has more than {MOST_STEPS} {STEPS[text].lower()}: choose longer steps, or a shorter period."
        )
    return text


def steps_of(period: Period, step: str, *, timezone: str) -> list[datetime]:
    """When each step of a period begins; the first may begin before the period does."""
    if step == "hour":
        begins = _hour_of(period.starts_at, timezone)
        count = -(-(period.ends_at - begins) // timedelta(hours=1))
        return [begins + timedelta(hours=number) for number in range(count)]
    found, window = [], budgets.window_at(step, period.starts_at, timezone=timezone)
    while window.starts_at < period.ends_at:
        found.append(window.starts_at)
        window = budgets.window_at(step, window.ends_at, timezone=timezone)
    return found


def label(moment: datetime, step: str, *, timezone: str, short: bool) -> str:
    """What a step is called below a chart; with `short` an hour goes without its day."""
    local = moment.astimezone(budgets.zone(timezone))
    if step == "hour":
        return f"{local:%H:%M}" if short else f"{local.day} {local:%b %H:%M}"
    return f"{local:%b %Y}" if step == "month" else f"{local.day} {local:%b}"


def _preset(preset: str, *, timezone: str, now: datetime) -> Period:
    now = now.astimezone(UTC)
    if preset == "24h":
        return Period(_hour_of(now, timezone) - timedelta(hours=23), end_of_slot(now))
    if preset in _DAYS:
        return latest_days(timezone=timezone, now=now, days=_DAYS[preset])
    month = budgets.window_at("month", now, timezone=timezone)
    if preset == "month":
        return Period(month.starts_at, end_of_slot(now))
    before = budgets.window_at("month", month.starts_at - timedelta(hours=12), timezone=timezone)
    return Period(before.starts_at, before.ends_at)


def latest_days(*, timezone: str, now: datetime, days: int) -> Period:
    """The last `days` days of a calendar, today included, up to the end of the slot that `now` is in."""
    today = budgets.window_at("day", now, timezone=timezone).starts_at
    # Through local noon, so that a day of 23 or 25 hours on the way is still one day.
    first = budgets.window_at("day", today + timedelta(hours=12) - timedelta(days=days - 1), timezone=timezone).starts_at
    return Period(first, end_of_slot(now))


def _hour_of(moment: datetime, timezone: str) -> datetime:
    local = moment.astimezone(budgets.zone(timezone))  # some zones are a quarter or half an hour off
    return moment - timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)


def _between(first: str, last: str, *, timezone: str, now: datetime) -> Chosen:
    until = ""
    if last:
        try:
            until = (date.fromisoformat(last) + timedelta(days=1)).isoformat()
        except (ValueError, OverflowError):
            raise InvalidParameter("to", "Must be a date, such as 2026-01-31.") from None
    if first and len(first) != len("2026-01-31"):
        raise InvalidParameter("from", "Must be a date, such as 2026-01-31.")
    try:
        period = reports.read_period(first, until, timezone=timezone, now=now)
    except InvalidParameter as error:
        raise InvalidParameter({"start": "from", "end": "to"}[error.param], error.message) from None
    return Chosen(period, "", *_dates(period, timezone))


def _dates(period: Period, timezone: str) -> tuple[date, date]:
    zone = budgets.zone(timezone)
    return period.starts_at.astimezone(zone).date(), (period.ends_at - timedelta(microseconds=1)).astimezone(zone).date()
