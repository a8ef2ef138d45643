"""Customers, products, prices, the billing portal and webhook endpoints: what is made and read without money moving."""

import re
from typing import Any

from tests.fakes.stripe import cards, subscriptions
from tests.fakes.stripe.refusals import Refused
from tests.fakes.stripe.shapes import OMIT, Json
from tests.fakes.stripe.store import Store, merge_metadata

_PLAIN = (
    "address",
    "description",
    "email",
    "name",
    "phone",
    "preferred_locales",
    "shipping",
    "tax_exempt",
    "business_name",
    "individual_name",
)
_ON_REQUEST: dict[str, Any] = dict.fromkeys(
    ("cash_balance", "deleted", "sources", "subscriptions", "tax", "tax_ids", "customer_account"), OMIT
)
_QUERY = re.compile(r"""(metadata\["?'?([^"'\]]+)"?'?\]|email|name|phone)\s*([:~])\s*["']([^"']*)["']""")


def create(store: Store, params: Json) -> Json:
    """Serve POST /v1/customers."""
    customer = store.add(
        "customer", **_ON_REQUEST, **{name: params.get(name) for name in _PLAIN if name not in {"preferred_locales", "tax_exempt"}}
    )
    customer |= {
        "balance": params.get("balance", 0),
        "delinquent": False,
        "invoice_prefix": customer["id"][-8:].upper(),
        "invoice_settings": _invoice_settings(params.get("invoice_settings")),
        "metadata": {},
        "next_invoice_sequence": 1,
        "preferred_locales": params.get("preferred_locales", []),
        "tax_exempt": params.get("tax_exempt", "none"),
    }
    merge_metadata(customer, params.get("metadata"))
    store.emit("customer.created", customer)
    return customer


def retrieve(store: Store, _params: Json, id_: str) -> Json:
    """Serve GET /v1/customers/:id; a deleted one still answers, as the shell of itself."""
    return store.get("customer", id_)


def update(store: Store, params: Json, id_: str) -> Json:
    """Serve POST /v1/customers/:id."""
    customer = _alive(store, id_)
    with store.change(customer, "customer.updated"):
        for name in _PLAIN:
            if name in params:
                customer[name] = params[name] if params[name] != "" else None
        if given := params.get("invoice_settings"):
            if method := given.get("default_payment_method"):
                found = store.get("payment_method", method, "invoice_settings[default_payment_method]")
                if found["customer"] != id_:
                    raise Refused(400, f"The customer does not have a payment method with the ID {method}.", code="resource_missing")
            customer["invoice_settings"] = {**customer["invoice_settings"], **_blank_to_none(given)}
        merge_metadata(customer, params.get("metadata"))
    return customer


def delete(store: Store, _params: Json, id_: str) -> Json:
    """Serve DELETE /v1/customers/:id: its subscriptions end and its cards go."""
    customer = _alive(store, id_)
    for subscription in store.all("subscription", customer=id_):
        if subscription["status"] != "canceled":
            subscriptions.end(store, subscription)
    for method in store.all("payment_method", customer=id_):
        cards.forget(store, method)
    store.emit("customer.deleted", customer)
    customer.clear()
    customer.update(id=id_, object="customer", deleted=True)
    return customer


def listing(store: Store, params: Json) -> Json:
    """Serve GET /v1/customers."""
    wanted = {"email": params["email"]} if "email" in params else {}
    return store.page([one for one in store.all("customer", **wanted) if not one.get("deleted")], params, "/v1/customers")


def search(store: Store, params: Json) -> Json:
    """Serve GET /v1/customers/search for queries of `metadata['key']:'value'`, email, name and phone joined by AND."""
    terms = _QUERY.findall(params["query"])
    if not terms or len(terms) != params["query"].count(" AND ") + 1:
        raise Refused(400, f"We were unable to parse your search query: {params['query']}", param="query")
    found = [one for one in store.all("customer") if not one.get("deleted") and all(_matches(one, *term) for term in terms)]
    page = store.page(found, {"limit": params.get("limit", 10)}, "/v1/customers/search")
    return {**page, "object": "search_result", "next_page": None}


def _matches(customer: Json, name: str, key: str, operator: str, value: str) -> bool:
    is_ = str((customer["metadata"].get(key) if key else customer.get(name)) or "")
    return is_ == value if operator == ":" else value in is_


def _alive(store: Store, id_: str) -> Json:
    customer = store.get("customer", id_)
    if customer.get("deleted"):
        raise Refused(404, f"No such customer: '{id_}'", code="resource_missing", param="id")
    return customer


def _invoice_settings(given: Json | None) -> Json:
    settings = {"custom_fields": None, "default_payment_method": None, "footer": None, "rendering_options": None}
    return {**settings, **_blank_to_none(given or {})}


def _blank_to_none(given: Json) -> Json:
    return {name: None if value == "" else value for name, value in given.items()}
