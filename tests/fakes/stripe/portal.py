"""The billing portal: a session whose page lets the customer remove cards and cancel."""

from tests.fakes.stripe.shapes import Json
from tests.fakes.stripe.store import Store


def create(store: Store, params: Json) -> Json:
    """Serve POST /v1/billing_portal/sessions."""
    customer = store.get("customer", params["customer"], "customer")
    session = store.add(
        "billing_portal.session", customer=customer["id"], configuration="bpc_simulated", return_url=params.get("return_url")
    )
    session["url"] = f"{store.base_url}/p/session/{session['id']}"
    return session
