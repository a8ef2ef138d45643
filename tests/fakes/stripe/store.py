"""What the fake Stripe knows: objects, events, its clock, and who is asking; kept in a file when one is named."""

import base64
import copy
import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import stripe
from stripe import billing_portal, checkout, radar
from stripe._api_version import _ApiVersion

from tests.fakes.stripe import shapes
from tests.fakes.stripe.refusals import Refused, no_such
from tests.fakes.stripe.shapes import Json

API_VERSION = _ApiVersion.CURRENT
DAY = 86_400

KINDS: dict[str, tuple[type, str, str]] = {  # object name: its class, the start of its ids, its collection's path
    "customer": (stripe.Customer, "cus_", "/v1/customers"),
    "product": (stripe.Product, "prod_", "/v1/products"),
    "price": (stripe.Price, "price_", "/v1/prices"),
    "checkout.session": (checkout.Session, "cs_", "/v1/checkout/sessions"),
    "payment_intent": (stripe.PaymentIntent, "pi_", "/v1/payment_intents"),
    "setup_intent": (stripe.SetupIntent, "seti_", "/v1/setup_intents"),
    "payment_method": (stripe.PaymentMethod, "pm_", "/v1/payment_methods"),
    "charge": (stripe.Charge, "ch_", "/v1/charges"),
    "refund": (stripe.Refund, "re_", "/v1/refunds"),
    "dispute": (stripe.Dispute, "du_", "/v1/disputes"),
    "radar.early_fraud_warning": (radar.EarlyFraudWarning, "issfr_", "/v1/radar/early_fraud_warnings"),
    "subscription": (stripe.Subscription, "sub_", "/v1/subscriptions"),
    "subscription_item": (stripe.SubscriptionItem, "si_", "/v1/subscription_items"),
    "invoice": (stripe.Invoice, "in_", "/v1/invoices"),
    "invoice_payment": (stripe.InvoicePayment, "inpay_", "/v1/invoice_payments"),
    "line_item": (stripe.InvoiceLineItem, "il_", ""),
    "item": (stripe.LineItem, "li_", ""),
    "plan": (stripe.Plan, "price_", ""),
    "balance_transaction": (stripe.BalanceTransaction, "txn_", "/v1/balance_transactions"),
    "billing_portal.session": (billing_portal.Session, "bps_", "/v1/billing_portal/sessions"),
    "webhook_endpoint": (stripe.WebhookEndpoint, "we_", "/v1/webhook_endpoints"),
    "event": (stripe.Event, "evt_", "/v1/events"),
}
_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PERSISTED = ("objects", "hidden", "modes", "keys", "offset", "settings")


@dataclass
class Request:
    """Who asks: the key's mode, and what events say of the request that caused them."""

    livemode: bool = False
    id: str | None = None
    idempotency_key: str | None = None


@dataclass
class Store:
    """Everything the fake knows. Hold `lock` around any use; the server and every public knob do."""

    base_url: str = ""
    file: Path | None = None
    objects: dict[str, dict[str, Json]] = field(default_factory=dict)
    hidden: dict[str, Json] = field(default_factory=dict)  # by object id: card numbers, line items, what the clock waits for
    modes: dict[str, bool] = field(default_factory=dict)
    keys: dict[str, Json] = field(default_factory=dict)  # idempotency keys and their answers
    settings: Json = field(default_factory=lambda: {"tax_percent": 0.0, "promotion_codes": {"SAVE10": 10}, "twin_events": False})
    offset: float = 0.0
    mistakes: list[str] = field(default_factory=list)
    request: Request = field(default_factory=Request)
    heard: Callable[[Json], None] = lambda _event: None
    lock: threading.RLock = field(default_factory=threading.RLock)
    _random: random.Random = field(default_factory=random.SystemRandom)

    @property
    def now(self) -> int:
        """Return the fake's own time in Unix seconds: the real one plus what was advanced."""
        return int(time.time() + self.offset)

    # Objects

    def add(self, kind: str, **values: Any) -> Json:
        """Make an object of `kind`, with an id, a time and a mode, and keep it."""
        cls, prefix, _ = KINDS[kind]
        livemode = self.request.livemode
        start = prefix + ("live_" if livemode else "test_") if kind in {"checkout.session", "billing_portal.session"} else prefix
        made = shapes.blank(cls, **{"id": self.new_id(start), **values})
        known = shapes.fields(cls)
        for name, value in {"object": kind, "created": self.now, "livemode": livemode}.items():
            if name in known and name not in values:
                made[name] = value
        self.objects.setdefault(kind, {})[made["id"]] = made
        self.modes[made["id"]] = livemode
        return made

    def new_id(self, start: str, length: int = 24) -> str:
        """Return an id nobody has."""
        return start + "".join(self._random.choices(_LETTERS, k=length))

    def get(self, kind: str, id_: str, param: str = "id") -> Json:
        """Return the object itself, not a copy. Raises: Refused when the asking key's mode does not have it."""
        found = self.objects.get(kind, {}).get(id_)
        if found is None:
            raise no_such(kind, id_, param)
        if self.modes[id_] != self.request.livemode:
            here, there = ("live", "test") if self.request.livemode else ("test", "live")
            refused = no_such(kind, id_, param)
            text = f"{refused}; a similar object exists in {there} mode, but a {here} mode key was used to make this request."
            raise Refused(refused.status, text, code=refused.code, param=param)
        return found

    def find(self, id_: str) -> Json | None:
        """Return the object with `id_`, whatever it is and whoever asks."""
        return next((kept[id_] for kind, kept in self.objects.items() if id_ in kept and kind != "plan"), None)

    def all(self, kind: str, **wanted: Any) -> list[Json]:
        """Return the objects of `kind` in the asker's mode whose fields are as `wanted`, oldest first."""
        kept = self.objects.get(kind, {}).values()
        return [
            one
            for one in kept
            if self.modes[one["id"]] == self.request.livemode and all(one.get(name) == is_ for name, is_ in wanted.items())
        ]

    def secret(self, id_: str) -> Json:
        """Return what is known of `id_` but never shown."""
        return self.hidden.setdefault(id_, {})

    @contextmanager
    def acting_for(self, id_: str) -> Any:
        """Act in the mode of the object `id_`, on nobody's request: what happens by itself, or by a click on a page."""
        before, self.request = self.request, Request(livemode=self.modes.get(id_, False))
        try:
            yield
        finally:
            self.request = before

    # Events

    def emit(self, name: str, about: Json, previous: Json | None = None) -> None:
        """Record the event `name` about an object as it is now, and pass it on for delivery."""
        snapshot = copy.deepcopy(about)
        self.mistakes += shapes.faults(snapshot, KINDS[about["object"]][0], path=f"event {name}: {about['object']}")
        data: Json = {"object": snapshot} | ({"previous_attributes": previous} if previous is not None else {})
        told = {"id": self.request.id, "idempotency_key": self.request.idempotency_key}
        for _ in range(2 if self.settings["twin_events"] else 1):
            event = self.add(
                "event",
                id=self.new_id("evt_1"),
                type=name,
                api_version=API_VERSION,
                data=data,
                pending_webhooks=1,
                request=told,
                account=shapes.OMIT,
                context=shapes.OMIT,
            )
            self.mistakes += shapes.faults(event, stripe.Event, path=f"event {name}")
            self.heard(event)

    @contextmanager
    def change(self, about: Json, *names: str) -> Any:
        """Change an object in the block; afterwards emit `names`, with the attributes that were different before, when any is."""
        before = copy.deepcopy(about)
        yield
        previous = {key: before.get(key) for key in about if before.get(key) != about[key]}
        if previous:
            for name in names:
                self.emit(name, about, previous if name.endswith(".updated") else None)

    # Reading

    def page(self, found: list[Json], params: Json, url: str) -> Json:
        """Return a list object: newest first, filtered by `created`, cut by `limit` and the cursors."""
        rows = [one for one in reversed(found) if _within(one["created"], params.get("created"))]
        ids = [one["id"] for one in rows]
        for cursor in ("starting_after", "ending_before"):
            if params.get(cursor) and params[cursor] not in self.modes:
                raise no_such("object", params[cursor], cursor)
        limit = params.get("limit", 10)
        if not 1 <= limit <= 100:
            raise Refused(400, "This value must be between 1 and 100.", param="limit", code="parameter_invalid_integer")
        if after := params.get("starting_after"):
            rows = rows[ids.index(after) + 1 :] if after in ids else []
        elif before := params.get("ending_before"):
            rows = rows[: ids.index(before)][-limit:] if before in ids else []
        return {"object": "list", "data": rows[:limit], "has_more": len(rows) > limit, "url": url}

    # Keeping

    def save(self) -> None:
        """Write everything to the file, whole or not at all; nothing without a file."""
        if self.file is None:
            return
        new = self.file.with_name(self.file.name + ".new")
        new.write_text(json.dumps({name: getattr(self, name) for name in _PERSISTED}))
        new.replace(self.file)

    def load(self) -> None:
        """Take up what the file holds, if there is one."""
        if self.file is not None and self.file.exists():
            for name, value in json.loads(self.file.read_text()).items():
                setattr(self, name, value)


def _within(moment: int, wanted: Any) -> bool:
    if wanted is None:
        return True
    if isinstance(wanted, int):
        return moment == wanted
    tests: dict[str, Callable[[int, int], bool]] = {"gt": int.__gt__, "gte": int.__ge__, "lt": int.__lt__, "lte": int.__le__}
    return all(tests[name](moment, bound) for name, bound in wanted.items())


def client_secret(id_: str) -> str:
    """Return the secret by which a browser would know an intent."""
    return f"{id_}_secret_{base64.urlsafe_b64encode(id_.encode()).decode()[-24:].strip('=')}"


def merge_metadata(about: Json, given: Any) -> None:
    """Lay `given` over an object's metadata as Stripe does: an empty value unsets a key, an empty string all of them."""
    if given is None:
        return
    merged = {**(about.get("metadata") or {}), **given} if given != "" else {}
    about["metadata"] = {key: value for key, value in merged.items() if value != ""}
