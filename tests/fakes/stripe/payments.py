"""Payment intents and the charges that come of them: confirming, asking for consent, declining, paying late, cancelling."""

from stripe import BalanceTransaction, Charge

from tests.fakes.stripe import cards, shapes
from tests.fakes.stripe.refusals import Refused, missing
from tests.fakes.stripe.shapes import OMIT, Json
from tests.fakes.stripe.store import Store, client_secret, merge_metadata

CONSENT = "Your card was declined. This transaction requires authentication."
_OPEN = {"requires_payment_method", "requires_confirmation", "requires_action"}


def create(store: Store, params: Json) -> Json:
    """Serve POST /v1/payment_intents. Raises: Refused; a card's refusal carries the intent, as Stripe's does."""
    if params["amount"] < 50:
        raise Refused(400, "Amount must be at least $0.50 usd", code="amount_too_small", param="amount")
    if params["amount"] > 99_999_999:
        raise Refused(400, "Amount must be no more than $999,999.99", code="amount_too_large", param="amount")
    if params.get("customer") and store.get("customer", params["customer"], "customer").get("deleted"):
        raise Refused(400, f"No such customer: '{params['customer']}'", code="resource_missing", param="customer")
    for name in ("off_session", "error_on_requires_action"):
        if params.get(name) and not params.get("confirm"):
            raise Refused(400, f"You can only set `{name}` when `confirm` is true.", param=name)
    intent = make(store, params["amount"], params["currency"], params)
    if params.get("payment_method"):
        _take_method(store, intent, params["payment_method"])
    if params.get("confirm"):
        if not intent["payment_method"]:
            raise missing("payment_method")
        _confirm(store, intent, params)
    return intent


def make(store: Store, amount: int, currency: str, params: Json) -> Json:
    """Make an intent without a payment method; `params` as of creation, or of a session's `payment_intent_data`."""
    intent = store.add(
        "payment_intent",
        amount=amount,
        amount_details={"tip": {}},
        currency=currency,
        capture_method=params.get("capture_method", "automatic_async"),
        confirmation_method=params.get("confirmation_method", "automatic"),
        customer=params.get("customer"),
        description=params.get("description"),
        metadata={},
        payment_method_types=params.get("payment_method_types", ["card", "us_bank_account"]),
        receipt_email=params.get("receipt_email"),
        setup_future_usage=params.get("setup_future_usage"),
        statement_descriptor=params.get("statement_descriptor"),
        statement_descriptor_suffix=params.get("statement_descriptor_suffix"),
        status="requires_payment_method",
        **dict.fromkeys(
            ("allowed_payment_method_types", "customer_account", "hooks", "managed_payments", "payment_details", "payment_record"), OMIT
        ),
    )
    if params.get("automatic_payment_methods"):
        intent["automatic_payment_methods"] = {"allow_redirects": "always", **params["automatic_payment_methods"]}
    intent["client_secret"] = client_secret(intent["id"])
    merge_metadata(intent, params.get("metadata"))
    store.emit("payment_intent.created", intent)
    return intent


def update(store: Store, params: Json, id_: str) -> Json:
    """Serve POST /v1/payment_intents/:id."""
    intent = store.get("payment_intent", id_)
    if params.get("payment_method"):
        _take_method(store, intent, params["payment_method"])
    for name in ("amount", "description", "receipt_email", "setup_future_usage", "customer"):
        if name in params:
            if intent["status"] not in _OPEN and name == "amount":
                raise _unexpected(intent, "updated")
            intent[name] = params[name]
    merge_metadata(intent, params.get("metadata"))
    return intent


def confirm(store: Store, params: Json, id_: str) -> Json:
    """Serve POST /v1/payment_intents/:id/confirm."""
    intent = store.get("payment_intent", id_)
    if intent["status"] not in _OPEN:
        raise _unexpected(intent, "confirmed")
    if params.get("payment_method"):
        _take_method(store, intent, params["payment_method"])
    if not intent["payment_method"]:
        raise missing("payment_method")
    _confirm(store, intent, params)
    return intent


def cancel(store: Store, params: Json, id_: str) -> Json:
    """Serve POST /v1/payment_intents/:id/cancel."""
    intent = store.get("payment_intent", id_)
    if intent["status"] not in _OPEN:
        raise _unexpected(intent, "canceled")
    intent |= {
        "status": "canceled",
        "canceled_at": store.now,
        "cancellation_reason": params.get("cancellation_reason"),
        "next_action": None,
    }
    store.emit("payment_intent.canceled", intent)
    return intent


def listing(store: Store, params: Json) -> Json:
    """Serve GET /v1/payment_intents."""
    return store.page(store.all("payment_intent", **_filters(params, "customer")), params, "/v1/payment_intents")


def charges(store: Store, params: Json) -> Json:
    """Serve GET /v1/charges."""
    return store.page(store.all("charge", **_filters(params, "customer", "payment_intent")), params, "/v1/charges")


def update_charge(store: Store, params: Json, id_: str) -> Json:
    """Serve POST /v1/charges/:id."""
    charge = store.get("charge", id_)
    with store.change(charge, "charge.updated"):
        for name in ("description", "receipt_email"):
            if name in params:
                charge[name] = params[name]
        merge_metadata(charge, params.get("metadata"))
    return charge


def collect(store: Store, intent: Json, method: Json, *, on_session: bool, consented: bool = False) -> str:
    """Try to take an intent's money from `method`; return what became of it: its status, or a code of refusal.

    "authentication_required": the bank wants the customer, who is not there. Any other code: declined.
    """
    intent |= {"payment_method": method["id"], "last_payment_error": None, "next_action": None}
    if method["type"] != "card":
        intent["status"] = "processing"
        store.emit("payment_intent.processing", intent)
        return "processing"
    does = cards.behaviour(store, method)
    wants_consent = does.consent == "always" or (does.consent == "unless set up" and not store.secret(method["id"]).get("set_up"))
    if wants_consent and not consented:
        if on_session:
            intent["status"] = "requires_action"
            where = {"url": f"{store.base_url}/consent/{intent['id']}", "return_url": store.secret(intent["id"]).get("return_url")}
            intent["next_action"] = {"type": "redirect_to_url", "redirect_to_url": where}
            store.emit("payment_intent.requires_action", intent)
            return "requires_action"
        decline(store, intent, method, "authentication_required", "authentication_required", CONSENT)
        return "authentication_required"
    if does.code:
        decline(store, intent, method, does.code, does.decline_code, does.message)
        return does.code
    settle(store, intent)
    if does.disputed:
        from tests.fakes.stripe import disputes  # which opens them against charges

        disputes.open_against(
            store, store.get("charge", intent["latest_charge"]), amount=None, reason="fraudulent", withdraw=True, inquiry=False
        )
    return "succeeded"


def settle(store: Store, intent: Json) -> Json:
    """Let an intent's money arrive; return the charge."""
    method = store.get("payment_method", intent["payment_method"])
    charge = make_charge(store, intent, method, status="succeeded")
    intent |= {"status": "succeeded", "amount_received": intent["amount"], "latest_charge": charge["id"], "next_action": None}
    if intent["setup_future_usage"] and intent["customer"]:
        cards.save(store, method, intent["customer"])
        store.secret(method["id"])["set_up"] = True
    store.emit("charge.succeeded", charge)
    store.emit("payment_intent.succeeded", intent)
    return charge


def decline(store: Store, intent: Json, method: Json, code: str, decline_code: str, message: str) -> None:
    """Let an intent's attempt fail; it waits for another payment method."""
    charge = make_charge(store, intent, method, status="failed", failure_code=code, failure_message=message, decline_code=decline_code)
    told: Json = {"type": "card_error", "code": code, "message": message, "charge": charge["id"], "payment_method": method}
    if decline_code:
        told["decline_code"] = decline_code
    doc_url = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
    intent |= {
        "status": "requires_payment_method",
        "payment_method": None,
        "latest_charge": charge["id"],
        "last_payment_error": told | {"doc_url": doc_url},
        "next_action": None,
    }
    store.emit("charge.failed", charge)
    store.emit("payment_intent.payment_failed", intent)


def refused(intent: Json) -> Refused:
    """Return the card error that an intent's last failure is to the caller."""
    error = {**intent["last_payment_error"]}
    for name in ("type", "doc_url"):
        error.pop(name)
    return Refused(402, error.pop("message"), kind="card_error", code=error.pop("code"), payment_intent=intent, **error)


def make_charge(store: Store, intent: Json, method: Json, *, status: str, decline_code: str = "", **failure: str) -> Json:
    """Make the charge of one attempt."""
    paid = status == "succeeded"
    outcome = shapes.blank(
        Charge.Outcome,
        network_status="approved_by_network" if paid else "declined_by_network",
        reason=None if paid else decline_code or failure.get("failure_code"),
        risk_level="normal",
        seller_message="Payment complete." if paid else "The bank did not return any further details with this decline.",
        type="authorized" if paid else "issuer_declined",
    )
    charge = store.add(
        "charge",
        amount=intent["amount"],
        amount_captured=intent["amount"] if paid else 0,
        billing_details=method["billing_details"],
        calculated_statement_descriptor="TOLLGATE",
        captured=paid,
        currency=intent["currency"],
        customer=intent["customer"],
        description=intent["description"],
        fraud_details={},
        metadata={**intent["metadata"]},
        outcome=outcome,
        paid=paid,
        payment_intent=intent["id"],
        payment_method=method["id"],
        payment_method_details=_method_details(method),
        receipt_email=intent["receipt_email"],
        status=status,
        refunds=OMIT,
        **failure,
    )
    if paid:
        charge["receipt_url"] = f"{store.base_url}/receipts/{charge['id']}"
        charge["balance_transaction"] = book(store, charge["id"], charge["amount"], "charge", charge["currency"])["id"]
    return charge


def book(store: Store, source: str, amount: int, kind: str, currency: str) -> Json:
    """Make the balance transaction of money that came (positive cents) or went (negative)."""
    fee = {"charge": round(amount * 0.029) + 30, "adjustment": 1500 if amount < 0 else 0}.get(kind, 0)
    return store.add(
        "balance_transaction",
        amount=amount,
        available_on=store.now + 2 * 86_400,
        balance_type="payments",
        currency=currency,
        fee=fee,
        net=amount - fee,
        reporting_category={"adjustment": "dispute"}.get(kind, kind),
        source=source,
        status="pending",
        type=kind,
        fee_details=[shapes.blank(BalanceTransaction.FeeDetail, amount=fee, currency=currency, type="stripe_fee")] if fee else [],
    )


def _take_method(store: Store, intent: Json, id_: str) -> None:
    method = cards.look_up(store, id_)
    if method["customer"] is not None and method["customer"] != intent["customer"]:
        owner = "a different customer" if intent["customer"] else "a customer, and this PaymentIntent has none"
        raise Refused(
            400, f"The provided PaymentMethod belongs to {owner}.", code="payment_method_customer_mismatch", param="payment_method"
        )
    intent |= {"payment_method": method["id"], "status": "requires_confirmation"}


def _confirm(store: Store, intent: Json, params: Json) -> None:
    off_session = bool(params.get("off_session"))
    if not off_session and not params.get("error_on_requires_action") and not params.get("return_url"):
        automatic = intent["automatic_payment_methods"] or {}
        if automatic.get("allow_redirects", "never") == "always":
            raise Refused(
                400, "This PaymentIntent may redirect: pass a `return_url`, or set `allow_redirects` to `never`.", param="return_url"
            )
    if params.get("setup_future_usage"):
        intent["setup_future_usage"] = params["setup_future_usage"]
    store.secret(intent["id"])["return_url"] = params.get("return_url")
    method = store.get("payment_method", intent["payment_method"])
    on_session = not off_session and not params.get("error_on_requires_action")
    if collect(store, intent, method, on_session=on_session) not in {"succeeded", "processing", "requires_action"}:
        raise refused(intent)


def _unexpected(intent: Json, deed: str) -> Refused:
    text = f"This PaymentIntent could not be {deed} because it has a status of {intent['status']}."
    return Refused(400, text, code="payment_intent_unexpected_state", payment_intent=intent)


def _filters(params: Json, *names: str) -> Json:
    return {name: params[name] for name in names if name in params}


def _method_details(method: Json) -> Json:
    if method["type"] == "card":
        card = method["card"]
        same = {name: card[name] for name in ("brand", "country", "exp_month", "exp_year", "fingerprint", "funding", "last4")}
        inside = shapes.blank(Charge.PaymentMethodDetails.Card, **same, network=card["brand"])
    else:
        inside = shapes.blank(
            Charge.PaymentMethodDetails.UsBankAccount, last4=method["us_bank_account"]["last4"], bank_name="SIMULATED BANK"
        )
    return {"type": method["type"], method["type"]: inside}
