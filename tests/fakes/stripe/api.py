"""One API call from its bytes to its answer: the key, the parameters, the idempotency key, the checked object."""

import copy
import json
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from tests.fakes.stripe import routes, shapes
from tests.fakes.stripe.refusals import Refused
from tests.fakes.stripe.shapes import Json
from tests.fakes.stripe.store import API_VERSION, DAY, KINDS, Request, Store

_KEY = re.compile(r"Bearer (?:sk|rk)_(test|live)_\w{6,}$")
_NOT_SIMULATED = (
    "application_fee_amount",
    "confirmation_token",
    "discounts",
    "mandate_data",
    "on_behalf_of",
    "optional_items",
    "paid_out_of_band",
    "payment_method_data",
    "shipping_options",
    "test_clock",
    "transfer_data",
    "trial_end",
)
_ONLY = {"capture_method": "automatic", "collection_method": "charge_automatically", "ui_mode": "hosted_page"}
_PART = re.compile(r"\[([^\]]*)\]")


@dataclass
class Answer:
    """What goes back."""

    status: int
    body: Json
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One call that was answered, for tests to look at."""

    method: str
    path: str
    params: Json
    idempotency_key: str | None
    status: int
    replayed: bool


def answer(store: Store, calls: list[Call], method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
    """Answer one call; `headers` has lower-case names."""
    request_id = store.new_id("req_", 14)
    path, _, query = target.partition("?")
    key = headers.get("idempotency-key")
    always = {"Request-Id": request_id, "Stripe-Version": headers.get("stripe-version", API_VERSION)}
    if key:
        always["Idempotency-Key"] = key
    raw: Json = {}
    replayed = False
    try:
        store.request = Request(livemode=_mode(headers.get("authorization", "")), id=request_id, idempotency_key=key)
        raw = nest(body.decode() if method == "POST" else query)
        status, made, replayed = _idempotently(store, method, path, raw, key, request_id)
    except Refused as refused:
        status, made = refused.status, refused.body(request_id)
    finally:
        store.request = Request()
    if replayed:
        always["Idempotent-Replayed"] = "true"
    calls.append(Call(method, path, raw, key, status, replayed))
    return Answer(status, made, always)


def _mode(authorization: str) -> bool:
    met = _KEY.match(authorization)
    if not authorization:
        raise Refused(
            401, "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth."
        )
    if met is None:
        raise Refused(401, f"Invalid API Key provided: {authorization.removeprefix('Bearer ')[:8]}****")
    return met[1] == "live"


def _idempotently(store: Store, method: str, path: str, raw: Json, key: str | None, request_id: str) -> tuple[int, Json, bool]:
    if method != "POST" or not key:
        status, body, _ = _perform(store, method, path, raw, request_id)
        return status, body, False
    if len(key) > 255:
        raise Refused(400, "Idempotency keys must be at most 255 characters.", kind="idempotency_error")
    place = f"{store.request.livemode}:{key}"
    asked = json.dumps([path, raw], sort_keys=True)
    known = store.keys.get(place)
    if known and known["at"] > store.now - DAY:
        if known["asked"] != asked:
            text = (
                f"Keys for idempotent requests can only be used with the same parameters they were first used with. "
                f"Try using a key other than '{key}' if you meant to execute a different request."
            )
            raise Refused(400, text, kind="idempotency_error")
        return known["status"], known["body"], True
    status, body, began = _perform(store, method, path, raw, request_id)
    if began:  # refused before that, a call may be mended under its key; whatever began is remembered, its failure too
        store.keys[place] = {"asked": asked, "status": status, "body": copy.deepcopy(body), "at": store.now}
    return status, body, False


def _perform(store: Store, method: str, path: str, raw: Json, request_id: str) -> tuple[int, Json, bool]:
    """Serve a call; the last value says whether it got past the check of its parameters."""
    began = False
    try:
        name, serve = routes.find(method, path)
        params = shapes.decode(raw, shapes.params_class(name))
        _refuse_what_is_not_simulated(params)
        began = True
        made = copy.deepcopy(serve(store, params))
        for wanted in params.get("expand", []):
            expanding = {**made}
            routes.expand(store, expanding, wanted)
            made = expanding
    except Refused as refused:
        body = copy.deepcopy(refused.body(request_id))
        _check(store, f"{method} {path}", body["error"].get("payment_intent"))
        return refused.status, body, began
    _check(store, f"{method} {path}", made)
    return 200, copy.deepcopy(made), True


def _refuse_what_is_not_simulated(params: Json) -> None:
    """Refuse what would change the course of money and is not played here, rather than pass over it. Raises: Refused."""
    asked = [name for name in _NOT_SIMULATED if params.get(name)]
    asked += [name for name, only in _ONLY.items() if params.get(name, only) not in {only, "automatic_async", "hosted"}]
    if asked:
        raise Refused(400, f"The fake Stripe does not simulate {asked[0]}={params[asked[0]]!r}.", param=asked[0])


def _check(store: Store, what: str, made: Json | None) -> None:
    if made is None:
        return
    items = made["data"] if made.get("object") in {"list", "search_result"} else [made]
    for item in items:
        store.mistakes += [f"{what}: {fault}" for fault in shapes.faults(item, KINDS[item["object"]][0])]


def nest(form: str) -> Json:
    """Turn `a[b][0]=c` into nested dictionaries of strings. Raises: Refused for what contradicts itself."""
    made: Json = {}
    for name, value in parse_qsl(form, keep_blank_values=True):
        parts = [name.split("[", 1)[0], *_PART.findall(name)]
        here = made
        for part in parts[:-1]:
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                raise Refused(400, f"Invalid parameters: {name}", param=name)
        here[parts[-1] or str(len(here))] = value
    return made
