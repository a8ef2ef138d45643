"""Facts about refunds and disputes of plans: the credit that an invoice brought goes, or comes back, with its payment, once."""

import random
import threading
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from billing import ledger, reconciliation, statements
from billing.models import AutoTopUp, CreditGrant, Plan, PlanAssignment, StripeEvent, Subscription, Transfer, Wallet
from billing.payments import backfill, plan_changes, plan_reversals, stripe_client, stripe_plans
from tests.billing.payments.test_subscriptions import DAY, Buyer, new_plan
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


@pytest.fixture(autouse=True)
def default_plan() -> None:
    """What accounts return to: plans are not sold without."""
    if not Plan.objects.filter(is_default=True).exists():
        Plan.objects.create(slug="default-of-plan-reversals", is_default=True)


@pytest.fixture
def payer(fake: FakeStripe) -> Payer:
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
    CreditGrant.objects.filter(wallet=payer.customer.wallet).update(expires_at=payer.now)
    ledger.expire_grants(now=payer.now, limit=1_000_000)
    assert payer.balance == 0
    payer.fake.refund(payer.payment)
    payer.listen()
    assert (payer.balance, payer.bookings, payer.is_sound) == (-5 * USD, [("refund", 5 * USD)], True)


@pytest.mark.parametrize("seed", range(3))
def test_every_order_of_the_news_ends_in_the_same_balance(fake: FakeStripe, seed: int) -> None:
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


def test_the_nightly_comparison_sees_plans_and_what_was_reversed_of_them(fake: FakeStripe) -> None:
    buyer = Buyer(fake)
    row = buyer.buy(new_plan(fake, 50, 20))
    intent = fake.objects("payment_intent", status="succeeded")[-1]["id"]
    assert backfill.compare(since=buyer.now - DAY, until=buyer.now + DAY, now=buyer.now) == []
    assert (buyer.balance, buyer.grants) == (20 * USD, [20 * USD])
    fake.refund(intent)
    assert backfill.compare(since=buyer.now - DAY, until=buyer.now + DAY, now=buyer.now) == []
    assert buyer.balance == 0
    Subscription.objects.filter(pk=row.pk).update(stripe_id=None)
    PlanAssignment.objects.filter(subscription=row).update(subscription=None)
    Subscription.objects.filter(pk=row.pk).delete()
    (difference,) = backfill.compare(since=buyer.now - DAY, until=buyer.now + DAY, now=buyer.now)
    assert "paid for a plan" in difference.sentence


def test_an_account_returns_to_the_default_plan_as_soon_as_there_is_one(payer: Payer) -> None:
    before = list(Plan.objects.filter(is_default=True).values_list("pk", flat=True))
    Plan.objects.filter(pk__in=before).update(is_default=False)
    try:
        stripe_plans.end_subscription(str(payer.row.stripe_id))
        payer.listen()
        assert payer.plan == payer.row.plan
    finally:
        Plan.objects.filter(pk__in=before).update(is_default=True)
    plan_changes.attend(now=payer.now, limit=10_000)
    assert payer.plan.pk in before
    assert payer.assigned[-1].subscription is None


@pytest.mark.parametrize("refunded_first", [True, False])
def test_a_second_subscription_that_is_ended_and_refunded_leaves_no_credit(fake: FakeStripe, *, refunded_first: bool) -> None:
    buyer = Buyer(fake)
    plan = new_plan(fake, 50, 20)
    first, second = buyer.buy(plan), Subscription.objects.create(account=buyer.account, plan=plan)
    session: Any = {
        "mode": "subscription",
        "customer": fake.object(str(first.session_id))["customer"],
        "line_items": [{"price": plan.stripe_price_id, "quantity": 1}],
        "subscription_data": {"metadata": {"subscription": str(second.pk)}},
        "metadata": {"subscription": str(second.pk)},
        "success_url": "http://x/",
    }
    made = stripe_client.create_session(session, idempotency_key=str(second.pk))
    buyer.listen()
    fake.pay(made.id)
    stripe_id = fake.object(made.id)["subscription"]
    payment = fake.objects("payment_intent", status="succeeded")[-1]["id"]
    steps = [lambda: fake.refund(payment), lambda: stripe_plans.end_subscription(stripe_id)]
    for step in steps if refunded_first else steps[::-1]:
        buyer.hear(buyer.news())
        step()
    buyer.hear(buyer.news())
    backfill.compare(since=buyer.now - DAY, until=buyer.now + DAY, now=buyer.now)
    assert buyer.balance == 20 * USD
    assert not reconciliation.audit(now=timezone.now(), accounts=[buyer.account.pk])
