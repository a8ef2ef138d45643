"""Carry-over: remembers for a day what providers sealed in an assistant's tool calls, for clients that do not send it back.

Most chat clients know text and tool calls and drop the rest, and the next request of the tool loop then lacks the reasoning that its provider
demands. What such a client does send back is the id of each call: under it, and under the account, Valkey keeps the envelopes
(`proxy.envelopes`) of the reasoning before the call and of the call itself. Nothing readable is kept.

Ids are only as unique as their provider makes them (`functions.look:0`), so a call is recognised by its arguments too: one end user's
reasoning must not turn up in another's conversation.

A help, not a promise: what is too large or too much is not kept, and while Valkey fails or stalls nothing is kept or found. Callers never see
it and wait 0.25 s at most, once in a while.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from redis.asyncio import Redis

from gateway_site.batches import Batcher
from proxy.envelopes import is_envelope, seals_of, turns_of
from proxy.formats.conversation import AnyItem, Conversation, Reasoning, Refusal, Seal, Text, ToolCall

logger = logging.getLogger(__name__)

KEEP_SECONDS: Final = 24 * 3600
TURN_BYTES: Final = 64 * 1024  # a turn that needs more is not kept
ACCOUNT_BYTES: Final = 64 * 1024 * 1024  # what one process keeps for one account in KEEP_SECONDS: nobody fills Valkey alone
MOST_CALLS: Final = 256  # the newest calls of a conversation are looked up
CALL_SECONDS: Final = 0.25  # one round trip, connecting included
REST_SECONDS: Final = 5.0  # after a failure
BATCH_LIMIT: Final = 64
MOST_WAITING: Final = 1024  # turns waiting to be kept

Seals = list[list[str]]
"""As JSON: kind and envelope of each seal of one item."""


class Carryover:
    """Keeps and gives back seals, for one process. `client` None means no Valkey: nothing is kept. `stopwatch` is monotonic seconds."""

    def __init__(self, client: Redis | None, *, stopwatch: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._stopwatch = stopwatch
        self._writes: Batcher[list[tuple[str, bytes]], bool] = Batcher(self._store, limit=BATCH_LIMIT)
        self._reads: Batcher[list[str], Sequence[bytes | None]] = Batcher(self._fetch, limit=BATCH_LIMIT)
        self._waiting = 0
        self._rest_until = 0.0
        self._kept: dict[int, int] = {}
        self._kept_since = stopwatch()

    @property
    def degraded(self) -> bool:
        """Whether Valkey failed a moment ago and is left alone."""
        return self._client is None or self._stopwatch() < self._rest_until

    def remember(self, account_id: int, turn: Sequence[AnyItem]) -> None:
        """Keep the envelopes of one answer's items (`Wrapping.turn`) under its tool calls. Returns at once and never raises."""
        if self.degraded or self._waiting >= MOST_WAITING:
            return
        entries = [(_key(account_id, record.call_id), record.dump()) for record in _records(turn) if record.call_id]
        size = sum(len(key) + len(value) for key, value in entries)
        if not entries or size > TURN_BYTES or not self._allow(account_id, size):
            return
        self._waiting += 1
        self._writes.submit(entries).add_done_callback(self._count_down)

    async def recall(self, account_id: int, conversation: Conversation) -> int:
        """Put back, in place, what the client dropped from turns that have tool calls and no seals. Returns how many calls were known.

        What is put back are envelopes: `envelopes.unwrap_conversation` comes after. Never raises.
        """
        if self.degraded:
            return 0
        bare = [turn for turn in turns_of(conversation) if turn[0].role == "assistant" and not any(True for _ in seals_of(turn))]
        calls = [item for turn in bare for item in turn if isinstance(item, ToolCall) and item.call_id][-MOST_CALLS:]
        if not calls:
            return 0
        values = await self._reads.submit([_key(account_id, call.call_id) for call in calls])
        found: dict[int, _Record] = {}
        for call, value in zip(calls, values, strict=True):
            record = _Record.load(value) if value is not None else None
            if record is not None and record.arguments == _digest(call.arguments):
                found[id(call)] = record
        if found:
            conversation.items = [item for turn in turns_of(conversation) for item in _fill(turn, found, conversation)]
        return len(found)

    async def idle(self) -> None:
        """Return when everything handed in was kept or given up."""
        await self._writes.idle()
        await self._reads.idle()

    async def close(self) -> None:
        """Keep what is waiting and close the connections."""
        await self.idle()
        if self._client is not None:
            await self._client.aclose()

    async def _store(self, batch: Sequence[list[tuple[str, bytes]]]) -> Sequence[bool]:
        commands = [("SET", key, value, "EX", KEEP_SECONDS) for entries in batch for key, value in entries]
        return [await self._run(commands) is not None] * len(batch)

    async def _fetch(self, batch: Sequence[list[str]]) -> Sequence[Sequence[bytes | None]]:
        replies = await self._run([("MGET", *keys) for keys in batch])
        return [[None] * len(keys) for keys in batch] if replies is None else replies

    async def _run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any] | None:
        """Send the commands in one round trip; None if that fails, or failed a moment ago. Never raises.

        A connection whose answer did not come in time is closed by redis-py, so a late answer reaches nobody.
        """
        if self._client is None or self.degraded:
            return None
        try:
            async with asyncio.timeout(CALL_SECONDS), self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return list(await pipeline.execute())
        except Exception as error:
            if not self.degraded:  # else the other lane has said it
                logger.warning("reasoning is not carried over for %g s: %s %s", REST_SECONDS, type(error).__name__, error)
            self._rest_until = self._stopwatch() + REST_SECONDS
            return None

    def _allow(self, account_id: int, size: int) -> bool:
        now = self._stopwatch()
        if now - self._kept_since >= KEEP_SECONDS:
            self._kept, self._kept_since = {}, now
        kept = self._kept.get(account_id, 0) + size
        if kept > ACCOUNT_BYTES:
            return False
        self._kept[account_id] = kept
        return True

    def _count_down(self, _: object) -> None:
        self._waiting -= 1


@dataclass(slots=True)
class _Record:
    """What is kept under one call: a digest of its arguments, its own seals, and those of the reasoning between it and the call before.

    `opening` is the reasoning that began the turn, before any text: providers want it there again.
    """

    call_id: str
    arguments: str = ""
    own: Seals = field(default_factory=list)
    opening: list[Seals] = field(default_factory=list)
    before: list[Seals] = field(default_factory=list)

    def dump(self) -> bytes:
        return orjson.dumps([self.arguments, self.own, self.opening, self.before])

    @staticmethod
    def load(value: bytes) -> "_Record | None":
        """None for what `dump` did not write."""
        try:
            arguments, own, opening, before = orjson.loads(value)
            for kind, envelope in (seal for seals in (own, *opening, *before) for seal in seals):
                if not isinstance(kind, str) or not isinstance(envelope, str) or not is_envelope(envelope):
                    return None
        except (ValueError, TypeError):
            return None
        return _Record("", arguments, own, opening, before)


def _records(turn: Sequence[AnyItem]) -> Iterator[_Record]:
    """One for each call that has something to keep."""
    record = _Record("")
    begun = False
    for item in turn:
        match item:
            case Reasoning():
                seals = _enveloped(item.seals)
                if seals:
                    (record.before if begun else record.opening).append(seals)
            case ToolCall():
                begun = True
                record.call_id, record.arguments, record.own = item.call_id, _digest(item.arguments), _enveloped(item.seals)
                if record.own or record.opening or record.before:
                    yield record
                record = _Record("")
            case Text(text=text) | Refusal(text=text):
                begun = begun or bool(text)
            case _:
                begun = True


def _enveloped(seals: Sequence[Seal]) -> Seals:
    return [[seal.kind, seal.data] for seal in seals if is_envelope(seal.data)]


def _fill(turn: list[AnyItem], found: dict[int, _Record], conversation: Conversation) -> list[AnyItem]:
    """The turn with what was kept for its calls."""
    records = [found[id(item)] for item in turn if id(item) in found]
    if not records:
        return turn

    def thoughts(kept: list[Seals]) -> list[AnyItem]:
        return [Reasoning("assistant", seals=unsealed(seals)) for seals in kept]

    def unsealed(seals: Seals) -> list[Seal]:
        return [Seal(kind, envelope, conversation.origin) for kind, envelope in seals]  # type: ignore[arg-type]

    filled = [item for record in records for item in thoughts(record.opening)]
    replaced = any(record.opening or record.before for record in records)
    for item in turn:
        record = found.get(id(item))
        if record is not None and isinstance(item, ToolCall):
            filled += thoughts(record.before)
            item.seals = unsealed(record.own)
        elif isinstance(item, Reasoning) and replaced:
            continue  # the same thoughts without their seal
        filled.append(item)
    begins = turn[0].new_turn
    turn[0].new_turn = False
    filled[0].new_turn = begins
    return filled


def _key(account_id: int, call_id: str) -> str:
    return f"{{a{account_id}}}:sig:{hashlib.sha256(call_id.encode(errors='replace')).hexdigest()}"


def _digest(arguments: str) -> str:
    """A digest of a call's arguments, the same however a client writes the same JSON."""
    try:
        canonical = orjson.dumps(orjson.loads(arguments or "{}"), option=orjson.OPT_SORT_KEYS)
    except (ValueError, TypeError):
        canonical = arguments.encode(errors="replace")
    return hashlib.sha256(canonical).hexdigest()[:32]
