"""A fake Stripe on a real socket: stands in for the API, the checkout page and the webhooks. No money moves.

    with FakeStripe(deliver_to="http://127.0.0.1:8000/webhooks/stripe") as fake:   # deliver_to: one URL, several, or none
        client = stripe.StripeClient(fake.api_key, base_addresses={"api": fake.base_url}, max_network_retries=0)
    python -m tests.fakes.stripe --port 0 --state FILE --deliver-to URL --secret whsec_...   # prints {"port", "base_url"}

Every request's parameters are decoded by stripe-python's params types (unknown or mistyped: 400, as Stripe), every answer and every event is
checked against its resource annotations; what they do not allow is listed in `.mistakes`, and leaving the `with` block then raises (unless
`strict=False`). Calls that are not simulated answer 404 "Unrecognized request URL". Keys: `.api_key` (test), `.live_api_key`; each mode has its
own objects. An event is checked and listed when it happens; deliveries wait in `.pending` for `deliver_pending()`, or leave by themselves with
`automatic=True` (the command line does; failed ones are tried again).

What is there: customers (search too), products, prices, checkout sessions (payment, setup, subscription; line items), payment intents, setup
intents, payment methods, charges, balance transactions, refunds, disputes, early fraud warnings, subscriptions, invoices (pay, void,
create_preview), invoice payments, billing portal sessions, events, webhook endpoints. `expand` everywhere, also `charge.refunds`,
`customer.subscriptions`, `invoice.payments` and `line_items`. Not simulated: Connect, coupons by API, subscription schedules, adding items to a
subscription, manual capture, currencies' own minimums.

Cards (the page's number field, `pay(session, number)`, and the tokens `pm_card_visa`, `pm_card_chargeDeclined`, ... of `cards.TOKENS`)
    4242424242424242 succeeds · 4000000000000002 declines · 4000000000009995 insufficient funds · 4000000000000069 expired ·
    4000000000000127 wrong CVC · 4000000000000341 can be saved, declines when charged later · 4000002500003155 asks for consent unless it was set
    up for later · 4000002760003184 always asks · 4000000000000259 succeeds, then a dispute · "bank" pays late.
    Off session, or with error_on_requires_action, asking for consent is a 402 `authentication_required` whose error has the payment intent.
Pages: /c/pay/<session> (fields number, method=card|bank_debit, email, promotion_code, consent=complete|fail) · /consent/<intent> ·
    /receipts/<charge> · /invoices/<invoice> · /p/session/<portal session> · /simulator (levers for what a bank does next).

Deeds, each returning a copy of the object
    pay(session_id, number, promotion_code=, consent=True) raises checkout.Declined · settle(session_id, succeed=) a late debit · expire(session_id)
    · consent(intent_id, complete=) · new_card(customer_id, number, default=) · change_card(method_id, number) · refund(id, amount) ·
    change_refund(refund_id, "failed"|"succeeded"|"canceled") · dispute(id, amount=, withdraw=, inquiry=) · close_dispute(id, won=) ·
    warn_of_fraud(id) · advance(seconds): renewals, dunning (3, 5, 7 days, then canceled), expiry of sessions (24 h), keys forgotten (24 h).
Knobs
    set(tax_percent=, promotion_codes={"SAVE10": 10}, twin_events=True, refund_status="pending") · break_next("POST /v1/refunds",
    "lost"|"reset"|"500"|"429", times=) · forget_idempotency_keys() · .knobs of deliveries: copies, drop, shuffle, delay_seconds,
    signed_with="current"|"old"|"wrong"|"both"|"none", livemode, api_version, age_seconds, retries, retry_seconds.
Looking
    object(id) · objects(kind, **fields) · events · calls (method, path, params as strings, idempotency_key, status, replayed) · pending ·
    deliver_pending(order=reversed, only=lambda event: ...) · deliver(event_id) again · forget_pending() · deliveries.attempts ·
    deliveries.drained(timeout) · signed(event_id) -> (body, Stripe-Signature).

The fake's clock stamps objects and events; a signature always bears the real time. With `file=` everything is kept there across restarts.
"""

from tests.fakes.stripe.checkout import Declined
from tests.fakes.stripe.deliveries import Delivery
from tests.fakes.stripe.server import FakeStripe

__all__ = ["Declined", "Delivery", "FakeStripe"]
