"""The payment machine: any history of payments, reversals, gifts and restarts, with Stripe's news in any order, against a small model.

The model never hears of an event. It knows what customers and banks did at Stripe, and once the news has been heard (late, twice, in whatever
order) every top-up has to be worth exactly that. In between nothing may be worth more.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import override_settings
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from accounts.models import User
from billing import assignments, ledger, reconciliation
from billing.gifts import adjustments, codes
from billing.models import CreditGrant, Plan, StripeEvent, TopUp, Transfer
from billing.payments import backfill, bookings, inbox, reversals, top_ups
from tests.billing.desk import NOW, Desk
from tests.conftest import USD
from tests.fakes.stripe import Declined, FakeStripe

CENT = 10_000_000
LATER = timedelta(hours=2)
CARDS = st.sampled_from(["4242424242424242", "4242424242424242", "4000000000000002", "4000002760003184", "bank"])


@dataclass
class Payment:
    """A top-up as its customer and the banks know it. `reversals`: cents by id, those that count."""

    id: uuid.UUID
    cents: int
    session: str
    is_paid: bool = False
    intent: str = ""
    refunds: dict[str, int] = field(default_factory=dict)
    disputes: dict[str, int] = field(default_factory=dict)
    was_disputed: bool = False

    @property
    def back(self) -> int:
        """Nano-USD to be taken back."""
        return min(self.cents, sum(self.refunds.values()) + sum(self.disputes.values())) * CENT if self.is_paid else 0


class Payments(RuleBasedStateMachine):
    """What can be done; `fake` is the Stripe of all examples, so only the objects of this example's account are looked at."""

    fake: FakeStripe
    staff: User

    @initialize()
    def open(self) -> None:
        self.desk = Desk()
        self.payments: list[Payment] = []
        self.seen = len(self.fake.events)
        self.unheard: list[str] = []
        self.heard: list[str] = []
        self.other = 0  # what moved beside payments, in nano-USD
        self.gifts: list[tuple[uuid.UUID, datetime]] = []  # transfers of grants that expire

    def teardown(self) -> None:
        if hasattr(self, "desk"):
            self.listen_to_all()
            self.desk.close()

    # -- customers

    @rule(usd=st.integers(5, 40), twice=st.booleans())
    def checkout(self, usd: int, *, twice: bool) -> None:
        id_ = uuid.uuid4()
        for _ in range(1 + twice):
            found = top_ups.start_checkout(
                account=self.desk.account,
                user=None,
                amount_nano=usd * USD,
                success_url="http://localhost/paid",
                cancel_url="http://localhost/not",
                now=timezone.now(),
                top_up_id=id_,
            )
        self.payments.append(Payment(id_, usd * 100, found.top_up.session_id or ""))

    @precondition(lambda self: self.payments)
    @rule(data=st.data(), number=CARDS)
    def pay(self, data: Any, number: str) -> None:
        payment = data.draw(st.sampled_from(self.payments))
        try:
            self.fake.pay(payment.session, number)
        except Declined:
            return
        payment.is_paid = number != "bank"
        payment.intent = self.fake.object(payment.session)["payment_intent"]

    @precondition(lambda self: any(one.intent and not one.is_paid for one in self.payments))
    @rule(data=st.data(), succeed=st.booleans())
    def money_arrives_late(self, data: Any, *, succeed: bool) -> None:
        payment = data.draw(st.sampled_from([one for one in self.payments if one.intent and not one.is_paid]))
        if self.fake.object(payment.intent)["status"] == "processing":
            self.fake.settle(payment.session, succeed=succeed)
            payment.is_paid = succeed

    @precondition(lambda self: self.payments)
    @rule(data=st.data())
    def page_expires(self, data: Any) -> None:
        payment = data.draw(st.sampled_from(self.payments))
        if self.fake.object(payment.session)["status"] == "open":
            self.fake.expire(payment.session)

    # -- banks and staff

    @precondition(lambda self: any(one.is_paid for one in self.payments))
    @rule(data=st.data(), share=st.sampled_from([1, 3, 7, 10]), at_stripe=st.booleans())
    def refund(self, data: Any, share: int, *, at_stripe: bool) -> None:
        payment = data.draw(st.sampled_from([one for one in self.payments if one.is_paid]))
        left = payment.cents - sum(payment.refunds.values())
        amount = left * share // 10
        if not amount or payment.disputes:
            return
        if at_stripe:
            made = self.fake.refund(payment.intent, amount)["id"]
        else:
            row, key = TopUp.objects.get(pk=payment.id), uuid.uuid4().hex
            if row.payment_intent_id is None:  # its payment was not heard of yet: the page has no button
                return
            top_ups.converge(top_up_id=row.pk, now=timezone.now())
            row.refresh_from_db()
            for _ in range(2):
                reversals.refund(top_up=row, amount_minor=amount, reason="asked", user=self.staff, key=key, now=timezone.now())
            (made,) = [one["id"] for one in self.fake.objects("refund", payment_intent=payment.intent) if one["metadata"].get("key") == key]
        payment.refunds[made] = amount

    @precondition(lambda self: any(one.refunds for one in self.payments))
    @rule(data=st.data())
    def refund_fails(self, data: Any) -> None:
        payment = data.draw(st.sampled_from([one for one in self.payments if one.refunds]))
        refund = data.draw(st.sampled_from(sorted(payment.refunds)))
        self.fake.change_refund(refund, "failed")
        del payment.refunds[refund]

    @precondition(lambda self: any(one.is_paid and not one.was_disputed for one in self.payments))
    @rule(data=st.data(), part=st.booleans())
    def dispute(self, data: Any, *, part: bool) -> None:
        payment = data.draw(st.sampled_from([one for one in self.payments if one.is_paid and not one.was_disputed]))
        amount = payment.cents // 2 if part else payment.cents
        payment.disputes[self.fake.dispute(payment.intent, amount=amount)["id"]] = amount
        payment.was_disputed = True

    @precondition(lambda self: any(one.disputes for one in self.payments))
    @rule(data=st.data(), won=st.booleans())
    def dispute_ends(self, data: Any, *, won: bool) -> None:
        payment = data.draw(st.sampled_from([one for one in self.payments if one.disputes]))
        (dispute,) = payment.disputes
        if self.fake.object(dispute)["status"] in {"won", "lost"}:
            return
        self.fake.close_dispute(dispute, won=won)
        if won:
            del payment.disputes[dispute]

    # -- the news

    @rule(data=st.data(), killed=st.sampled_from(["", "", "", "before it was handled", "before it was marked"]))
    def hear(self, data: Any, killed: str) -> None:
        self.listen()
        if not self.unheard + self.heard:
            return
        chosen = data.draw(st.lists(st.sampled_from(self.unheard + self.heard[-10:]), min_size=1, max_size=6))
        for event_id in chosen:
            self.tell(event_id, killed)

    @rule()
    def drain(self) -> None:
        """As the task does, with the events of this example alone."""
        own = StripeEvent.objects.filter(pk__in=[*self.heard, *self.unheard], state__in=["received", "failed"])
        for event_id in list(own.order_by("next_try_at").values_list("pk", flat=True)):
            inbox.attempt(event_id, now=timezone.now() + LATER)

    @rule()
    def backfill(self) -> None:
        self.listen()
        backfill.fetch_recent(last=timezone.now(), now=timezone.now())
        self.drain()

    @precondition(lambda self: self.payments)
    @rule(data=st.data())
    def customer_returns(self, data: Any) -> None:
        top_ups.converge(top_up_id=data.draw(st.sampled_from(self.payments)).id, now=timezone.now())

    def listen(self) -> None:
        """Take note of what Stripe has to tell."""
        events = self.fake.events
        self.unheard += [event["id"] for event in events[self.seen :]]
        self.seen = len(events)

    def tell(self, event_id: str, killed: str = "") -> None:
        body, signature = self.fake.signed(event_id)
        inbox.receive(body=body, signature=signature, now=timezone.now())
        if killed != "before it was handled":
            inbox.attempt(event_id, now=timezone.now())
        if killed == "before it was marked":  # what was booked stays, and nobody knows
            StripeEvent.objects.filter(pk=event_id).update(state=StripeEvent.State.RECEIVED, next_try_at=timezone.now())
        if event_id in self.unheard:
            self.unheard.remove(event_id)
            self.heard.append(event_id)

    def listen_to_all(self) -> None:
        """In the end everything is heard; then ours has to be Stripe's."""
        self.listen()
        for event_id in reversed(self.unheard[:]):
            self.tell(event_id)
        self.drain()
        rows = {row.pk: row for row in TopUp.objects.filter(pk__in=[one.id for one in self.payments])}
        for payment in self.payments:
            row = rows[payment.id]
            assert (row.state == TopUp.State.PAID) == payment.is_paid, row.state
            assert row.clawed_nano == payment.back
        self.take_expired(NOW + timedelta(days=400))
        assert self.desk.balance == self.other + sum(one.cents * CENT - one.back for one in self.payments if one.is_paid) - self.expired
        assert self.desk.audit() == []

    # -- what else moves money

    @rule(share=st.sampled_from([2, 5, 10]))
    def spend(self, share: int) -> None:
        amount = self.desk.wallet.free * share // 10
        if amount > 0:
            self.desk.spend(amount)
            self.other -= amount

    @rule(kind=st.sampled_from(["promo", "paid", "debit"]), amount=st.integers(1, 30 * USD))
    def adjust(self, kind: str, amount: int) -> None:
        asked: dict[str, Any] = {"wallet": self.desk.wallet, "kind": kind, "amount_nano": amount, "reason": "asked", "user": self.staff}
        id_ = uuid.uuid4()
        if kind == "debit" and amount > self.desk.wallet.free:
            with pytest.raises(ledger.InsufficientBalance):
                adjustments.request_adjustment(**asked, adjustment_id=id_, now=timezone.now())
            return
        for _ in range(2):
            adjustments.request_adjustment(**asked, adjustment_id=id_, now=timezone.now())
        self.other += -amount if kind == "debit" else amount

    @rule(amount=st.integers(1, 20 * USD), days=st.none() | st.integers(1, 60))
    def redeem(self, amount: int, days: int | None) -> None:
        (code,) = codes.create_codes(count=1, amount_nano=amount, most_uses=2, credit_days=days, user=None, now=NOW)
        transfer = codes.redeem(account=self.desk.account, code=code.code, user=None, now=NOW)
        with pytest.raises(codes.CodeAlreadyRedeemed):
            codes.redeem(account=self.desk.account, code=code.code.lower(), user=None, now=NOW)
        self.other += amount
        if days:
            self.gifts.append((transfer.pk, NOW + timedelta(days=days)))

    @rule(days=st.integers(1, 90))
    def time_passes(self, days: int) -> None:
        self.take_expired(NOW + timedelta(days=days))

    def take_expired(self, now: datetime) -> None:
        before = {grant.pk: grant.remaining for grant in CreditGrant.objects.filter(wallet=self.desk.wallet_id, expires_at__lte=now)}
        ledger.expire_grants(now=now, limit=1000)
        assert not CreditGrant.objects.filter(pk__in=before, remaining__gt=0).exists()

    @property
    def expired(self) -> int:
        """What went with expired gifts: never more than what they were, and nothing of what was bought."""
        gone = Transfer.objects.filter(wallet=self.desk.wallet_id, kind="expiry")
        given = sum(Transfer.objects.get(pk=pk).amount for pk, _ in self.gifts)
        total = sum(transfer.amount for transfer in gone)
        assert total <= given
        return total

    @rule(tokens=st.none() | st.integers(0, 100))
    def change_plan(self, tokens: int | None) -> None:
        plan = Plan.objects.create(slug=f"p-{uuid.uuid4().hex[:20]}", monthly_output_tokens=None)
        assignments.assign_by_staff(account=self.desk.account, plan=plan, user=self.staff, now=timezone.now())

    # -- what must always be so

    @invariant()
    def never_more_than_was_paid(self) -> None:
        if not hasattr(self, "desk"):
            return
        rows = {row.pk: row for row in TopUp.objects.filter(pk__in=[one.id for one in self.payments])}
        for payment in self.payments:
            booked = bookings.credit_of(rows[payment.id])
            assert booked is None or payment.is_paid
            assert (booked.amount if booked else 0) in (0, payment.cents * CENT)
            assert rows[payment.id].state != TopUp.State.QUARANTINED
        assert reconciliation.audit(now=NOW, accounts=[self.desk.account.pk]) == []


@contextmanager
def at_a_fake_stripe() -> Iterator[FakeStripe]:
    with FakeStripe() as fake, override_settings(
        STRIPE_SECRET_KEY=fake.api_key,
        STRIPE_WEBHOOK_SECRETS=[fake.webhook_secret],
        STRIPE_API_BASE=fake.base_url,
        STRIPE_SIMULATED="yes",
        ADJUSTMENT_LIMIT_USD="1000000000",
    ):  # fmt: skip
        yield fake


def test_any_history_of_payments_adds_up() -> None:
    """Longer with `make machine`."""
    with at_a_fake_stripe() as fake:
        Payments.fake = fake
        Payments.staff = User.objects.create_user(f"staff-{uuid.uuid4().hex[:12]}@example.test", is_staff=True, is_superuser=True)
        run_state_machine_as_test(
            Payments,
            settings=settings(
                max_examples=int(os.environ.get("MACHINE_EXAMPLES", "6")),
                stateful_step_count=int(os.environ.get("MACHINE_STEPS", "20")),
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )
