"""Checkout sessions: made by the API, finished by a person on the page, expired by the clock."""

import stripe.checkout

from tests.fakes.stripe import cards, customers, invoices, payments, prices, shapes, subscriptions
from tests.fakes.stripe.refusals import Refused, missing
from tests.fakes.stripe.shapes import Json
from tests.fakes.stripe.store import DAY, Store, client_secret, merge_metadata

Session = stripe.checkout.Session
_KEPT = (
    "allow_promotion_codes",
    "billing_address_collection",
    "cancel_url",
    "client_reference_id",
    "customer",
    "customer_email",
    "locale",
    "success_url",
    "submit_type",
)


class Declined(Exception):
    """The page stays where it is and says why."""


def create(store: Store, params: Json) -> Json:
    """Serve POST /v1/checkout/sessions. Raises: Refused."""
    mode = params.get("mode", "payment")
    _check(store, params, mode)
    expires = params.get("expires_at", store.now + DAY)
    if not store.now + 1790 <= expires <= store.now + DAY + 10:
        raise Refused(
            400,
            "The `expires_at` timestamp must be at least 30 minutes and at most 24 hours from Checkout Session creation.",
            param="expires_at",
        )
    session = store.add(
        "checkout.session",
        **{name: params.get(name) for name in _KEPT},
        currency=params.get("currency", "usd") if mode == "setup" else None,
        customer_creation=None
        if params.get("customer")
        else params.get("customer_creation", "always" if mode == "subscription" else "if_required"),
        expires_at=expires,
        invoice_creation=_invoice_creation(params) if mode == "payment" else None,
        metadata={},
        mode=mode,
        payment_method_collection="always" if mode == "subscription" else "if_required",
        payment_method_options={},
        payment_method_types=params.get("payment_method_types", ["card", "us_bank_account"]),
        payment_status="no_payment_required" if mode == "setup" else "unpaid",
        phone_number_collection={"enabled": False},
        status="open",
        ui_mode="hosted_page",
    )
    for absent in (
        "line_items",
        "customer_account",
        "name_collection",
        "optional_items",
        "managed_payments",
        "allowed_payment_method_types",
    ):
        session.pop(absent, None)
    session["url"] = f"{store.base_url}/c/pay/{session['id']}"
    session["customer_details"] = _details(store, session, None)
    if (params.get("automatic_tax") or {}).get("enabled"):
        session["automatic_tax"] = {
            "enabled": True,
            "liability": {"type": "self"},
            "provider": "stripe",
            "status": "requires_location_inputs",
        }
    merge_metadata(session, params.get("metadata"))
    hidden = store.secret(session["id"])
    hidden |= {name: params.get(name) or {} for name in ("payment_intent_data", "setup_intent_data", "subscription_data")}
    if mode == "setup":
        session["setup_intent"] = _setup_intent(store, session, hidden["setup_intent_data"])["id"]
    else:
        lines = [
            (prices.of_line(store, line, f"line_items[{at}]"), line.get("quantity", 1)) for at, line in enumerate(params["line_items"])
        ]
        if mode == "subscription" and not any(price["recurring"] for price, _ in lines):
            raise Refused(
                400, "You must provide at least one recurring price in `subscription` mode when using prices.", param="line_items"
            )
        if mode == "payment" and any(price["recurring"] for price, _ in lines):
            raise Refused(400, "You specified `payment` mode but passed a recurring price.", param="line_items")
        hidden["lines"] = [prices.session_line(store, price, quantity) for price, quantity in lines]
        session["currency"] = lines[0][0]["currency"]
        price_up(store, session, "")
        if session["amount_total"] < 50:
            raise Refused(400, "The Checkout Session's total amount due must add up to at least $0.50 usd", code="amount_too_small")
    return session


def price_up(store: Store, session: Json, promotion_code: str) -> None:
    """Set a session's totals: lines, less the promotion, plus the tax."""
    lines = store.secret(session["id"])["lines"]
    percent = store.settings["promotion_codes"].get(promotion_code, 0)
    taxed = store.settings["tax_percent"] if session["automatic_tax"]["enabled"] else 0
    for line in lines:
        line["amount_discount"] = line["amount_subtotal"] * percent // 100
        line["amount_tax"] = round((line["amount_subtotal"] - line["amount_discount"]) * taxed / 100)
        line["amount_total"] = line["amount_subtotal"] - line["amount_discount"] + line["amount_tax"]
    discount, tax = (sum(line[name] for line in lines) for name in ("amount_discount", "amount_tax"))
    subtotal = sum(line["amount_subtotal"] for line in lines)
    session |= {
        "amount_subtotal": subtotal,
        "amount_total": subtotal - discount + tax,
        "total_details": {"amount_discount": discount, "amount_shipping": 0, "amount_tax": tax},
        "discounts": [{"coupon": f"coupon_{promotion_code}", "promotion_code": f"promo_{promotion_code}"}] if percent else [],
    }


def retrieve(store: Store, _params: Json, id_: str) -> Json:
    """Serve GET /v1/checkout/sessions/:id."""
    return store.get("checkout.session", id_)


def update(store: Store, params: Json, id_: str) -> Json:
    """Serve POST /v1/checkout/sessions/:id."""
    session = store.get("checkout.session", id_)
    merge_metadata(session, params.get("metadata"))
    return session


def expire(store: Store, _params: Json, id_: str) -> Json:
    """Serve POST /v1/checkout/sessions/:id/expire."""
    session = store.get("checkout.session", id_)
    if session["status"] != "open":
        text = (
            f'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of {session["status"]}.'
        )
        raise Refused(400, text, param="session")
    end(store, session)
    return session


def end(store: Store, session: Json) -> None:
    """Let a session expire."""
    session |= {"status": "expired", "url": None}
    store.emit("checkout.session.expired", session)


def listing(store: Store, params: Json) -> Json:
    """Serve GET /v1/checkout/sessions."""
    wanted = {name: params[name] for name in ("customer", "payment_intent", "status", "subscription") if name in params}
    return store.page(store.all("checkout.session", **wanted), params, "/v1/checkout/sessions")


def lines(store: Store, params: Json, id_: str) -> Json:
    """Serve GET /v1/checkout/sessions/:id/line_items."""
    store.get("checkout.session", id_)
    kept = store.secret(id_).get("lines", [])
    limit = params.get("limit", 10)
    return {"object": "list", "data": kept[:limit], "has_more": len(kept) > limit, "url": f"/v1/checkout/sessions/{id_}/line_items"}


def pay(store: Store, session: Json, number: str, *, email: str = "", promotion_code: str = "", consented: bool = False) -> str:
    """Do what the customer's click on Pay does; return "complete" or "consent" (the bank asks first).

    Raises: Declined with the bank's words; the session stays open.
    """
    if session["status"] != "open":
        raise Declined("This checkout session has already been completed, or has expired.")
    if promotion_code and promotion_code not in store.settings["promotion_codes"]:
        raise Declined("This code is invalid.")
    if session["mode"] != "setup":
        price_up(store, session, promotion_code)
    try:
        method = cards.make(store, number, {"email": email or session["customer_email"]})
    except Refused as error:
        raise Declined(str(error)) from error
    if cards.behaviour(store, method).consent != "never" and not consented:
        return "consent"
    if session["mode"] != "payment":
        does = cards.behaviour(store, method)
        if does.code and not (does.declines_later and session["mode"] == "setup"):
            _tell_setup_failed(store, session, method)
            raise Declined(does.message)
    _ensure_customer(store, session, email)
    session["customer_details"] = _details(store, session, email)
    {"payment": _finish_payment, "setup": _finish_setup, "subscription": _finish_subscription}[session["mode"]](store, session, method)
    return "complete"


def refuse_consent(store: Store, session: Json, number: str) -> None:
    """Let the customer fail the bank's question. Raises: Declined, always."""
    if session["mode"] == "payment":
        intent, method = _intent(store, session), cards.make(store, number)
        payments.decline(
            store, intent, method, "payment_intent_authentication_failure", "", "We are unable to authenticate your payment method."
        )
    raise Declined("We are unable to authenticate your payment method. Please choose a different payment method and try again.")


def settle_late(store: Store, session: Json, *, succeed: bool) -> None:
    """Let a bank debit of a completed session arrive, or fail."""
    intent = store.get("payment_intent", session["payment_intent"])
    if intent["status"] != "processing":
        raise Refused(400, f"Nothing is under way: the payment intent is {intent['status']}.")
    if succeed:
        payments.settle(store, intent)
        session["payment_status"] = "paid"
        store.emit("checkout.session.async_payment_succeeded", session)
    else:
        method = store.get("payment_method", intent["payment_method"])
        payments.decline(store, intent, method, "payment_method_provider_decline", "", "The bank could not collect the payment.")
        store.emit("checkout.session.async_payment_failed", session)


def _finish_payment(store: Store, session: Json, method: Json) -> None:
    if session["amount_total"] == 0:  # a promotion code took it all off
        session["payment_status"] = "no_payment_required"
        _complete(store, session)
        return
    intent = _intent(store, session)
    became = payments.collect(store, intent, method, on_session=True, consented=True)
    if became not in {"succeeded", "processing"}:
        raise Declined(intent["last_payment_error"]["message"])
    session |= {"payment_intent": intent["id"], "payment_status": "paid" if became == "succeeded" else "unpaid"}
    if (session["invoice_creation"] or {}).get("enabled") and became == "succeeded":
        session["invoice"] = invoices.of_session(store, session, store.secret(session["id"])["lines"], intent)["id"]
    _complete(store, session)


def _finish_setup(store: Store, session: Json, method: Json) -> None:
    intent = store.get("setup_intent", session["setup_intent"])
    if session["customer"]:
        cards.save(store, method, session["customer"])
    store.secret(method["id"])["set_up"] = True
    intent |= {"status": "succeeded", "payment_method": method["id"], "customer": session["customer"], "last_setup_error": None}
    store.emit("setup_intent.succeeded", intent)
    _complete(store, session)


def _finish_subscription(store: Store, session: Json, method: Json) -> None:
    cards.save(store, method, session["customer"])
    store.secret(method["id"])["set_up"] = True
    hidden = store.secret(session["id"])
    subscription, invoice = subscriptions.start(
        store,
        session["customer"],
        hidden["lines"],
        method,
        hidden["subscription_data"],
        total=session["amount_total"],
        tax=session["total_details"]["amount_tax"],
    )
    session |= {"subscription": subscription["id"], "invoice": invoice["id"], "payment_status": "paid"}
    _complete(store, session)


def _complete(store: Store, session: Json) -> None:
    session |= {"status": "complete", "url": None}
    if session["automatic_tax"]["enabled"]:
        session["automatic_tax"] = {**session["automatic_tax"], "status": "complete"}
    store.emit("checkout.session.completed", session)


def _intent(store: Store, session: Json) -> Json:
    """Return the session's payment intent; it comes into being with the first attempt."""
    hidden = store.secret(session["id"])
    if known := hidden.get("intent"):
        intent = store.get("payment_intent", known)
        intent |= {"amount": session["amount_total"], "customer": session["customer"]}
        return intent
    data = hidden["payment_intent_data"]
    intent = payments.make(
        store,
        session["amount_total"],
        session["currency"],
        {**data, "customer": session["customer"], "payment_method_types": session["payment_method_types"]},
    )
    hidden["intent"] = intent["id"]
    session["payment_intent"] = intent["id"]
    return intent


def _ensure_customer(store: Store, session: Json, email: str) -> None:
    if session["customer"] is None and (session["customer_creation"] == "always" or session["mode"] == "subscription"):
        session["customer"] = customers.create(store, {"email": email or session["customer_email"]})["id"]


def _details(store: Store, session: Json, email: str | None) -> Json | None:
    customer = store.find(session["customer"]) if session["customer"] else None
    known = email or session["customer_email"] or (customer or {}).get("email")
    if known is None and email is None:
        return None
    details = shapes.blank(Session.CustomerDetails, email=known, name=(customer or {}).get("name"), tax_exempt="none")
    return {**details, "tax_ids": []}


def _setup_intent(store: Store, session: Json, data: Json) -> Json:
    intent = store.add(
        "setup_intent",
        customer=session["customer"],
        description=data.get("description"),
        metadata={},
        payment_method_types=session["payment_method_types"],
        status="requires_payment_method",
        usage="off_session",
    )
    intent["client_secret"] = client_secret(intent["id"])
    merge_metadata(intent, data.get("metadata"))
    store.emit("setup_intent.created", intent)
    return intent


def _tell_setup_failed(store: Store, session: Json, method: Json) -> None:
    if session["mode"] == "setup":
        does = cards.behaviour(store, method)
        intent = store.get("setup_intent", session["setup_intent"])
        intent["last_setup_error"] = {"type": "card_error", "code": does.code, "message": does.message, "payment_method": method}
        store.emit("setup_intent.setup_failed", intent)


def _invoice_creation(params: Json) -> Json:
    data = (params.get("invoice_creation") or {}).get("invoice_data") or {}
    made = shapes.blank(Session.InvoiceCreation, enabled=(params.get("invoice_creation") or {}).get("enabled", False))
    made["invoice_data"] = {**made["invoice_data"], "metadata": data.get("metadata", {}), "description": data.get("description")}
    made["invoice_data"].pop("issuer", None)
    return made


def _check(store: Store, params: Json, mode: str) -> None:
    if not params.get("success_url"):
        raise missing("success_url")
    if params.get("customer"):
        found = store.get("customer", params["customer"], "customer")
        if found.get("deleted"):
            raise Refused(400, f"No such customer: '{found['id']}'", code="resource_missing", param="customer")
    if params.get("customer") and params.get("customer_email"):
        raise Refused(400, "You may only specify one of these parameters: customer, customer_email.")
    if mode == "setup":
        if params.get("line_items"):
            raise Refused(400, "You can not pass `line_items` in `setup` mode.", param="line_items")
    elif not params.get("line_items"):
        raise missing("line_items")
    for other, name in (
        ("payment", "payment_intent_data"),
        ("subscription", "subscription_data"),
        ("setup", "setup_intent_data"),
        ("payment", "invoice_creation"),
    ):
        if params.get(name) and mode != other:
            raise Refused(400, f"You can not pass `{name}` in `{mode}` mode.", param=name)
    if len(params.get("client_reference_id") or "") > 200:
        raise Refused(400, "Invalid string: must be at most 200 characters", param="client_reference_id")
