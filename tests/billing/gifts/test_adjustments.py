"""Facts about adjustments: who may move how much, alone or with a second person."""

import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from accounts.models import AuditEvent, User
from billing import ledger
from billing.gifts import adjustments
from billing.models import Adjustment, Transfer, Wallet
from tests.billing.gifts.test_codes import balance_of, new_account, together

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
USD = 1_000_000_000


@pytest.fixture(autouse=True)
def _a_hundred_dollars(settings: Any) -> None:
    settings.ADJUSTMENT_LIMIT_USD = "100"


@pytest.fixture
def wallet() -> Wallet:
    return Wallet.objects.get(account=new_account())


def new_staff() -> User:
    return User.objects.create_superuser(f"{uuid.uuid4().hex}@example.com")


def asked(wallet: Wallet, usd: int, **fields: Any) -> Adjustment:
    call = {"kind": "promo", "reason": "an apology", "now": NOW, **fields}
    call.setdefault("user", new_staff())
    return adjustments.request_adjustment(wallet=wallet, amount_nano=usd * USD, **call)


def test_within_the_limit_it_is_booked_at_once(wallet: Wallet) -> None:
    boss = new_staff()
    done = asked(wallet, 100, user=boss)
    assert (done.state, done.decided_by) == ("done", None)
    assert done.transfer is not None
    assert (done.transfer.kind, done.transfer.actor, done.transfer.note) == ("promo", boss.email, "an apology")
    assert balance_of(wallet.account) == 100 * USD
    assert AuditEvent.objects.get(account=wallet.account, action="wallet.adjusted").details["amount_usd"] == "100.00"


def test_above_the_limit_it_waits_and_a_second_person_books_it(wallet: Wallet) -> None:
    boss, second = new_staff(), new_staff()
    waiting = asked(wallet, 101, user=boss)
    assert (waiting.state, balance_of(wallet.account)) == ("waiting", 0)
    done = adjustments.approve(adjustment_id=waiting.pk, user=second, now=NOW)
    assert done.transfer is not None
    assert (done.state, balance_of(wallet.account)) == ("done", 101 * USD)
    assert boss.email in done.transfer.actor
    assert second.email in done.transfer.actor


def test_whoever_asks_never_approves_even_among_many_at_once(wallet: Wallet) -> None:
    boss, second = new_staff(), new_staff()
    waiting = asked(wallet, 500, user=boss)
    with pytest.raises(adjustments.SamePerson):
        adjustments.approve(adjustment_id=waiting.pk, user=boss, now=NOW)
    results = together([partial(adjustments.approve, adjustment_id=waiting.pk, user=user, now=NOW) for user in [boss, second] * 8])
    assert sum(isinstance(result, Adjustment) for result in results) == 1
    waiting.refresh_from_db()
    assert (waiting.decided_by, balance_of(wallet.account)) == (second, 500 * USD)


def test_approving_and_rejecting_at_once_decides_once(wallet: Wallet) -> None:
    waiting, second = asked(wallet, 500), new_staff()
    deeds = [adjustments.approve, adjustments.reject] * 6
    results = together([partial(deed, adjustment_id=waiting.pk, user=second, now=NOW) for deed in deeds])
    assert sum(isinstance(result, Adjustment) for result in results) == 1
    assert {type(result) for result in results} == {Adjustment, adjustments.NotWaiting}
    waiting.refresh_from_db()
    assert balance_of(wallet.account) == (500 * USD if waiting.state == "done" else 0)


def test_somebody_without_the_permission_decides_nothing(wallet: Wallet) -> None:
    waiting = asked(wallet, 500)
    clerk = User.objects.create_user(f"{uuid.uuid4().hex}@example.com", is_staff=True)
    for deed in (adjustments.approve, adjustments.reject):
        with pytest.raises(adjustments.NotPermitted):
            deed(adjustment_id=waiting.pk, user=clerk, now=NOW)


def test_many_small_parts_of_a_day_wait_like_their_sum(wallet: Wallet) -> None:
    boss = new_staff()
    results = together([lambda: asked(wallet, 30, user=boss) for _ in range(8)])
    assert sorted(result.state for result in results) == ["done"] * 3 + ["waiting"] * 5
    assert balance_of(wallet.account) == 90 * USD
    assert asked(wallet, 30).state == "done"  # another person
    assert asked(wallet, 100, user=boss, now=NOW + timedelta(days=1)).state == "done"


def test_the_same_form_twice_at_once_is_one_adjustment(wallet: Wallet) -> None:
    boss, form = new_staff(), uuid.uuid4()
    results = together([lambda: asked(wallet, 10, user=boss, adjustment_id=form) for _ in range(8)])
    assert {result.pk for result in results} == {form}
    assert balance_of(wallet.account) == 10 * USD
    with pytest.raises(adjustments.AdjustmentConflict):
        asked(wallet, 11, user=boss, adjustment_id=form)
    with pytest.raises(adjustments.AdjustmentConflict):
        asked(Wallet.objects.get(account=new_account()), 10, user=boss, adjustment_id=form)


def test_a_debit_takes_what_is_free_and_no_more(wallet: Wallet) -> None:
    asked(wallet, 50)
    assert asked(wallet, 20, kind="debit").amount_nano == -20 * USD
    with pytest.raises(ledger.InsufficientBalance):
        asked(wallet, 31, kind="debit")
    assert balance_of(wallet.account) == 30 * USD
    assert Adjustment.objects.filter(wallet=wallet).count() == 2
    large = asked(wallet, 200, kind="debit")
    with pytest.raises(ledger.InsufficientBalance):
        adjustments.approve(adjustment_id=large.pk, user=new_staff(), now=NOW)
    large.refresh_from_db()
    assert large.state == "waiting"


def test_a_credit_that_would_be_expired_by_now_is_not_approved(wallet: Wallet) -> None:
    waiting = asked(wallet, 200, expires_at=NOW + timedelta(hours=1))
    with pytest.raises(adjustments.BadAdjustment):
        adjustments.approve(adjustment_id=waiting.pk, user=new_staff(), now=NOW + timedelta(hours=1))
    adjustments.reject(adjustment_id=waiting.pk, user=new_staff(), now=NOW + timedelta(hours=1))
    assert Transfer.objects.filter(wallet=wallet).count() == 0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"kind": "usage"}, "kind"),
        ({"reason": " "}, "reason"),
        ({"expires_at": NOW}, "expires_at"),
        ({"usd": 0}, "amount"),
        ({"usd": -1}, "amount"),
    ],
)
def test_what_makes_no_sense_is_refused(wallet: Wallet, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(adjustments.BadAdjustment) as refused:
        asked(wallet, **{"usd": 1, **fields})
    assert refused.value.field == field
