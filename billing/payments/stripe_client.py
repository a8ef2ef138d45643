"""Stripe's API as this project uses it: a few functions that return plain values. The only module that imports `stripe`.

The library takes a third of a second to a second to load, and the data plane and most commands never need it: it is imported at the first
call. What Stripe answers is read into small frozen values here, so that no rule meets one of its objects.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from django.conf import settings

if TYPE_CHECKING:
    import stripe
    from stripe.params import RefundCreateParams
    from stripe.params.checkout import SessionCreateParams

API_VERSION = "2026-10-28.endive"  # what the library was made for; answers keep this shape whatever the account's default is
CONNECT_SECONDS = 3.0
READ_SECONDS = 15.0
RETRIES = 2
PAGE = 100
TAG = "top_up"  # the metadata of everything that belongs to a top-up: its id


class NotConfigured(Exception):
    """STRIPE_SECRET_KEY is not set: there is nobody to ask."""


class StripeUnavailable(Exception):
    """Stripe could not be reached, or failed itself. Whether the call took effect is unknown: repeat it with the same idempotency key."""


class StripeRefused(Exception):
    """Stripe said no. `message` is for people; `code`, `decline_code` and `param` are Stripe's own names."""

    def __init__(self, *, message: str, code: str, decline_code: str = "", param: str = "", payment_intent_id: str = "") -> None:
        super().__init__(f"{code or 'refused'}: {message}")
        self.message = message
        self.code = code
        self.decline_code = decline_code
        self.param = param
        self.payment_intent_id = payment_intent_id

    @property
    def is_missing(self) -> bool:
        """Whether what was named does not exist at Stripe."""
        return self.code == "resource_missing"


@dataclass(frozen=True, slots=True)
class Session:
    """A Checkout session. Amounts in minor units: `subtotal` is before discount and tax, `total` is what the customer pays."""

    id: str
    mode: str
    status: str
    payment_status: str
    url: str
    currency: str
    subtotal: int
    total: int
    discount: int
    reference: str
    payment_intent_id: str
    customer_id: str
    is_live: bool
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment intent, with what its last charge says. Amounts in minor units."""

    id: str
    status: str
    currency: str
    amount: int
    received: int
    charge_id: str
    receipt_url: str
    failure: str
    decline_code: str
    action_url: str
    customer_id: str
    payment_method_id: str
    saves_card: bool
    is_live: bool
    metadata: Mapping[str, str]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Refund:
    """Money on its way back. `amount` in minor units."""

    id: str
    status: str
    amount: int
    reason: str
    payment_intent_id: str
    charge_id: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Dispute:
    """A payment that its customer contests at the bank. `amount` in minor units."""

    id: str
    status: str
    amount: int
    reason: str
    payment_intent_id: str
    charge_id: str
    evidence_due_at: datetime | None


@dataclass(frozen=True, slots=True)
class Warned:
    """An early fraud warning: the card's network thinks the payment was not its owner's."""

    id: str
    kind: str
    is_actionable: bool
    payment_intent_id: str
    charge_id: str


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer's record."""

    id: str
    is_deleted: bool


def is_configured() -> bool:
    """Whether Stripe can be asked at all."""
    return bool(settings.STRIPE_SECRET_KEY)


def is_live() -> bool:
    """Whether the configured key moves real money."""
    return "_live_" in settings.STRIPE_SECRET_KEY and not settings.STRIPE_SIMULATED


def client() -> "stripe.StripeClient":
    """The library's client for the configured key and address; for calls that no function here makes, inside `call`.

    Raises: NotConfigured.
    """
    if not settings.STRIPE_SECRET_KEY:
        raise NotConfigured("STRIPE_SECRET_KEY is not set")
    return _client(settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE)


@lru_cache(maxsize=4)
def _client(key: str, base: str) -> "stripe.StripeClient":
    import stripe  # up to a second: paid by whoever first speaks with Stripe

    return stripe.StripeClient(
        key,
        stripe_version=API_VERSION,
        base_addresses={"api": base},
        max_network_retries=RETRIES,
        http_client=stripe.RequestsClient(timeout=(CONNECT_SECONDS, READ_SECONDS)),
    )


def call(ask: "Callable[[stripe.StripeClient], stripe.StripeObject]") -> dict[str, Any]:
    """Make one call and return the answer as plain JSON values.

    Raises: NotConfigured, StripeUnavailable, StripeRefused.
    """
    ready = client()
    import stripe  # loaded by now

    try:
        return ask(ready).to_dict(for_json=True)  # events go into the inbox as they are, and the library makes decimals of some strings
    except (stripe.APIConnectionError, stripe.APIError, stripe.RateLimitError) as error:
        raise StripeUnavailable(str(error)) from error
    except stripe.StripeError as error:
        if (error.http_status or 0) in (409, 429) or (error.http_status or 0) >= 500:
            raise StripeUnavailable(str(error)) from error
        details = getattr(error, "error", None)
        body = cast("dict[str, Any]", details.to_dict(for_json=True)) if details is not None else {}
        raise StripeRefused(
            message=str(error.user_message or error),
            code=str(error.code or body.get("type") or type(error).__name__),
            decline_code=str(body.get("decline_code") or ""),
            param=str(getattr(error, "param", None) or ""),
            payment_intent_id=_id(body.get("payment_intent")),
        ) from error


# -- Checkout and payments -----------------------------------------------------------------------------------------------------------


def create_session(params: "SessionCreateParams", *, idempotency_key: str) -> Session:
    """Open a Checkout session; the same key gives the same session for a day. Raises: as `call`."""
    return read_session(call(lambda ready: ready.v1.checkout.sessions.create(params, {"idempotency_key": idempotency_key})))


def fetch_session(session_id: str) -> Session:
    """A session as it stands. Raises: as `call`."""
    return read_session(call(lambda ready: ready.v1.checkout.sessions.retrieve(session_id)))


def find_session(*, payment_intent_id: str) -> Session | None:
    """The session that a payment intent belongs to, if any. Raises: as `call`."""
    found = call(lambda ready: ready.v1.checkout.sessions.list({"payment_intent": payment_intent_id, "limit": 1}))["data"]
    return read_session(found[0]) if found else None


def fetch_payment(payment_intent_id: str) -> Payment:
    """A payment intent as it stands, with its last charge. Raises: as `call`."""
    return read_payment(call(lambda ready: ready.v1.payment_intents.retrieve(payment_intent_id, {"expand": ["latest_charge"]})))


def fetch_charge_payment(charge_id: str) -> str:
    """The id of the payment intent that a charge belongs to; empty when there is none. Raises: as `call`."""
    return _id(call(lambda ready: ready.v1.charges.retrieve(charge_id)).get("payment_intent"))


def list_payments(*, since: datetime, until: datetime) -> Iterator[Payment]:
    """The payment intents that were made in the period, page by page. Raises: as `call`."""
    created = {"gte": int(since.timestamp()), "lt": int(until.timestamp())}

    def page(after: str) -> dict[str, Any]:
        params: Any = {"created": created, "limit": PAGE, "expand": ["data.latest_charge"]} | ({"starting_after": after} if after else {})
        return call(lambda ready: ready.v1.payment_intents.list(params))

    return map(read_payment, _pages(page))


# -- Reversals -----------------------------------------------------------------------------------------------------------------------


def create_refund(params: "RefundCreateParams", *, idempotency_key: str) -> Refund:
    """Send money back. Raises: as `call`."""
    return read_refund(call(lambda ready: ready.v1.refunds.create(params, {"idempotency_key": idempotency_key})))


def list_refunds(*, payment_intent_id: str) -> list[Refund]:
    """Every refund of a payment. Raises: as `call`."""

    def page(after: str) -> dict[str, Any]:
        params: Any = {"payment_intent": payment_intent_id, "limit": PAGE} | ({"starting_after": after} if after else {})
        return call(lambda ready: ready.v1.refunds.list(params))

    return [read_refund(one) for one in _pages(page)]


def list_disputes(*, payment_intent_id: str) -> list[Dispute]:
    """Every dispute of a payment. Raises: as `call`."""

    def page(after: str) -> dict[str, Any]:
        params: Any = {"payment_intent": payment_intent_id, "limit": PAGE} | ({"starting_after": after} if after else {})
        return call(lambda ready: ready.v1.disputes.list(params))

    return [read_dispute(one) for one in _pages(page)]


def fetch_warning(warning_id: str) -> Warned:
    """An early fraud warning. Raises: as `call`."""
    found = call(lambda ready: ready.v1.radar.early_fraud_warnings.retrieve(warning_id))
    return Warned(
        id=found["id"],
        kind=str(found.get("fraud_type") or ""),
        is_actionable=bool(found.get("actionable")),
        payment_intent_id=_id(found.get("payment_intent")),
        charge_id=_id(found.get("charge")),
    )


# -- Customers and events ------------------------------------------------------------------------------------------------------------


def create_customer(*, name: str, email: str, metadata: Mapping[str, str]) -> Customer:
    """Make a customer. Raises: as `call`."""
    params: Any = {"name": name, "metadata": dict(metadata)} | ({"email": email} if email else {})
    return _read_customer(call(lambda ready: ready.v1.customers.create(params)))


def fetch_customer(customer_id: str) -> Customer | None:
    """A customer; None when Stripe does not know it (it is of the other mode, say). Raises: as `call`."""
    try:
        return _read_customer(call(lambda ready: ready.v1.customers.retrieve(customer_id)))
    except StripeRefused as refused:
        if refused.is_missing:
            return None
        raise


def list_events(*, since: datetime, undelivered_only: bool = False) -> Iterator[dict[str, Any]]:
    """The events made since then, the newest first, as JSON. Stripe keeps them for 30 days. Raises: as `call`."""

    def page(after: str) -> dict[str, Any]:
        params: Any = {"created": {"gte": int(since.timestamp())}, "limit": PAGE}
        params |= {"delivery_success": False} if undelivered_only else {}
        params |= {"starting_after": after} if after else {}
        return call(lambda ready: ready.v1.events.list(params))

    return _pages(page)


# -- Reading -------------------------------------------------------------------------------------------------------------------------


def read_session(found: Mapping[str, Any]) -> Session:
    """A session from JSON."""
    return Session(
        id=found["id"],
        mode=str(found.get("mode") or ""),
        status=str(found.get("status") or ""),
        payment_status=str(found.get("payment_status") or ""),
        url=str(found.get("url") or ""),
        currency=str(found.get("currency") or ""),
        subtotal=int(found.get("amount_subtotal") or 0),
        total=int(found.get("amount_total") or 0),
        discount=int((found.get("total_details") or {}).get("amount_discount") or 0),
        reference=str(found.get("client_reference_id") or ""),
        payment_intent_id=_id(found.get("payment_intent")),
        customer_id=_id(found.get("customer")),
        is_live=bool(found.get("livemode")),
        metadata=dict(found.get("metadata") or {}),
    )


def read_payment(found: Mapping[str, Any]) -> Payment:
    """A payment intent from JSON."""
    charge = found.get("latest_charge")
    problem = found.get("last_payment_error") or {}
    action = (found.get("next_action") or {}).get("redirect_to_url") or {}
    return Payment(
        id=found["id"],
        status=str(found.get("status") or ""),
        currency=str(found.get("currency") or ""),
        amount=int(found.get("amount") or 0),
        received=int(found.get("amount_received") or 0),
        charge_id=_id(charge),
        receipt_url=str(charge.get("receipt_url") or "") if isinstance(charge, Mapping) else "",
        failure=str(problem.get("message") or ""),
        decline_code=str(problem.get("decline_code") or problem.get("code") or ""),
        action_url=str(action.get("url") or ""),
        customer_id=_id(found.get("customer")),
        payment_method_id=_id(found.get("payment_method")),
        saves_card=found.get("setup_future_usage") == "off_session",
        is_live=bool(found.get("livemode")),
        metadata=dict(found.get("metadata") or {}),
        created_at=_moment(found.get("created")) or datetime.fromtimestamp(0, tz=UTC),
    )


def read_refund(found: Mapping[str, Any]) -> Refund:
    """A refund from JSON."""
    return Refund(
        id=found["id"],
        status=str(found.get("status") or ""),
        amount=int(found.get("amount") or 0),
        reason=str(found.get("reason") or ""),
        payment_intent_id=_id(found.get("payment_intent")),
        charge_id=_id(found.get("charge")),
        metadata=dict(found.get("metadata") or {}),
    )


def read_dispute(found: Mapping[str, Any]) -> Dispute:
    """A dispute from JSON."""
    return Dispute(
        id=found["id"],
        status=str(found.get("status") or ""),
        amount=int(found.get("amount") or 0),
        reason=str(found.get("reason") or ""),
        payment_intent_id=_id(found.get("payment_intent")),
        charge_id=_id(found.get("charge")),
        evidence_due_at=_moment((found.get("evidence_details") or {}).get("due_by")),
    )


def _read_customer(found: Mapping[str, Any]) -> Customer:
    return Customer(id=found["id"], is_deleted=bool(found.get("deleted")))


def _pages(page: Callable[[str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    after = ""
    while True:
        answer = page(after)
        yield from answer["data"]
        if not answer.get("has_more") or not answer["data"]:
            return
        after = answer["data"][-1]["id"]


def _id(value: Any) -> str:
    """The id of what is either named or expanded."""
    return str(value.get("id") or "") if isinstance(value, Mapping) else str(value or "")


def _moment(seconds: Any) -> datetime | None:
    return datetime.fromtimestamp(seconds, tz=UTC) if isinstance(seconds, int) and seconds > 0 else None
