"""The fake Stripe moves simulated money as Stripe would: off-session charges, refunds, disputes, subscriptions, and the signed news of it."""

import http.server
import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.fakes.stripe import Declined, FakeStripe

DAY = 86_400


class Receiver:
    """A webhook endpoint: keeps what it gets, answers with the statuses in `answers`, then 200."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, str]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((body, self.headers.get("Stripe-Signature", "")))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the library's name
                """Stay silent."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/webhooks/stripe"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def events(self, secret: str) -> list[stripe.Event]:
        return [stripe.Webhook.construct_event(body, mark, secret) for body, mark in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def fake(receiver: Receiver) -> Iterator[FakeStripe]:
    with FakeStripe(deliver_to=receiver.url) as running:
        yield running


@pytest.fixture
def client(fake: FakeStripe) -> stripe.StripeClient:
    return stripe.StripeClient(fake.api_key, base_addresses={"api": fake.base_url}, max_network_retries=0)


def charge(client: stripe.StripeClient, method: str = "pm_card_visa", amount: int = 1000, **more: Any) -> stripe.PaymentIntent:
    """Charge `amount` cents when nobody is there."""
    asked = {"amount": amount, "currency": "usd", "payment_method": method, "confirm": True, "off_session": True, **more}
    return client.v1.payment_intents.create(asked)  # type: ignore[arg-type]


def subscribe(fake: FakeStripe, client: stripe.StripeClient, amount: int = 3000) -> tuple[stripe.Subscription, str]:
    """Subscribe through the checkout to a price of `amount` cents a month; return the subscription and the product."""
    product = client.v1.products.create({"name": "Pro"})
    price = client.v1.prices.create({"currency": "usd", "unit_amount": amount, "product": product.id, "recurring": {"interval": "month"}})
    customer = client.v1.customers.create({"email": "ada@example.com"})
    session = client.v1.checkout.sessions.create(
        {
            "mode": "subscription",
            "customer": customer.id,
            "success_url": "http://gateway.test/",
            "line_items": [{"price": price.id, "quantity": 1}],
            "subscription_data": {"metadata": {"account": "7"}},
        }
    )
    paid = fake.pay(session.id)
    return client.v1.subscriptions.retrieve(paid["subscription"]), product.id


def monthly(client: stripe.StripeClient, product: str, amount: int) -> str:
    return client.v1.prices.create({"currency": "usd", "unit_amount": amount, "product": product, "recurring": {"interval": "month"}}).id


def names(fake: FakeStripe) -> list[str]:
    return [event["type"] for event in fake.events]


# Charges off session


def test_a_saved_card_is_charged_when_nobody_is_there(fake: FakeStripe, client: stripe.StripeClient) -> None:
    customer = client.v1.customers.create({})
    card = fake.new_card(customer.id)
    intent = charge(client, card["id"], customer=customer.id, metadata={"topup": "t"})
    assert (intent.status, intent.amount_received) == ("succeeded", 1000)
    assert [one.id for one in client.v1.payment_intents.list({"customer": customer.id}).data] == [intent.id]
    assert client.v1.charges.retrieve(str(intent.latest_charge)).paid


@pytest.mark.parametrize(
    ("method", "code", "decline"),
    [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_authenticationRequired", "authentication_required", "authentication_required"),
        ("pm_card_authenticationRequiredOnSetup", "authentication_required", "authentication_required"),
    ],
)
def test_a_refused_charge_is_a_card_error_that_names_its_intent(
    fake: FakeStripe, client: stripe.StripeClient, method: str, code: str, decline: str
) -> None:
    with pytest.raises(stripe.CardError) as refused:
        charge(client, method, error_on_requires_action=True)
    error = refused.value.error
    assert error
    assert (refused.value.code, error.decline_code) == (code, decline)
    assert error.payment_intent
    assert client.v1.payment_intents.retrieve(error.payment_intent.id).status == "requires_payment_method"
    assert names(fake)[-2:] == ["charge.failed", "payment_intent.payment_failed"]


def test_an_intent_may_wait_for_consent_and_be_cancelled(fake: FakeStripe, client: stripe.StripeClient) -> None:
    waiting = [charge(client, "pm_card_authenticationRequired", off_session=False, return_url="http://gateway.test/") for _ in range(2)]
    assert {one.status for one in waiting} == {"requires_action"}
    assert fake.consent(waiting[0].id)["status"] == "succeeded"
    assert client.v1.payment_intents.cancel(waiting[1].id).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.payment_intents.cancel(waiting[0].id)
    assert refused.value.code == "payment_intent_unexpected_state"
    assert {"payment_intent.requires_action", "payment_intent.canceled"} <= set(names(fake))


def test_a_card_that_was_saved_may_fail_later(fake: FakeStripe, client: stripe.StripeClient) -> None:
    customer = client.v1.customers.create({})
    card = client.v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
    charge(client, card.id, customer=customer.id)
    fake.change_card(card.id, "4000000000009995")
    with pytest.raises(stripe.CardError):
        charge(client, card.id, customer=customer.id)
    client.v1.payment_methods.detach(card.id)
    assert client.v1.payment_methods.list({"customer": customer.id}).data == []


# What takes it away again


def test_refunds_add_up_to_the_charge_and_a_failed_one_comes_back(fake: FakeStripe, client: stripe.StripeClient) -> None:
    intent = charge(client)
    part = client.v1.refunds.create({"payment_intent": intent.id, "amount": 300, "metadata": {"by": "staff"}})
    with pytest.raises(stripe.InvalidRequestError, match=r"greater than unrefunded amount on charge \(\$7.00\)"):
        client.v1.refunds.create({"payment_intent": intent.id, "amount": 701})
    client.v1.refunds.create({"charge": str(intent.latest_charge)})
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.refunds.create({"payment_intent": intent.id})
    assert refused.value.code == "charge_already_refunded"
    found = client.v1.charges.retrieve(str(intent.latest_charge), {"expand": ["refunds"]})
    assert found.refunds
    assert ([one.amount for one in found.refunds.data], found.refunded) == ([700, 300], True)
    fake.change_refund(part.id, "failed")
    assert client.v1.charges.retrieve(found.id).amount_refunded == 700
    assert client.v1.refunds.retrieve(part.id).status == "failed"
    assert len(client.v1.refunds.list({"payment_intent": intent.id}).data) == 2
    assert names(fake)[-3:] == ["refund.updated", "charge.refund.updated", "refund.failed"]


@pytest.mark.parametrize("won", [True, False])
def test_a_dispute_takes_the_money_and_a_won_one_gives_it_back(fake: FakeStripe, client: stripe.StripeClient, *, won: bool) -> None:
    intent = charge(client)
    opened = fake.dispute(intent.id)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.refunds.create({"payment_intent": intent.id})
    assert refused.value.code == "charge_disputed"
    assert (
        client.v1.disputes.update(opened["id"], {"evidence": {"uncategorized_text": "they did"}, "submit": True}).status == "under_review"
    )
    fake.close_dispute(opened["id"], won=won)
    closed = client.v1.disputes.list({"payment_intent": intent.id}).data[0]
    assert (closed.status, sum(one.amount for one in closed.balance_transactions)) == (("won", 0) if won else ("lost", -1000))
    told = ["charge.dispute.created", "charge.dispute.funds_withdrawn", "charge.dispute.updated"]
    assert [name for name in names(fake) if "dispute" in name] == [
        *told,
        *(["charge.dispute.funds_reinstated"] if won else []),
        "charge.dispute.closed",
    ]


def test_an_inquiry_takes_no_money_and_a_bank_may_warn_of_fraud(fake: FakeStripe, client: stripe.StripeClient) -> None:
    intent = charge(client)
    inquiry = fake.dispute(intent.id, inquiry=True)
    assert fake.close_dispute(inquiry["id"], won=False)["status"] == "warning_closed"
    warning = fake.warn_of_fraud(intent.id)
    assert client.v1.radar.early_fraud_warnings.retrieve(warning["id"]).charge == intent.latest_charge
    assert "charge.dispute.funds_withdrawn" not in names(fake)


# Subscriptions


def test_a_subscription_renews_each_month_and_ends_at_a_periods_end_when_told(fake: FakeStripe, client: stripe.StripeClient) -> None:
    made, _ = subscribe(fake, client)
    assert (made.status, made.metadata["account"]) == ("active", "7")
    assert [name for name in names(fake) if name in {"invoice.paid", "customer.subscription.created", "checkout.session.completed"}] == [
        "invoice.paid",
        "customer.subscription.created",
        "checkout.session.completed",
    ]
    first_end = fake.object(made.id)["items"]["data"][0]["current_period_end"]
    fake.advance(32 * DAY)
    renewed = fake.object(made.id)["items"]["data"][0]
    assert renewed["current_period_start"] == first_end
    reasons = [one.billing_reason for one in client.v1.invoices.list({"subscription": made.id}).data]
    assert reasons == ["subscription_cycle", "subscription_create"]
    client.v1.subscriptions.update(made.id, {"cancel_at_period_end": True})
    assert fake.object(made.id)["cancel_at"] == renewed["current_period_end"]
    fake.advance(32 * DAY)
    assert client.v1.subscriptions.retrieve(made.id).status == "canceled"
    assert names(fake)[-1] == "customer.subscription.deleted"
    assert len(fake.objects("invoice")) == 2


def test_an_upgrade_is_prorated_by_the_second_and_charged_at_once(fake: FakeStripe, client: stripe.StripeClient) -> None:
    made, product = subscribe(fake, client, 3000)
    dearer = monthly(client, product, 9000)
    item = fake.object(made.id)["items"]["data"][0]
    half = (item["current_period_start"] + item["current_period_end"]) // 2
    change: Any = {"items": [{"id": item["id"], "price": dearer}], "proration_behavior": "always_invoice", "proration_date": half}
    shown = client.v1.invoices.create_preview({"subscription": made.id, "subscription_details": change})
    assert shown.total == 3000
    assert fake.object(made.id)["items"]["data"][0]["price"]["id"] == item["price"]["id"]
    client.v1.subscriptions.update(made.id, change)
    invoice = client.v1.invoices.retrieve(str(client.v1.subscriptions.retrieve(made.id).latest_invoice))
    assert ([line.amount for line in invoice.lines.data], invoice.amount_paid) == ([-1500, 4500], 3000)
    assert invoice.billing_reason == "subscription_update"


def test_an_upgrade_that_the_card_refuses_changes_nothing_when_asked_so(fake: FakeStripe, client: stripe.StripeClient) -> None:
    made, product = subscribe(fake, client)
    fake.change_card(str(made.default_payment_method), "4000000000000341")
    item = fake.object(made.id)["items"]["data"][0]
    with pytest.raises(stripe.CardError):
        client.v1.subscriptions.update(
            made.id,
            {
                "items": [{"id": item["id"], "price": monthly(client, product, 9000)}],
                "proration_behavior": "always_invoice",
                "payment_behavior": "error_if_incomplete",
            },
        )
    assert fake.object(made.id)["items"]["data"][0]["price"]["id"] == item["price"]["id"]


def test_a_downgrade_without_proration_is_charged_from_the_next_period_on(fake: FakeStripe, client: stripe.StripeClient) -> None:
    made, product = subscribe(fake, client, 3000)
    item = fake.object(made.id)["items"]["data"][0]
    cheaper = monthly(client, product, 1000)
    client.v1.subscriptions.update(made.id, {"items": [{"id": item["id"], "price": cheaper}], "proration_behavior": "none"})
    fake.advance(32 * DAY)
    assert [one["amount_paid"] for one in fake.objects("invoice")] == [3000, 1000]


def test_a_failed_renewal_is_tried_again_and_in_the_end_given_up(fake: FakeStripe, client: stripe.StripeClient) -> None:
    saved, _ = subscribe(fake, client)
    lost, _ = subscribe(fake, client)
    for one in (saved, lost):
        fake.change_card(str(one.default_payment_method), "4000000000000341")
    period_end = fake.object(saved.id)["items"]["data"][0]["current_period_end"]
    fake.advance(period_end - fake.store.now + DAY)  # after the first try, before the second, however long the month
    assert {fake.object(one.id)["status"] for one in (saved, lost)} == {"past_due"}
    fake.change_card(str(saved.default_payment_method), "4242424242424242")
    assert client.v1.invoices.pay(fake.object(saved.id)["latest_invoice"]).status == "paid"
    assert fake.object(saved.id)["status"] == "active"
    fake.advance(20 * DAY)
    assert fake.object(lost.id)["status"] == "canceled"
    tries = fake.object(fake.object(lost.id)["latest_invoice"])["attempt_count"]
    assert tries == 4
    assert names(fake).count("invoice.payment_failed") == 5


# News


def test_deliveries_are_signed_so_that_the_library_believes_them(fake: FakeStripe, client: stripe.StripeClient, receiver: Receiver) -> None:
    intent = charge(client)
    assert [one.status for one in fake.deliver_pending()] == [200, 200, 200]
    events = receiver.events(fake.webhook_secret)
    assert [one.type for one in events] == ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]
    assert events[2].data.object["id"] == intent.id
    assert fake.pending == []
    listed = client.v1.events.list({"types": ["payment_intent.succeeded"]}).data
    assert [(one.id, one.api_version, one.request.id is not None if one.request else None) for one in listed] == [
        (events[2].id, stripe.api_version, True)
    ]


@pytest.mark.parametrize("signed_with", ["old", "wrong", "none"])
def test_a_delivery_that_is_signed_otherwise_is_not_believed(
    fake: FakeStripe, client: stripe.StripeClient, receiver: Receiver, signed_with: str
) -> None:
    fake.knobs.signed_with = signed_with
    client.v1.customers.create({})
    fake.deliver_pending()
    with pytest.raises(stripe.SignatureVerificationError):
        receiver.events(fake.webhook_secret)
    if signed_with == "old":
        assert len(receiver.events(fake.old_webhook_secret)) == 1


def test_an_old_signature_is_stale_and_both_secrets_sign_while_one_is_rolled(
    fake: FakeStripe, client: stripe.StripeClient, receiver: Receiver
) -> None:
    client.v1.customers.create({})
    fake.knobs.signed_with = "both"
    fake.deliver_pending()
    assert receiver.events(fake.webhook_secret)[0].id == receiver.events(fake.old_webhook_secret)[0].id
    receiver.got.clear()
    fake.knobs.age_seconds = 400
    fake.deliver(fake.events[0]["id"])
    with pytest.raises(stripe.SignatureVerificationError, match="tolerance"):
        receiver.events(fake.webhook_secret)


def test_deliveries_are_repeated_dropped_reordered_and_claim_what_they_are_told(
    fake: FakeStripe, client: stripe.StripeClient, receiver: Receiver
) -> None:
    charge(client)
    fake.knobs.copies, fake.knobs.livemode, fake.knobs.api_version = 2, True, "2020-08-27"
    fake.knobs.drop = lambda event: event["type"] == "charge.succeeded"
    fake.deliver_pending(order=lambda events: events[::-1])
    events = receiver.events(fake.webhook_secret)
    assert [one.type for one in events] == ["payment_intent.succeeded"] * 2 + ["payment_intent.created"] * 2
    assert {(one.livemode, one.api_version) for one in events} == {(True, "2020-08-27")}
    fake.knobs.shuffle = random.Random(1)
    assert len(client.v1.events.list().data) == 3


def test_one_fact_may_be_told_by_two_events(fake: FakeStripe, client: stripe.StripeClient) -> None:
    fake.set(twin_events=True)
    client.v1.customers.create({})
    assert (names(fake), len({one["id"] for one in fake.events})) == (["customer.created"] * 2, 2)


def test_a_delivery_that_is_not_taken_waits_and_is_tried_again(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = [500, 500]
    with FakeStripe(deliver_to=receiver.url, automatic=True, file=tmp_path / "stripe.json") as fake:
        fake.knobs.retry_seconds = 0.01
        client = stripe.StripeClient(fake.api_key, base_addresses={"api": fake.base_url})
        made = client.v1.customers.create({})
        assert fake.deliveries.drained(10)
        assert [one.status for one in fake.deliveries.attempts] == [500, 500, 200]
        assert fake.events[0]["pending_webhooks"] == 0
    with FakeStripe(file=tmp_path / "stripe.json") as again:
        assert again.object(made.id)["id"] == made.id


def test_a_refused_card_on_the_page_raises_for_a_test_that_pays_directly(fake: FakeStripe, client: stripe.StripeClient) -> None:
    line: Any = {"price_data": {"currency": "usd", "unit_amount": 500, "product_data": {"name": "x"}}, "quantity": 1}
    made = client.v1.checkout.sessions.create({"mode": "payment", "success_url": "http://gateway.test/", "line_items": [line]})
    for number, consent in (("4000000000000002", True), ("4000002760003184", False)):
        with pytest.raises(Declined):
            fake.pay(made.id, number, consent=consent)
    assert fake.pay(made.id)["payment_status"] == "paid"


def test_the_command_line_keeps_everything_in_its_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fakes.stripe", "--state", str(tmp_path / "stripe.json")]
    for expected in (0, 1):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            told = json.loads(process.stdout.readline())
            client = stripe.StripeClient("sk_test_anything", base_addresses={"api": told["base_url"]})
            assert len(client.v1.customers.list().data) == expected
            client.v1.customers.create({})
            process.terminate()
        assert process.returncode == 0
