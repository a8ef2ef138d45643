"""Payment methods: which card number does what, saving a card with a customer, and taking it off again."""

from dataclasses import dataclass
from datetime import UTC, datetime

import stripe

from tests.fakes.stripe import shapes
from tests.fakes.stripe.refusals import Refused
from tests.fakes.stripe.shapes import Json
from tests.fakes.stripe.store import Store


@dataclass(frozen=True)
class Behaviour:
    """What a bank says to a card. `consent`: never, unless it was set up before, always."""

    brand: str = "visa"
    code: str = ""
    decline_code: str = ""
    message: str = "Your card was declined."
    consent: str = "never"
    declines_later: bool = False  # saving it works, charging it does not
    disputed: bool = False


NUMBERS = {
    "4242424242424242": Behaviour(),
    "5555555555554444": Behaviour(brand="mastercard"),
    "378282246310005": Behaviour(brand="amex"),
    "4000000000000002": Behaviour(code="card_declined", decline_code="generic_decline"),
    "4000000000009995": Behaviour(code="card_declined", decline_code="insufficient_funds", message="Your card has insufficient funds."),
    "4000000000000069": Behaviour(code="expired_card", message="Your card has expired."),
    "4000000000000127": Behaviour(code="incorrect_cvc", message="Your card's security code is incorrect."),
    "4000000000000341": Behaviour(code="card_declined", decline_code="generic_decline", declines_later=True),
    "4000002500003155": Behaviour(consent="unless set up"),
    "4000002760003184": Behaviour(consent="always"),
    "4000000000000259": Behaviour(disputed=True),
}
TOKENS = {
    "pm_card_visa": "4242424242424242",
    "pm_card_mastercard": "5555555555554444",
    "pm_card_amex": "378282246310005",
    "pm_card_visa_chargeDeclined": "4000000000000002",
    "pm_card_chargeDeclined": "4000000000000002",
    "pm_card_visa_chargeDeclinedInsufficientFunds": "4000000000009995",
    "pm_card_chargeDeclinedInsufficientFunds": "4000000000009995",
    "pm_card_chargeDeclinedExpiredCard": "4000000000000069",
    "pm_card_chargeDeclinedIncorrectCvc": "4000000000000127",
    "pm_card_chargeCustomerFail": "4000000000000341",
    "pm_card_authenticationRequiredOnSetup": "4000002500003155",
    "pm_card_authenticationRequired": "4000002760003184",
    "pm_card_createDispute": "4000000000000259",
}
BANK = "bank"  # the number of a bank account that pays late


def behaviour(store: Store, method: Json) -> Behaviour:
    """Return what the bank does with a saved method."""
    return NUMBERS.get(store.secret(method["id"])["number"], Behaviour())


def make(store: Store, number: str, billing: Json | None = None) -> Json:
    """Make a payment method of a card `number` (or `BANK`). Raises: Refused for a number that is no test card."""
    details = {"address": None, "email": None, "name": None, "phone": None, "tax_id": None, **(billing or {})}
    if number == BANK:
        bank = shapes.blank(_part("UsBankAccount"), bank_name="SIMULATED BANK", last4="6789", routing_number="110000000")
        made = store.add("payment_method", type="us_bank_account", billing_details=details, metadata={}, us_bank_account=bank)
    else:
        if number not in NUMBERS:
            raise Refused(402, "Your card number is incorrect.", kind="card_error", code="incorrect_number", param="number")
        made = store.add(
            "payment_method", type="card", billing_details=details, metadata={}, allow_redisplay="unspecified", card=_card(store, number)
        )
    for name in [name for name, value in made.items() if value is None and name not in {"customer", "customer_account"}]:
        del made[name]  # the parts of other types are absent
    store.secret(made["id"]).update(number=number, set_up=False)
    return made


def look_up(store: Store, id_: str, param: str = "payment_method") -> Json:
    """Return a method by its id; a token like `pm_card_visa` makes a new one each time."""
    return make(store, TOKENS[id_]) if id_ in TOKENS else store.get("payment_method", id_, param)


def save(store: Store, method: Json, customer: str) -> None:
    """Attach `method` to `customer`, if it is not."""
    if method["customer"] != customer:
        method["customer"] = customer
        method["allow_redisplay"] = method.get("allow_redisplay", "unspecified")
        store.emit("payment_method.attached", method)


def create(store: Store, params: Json) -> Json:
    """Serve POST /v1/payment_methods."""
    card = params.get("card") or {}
    if "token" in card:
        return make(store, {"tok_visa": "4242424242424242", "tok_chargeDeclined": "4000000000000002"}.get(card["token"], ""))
    return make(store, card.get("number", BANK if params.get("type") == "us_bank_account" else ""), params.get("billing_details"))


def attach(store: Store, params: Json, id_: str) -> Json:
    """Serve POST /v1/payment_methods/:id/attach."""
    method = look_up(store, id_, "id")
    customer = store.get("customer", params["customer"], "customer")
    if method["customer"] not in {None, customer["id"]}:
        raise Refused(400, "The payment method you provided has already been attached to a customer.", param="payment_method")
    does = behaviour(store, method)
    if does.code and not does.declines_later:
        raise Refused(402, does.message, kind="card_error", code=does.code, decline_code=does.decline_code)
    save(store, method, customer["id"])
    return method


def detach(store: Store, _params: Json, id_: str) -> Json:
    """Serve POST /v1/payment_methods/:id/detach."""
    method = store.get("payment_method", id_)
    if method["customer"] is None:
        raise Refused(400, "The payment method you provided is not attached to a customer so detachment is impossible.")
    forget(store, method)
    return method


def forget(store: Store, method: Json) -> None:
    """Take a method from its customer, whose default it then no longer is."""
    owner, method["customer"] = method["customer"], None
    customer = store.find(owner)
    store.emit("payment_method.detached", method, {"customer": owner})
    if customer and customer.get("invoice_settings", {}).get("default_payment_method") == method["id"]:
        with store.change(customer, "customer.updated"):
            customer["invoice_settings"] = {**customer["invoice_settings"], "default_payment_method": None}


def listing(store: Store, params: Json) -> Json:
    """Serve GET /v1/payment_methods."""
    wanted = {name: params[name] for name in ("customer", "type") if name in params}
    return store.page(store.all("payment_method", **wanted) if "customer" in wanted else [], params, "/v1/payment_methods")


def of_customer(store: Store, params: Json, id_: str) -> Json:
    """Serve GET /v1/customers/:id/payment_methods."""
    store.get("customer", id_)
    wanted = {name: params[name] for name in ("type",) if name in params}
    return store.page(store.all("payment_method", customer=id_, **wanted), params, f"/v1/customers/{id_}/payment_methods")


def _card(store: Store, number: str) -> Json:
    return shapes.blank(
        _part("Card"),
        brand=NUMBERS[number].brand,
        display_brand=NUMBERS[number].brand,
        last4=number[-4:],
        exp_month=12,
        exp_year=datetime.fromtimestamp(store.now, UTC).year + 3,
        fingerprint=f"fp{number[-8:]}",
        funding="credit",
        country="US",
        checks={"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
        networks={"available": [NUMBERS[number].brand], "preferred": None},
        three_d_secure_usage={"supported": True},
    )


def _part(name: str) -> type:
    found: type = getattr(stripe.PaymentMethod, name)
    return found
