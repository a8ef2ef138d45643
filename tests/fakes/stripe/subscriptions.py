"""Subscriptions: started by a checkout, changed with prorations, renewed and dunned by the clock, ended."""

import calendar
import copy
from datetime import UTC, datetime, timedelta

import stripe

from tests.fakes.stripe import invoices, payments, prices, shapes
from tests.fakes.stripe.invoices import Line
from tests.fakes.stripe.refusals import Refused
from tests.fakes.stripe.shapes import OMIT, Json
from tests.fakes.stripe.store import Store, merge_metadata


def start(store: Store, customer: str, lines: list[Json], method: Json, data: Json, *, total: int, tax: int) -> tuple[Json, Json]:
    """Start a subscription whose first invoice `method` pays; return both. Raises: Refused when the card refuses."""
    recurring = [line for line in lines if line["price"]["recurring"]]
    subscription = store.add(
        "subscription",
        billing_cycle_anchor=store.now,
        billing_mode={"type": "flexible", "flexible": {"proration_discounts": "included"}},
        collection_method="charge_automatically",
        currency=lines[0]["currency"],
        customer=customer,
        default_payment_method=method["id"],
        description=data.get("description"),
        invoice_settings={"issuer": {"type": "self"}},
        metadata={},
        payment_settings={"payment_method_options": None, "payment_method_types": None, "save_default_payment_method": "off"},
        start_date=store.now,
        status="incomplete",
        customer_account=OMIT,
        managed_payments=OMIT,
    )
    merge_metadata(subscription, data.get("metadata"))
    end = _add(store.now, recurring[0]["price"]["recurring"], datetime.fromtimestamp(store.now, UTC).day)
    items = [_item(store, subscription, line["price"], line["quantity"], store.now, end) for line in recurring]
    subscription["items"] = {
        "object": "list",
        "data": items,
        "has_more": False,
        "url": f"/v1/subscription_items?subscription={subscription['id']}",
    }
    charged = [
        Line(f"{line['quantity']} x {line['description']}", line["amount_subtotal"], line["price"], line["quantity"], store.now, end)
        for line in lines
    ]
    subtotal = sum(line.amount for line in charged)
    invoice = invoices.make(
        store, customer, "subscription_create", charged, subscription=subscription, tax=tax, discount=subtotal + tax - total
    )
    subscription["latest_invoice"] = invoice["id"]
    subscription["status"] = "active" if invoices.collect(store, invoice, method) else "incomplete"
    store.emit("customer.subscription.created", subscription)
    return subscription, invoice


def update(store: Store, params: Json, id_: str) -> Json:
    """Serve POST /v1/subscriptions/:id. Raises: Refused."""
    subscription = _alive(store, id_)
    previous_state = _copy(subscription)
    with store.change(subscription, "customer.subscription.updated"):
        if "cancel_at_period_end" in params:
            ends = bool(params["cancel_at_period_end"])
            details = shapes.blank(stripe.Subscription.CancellationDetails, reason="cancellation_requested" if ends else None)
            subscription |= {
                "cancel_at_period_end": ends,
                "cancel_at": period(subscription)[1] if ends else None,
                "canceled_at": store.now if ends else None,
                "cancellation_details": details,
            }
        if method := params.get("default_payment_method"):
            subscription["default_payment_method"] = store.get("payment_method", method, "default_payment_method")["id"]
        for name in ("description", "collection_method"):
            if name in params:
                subscription[name] = params[name]
        merge_metadata(subscription, params.get("metadata"))
        if params.get("items"):
            try:
                _change_items(store, subscription, params)
            except Refused:
                subscription.clear()
                subscription.update(previous_state)
                raise
    return subscription


def cancel(store: Store, _params: Json, id_: str) -> Json:
    """Serve DELETE /v1/subscriptions/:id: at once."""
    subscription = _alive(store, id_)
    end(store, subscription)
    return subscription


def end(store: Store, subscription: Json, reason: str = "cancellation_requested") -> None:
    """End a subscription now."""
    subscription |= {
        "status": "canceled",
        "canceled_at": subscription["canceled_at"] or store.now,
        "ended_at": store.now,
        "cancellation_details": shapes.blank(stripe.Subscription.CancellationDetails, reason=reason),
    }
    store.emit("customer.subscription.deleted", subscription)


def listing(store: Store, params: Json) -> Json:
    """Serve GET /v1/subscriptions; those that have ended only when asked for."""
    found = store.all("subscription", **{name: params[name] for name in ("customer",) if name in params})
    status = params.get("status")
    if status != "all":
        found = [one for one in found if (one["status"] == status if status else one["status"] != "canceled")]
    if "price" in params:
        found = [one for one in found if any(item["price"]["id"] == params["price"] for item in one["items"]["data"])]
    return store.page(found, params, "/v1/subscriptions")


def preview(store: Store, params: Json) -> Json:
    """Serve POST /v1/invoices/create_preview for a change of a subscription's items: the invoice that is not kept."""
    subscription = _alive(store, params.get("subscription", ""))
    details = params.get("subscription_details") or {}
    before, heard, store.heard = _copy(subscription), store.heard, lambda _event: None
    kept = {kind: dict(rows) for kind, rows in store.objects.items()}
    owner = store.find(subscription["customer"]) or {}
    owner_before = _copy(owner)
    try:
        lines = _prorate(store, subscription, details)
        invoice = invoices.make(store, subscription["customer"], "upcoming", lines, subscription=subscription) if lines else None
    finally:
        store.heard = heard
        store.objects = kept
        for about, was in ((subscription, before), (owner, owner_before)):
            about.clear()
            about.update(was)
    if invoice is None:
        raise Refused(404, "No upcoming invoices for customer", code="invoice_upcoming_none")
    return {
        **invoice,
        "id": store.new_id("upcoming_in_"),
        "status": "draft",
        "number": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
    }


def tick(store: Store, subscription: Json) -> int | None:
    """Return when a subscription next wants attention: its renewal, or the next try at an open invoice."""
    if subscription["status"] not in {"active", "past_due"}:
        return None
    moments = [period(subscription)[1]]
    invoice = store.find(subscription["latest_invoice"] or "")
    if invoice and invoice["status"] == "open" and invoice["next_payment_attempt"]:
        moments.append(invoice["next_payment_attempt"])
    return min(moments)


def attend(store: Store, subscription: Json) -> None:
    """Do what was due at `tick`."""
    invoice = store.find(subscription["latest_invoice"] or "")
    if invoice and invoice["status"] == "open" and invoice["next_payment_attempt"] and invoice["next_payment_attempt"] <= store.now:
        if invoices.collect(store, invoice, method_of(store, invoice)):
            hear_of_payment(store, invoice)
        elif invoice["next_payment_attempt"] is None:
            end(store, subscription, "payment_failed")
    elif period(subscription)[1] <= store.now:
        end(store, subscription) if subscription["cancel_at_period_end"] else _renew(store, subscription)


def hear_of_payment(store: Store, invoice: Json) -> None:
    """Make a subscription whole again once its open invoice is paid."""
    subscription = store.find(invoices.subscription_of(invoice) or "")
    if subscription and subscription["status"] in {"past_due", "incomplete", "unpaid"}:
        with store.change(subscription, "customer.subscription.updated"):
            subscription["status"] = "active"


def method_of(store: Store, invoice: Json) -> Json | None:
    """Return what pays an invoice by itself: the subscription's method, else the customer's default."""
    subscription = store.find(invoices.subscription_of(invoice) or "") or {}
    customer = store.find(invoice["customer"]) or {}
    for id_ in (subscription.get("default_payment_method"), (customer.get("invoice_settings") or {}).get("default_payment_method")):
        method = store.find(id_ or "")
        if method and method["customer"] == invoice["customer"]:
            return method
    return None


def period(subscription: Json) -> tuple[int, int]:
    """Return the current period, its end exclusive."""
    item = subscription["items"]["data"][0]
    return item["current_period_start"], item["current_period_end"]


def _renew(store: Store, subscription: Json) -> None:
    begin = period(subscription)[1]
    anchor = datetime.fromtimestamp(subscription["billing_cycle_anchor"], UTC).day
    with store.change(subscription, "customer.subscription.updated"):
        for item in subscription["items"]["data"]:
            item |= {"current_period_start": begin, "current_period_end": _add(begin, item["price"]["recurring"], anchor)}
        pending = [Line(**{**line, "price": line["price"]}) for line in store.secret(subscription["id"]).pop("pending", [])]
        lines = [*pending, *(_line_of(store, item) for item in subscription["items"]["data"])]
        invoice = invoices.make(store, subscription["customer"], "subscription_cycle", lines, subscription=subscription)
        subscription["latest_invoice"] = invoice["id"]
        if not invoices.collect(store, invoice, method_of(store, invoice)):
            subscription["status"] = "past_due"


def _change_items(store: Store, subscription: Json, params: Json) -> None:
    behaviour = params.get("proration_behavior", "create_prorations")
    lines = _prorate(store, subscription, {**params, "proration_behavior": behaviour})
    if not lines:
        return
    if behaviour == "create_prorations" and params.get("billing_cycle_anchor") != "now":
        store.secret(subscription["id"]).setdefault("pending", []).extend(vars(line) for line in lines)
        return
    invoice = invoices.make(store, subscription["customer"], "subscription_update", lines, subscription=subscription)
    subscription["latest_invoice"] = invoice["id"]
    if invoices.collect(store, invoice, method_of(store, invoice)):
        return
    if params.get("payment_behavior") in {"error_if_incomplete", "pending_if_incomplete"}:
        invoice |= {"status": "void", "next_payment_attempt": None}
        store.emit("invoice.voided", invoice)
        intent = store.find(store.secret(invoice["id"]).get("intent", "")) or {}
        raise (
            payments.refused(intent)
            if intent.get("last_payment_error")
            else Refused(402, "The payment failed.", kind="card_error", code="card_declined")
        )
    subscription["status"] = "past_due"


def _prorate(store: Store, subscription: Json, change: Json) -> list[Line]:
    """Change the items as asked; return the lines to charge: unused time given back, remaining time charged, by the second."""
    lines: list[Line] = []
    begin, finish = period(subscription)
    moment = change.get("proration_date", store.now)
    if not begin <= moment <= finish:
        raise Refused(400, "Cannot specify `proration_date` outside of the current period.", param="proration_date")
    anew = change.get("billing_cycle_anchor") == "now"
    prorated = change.get("proration_behavior", "create_prorations") != "none"
    for at, wanted in enumerate(change.get("items", [])):
        kept = subscription["items"]["data"]
        item = next((one for one in kept if one["id"] == wanted.get("id")), None)
        if item is None:
            raise Refused(400, "To change a subscription's price, name its item: adding items is not simulated.", param=f"items[{at}][id]")
        old, old_quantity = item["price"], item["quantity"]
        price = prices.of_line(store, wanted, f"items[{at}]") if wanted.get("price") or wanted.get("price_data") else old
        quantity = wanted.get("quantity", old_quantity)
        if (price["id"], quantity) == (old["id"], old_quantity):
            continue
        item |= {"price": price, "quantity": quantity, "plan": _plan(price)}
        if prorated:
            lines.append(_part(store, "Unused time on", old, -old_quantity, moment, begin, finish))
            if not anew:
                lines.append(_part(store, "Remaining time on", price, quantity, moment, begin, finish))
    if anew:
        subscription["billing_cycle_anchor"] = moment
        for item in subscription["items"]["data"]:
            until = _add(moment, item["price"]["recurring"], datetime.fromtimestamp(moment, UTC).day)
            item |= {"current_period_start": moment, "current_period_end": until}
            lines.append(_line_of(store, item))
    return lines


def _part(store: Store, words: str, price: Json, quantity: int, moment: int, begin: int, finish: int) -> Line:
    amount = round(price["unit_amount"] * quantity * (finish - moment) / (finish - begin))
    name = (store.find(price["product"]) or {}).get("name", "")
    return Line(f"{words} {name}", amount, price, abs(quantity), moment, finish, proration=True)


def _line_of(store: Store, item: Json) -> Line:
    price, quantity = item["price"], item["quantity"]
    name = (store.find(price["product"]) or {}).get("name", "")
    return Line(
        f"{quantity} x {name}", price["unit_amount"] * quantity, price, quantity, item["current_period_start"], item["current_period_end"]
    )


def _item(store: Store, subscription: Json, price: Json, quantity: int, begin: int, finish: int) -> Json:
    return store.add(
        "subscription_item",
        current_period_start=begin,
        current_period_end=finish,
        metadata={},
        plan=_plan(price),
        price=price,
        quantity=quantity,
        subscription=subscription["id"],
        tax_rates=[],
    )


def _plan(price: Json) -> Json:
    return shapes.blank(
        stripe.Plan,
        id=price["id"],
        active=price["active"],
        amount=price["unit_amount"],
        amount_decimal=price["unit_amount_decimal"],
        created=price["created"],
        currency=price["currency"],
        interval=price["recurring"]["interval"],
        interval_count=price["recurring"]["interval_count"],
        livemode=price["livemode"],
        metadata={},
        product=price["product"],
    )


def _add(moment: int, recurring: Json, anchor: int) -> int:
    """Return the end of a period that begins at `moment`; months clamp the anchor's day (31 -> 28 or 30)."""
    begin, count = datetime.fromtimestamp(moment, UTC), recurring["interval_count"]
    if recurring["interval"] in {"day", "week"}:
        return int((begin + timedelta(days=count * (7 if recurring["interval"] == "week" else 1))).timestamp())
    months = begin.month - 1 + count * (12 if recurring["interval"] == "year" else 1)
    year, month = begin.year + months // 12, months % 12 + 1
    return int(begin.replace(year=year, month=month, day=min(anchor, calendar.monthrange(year, month)[1])).timestamp())


def _alive(store: Store, id_: str) -> Json:
    subscription = store.get("subscription", id_)
    if subscription["status"] == "canceled":
        raise Refused(404, f"No such subscription: '{id_}'", code="resource_missing", param="id")
    return subscription


def _copy(about: Json) -> Json:
    return copy.deepcopy(about)
