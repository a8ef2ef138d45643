"""The windows that budgets and quotas count in: local midnights, stored as UTC, the end exclusive. Pure.

A month begins on the anchor day, clamped to the month's last day, always computed from the anchor (31 → 28 → 31, never 31 → 28 → 28).
"""

import calendar
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

FIRST = datetime(2020, 1, 1, tzinfo=UTC)
LAST = datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a kind ("day", "week", "month", "total"): starts_at <= moment < ends_at."""

    kind: str
    starts_at: datetime
    ends_at: datetime
    starts_text: str  # ISO 8601, made once: the hot path sends them to PostgreSQL with every request
    ends_text: str

    def __contains__(self, moment: datetime) -> bool:
        return self.starts_at <= moment < self.ends_at


@lru_cache(maxsize=512)
def zone(name: str) -> ZoneInfo:
    """The time zone of this IANA name; UTC for a name nobody knows (a setting typed wrong must not stop requests)."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")


_latest: dict[tuple[str, str, int], Window] = {}


def window_at(kind: str, now: datetime, *, timezone: str = "UTC", anchor_day: int = 1) -> Window:
    """The window of `kind` that `now` falls in, for an account in `timezone`."""
    known = _latest.get((kind, timezone, anchor_day))
    if known is not None and now in known:
        return known
    starts_on, ends_on = _dates(kind, now.astimezone(zone(timezone)).date(), anchor_day)
    starts_at = _midnight(starts_on, timezone) if starts_on else FIRST
    ends_at = _midnight(ends_on, timezone) if ends_on else LAST
    window = Window(kind, starts_at, ends_at, starts_at.isoformat(), ends_at.isoformat())
    if len(_latest) > 10_000:
        _latest.clear()
    _latest[kind, timezone, anchor_day] = window
    return window


def _dates(kind: str, today: date, anchor_day: int) -> tuple[date | None, date | None]:
    if kind == "day":
        return today, today + timedelta(days=1)
    if kind == "week":
        monday = today - timedelta(days=today.weekday())
        return monday, monday + timedelta(days=7)
    if kind == "month":
        this = _anchored(today.year, today.month, anchor_day)
        if today >= this:
            return this, _anchored(*_shift(today.year, today.month, 1), anchor_day)
        return _anchored(*_shift(today.year, today.month, -1), anchor_day), this
    if kind == "total":
        return None, None
    raise ValueError(f"no such window: {kind!r}")


def _anchored(year: int, month: int, day: int) -> date:
    return date(year, month, min(day, calendar.monthrange(year, month)[1]))


def _shift(year: int, month: int, by: int) -> tuple[int, int]:
    index = year * 12 + month - 1 + by
    return index // 12, index % 12 + 1


def _midnight(day: date, timezone: str) -> datetime:
    # Where midnight does not exist (a clock put forward at 00:00), the fold rules give the moment the day really begins.
    return datetime.combine(day, time(), tzinfo=zone(timezone)).astimezone(UTC)
