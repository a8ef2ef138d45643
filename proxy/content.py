"""What is asked and answered while it happens, for accounts that have it stored: heard at the edge, bounded, and written in the background.

Nothing here delays or fails an answer. What cannot be written (PostgreSQL is away, or this process holds too much already) is dropped and
counted. `billing.stored_content` says what becomes of it afterwards.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from billing import stored_content
from catalog import vault
from gateway_site import metrics
from gateway_site.batches import Batcher
from gateway_site.clients import DatabaseUnavailable, Lane

if TYPE_CHECKING:
    from proxy.admission import Ask

log = structlog.get_logger(__name__)

MOST_BYTES: Final = 64 * 1024 * 1024  # what one process holds of all content together, open streams included
WRITTEN_AT_ONCE: Final = 16
Send = Callable[[dict[str, Any]], Awaitable[None]]

KEYS = "SELECT account_id, id, sealed FROM billing_contentkey WHERE ended_at IS NULL AND account_id = ANY(%s)"
# The key's row is locked against its end: an account that has turned it off finds everything that was written before, and nothing comes after.
KEEP = """INSERT INTO billing_storedcontent
        (request_id, account_id, key_id, at, expires_at, format, request, request_cut, answer, answer_cut)
    SELECT new.id, k.account_id, k.id, new.at, new.at + make_interval(days => LEAST(a.content_days, %s::int)),
        new.format, new.request, new.request_cut, new.answer, new.answer_cut
    FROM unnest(%s::uuid[], %s::bigint[], %s::timestamptz[], %s::text[], %s::bytea[], %s::bool[], %s::bytea[], %s::bool[])
        AS new (id, key, at, format, request, request_cut, answer, answer_cut)
    JOIN billing_contentkey k ON k.id = new.key AND k.ended_at IS NULL
    JOIN accounts_account a ON a.id = k.account_id AND a.content_days > 0
    FOR SHARE OF k
    ON CONFLICT DO NOTHING
    RETURNING request_id"""


@dataclass(slots=True, eq=False)
class Content:
    """One request's content: its body, and what has gone to the client so far. `room` are the bytes of answer that it may still take."""

    keeper: "Keeper"
    request_id: uuid.UUID
    account_id: int
    at: datetime
    format: str
    request: bytes
    request_cut: bool
    room: int
    answer: bytearray = field(default_factory=bytearray)
    answer_cut: bool = False
    size: int = 0
    is_over: bool = False  # it was handed over, or lost

    def listen(self, send: Send) -> Send:
        """A `send` of ASGI that hears what is sent through it."""

        async def hear(message: dict[str, Any]) -> None:
            await send(message)
            if message["type"] == "http.response.body":
                self.add(message["body"])

        return hear

    def add(self, data: bytes) -> None:
        """Take more of the answer, as far as there is room for it."""
        if len(data) > self.room:
            self.answer_cut = True
            data = data[: self.room]
        if data and not self.is_over and self.keeper.make_room(self, len(data)):
            self.room -= len(data)
            self.answer += data

    def end(self) -> None:
        """Hand it over: the request has ended, however it did. Never raises, never waits."""
        if not self.is_over:
            self.is_over = True
            self.keeper.keep(self)


class Keeper:
    """What one process holds of content, and its way to the table. `most_each` are bytes of a request and of an answer."""

    def __init__(self, lane: Lane, *, most_each: int, most_days: int, most_bytes: int = MOST_BYTES) -> None:
        self._lane = lane
        self._most_each = most_each
        self._most_days = most_days
        self._most_bytes = most_bytes
        self._held = 0
        self._batches: Batcher[Content, None] = Batcher(self._write, limit=WRITTEN_AT_ONCE)

    def begin(self, ask: "Ask", account_id: int, request: bytes) -> Content:
        """Begin to keep the content of a request that was let in; somebody has to `end` it."""
        most = self._most_each
        kept, is_cut = request[:most], len(request) > most
        content = Content(self, ask.request_id, account_id, ask.started_at, ask.format, kept, is_cut, most)
        self.make_room(content, len(kept))
        return content

    def make_room(self, content: Content, size: int) -> bool:
        """Count `size` bytes more; False, and the content is lost, when this process holds too much."""
        if self._held + size > self._most_bytes:
            self._held -= content.size
            content.request, content.answer, content.size, content.is_over = b"", bytearray(), 0, True
            metrics.CONTENT_DROPPED.add(1, "full")
            return False
        self._held += size
        content.size += size
        return True

    def keep(self, content: Content) -> None:
        """Write it as soon as may be; returns at once."""
        self._batches.submit(content)

    async def idle(self) -> None:
        """Return when everything that is over is written or dropped."""
        await self._batches.idle()

    async def _write(self, batch: Sequence[Content]) -> list[None]:
        try:
            await self._store(batch)
        except (DatabaseUnavailable, psycopg.Error) as error:
            metrics.CONTENT_DROPPED.add(len(batch), "database")
            log.warning("content_dropped", requests=len(batch), error=str(error))
        except Exception:
            metrics.CONTENT_DROPPED.add(len(batch), "defect")
            log.exception("internal_error")
        finally:
            self._held -= sum(content.size for content in batch)
        return [None] * len(batch)

    async def _store(self, batch: Sequence[Content]) -> None:
        keys: dict[int, tuple[int, AESGCM]] = {}
        for account_id, ident, sealed in await self._lane.fetch(KEYS, [[content.account_id for content in batch]]):
            try:
                keys[account_id] = ident, stored_content.open_key(sealed, account_id=account_id)
            except vault.CannotOpen as error:
                metrics.CONTENT_DROPPED.add(sum(content.account_id == account_id for content in batch), "key")
                log.error("content_key_does_not_open", account=account_id, error=str(error))
        # Compressing takes milliseconds for which no stream shall wait.
        rows = await asyncio.to_thread(_seal_all, [content for content in batch if content.account_id in keys], keys)
        if rows:
            await self._lane.fetch(KEEP, [self._most_days, *map(list, zip(*rows, strict=True))])


def _seal_all(batch: Sequence[Content], keys: Mapping[int, tuple[int, AESGCM]]) -> list[tuple[Any, ...]]:
    """The rows of a batch. Runs in a thread: nobody else looks at what is in it any more."""
    rows = []
    for content in batch:
        ident, key = keys[content.account_id]
        seal = partial(stored_content.seal, key=key, account_id=content.account_id, request_id=content.request_id)
        asked = seal(content.request, part="request")
        answered = seal(content.answer, part="answer")
        rows.append((content.request_id, ident, content.at, content.format, asked, content.request_cut, answered, content.answer_cut))
    return rows
