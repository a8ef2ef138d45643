"""The fake Stripe answers the real library as Stripe would: parameters, shapes, idempotency, pages of lists, and the checkout page."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import stripe

from tests.fakes.stripe import FakeStripe, shapes
from tests.fakes.stripe.store import KINDS

SUCCESS = "http://gateway.test/done?session={CHECKOUT_SESSION_ID}"


@pytest.fixture
def fake() -> Iterator[FakeStripe]:
    with FakeStripe() as running:
        yield running


@pytest.fixture
def client(fake: FakeStripe) -> stripe.StripeClient:
    return client_of(fake, fake.api_key)


def client_of(fake: FakeStripe, key: str) -> stripe.StripeClient:
    return stripe.StripeClient(key, base_addresses={"api": fake.base_url}, max_network_retries=0)


def checkout(client: stripe.StripeClient, **changes: Any) -> Any:
    """Make a payment session of $10.00."""
    line = {"price_data": {"currency": "usd", "unit_amount": 1000, "product_data": {"name": "Credit"}}, "quantity": 1}
    params = {"mode": "payment", "success_url": SUCCESS, "cancel_url": "http://gateway.test/back", "line_items": [line], **changes}
    return client.v1.checkout.sessions.create({name: value for name, value in params.items() if value is not None})  # type: ignore[arg-type]


def names(fake: FakeStripe) -> list[str]:
    return [event["type"] for event in fake.events]


@pytest.mark.parametrize("kind", KINDS)
def test_a_blank_object_has_the_shape_that_the_library_annotates(kind: str) -> None:
    cls = KINDS[kind][0]
    assert shapes.faults(shapes.blank(cls), cls) == []


def test_a_field_that_the_library_does_not_know_or_types_otherwise_is_a_fault() -> None:
    blank = shapes.blank(stripe.Charge)
    assert shapes.faults({**blank, "surprise": 1}, stripe.Charge) == ["Charge.surprise: unknown field"]
    assert shapes.faults({**blank, "amount": "5"}, stripe.Charge) == ["Charge.amount: '5' is no int"]
    assert len(shapes.faults({**blank, "status": "nearly"}, stripe.Charge)) == 1
    assert shapes.faults({name: value for name, value in blank.items() if name != "paid"}, stripe.Charge) == ["Charge.paid: missing"]


def test_leaving_the_block_raises_when_the_fake_said_what_stripe_would_not() -> None:
    with pytest.raises(AssertionError, match="surprise"), FakeStripe() as running:
        made = client_of(running, running.api_key).v1.customers.create({})
        running.store.objects["customer"][made.id]["surprise"] = 1
        client_of(running, running.api_key).v1.customers.retrieve(made.id)


def test_a_customer_is_made_changed_found_and_deleted(fake: FakeStripe, client: stripe.StripeClient) -> None:
    made = client.v1.customers.create({"email": "ada@example.com", "metadata": {"account": "7", "old": "1"}})
    client.v1.customers.create({"email": "bob@example.com"})
    changed = client.v1.customers.update(made.id, {"name": "Ada", "metadata": {"old": ""}})
    assert (changed.name, changed.metadata.to_dict() if changed.metadata else None) == ("Ada", {"account": "7"})
    assert [one.id for one in client.v1.customers.list({"email": "ada@example.com"}).data] == [made.id]
    assert [one.id for one in client.v1.customers.search({"query": "metadata['account']:'7'"}).data] == [made.id]
    assert client.v1.customers.delete(made.id).deleted
    assert getattr(client.v1.customers.retrieve(made.id), "deleted", False)
    assert names(fake) == ["customer.created", "customer.created", "customer.updated", "customer.deleted"]
    assert fake.events[2]["data"]["previous_attributes"]["name"] is None


@pytest.mark.parametrize(
    ("params", "code", "param"),
    [
        ({"emial": "x"}, "parameter_unknown", "emial"),
        ({"address": {"planet": "x"}}, "parameter_unknown", "address[planet]"),
        ({"tax_exempt": "sometimes"}, None, "tax_exempt"),
        ({"balance": "much"}, "parameter_invalid_integer", "balance"),
    ],
)
def test_parameters_that_the_library_does_not_type_are_refused_in_stripes_words(
    client: stripe.StripeClient, params: Any, code: str | None, param: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.customers.create(params)
    assert (refused.value.code, refused.value.param, refused.value.http_status) == (code, param, 400)


def test_a_key_that_is_none_is_refused_and_each_mode_has_its_own_objects(fake: FakeStripe, client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.AuthenticationError):
        client_of(fake, "nonsense").v1.customers.list()
    made = client.v1.customers.create({})
    live = client_of(fake, fake.live_api_key)
    with pytest.raises(stripe.InvalidRequestError, match="similar object exists in test mode"):
        live.v1.customers.retrieve(made.id)
    assert live.v1.customers.create({}).livemode
    assert [event["livemode"] for event in fake.events] == [False, True]


def test_the_same_idempotency_key_gives_the_same_answer_until_a_day_has_passed(fake: FakeStripe, client: stripe.StripeClient) -> None:
    first = client.v1.customers.create({"name": "A"}, {"idempotency_key": "k"})
    again = client.v1.customers.create({"name": "A"}, {"idempotency_key": "k"})
    assert again.id == first.id
    assert again.last_response
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    with pytest.raises(stripe.IdempotencyError):
        client.v1.customers.create({"name": "B"}, {"idempotency_key": "k"})
    fake.advance(86_401)
    assert client.v1.customers.create({"name": "A"}, {"idempotency_key": "k"}).id != first.id


def test_a_declined_card_is_declined_again_under_its_idempotency_key_without_another_attempt(
    fake: FakeStripe, client: stripe.StripeClient
) -> None:
    for _ in range(2):
        with pytest.raises(stripe.CardError):
            client.v1.payment_intents.create(
                {"amount": 500, "currency": "usd", "confirm": True, "off_session": True, "payment_method": "pm_card_chargeDeclined"},
                {"idempotency_key": "once"},
            )
    assert len(fake.objects("charge")) == 1


def test_a_call_refused_for_its_parameters_may_be_mended_under_the_same_key(client: stripe.StripeClient) -> None:
    wrong: Any = {"emial": "x"}
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.customers.create(wrong, {"idempotency_key": "k"})
    assert client.v1.customers.create({"email": "x"}, {"idempotency_key": "k"}).email == "x"


def test_what_is_not_simulated_is_refused_instead_of_passed_over(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="does not simulate capture_method='manual'"):
        client.v1.payment_intents.create({"amount": 500, "currency": "usd", "capture_method": "manual"})


def test_a_lost_answer_is_found_again_by_the_librarys_own_retry(fake: FakeStripe) -> None:
    patient = stripe.StripeClient(fake.api_key, base_addresses={"api": fake.base_url}, max_network_retries=1)
    fake.break_next("POST /v1/customers", "lost")
    made = patient.v1.customers.create({})
    assert [one["id"] for one in fake.objects("customer")] == [made.id]
    assert [call.replayed for call in fake.calls] == [False, True]


def test_a_broken_call_does_nothing_and_answers_as_told(fake: FakeStripe, client: stripe.StripeClient) -> None:
    fake.break_next("POST /v1/customers", "500")
    fake.break_next("POST /v1/customers", "429")
    fake.break_next("POST /v1/customers", "reset")
    for error in (stripe.APIError, stripe.RateLimitError, stripe.APIConnectionError):
        with pytest.raises(error):
            client.v1.customers.create({})
    assert fake.objects("customer") == []


def test_lists_are_newest_first_and_are_paged_to_the_end(client: stripe.StripeClient) -> None:
    made = [client.v1.customers.create({}).id for _ in range(5)]
    page = client.v1.customers.list({"limit": 2})
    assert ([one.id for one in page.data], page.has_more) == (made[:2:-1], True)
    assert [one.id for one in page.auto_paging_iter()] == made[::-1]
    assert [one.id for one in client.v1.customers.list({"ending_before": made[1], "limit": 2}).data] == [made[3], made[2]]
    moment = client.v1.customers.retrieve(made[0]).created
    assert client.v1.customers.list({"created": {"gte": moment + 100}}).data == []
    assert len(client.v1.customers.list({"created": {"gte": moment}}).data) == 5


def test_an_unknown_id_an_unknown_call_and_an_unknown_expansion_are_refused(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="No such payment intent: 'pi_none'") as refused:
        client.v1.payment_intents.retrieve("pi_none")
    assert (refused.value.http_status, refused.value.code) == (404, "resource_missing")
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL"):
        client.v1.topups.list()
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        client.v1.customers.create({"expand": ["wings"]})


def test_prices_are_found_by_their_lookup_keys(client: stripe.StripeClient) -> None:
    product = client.v1.products.create({"name": "Pro", "metadata": {"plan": "pro"}})
    price = client.v1.prices.create(
        {"currency": "usd", "unit_amount": 2000, "product": product.id, "recurring": {"interval": "month"}, "lookup_key": "pro"}
    )
    found = client.v1.prices.list({"lookup_keys": ["pro"], "expand": ["data.product"]}).data
    assert [(one.id, one.product.name) for one in found] == [(price.id, "Pro")]  # type: ignore[union-attr]
    assert client.v1.products.retrieve(product.id).metadata["plan"] == "pro"


# The page


def test_a_checkout_clicked_through_leads_back_with_its_id_and_everything_paid(fake: FakeStripe, client: stripe.StripeClient) -> None:
    customer = client.v1.customers.create({"email": "ada@example.com"})
    data = {"setup_future_usage": "off_session", "metadata": {"topup": "t1"}}
    made = checkout(client, customer=customer.id, client_reference_id="t1", payment_intent_data=data, metadata={"a": "b"})
    with httpx.Client() as browser:
        page = browser.get(made.url)
        assert "SIMULATED: no money moves" in page.text
        assert "$10.00" in page.text
        assert 'href="http://gateway.test/back"' in page.text
        done = browser.post(made.url, data={"number": "4242 4242 4242 4242"})
        assert (done.status_code, done.headers["location"]) == (303, f"http://gateway.test/done?session={made.id}")
        paid = client.v1.checkout.sessions.retrieve(made.id, {"expand": ["payment_intent.latest_charge", "line_items"]})
        charge = paid.payment_intent.latest_charge  # type: ignore[union-attr]
        assert "$10.00" in browser.get(charge.receipt_url).text  # type: ignore[union-attr,arg-type]
        assert browser.get(made.url + "").status_code == 303
    assert (paid.status, paid.payment_status, paid.amount_total, paid.client_reference_id) == ("complete", "paid", 1000, "t1")
    assert paid.line_items
    assert paid.line_items.data[0].amount_total == 1000
    assert fake.objects("payment_intent")[0]["metadata"] == {"topup": "t1"}
    assert [one.type for one in client.v1.customers.payment_methods.list(customer.id).data] == ["card"]
    assert names(fake)[-4:] == ["payment_method.attached", "charge.succeeded", "payment_intent.succeeded", "checkout.session.completed"]


def test_a_declined_card_stays_on_the_page_with_the_reason_and_another_card_pays(fake: FakeStripe, client: stripe.StripeClient) -> None:
    made = checkout(client)
    page = httpx.post(made.url, data={"number": "4000000000000002"})
    assert page.status_code == 200
    assert 'role="alert"' in page.text
    assert "Your card was declined." in page.text
    assert "incorrect" in httpx.post(made.url, data={"number": "1234"}).text
    assert fake.object(made.id)["status"] == "open"
    assert httpx.post(made.url, data={"number": "4242424242424242"}).status_code == 303
    assert len(fake.objects("payment_intent")) == 1
    assert names(fake).count("payment_intent.payment_failed") == 1


@pytest.mark.parametrize("number", ["4000002500003155", "4000002760003184"])
def test_a_card_that_asks_for_consent_shows_a_page_that_completes_or_fails(
    fake: FakeStripe, client: stripe.StripeClient, number: str
) -> None:
    made = checkout(client)
    asked = httpx.post(made.url, data={"number": number})
    assert "3D Secure" in asked.text
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', asked.text))
    failed = httpx.post(made.url, data={**hidden, "consent": "fail"})
    assert "unable to authenticate" in failed.text
    assert fake.object(made.id)["status"] == "open"
    assert httpx.post(made.url, data={**hidden, "consent": "complete"}).status_code == 303
    assert fake.object(made.id)["payment_status"] == "paid"


@pytest.mark.parametrize("succeed", [True, False])
def test_a_bank_debit_completes_unpaid_and_its_money_comes_or_fails_later(
    fake: FakeStripe, client: stripe.StripeClient, *, succeed: bool
) -> None:
    made = checkout(client)
    assert httpx.post(made.url, data={"method": "bank_debit"}).status_code == 303
    assert (fake.object(made.id)["status"], fake.object(made.id)["payment_status"]) == ("complete", "unpaid")
    intent = fake.objects("payment_intent")[0]
    assert intent["status"] == "processing"
    lever = {"id": intent["id"], "deed": "settle" if succeed else "bounce"}
    assert httpx.post(f"{fake.base_url}/simulator", data=lever).status_code == 303
    assert fake.object(made.id)["payment_status"] == ("paid" if succeed else "unpaid")
    assert names(fake)[-1] == f"checkout.session.async_payment_{'succeeded' if succeed else 'failed'}"


def test_tax_comes_on_top_and_a_promotion_code_takes_off_while_the_subtotal_stays(fake: FakeStripe, client: stripe.StripeClient) -> None:
    fake.set(tax_percent=20.0)
    made = checkout(client, automatic_tax={"enabled": True}, allow_promotion_codes=True)
    assert (made.amount_subtotal, made.amount_total) == (1000, 1200)
    assert "invalid" in httpx.post(made.url, data={"number": "4242424242424242", "promotion_code": "NOPE"}).text
    httpx.post(made.url, data={"number": "4242424242424242", "promotion_code": "SAVE10"})
    paid = fake.object(made.id)
    assert (paid["amount_subtotal"], paid["amount_total"]) == (1000, 1080)
    assert paid["total_details"] == {"amount_discount": 100, "amount_shipping": 0, "amount_tax": 180}
    assert fake.objects("charge")[0]["amount"] == 1080


def test_a_promotion_code_that_takes_all_off_leaves_nothing_to_pay(fake: FakeStripe, client: stripe.StripeClient) -> None:
    fake.set(promotion_codes={"GRATIS": 100})
    made = checkout(client, allow_promotion_codes=True)
    paid = fake.pay(made.id, promotion_code="GRATIS")
    assert (paid["status"], paid["payment_status"], paid["amount_total"]) == ("complete", "no_payment_required", 0)
    assert fake.objects("payment_intent") == []


def test_a_session_expires_after_a_day_or_when_asked_and_cannot_be_paid_then(fake: FakeStripe, client: stripe.StripeClient) -> None:
    asked, forgotten = checkout(client), checkout(client)
    client.v1.checkout.sessions.expire(asked.id)
    fake.advance(86_500)
    assert {fake.object(one.id)["status"] for one in (asked, forgotten)} == {"expired"}
    assert names(fake).count("checkout.session.expired") == 2
    assert httpx.post(forgotten.url, data={"number": "4242424242424242"}).status_code == 410
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.checkout.sessions.expire(asked.id)
    assert fake.objects("charge") == []


def test_a_setup_session_saves_a_card_that_may_be_charged_when_nobody_is_there(fake: FakeStripe, client: stripe.StripeClient) -> None:
    customer = client.v1.customers.create({})
    made = client.v1.checkout.sessions.create({"mode": "setup", "customer": customer.id, "success_url": SUCCESS, "currency": "usd"})
    fake.pay(made.id, "4000002500003155")
    done = client.v1.checkout.sessions.retrieve(made.id, {"expand": ["setup_intent.payment_method"]})
    method = done.setup_intent.payment_method  # type: ignore[union-attr]
    assert method.card.last4 == "3155"  # type: ignore[union-attr]
    assert names(fake)[-3:] == ["payment_method.attached", "setup_intent.succeeded", "checkout.session.completed"]
    intent = client.v1.payment_intents.create(
        {
            "amount": 700,
            "currency": "usd",
            "customer": customer.id,
            "payment_method": method.id,  # type: ignore[union-attr]
            "confirm": True,
            "off_session": True,
            "error_on_requires_action": True,
        }
    )
    assert intent.status == "succeeded"


def test_an_invoice_is_made_when_the_session_asks_for_one(fake: FakeStripe, client: stripe.StripeClient) -> None:
    customer = client.v1.customers.create({"email": "ada@example.com"})
    made = checkout(client, customer=customer.id, invoice_creation={"enabled": True, "invoice_data": {"metadata": {"topup": "t"}}})
    fake.pay(made.id)
    invoice = client.v1.invoices.retrieve(fake.object(made.id)["invoice"], {"expand": ["payments"]})
    assert (invoice.status, invoice.amount_paid) == ("paid", 1000)
    assert invoice.payments
    assert invoice.payments.data[0].payment.payment_intent == fake.object(made.id)["payment_intent"]


def test_the_billing_portal_removes_cards(fake: FakeStripe, client: stripe.StripeClient) -> None:
    customer = client.v1.customers.create({})
    card = fake.new_card(customer.id, default=True)
    session = client.v1.billing_portal.sessions.create({"customer": customer.id, "return_url": "http://gateway.test/"})
    assert "4242" in httpx.get(session.url).text
    httpx.post(session.url, data={"id": card["id"], "deed": "remove"})
    assert fake.object(card["id"])["customer"] is None
    assert names(fake)[-2:] == ["payment_method.detached", "customer.updated"]


def test_a_form_of_another_site_moves_nothing(fake: FakeStripe, client: stripe.StripeClient) -> None:
    made = checkout(client)
    posted = httpx.post(made.url, data={"number": "4242424242424242"}, headers={"Origin": "http://elsewhere.test"})
    assert posted.status_code == 403
    assert fake.object(made.id)["status"] == "open"
