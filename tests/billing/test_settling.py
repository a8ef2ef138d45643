"""Facts about settling: one request, one charge, never more than there is."""

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from billing import ledger
from billing.models import CreditGrant, Hold, Transfer, UsageRecord
from tests.billing.desk import FOREVER, NEXT_MONTH, NOW, Booked, Desk, OpenDesk, connect

USD = 10**9


def test_settling_charges_the_cost_and_gives_the_rest_of_the_hold_back(desk: Desk) -> None:
    request = desk.hold(3 * USD)
    assert desk.settle(desk.record(request, USD)) == [Booked("settled", USD, 0)]
    assert (desk.balance, desk.wallet.held) == (9 * USD, 0)
    assert not Hold.objects.filter(pk=request["id"]).exists()


def test_the_usage_record_points_at_the_transfer_that_charged_it(desk: Desk) -> None:
    request = desk.spend(USD)
    (transfer,) = desk.transfers("usage")
    assert desk.usage(request).transfer_id == transfer.pk
    assert (transfer.debit_account, transfer.credit_account, transfer.amount) == (f"wallet:{desk.wallet_id}", "revenue", USD)
    assert (transfer.wallet_version, transfer.balance_after) == (2, 9 * USD)


def test_settling_twice_charges_once(desk: Desk) -> None:
    request = desk.hold(USD)
    record = desk.record(request, USD)
    assert [desk.settle(record)[0].outcome for _ in range(3)] == ["settled", "duplicate", "duplicate"]
    assert desk.balance == 9 * USD


def test_settling_twice_in_one_batch_charges_once(desk: Desk) -> None:
    record = desk.record(desk.hold(USD), USD)
    other = desk.record(desk.hold(2 * USD), 2 * USD)
    assert [booked.outcome for booked in desk.settle(record, other, record)] == ["settled", "settled", "duplicate"]
    assert desk.balance == 7 * USD
    assert len(desk.transfers("usage")) == 1


@pytest.fixture
def second() -> Iterator[psycopg.Connection[Any]]:
    with connect() as sql:
        yield sql


def test_settling_in_two_batches_at_once_charges_once(desk: Desk, second: psycopg.Connection[Any]) -> None:
    record = desk.record(desk.hold(USD), USD)
    answers = []
    with desk.sql.transaction():
        answers += desk.settle(record)
        rival = threading.Thread(target=lambda: answers.extend(desk.settle(record, sql=second)))
        rival.start()
        with connect() as observer:
            while observer.execute("SELECT pg_blocking_pids(%s)", [second.info.backend_pid]).fetchone() == ([],):
                assert rival.is_alive(), "the rival did not wait for the wallet"
    rival.join()
    assert [booked.outcome for booked in answers] == ["settled", "duplicate"]
    assert desk.balance == 9 * USD


def test_a_batch_that_is_rolled_back_charges_nothing_and_can_come_again(desk: Desk) -> None:
    record = desk.record(desk.hold(USD), USD)
    with desk.sql.transaction(force_rollback=True):
        desk.settle(record)
    assert (desk.balance, desk.wallet.held) == (10 * USD, USD)
    assert desk.settle(record)[0].outcome == "settled"


def test_a_retry_that_brings_new_records_charges_only_those(desk: Desk) -> None:
    old, new = (desk.record(desk.hold(USD), USD) for _ in range(2))
    desk.settle(old)
    assert [booked.outcome for booked in desk.settle(old, new)] == ["duplicate", "settled"]
    assert desk.balance == 8 * USD


def test_a_cost_beyond_the_hold_takes_what_is_free_and_no_more(desk: Desk) -> None:
    kept = desk.hold(4 * USD)
    request = desk.hold(USD)
    assert desk.settle(desk.record(request, 8 * USD)) == [Booked("settled", 6 * USD, 2 * USD)]
    assert (desk.balance, desk.wallet.held, desk.wallet.free) == (4 * USD, 4 * USD, 0)
    assert desk.settle(desk.record(kept, 4 * USD)) == [Booked("settled", 4 * USD, 0)]
    assert desk.balance == 0


def test_what_cannot_be_charged_is_written_off_by_the_operator(desk: Desk) -> None:
    request = desk.hold(10 * USD)
    desk.settle(desk.record(request, 12 * USD))
    (lost,) = desk.transfers("writeoff")
    assert (lost.debit_account, lost.credit_account, lost.amount, lost.wallet_version) == ("writeoff", "revenue", 2 * USD, None)
    record = desk.usage(request)
    assert (record.cost, record.list_cost) == (10 * USD, 12 * USD)


def test_in_debt_a_request_is_charged_nothing_and_written_off_whole(desk: Desk) -> None:
    request = desk.hold(2 * USD)
    desk.debit(15 * USD, allow_debt=True)
    assert desk.settle(desk.record(request, USD)) == [Booked("settled", 0, USD)]
    assert desk.balance == -5 * USD
    assert desk.usage(request).transfer_id is None


def test_a_request_that_costs_nothing_leaves_a_record_and_no_transfer(desk: Desk) -> None:
    request = desk.hold(USD)
    assert desk.settle(desk.record(request, 0, rule="no_output")) == [Booked("settled", 0, 0)]
    assert desk.usage(request).transfer_id is None
    assert desk.transfers("usage") == []
    assert desk.wallet.held == 0


def test_releasing_gives_the_hold_back_and_leaves_no_record(desk: Desk) -> None:
    request = desk.hold(USD)
    assert desk.release(request) == Booked("released", 0, 0)
    assert desk.release(request) == Booked("released", 0, 0)
    assert (desk.balance, desk.wallet.held) == (10 * USD, 0)
    assert not UsageRecord.objects.filter(pk=request["id"]).exists()


def test_releasing_what_is_settled_changes_nothing(desk: Desk) -> None:
    request = desk.spend(USD)
    assert desk.release(request).outcome == "duplicate"
    assert desk.balance == 9 * USD


def test_a_record_without_a_hold_is_booked_as_an_overrun_from_what_is_free(desk: Desk) -> None:
    request = desk.request(USD)
    assert desk.settle(desk.record(request, 11 * USD)) == [Booked("settled", 10 * USD, USD)]
    assert desk.usage(request).rule == "overrun"


def test_a_record_that_names_the_wrong_account_does_not_touch_the_other_ones_hold(open_desk: OpenDesk) -> None:
    alice, charlie = open_desk(usd=10), open_desk(usd=10)
    request = alice.hold(USD)
    charlie.settle({"id": request["id"], "account": charlie.account.pk, "release": True})
    assert (alice.wallet.held, charlie.wallet.held) == (USD, 0)


def test_a_record_without_a_cost_is_refused_instead_of_charging_all_there_is(desk: Desk) -> None:
    record = desk.record(desk.hold(USD), USD)
    del record["cost"]
    with pytest.raises(psycopg.errors.NotNullViolation):
        desk.settle(record)
    assert (desk.balance, desk.wallet.held) == (10 * USD, USD)


def test_a_hold_placed_again_after_its_request_was_settled_is_given_back(desk: Desk) -> None:
    request = desk.spend(USD)
    desk.hold(USD, id=request["id"])
    assert desk.settle(desk.record(request, USD))[0].outcome == "duplicate"
    assert (desk.balance, desk.wallet.held) == (9 * USD, 0)


def test_one_transfer_a_wallet_and_batch(open_desk: OpenDesk) -> None:
    alice, bob = open_desk(usd=10), open_desk(usd=10)
    records = [who.record(who.hold(USD), USD) for who in (alice, bob, alice, bob, alice)]
    alice.settle(*records)
    assert [transfer.amount for who in (alice, bob) for transfer in who.transfers("usage")] == [3 * USD, 2 * USD]


def test_charges_burn_gifts_first_then_what_expires_soonest(open_desk: OpenDesk) -> None:
    desk = open_desk()
    paid = desk.credit(USD)
    expiring = desk.credit(USD, expires_at=FOREVER)
    promo = desk.credit(USD, kind="promo", debit_account="promo")
    desk.spend(USD + USD // 2)
    left = [CreditGrant.objects.get(transfer=transfer).remaining for transfer in (promo, expiring, paid)]
    assert left == [0, USD // 2, USD]


def test_the_windows_of_account_and_key_count_what_began_in_them(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=10, budget=9 * USD)
    desk.make_plan(input_tokens=10**9, output_tokens=10**9)
    desk.spend(USD, input_tokens=11, cache_write_tokens=2, output_tokens=7, audio_output_tokens=1)
    for subject in (desk.account, desk.key):
        counted = desk.window_of(subject)
        assert (counted.spent, counted.held, counted.input_tokens, counted.output_tokens, counted.requests) == (USD, 0, 13, 8, 1)
        assert (counted.held_input_tokens, counted.held_output_tokens) == (0, 0)


def test_a_request_that_began_when_a_window_ended_counts_in_the_next_one(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=10, budget=9 * USD)
    desk.make_plan(input_tokens=10**9, output_tokens=10**9)
    desk.spend(USD)
    desk.settle(desk.record(desk.request(0, started=NEXT_MONTH), USD))
    assert [desk.window_of(subject).requests for subject in (desk.account, desk.key)] == [1, 1]


# -- The serving process dies


def test_a_dead_owners_hold_is_charged_what_was_delivered_and_the_rest_given_back(desk: Desk) -> None:
    request = desk.hold(3 * USD)
    desk.grow({"id": request["id"], "amount": 3 * USD, "accrued": USD, "input_tokens": 9, "output_tokens": 4})
    desk.kill_owner()
    desk.sweep()
    record = desk.usage(request)
    assert (record.cost, record.status, record.rule, record.usage_source) == (USD, "swept", "swept_partial", "partial")
    assert (record.input_tokens, record.output_tokens, record.model) == (9, 4, "demo/echo")
    assert (desk.balance, desk.wallet.held) == (9 * USD, 0)


def test_a_dead_owners_hold_is_never_charged_more_than_it_held(desk: Desk) -> None:
    request = desk.hold(USD)
    desk.grow({"id": request["id"], "accrued": 3 * USD, "input_tokens": 9, "output_tokens": 4})
    desk.kill_owner()
    desk.sweep()
    assert (desk.usage(request).cost, desk.usage(request).list_cost) == (USD, 3 * USD)
    assert desk.balance == 9 * USD


def test_a_dead_owners_hold_of_which_nothing_came_is_void(desk: Desk) -> None:
    request = desk.hold(3 * USD)
    desk.kill_owner()
    desk.sweep()
    assert (desk.usage(request).cost, desk.usage(request).rule) == (0, "swept_void")
    assert (desk.balance, desk.wallet.held) == (10 * USD, 0)


def test_a_living_owners_hold_is_swept_only_when_it_outlives_its_own_limit(desk: Desk) -> None:
    old = desk.hold(USD, expires=NOW)
    young = desk.hold(USD)
    desk.sweep()
    assert set(Hold.objects.filter(wallet_id=desk.wallet_id).values_list("pk", flat=True)) == {old["id"], young["id"]}
    desk.sql.execute("UPDATE billing_hold SET expires_at = expires_at - interval '1 second' WHERE request_id = %s", [old["id"]])
    desk.sweep()
    assert list(Hold.objects.filter(wallet_id=desk.wallet_id).values_list("pk", flat=True)) == [young["id"]]


def test_a_hold_that_says_nothing_about_itself_does_not_stop_the_sweeper(open_desk: OpenDesk) -> None:
    mute, other = open_desk(usd=1), open_desk(usd=1)
    mute.hold(1, about={"model": None})
    other.hold(1)
    mute.kill_owner()
    other.kill_owner()
    other.sweep()
    assert (mute.wallet.held, other.wallet.held) == (0, 0)


def test_settling_after_the_sweep_books_the_difference_once(desk: Desk) -> None:
    request = desk.hold(3 * USD)
    desk.grow({"id": request["id"], "amount": 3 * USD, "accrued": USD, "input_tokens": 9, "output_tokens": 4})
    desk.kill_owner()
    desk.sweep()
    true = desk.record(request, 4 * USD, input_tokens=20, output_tokens=10, reasoning_tokens=5)
    assert desk.settle(true, true) == [Booked("overrun", 3 * USD, 0), Booked("duplicate", 0, 0)]
    assert desk.settle(true) == [Booked("duplicate", 0, 0)]
    record = desk.usage(request)
    assert (record.cost, record.overrun_cost, record.status, record.rule) == (4 * USD, 3 * USD, "ok", "overrun")
    assert (record.input_tokens, record.reasoning_tokens) == (20, 5)
    assert [transfer.amount for transfer in desk.transfers("overrun")] == [3 * USD]
    assert desk.balance == 6 * USD


def test_settling_after_the_sweep_moves_the_windows_to_the_true_figures(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=10, budget=9 * USD)
    desk.make_plan(input_tokens=10**9, output_tokens=10**9)
    request = desk.hold(3 * USD, tokens_in=100, tokens_out=100)
    desk.grow({"id": request["id"], "accrued": USD, "input_tokens": 9, "output_tokens": 4})
    desk.kill_owner()
    desk.sweep()
    desk.settle(desk.record(request, 2 * USD, input_tokens=20, output_tokens=10, reasoning_tokens=5))
    for subject in (desk.account, desk.key):
        counted = desk.window_of(subject)
        assert (counted.spent, counted.input_tokens, counted.output_tokens, counted.requests) == (2 * USD, 20, 15, 1)


def test_an_overrun_never_takes_the_balance_below_zero_and_the_rest_is_written_off(desk: Desk) -> None:
    request = desk.hold(3 * USD)
    desk.kill_owner()
    desk.sweep()
    assert desk.settle(desk.record(request, 12 * USD)) == [Booked("overrun", 10 * USD, 2 * USD)]
    assert desk.balance == 0
    assert [transfer.amount for transfer in desk.transfers("writeoff")] == [2 * USD]


@pytest.mark.parametrize(("cost", "extra", "lost"), [(4 * USD, 2 * USD, 0), (8 * USD, 5 * USD, USD)])
def test_what_the_sweep_wrote_off_is_neither_charged_nor_written_off_again(desk: Desk, cost: int, extra: int, lost: int) -> None:
    request = desk.hold(3 * USD)
    desk.grow({"id": request["id"], "accrued": 2 * USD, "input_tokens": 9, "output_tokens": 4})
    desk.debit(9 * USD, allow_debt=True)
    desk.kill_owner()
    desk.sweep()
    assert (desk.usage(request).cost, desk.balance) == (USD, 0)
    desk.credit(5 * USD)
    assert desk.settle(desk.record(request, cost)) == [Booked("overrun", extra, lost)]
    assert sum(transfer.amount for transfer in desk.transfers("writeoff")) == USD + lost


def test_an_overrun_below_what_the_sweep_charged_takes_nothing_back(desk: Desk) -> None:
    request = desk.hold(3 * USD)
    desk.grow({"id": request["id"], "accrued": 2 * USD, "input_tokens": 9, "output_tokens": 4})
    desk.kill_owner()
    desk.sweep()
    assert desk.settle(desk.record(request, USD)) == [Booked("overrun", 0, 0)]
    assert desk.balance == 8 * USD


def test_an_owner_who_renewed_the_lease_before_the_locks_were_taken_is_not_swept(desk: Desk, second: psycopg.Connection[Any]) -> None:
    request = desk.hold(USD)
    desk.kill_owner()
    with desk.sql.transaction():
        desk.sql.execute("SELECT 1 FROM billing_wallet WHERE id = %s FOR UPDATE", [desk.wallet_id])
        sweeper = threading.Thread(target=lambda: second.execute("SELECT * FROM billing_sweep(%s, %s, 500)", [NOW, uuid.uuid4()]))
        sweeper.start()
        with connect() as observer:
            while observer.execute("SELECT pg_blocking_pids(%s)", [second.info.backend_pid]).fetchone() == ([],):
                assert sweeper.is_alive(), "the sweeper did not wait for the wallet"
        desk.sql.execute("UPDATE billing_holdowner SET lease_until = %s WHERE boot_id = %s", [FOREVER, desk.owner])
    sweeper.join()
    assert Hold.objects.filter(pk=request["id"]).exists()


# -- After the fact


def test_history_adds_up_to_the_balance_whatever_happened(desk: Desk) -> None:
    desk.spend(USD)
    desk.debit(USD)
    desk.credit(3 * USD, kind="promo", debit_account="promo")
    desk.settle(desk.record(desk.hold(USD), 20 * USD))
    entries = Transfer.objects.filter(wallet_id=desk.wallet_id, wallet_version__isnull=False)
    code = ledger.wallet_code(desk.wallet_id)
    assert sum(entry.amount if entry.credit_account == code else -entry.amount for entry in entries) == desk.balance == 0
