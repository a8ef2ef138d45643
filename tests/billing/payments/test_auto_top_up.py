"""Facts about automatic top-up and saved cards: nobody is charged without having agreed, more than once, or beyond what they agreed to."""

import contextlib
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from accounts.models import AuditEvent, OutboxMessage, User
from billing import ledger, reconciliation
from billing.models import AutoTopUp, StripeCustomer, StripeEvent, TopUp, Wallet
from billing.payments import auto_top_up, cards, customers, reversals, strikes, stripe_client, top_ups
from tests.billing.payments.conftest import Till
from tests.conftest import USD
from tests.fakes.stripe import FakeStripe

CREATE = "POST /v1/payment_intents"
DECLINED = "4000000000000002"
ASKS = "4000002760003184"


class Owner(Till):
    """A customer with a saved card, on a clock of their own."""

    def __init__(self, fake: FakeStripe, usd: str = "3") -> None:
        super().__init__(fake, usd)
        self.ahead = timedelta()
        self.account = self.customer.account
        self.user = User.objects.create_user(f"{uuid.uuid4().hex}@example.com")
        self.account.billing_email = self.user.email
        self.account.save()

    @property
    def now(self) -> datetime:
        return timezone.now() + self.ahead

    def save_card(self, number: str = "4242424242424242") -> StripeCustomer:
        """Save a card on Stripe's page, and hear of it."""
        self._seen = len(self.fake.events)
        cards.start_card_setup(account=self.account, user=self.user, success_url="http://x/", cancel_url="http://x/", now=self.now)
        self.fake.pay(self.fake.objects("checkout.session", mode="setup")[-1]["id"], number)
        self.listen()
        return StripeCustomer.objects.get(account=self.account)

    def agree(self, *, below: int = 5, amount: int = 20, cap: int | None = None) -> AutoTopUp:
        return auto_top_up.agree(
            account=self.account,
            user=self.user,
            threshold_nano=below * USD,
            amount_nano=amount * USD,
            monthly_cap_nano=cap * USD if cap else None,
            now=self.now,
        )

    def listen(self) -> None:
        assert StripeEvent.State.FAILED not in self.hear(self.news(), now=self.now + timedelta(minutes=1))

    def refill(self) -> TopUp | None:
        """As the task does, for this account alone."""
        auto = AutoTopUp.objects.get(wallet=self.customer.wallet)
        return auto_top_up.refill(auto_id=auto.pk, now=self.now) if auto.pk in auto_top_up.due(now=self.now, limit=10_000) else None

    def take_up(self) -> list[TopUp]:
        """Go on with what was left lying, as the task does."""
        auto_top_up.follow_up(now=self.now, limit=10_000)
        return self.rows

    def wait(self, **length: float) -> None:
        self.ahead += timedelta(**length)
        self.fake.advance(timedelta(**length).total_seconds())

    def spend(self, usd: int) -> None:
        ledger.debit(
            wallet_id=self.customer.wallet.pk, amount=usd * USD, kind="debit", credit_account="manual", source_type="test",
            source_id=uuid.uuid4().hex, actor="test", note="", now=self.now,
        )  # fmt: skip

    @property
    def rows(self) -> list[TopUp]:
        return list(TopUp.objects.filter(wallet=self.customer.wallet, kind="auto").order_by("created_at"))

    @property
    def payments(self) -> list[str]:
        """The states of this account's payments at Stripe."""
        customer = StripeCustomer.objects.get(account=self.account).customer_id
        return [one["status"] for one in self.fake.objects("payment_intent", customer=customer)]

    @property
    def auto(self) -> AutoTopUp:
        return AutoTopUp.objects.get(wallet=self.customer.wallet)

    def mails(self) -> list[str]:
        """What was told by mail, oldest first: the names of the events."""
        rows = OutboxMessage.objects.filter(account=self.account, kind="mail").order_by("id")
        return [row.dedupe_key.split(":")[1] for row in rows]


@pytest.fixture
def owner(fake: FakeStripe) -> Owner:
    made = Owner(fake)
    made.save_card()
    return made


def drifts(owner: Owner) -> list[Any]:
    return reconciliation.audit(now=timezone.now(), accounts=[owner.account.pk])


# -- Cards -------------------------------------------------------------------------------------------------------------------------------


def test_a_card_saved_without_paying_is_shown(owner: Owner) -> None:
    card = cards.of(owner.account)
    assert card is not None
    assert (card.card_brand, card.card_last_four, card.card_expires[:2]) == ("visa", "4242", "20")
    assert AuditEvent.objects.filter(account=owner.account, action="card.saved", actor=owner.user).count() == 1


def test_a_card_saved_while_paying_is_shown_and_one_not_saved_is_not(fake: FakeStripe) -> None:
    for saves in (False, True):
        owner = Owner(fake)
        top_up = owner.checkout(save_card=saves)
        fake.pay(top_up.session_id or "", "5555555555554444")
        owner.listen()
        assert owner.balance == 28 * USD
        assert (cards.of(owner.account) is not None) == saves


def test_the_newer_card_is_the_saved_one_whichever_is_heard_of_first(owner: Owner) -> None:
    waiting = []
    for number in ("5555555555554444", "378282246310005"):
        owner.wait(seconds=2)
        cards.start_card_setup(account=owner.account, user=owner.user, success_url="http://x/", cancel_url="http://x/", now=owner.now)
        owner.fake.pay(owner.fake.objects("checkout.session", mode="setup")[-1]["id"], number)
        waiting += owner.news()
    owner.hear(reversed(waiting), now=owner.now + timedelta(minutes=1))
    assert StripeCustomer.objects.get(account=owner.account).card_last_four == "0005"


def test_a_renewed_card_and_one_taken_off_at_stripe_are_taken_over(owner: Owner) -> None:
    owner.agree()
    card = StripeCustomer.objects.get(account=owner.account)
    stripe_client.call(lambda ready: ready.v1.payment_methods.detach(card.payment_method_id))
    owner.listen()
    assert cards.of(owner.account) is None
    assert not owner.auto.is_enabled
    assert owner.mails() == ["auto_top_up.turned_off"]


def test_a_removed_card_turns_automatic_top_up_off_and_is_gone_at_stripe(owner: Owner) -> None:
    owner.agree()
    before = StripeCustomer.objects.get(account=owner.account).payment_method_id
    cards.remove(account=owner.account, user=owner.user, now=owner.now)
    assert owner.fake.object(before)["customer"] is None
    assert (cards.of(owner.account), owner.auto.is_enabled, owner.mails()) == (None, False, ["auto_top_up.turned_off"])
    with pytest.raises(cards.NoCard):
        cards.remove(account=owner.account, user=owner.user, now=owner.now)
    owner.listen()
    assert owner.mails() == ["auto_top_up.turned_off"]


def test_a_customer_deleted_at_stripe_loses_the_card(owner: Owner) -> None:
    owner.agree()
    customer = StripeCustomer.objects.get(account=owner.account).customer_id
    stripe_client.call(lambda ready: ready.v1.customers.delete(customer))
    owner.listen()
    assert (cards.of(owner.account), owner.auto.is_enabled) == (None, False)


def test_a_bank_account_is_no_card(fake: FakeStripe) -> None:
    owner = Owner(fake)
    top_up = owner.checkout(save_card=True)
    fake.pay(top_up.session_id or "", "bank")
    fake.settle(top_up.session_id or "")
    owner.listen()
    assert owner.balance == 28 * USD
    assert cards.of(owner.account) is None


# -- Agreeing ----------------------------------------------------------------------------------------------------------------------------


def test_nothing_is_charged_before_anybody_agreed(owner: Owner) -> None:
    assert auto_top_up.fire(now=owner.now, limit=10_000) == 0 or not owner.rows
    assert owner.payments == []


@pytest.mark.parametrize(
    ("figures", "error"),
    [
        ({"amount": 4}, top_ups.AmountOutOfRange),
        ({"below": -1}, auto_top_up.BadThreshold),
        ({"below": 10_001}, auto_top_up.BadThreshold),
        ({"cap": 19}, auto_top_up.CapTooLow),
    ],
)
def test_what_makes_no_sense_is_refused(owner: Owner, figures: dict[str, int], error: type[Exception]) -> None:
    with pytest.raises(error):
        owner.agree(**figures)
    assert not AutoTopUp.objects.filter(wallet=owner.customer.wallet).exists()


def test_without_a_card_or_with_tax_it_is_not_offered(fake: FakeStripe, settings: Any) -> None:
    owner = Owner(fake)
    with pytest.raises(cards.NoCard):
        owner.agree()
    owner.save_card()
    settings.STRIPE_TAX = True
    with pytest.raises(auto_top_up.NotOffered):
        owner.agree()


# -- Refilling ---------------------------------------------------------------------------------------------------------------------------


def test_a_low_wallet_is_refilled_once(owner: Owner) -> None:
    owner.agree()
    top_up = owner.refill()
    assert top_up is not None
    assert (top_up.state, owner.balance) == ("paid", 23 * USD)
    owner.listen()
    assert (owner.refill(), owner.balance, owner.payments) == (None, 23 * USD, ["succeeded"])
    assert owner.mails() == ["top_up.paid"]
    assert not drifts(owner)


def test_a_wallet_at_its_threshold_is_left_alone_and_one_below_waits_for_its_cooldown(owner: Owner) -> None:
    owner.agree(below=3)
    assert owner.refill() is None
    owner.spend(1)
    assert owner.refill() is not None
    owner.spend(22)
    assert owner.refill() is None
    owner.wait(minutes=6)
    assert owner.refill() is not None
    assert owner.balance == 20 * USD


def test_a_refill_pays_a_debt_and_never_lowers_a_balance(owner: Owner) -> None:
    owner.agree()
    ledger.debit(
        wallet_id=owner.customer.wallet.pk, amount=10 * USD, kind="debit", credit_account="manual", source_type="test",
        source_id=uuid.uuid4().hex, actor="test", note="", now=owner.now, allow_debt=True,
    )  # fmt: skip
    assert owner.refill() is not None
    assert owner.balance == 13 * USD


def test_turned_off_frozen_or_closed_means_nothing_is_charged(owner: Owner) -> None:
    owner.agree()
    assert auto_top_up.turn_off(account=owner.account, user=owner.user, now=owner.now)
    assert owner.refill() is None
    owner.agree()
    Wallet.objects.filter(pk=owner.customer.wallet.pk).update(status="frozen")
    assert owner.refill() is None
    Wallet.objects.filter(pk=owner.customer.wallet.pk).update(status="active")
    owner.account.is_active = False
    owner.account.save()
    assert owner.refill() is None
    assert owner.payments == []


def test_the_monthly_cap_counts_the_accounts_own_month(owner: Owner) -> None:
    if owner.now.day > 27:
        owner.wait(days=5)  # it takes two hours, and its month must not end meanwhile
    owner.account.timezone = "Pacific/Auckland"
    owner.account.save()
    owner.agree(cap=45)
    for _ in range(2):
        assert owner.refill() is not None
        owner.spend(20)
        owner.wait(minutes=6)
    assert owner.refill() is None
    assert auto_top_up.used_this_month(owner.auto, now=owner.now) == 40 * USD
    owner.wait(hours=2)
    assert owner.refill() is None
    assert owner.payments == ["succeeded"] * 2
    # An hour before midnight in UTC, the month of Auckland is another already, and so is its cap.
    turn = datetime(2030, 5, 31, 23, tzinfo=UTC)
    assert auto_top_up.used_this_month(owner.auto, now=turn) == 0
    TopUp.objects.filter(wallet=owner.customer.wallet).update(created_at=datetime(2030, 5, 31, 13, tzinfo=UTC))
    assert auto_top_up.used_this_month(owner.auto, now=turn) == 40 * USD
    TopUp.objects.filter(wallet=owner.customer.wallet).update(created_at=datetime(2030, 5, 31, 11, tzinfo=UTC))
    assert auto_top_up.used_this_month(owner.auto, now=turn) == 0


def test_a_reached_cap_is_told_once_a_month(owner: Owner) -> None:
    if owner.now.day > 27:
        owner.wait(days=5)  # one month is enough
    owner.agree(cap=20)
    assert owner.refill() is not None
    owner.spend(20)
    for _ in range(3):
        owner.wait(hours=2)
        assert owner.refill() is None
    assert [mail for mail in owner.mails() if mail == "auto_top_up.capped"] == ["auto_top_up.capped"]
    told = OutboxMessage.objects.get(account=owner.account, kind="mail", dedupe_key__contains="auto_top_up.capped")
    assert "cap of $20.00 a month" in told.content["text"]
    owner.agree(cap=30)  # another cap is reached: that is news
    assert owner.refill() is None
    assert owner.mails().count("auto_top_up.capped") == 2


def test_a_refund_or_dispute_is_not_answered_with_another_charge(owner: Owner) -> None:
    owner.agree()
    top_up = owner.refill()
    assert top_up is not None
    reversals.refund(top_up=top_up, amount_minor=2000, reason="wanted", user=owner.user, key=uuid.uuid4().hex, now=owner.now)
    owner.wait(minutes=6)
    assert owner.balance == 3 * USD
    assert owner.refill() is None
    assert not owner.auto.is_enabled
    assert "refunded" in owner.auto.disabled_reason
    assert owner.payments == ["succeeded"]


def test_many_workers_at_once_charge_once(owner: Owner) -> None:
    auto = owner.agree()
    threads = [threading.Thread(target=_in_thread(lambda: auto_top_up.refill(auto_id=auto.pk, now=owner.now))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (owner.payments, owner.balance) == (["succeeded"], 23 * USD)


def _in_thread(work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    return run


# -- Refused -----------------------------------------------------------------------------------------------------------------------------


def test_the_third_failure_in_a_row_turns_it_off_with_a_mail(owner: Owner) -> None:
    owner.agree()
    owner.fake.change_card(StripeCustomer.objects.get(account=owner.account).payment_method_id, DECLINED)
    for strike in (1, 2, 3):
        assert owner.refill() is not None
        owner.listen()
        assert owner.auto.strikes == strike
        assert owner.refill() is None
        owner.wait(hours=7)
    assert (owner.refill(), owner.auto.is_enabled) == (None, False)
    assert owner.mails() == ["auto_top_up.failed", "auto_top_up.failed", "auto_top_up.turned_off"]
    assert owner.balance == 3 * USD
    owner.save_card()
    owner.agree()
    assert owner.refill() is not None
    assert (owner.balance, owner.auto.strikes) == (23 * USD, 0)


def test_a_payment_between_failures_forgets_them(owner: Owner) -> None:
    owner.agree()
    card = StripeCustomer.objects.get(account=owner.account).payment_method_id
    for number in (DECLINED, DECLINED, "4242424242424242", DECLINED):
        owner.fake.change_card(card, number)
        owner.refill()
        owner.wait(hours=7)
        if owner.balance > 20 * USD:
            owner.spend(20)
    assert (owner.auto.strikes, owner.auto.is_enabled) == (1, True)


@pytest.mark.parametrize("completes", [True, False])
@pytest.mark.parametrize("hears_first", [True, False])
def test_the_banks_question_is_passed_on_with_a_link(owner: Owner, *, completes: bool, hears_first: bool) -> None:
    owner.agree()
    owner.fake.change_card(StripeCustomer.objects.get(account=owner.account).payment_method_id, ASKS)
    top_up = owner.refill()
    assert top_up is not None
    if hears_first:
        owner.listen()
    top_up.refresh_from_db()
    assert (top_up.state, owner.balance, owner.mails()) == ("action", 3 * USD, ["top_up.action_needed"])
    assert "/consent/" in top_up.action_url
    assert owner.refill() is None
    owner.wait(minutes=6)
    assert owner.refill() is None
    owner.fake.consent(top_up.payment_intent_id or "", complete=completes)
    owner.listen()
    top_up.refresh_from_db()
    assert (top_up.state, owner.balance) == (("paid", 23 * USD) if completes else ("failed", 3 * USD))
    assert owner.mails()[1:] == (["top_up.paid"] if completes else ["auto_top_up.failed"])
    assert top_up.action_url == ""


def test_consent_that_does_not_come_within_a_day_is_a_failure(owner: Owner) -> None:
    owner.agree()
    owner.fake.change_card(StripeCustomer.objects.get(account=owner.account).payment_method_id, ASKS)
    owner.refill()
    owner.wait(hours=25)
    assert [row.state for row in owner.take_up()] == ["failed"]
    assert (owner.payments, owner.auto.strikes) == (["canceled"], 1)


def test_a_customer_who_is_gone_at_stripe_is_a_failure(owner: Owner) -> None:
    owner.agree()
    customer = StripeCustomer.objects.get(account=owner.account).customer_id
    stripe_client.call(lambda ready: ready.v1.customers.delete(customer))  # and the news is not here yet
    owner.refill()
    assert [row.state for row in owner.rows] == ["failed"]


# -- Crashes -----------------------------------------------------------------------------------------------------------------------------


def test_killed_before_the_call_it_is_sent_again_with_the_same_key(owner: Owner) -> None:
    auto = owner.agree()
    assert auto_top_up._begin(auto.pk, owner.now) is not None
    owner.wait(minutes=1)
    assert [row.state for row in owner.take_up()] == ["paid"]
    (call,) = [call for call in owner.fake.calls if f"{call.method} {call.path}" == CREATE]
    assert call.idempotency_key == str(owner.rows[0].pk)
    assert (owner.balance, owner.payments) == (23 * USD, ["succeeded"])


@pytest.mark.parametrize("forgotten", [False, True])
def test_an_answer_that_was_lost_is_one_payment_also_after_a_day(owner: Owner, monkeypatch: pytest.MonkeyPatch, *, forgotten: bool) -> None:
    auto = owner.agree()

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(top_ups, "converge", die)  # the payment is made, and the process dies
        with pytest.raises(KeyboardInterrupt):
            auto_top_up.refill(auto_id=auto.pk, now=owner.now)
    assert [row.state for row in owner.rows] == ["open"]
    if forgotten:
        owner.wait(hours=24)
        owner.fake.forget_idempotency_keys()
    owner.wait(minutes=1)
    assert [row.state for row in owner.take_up()] == ["paid"]
    assert (owner.balance, owner.payments) == (23 * USD, ["succeeded"])
    owner.listen()
    assert owner.balance == 23 * USD
    assert not drifts(owner)


def test_never_sent_within_a_day_it_has_failed_and_the_next_one_goes(owner: Owner) -> None:
    auto = owner.agree()
    auto_top_up._begin(auto.pk, owner.now)
    owner.wait(hours=24)
    assert [row.state for row in owner.take_up()] == ["failed"]
    assert owner.payments == []
    owner.wait(hours=7)
    assert owner.refill() is not None
    assert owner.balance == 23 * USD


def test_turned_off_since_the_crash_nothing_new_is_charged(owner: Owner) -> None:
    auto = owner.agree()
    auto_top_up._begin(auto.pk, owner.now)
    auto_top_up.turn_off(account=owner.account, user=owner.user, now=owner.now)
    owner.wait(minutes=1)
    assert [row.state for row in owner.take_up()] == ["open"]
    owner.wait(minutes=6)
    assert [row.state for row in owner.take_up()] == ["failed"]
    assert owner.payments == []


def test_a_card_replaced_since_the_crash_makes_no_second_payment(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = owner.agree()

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(top_ups, "converge", die)
        with pytest.raises(KeyboardInterrupt):
            auto_top_up.refill(auto_id=auto.pk, now=owner.now)
    owner.wait(seconds=40)
    owner.save_card("5555555555554444")  # hears of the payment too
    owner.take_up()
    assert (owner.balance, owner.payments) == (23 * USD, ["succeeded"])


@pytest.mark.parametrize("how", ["lost", "reset", "500", "429"])
def test_stripe_failing_is_one_payment_in_the_end(owner: Owner, how: str) -> None:
    owner.agree()
    owner.fake.break_next(CREATE, how)
    with contextlib.suppress(stripe_client.StripeUnavailable):
        owner.refill()
    owner.wait(minutes=1)
    owner.take_up()
    owner.listen()
    assert (owner.balance, owner.payments) == (23 * USD, ["succeeded"])


def test_due_wallets_can_be_found_through_the_agreements(owner: Owner) -> None:
    """The index gives the agreements that are due in their order, and each leads to its wallet: no wallet without one has to be looked at.

    Tables as small as these here are read in any way; so what would read or sort all of them is forbidden.
    """
    found = AutoTopUp.objects.filter(auto_top_up._below(owner.now)).order_by("not_before", "id").values("pk")[:100]
    with transaction.atomic(), connection.cursor() as cursor:
        for way in ("seqscan", "bitmapscan", "sort", "hashjoin", "mergejoin"):
            cursor.execute(f"SET LOCAL enable_{way} = off")
        plan = found.explain()
    assert "Index Scan using auto_top_up_due" in plan, plan
    assert "Index Cond: (id = billing_autotopup.wallet_id)" in plan, plan


def test_strikes_count_what_the_rows_say(owner: Owner) -> None:
    auto = owner.agree()
    customers.ensure(account=owner.account, now=owner.now)
    assert not strikes.was_reversed(auto)
    assert strikes.turn_off(account=owner.account, reason="test", now=owner.now)
    assert not strikes.turn_off(account=owner.account, reason="test", now=owner.now)
