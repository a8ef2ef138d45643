"""Facts about credits, debits and expiry."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import OperationalError, connection, transaction

from accounts.models import Account
from billing import ledger, undelivered
from billing.models import CreditGrant, TopUp, Transfer, Wallet
from catalog.money import LARGEST
from tests.billing.desk import NOW, Desk, OpenDesk

USD = 10**9


def grant_of(transfer: Transfer) -> CreditGrant:
    return CreditGrant.objects.get(transfer=transfer)


def test_a_credit_raises_the_balance_and_makes_a_grant(open_desk: OpenDesk) -> None:
    desk = open_desk()
    transfer = desk.credit(5 * USD, note="welcome", expires_at=NOW + timedelta(days=1))
    assert (transfer.debit_account, transfer.credit_account) == ("manual", f"wallet:{desk.wallet_id}")
    assert (transfer.wallet_version, transfer.balance_after, desk.wallet.version, desk.balance) == (1, 5 * USD, 1, 5 * USD)
    grant = grant_of(transfer)
    assert (grant.kind, grant.amount, grant.remaining, grant.expires_at) == ("paid", 5 * USD, 5 * USD, NOW + timedelta(days=1))


def test_crediting_one_source_twice_credits_once(open_desk: OpenDesk) -> None:
    desk = open_desk()
    first, second = (desk.credit(USD, source_id="payment-1" + desk.slug) for _ in range(2))
    assert first.pk == second.pk
    assert first.pk == ledger.transfer_id(kind="paid", source_type="test", source_id="payment-1" + desk.slug)
    assert (desk.balance, desk.wallet.version) == (USD, 1)


def test_twenty_roads_to_one_credit_credit_once(open_desk: OpenDesk) -> None:
    desk = open_desk()
    start = threading.Barrier(20)
    ids = []

    def arrive() -> None:
        start.wait()
        try:
            ids.append(desk.credit(USD, source_id=desk.slug).pk)
        finally:
            connection.close()

    threads = [threading.Thread(target=arrive) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 20
    assert len(set(ids)) == 1
    assert desk.balance == USD


def test_a_source_that_comes_back_with_another_amount_or_wallet_is_a_conflict(open_desk: OpenDesk) -> None:
    alice, charlie = open_desk(), open_desk()
    alice.credit(USD, source_id=alice.slug)
    with pytest.raises(ledger.SourceConflict):
        alice.credit(USD + 1, source_id=alice.slug)
    with pytest.raises(ledger.SourceConflict):
        charlie.credit(USD, source_id=alice.slug)
    assert (alice.balance, charlie.balance) == (USD, 0)


def test_a_credit_pays_the_debt_first(open_desk: OpenDesk) -> None:
    desk = open_desk()
    desk.debit(3 * USD, allow_debt=True)
    small, large = desk.credit(2 * USD), desk.credit(2 * USD)
    assert [grant_of(transfer).remaining for transfer in (small, large)] == [0, USD]
    assert desk.balance == USD


def test_gifts_burn_before_what_was_bought(open_desk: OpenDesk) -> None:
    desk = open_desk()
    paid, promo = desk.credit(2 * USD), desk.credit(2 * USD, kind="promo", debit_account="promo")
    desk.debit(3 * USD)
    assert [grant_of(transfer).remaining for transfer in (promo, paid)] == [0, USD]


def test_a_clawback_burns_the_grant_it_reverses_first(open_desk: OpenDesk) -> None:
    desk = open_desk()
    desk.credit(2 * USD, kind="promo", debit_account="promo")
    paid = desk.credit(2 * USD)
    back = desk.debit(USD, reverses=paid)
    assert back.reverses_id == paid.pk
    assert grant_of(paid).remaining == USD


def test_a_kind_of_its_own_makes_a_paid_grant(open_desk: OpenDesk) -> None:
    desk = open_desk()
    transfer = desk.credit(USD, kind="dispute_won", debit_account="dispute_loss")
    assert (transfer.kind, grant_of(transfer).kind) == ("dispute_won", "paid")


def test_a_debit_takes_only_what_is_free(desk: Desk) -> None:
    desk.hold(4 * USD)
    with pytest.raises(ledger.InsufficientBalance) as refusal:
        desk.debit(6 * USD + 1)
    assert (refusal.value.free, refusal.value.wanted) == (6 * USD, 6 * USD + 1)
    desk.debit(6 * USD)
    assert desk.wallet.free == 0


def test_a_clawback_may_leave_a_debt_and_admission_stops(desk: Desk) -> None:
    desk.debit(12 * USD, allow_debt=True)
    assert desk.balance == -2 * USD
    assert desk.place(desk.request(1))[0].outcome == "insufficient_balance"
    desk.credit(3 * USD)
    assert desk.place(desk.request(USD))[0].outcome == "placed"


def test_debiting_one_source_twice_debits_once(desk: Desk) -> None:
    for _ in range(2):
        desk.debit(7 * USD, source_id=desk.slug)
    assert desk.balance == 3 * USD


@pytest.mark.parametrize("amount", [0, -1, LARGEST + 1])
def test_nothing_and_less_than_nothing_cannot_be_moved(desk: Desk, amount: Any) -> None:
    with pytest.raises(ledger.NotPositive):
        desk.credit(amount)
    with pytest.raises(ledger.NotPositive):
        desk.debit(amount, allow_debt=True)


def test_a_balance_never_overflows(open_desk: OpenDesk) -> None:
    from django.db import DataError

    desk = open_desk()
    desk.credit(LARGEST)
    with pytest.raises(DataError):
        desk.credit(1)
    assert desk.balance == LARGEST


def test_what_is_left_of_an_expired_grant_goes(open_desk: OpenDesk) -> None:
    desk = open_desk()
    desk.credit(3 * USD, expires_at=NOW)
    desk.credit(USD)
    desk.spend(USD)
    ledger.expire_grants(now=NOW - timedelta(seconds=1), limit=1000)
    assert desk.balance == 3 * USD
    ledger.expire_grants(now=NOW, limit=1000)
    ledger.expire_grants(now=NOW, limit=1000)
    (gone,) = desk.transfers("expiry")
    assert (gone.amount, gone.credit_account, desk.balance) == (2 * USD, "breakage", USD)


def test_what_requests_hold_expires_only_when_they_are_over(open_desk: OpenDesk) -> None:
    desk = open_desk()
    desk.credit(3 * USD, expires_at=NOW)
    request = desk.hold(USD)
    ledger.expire_grants(now=NOW, limit=1000)
    assert (desk.balance, desk.wallet.free) == (USD, 0)
    ledger.expire_grants(now=NOW, limit=1000)
    desk.release(request)
    ledger.expire_grants(now=NOW, limit=1000)
    assert [transfer.amount for transfer in desk.transfers("expiry")] == [2 * USD, USD]
    assert desk.balance == 0


def test_grants_that_are_held_do_not_keep_others_from_expiring(open_desk: OpenDesk) -> None:
    held, free = open_desk(), open_desk()
    held.credit(USD, expires_at=NOW - timedelta(days=400))
    held.hold(USD)
    free.credit(USD, expires_at=NOW - timedelta(days=399))
    ledger.expire_grants(now=NOW - timedelta(days=399), limit=1)
    assert (held.balance, free.balance) == (USD, 0)


def test_opening_a_wallet_twice_gives_the_same_one(desk: Desk) -> None:
    assert ledger.open_wallet(account=desk.account).pk == desk.wallet_id


def test_a_status_stays_what_it_is_when_set_again(desk: Desk) -> None:
    for _ in range(2):
        assert ledger.set_status(wallet_id=desk.wallet_id, status=Wallet.Status.CLOSED, actor="alice", note="left").status == "closed"
    assert desk.place(desk.request(1))[0].outcome == "wallet_inactive"


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/New_York", "Europe/Berlin"])
def test_a_grant_expires_at_its_moment_wherever_the_account_is_and_whatever_the_clocks_do(open_desk: OpenDesk, zone: str) -> None:
    desk = open_desk()
    Account.objects.filter(pk=desk.account.pk).update(timezone=zone)
    moment = datetime(2020, 10, 25, 2, 30, tzinfo=ZoneInfo(zone), fold=1)  # in Berlin the second half past two of that night
    desk.credit(3 * USD, kind="promo", debit_account="promo", expires_at=moment)
    ledger.expire_grants(now=(moment.astimezone(UTC) - timedelta(microseconds=1)), limit=1000)
    assert desk.balance == 3 * USD
    ledger.expire_grants(now=moment.astimezone(UTC), limit=1000)
    assert desk.balance == 0


def test_a_request_that_was_held_before_a_grant_expired_is_paid_with_it(open_desk: OpenDesk) -> None:
    desk = open_desk()
    promo = desk.credit(3 * USD, kind="promo", debit_account="promo", expires_at=NOW)
    paid = desk.credit(5 * USD)
    request = desk.hold(8 * USD)
    ledger.expire_grants(now=NOW, limit=1000)
    assert desk.balance == 8 * USD  # every cent is held
    desk.settle(desk.record(request, 2 * USD))
    assert [grant_of(transfer).remaining for transfer in (promo, paid)] == [USD, 5 * USD]
    ledger.expire_grants(now=NOW, limit=1000)
    assert [grant_of(transfer).remaining for transfer in (promo, paid)] == [0, 5 * USD]
    assert desk.balance == 5 * USD
    assert desk.audit() == []


def test_a_debit_takes_nothing_from_what_has_expired(open_desk: OpenDesk) -> None:
    desk = open_desk()
    desk.credit(3 * USD, kind="promo", debit_account="promo", expires_at=NOW)
    paid = desk.credit(2 * USD)
    ledger.expire_grants(now=NOW, limit=1000)
    with pytest.raises(ledger.InsufficientBalance):
        desk.debit(3 * USD)
    desk.debit(2 * USD)
    assert (grant_of(paid).remaining, desk.balance) == (0, 0)
    ledger.expire_grants(now=NOW + timedelta(days=1), limit=1000)
    assert desk.balance == 0
    assert desk.audit() == []


def test_a_row_that_refers_to_a_wallet_does_not_wait_for_its_booking(open_desk: OpenDesk) -> None:
    desk = open_desk()
    fields = {"wallet_id": desk.wallet_id, "kind": "auto", "credit_nano": USD, "charge_minor": 100, "state": "failed"}
    refused: list[Exception] = []

    def ask_for_payment() -> None:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '3s'")
                TopUp.objects.create(**fields)
        except OperationalError as error:
            refused.append(error)
        finally:
            connection.close()

    with transaction.atomic():
        desk.credit(USD)
        asking = threading.Thread(target=ask_for_payment)
        asking.start()
        asking.join()
    assert refused == []


def test_two_bookings_of_a_wallet_take_turns_with_settling(desk: Desk) -> None:
    held = desk.hold(4 * USD)
    done: list[str] = []

    def settle() -> None:
        desk.settle(desk.record(held, USD))
        done.append("settled")

    settling = threading.Thread(target=settle)
    with transaction.atomic():
        desk.credit(USD)
        settling.start()
        settling.join(timeout=0.5)
        done.append("credited")
    settling.join()
    assert done == ["credited", "settled"]
    assert (desk.balance, desk.audit()) == (10 * USD, [])


@pytest.mark.parametrize("bought_first", [False, True])
def test_what_was_not_delivered_comes_back_as_the_gift_that_paid_it(open_desk: OpenDesk, *, bought_first: bool) -> None:
    desk = open_desk()
    ends = NOW + timedelta(days=9)
    gift = desk.credit(3 * USD, kind="promo", debit_account="promo", expires_at=ends)
    desk.credit(5 * USD)
    if bought_first:
        desk.spend(4 * USD)
        assert grant_of(gift).remaining == 0
    request = desk.hold(USD)
    desk.settle(desk.record(request, USD))
    back = undelivered.refund(request_id=request["id"], account_id=desk.account.pk, delivered=0, now=NOW)
    assert back is not None
    grant = grant_of(back)
    assert (grant.kind, grant.expires_at) == (("paid", None) if bought_first else ("promo", ends))
    assert desk.audit() == []
