"""The API's calls: method and path, the params type that the library gives them, and the function that serves them."""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tests.fakes.stripe import cards, checkout, customers, disputes, invoices, payments, portal, prices, subscriptions
from tests.fakes.stripe.refusals import Refused
from tests.fakes.stripe.shapes import Json
from tests.fakes.stripe.store import KINDS, Store

Handler = Callable[..., Json]


class Route(NamedTuple):
    """One call: `params` names its type as `shapes.params_class` takes it."""

    method: str
    path: re.Pattern[str]
    params: str
    serve: Handler


def _route(method: str, path: str, params: str, serve: Handler) -> Route:
    return Route(method, re.compile("/v1" + re.sub(r":\w+", "([A-Za-z0-9_]+)", path) + "$"), params, serve)


def _read(kind: str) -> Handler:
    def retrieve(store: Store, _params: Json, id_: str) -> Json:
        return store.get(kind, id_)

    return retrieve


def _events(store: Store, params: Json) -> Json:
    wanted = params.get("types") or ([params["type"]] if "type" in params else None)
    found = [one for one in store.all("event") if wanted is None or any(_named(one["type"], name) for name in wanted)]
    if params.get("delivery_success") is not None:
        found = [one for one in found if (one["pending_webhooks"] == 0) == params["delivery_success"]]
    return store.page([one for one in found if one["created"] > store.now - 30 * 86_400], params, "/v1/events")


def _named(name: str, wanted: str) -> bool:
    return name == wanted or (wanted.endswith("*") and name.startswith(wanted[:-1]))


def _setup_intents(store: Store, params: Json) -> Json:
    wanted = {name: params[name] for name in ("customer", "payment_method") if name in params}
    return store.page(store.all("setup_intent", **wanted), params, "/v1/setup_intents")


def _endpoints(store: Store, params: Json) -> Json:
    return store.page(store.all("webhook_endpoint"), params, "/v1/webhook_endpoints")


def _method_of_customer(store: Store, _params: Json, customer: str, id_: str) -> Json:
    method = store.get("payment_method", id_)
    if method["customer"] != customer:
        raise Refused(404, f"No such payment_method: '{id_}'", code="resource_missing", param="id")
    return method


ROUTES = [
    _route("POST", "/customers", "customer_create", customers.create),
    _route("GET", "/customers", "customer_list", customers.listing),
    _route("GET", "/customers/search", "customer_search", customers.search),
    _route("GET", "/customers/:id", "customer_retrieve", customers.retrieve),
    _route("POST", "/customers/:id", "customer_update", customers.update),
    _route("DELETE", "/customers/:id", "customer_delete", customers.delete),
    _route("GET", "/customers/:id/payment_methods", "customer_payment_method_list", cards.of_customer),
    _route("GET", "/customers/:id/payment_methods/:method", "customer_payment_method_retrieve", _method_of_customer),
    _route("POST", "/payment_methods", "payment_method_create", cards.create),
    _route("GET", "/payment_methods", "payment_method_list", cards.listing),
    _route("GET", "/payment_methods/:id", "payment_method_retrieve", _read("payment_method")),
    _route("POST", "/payment_methods/:id/attach", "payment_method_attach", cards.attach),
    _route("POST", "/payment_methods/:id/detach", "payment_method_detach", cards.detach),
    _route("POST", "/products", "product_create", prices.create_product),
    _route("GET", "/products", "product_list", prices.products),
    _route("GET", "/products/:id", "product_retrieve", _read("product")),
    _route("POST", "/products/:id", "product_update", prices.update_product),
    _route("POST", "/prices", "price_create", prices.create_price),
    _route("GET", "/prices", "price_list", prices.listing),
    _route("GET", "/prices/:id", "price_retrieve", _read("price")),
    _route("POST", "/prices/:id", "price_update", prices.update_price),
    _route("POST", "/checkout/sessions", "checkout.session_create", checkout.create),
    _route("GET", "/checkout/sessions", "checkout.session_list", checkout.listing),
    _route("GET", "/checkout/sessions/:id", "checkout.session_retrieve", checkout.retrieve),
    _route("POST", "/checkout/sessions/:id", "checkout.session_update", checkout.update),
    _route("POST", "/checkout/sessions/:id/expire", "checkout.session_expire", checkout.expire),
    _route("GET", "/checkout/sessions/:id/line_items", "checkout.session_line_item_list", checkout.lines),
    _route("POST", "/payment_intents", "payment_intent_create", payments.create),
    _route("GET", "/payment_intents", "payment_intent_list", payments.listing),
    _route("GET", "/payment_intents/:id", "payment_intent_retrieve", _read("payment_intent")),
    _route("POST", "/payment_intents/:id", "payment_intent_update", payments.update),
    _route("POST", "/payment_intents/:id/confirm", "payment_intent_confirm", payments.confirm),
    _route("POST", "/payment_intents/:id/cancel", "payment_intent_cancel", payments.cancel),
    _route("GET", "/setup_intents", "setup_intent_list", _setup_intents),
    _route("GET", "/setup_intents/:id", "setup_intent_retrieve", _read("setup_intent")),
    _route("GET", "/charges", "charge_list", payments.charges),
    _route("GET", "/charges/:id", "charge_retrieve", _read("charge")),
    _route("POST", "/charges/:id", "charge_update", payments.update_charge),
    _route("GET", "/balance_transactions/:id", "balance_transaction_retrieve", _read("balance_transaction")),
    _route("POST", "/refunds", "refund_create", disputes.refund),
    _route("GET", "/refunds", "refund_list", disputes.refunds),
    _route("GET", "/refunds/:id", "refund_retrieve", _read("refund")),
    _route("POST", "/refunds/:id", "refund_update", disputes.update_refund),
    _route("POST", "/refunds/:id/cancel", "refund_cancel", disputes.cancel_refund),
    _route("GET", "/disputes", "dispute_list", disputes.listing),
    _route("GET", "/disputes/:id", "dispute_retrieve", _read("dispute")),
    _route("POST", "/disputes/:id", "dispute_update", disputes.update),
    _route("POST", "/disputes/:id/close", "dispute_close", disputes.accept),
    _route("GET", "/radar/early_fraud_warnings", "radar.early_fraud_warning_list", disputes.warnings),
    _route("GET", "/radar/early_fraud_warnings/:id", "radar.early_fraud_warning_retrieve", _read("radar.early_fraud_warning")),
    _route("GET", "/subscriptions", "subscription_list", subscriptions.listing),
    _route("GET", "/subscriptions/:id", "subscription_retrieve", _read("subscription")),
    _route("POST", "/subscriptions/:id", "subscription_update", subscriptions.update),
    _route("DELETE", "/subscriptions/:id", "subscription_cancel", subscriptions.cancel),
    _route("GET", "/invoices", "invoice_list", invoices.listing),
    _route("POST", "/invoices/create_preview", "invoice_create_preview", subscriptions.preview),
    _route("GET", "/invoices/:id", "invoice_retrieve", _read("invoice")),
    _route("POST", "/invoices/:id/pay", "invoice_pay", invoices.pay),
    _route("POST", "/invoices/:id/void", "invoice_void_invoice", invoices.void),
    _route("GET", "/invoice_payments", "invoice_payment_list", invoices.payments_of),
    _route("GET", "/invoice_payments/:id", "invoice_payment_retrieve", _read("invoice_payment")),
    _route("POST", "/billing_portal/sessions", "billing_portal.session_create", portal.create),
    _route("GET", "/events", "event_list", _events),
    _route("GET", "/events/:id", "event_retrieve", _read("event")),
    _route("GET", "/webhook_endpoints", "webhook_endpoint_list", _endpoints),
    _route("GET", "/webhook_endpoints/:id", "webhook_endpoint_retrieve", _read("webhook_endpoint")),
]


def find(method: str, path: str) -> tuple[str, Handler]:
    """Return the params type and the server of a call, its ids filled in. Raises: Refused."""
    for route in ROUTES:
        if route.method == method and (met := route.path.match(path)):
            serve = route.serve
            ids = met.groups()
            return route.params, partial(_call, serve, ids)
    raise Refused(404, f"Unrecognized request URL ({method}: {path}). This fake Stripe does not know it.")


def _call(serve: Handler, ids: tuple[str, ...], store: Store, params: Json) -> Json:
    return serve(store, params, *ids)


_LISTS: dict[
    tuple[str, str], tuple[str, str]
] = {  # what is only there when expanded: the list's objects and the field that names the owner
    ("charge", "refunds"): ("refund", "charge"),
    ("customer", "subscriptions"): ("subscription", "customer"),
    ("invoice", "payments"): ("invoice_payment", "invoice"),
}


def expand(store: Store, about: Json, path: str) -> None:
    """Put whole objects into `about` where it has ids, along a dotted `path`. Raises: Refused."""
    name, _, rest = path.partition(".")
    if isinstance(about.get("data"), list) and about.get("object") in {"list", "search_result"} and name == "data":
        for at, item in enumerate(about["data"]):
            if isinstance(item, dict):
                about["data"][at] = item = {**item}  # noqa: PLW2901
                expand(store, item, rest)
        return
    if (about.get("object"), name) == ("checkout.session", "line_items"):
        about[name] = checkout.lines(store, {"limit": 100}, about["id"])
    elif known := _LISTS.get((about.get("object", ""), name)):
        kind, owner = known
        found = store.page(store.all(kind, **{owner: about["id"]}), {}, KINDS[kind][2])
        about[name] = {**found, "data": [{**one} for one in found["data"]]}
    value = about.get(name)
    if isinstance(value, str) and (found_object := store.find(value)):
        about[name] = {**found_object}
    elif isinstance(value, dict):
        about[name] = {**value}
    elif name not in about:
        raise Refused(400, f"This property cannot be expanded ({path}).", param="expand[0]", code="")
    if rest and isinstance(about[name], dict):
        expand(store, about[name], rest)
