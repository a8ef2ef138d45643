"""Facts about the alerts that settling writes: one for each threshold of a budget or quota, once for each window and limit."""

import threading
from datetime import timedelta

from billing.models import Alert
from tests.billing.desk import MONTH, NOW, Desk, OpenDesk, connect, day

USD = 10**9


def told(desk: Desk, kind: str = "budget") -> list[tuple[str, int, int]]:
    """The alerts of an account: window, limit and threshold."""
    rows = Alert.objects.filter(account=desk.account, kind=kind).order_by("window", "limit", "threshold")
    return list(rows.values_list("window", "limit", "threshold"))


def test_each_threshold_of_a_budget_is_told_as_it_is_reached(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=100, budget=10 * USD)
    month = MONTH.isoformat()
    desk.spend(5 * USD - 1)
    assert told(desk) == []
    desk.spend(1)
    assert told(desk) == [(month, 10 * USD, 50)]
    desk.spend(4 * USD)
    desk.spend(1)
    assert told(desk) == [(month, 10 * USD, 50), (month, 10 * USD, 80)]
    desk.spend(USD - 1)
    assert told(desk) == [(month, 10 * USD, 50), (month, 10 * USD, 80), (month, 10 * USD, 100)]
    alert = Alert.objects.get(account=desk.account, threshold=80)
    assert (alert.subject, alert.value, alert.told_at) == (f"key:{desk.key.pk}", 9 * USD, None)


def test_a_jump_over_several_thresholds_tells_each(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=100, budget=10 * USD)
    desk.spend(9 * USD)
    assert [threshold for _, _, threshold in told(desk)] == [50, 80]


def test_200_requests_that_settle_at_once_tell_each_threshold_once(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=100, budget=200_000)
    desk.make_plan(input_tokens=200, output_tokens=None)
    requests = [desk.hold(1000, tokens_in=1) for _ in range(200)]

    def settle(mine: list[dict[str, object]]) -> None:
        with connect() as sql:
            for request in mine:
                desk.settle(desk.record(request, 1000, input_tokens=1), sql=sql)

    threads = [threading.Thread(target=settle, args=(requests[start::8],)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [threshold for _, _, threshold in told(desk)] == [50, 80, 100]
    assert [threshold for _, _, threshold in told(desk, "quota_input")] == [50, 80, 100]
    values = Alert.objects.filter(account=desk.account, kind="budget").order_by("threshold").values_list("value", flat=True)
    assert list(values) == [100_000, 160_000, 200_000]


def test_a_new_window_and_a_raised_limit_tell_anew(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=100, budget=10 * USD, budget_window="day")
    for number in (1, 2):
        desk.spend(6 * USD, started=day(number) + timedelta(hours=3))
    assert told(desk) == [(day(1).isoformat(), 10 * USD, 50), (day(2).isoformat(), 10 * USD, 50)]
    desk.key.budget_nano = 20 * USD
    desk.key.save()
    desk.spend(3 * USD, started=day(2) + timedelta(hours=4))
    assert told(desk) == [(day(1).isoformat(), 10 * USD, 50), (day(2).isoformat(), 10 * USD, 50)]
    desk.spend(USD, started=day(2) + timedelta(hours=5))
    assert told(desk)[2:] == [(day(2).isoformat(), 20 * USD, 50)]


def test_quotas_count_tokens_of_the_plan_in_force(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=100)
    desk.make_plan(input_tokens=100, output_tokens=1000)
    desk.spend(1, input_tokens=30, cached_input_tokens=25, output_tokens=100)
    assert told(desk, "quota_input") == [(MONTH.isoformat(), 100, 50)]
    assert told(desk, "quota_output") == []
    desk.spend(1, output_tokens=300, reasoning_tokens=400)
    assert [threshold for _, _, threshold in told(desk, "quota_output")] == [50, 80]
    assert set(Alert.objects.filter(account=desk.account).values_list("subject", flat=True)) == {"account"}


def test_a_limit_that_is_not_there_or_was_of_another_window_tells_nothing(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=100, budget=10 * USD)
    request = desk.hold(9 * USD)
    desk.key.budget_window = "day"  # what the month spent says nothing about a day
    desk.key.save()
    desk.settle(desk.record(request, 9 * USD))
    assert told(desk) == []
    desk.key.budget_nano = None
    desk.key.save()
    desk.spend(50 * USD)
    assert not Alert.objects.filter(account=desk.account).exists()


def test_what_a_sweep_charges_counts_and_what_comes_later_is_told_with_the_next_request(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=100, budget=10 * USD)
    request = desk.hold(6 * USD)
    desk.grow({"id": request["id"], "amount": 6 * USD, "accrued": 5 * USD, "input_tokens": 1, "output_tokens": 1})
    desk.kill_owner()
    desk.sweep(NOW)
    assert [threshold for _, _, threshold in told(desk)] == [50]
    desk.settle(desk.record(request, 9 * USD))
    desk.owner = desk.make_owner()
    desk.spend(1)
    assert [threshold for _, _, threshold in told(desk)] == [50, 80]
