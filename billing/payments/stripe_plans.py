"""What plans are at Stripe: products and prices, subscriptions and their invoices, asked for and read into plain values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from billing.models import Plan
from billing.payments import stripe_client
from billing.payments.stripe_client import call

TAG = "subscription"  # the metadata of everything that belongs to a subscription: the id of our row
PLAN_TAG = "plan"  # the metadata of a price: the plan's slug
_LOOKUP_KEY = re.compile(r"tollgate-plan-(.+)-\d+")


@dataclass(frozen=True, slots=True)
class Price:
    """A price of a plan, a month. `plan` is the slug it was made for; empty for one made by hand."""

    id: str
    unit_minor: int
    plan: str
    product_id: str
    is_active: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """A subscription as it stands. The period's end is exclusive."""

    id: str
    status: str
    customer_id: str
    is_live: bool
    item_id: str
    price: Price
    period_start: datetime
    period_end: datetime
    anchor_at: datetime
    started_at: datetime
    ended_at: datetime | None
    cancels_at_end: bool
    payment_method_id: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """What an invoice asks for one price and time; what a change gives back is negative. Minor units, before discounts and tax."""

    price_id: str
    amount_minor: int
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice of a subscription. `page_url` is where its customer can pay it."""

    id: str
    status: str
    subscription_id: str
    was_attempted: bool
    page_url: str
    created_at: datetime
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class PlanSession:
    """A Checkout session in which a plan is bought."""

    status: str
    url: str
    subscription_id: str


# -- Subscriptions -------------------------------------------------------------------------------------------------------------------


def fetch_subscription(subscription_id: str) -> Standing:
    """A subscription as it stands. Raises: as `stripe_client.call`."""
    return read_subscription(call(lambda ready: ready.v1.subscriptions.retrieve(subscription_id)))


def update_subscription(subscription_id: str, params: Any) -> Standing:
    """Change a subscription. Raises: as `stripe_client.call`."""
    return read_subscription(call(lambda ready: ready.v1.subscriptions.update(subscription_id, params)))


def end_subscription(subscription_id: str) -> None:
    """End a subscription now, without giving anything back. Raises: as `stripe_client.call`."""
    call(lambda ready: ready.v1.subscriptions.cancel(subscription_id))


def fetch_session(session_id: str) -> PlanSession:
    """A session of mode subscription. Raises: as `stripe_client.call`."""
    return _read_session(call(lambda ready: ready.v1.checkout.sessions.retrieve(session_id)))


def expire_session(session_id: str) -> PlanSession:
    """Close a session, so that nobody can pay in it any more; one that was paid stays as it is. Raises: as `stripe_client.call`."""
    try:
        return _read_session(call(lambda ready: ready.v1.checkout.sessions.expire(session_id)))
    except stripe_client.StripeRefused:
        return fetch_session(session_id)


def read_subscription(found: Mapping[str, Any]) -> Standing:
    """A subscription from JSON: its first item, there is no other."""
    item = found["items"]["data"][0]
    end = int(item["current_period_end"])
    return Standing(
        id=found["id"],
        status=str(found["status"]),
        customer_id=_id(found.get("customer")),
        is_live=bool(found.get("livemode")),
        item_id=item["id"],
        price=read_price(item["price"]),
        period_start=_at(item["current_period_start"]),
        period_end=_at(end),
        anchor_at=_at(found["billing_cycle_anchor"]),
        started_at=_at(found["start_date"]),
        ended_at=_at(found["ended_at"]) if found.get("ended_at") else None,
        cancels_at_end=bool(found.get("cancel_at_period_end")) or 0 < int(found.get("cancel_at") or 0) <= end,
        payment_method_id=_id(found.get("default_payment_method")),
        metadata=dict(found.get("metadata") or {}),
    )


def _read_session(found: Mapping[str, Any]) -> PlanSession:
    return PlanSession(status=str(found["status"]), url=str(found.get("url") or ""), subscription_id=_id(found.get("subscription")))


# -- Invoices ------------------------------------------------------------------------------------------------------------------------


def subscription_of_invoice(invoice_id: str) -> str:
    """The id of the subscription that an invoice is of; empty for another's. Raises: as `stripe_client.call`."""
    return _subscription_of(call(lambda ready: ready.v1.invoices.retrieve(invoice_id)))


def list_invoices(*, subscription_id: str) -> list[Invoice]:
    """The invoices of a subscription, the oldest first. Raises: as `stripe_client.call`."""
    found: list[Any] = []
    while True:
        params: Any = {"subscription": subscription_id, "limit": stripe_client.PAGE} | (
            {"starting_after": found[-1]["id"]} if found else {}
        )
        page = _list_invoices(params)
        found += page["data"]
        if not page.get("has_more") or not page["data"]:
            return sorted(map(_read_invoice, found), key=lambda invoice: (invoice.created_at, invoice.id))


def invoices_paid_by(payment_intent_id: str) -> list[str]:
    """The ids of the invoices that a payment paid: one, or none for a payment of something else. Raises: as `stripe_client.call`."""
    paid = _list_payments({"payment": {"type": "payment_intent", "payment_intent": payment_intent_id}, "status": "paid"})
    return [_id(one["invoice"]) for one in paid]


def payments_of(invoice_id: str) -> list[tuple[str, int]]:
    """What paid an invoice: payment intents, and how much each, tax included, in minor units. Raises: as `stripe_client.call`."""
    paid = _list_payments({"invoice": invoice_id, "status": "paid"})
    named = ((_id(one["payment"].get("payment_intent")), int(one.get("amount_paid") or 0)) for one in paid)
    return [(payment_intent_id, paid_minor) for payment_intent_id, paid_minor in named if payment_intent_id]


def preview_change(subscription_id: str, *, item_id: str, price_id: str, moment: datetime) -> int:
    """What a change of price at `moment` would ask for at once, tax included, in minor units. Raises: as `stripe_client.call`."""
    details: Any = {
        "items": [{"id": item_id, "price": price_id}],
        "proration_behavior": "always_invoice",
        "proration_date": int(moment.timestamp()),
    }
    params: Any = {"subscription": subscription_id, "subscription_details": details}
    return int(call(lambda ready: ready.v1.invoices.create_preview(params))["amount_due"])


def _list_invoices(params: Any) -> dict[str, Any]:
    return call(lambda ready: ready.v1.invoices.list(params))


def _list_payments(asked: dict[str, Any]) -> list[dict[str, Any]]:
    params: Any = {**asked, "limit": stripe_client.PAGE}  # an invoice is paid at once, or in a few parts
    found: list[dict[str, Any]] = call(lambda ready: ready.v1.invoice_payments.list(params))["data"]
    return found


def _read_invoice(found: Mapping[str, Any]) -> Invoice:
    if found["lines"].get("has_more"):
        raise ValueError(f"invoice {found['id']} has more lines than its first page")
    return Invoice(
        id=found["id"],
        status=str(found.get("status") or ""),
        subscription_id=_subscription_of(found),
        was_attempted=bool(found.get("attempted")),
        page_url=str(found.get("hosted_invoice_url") or ""),
        created_at=_at(found["created"]),
        lines=tuple(_read_line(line) for line in found["lines"]["data"]),
    )


def _read_line(found: Mapping[str, Any]) -> Line:
    priced = (found.get("pricing") or {}).get("price_details") or {}
    period = found["period"]
    return Line(_id(priced.get("price")), int(found["amount"]), _at(period["start"]), _at(period["end"]))


def _subscription_of(invoice: Mapping[str, Any]) -> str:
    details = (invoice.get("parent") or {}).get("subscription_details") or {}
    return _id(details.get("subscription"))


# -- Prices --------------------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=500)
def fetch_price(price_id: str) -> Price:
    """A price; what is read of it never changes, so it is asked for once. Raises: as `stripe_client.call`."""
    return read_price(call(lambda ready: ready.v1.prices.retrieve(price_id)))


def read_price(found: Mapping[str, Any]) -> Price:
    """A price from JSON."""
    named = _LOOKUP_KEY.fullmatch(str(found.get("lookup_key") or ""))
    return Price(
        id=found["id"],
        unit_minor=int(found.get("unit_amount") or 0),
        plan=str((found.get("metadata") or {}).get(PLAN_TAG) or (named[1] if named else "")),
        product_id=_id(found.get("product")),
        is_active=bool(found.get("active")),
    )


def plan_of(price: Price) -> Plan | None:
    """The plan that a price is of: the one it was made for, else the one it was given to; also when the plan has another price now."""
    return (Plan.objects.filter(slug=price.plan).first() if price.plan else None) or Plan.objects.filter(stripe_price_id=price.id).first()


def _id(value: Any) -> str:
    return str(value.get("id") or "") if isinstance(value, Mapping) else str(value or "")


def _at(seconds: Any) -> datetime:
    return datetime.fromtimestamp(int(seconds), tz=UTC)
