"""Invoices: made by a session or a subscription, paid through a payment intent, tried again when the card refuses."""

from dataclasses import dataclass

import stripe

from tests.fakes.stripe import payments, shapes
from tests.fakes.stripe.refusals import Refused
from tests.fakes.stripe.shapes import OMIT, Json
from tests.fakes.stripe.store import DAY, Store

RETRY_DAYS = (3, 5, 7)  # after each failure; then Stripe gives up


@dataclass(frozen=True)
class Line:
    """What an invoice charges for, in cents; a proration may be negative."""

    description: str
    amount: int
    price: Json
    quantity: int
    start: int
    end: int
    proration: bool = False


def make(
    store: Store, customer: str, reason: str, lines: list[Line], *, subscription: Json | None = None, tax: int = 0, discount: int = 0
) -> Json:
    """Make an open (finalized) invoice of `lines`."""
    owner = store.find(customer) or {}
    invoice = store.add(
        "invoice",
        account_country="US",
        account_name="SIMULATED",
        billing_reason=reason,
        currency=lines[0].price["currency"],
        customer=customer,
        customer_email=owner.get("email"),
        customer_name=owner.get("name"),
        customer_tax_exempt="none",
        customer_tax_ids=[],
        issuer={"type": "self"},
        metadata={},
        number=f"{owner.get('invoice_prefix', 'SIM')}-{owner.get('next_invoice_sequence', 1):04}",
        period_end=store.now,
        period_start=store.now,
        status="open",
        auto_advance=True,
        payments=OMIT,
        confirmation_secret=OMIT,
        customer_account=OMIT,
        amount_paid_off_stripe=OMIT,
    )
    if "next_invoice_sequence" in owner:
        owner["next_invoice_sequence"] += 1
    rows = [_row(store, invoice, line, subscription) for line in lines]
    invoice["lines"] = {"object": "list", "data": rows, "has_more": False, "url": f"/v1/invoices/{invoice['id']}/lines"}
    subtotal = sum(line.amount for line in lines)
    total = subtotal - discount + tax
    due = max(total, 0)
    if total < 0 and owner:  # what is left over is the customer's for the next invoice
        owner["balance"] = owner.get("balance", 0) + total
    elif owner.get("balance", 0) < 0:
        used = min(due, -owner["balance"])
        invoice["starting_balance"] = owner["balance"]
        owner["balance"] += used
        due -= used
    invoice |= {
        "amount_due": due,
        "amount_remaining": due,
        "ending_balance": owner.get("balance", 0),
        "subtotal": subtotal,
        "subtotal_excluding_tax": subtotal,
        "total": total,
        "total_excluding_tax": total - tax,
        "effective_at": store.now,
        "hosted_invoice_url": f"{store.base_url}/invoices/{invoice['id']}",
        "invoice_pdf": f"{store.base_url}/invoices/{invoice['id']}/pdf",
        "status_transitions": {**invoice["status_transitions"], "finalized_at": store.now},
    }
    if subscription:
        details = {"metadata": subscription["metadata"], "subscription": subscription["id"]}
        invoice["parent"] = {"type": "subscription_details", "subscription_details": details, "quote_details": None}
    store.emit("invoice.created", invoice)
    store.emit("invoice.finalized", invoice)
    return invoice


def collect(store: Store, invoice: Json, method: Json | None) -> bool:
    """Try to collect an open invoice from `method`; say whether it is paid. Tells of success or failure by events."""
    invoice |= {"attempted": True, "attempt_count": invoice["attempt_count"] + 1}
    if invoice["amount_due"] == 0:
        _paid(store, invoice)
        return True
    intent = _intent(store, invoice)
    became = payments.collect(store, intent, method, on_session=False) if method else "missing"
    if became == "succeeded":
        _paid(store, invoice)
        return True
    failures = invoice["attempt_count"] - 1
    invoice["next_payment_attempt"] = store.now + RETRY_DAYS[failures] * DAY if failures < len(RETRY_DAYS) else None
    if became == "authentication_required":
        store.emit("invoice.payment_action_required", invoice)
    store.emit("invoice.payment_failed", invoice)
    return False


def of_session(store: Store, session: Json, lines: list[Json], intent: Json) -> Json:
    """Make the paid invoice of a checkout session that asked for one."""
    made = [Line(line["description"], line["amount_subtotal"], line["price"], line["quantity"], store.now, store.now) for line in lines]
    totals = session["total_details"]
    customer = session["customer"] or ""
    invoice = make(store, customer, "manual", made, tax=totals["amount_tax"], discount=totals["amount_discount"])
    data = session["invoice_creation"]["invoice_data"]
    invoice |= {"metadata": data["metadata"] or {}, "description": data["description"], "attempted": True, "attempt_count": 1}
    _record_payment(store, invoice, intent)
    _paid(store, invoice)
    return invoice


def pay(store: Store, params: Json, id_: str) -> Json:
    """Serve POST /v1/invoices/:id/pay. Raises: Refused."""
    from tests.fakes.stripe import subscriptions  # which hears of it

    invoice = store.get("invoice", id_)
    if invoice["status"] != "open":
        raise Refused(
            400,
            "Invoice is already paid" if invoice["status"] == "paid" else "This invoice can no longer be paid.",
            code="invoice_not_open",
        )
    method = store.get("payment_method", params["payment_method"], "payment_method") if params.get("payment_method") else None
    if not collect(store, invoice, method or subscriptions.method_of(store, invoice)):
        intent = _intent(store, invoice)
        raise (
            payments.refused(intent)
            if intent["last_payment_error"]
            else Refused(402, "There is no payment method to charge.", code="invoice_payment_intent_requires_action")
        )
    subscriptions.hear_of_payment(store, invoice)
    return invoice


def void(store: Store, _params: Json, id_: str) -> Json:
    """Serve POST /v1/invoices/:id/void."""
    invoice = store.get("invoice", id_)
    if invoice["status"] not in {"open", "uncollectible"}:
        raise Refused(400, f"You can only void open invoices; this one is {invoice['status']}.", code="invoice_not_open")
    invoice |= {"status": "void", "status_transitions": {**invoice["status_transitions"], "voided_at": store.now}}
    store.emit("invoice.voided", invoice)
    return invoice


def listing(store: Store, params: Json) -> Json:
    """Serve GET /v1/invoices."""
    found = store.all("invoice", **{name: params[name] for name in ("customer", "status", "collection_method") if name in params})
    if wanted := params.get("subscription"):
        found = [one for one in found if subscription_of(one) == wanted]
    return store.page(found, params, "/v1/invoices")


def payments_of(store: Store, params: Json) -> Json:
    """Serve GET /v1/invoice_payments."""
    found = store.all("invoice_payment", **{name: params[name] for name in ("invoice", "status") if name in params})
    if wanted := params.get("payment"):
        found = [one for one in found if one["payment"].get("payment_intent") == wanted.get("payment_intent")]
    return store.page(found, params, "/v1/invoice_payments")


def subscription_of(invoice: Json) -> str | None:
    """Return the id of the subscription that an invoice is of."""
    parent = invoice["parent"] or {}
    found: str | None = (parent.get("subscription_details") or {}).get("subscription")
    return found


def _intent(store: Store, invoice: Json) -> Json:
    if known := store.secret(invoice["id"]).get("intent"):
        return store.get("payment_intent", known)
    intent = payments.make(
        store,
        invoice["amount_due"],
        invoice["currency"],
        {"customer": invoice["customer"], "description": "Subscription creation", "setup_future_usage": "off_session"},
    )
    _record_payment(store, invoice, intent)
    return intent


def _record_payment(store: Store, invoice: Json, intent: Json) -> None:
    store.secret(invoice["id"])["intent"] = intent["id"]
    store.add(
        "invoice_payment",
        amount_requested=invoice["amount_due"],
        currency=invoice["currency"],
        invoice=invoice["id"],
        is_default=True,
        payment={"type": "payment_intent", "payment_intent": intent["id"]},
        status="open",
        status_transitions={"canceled_at": None, "paid_at": None},
    )


def _paid(store: Store, invoice: Json) -> None:
    for one in store.all("invoice_payment", invoice=invoice["id"]):
        one |= {"status": "paid", "amount_paid": invoice["amount_due"], "status_transitions": {"canceled_at": None, "paid_at": store.now}}
    invoice |= {
        "status": "paid",
        "amount_paid": invoice["amount_due"],
        "amount_remaining": 0,
        "next_payment_attempt": None,
        "status_transitions": {**invoice["status_transitions"], "paid_at": store.now},
    }
    store.emit("invoice.paid", invoice)
    store.emit("invoice.payment_succeeded", invoice)


def _row(store: Store, invoice: Json, line: Line, subscription: Json | None) -> Json:
    parent = None
    if subscription:
        details = shapes.blank(
            stripe.InvoiceLineItem.Parent.SubscriptionItemDetails,
            proration=line.proration,
            subscription=subscription["id"],
            subscription_item=subscription["items"]["data"][0]["id"],
        )
        parent = {"type": "subscription_item_details", "subscription_item_details": details, "invoice_item_details": None}
    return store.add(
        "line_item",
        amount=line.amount,
        currency=line.price["currency"],
        description=line.description,
        discountable=not line.proration,
        invoice=invoice["id"],
        metadata={},
        parent=parent,
        period={"start": line.start, "end": line.end},
        pricing={
            "type": "price_details",
            "price_details": {"price": line.price["id"], "product": line.price["product"]},
            "unit_amount_decimal": line.price["unit_amount_decimal"],
        },
        quantity=line.quantity,
        quantity_decimal=str(line.quantity),
        subscription=subscription["id"] if subscription else None,
        subtotal=line.amount,
    )
