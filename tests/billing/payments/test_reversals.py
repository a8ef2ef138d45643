"""Facts about refunds and disputes: the credit goes and comes back with the money, whatever order the news takes, and never twice."""

import itertools
import random
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from accounts.models import User
from billing import ledger, reconciliation
from billing.models import CreditGrant, Reversal, StripeEvent, TopUp, Transfer, Wallet
from billing.payments import reversals, stripe_client
from tests.billing.payments.conftest import Till
from tests.conftest import USD
from tests.fakes.stripe import FakeStripe

DISPUTE = (
    "checkout.session.completed",
    "charge.dispute.created",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "charge.dispute.closed",
)


@pytest.fixture
def clerk() -> User:
    return User.objects.create_user(f"{uuid.uuid4().hex}@example.com", is_staff=True)


def spend(till: Till, usd: int) -> None:
    ledger.debit(
        wallet_id=till.customer.wallet.pk, amount=usd * USD, kind="debit", credit_account="manual", source_type="test",
        source_id=uuid.uuid4().hex, actor="test", note="", now=timezone.now(),
    )  # fmt: skip


def drifts(till: Till) -> list[Any]:
    return reconciliation.audit(now=timezone.now(), accounts=[till.customer.account.pk])


# -- How much ----------------------------------------------------------------------------------------------------------------------------


@given(credit=st.integers(1, 2**50), paid=st.integers(1, 2**40), parts=st.lists(st.integers(0, 2**38), max_size=6))
def test_what_is_taken_back_is_never_more_than_the_credit_and_grows_with_what_is_reversed(credit: int, paid: int, parts: list[int]) -> None:
    sums = [0, *itertools.accumulate(parts)]
    targets = [reversals.target_nano(credit_nano=credit, paid_minor=paid, reversed_minor=one) for one in sums]
    assert targets == sorted(targets)
    assert 0 == targets[0] <= targets[-1] <= credit
    assert reversals.target_nano(credit_nano=credit, paid_minor=paid, reversed_minor=paid) == credit


def test_a_refund_takes_its_share_of_the_credit_tax_considered(till: Till, settings: Any) -> None:
    settings.STRIPE_TAX = True
    till.fake.set(tax_percent=19)
    top_up = till.credited(25)  # 29.75 were paid
    till.fake.refund(top_up.payment_intent_id or "", 1000)
    till.hear(till.news())
    assert till.balance == 25 * USD - 25 * USD * 1000 // 2975
    assert not drifts(till)


def test_thirds_of_a_payment_add_up_to_all_of_it(till: Till) -> None:
    """Each part floored by itself would leave a rest (clawbacks elsewhere: eliza#10920, #10997, #11155)."""
    top_up = till.credited(10)
    for cents in (333, 333, 334):
        till.fake.refund(top_up.payment_intent_id or "", cents)
        till.hear(till.news())
    top_up.refresh_from_db()
    assert (till.balance, top_up.clawed_nano) == (0, 10 * USD)
    assert not drifts(till)


# -- Orders ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("won", [True, False])
def test_every_order_of_the_dispute_history_ends_in_the_same_balance(till: Till, won: bool) -> None:
    """One history at Stripe; our side of it is undone after each order."""
    top_up = till.paid()
    dispute = till.fake.dispute(till.fake.object(top_up.session_id or "")["payment_intent"])
    till.fake.close_dispute(dispute["id"], won=won)
    history = till.news(*DISPUTE)
    # All orders of three kinds; the others have the same handler, and are heard in some orders of all.
    orders = list(itertools.permutations([one for one in history if one["type"] not in DISPUTE[2:4]]))
    orders += [tuple(random.Random(seed).sample(history, len(history))) for seed in range(6)]
    for order in [*orders, tuple(history)]:
        with transaction.atomic():
            till.hear(order)
            assert till.balance == (25 * USD if won else 0), [one["type"] for one in order]
            assert not drifts(till)
            transaction.set_rollback(True)


def test_a_dispute_heard_step_by_step_takes_and_gives_back(till: Till) -> None:
    top_up = till.credited()
    dispute = till.fake.dispute(top_up.payment_intent_id or "")
    till.hear(till.news())
    assert till.balance == 0
    till.fake.close_dispute(dispute["id"], won=True)
    till.hear(till.news())
    assert till.balance == 25 * USD
    assert list(Transfer.objects.filter(wallet=till.customer.wallet).order_by("wallet_version").values_list("kind", flat=True)) == [
        "paid",
        "dispute",
        "reinstatement",
    ]
    assert not drifts(till)


def test_an_old_dispute_event_after_the_end_changes_nothing(till: Till) -> None:
    top_up = till.credited()
    dispute = till.fake.dispute(top_up.payment_intent_id or "")
    late = till.news("charge.dispute.created")
    till.fake.close_dispute(dispute["id"], won=True)
    till.hear(till.news())
    till.hear(late)
    assert till.balance == 25 * USD


def test_an_inquiry_takes_nothing(till: Till) -> None:
    top_up = till.credited()
    till.fake.dispute(top_up.payment_intent_id or "", inquiry=True)
    till.hear(till.news())
    assert (till.balance, Reversal.objects.get(top_up=top_up).is_active) == (25 * USD, False)


def test_a_refund_heard_before_the_payment_is_credit_and_clawback(till: Till) -> None:
    top_up = till.paid()
    till.fake.refund(till.fake.object(top_up.session_id or "")["payment_intent"], 500)
    till.hear(reversed(till.news()))
    assert till.balance == 20 * USD
    assert not drifts(till)


def test_a_refund_that_fails_is_given_back(till: Till) -> None:
    top_up = till.credited()
    refund = till.fake.refund(top_up.payment_intent_id or "", 500)
    till.hear(till.news())
    assert till.balance == 20 * USD
    till.fake.change_refund(refund["id"], "failed")
    till.hear(till.news())
    assert till.balance == 25 * USD
    assert not drifts(till)


def test_a_refund_and_a_dispute_together_never_take_more_than_the_credit(till: Till) -> None:
    top_up = till.credited()
    till.fake.refund(top_up.payment_intent_id or "", 2000)
    till.fake.dispute(top_up.payment_intent_id or "", amount=2500)
    till.hear(till.news())
    top_up.refresh_from_db()
    assert (till.balance, top_up.clawed_nano) == (0, 25 * USD)
    assert not drifts(till)


# -- What follows ------------------------------------------------------------------------------------------------------------------------


def test_what_was_spent_already_becomes_a_debt_that_the_next_payment_pays(till: Till) -> None:
    top_up = till.credited()
    spend(till, 20)
    till.fake.dispute(top_up.payment_intent_id or "")
    till.hear(till.news())
    wallet = till.customer.fresh_wallet()
    assert int(wallet.balance) == -20 * USD
    assert wallet.free < 0  # so that nothing is admitted
    till.credited(30)
    assert till.balance == 10 * USD
    assert not drifts(till)


def test_a_refund_takes_what_was_bought_and_leaves_a_gift(fake: FakeStripe) -> None:
    till = Till(fake, usd="5")
    top_up = till.credited(10)
    fake.refund(top_up.payment_intent_id or "")
    till.hear(till.news())
    assert till.balance == 5 * USD
    assert CreditGrant.objects.get(wallet=till.customer.wallet, kind="promo").remaining == 5 * USD


@pytest.mark.parametrize("freezes", [True, False])
def test_a_dispute_freezes_the_wallet_where_the_operator_wants_it_and_staff_unfreezes_it_for_good(
    till: Till, settings: Any, freezes: bool
) -> None:
    settings.FREEZE_ON_DISPUTE = freezes
    top_up = till.credited()
    till.fake.dispute(top_up.payment_intent_id or "")
    events = till.news()
    till.hear(events)
    assert till.customer.fresh_wallet().status == (Wallet.Status.FROZEN if freezes else Wallet.Status.ACTIVE)
    ledger.set_status(wallet_id=till.customer.wallet.pk, status=Wallet.Status.ACTIVE, actor="staff", note="they explained")
    reversals.converge(top_up_id=top_up.pk, now=timezone.now())
    assert till.customer.fresh_wallet().status == Wallet.Status.ACTIVE


def test_an_early_fraud_warning_tells_staff_and_moves_nothing(till: Till) -> None:
    top_up = till.credited()
    till.fake.warn_of_fraud(top_up.payment_intent_id or "")
    assert till.hear(till.news("radar.early_fraud_warning.created")) == [StripeEvent.State.DONE]
    assert till.balance == 25 * USD


# -- Refunds by staff --------------------------------------------------------------------------------------------------------------------


def refund(top_up: TopUp, cents: int, clerk: User, key: str) -> TopUp:
    return reversals.refund(top_up=top_up, amount_minor=cents, reason="asked for it", user=clerk, key=key, now=timezone.now())


def test_a_refund_by_staff_is_sent_booked_and_says_who(till: Till, clerk: User) -> None:
    top_up = till.credited()
    assert refund(top_up, 1000, clerk, "a").clawed_nano == 10 * USD
    row = Reversal.objects.get(top_up=top_up)
    assert (row.requested_by, row.amount_minor, row.reason) == (clerk, 1000, "asked for it")
    till.hear(till.news())  # its own events change nothing any more
    assert till.balance == 15 * USD
    assert not drifts(till)


def test_the_same_refund_form_sent_twice_is_one_refund_even_when_the_keys_are_forgotten(till: Till, clerk: User) -> None:
    top_up = till.credited()
    refund(top_up, 1000, clerk, "b")
    till.fake.forget_idempotency_keys()
    refund(top_up, 1000, clerk, "b")
    assert len(till.fake.objects("refund")) == 1
    assert till.balance == 15 * USD


@pytest.mark.parametrize("cents", [0, -1, 1501, 2500])
def test_no_more_is_refunded_than_is_left(till: Till, clerk: User, cents: int) -> None:
    top_up = till.credited()
    refund(top_up, 1000, clerk, "c")
    with pytest.raises(reversals.NotRefundable) as refused:
        refund(top_up, cents, clerk, "d")
    assert refused.value.left_minor == 1500
    assert till.balance == 15 * USD


def test_a_refund_whose_answer_was_lost_is_found_again(till: Till, clerk: User) -> None:
    top_up = till.credited()
    till.fake.break_next("POST /v1/refunds", "lost", times=3)
    with pytest.raises(stripe_client.StripeUnavailable):
        refund(top_up, 1000, clerk, "e")
    assert till.balance == 25 * USD
    refund(top_up, 1000, clerk, "e")
    assert (till.balance, len(till.fake.objects("refund"))) == (15 * USD, 1)


def test_two_that_read_stripe_at_different_times_end_with_the_newer_word(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older answer arrives last: it is read again instead of being written over the newer one."""
    top_up = till.credited()
    made = till.fake.refund(top_up.payment_intent_id or "", 500)
    fetched = stripe_client.list_refunds
    rivals = iter([True])

    def slow(**named: Any) -> list[Any]:
        old = fetched(**named)
        if next(rivals, False):
            till.fake.change_refund(made["id"], "failed")
            reversals.converge(top_up_id=top_up.pk, now=timezone.now())
        return old

    monkeypatch.setattr(stripe_client, "list_refunds", slow)
    reversals.converge(top_up_id=top_up.pk, now=timezone.now())
    assert till.balance == 25 * USD
    assert not drifts(till)


@pytest.fixture(autouse=True)
def _books_agree(fake: FakeStripe) -> Iterator[None]:
    yield
    assert not fake.mistakes
