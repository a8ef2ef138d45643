"""The state of the Responses API: what a turn said and what was answered, kept for its account alone, and unrolled for the next turn.

A response whose predecessor is gone cannot be built upon: half a conversation would be answered as if it were the whole. The data plane comes
here over a lane of its own, the control plane over Django's connection; both ask the same question.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeGuard

import orjson
from django.db import connection

from gateway_site.clients import Lane
from proxy.formats.base import InvalidRequest
from proxy.models import StoredResponse

MOST_TURN_BYTES = 8 * 1024 * 1024
MOST_HISTORY_BYTES = 32 * 1024 * 1024
MOST_TURNS = 1000
_ID = re.compile(r"[\x21-\x7e]{1,200}")

# Oldest first. Each turn's size counts it and all that came after it; when all of them are too large, none is read.
CHAIN = f"""WITH RECURSIVE chain AS (
        SELECT 1 AS depth, octet_length(input) + octet_length(output) AS size, account_id, response_id, previous_id, input, output
        FROM proxy_storedresponse WHERE account_id = %s AND response_id = %s AND expires_at > %s
    UNION ALL
        SELECT depth + 1, size + octet_length(turn.input) + octet_length(turn.output),
            turn.account_id, turn.response_id, turn.previous_id, turn.input, turn.output
        FROM chain JOIN proxy_storedresponse turn
            ON turn.account_id = chain.account_id AND turn.response_id = chain.previous_id AND turn.expires_at > %s
        WHERE depth <= {MOST_TURNS} AND size <= {MOST_HISTORY_BYTES}
    )
    SELECT depth, size, response_id, previous_id,
        CASE WHEN max(size) OVER () <= {MOST_HISTORY_BYTES} THEN input END,
        CASE WHEN max(size) OVER () <= {MOST_HISTORY_BYTES} THEN output END
    FROM chain ORDER BY depth DESC"""  # noqa: S608 - constants
# The answers that hold an item of these ids, the latest first; when they are too large together, none is read.
HOLDERS = f"""SELECT sum(octet_length(output)) OVER (),
        CASE WHEN sum(octet_length(output)) OVER () <= {MOST_HISTORY_BYTES} THEN output END
    FROM proxy_storedresponse WHERE account_id = %s AND item_ids && %s::varchar[] AND expires_at > %s
    ORDER BY created_at DESC, response_id"""  # noqa: S608 - constants
SAVE = """INSERT INTO proxy_storedresponse
        (account_id, response_id, key_id, model, status, previous_id, input, output, item_ids, document, created_at, expires_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s::varchar[], %s, %s, %s)
    ON CONFLICT (account_id, response_id) DO UPDATE SET key_id = EXCLUDED.key_id, model = EXCLUDED.model, status = EXCLUDED.status,
        previous_id = EXCLUDED.previous_id, input = EXCLUDED.input, output = EXCLUDED.output, item_ids = EXCLUDED.item_ids,
        document = EXCLUDED.document, expires_at = EXCLUDED.expires_at
    RETURNING response_id"""
DROP_EXPIRED = """DELETE FROM proxy_storedresponse WHERE (account_id, response_id) IN (
    SELECT account_id, response_id FROM proxy_storedresponse WHERE expires_at <= %s ORDER BY expires_at LIMIT %s)"""


class ResponseNotFound(Exception):
    """The account has no stored response of this id: it never had, or it was deleted or has expired."""

    def __init__(self, response_id: str) -> None:
        super().__init__(response_id)
        self.response_id = response_id


class PreviousResponseNotFound(ResponseNotFound):
    """A response that is built upon, or one before it, is not stored for the account."""


class ResponseNotStored(Exception):
    """The answer was given and charged, and could not be written down, although the client wants to build on it."""


class ResponseTooLarge(Exception):
    """A turn is larger than what is stored of one (bytes)."""

    def __init__(self, limit: int = MOST_TURN_BYTES) -> None:
        super().__init__(limit)
        self.limit = limit


class HistoryTooLarge(Exception):
    """The turns before a request are too many, or too large together."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn as the next one needs it: the items that were said and those that were answered."""

    response_id: str
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]


class ResponseStore:
    """The data plane's way to stored responses; each is kept for `retention`, and with none nothing is stored."""

    def __init__(self, lane: Lane, *, retention: timedelta) -> None:
        self._lane = lane
        self._retention = retention

    async def history(self, account_id: int, response_id: str, *, now: datetime) -> list[dict[str, Any]]:
        """All items up to and with this response, oldest first: each turn's input, then its output as input takes it.

        Raises: PreviousResponseNotFound, HistoryTooLarge; gateway_site.clients.DatabaseUnavailable.
        """
        if not _ID.fullmatch(response_id):
            raise PreviousResponseNotFound(response_id)
        rows = await self._lane.fetch(CHAIN, _asked(account_id, response_id, now))
        if not rows:
            raise PreviousResponseNotFound(response_id)
        return flatten(read_turns(rows))

    async def items(self, account_id: int, ids: Sequence[str], *, now: datetime) -> dict[str, dict[str, Any]]:
        """The answered items of these ids, as input takes them; what is not stored for the account is left out.

        Raises: HistoryTooLarge; gateway_site.clients.DatabaseUnavailable.
        """
        return read_items(await self._lane.fetch(HOLDERS, [account_id, list(ids), now]), ids) if ids else {}

    async def save(
        self,
        *,
        account_id: int,
        key_id: int,
        model: str,
        response: Mapping[str, Any],
        input_items: Sequence[Mapping[str, Any]],
        previous_id: str | None,
        now: datetime,
    ) -> None:
        """Keep a response (the object as the client sees it, with its `id`) and its turn's own items. Saving it again changes nothing more.

        Raises: ResponseTooLarge; gateway_site.clients.DatabaseUnavailable (it may have been saved: save it again).
        """
        if self._retention <= timedelta(0):
            return
        said = orjson.dumps(list(input_items))
        output = response.get("output") or []
        answered = orjson.dumps(output)
        document = orjson.dumps({**response, "output": []})
        if len(said) + len(answered) + len(document) > MOST_TURN_BYTES:
            raise ResponseTooLarge
        await self._lane.fetch(
            SAVE,
            [
                account_id,
                response["id"],
                key_id,
                model[:200],
                str(response.get("status") or "")[:20],
                previous_id or "",
                said.decode(),
                answered.decode(),
                [item["id"] for item in output if isinstance(item, dict) and is_id(item.get("id"))],
                document.decode(),
                now,
                now + self._retention,
            ],
        )


# -- The control plane's way ------------------------------------------------------------------------------------------------------------


def read(response_id: str, *, account_id: int, now: datetime) -> dict[str, Any]:
    """The response as the client saw it.

    Raises: ResponseNotFound.
    """
    row = StoredResponse.objects.kept(response_id, account_id=account_id, now=now).first() if _ID.fullmatch(response_id) else None
    if row is None:
        raise ResponseNotFound(response_id)
    document: dict[str, Any] = orjson.loads(row.document)
    document["output"] = orjson.loads(row.output)
    return document


def read_chain(response_id: str, *, account_id: int, now: datetime) -> list[Turn]:
    """The turns up to and with this response, oldest first.

    Raises: ResponseNotFound; PreviousResponseNotFound when one before it is gone; HistoryTooLarge.
    """
    if not _ID.fullmatch(response_id):
        raise ResponseNotFound(response_id)
    with connection.cursor() as cursor:
        cursor.execute(CHAIN, _asked(account_id, response_id, now))
        rows = cursor.fetchall()
    if not rows:
        raise ResponseNotFound(response_id)
    return read_turns(rows)


def find_items(ids: Sequence[str], *, account_id: int, now: datetime) -> dict[str, dict[str, Any]]:
    """The answered items of these ids, as input takes them; what is not stored for the account is left out.

    Raises: HistoryTooLarge.
    """
    if not ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(HOLDERS, [account_id, list(ids), now])
        return read_items(cursor.fetchall(), ids)


def check_stored(response_id: str, *, account_id: int, now: datetime) -> None:
    """Raises: ResponseNotFound."""
    if not (_ID.fullmatch(response_id) and StoredResponse.objects.kept(response_id, account_id=account_id, now=now).exists()):
        raise ResponseNotFound(response_id)


def delete(response_id: str, *, account_id: int, now: datetime) -> None:
    """Forget a response at once; what builds on it cannot be continued any more.

    Raises: ResponseNotFound.
    """
    if not (_ID.fullmatch(response_id) and StoredResponse.objects.kept(response_id, account_id=account_id, now=now).delete()[0]):
        raise ResponseNotFound(response_id)


def drop_expired(*, now: datetime, limit: int) -> int:
    """Remove expired responses, the oldest first, at most `limit`; returns how many went."""
    with connection.cursor() as cursor:
        cursor.execute(DROP_EXPIRED, [now, limit])
        return int(cursor.rowcount)


# -- Rows and items (pure) --------------------------------------------------------------------------------------------------------------


def _asked(account_id: int, response_id: str, now: datetime) -> list[Any]:
    return [account_id, response_id, now, now]


def read_turns(rows: Sequence[Sequence[Any]]) -> list[Turn]:
    """The turns that rows of `CHAIN` tell (at least one), oldest first.

    Raises: PreviousResponseNotFound, HistoryTooLarge.
    """
    depth, size, _, previous_id = rows[0][:4]
    if depth > MOST_TURNS or size > MOST_HISTORY_BYTES:
        raise HistoryTooLarge
    if previous_id:
        raise PreviousResponseNotFound(previous_id)
    return [Turn(response_id, orjson.loads(said), orjson.loads(answered)) for _, _, response_id, _, said, answered in rows]


def read_items(rows: Sequence[Sequence[Any]], ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The items of these ids that rows of `HOLDERS` tell, as input takes them.

    Raises: HistoryTooLarge.
    """
    if rows and rows[0][0] > MOST_HISTORY_BYTES:
        raise HistoryTooLarge
    wanted = set(ids)
    found: dict[str, dict[str, Any]] = {}
    for _, answered in rows:
        for item in orjson.loads(answered):
            if isinstance(item, dict) and (ident := item.get("id")) in wanted and ident not in found:
                found[ident] = as_input(item)
    return found


def is_id(ident: Any) -> TypeGuard[str]:
    """Whether something can be the id of an item."""
    return isinstance(ident, str) and _ID.fullmatch(ident) is not None


def flatten(turns: Iterable[Turn]) -> list[dict[str, Any]]:
    """The items of turns as the input of the next one."""
    return [item for turn in turns for item in (*turn.input, *map(as_input, turn.output))]


def as_input(item: Mapping[str, Any]) -> dict[str, Any]:
    """An output item as input takes it: without the nulls that an answer shows and a request is refused for."""
    return {
        name: [_without_nulls(part) for part in value] if name in ("content", "summary") and isinstance(value, list) else value
        for name, value in item.items()
        if value is not None
    }


def _without_nulls(part: Any) -> Any:
    return {name: value for name, value in part.items() if value is not None} if isinstance(part, dict) else part


def own_input(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A request's own input as items; a text is what the user says.

    Raises: InvalidRequest.
    """
    asked = fields.get("input")
    if asked is None:
        return []
    if isinstance(asked, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": asked}]}]
    if not isinstance(asked, list):
        raise InvalidRequest("The field 'input' must be text or a list of items.", param="input")
    for index, item in enumerate(asked):
        if not isinstance(item, dict):
            raise InvalidRequest(f"The field 'input[{index}]' must be an object.", param=f"input[{index}]")
    return asked


def previous_id_of(fields: Mapping[str, Any]) -> str | None:
    """The response that a request builds on.

    Raises: InvalidRequest.
    """
    previous_id = fields.get("previous_response_id")
    if previous_id is not None and not (isinstance(previous_id, str) and previous_id):
        raise InvalidRequest("The field 'previous_response_id' must be the id of a response.", param="previous_response_id")
    return previous_id


def references(own: Sequence[Mapping[str, Any]], history: Iterable[Mapping[str, Any]] = ()) -> list[str]:
    """The ids of items that a request names without saying them, and that its history does not say either."""
    said = _ids(history)
    return [item["id"] for item in own if _is_reference(item) and is_id(item.get("id")) and item["id"] not in said]


def resolve(
    own: Sequence[dict[str, Any]], history: Iterable[Mapping[str, Any]] = (), found: Mapping[str, dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """A request's own items with those that are `found` in place of references to them; its history says its items already.

    Raises: InvalidRequest for a reference to anything else.
    """
    said = _ids(history)
    items = []
    for index, item in enumerate(own):
        ident = item.get("id")
        if not _is_reference(item):
            items.append(item)
        elif is_id(ident) and found and ident in found:
            items.append(found[ident])
        elif not (is_id(ident) and ident in said):
            raise InvalidRequest(
                "No item of this id is stored: continue the response it is of with 'previous_response_id', or send the item itself.",
                param=f"input[{index}]",
            )
    return items


def _ids(items: Iterable[Mapping[str, Any]]) -> set[str]:
    return {item["id"] for item in items if is_id(item.get("id"))}


def _is_reference(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "item_reference" or ("id" in item and not item.keys() & {"type", "role"})


def expand(
    fields: Mapping[str, Any], history: Sequence[dict[str, Any]], found: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The top-level values to put into a request so that it says all of its conversation itself; None takes a value out.

    Instructions of earlier turns are not among them: the API does not carry them over.

    Raises: InvalidRequest.
    """
    return {"input": [*history, *resolve(own_input(fields), history, found)], "previous_response_id": None}


def check_size(input_items: Sequence[Mapping[str, Any]]) -> None:
    """Say before anything is sent that a turn cannot be stored: its own items are too large already.

    Raises: ResponseTooLarge.
    """
    if len(orjson.dumps(list(input_items))) > MOST_TURN_BYTES:
        raise ResponseTooLarge


def refuse_unsupported(fields: Mapping[str, Any]) -> None:
    """Refuse what would be kept or run at a provider, out of the account's sight.

    Raises: InvalidRequest.
    """
    if fields.get("conversation") is not None:
        raise InvalidRequest(
            "Conversations are not kept here: continue a response with 'previous_response_id', or send all items as 'input'.",
            param="conversation",
        )
    if fields.get("background"):
        raise InvalidRequest("Responses do not run in the background here: stream a long answer ('stream': true).", param="background")
    if fields.get("prompt") is not None:
        raise InvalidRequest("Prompt templates are not kept here: send 'instructions' and 'input'.", param="prompt")
