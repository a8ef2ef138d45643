"""The windows of budgets and quotas: they tile time without gap or overlap, at local midnights, anchors and month ends."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.budgets import FIRST, LAST, window_at, zone

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Pacific/Apia",
    "Africa/Cairo",
    "Australia/Lord_Howe",
]
MOMENTS = st.datetimes(datetime(2021, 1, 1), datetime(2099, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001 - made aware here
KINDS = st.sampled_from(["day", "week", "month", "total"])


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@given(KINDS, MOMENTS, st.sampled_from(ZONES), st.integers(1, 31))
def test_every_moment_lies_in_its_window_and_the_next_begins_where_it_ends(kind: str, now: datetime, timezone: str, anchor: int) -> None:
    window = window_at(kind, now, timezone=timezone, anchor_day=anchor)
    assert window.starts_at <= now < window.ends_at
    assert now in window
    if kind == "total":
        assert (window.starts_at, window.ends_at) == (FIRST, LAST)
        return
    after = window_at(kind, window.ends_at, timezone=timezone, anchor_day=anchor)
    before = window_at(kind, window.starts_at - timedelta(microseconds=1), timezone=timezone, anchor_day=anchor)
    assert after.starts_at == window.ends_at
    assert before.ends_at == window.starts_at
    assert window.ends_at not in window


@given(KINDS, MOMENTS, MOMENTS, st.sampled_from(ZONES), st.integers(1, 31))
def test_what_was_asked_before_changes_nothing(kind: str, first: datetime, then: datetime, timezone: str, anchor: int) -> None:
    answer = window_at(kind, then, timezone=timezone, anchor_day=anchor)
    window_at(kind, first, timezone=timezone, anchor_day=anchor)
    assert window_at(kind, then, timezone=timezone, anchor_day=anchor) == answer


@given(MOMENTS, st.sampled_from(ZONES), st.integers(1, 31))
def test_windows_begin_at_local_midnight_on_the_right_day(now: datetime, timezone: str, anchor: int) -> None:
    here = zone(timezone)
    assert window_at("week", now, timezone=timezone).starts_at.astimezone(here).weekday() == 0
    month = window_at("month", now, timezone=timezone, anchor_day=anchor).starts_at.astimezone(here)
    following = date(month.year + month.month // 12, month.month % 12 + 1, 1)
    assert month.day == min(anchor, (following - timedelta(days=1)).day)
    assert month.hour in (0, 1)  # one where the clock was put forward at midnight


def test_texts_are_the_moments() -> None:
    window = window_at("day", at("2026-03-01 12:00"))
    assert (window.starts_text, window.ends_text) == ("2026-03-01T00:00:00+00:00", "2026-03-02T00:00:00+00:00")


@pytest.mark.parametrize(
    ("now", "starts", "ends"),
    [
        ("2026-01-31 00:00", "2026-01-31", "2026-02-28"),
        ("2026-02-27 23:59", "2026-01-31", "2026-02-28"),
        ("2026-02-28 00:00", "2026-02-28", "2026-03-31"),  # and not the 28th for ever after
        ("2026-03-31 00:00", "2026-03-31", "2026-04-30"),
        ("2026-12-31 12:00", "2026-12-31", "2027-01-31"),
        ("2027-01-30 12:00", "2026-12-31", "2027-01-31"),
        ("2028-02-29 12:00", "2028-02-29", "2028-03-31"),
        ("2028-02-28 12:00", "2028-01-31", "2028-02-29"),
    ],
)
def test_a_month_anchored_at_the_31st_follows_the_calendar(now: str, starts: str, ends: str) -> None:
    window = window_at("month", at(now), anchor_day=31)
    assert (window.starts_at, window.ends_at) == (at(starts), at(ends))


@pytest.mark.parametrize(
    ("timezone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29 12:00", 23),
        ("Europe/Berlin", "2026-10-25 12:00", 25),
        ("America/New_York", "2026-03-08 12:00", 23),
        ("America/New_York", "2026-11-01 12:00", 25),
        ("Australia/Lord_Howe", "2026-04-04 20:00", 24.5),
        ("America/Sao_Paulo", "2018-11-04 12:00", 23),  # midnight did not exist
        ("UTC", "2026-03-29 12:00", 24),
    ],
)
def test_a_day_is_as_long_as_the_clocks_make_it(timezone: str, day: str, hours: float) -> None:
    window = window_at("day", at(day), timezone=timezone)
    assert (window.ends_at - window.starts_at) == timedelta(hours=hours)


def test_a_day_that_was_skipped_does_not_break_its_neighbours() -> None:
    """Samoa went from 29 to 31 December 2011."""
    before = window_at("day", at("2011-12-30 09:59"), timezone="Pacific/Apia")
    after = window_at("day", at("2011-12-30 10:00"), timezone="Pacific/Apia")
    assert before.ends_at >= at("2011-12-30 10:00")
    assert after.starts_at == at("2011-12-30 10:00")


def test_a_zone_nobody_knows_is_utc() -> None:
    for name in ("Nowhere/Land", "", "../../etc/passwd", "UTC\0"):
        assert window_at("day", at("2026-05-05 01:00"), timezone=name).starts_at == at("2026-05-05")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no such window"):
        window_at("year", at("2026-05-05"))


def test_a_month_has_one_beginning_however_many_days_it_has() -> None:
    """Not thirty days: elsewhere a month of 31 began a second time on its last day (bifrost#2325), or drifted (LiteLLM#9098)."""
    for month, days in ((1, 31), (2, 28), (4, 30)):
        starts = {window_at("month", datetime(2026, month, 1, tzinfo=UTC) + timedelta(hours=hour)).starts_at for hour in range(days * 24)}
        assert starts == {datetime(2026, month, 1, tzinfo=UTC)}


@pytest.mark.parametrize(("anchor", "starts", "ends"), [(1, "2026-05-01", "2026-06-01"), (14, "2026-05-14", "2026-06-14")])
def test_a_month_begins_on_its_anchor_and_not_a_month_after_the_last_reset(anchor: int, starts: str, ends: str) -> None:
    """Whenever it is first asked for (LiteLLM#4196 began it anew at the moment of the reset)."""
    for moment in ("2026-05-14 00:00", "2026-05-20 17:23", "2026-05-31 23:59"):
        window = window_at("month", at(moment), anchor_day=anchor)
        assert (window.starts_at, window.ends_at) == (at(starts), at(ends))


def test_a_month_is_the_accounts_own_through_a_change_of_the_clocks() -> None:
    """A zone that is set and not used is a promise broken (langwatch#6255)."""
    window = window_at("month", at("2026-03-31 22:30"), timezone="Europe/Berlin")
    assert (window.starts_at, window.ends_at) == (at("2026-03-31 22:00"), at("2026-04-30 22:00"))
    march = window_at("month", at("2026-03-31 21:59"), timezone="Europe/Berlin")
    assert (march.starts_at, march.ends_at) == (at("2026-02-28 23:00"), at("2026-03-31 22:00"))
    assert march.ends_at - march.starts_at == timedelta(days=31, hours=-1)
