"""Facts about refunds and disputes of plans: the credit that an invoice brought goes, or comes back, with its payment, once."""

import random
import threading
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from billing import ledger, reconciliation, statements
from billing.models import AutoTopUp, Plan, StripeEvent, Transfer, Wallet
from billing.payments import plan_reversals
from tests.billing.payments.test_subscriptions import Buyer, new_plan
from tests.conftest import USD
from tests.fakes.stripe import FakeStripe


class Payer(Buyer):
    """A customer who bought a plan of $50 with $20 of credit."""

    def __init__(self, fake: FakeStripe) -> None:
        super().__init__(fake)
        self.row = self.bought(new_plan(fake, 50, 20))
        invoice = fake.objects("invoice", customer=fake.object(str(self.row.stripe_id))["customer"])[0]
        self.payment = str(fake.objects("invoice_payment", invoice=invoice["id"])[0]["payment"]["payment_intent"])

    def spend(self, usd: int) -> None:
        ledger.debit(
            wallet_id=self.customer.wallet.pk,
            amount=usd * USD,
            kind="debit",
            credit_account="manual",
            source_type="test",
            source_id=f"{self.account.slug}:{usd}",
            actor="",
            note="",
            now=self.now,
        )

    @property
    def bookings(self) -> list[tuple[str, int]]:
        found = Transfer.objects.filter(wallet=self.customer.wallet, source_type=plan_reversals.SOURCE).order_by("wallet_version")
        return list(found.values_list("kind", "amount"))

    @property
    def is_sound(self) -> bool:
        return not reconciliation.audit(now=timezone.now(), accounts=[self.account.pk])


@pytest.fixture
def payer(fake: FakeStripe) -> Payer:
    if not Plan.objects.filter(is_default=True).exists():
        Plan.objects.create(slug="default-of-plan-reversals", is_default=True)
    return Payer(fake)


def test_a_refund_takes_its_share_of_the_credit_and_one_that_fails_gives_it_back(payer: Payer) -> None:
    payer.fake.refund(payer.payment, 2500)
    news = payer.news()
    assert set(payer.hear(news)) <= {StripeEvent.State.DONE, StripeEvent.State.IGNORED}
    assert (payer.balance, payer.bookings) == (10 * USD, [("refund", 10 * USD)])
    rest = payer.fake.refund(payer.payment)
    payer.listen()
    assert payer.balance == 0
    payer.fake.change_refund(rest["id"])
    payer.listen()
    assert payer.bookings == [("refund", 10 * USD), ("refund", 10 * USD), ("reinstatement", 10 * USD)]
    assert (payer.balance, payer.is_sound) == (10 * USD, True)
    month = statements.statement(account=payer.account, month=payer.now.date(), now=payer.now)
    assert sum(movement.amount for movement in month.movements) == month.closing - month.opening == 10 * USD


def test_a_dispute_of_spent_credit_leaves_a_debt_that_no_card_is_charged_for(payer: Payer, settings: Any) -> None:
    settings.FREEZE_ON_DISPUTE = True
    settings.STAFF_ALERT_EMAILS = []
    AutoTopUp.objects.create(wallet=payer.customer.wallet, is_enabled=True, threshold_nano=USD, amount_nano=20 * USD)
    payer.spend(15)
    dispute = payer.fake.dispute(payer.payment)
    payer.listen()
    assert (payer.balance, payer.bookings) == (-15 * USD, [("dispute", 20 * USD)])
    assert not AutoTopUp.objects.get(wallet=payer.customer.wallet).is_enabled
    assert payer.customer.fresh_wallet().status == Wallet.Status.FROZEN
    assert payer.is_sound
    payer.fake.close_dispute(dispute["id"], won=True)
    payer.listen()
    assert (payer.balance, payer.is_sound) == (5 * USD, True)


def test_what_expired_is_not_taken_a_second_time(payer: Payer) -> None:
    payer.spend(5)
    end = payer.row.period_end
    assert end is not None
    ledger.expire_grants(now=end, limit=1_000_000)
    assert payer.balance == 0
    payer.fake.refund(payer.payment)
    payer.listen()
    assert (payer.balance, payer.bookings, payer.is_sound) == (-5 * USD, [("refund", 5 * USD)], True)


@pytest.mark.parametrize("seed", range(3))
def test_every_order_of_the_news_ends_in_the_same_balance(fake: FakeStripe, seed: int) -> None:
    if not Plan.objects.filter(is_default=True).exists():
        Plan.objects.create(slug=f"default-of-plan-reversals-{seed}", is_default=True)
    payer = Payer(fake)
    payer.fake.refund(payer.payment, 1000)
    dispute = payer.fake.dispute(payer.payment, amount=4000)
    payer.fake.close_dispute(dispute["id"], won=seed == 1)
    news = payer.news() * 2
    random.Random(seed).shuffle(news)
    payer.hear(news)
    assert payer.balance == (16 * USD if seed == 1 else 0)
    assert payer.is_sound


def test_workers_at_once_take_back_once(payer: Payer) -> None:
    payer.fake.refund(payer.payment)

    def work() -> None:
        try:
            plan_reversals.converge(payment_intent_id=payer.payment, now=payer.now)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (payer.balance, payer.bookings, payer.is_sound) == (0, [("refund", 20 * USD)], True)


def test_a_payment_for_something_else_is_nothing_of_ours(payer: Payer) -> None:
    assert plan_reversals.converge(payment_intent_id="pi_of_somebody_else", now=payer.now) is None
    assert payer.balance == 20 * USD
