"""The page of usage: what its address asks for, tables that add up to the books, files of what is shown, and the month's forecast."""

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Account, Membership
from billing import forecasts, periods, usage_table
from billing.reports import InvalidParameter, Period
from billing.usage_reports import Filters
from billing.usage_table import Question
from tests.accounts.people import browser_of, new_person
from tests.billing.desk import Desk

USD = 1_000_000_000
OpenDesk = Callable[..., Desk]


def viewer_of(desk: Desk) -> Client:
    person = new_person()
    Membership.objects.create(account=desk.account, user=person, role="viewer")
    return browser_of(person)


@pytest.fixture
def busy(open_desk: OpenDesk) -> Desk:
    """A desk whose two keys called two models today, and one of them yesterday."""
    desk, now = open_desk(usd=100), timezone.now()
    second = desk.make_key(budget=50 * USD)
    desk.spend(
        3 * USD,
        started=now,
        model="house/large",
        provider="acme",
        input_tokens=700,
        cached_input_tokens=50,
        output_tokens=30,
        reasoning_tokens=5,
        user_tag="ann",
    )
    desk.spend(2 * USD, started=now, model="house/small", provider="acme", input_tokens=100, output_tokens=10, user_tag="=cmd|ben")
    desk.spend(1 * USD, started=now, key=second, model="house/small", provider="brand", input_tokens=11, output_tokens=1, status="error")
    desk.spend(
        4 * USD,
        started=now - timedelta(days=1),
        key=second,
        model="house/small",
        provider="brand",
        input_tokens=22,
        output_tokens=2,
        user_tag="ann",
    )
    return desk


def file_of(client: Client, desk: Desk, form: str, **asked: str) -> Any:
    answer = client.get(f"/a/{desk.slug}/usage/table.{form}", asked)
    assert answer.status_code == 200, answer.content
    if form == "json":
        return json.loads(answer.content)
    return list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode())))  # type: ignore[attr-defined]


def test_the_table_by_everything_adds_up_to_the_same(busy: Desk) -> None:
    client = viewer_of(busy)
    for by, rows in (("model", 2), ("key", 2), ("provider", 2), ("time", 2), ("user", 2)):
        found = file_of(client, busy, "json", by=by, period="7d")
        assert found["by"] == by
        assert len(found["rows"]) == rows
        assert found["totals"]["cost_usd"] == "10.00"
        assert (found["totals"]["requests"], found["totals"]["errors"], found["totals"]["input_tokens"]) == (4, 1, 883)
        if by != "user":
            assert sum(row["requests"] for row in found["rows"]) == 4
        page = client.get(f"/a/{busy.slug}/usage", {"by": by, "period": "7d"})
        assert page.status_code == 200
        assert "$10.00" in page.content.decode()
    users = file_of(client, busy, "json", by="user", period="7d")["rows"]
    assert [(row["user"], row["cost_usd"]) for row in users] == [("ann", "7.00"), ("=cmd|ben", "2.00")]


def test_the_table_of_end_users_comes_after_its_page_and_with_it_when_that_is_asked(busy: Desk) -> None:
    client, asked = viewer_of(busy), {"by": "user", "period": "7d"}
    page = client.get(f"/a/{busy.slug}/usage", asked).content.decode()
    assert 'aria-busy="true"' in page
    assert 'hx-get="?period=7d&amp;by=user&amp;show=cost"' in page
    assert '<noscript><p><a href="?period=7d&amp;by=user&amp;show=cost&amp;whole=1">' in page
    assert "user=ann" not in page
    part = client.get(f"/a/{busy.slug}/usage", asked, headers={"HX-Request": "true"})
    assert (part.status_code, part.headers["Vary"]) == (200, "Cookie, HX-Request")
    whole = client.get(f"/a/{busy.slug}/usage", {**asked, "whole": "1"}).content.decode()
    assert "aria-busy" not in whole
    table = re.search(r'<div class="table-wrap[^"]*">.*?</table>', part.content.decode(), re.DOTALL)
    assert table is not None
    assert "<html" not in part.content.decode()
    assert re.sub(r"\s+", " ", table[0]) in re.sub(r"\s+", " ", whole)
    assert re.findall(r"user=([^\"]+)", table[0]) == ["ann", "%3Dcmd%7Cben"]
    assert "$7.00" in table[0]


def test_a_page_by_end_users_reads_no_record_before_its_part_asks_for_it(busy: Desk) -> None:
    client = viewer_of(busy)
    for asked, headers, reads in (({}, {}, False), ({"whole": "1"}, {}, True), ({}, {"HX-Request": "true"}, True)):
        with CaptureQueriesContext(connection) as queries:
            client.get(f"/a/{busy.slug}/usage", {"by": "user", **asked}, headers=headers)
        assert any("billing_usagerecord" in query["sql"] for query in queries) is reads, (asked, headers)


def test_a_part_that_cannot_be_understood_is_refused(busy: Desk) -> None:
    asked = {"by": "user", "period": "90d"}
    assert viewer_of(busy).get(f"/a/{busy.slug}/usage", asked, headers={"HX-Request": "true"}).status_code == 400


def test_csv_is_the_same_table_and_safe_to_open(busy: Desk) -> None:
    client = viewer_of(busy)
    rows = file_of(client, busy, "csv", by="user", period="7d")
    assert [row["user"] for row in rows] == ["ann", "'=cmd|ben"]
    rows = file_of(client, busy, "csv", by="model", period="7d")
    assert [(row["model"], row["cost_usd"]) for row in rows] == [("house/small", "7.00"), ("house/large", "3.00")]


def test_filters_narrow_page_and_files_alike(busy: Desk) -> None:
    client = viewer_of(busy)
    for asked, cost in (
        ({"model": "house/large"}, "3.00"),
        ({"key": str(busy.key.pk)}, "5.00"),
        ({"provider": "brand"}, "5.00"),
        ({"model": "house/small", "provider": "brand"}, "5.00"),
        ({"model": "no/such"}, "0.00"),
    ):
        assert file_of(client, busy, "json", period="7d", **asked)["totals"]["cost_usd"] == cost
        assert f'title="${cost} exactly"' in client.get(f"/a/{busy.slug}/usage", {"period": "7d", **asked}).content.decode()


def test_every_chart_can_be_drawn_by_everything(busy: Desk) -> None:
    client = viewer_of(busy)
    for show in ("cost", "requests", "tokens", "errors", "latency", "first-token"):
        for by in ("model", "key", "provider", "user", "time"):
            text = client.get(
                f"/a/{busy.slug}/usage", {"show": show, "by": by, "period": "24h" if by == "time" else "month"}
            ).content.decode()
            assert '<figure class="chart-figure">' in text, (show, by)
    text = client.get(f"/a/{busy.slug}/usage", {"show": "tokens", "by": "time", "period": "7d"}).content.decode()
    for bucket in ("Cached input", "Reasoning"):
        assert f"></rect></svg>{bucket}</li>" in text


def test_what_cannot_be_understood_is_said_and_the_default_shown(busy: Desk) -> None:
    client, other = viewer_of(busy), Desk()
    for asked in (
        {"period": "forever"},
        {"from": "2026-13-01"},
        {"from": "2026-02-01", "to": "2026-01-01"},
        {"from": "0001-01-01"},
        {"to": "9999-12-31"},
        {"by": "colour"},
        {"show": "love"},
        {"step": "minute"},
        {"period": "90d", "step": "hour"},
        {"key": "x"},
        {"model": "a\x00b"},
        {"key": str(other.key.pk)},
        {"by": "user", "period": "90d"},
    ):
        page = client.get(f"/a/{busy.slug}/usage", asked)
        assert (page.status_code, 'role="alert"' in page.content.decode()) == (400, True), asked
        assert client.get(f"/a/{busy.slug}/usage/table.csv", asked).status_code == 400
    other.close()


def test_a_name_with_markup_in_it_stays_text(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=1)
    desk.spend(1, started=timezone.now(), user_tag="<script>alert(1)</script>", model="<b>bold</b>", provider='"><i>')
    client = viewer_of(desk)
    for by in ("model", "user", "provider"):
        page = client.get(f"/a/{desk.slug}/usage", {"by": by, "whole": "1"}).content.decode()
        assert not re.search(r"<script>alert|<b>bold|<i>", page)


def test_the_page_asks_a_fixed_number_of_queries(open_desk: OpenDesk) -> None:
    desk, now, counts = open_desk(usd=100), timezone.now(), []
    client = viewer_of(desk)
    client.get(f"/a/{desk.slug}/usage")  # the first page of a session notes where its member was last
    for size in (1, 30):
        for number in range(size):
            desk.spend(
                1,
                started=now - timedelta(hours=number),
                key=desk.make_key(),
                model=f"many/{number}",
                provider=f"p{number}",
                user_tag=f"u{number}",
            )
        worst = 0
        for by in ("model", "key", "user", "time"):
            with CaptureQueriesContext(connection) as queries:
                assert client.get(f"/a/{desk.slug}/usage", {"by": by, "whole": "1"}).status_code == 200
            worst = max(worst, len(queries))
        counts.append(worst)
    assert (
        counts[0] == counts[1] <= 18
    )  # four of them on a month's 31st day alone: the forecast asks for the day that thirty days leave out


# -- Periods (pure) -------------------------------------------------------------------------------------------------------------------


def test_periods_are_days_of_the_accounts_calendar() -> None:
    now = datetime(2026, 3, 30, 22, 30, tzinfo=UTC)  # in Berlin it is the 31st already, two days after the clocks went forward
    chosen = periods.choose({"from": "2026-03-28", "to": "2026-03-29"}, timezone="Europe/Berlin", now=now, default="30d")
    assert chosen.period == Period(datetime(2026, 3, 27, 23, tzinfo=UTC), datetime(2026, 3, 29, 22, tzinfo=UTC))
    steps = periods.steps_of(chosen.period, "day", timezone="Europe/Berlin")
    assert steps == [datetime(2026, 3, 27, 23, tzinfo=UTC), datetime(2026, 3, 28, 23, tzinfo=UTC)]
    assert len(periods.steps_of(chosen.period, "hour", timezone="Europe/Berlin")) == 47  # the second day has 23
    month = periods.choose({"period": "last-month"}, timezone="Europe/Berlin", now=now, default="30d")
    assert (month.first.isoformat(), month.last.isoformat()) == ("2026-02-01", "2026-02-28")
    week = periods.choose({}, timezone="Europe/Berlin", now=now, default="7d")
    assert (week.first.isoformat(), week.last.isoformat()) == ("2026-03-25", "2026-03-31")
    kathmandu = periods.choose({"period": "24h"}, timezone="Asia/Kathmandu", now=now, default="30d").period
    assert all(step.minute == 15 for step in periods.steps_of(kathmandu, "hour", timezone="Asia/Kathmandu"))


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kathmandu", "Pacific/Auckland"])
@pytest.mark.parametrize("before", [timedelta(0), timedelta(microseconds=1), timedelta(minutes=7), timedelta(minutes=15)])
def test_no_chart_reaches_into_the_day_or_month_to_come(zone: str, before: timedelta) -> None:
    midnight = datetime(2026, 4, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    now = midnight - before
    of_today = (midnight if now >= midnight else midnight - timedelta(days=1)).astimezone(ZoneInfo(zone)).date()
    for preset, step, count in (("7d", "day", 7), ("30d", "day", 30), ("24h", "hour", 24)):
        chosen = periods.choose({"period": preset}, timezone=zone, now=now, default="30d")
        assert chosen.last == of_today
        assert len(periods.steps_of(chosen.period, step, timezone=zone)) == count
        assert chosen.period.ends_at > now
    month = periods.choose({"period": "month"}, timezone=zone, now=now, default="30d")
    assert (month.first, month.last) == (of_today.replace(day=1), of_today)
    assert len(periods.steps_of(month.period, "month", timezone=zone)) == 1


def test_a_chart_never_has_more_steps_than_can_be_read() -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    for days in (1, 2, 7, 40, 93, 94, 399):
        chosen = periods.choose({"from": (now - timedelta(days=days)).date().isoformat()}, timezone="UTC", now=now, default="30d")
        step = periods.read_step("", chosen.period)
        assert len(periods.steps_of(chosen.period, step, timezone="UTC")) <= periods.MOST_STEPS
    with pytest.raises(InvalidParameter):
        periods.read_step("hour", chosen.period)


def test_steps_without_usage_are_there_and_empty(busy: Desk) -> None:
    now = timezone.now()
    chosen = periods.choose({"period": "7d"}, timezone="UTC", now=now, default="30d")
    answer = usage_table.answer(Question(account=busy.account, period=chosen.period, step="day", by="model"))
    assert len(answer.steps) == 7
    assert [step.sums.requests for step in answer.steps] == [0, 0, 0, 0, 0, 1, 3]
    assert answer.steps[0].starts_at == chosen.period.starts_at


def test_days_are_the_accounts_own(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=1)
    Account.objects.filter(pk=desk.account.pk).update(timezone="Pacific/Auckland")
    desk.spend(5, started=datetime(2026, 11, 9, 11, 30, tzinfo=UTC))  # the 10th, half past midnight
    client = viewer_of(desk)
    rows = file_of(client, desk, "json", by="time", **{"from": "2026-11-10", "to": "2026-11-10"}, step="day")["rows"]
    assert [row["starts_at"] for row in rows] == ["2026-11-09T11:00:00Z"]
    assert file_of(client, desk, "json", by="time", **{"from": "2026-11-09", "to": "2026-11-09"})["rows"] == []


# -- The forecast ---------------------------------------------------------------------------------------------------------------------


def test_the_forecast_is_what_was_spent_and_the_pace_of_the_last_days(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=1000)
    now = datetime(2026, 11, 16, tzinfo=UTC)  # half of November is over
    for days in range(1, 11):
        desk.spend(2 * USD, started=now - timedelta(days=days))
    forecast = forecasts.of_month(account=desk.account, now=now)
    assert (forecast.spent, forecast.per_day, forecast.expected) == (20 * USD, 2 * USD, 50 * USD)
    assert (len(forecast.days), forecast.budget) == (30, None)
    assert (forecast.days[14].spent, forecast.days[14].expected) == (20 * USD, 0)
    assert (forecast.days[-1].spent, forecast.days[-1].expected) == (0, 50 * USD)


def test_a_budget_is_drawn_where_everything_that_is_meant_has_one(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=100, budget=30 * USD)
    now = timezone.now()
    desk.spend(USD, started=now)
    assert forecasts.of_month(account=desk.account, now=now).budget == 30 * USD
    second = desk.make_key()
    assert forecasts.of_month(account=desk.account, now=now).budget is None
    assert forecasts.of_month(account=desk.account, now=now, filters=Filters(keys=(desk.key.pk,))).budget == 30 * USD
    assert forecasts.of_month(account=desk.account, now=now, filters=Filters(keys=(second.pk,))).budget is None
    text = viewer_of(desk).get(f"/a/{desk.slug}/usage", {"key": str(desk.key.pk)}).content.decode()
    assert 'class="limit"' in text
