"""Facts about what is read from slots: they are the records' sums after any history, and pages made of them agree with the records."""

import importlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from billing import reconciliation, request_log, usage_reports, usage_table
from billing.models import UsageSlot
from billing.reports import InvalidParameter, Period
from billing.request_log import Search
from billing.usage_reports import Filters
from keys import budgets
from tests.billing.desk import MONTH, NOW, Desk, OpenDesk, day

USD = 10**9
YEAR = Period(NOW - timedelta(days=366), NOW + timedelta(days=40))


@pytest.fixture
def busy(open_desk: OpenDesk) -> Desk:
    """A desk with requests of two keys, two models and two providers, over three days."""
    desk = open_desk(usd=100)
    other = desk.make_key()
    for number in range(3):
        for hour in (1, 5, 23):
            started = day(number + 1) + timedelta(hours=hour, minutes=7)
            desk.spend(10**number, started=started, input_tokens=5, output_tokens=2, model="house/a", provider="one")
            desk.spend(
                2 * 10**number, key=other, started=started, input_tokens=7, cached_input_tokens=3, cache_write_tokens=2,
                cache_write_1h_tokens=1, reasoning_tokens=4, model="house/b", provider="two", status="error", latency_ms=30, first_token_ms=None,
            )  # fmt: skip
    return desk


def test_a_batch_of_one_slot_is_one_row(desk: Desk) -> None:
    requests = [desk.hold(USD // 100) for _ in range(20)]
    desk.settle(*(desk.record(request, 7, input_tokens=3, reported_cost=5) for request in requests))
    (slot,) = UsageSlot.objects.filter(account=desk.account)
    assert (slot.requests, slot.cost, slot.input_tokens, slot.reported_cost, slot.latency_ms, slot.timed) == (20, 140, 60, 100, 200, 20)
    assert slot.starts_at == MONTH


def test_settling_twice_and_releasing_count_nothing(desk: Desk) -> None:
    request = desk.hold(5)
    for _ in range(3):
        desk.settle(desk.record(request, 5))
    desk.release(desk.hold(5))
    assert [slot.requests for slot in UsageSlot.objects.filter(account=desk.account)] == [1]


def test_what_comes_after_a_sweep_corrects_the_slot(desk: Desk) -> None:
    request = desk.hold(USD)
    desk.grow({"id": request["id"], "amount": USD, "accrued": 100, "input_tokens": 4, "output_tokens": 1})
    desk.kill_owner()
    desk.sweep()
    (slot,) = UsageSlot.objects.filter(account=desk.account)
    assert (slot.requests, slot.errors, slot.cost, slot.input_tokens, slot.timed) == (1, 1, 100, 4, 0)
    desk.settle(desk.record(request, 20 * USD, input_tokens=9, output_tokens=8))
    (slot,) = UsageSlot.objects.filter(account=desk.account)
    assert (slot.requests, slot.errors, slot.cost, slot.written_off) == (1, 0, 10 * USD, 10 * USD)
    assert (slot.input_tokens, slot.output_tokens) == (9, 8)


def test_a_new_window_counts_what_began_in_it_from_the_slots(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=10)
    desk.spend(USD, input_tokens=5, cache_write_tokens=2, cache_write_1h_tokens=1, output_tokens=7)
    desk.key.budget_nano = 5 * USD
    desk.key.save()
    desk.spend(USD)
    window = desk.window_of(desk.key)
    assert (window.spent, window.requests, window.input_tokens, window.output_tokens) == (2 * USD, 2, 8, 7)


def test_records_from_before_there_were_slots_are_counted_by_the_migration(busy: Desk) -> None:
    refill = importlib.import_module("billing.migrations.0009_slots_filled").REFILL
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM billing_usageslot WHERE account_id = %s", [busy.account.pk])
        assert busy_drifts(busy)
        cursor.execute(refill)
        assert busy_drifts(busy) == []
        transaction.set_rollback(True)


def test_what_was_reported_before_slots_said_so_is_counted_by_the_migration(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=10)
    for reported in (None, 5, 0):
        desk.spend(USD, upstream_cost=7, reported_cost=reported)
    (slot,) = UsageSlot.objects.filter(account=desk.account)
    assert (slot.reported, slot.reported_upstream_cost, slot.reported_cost, slot.upstream_cost) == (2, 14, 5, 21)
    refill = importlib.import_module("billing.migrations.0015_reported_in_slots_filled").REFILL
    with transaction.atomic(), connection.cursor() as cursor:
        UsageSlot.objects.filter(account=desk.account).update(reported=0, reported_upstream_cost=0)
        assert len(busy_drifts(desk)) == 2
        cursor.execute(refill)
        assert busy_drifts(desk) == []
        transaction.set_rollback(True)


def busy_drifts(desk: Desk) -> list[str]:
    """What the audit says of slots, within the test's own transaction."""
    return [str(drift) for drift in reconciliation.audit(now=NOW, accounts=[desk.account.pk]) if drift.invariant == "I10"]


def test_steps_groups_and_parts_agree(busy: Desk) -> None:
    whole: dict[str, Any] = {"account": busy.account, "period": YEAR}
    found = usage_reports.breakdown(**whole, step="day", dimension="model", parts=1)
    totals = usage_table.add(step.sums for step in found.steps)
    assert (totals.requests, totals.errors, totals.cost) == (18, 9, 3 * 3 * 111)
    assert (totals.input_tokens, totals.cached_input_tokens, totals.output_tokens) == (9 * 5 + 9 * 13, 27, 9 * 2 + 9 * 4)
    assert (totals.error_ppm, totals.mean_latency_ms, totals.mean_first_token_ms) == (500_000, 20, 5)
    assert usage_table.add(group.sums for group in found.groups) == totals
    assert [(group.name, group.sums.cost) for group in found.groups] == [("house/b", 666), ("house/a", 333)]
    assert {name: usage_table.add(steps.values()).cost for name, steps in found.parts.items()} == {"house/b": 666}
    assert found.choices["provider"] == ["one", "two"]
    for step in usage_reports.STEPS:
        series = usage_reports.series(**whole, step=step)
        assert series == usage_reports.breakdown(**whole, step=step).steps
        assert usage_table.add(one.sums for one in series) == totals
    assert [one.sums.cost for one in usage_reports.series(**whole, step="day")] == [9, 90, 900]
    (dearest,) = usage_reports.breakdown(**whole, step="week", dimension="provider", limit=1).groups
    assert dearest.name == "two"
    stacked = usage_reports.breakdown(**whole, step="day", dimension="key", parts=9).parts
    assert [sums.cost for sums in stacked[busy.key.pk].values()] == [3, 30, 300]


def test_filters_narrow_and_combine(busy: Desk) -> None:
    def cost(**fields: object) -> int:
        filters = Filters(**fields)  # type: ignore[arg-type]
        found = usage_reports.breakdown(account=busy.account, period=YEAR, step="day", dimension="key", filters=filters, parts=9)
        assert found.choices["model"] == ["house/a", "house/b"]
        assert usage_reports.series(account=busy.account, period=YEAR, step="day", filters=filters) == found.steps
        parts = [sums for steps in found.parts.values() for sums in steps.values()]
        assert usage_table.add(parts) == usage_table.add(group.sums for group in found.groups)
        assert usage_table.add(parts) == usage_table.add(step.sums for step in found.steps)
        return usage_table.add(parts).cost

    assert cost(models=("house/a",)) == 333
    assert cost(keys=(busy.key.pk,)) == 333
    assert cost(providers=("one", "two")) == 999
    assert cost(models=("house/a",), providers=("two",)) == 0
    assert cost(models=("'; DROP TABLE billing_usageslot; --",)) == 0


@pytest.mark.parametrize("name", ["Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe", "UTC"])
def test_days_are_the_accounts_own(busy: Desk, name: str) -> None:
    busy.account.timezone = name
    days = usage_reports.series(account=busy.account, period=YEAR, step="day")
    for one in days:
        assert one.starts_at.astimezone(budgets.zone(name)).strftime("%H:%M") == "00:00"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (started_at AT TIME ZONE %s)::date, SUM(cost) FROM billing_usagerecord WHERE account_id = %s GROUP BY 1 ORDER BY 1",
            [name, busy.account.pk],
        )
        expected = cursor.fetchall()
    assert [(one.starts_at.astimezone(budgets.zone(name)).date(), one.sums.cost) for one in days] == expected


def test_the_burn_rate_says_how_long_what_is_free_lasts(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=10)
    now = timezone.now()
    assert usage_reports.burn(account=desk.account, now=now) == usage_reports.Burn(0, 10 * USD, None)
    desk.spend(2 * USD, started=now - timedelta(hours=3))
    burn = usage_reports.burn(account=desk.account, now=now)
    assert (burn.per_day, burn.free, burn.days_left) == (2 * USD, 8 * USD, 4)


def test_the_last_days_begin_at_the_accounts_midnights(desk: Desk) -> None:
    desk.account.timezone = "America/New_York"
    period = usage_reports.latest_days(account=desk.account, now=NOW, days=30)
    local = period.starts_at.astimezone(budgets.zone("America/New_York"))
    assert (local.hour, local.minute) == (0, 0)
    assert (NOW.astimezone(budgets.zone("America/New_York")).date() - local.date()).days == 29


# -- The request log -------------------------------------------------------------------------------------------------------------------


def walk(desk: Desk, rows: int, search: Search = request_log.EVERYTHING) -> list[str]:
    found, after = [], None
    while True:
        page = request_log.page(account=desk.account, search=search, after=after, rows=rows)
        found += [str(record.pk) for record in page.records]
        if page.next is None:
            return found
        after = page.next


@pytest.mark.parametrize("rows", [1, 4, 18, 500])
def test_pages_show_each_request_once_newest_first(busy: Desk, rows: int) -> None:
    found = walk(busy, rows)
    assert len(found) == len(set(found)) == 18
    assert found == [str(record.pk) for record in request_log.matching(account=busy.account)]


def test_the_log_is_narrowed_by_each_filter(busy: Desk) -> None:
    request = busy.spend(1, started=NOW, user_tag="u-1", model="house/c")
    text = str(request["id"])
    for search in (Search(user_tag="u-1"), Search(model="house/c"), Search(request_id=text), Search(request_id=text[:20].upper())):
        assert walk(busy, 10, search) == [text]
    assert len(walk(busy, 10, Search(key_id=busy.key.pk))) == 10
    assert len(walk(busy, 10, Search(status="error", provider="two", period=Period(day(1), day(2))))) == 3
    assert walk(busy, 10, Search(request_id="ffffffff-ffff-7fff-8fff-ffffffffffff")) == []


def test_another_accounts_request_is_not_in_the_log(busy: Desk, open_desk: OpenDesk) -> None:
    stranger = open_desk(usd=1)
    request = busy.spend(1)
    assert walk(stranger, 10, Search(request_id=str(request["id"]))) == []
    assert walk(stranger, 10, Search(key_id=busy.key.pk)) == []


@pytest.mark.parametrize(
    ("ask", "param"),
    [
        (lambda account: request_log.page(account=account, search=Search(request_id="x'y")), "request_id"),
        (lambda account: request_log.page(account=account, search=Search(request_id="a" * 33)), "request_id"),
        (lambda account: request_log.page(account=account, after="not a place"), "after"),
        (lambda account: request_log.page(account=account, after="\u00e9"), "after"),
        (lambda account: request_log.page(account=account, after="MjAyNi0xMS0wMXw"), "after"),
    ],
)
def test_what_cannot_be_read_is_refused(desk: Desk, ask: Callable[[object], object], param: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        ask(desk.account)
    assert refused.value.param == param
