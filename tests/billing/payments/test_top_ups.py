"""Facts about top-ups: whatever road and order the news takes, what was paid is credited once, and what is not exactly right is not."""

import itertools
import threading
import uuid
from datetime import timedelta
from typing import Any

import pytest
import stripe
from django.db import connection
from django.utils import timezone

from accounts.models import AuditEvent, OutboxMessage
from billing import reconciliation
from billing.models import StripeCustomer, StripeEvent, TopUp, Transfer
from billing.notices import telling
from billing.payments import backfill, bookings, customers, stripe_client, top_ups
from tests.billing.payments.conftest import Till
from tests.conftest import USD, make_customer
from tests.fakes.stripe import Declined, FakeStripe


def drifts(till: Till) -> list[Any]:
    return reconciliation.audit(now=timezone.now(), accounts=[till.customer.account.pk])


# -- Asking ------------------------------------------------------------------------------------------------------------------------------


def test_the_pinned_version_is_the_librarys_own() -> None:
    assert stripe.api_version == stripe_client.API_VERSION


def test_a_checkout_names_our_row_everywhere_and_gives_a_page(till: Till) -> None:
    started = top_ups.start_checkout(
        account=till.customer.account,
        user=None,
        amount_nano=25 * USD,
        success_url="http://localhost/{TOP_UP}?s={CHECKOUT_SESSION_ID}",
        cancel_url="http://localhost/not",
        now=timezone.now(),
    )
    session = till.fake.object(started.top_up.session_id or "")
    assert started.url == session["url"]
    assert session["client_reference_id"] == session["metadata"]["top_up"] == str(started.top_up.pk)
    assert session["success_url"] == f"http://localhost/{started.top_up.pk}?s={{CHECKOUT_SESSION_ID}}"
    assert session["amount_subtotal"] == started.top_up.charge_minor == 2500
    (call,) = [call for call in till.fake.calls if call.path == "/v1/checkout/sessions"]
    assert call.idempotency_key == str(started.top_up.pk)


@pytest.mark.parametrize("amount", [0, -USD, 4 * USD, 10_001 * USD, 25 * USD + 1, 2**63])
def test_an_amount_out_of_range_or_of_no_whole_cents_is_refused_before_anything_happens(till: Till, amount: int) -> None:
    with pytest.raises(top_ups.AmountOutOfRange):
        top_ups.start_checkout(
            account=till.customer.account,
            user=None,
            amount_nano=amount,
            success_url="http://x/",
            cancel_url="http://x/",
            now=timezone.now(),
        )
    assert not till.fake.calls
    assert not TopUp.objects.filter(wallet=till.customer.wallet).exists()


def test_the_largest_top_up_is_credited_exactly(till: Till) -> None:
    """Cents and nano-USD beyond 32 bits (an overflow elsewhere: new-api#6831)."""
    till.credited(10_000)
    assert till.balance == 10_000 * USD


def test_without_a_key_there_is_no_row(till: Till, settings: Any) -> None:
    settings.STRIPE_SECRET_KEY = ""
    with pytest.raises(stripe_client.NotConfigured):
        till.checkout()
    assert not TopUp.objects.filter(wallet=till.customer.wallet).exists()


def test_the_same_form_sent_twice_is_one_top_up_and_one_page(till: Till) -> None:
    form = uuid.uuid4()
    assert till.checkout(top_up_id=form).session_id == till.checkout(top_up_id=form).session_id
    assert len(till.fake.objects("checkout.session")) == 1
    with pytest.raises(top_ups.TopUpTaken):
        till.checkout(30, top_up_id=form)
    with pytest.raises(top_ups.TopUpTaken):
        Till(till.fake).checkout(top_up_id=form)


def test_a_lost_answer_is_asked_for_again_with_the_same_key(till: Till) -> None:
    till.fake.break_next("POST /v1/checkout/sessions", "lost")
    top_up = till.checkout()
    assert [one["id"] for one in till.fake.objects("checkout.session")] == [top_up.session_id]


def test_stripe_being_away_leaves_a_row_that_expires_by_itself(till: Till) -> None:
    customers.ensure(account=till.customer.account, now=timezone.now())
    till.fake.break_next("POST /v1/checkout/sessions", "500", times=3)
    with pytest.raises(stripe_client.StripeUnavailable):
        till.checkout()
    top_up = TopUp.objects.get(wallet=till.customer.wallet)
    assert top_ups.converge(top_up_id=top_up.pk, now=timezone.now()).state == TopUp.State.OPEN
    assert top_ups.converge(top_up_id=top_up.pk, now=timezone.now() + timedelta(hours=25)).state == TopUp.State.EXPIRED


def test_one_customer_an_account_made_anew_when_it_was_deleted(till: Till) -> None:
    till.checkout()
    first = StripeCustomer.objects.get(account=till.customer.account).customer_id
    till.checkout()
    assert StripeCustomer.objects.get(account=till.customer.account).customer_id == first
    stripe_client.call(lambda ready: ready.v1.customers.delete(first))
    top_up = till.checkout()  # the news of it is not here yet
    second = StripeCustomer.objects.get(account=till.customer.account)
    assert second.customer_id != first
    assert till.fake.object(top_up.session_id or "")["customer"] == second.customer_id
    stripe_client.call(lambda ready: ready.v1.customers.delete(second.customer_id))
    till.hear(event for event in till.fake.events if event["type"] == "customer.deleted")
    second.refresh_from_db()
    assert second.is_deleted


def test_test_and_live_customers_are_strangers(till: Till, settings: Any) -> None:
    till.checkout()
    test = StripeCustomer.objects.get(account=till.customer.account)
    settings.STRIPE_SECRET_KEY, settings.STRIPE_SIMULATED = till.fake.live_api_key, ""
    top_up = till.checkout()
    live = StripeCustomer.objects.get(account=till.customer.account)
    assert (live.pk, live.is_live, top_up.is_live) == (test.pk, True, True)
    assert live.customer_id != test.customer_id


# -- Being paid --------------------------------------------------------------------------------------------------------------------------


def test_a_payment_is_told_once_with_its_credit(till: Till) -> None:
    account = till.customer.account
    account.billing_email = "books@example.com"
    account.save()
    till.paid()
    events = till.news("payment_intent.succeeded", "checkout.session.completed")
    till.hear([*events, *events])
    (mail,) = OutboxMessage.objects.filter(account=account, kind="mail")
    assert mail.recipient == "books@example.com"
    assert "$25.00" in mail.content["text"]


def test_a_mail_that_cannot_be_made_loses_no_money(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "EVENTS", {})
    till.credited()
    assert till.balance == 25 * USD


def test_what_was_paid_is_credited_with_its_receipt(till: Till) -> None:
    top_up = till.credited()
    assert till.balance == 25 * USD
    assert (top_up.paid_minor, top_up.failure) == (2500, "")
    assert top_up.charge_id.startswith("ch_")
    assert top_up.receipt_url.startswith("http")
    transfer = bookings.credit_of(top_up)
    assert transfer is not None
    assert (transfer.debit_account, transfer.amount) == ("stripe_clearing", 25 * USD)
    assert AuditEvent.objects.filter(account=till.customer.account, action="wallet.topped_up").count() == 1
    assert not drifts(till)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_every_order_of_the_checkout_history_ends_in_the_same_balance(till: Till, order: tuple[int, ...]) -> None:
    till.paid()
    events = till.news("payment_intent.succeeded", "checkout.session.completed", "charge.succeeded")
    assert len(events) == 3
    till.hear(events[at] for at in order)
    till.hear(events)  # and once more
    assert till.balance == 25 * USD
    assert not drifts(till)


@pytest.mark.parametrize("succeed", [True, False])
def test_every_order_of_a_slow_payment_ends_in_the_same_balance(fake: FakeStripe, succeed: bool) -> None:
    for order in itertools.permutations(range(3)):
        till = Till(fake)
        top_up = till.paid(number="bank")
        early = till.news("checkout.session.completed")
        till.hear(early if order[0] else [])  # heard while the money is under way, in two orders of three
        if order[0]:
            top_up.refresh_from_db()
            assert top_up.state == TopUp.State.PROCESSING
        assert till.balance == 0
        fake.settle(top_up.session_id or "", succeed=succeed)
        late = till.news(
            "checkout.session.async_payment_succeeded",
            "checkout.session.async_payment_failed",
            "payment_intent.succeeded",
            "payment_intent.payment_failed",
        )
        events = [*early, *late]
        till.hear(events[at] for at in order)
        top_up.refresh_from_db()
        assert top_up.state == (TopUp.State.PAID if succeed else TopUp.State.FAILED)
        assert till.balance == (25 * USD if succeed else 0)
        assert bool(top_up.failure) is not succeed


def test_two_events_for_one_fact_are_one_credit(till: Till) -> None:
    """The same payment under two event ids (double credits elsewhere: AutoGPT#10672, lago#2243)."""
    till.fake.set(twin_events=True)
    till.paid()
    completed = till.news("checkout.session.completed")
    assert len({event["id"] for event in completed}) == 2
    till.hear(completed)
    assert till.balance == 25 * USD


def test_two_equal_payments_are_two_credits(till: Till) -> None:
    """Wrong deduplication loses the second one (LibreChat#13812, one-api#355)."""
    till.credited()
    till.credited()
    assert till.balance == 50 * USD
    assert not drifts(till)


def test_fifty_threads_on_five_roads_are_one_credit(till: Till) -> None:
    """Webhooks, the customer's return, the backfill and the nightly round at once (opencode#28402, pollinations#10621)."""
    top_up = till.paid()
    completed, intent = (
        till.news("checkout.session.completed"),
        till.fake.objects("payment_intent", latest_charge=till.fake.objects("charge")[-1]["id"]),
    )
    assert completed and intent
    session = stripe_client.fetch_session(top_up.session_id or "")
    payment = stripe_client.fetch_payment(intent[0]["id"])
    roads = [
        lambda: top_ups.converge(top_up_id=top_up.pk, now=timezone.now()),
        lambda: top_ups.converge(top_up_id=top_up.pk, now=timezone.now(), session=session),
        lambda: top_ups.converge(top_up_id=top_up.pk, now=timezone.now(), payment=payment),
        lambda: till.hear(completed),
        lambda: backfill.compare(
            since=timezone.now() - timedelta(minutes=5), until=timezone.now() + timedelta(minutes=5), now=timezone.now()
        ),
    ]
    start, problems = threading.Barrier(50), []

    def travel(road: Any) -> None:
        try:
            start.wait(30)
            road()
        except Exception as error:
            problems.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=travel, args=(roads[at % len(roads)],)) for at in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not problems
    assert till.balance == 25 * USD
    assert Transfer.objects.filter(wallet=till.customer.wallet).count() == 1
    assert not drifts(till)


def test_tax_is_paid_and_not_credited(till: Till, settings: Any) -> None:
    settings.STRIPE_TAX = True
    till.fake.set(tax_percent=19)
    top_up = till.credited()
    assert (top_up.paid_minor, till.balance) == (2975, 25 * USD)


def test_a_promotion_is_credited_in_full_where_it_is_allowed(till: Till, settings: Any) -> None:
    settings.STRIPE_PROMOTION_CODES = True
    till.fake.set(promotion_codes={"SAVE10": 10})
    top_up = till.paid(promotion_code="SAVE10")
    till.hear(till.news())
    top_up.refresh_from_db()
    assert (top_up.state, top_up.paid_minor, till.balance) == (TopUp.State.PAID, 2250, 25 * USD)


def test_a_declined_card_leaves_the_page_open(till: Till) -> None:
    top_up = till.checkout()
    with pytest.raises(Declined):
        till.fake.pay(top_up.session_id or "", "4000000000000002")
    till.hear(till.news())
    top_up.refresh_from_db()
    assert (top_up.state, till.balance) == (TopUp.State.OPEN, 0)
    till.fake.pay(top_up.session_id or "")
    till.hear(till.news())
    assert till.balance == 25 * USD


def test_a_customer_who_pays_while_the_news_of_the_decline_is_looked_into_is_credited(till: Till) -> None:
    top_up = till.checkout()
    with pytest.raises(Declined):
        till.fake.pay(top_up.session_id or "", "4000000000000002")
    session = stripe_client.fetch_session(top_up.session_id or "")
    declined = stripe_client.fetch_payment(session.payment_intent_id)
    till.fake.pay(top_up.session_id or "", "4242424242424242")
    settled = top_ups.converge(top_up_id=top_up.pk, now=timezone.now(), payment=declined)
    assert (settled.state, till.balance) == (TopUp.State.PAID, 25 * USD)


def test_an_expired_page_is_no_credit(till: Till) -> None:
    top_up = till.checkout()
    till.fake.expire(top_up.session_id or "")
    till.hear(till.news())
    top_up.refresh_from_db()
    assert (top_up.state, till.balance) == (TopUp.State.EXPIRED, 0)


def test_a_payment_whose_session_was_never_noted_is_found_by_its_event(till: Till) -> None:
    """Killed between Stripe's answer and our note of it."""
    top_up = till.paid()
    TopUp.objects.filter(pk=top_up.pk).update(session_id=None)
    till.hear(till.news("payment_intent.succeeded"))
    top_up.refresh_from_db()
    assert (till.balance, top_up.session_id is not None) == (25 * USD, True)


# -- What is not right -------------------------------------------------------------------------------------------------------------------


def quarantined(till: Till, **wrong: Any) -> TopUp:
    top_up = till.checkout()
    TopUp.objects.filter(pk=top_up.pk).update(**wrong)
    till.fake.pay(top_up.session_id or "")
    till.hear(till.news())
    top_up.refresh_from_db()
    return top_up


@pytest.mark.parametrize("wrong", [{"charge_minor": 2600}, {"charge_minor": 1}, {"is_live": True}], ids=str)
def test_a_payment_that_is_not_what_was_asked_for_is_quarantined(till: Till, wrong: dict[str, Any]) -> None:
    top_up = quarantined(till, **wrong)
    assert (top_up.state, top_up.paid_minor, till.balance) == (TopUp.State.QUARANTINED, 2500, 0)
    assert top_up.failure
    assert top_ups.converge(top_up_id=top_up.pk, now=timezone.now()).state == TopUp.State.QUARANTINED


def test_staff_credits_a_quarantined_payment_once(till: Till) -> None:
    from accounts.models import User

    user = User.objects.create_user(f"{uuid.uuid4().hex}@example.com")
    top_up = quarantined(till, charge_minor=2600)
    decide: dict[str, Any] = {"top_up_id": top_up.pk, "credit_nano": 25 * USD, "reason": "as paid", "user": user, "now": timezone.now()}
    top_ups.credit_quarantined(**decide)
    with pytest.raises(top_ups.NothingToDecide):
        top_ups.credit_quarantined(**decide)
    assert till.balance == 25 * USD
    assert not drifts(till)


def test_a_quarantined_payment_is_no_way_to_credit_any_sum_alone(till: Till, settings: Any) -> None:
    from accounts.models import User

    settings.ADJUSTMENT_LIMIT_USD = "10"
    user = User.objects.create_user(f"{uuid.uuid4().hex}@example.com")
    top_up = quarantined(till, charge_minor=2600)
    decide: dict[str, Any] = {"top_up_id": top_up.pk, "reason": "more", "user": user, "now": timezone.now()}
    with pytest.raises(top_ups.MoreThanPaid):
        top_ups.credit_quarantined(**decide, credit_nano=36 * USD + 1)
    assert till.balance == 0
    top_ups.credit_quarantined(**decide, credit_nano=36 * USD)
    assert till.balance == 36 * USD


def test_a_rejected_payment_stays_rejected_whatever_comes(till: Till) -> None:
    from accounts.models import User

    user = User.objects.create_user(f"{uuid.uuid4().hex}@example.com")
    top_up = quarantined(till, charge_minor=2600)
    top_ups.reject_quarantined(top_up_id=top_up.pk, reason="not ours", user=user, now=timezone.now())
    TopUp.objects.filter(pk=top_up.pk).update(charge_minor=2500)
    assert top_ups.converge(top_up_id=top_up.pk, now=timezone.now()).state == TopUp.State.FAILED
    assert till.balance == 0
    assert not drifts(till)


def test_somebody_elses_session_is_no_credit(till: Till) -> None:
    """A session of the same Stripe account that names no top-up."""
    params: Any = {
        "mode": "payment",
        "success_url": "http://x/",
        "client_reference_id": str(uuid.uuid4()),
        "line_items": [{"quantity": 1, "price_data": {"currency": "usd", "unit_amount": 999, "product_data": {"name": "A mug"}}}],
    }
    session = stripe_client.create_session(params, idempotency_key=uuid.uuid4().hex)
    till.fake.pay(session.id, email="a@example.com")
    states = till.hear(till.news("checkout.session.completed", "payment_intent.succeeded"))
    assert set(states) == {StripeEvent.State.IGNORED}


def test_a_payment_for_a_top_up_that_is_not_here_waits_for_staff(till: Till) -> None:
    """As after a restored backup: it names this installation, and no row."""
    top_up = till.paid()
    TopUp.objects.filter(pk=top_up.pk).delete()
    assert set(till.hear(till.news("checkout.session.completed"))) == {StripeEvent.State.QUARANTINED}


def test_a_session_of_another_top_up_is_no_credit_for_this_one(till: Till) -> None:
    mine, other = till.paid(), Till(till.fake).paid(7)
    TopUp.objects.filter(pk=mine.pk).update(session_id=None)
    TopUp.objects.filter(pk=other.pk).update(session_id=None)
    session = stripe_client.fetch_session(other.session_id or "")
    assert top_ups.converge(top_up_id=mine.pk, now=timezone.now(), session=session).state == TopUp.State.QUARANTINED
    assert till.balance == 0


def test_a_slow_top_up_of_a_stranger_changes_nothing_here(till: Till) -> None:
    bystander = make_customer(usd="3")
    till.credited()
    assert int(bystander.fresh_wallet().balance) == 3 * USD
