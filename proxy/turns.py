"""The state of the Responses API as the relay needs it: a request is completed with what was said before, its answer is written down before the
client knows that it is complete.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from gateway_site.clients import DatabaseUnavailable
from proxy import response_store
from proxy.body import Body
from proxy.response_store import ResponseNotStored, ResponseStore, ResponseTooLarge
from proxy.sse import Splitter


@dataclass(slots=True)
class Turn:
    """One request of the Responses API and what is to be kept of it. `body` is the request with its whole history in `input`."""

    body: Body
    store: ResponseStore
    account_id: int
    key_id: int
    input_items: list[dict[str, Any]]
    previous_id: str | None
    keeps: bool

    async def keep_whole(self, raw: bytes, *, model: str, now: datetime) -> bytes:
        """Write a whole answer down; returns the bytes for the client. Raises: ResponseNotStored."""
        if self.keeps:
            await self._keep(orjson.loads(raw), model, now)
        return raw

    async def keep_stream(self, last: bytes, *, model: str, now: datetime) -> bytes:
        """Write down the answer that the last event of a stream tells; returns the bytes for the client. Raises: ResponseNotStored."""
        if self.keeps:
            for event in Splitter.events(last):
                data = Splitter.data_of(event)
                fields = orjson.loads(data) if data.startswith(b"{") else {}
                if isinstance(response := fields.get("response"), dict) and fields.get("type") in (
                    "response.completed",
                    "response.incomplete",
                ):
                    await self._keep(response, model, now)
        return last

    async def _keep(self, response: Mapping[str, Any], model: str, now: datetime) -> None:
        try:
            await self.store.save(
                account_id=self.account_id,
                key_id=self.key_id,
                model=model,
                response={**response, "store": True, "previous_response_id": self.previous_id},
                input_items=self.input_items,
                previous_id=self.previous_id,
                now=now,
            )
        except DatabaseUnavailable as error:
            raise ResponseNotStored from error
        except ResponseTooLarge:
            pass  # the request was checked before it was sent; an answer this long is given all the same, and not kept


class Turns:
    """Begins turns."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    async def begin(self, body: Body, *, account_id: int, key_id: int, now: datetime) -> Turn:
        """Complete a request with what was said before.

        Raises: InvalidRequest, PreviousResponseNotFound, HistoryTooLarge, ResponseTooLarge, DatabaseUnavailable.
        """
        fields = body.fields
        response_store.refuse_unsupported(fields)
        keeps = fields.get("store") is not False
        previous_id = response_store.previous_id_of(fields)
        own = response_store.own_input(fields)
        if keeps and fields.get("store") is True:
            response_store.check_size(own)
        history = [] if previous_id is None else await self._store.history(account_id, previous_id, now=now)
        named = response_store.references(own, history)
        found = await self._store.items(account_id, named, now=now)
        if previous_id is None and not named:
            response_store.resolve(own)
        else:
            changed = {
                name: value
                for name, value in {**fields, **response_store.expand(fields, history, found)}.items()
                if name != "previous_response_id"
            }
            body = Body(orjson.dumps(changed), changed)
            own = response_store.resolve(own, history, found)
        return Turn(body, self._store, account_id, key_id, own, previous_id, keeps)
