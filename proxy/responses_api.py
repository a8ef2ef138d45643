"""The stored responses of the Responses API as key holders see them: read, list what was said, delete. Each view asks one question.

Shapes and defaults are OpenAI's. `POST /v1/responses` itself is the data plane's.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from billing.reports import InvalidParameter
from keys.http import KeyedRequest, with_key
from proxy import errors, response_store
from proxy.body import parse_body
from proxy.formats import sizes
from proxy.formats.base import BYTES_PER_TOKEN, InvalidRequest
from proxy.response_store import Turn

KINDS = ("live", "test")  # as for making a response: a management key sees nothing that was said
ENDPOINT = "responses"
PAGE, LONGEST_PAGE = 20, 100
_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}


@require_http_methods(["GET", "HEAD", "DELETE"])
@with_key(kinds=KINDS)
def response(request: KeyedRequest, response_id: str) -> HttpResponseBase:
    """GET /v1/responses/{id}: the response as it was answered. DELETE: forget it."""
    _check_scope(request)
    account_id, now = request.key.account_id, timezone.now()
    if request.method == "DELETE":
        response_store.delete(response_id, account_id=account_id, now=now)
        return _answer({"id": response_id, "object": "response", "deleted": True})
    if request.GET.get("stream", "false").lower() not in ("false", "0", ""):
        raise InvalidParameter("stream", "A stored response is not streamed again: ask for it whole.")
    return _answer(response_store.read(response_id, account_id=account_id, now=now))


@require_safe
@with_key(kinds=KINDS)
def input_items(request: KeyedRequest, response_id: str) -> HttpResponseBase:
    """GET /v1/responses/{id}/input_items: what the response was made from, earlier turns and their answers included."""
    _check_scope(request)
    order = request.GET.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidParameter("order", "Must be asc or desc.")
    limit = _read_limit(request.GET.get("limit"))
    items = list(_list_items(response_store.read_chain(response_id, account_id=request.key.account_id, now=timezone.now())))
    if order == "desc":
        items.reverse()
    if after := request.GET.get("after"):
        items = _behind(after, items)
    page = items[:limit]
    return _answer(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(items) > limit,
        }
    )


@require_POST
@with_key(kinds=KINDS)
def cancel(request: KeyedRequest, response_id: str) -> HttpResponseBase:
    """POST /v1/responses/{id}/cancel: refused, for what is stored has ended."""
    _check_scope(request)
    response_store.check_stored(response_id, account_id=request.key.account_id, now=timezone.now())
    raise InvalidRequest("Only a response that runs in the background can be cancelled; this one has ended.")


@require_POST
@with_key(kinds=KINDS)
def input_tokens(request: KeyedRequest) -> HttpResponseBase:
    """POST /v1/responses/input_tokens: about how many tokens a request would take in; nothing is sent to a provider."""
    _check_scope(request)
    fields = parse_body(_read_body(request)).fields
    response_store.refuse_unsupported(fields)
    account_id, now, history = request.key.account_id, timezone.now(), []
    own = response_store.own_input(fields)
    if previous_id := response_store.previous_id_of(fields):
        history = response_store.flatten(response_store.read_chain(previous_id, account_id=account_id, now=now))
    found = response_store.find_items(response_store.references(own, history), account_id=account_id, now=now)
    items = [*history, *response_store.resolve(own, history, found)]
    text, media = sizes.measure(items, fields.get("instructions"), fields.get("tools"), fields.get("text"))
    count = -(-text // BYTES_PER_TOKEN) + media * sizes.TOKENS_PER_MEDIUM + len(items) * sizes.TOKENS_PER_MESSAGE
    return _answer({"object": "response.input_tokens", "input_tokens": count})


# -- Requests ---------------------------------------------------------------------------------------------------------------------------


def _check_scope(request: KeyedRequest) -> None:
    if request.grant.endpoints and ENDPOINT not in request.grant.endpoints:
        raise errors.EndpointNotAllowed


def _read_limit(text: str | None) -> int:
    if text is None:
        return PAGE
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= LONGEST_PAGE):
        raise InvalidParameter("limit", f"Must be a number from 1 to {LONGEST_PAGE}.")
    return int(text)


def _read_body(request: HttpRequest) -> bytes:
    raw: bytes = request.read(settings.MAX_BODY_BYTES + 1)
    if len(raw) > settings.MAX_BODY_BYTES:
        raise errors.BodyTooLarge(settings.MAX_BODY_BYTES)
    return raw


# -- Answers ----------------------------------------------------------------------------------------------------------------------------


def _answer(fields: Mapping[str, Any]) -> HttpResponse:
    return HttpResponse(orjson.dumps(fields), content_type="application/json")


def _list_items(turns: list[Turn]) -> Iterator[dict[str, Any]]:
    """What the last of the turns was made from, oldest first, each item with an id that no other has and that stays."""
    listed: set[str] = set()
    for turn in turns:
        answered = map(response_store.as_input, turn.output) if turn is not turns[-1] else ()
        for position, item in enumerate((*turn.input, *answered)):
            shown = _show(item, turn.response_id, position, listed)
            listed.add(shown["id"])
            yield shown


def _show(item: Mapping[str, Any], response_id: str, position: int, listed: set[str]) -> dict[str, Any]:
    """An item with the id, type and form that a request may leave out."""
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    ident = item.get("id")
    if not (isinstance(ident, str) and ident) or ident in listed:
        digest = hashlib.sha256(f"{response_id}/{position}".encode()).hexdigest()
        ident = f"{_PREFIXES.get(kind, 'item')}_{digest[:48]}"
    shown = {**item, "id": ident, "type": kind}
    if kind == "message":
        shown.setdefault("status", "completed")
        content = item.get("content")
        if isinstance(content, str):
            is_answer = item.get("role") == "assistant"
            shown["content"] = [
                {"type": "output_text", "text": content, "annotations": []} if is_answer else {"type": "input_text", "text": content}
            ]
    return shown


def _behind(after: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for index, item in enumerate(items):
        if item["id"] == after:
            return items[index + 1 :]
    raise InvalidParameter("after", "Is no id of an item of this list.")
