"""Products and prices, and the lines that a session or an invoice is made of."""

import stripe

from tests.fakes.stripe import shapes
from tests.fakes.stripe.refusals import Refused, missing
from tests.fakes.stripe.shapes import Json
from tests.fakes.stripe.store import Store, merge_metadata


def create_product(store: Store, params: Json) -> Json:
    """Serve POST /v1/products."""
    if params.get("id") in store.objects.get("product", {}):
        raise Refused(400, "Product already exists.", code="resource_already_exists", param="id")
    product = store.add(
        "product",
        **({"id": params["id"]} if "id" in params else {}),
        active=params.get("active", True),
        description=params.get("description"),
        images=params.get("images", []),
        metadata={},
        name=params["name"],
        tax_code=params.get("tax_code"),
        type="service",
        updated=store.now,
    )
    merge_metadata(product, params.get("metadata"))
    store.emit("product.created", product)
    return product


def update_product(store: Store, params: Json, id_: str) -> Json:
    """Serve POST /v1/products/:id."""
    product = store.get("product", id_)
    with store.change(product, "product.updated"):
        product |= {
            name: params[name] for name in ("active", "description", "name", "images", "default_price", "tax_code") if name in params
        }
        merge_metadata(product, params.get("metadata"))
    return product


def products(store: Store, params: Json) -> Json:
    """Serve GET /v1/products."""
    found = store.all("product", **{name: params[name] for name in ("active",) if name in params})
    return store.page([one for one in found if one["id"] in params.get("ids", [one["id"]])], params, "/v1/products")


def create_price(store: Store, params: Json) -> Json:
    """Serve POST /v1/prices."""
    key = params.get("lookup_key")
    if holder := next(iter(store.all("price", lookup_key=key)), None) if key else None:
        if not params.get("transfer_lookup_key"):
            raise Refused(400, f"A price (`{holder['id']}`) already uses that lookup key.", param="lookup_key")
        with store.change(holder, "price.updated"):
            holder["lookup_key"] = None
    price = make_price(store, params)
    store.emit("price.created", price)
    return price


def make_price(store: Store, params: Json) -> Json:
    """Make a price from the parameters of one, or from a line's `price_data`."""
    if data := params.get("product_data"):
        known = {name: data[name] for name in ("id", "name", "description", "images", "metadata", "tax_code") if name in data}
        product = create_product(store, known)["id"]
    elif params.get("product"):
        product = store.get("product", params["product"], "product")["id"]
    else:
        raise missing("product")
    if "unit_amount" not in params and "unit_amount_decimal" not in params:
        raise missing("unit_amount")
    amount = params.get("unit_amount", round(float(params.get("unit_amount_decimal", 0))))
    recurring = params.get("recurring")
    if recurring:
        recurring = shapes.blank(
            stripe.Price.Recurring, interval=recurring["interval"], interval_count=recurring.get("interval_count", 1), usage_type="licensed"
        )
    price = store.add(
        "price",
        active=params.get("active", True),
        billing_scheme="per_unit",
        currency=params["currency"],
        lookup_key=params.get("lookup_key"),
        metadata={},
        nickname=params.get("nickname"),
        product=product,
        recurring=recurring,
        tax_behavior=params.get("tax_behavior", "unspecified"),
        type="recurring" if recurring else "one_time",
        unit_amount=amount,
        unit_amount_decimal=str(amount),
    )
    merge_metadata(price, params.get("metadata"))
    return price


def update_price(store: Store, params: Json, id_: str) -> Json:
    """Serve POST /v1/prices/:id."""
    price = store.get("price", id_)
    with store.change(price, "price.updated"):
        price |= {name: params[name] for name in ("active", "lookup_key", "nickname", "tax_behavior") if name in params}
        merge_metadata(price, params.get("metadata"))
    return price


def listing(store: Store, params: Json) -> Json:
    """Serve GET /v1/prices."""
    found = store.all("price", **{name: params[name] for name in ("active", "currency", "product", "type") if name in params})
    if "lookup_keys" in params:
        found = [one for one in found if one["lookup_key"] in params["lookup_keys"]]
    return store.page(found, params, "/v1/prices")


def of_line(store: Store, line: Json, where: str) -> Json:
    """Return the price of a session's or subscription's line: one that is there, or made from its `price_data`. Raises: Refused."""
    if line.get("price"):
        price = store.get("price", line["price"], f"{where}[price]")
        if not price["active"]:
            raise Refused(400, f"The price specified is inactive: {price['id']}.", param=f"{where}[price]")
        return price
    if not line.get("price_data"):
        raise missing(f"{where}[price]")
    return make_price(store, line["price_data"])


def session_line(store: Store, price: Json, quantity: int) -> Json:
    """Make a checkout session's line."""
    amount = price["unit_amount"] * quantity
    return store.add(
        "item",
        amount_subtotal=amount,
        amount_total=amount,
        currency=price["currency"],
        description=store.get("product", price["product"])["name"],
        price=price,
        quantity=quantity,
    )
