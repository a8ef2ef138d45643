"""Facts about placing and growing holds."""

import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from billing import ledger
from billing.models import Hold, Wallet
from tests.billing.desk import MONTH, NEXT_MONTH, NOW, Desk, OpenDesk, connect, day

USD = 10**9


def test_a_hold_takes_from_what_is_free_and_not_from_the_balance(desk: Desk) -> None:
    (answer,) = desk.place(desk.request(4 * USD))
    assert (answer.outcome, answer.granted, answer.available) == ("placed", 4 * USD, 6 * USD)
    assert (desk.balance, desk.wallet.held, desk.wallet.free) == (10 * USD, 4 * USD, 6 * USD)


def test_what_is_free_is_granted_when_it_covers_the_least(desk: Desk) -> None:
    (answer,) = desk.place(desk.request(40 * USD, least=10 * USD))
    assert (answer.outcome, answer.granted) == ("placed", 10 * USD)


def test_less_than_the_least_is_refused_and_told(desk: Desk) -> None:
    (answer,) = desk.place(desk.request(40 * USD, least=10 * USD + 1))
    assert (answer.outcome, answer.granted, answer.available) == ("insufficient_balance", 0, 10 * USD)
    assert desk.wallet.held == 0


def test_an_empty_wallet_places_only_what_is_free_of_charge(open_desk: OpenDesk) -> None:
    desk = open_desk()
    assert [answer.outcome for answer in desk.place(desk.request(1), desk.request(0))] == ["insufficient_balance", "placed"]


def test_a_refused_large_request_does_not_block_the_small_one_behind_it(desk: Desk) -> None:
    answers = desk.place(desk.request(11 * USD, least=11 * USD), desk.request(3 * USD))
    assert [answer.outcome for answer in answers] == ["insufficient_balance", "placed"]


def test_a_batch_over_several_wallets_keeps_them_apart(open_desk: OpenDesk) -> None:
    rich, poor = open_desk(usd=10), open_desk(nano=5)
    answers = rich.place(rich.request(USD), poor.request(6, least=6), rich.request(2 * USD), poor.request(5))
    assert [answer.outcome for answer in answers] == ["placed", "insufficient_balance", "placed", "placed"]
    assert (rich.wallet.held, poor.wallet.held) == (3 * USD, 5)


def test_asking_again_for_a_request_that_holds_answers_the_same_and_holds_nothing_more(desk: Desk) -> None:
    request = desk.hold(9 * USD)
    (answer,) = desk.place(request)
    assert (answer.outcome, answer.granted) == ("placed", 9 * USD)
    assert desk.wallet.held == 9 * USD


def test_one_id_twice_in_a_batch_holds_once_and_harms_nobody_else(desk: Desk) -> None:
    twice = desk.request(USD)
    answers = desk.place(twice, desk.request(USD), twice)
    assert [answer.outcome for answer in answers] == ["placed", "placed", "duplicate"]
    assert desk.wallet.held == 2 * USD


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"revoked_at": MONTH}, "key_inactive"),
        ({"is_disabled": True}, "key_inactive"),
        ({"expires_at": MONTH}, "key_inactive"),
        ({"revoked_at": NEXT_MONTH}, "placed"),
        ({"expires_at": NEXT_MONTH}, "placed"),
    ],
)
def test_a_stopped_key_gets_no_hold_whatever_the_caller_believed(desk: Desk, change: dict[str, Any], outcome: str) -> None:
    request = desk.request(USD)
    type(desk.key).objects.filter(pk=desk.key.pk).update(**change)
    assert desk.place(request)[0].outcome == outcome


def test_a_key_of_another_account_gets_no_hold(open_desk: OpenDesk) -> None:
    alice, charlie = open_desk(usd=10), open_desk(usd=10)
    assert alice.place(alice.request(USD, key=charlie.key))[0].outcome == "key_inactive"


def test_a_frozen_wallet_places_nothing_and_still_settles(desk: Desk) -> None:
    request = desk.hold(USD)
    ledger.set_status(wallet_id=desk.wallet_id, status=Wallet.Status.FROZEN, actor="alice", note="")
    assert desk.place(desk.request(1))[0].outcome == "wallet_inactive"
    assert desk.grow({"id": request["id"], "amount": 2 * USD}) == [USD]
    assert desk.settle(desk.record(request, USD))[0].charged == USD


def test_an_account_that_is_switched_off_places_nothing(desk: Desk) -> None:
    type(desk.account).objects.filter(pk=desk.account.pk).update(is_active=False)
    assert desk.place(desk.request(1))[0].outcome == "wallet_inactive"


def test_two_hundred_placements_at_once_admit_exactly_as_many_as_fit(open_desk: OpenDesk) -> None:
    fitting, threads = 37, 40
    desk = open_desk(nano=fitting * USD + USD - 1)
    batches = [[desk.request(USD, least=USD) for _ in range(5)] for _ in range(threads)]
    outcomes: list[str] = []
    start = threading.Barrier(threads)

    def place(requests: list[dict[str, Any]]) -> None:
        with connect() as sql:
            start.wait()
            outcomes.extend(desk.place(request, sql=sql)[0].outcome for request in requests)

    workers = [threading.Thread(target=place, args=(batch,)) for batch in batches]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert Counter(outcomes) == {"placed": fitting, "insufficient_balance": 200 - fitting}
    assert desk.wallet.free == USD - 1
    assert Hold.objects.filter(wallet_id=desk.wallet_id, free_after__lt=0).count() == 0


# -- Budgets and quotas


def test_a_budget_refuses_what_the_wallet_could_pay(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=10, budget=3 * USD)
    answers = desk.place(desk.request(2 * USD), desk.request(2 * USD, least=2 * USD), desk.request(2 * USD), desk.request(0))
    assert [(answer.outcome, answer.granted) for answer in answers] == [
        ("placed", 2 * USD),
        ("budget_spent", 0),
        ("placed", USD),
        ("budget_spent", 0),
    ]
    assert answers[1].available == USD
    assert answers[1].resets_at == NEXT_MONTH


def test_a_budget_set_in_the_middle_of_a_window_counts_what_was_spent_before(desk: Desk) -> None:
    desk.spend(4 * USD, input_tokens=7, cached_input_tokens=1, output_tokens=5, reasoning_tokens=2)
    desk.key.budget_nano = 5 * USD
    desk.key.save()
    (answer,) = desk.place(desk.request(2 * USD, least=2 * USD))
    assert (answer.outcome, answer.available) == ("budget_spent", USD)
    counted = desk.window_of(desk.key)
    assert (counted.spent, counted.input_tokens, counted.output_tokens, counted.requests) == (4 * USD, 8, 7, 1)


def test_a_hold_placed_before_the_budget_counts_once_it_is_settled(desk: Desk) -> None:
    before = desk.hold(4 * USD)
    desk.key.budget_nano = 5 * USD
    desk.key.save()
    desk.hold(USD)
    desk.settle(desk.record(before, 4 * USD))
    (answer,) = desk.place(desk.request(USD))
    assert (answer.outcome, answer.available) == ("budget_spent", 0)


def test_a_daily_budget_begins_anew_the_next_day(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=10, budget=USD, budget_window="day")
    desk.spend(USD, started=day(1))
    late = day(2) - timedelta(milliseconds=1)
    assert desk.place(desk.request(USD, started=late))[0].outcome == "budget_spent"
    assert desk.place(desk.request(USD, started=day(2)))[0].outcome == "placed"


def test_a_lowered_budget_works_at_once_and_forgets_nothing(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=10, budget=5 * USD)
    desk.spend(2 * USD)
    desk.key.budget_nano = USD
    desk.key.save()
    (answer,) = desk.place(desk.request(1))
    assert (answer.outcome, answer.available) == ("budget_spent", -USD)


def test_budgets_of_two_keys_do_not_touch_each_other(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=10, budget=USD)
    other = desk.make_key(budget=USD)
    answers = desk.place(desk.request(USD), desk.request(USD, key=other), desk.request(USD))
    assert [answer.outcome for answer in answers] == ["placed", "placed", "budget_spent"]


def test_a_caller_who_knows_an_old_budget_is_told_to_read_the_key_again(desk: Desk) -> None:
    request = desk.request(USD)
    type(desk.key).objects.filter(pk=desk.key.pk).update(budget_nano=USD, budget_window="day")
    assert desk.place(request)[0].outcome == "stale_key"


def test_a_caller_who_knows_no_quota_window_is_told_to_read_again_and_harms_nobody(desk: Desk) -> None:
    desk.make_plan(input_tokens=10, output_tokens=None)
    answers = desk.place(desk.request(1, quota_start=None, quota_end=None), desk.request(1))
    assert [answer.outcome for answer in answers] == ["stale_key", "placed"]


def test_a_quota_counts_tokens_held_and_tokens_used(desk: Desk) -> None:
    desk.make_plan(input_tokens=100, output_tokens=50)
    first = desk.hold(1, tokens_in=60, tokens_out=20)
    assert desk.place(desk.request(1, tokens_in=41))[0].outcome == "quota_spent"
    desk.settle(desk.record(first, 1, input_tokens=30, output_tokens=10))
    assert desk.place(desk.request(1, tokens_in=70, tokens_out=40))[0].outcome == "placed"
    (answer,) = desk.place(desk.request(1, tokens_out=1))
    assert (answer.outcome, answer.available, answer.resets_at) == ("quota_spent", 0, NEXT_MONTH)


def test_a_raised_quota_admits_at_once(desk: Desk) -> None:
    plan = desk.make_plan(input_tokens=10, output_tokens=None)
    assert desk.place(desk.request(1, tokens_in=11))[0].outcome == "quota_spent"
    plan.monthly_input_tokens = 11
    plan.save()
    assert desk.place(desk.request(1, tokens_in=11))[0].outcome == "placed"


# -- Growing


def test_a_hold_grows_by_what_is_free_and_notes_what_was_delivered(desk: Desk) -> None:
    request = desk.hold(USD)
    grown = desk.grow({"id": request["id"], "amount": 3 * USD, "accrued": 5, "input_tokens": 3, "output_tokens": 2, "web_searches": 1})
    assert grown == [3 * USD]
    assert desk.grow({"id": request["id"], "amount": 30 * USD}) == [10 * USD]
    hold = Hold.objects.get(pk=request["id"])
    assert (hold.amount, hold.accrued, hold.input_tokens, hold.output_tokens, hold.web_searches) == (10 * USD, 5, 3, 2, 1)
    assert desk.wallet.free == 0


def test_a_hold_never_shrinks(desk: Desk) -> None:
    request = desk.hold(3 * USD)
    assert desk.grow({"id": request["id"], "amount": USD}) == [3 * USD]


def test_a_heartbeat_without_an_amount_grows_nothing(desk: Desk) -> None:
    request = desk.hold(USD)
    assert desk.grow({"id": request["id"], "accrued": 9}) == [USD]
    assert desk.wallet.held == USD


def test_two_growths_of_one_hold_in_a_batch_are_one_growth(desk: Desk) -> None:
    request = desk.hold(USD)
    assert desk.grow({"id": request["id"], "amount": 2 * USD}, {"id": request["id"], "amount": 3 * USD}) == [2 * USD, 3 * USD]
    assert desk.wallet.held == 3 * USD


def test_growth_stops_at_the_keys_budget(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=10, budget=2 * USD)
    request = desk.hold(USD)
    assert desk.grow({"id": request["id"], "amount": 5 * USD}) == [2 * USD]


def test_a_hold_that_is_gone_says_so(desk: Desk) -> None:
    request = desk.hold(USD)
    desk.release(request)
    assert desk.grow({"id": request["id"], "amount": 2 * USD}) == [-1]


def test_a_revoked_key_grows_nothing_but_one_in_its_overlap_does(desk: Desk) -> None:
    request = desk.hold(USD)
    keys = type(desk.key).objects.filter(pk=desk.key.pk)
    keys.update(revoked_at=NOW + timedelta(hours=1))
    assert desk.grow({"id": request["id"], "amount": 2 * USD}) == [2 * USD]
    keys.update(revoked_at=NOW - timedelta(hours=1))
    assert desk.grow({"id": request["id"], "amount": 3 * USD}) == [2 * USD]


def test_a_growing_stream_holds_the_plans_tokens_as_far_as_there_are_any(desk: Desk) -> None:
    desk.make_plan(input_tokens=1000, output_tokens=100)
    desk.credit(1000)
    stream = desk.hold(10, tokens_in=20, tokens_out=10)
    desk.grow({"id": stream["id"], "amount": 20, "output_tokens": 8, "tokens_out": 60})
    assert desk.place(desk.request(1, tokens_out=41))[0].outcome == "quota_spent"
    assert desk.place(desk.request(1, tokens_out=40))[0].outcome == "placed"
    desk.grow({"id": stream["id"], "amount": 30, "output_tokens": 50, "tokens_out": 200})  # nothing is left: what it has stays
    assert Hold.objects.get(pk=stream["id"]).quota_output_tokens == 60
    desk.grow({"id": stream["id"], "amount": 30, "output_tokens": 75, "input_tokens": 25})  # but what was delivered is counted
    hold = Hold.objects.get(pk=stream["id"])
    assert (hold.quota_input_tokens, hold.quota_output_tokens) == (25, 75)
    assert desk.audit() == []


def test_growing_twice_in_one_batch_holds_the_plans_tokens_once(desk: Desk) -> None:
    desk.make_plan(input_tokens=None, output_tokens=1000)
    desk.credit(1000)
    stream = desk.hold(10, tokens_out=10)
    desk.grow({"id": stream["id"], "amount": 20, "tokens_out": 60}, {"id": stream["id"], "amount": 20, "tokens_out": 60})
    assert Hold.objects.get(pk=stream["id"]).quota_output_tokens == 60
    assert desk.audit() == []
    desk.settle(desk.record(stream, 5))
    assert desk.audit() == []
