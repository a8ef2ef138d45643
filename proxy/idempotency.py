"""Idempotency keys on inference: of all requests of an account with the same `Idempotency-Key`, one is served and charged.

The first one claims the key in Valkey before anything is sent. Who repeats it is told to wait while it is under way, and afterwards gets the same
answer, kept for a day and encrypted for the account. Of an answer that was streamed, or is too large to keep, only the request id is kept: its
receipt says what became of it. A request that failed without charge gives its key back, so that a retry runs.

A claim outlives the process that made it: what nobody answers for is never sent a second time. Valkey being away refuses the requests that carry
a key, and no others; a Valkey that lost its memory has forgotten the keys.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

from proxy.envelopes import Envelopes
from proxy.formats.base import InvalidRequest

logger = logging.getLogger(__name__)

HEADER: Final = b"idempotency-key"
KEEP_SECONDS: Final = 24 * 3600
CALL_SECONDS: Final = 1.0  # one round trip, connecting included
MOST_ANSWER_BYTES: Final = 512 * 1024  # a larger answer is not kept
MOST_ACCOUNT_BYTES: Final = 64 * 1024 * 1024  # what one process keeps for one account in KEEP_SECONDS: nobody fills Valkey alone
RETRY_SECONDS: Final = 2.0
# What holds of an answer however often it is given; the cost, the limits and the times were of the first.
REPEATED_HEADERS: Final = frozenset({"x-gateway-provider", "x-gateway-attempts", "x-gateway-dropped"})
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_RUNNING, _USED, _KEPT = "running", "used", "kept"
# Only who claimed a key gives it back.
_GIVE_BACK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class InProgress(Exception):
    """The first request with this key is under way."""


class KeyUsed(Exception):
    """The request with this key was served, and its answer is not there to be repeated."""

    def __init__(self, request_id: str) -> None:
        super().__init__(request_id)
        self.request_id = request_id


class KeyReused(Exception):
    """The key was used with another request."""


class IdempotencyUnavailable(Exception):
    """Valkey cannot be asked whether the key was used."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The answer that the first request got."""

    raw: bytes
    headers: list[tuple[str, str]]


def read_key(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """The request's key, if it carries one. Raises: InvalidRequest."""
    for name, value in headers:
        if name == HEADER:
            key = value.decode("latin-1").strip()
            if not _KEY.fullmatch(key):
                raise InvalidRequest("The header 'Idempotency-Key' must have 1 to 255 visible ASCII characters.", param="Idempotency-Key")
            return key
    return None


def fingerprint(*, key_id: int, address: str, body: bytes) -> str:
    """What a request is recognised by: who asks (the API key), where, and for what."""
    return hashlib.sha256(b"%d %b\n%b" % (key_id, address.encode(), body)).hexdigest()


class Idempotency:
    """The claims of one process. `lasts_seconds` is how long a request may take at most; `keys` are (version, 256-bit key), as for envelopes.

    Raises: proxy.envelopes.BadKeys.
    """

    def __init__(self, client: Redis, keys: Sequence[tuple[str, bytes]], *, lasts_seconds: float) -> None:
        self._client = client
        self._answers = Envelopes(keys, domain=b"idempotent answer v1")
        self._lasts_seconds = lasts_seconds
        self._kept: dict[int, int] = {}
        self._kept_since = 0.0

    async def claim(self, key: str, *, account_id: int, fingerprint: str, request_id: str, now: datetime) -> "Claim | Kept":
        """Claim a key for a request, or find what the first one with it was answered. Whoever gets a claim must end it.

        Raises: InProgress, KeyUsed, KeyReused, IdempotencyUnavailable.
        """
        place = f"{{a{account_id}}}:idempotency:{hashlib.sha256(key.encode()).hexdigest()}"
        record = orjson.dumps([_RUNNING, fingerprint, request_id, now.timestamp()])
        claim = Claim(self, place, record, account_id=account_id, fingerprint=fingerprint, request_id=request_id)
        try:
            taken, found = await self.call(("SET", place, record, "NX", "EX", KEEP_SECONDS), ("GET", place))
        except IdempotencyUnavailable:
            await claim.give_back()  # it may have arrived
            raise
        if taken is not None:
            return claim
        if found is None:  # given back in between
            raise InProgress
        state, whose, first_id, rest = orjson.loads(found)
        if whose != fingerprint:
            raise KeyReused
        if state == _RUNNING and now.timestamp() < rest + self._lasts_seconds:
            raise InProgress
        kept = self._open(rest, account_id, fingerprint) if state == _KEPT else None
        if kept is None:
            raise KeyUsed(first_id)
        kept.headers.extend((("idempotent-replayed", "true"), ("x-gateway-first-request-id", first_id), ("x-gateway-cost-usd", "0")))
        return kept

    def seal(self, raw: bytes, headers: Sequence[tuple[str, str]], *, account_id: int, fingerprint: str, now: float) -> str | None:
        """An answer as it is kept; None when it is too large, or the account has enough there."""
        if now - self._kept_since >= KEEP_SECONDS:
            self._kept, self._kept_since = {}, now
        size = self._kept.get(account_id, 0) + len(raw)
        if len(raw) > MOST_ANSWER_BYTES or size > MOST_ACCOUNT_BYTES:
            return None
        self._kept[account_id] = size
        said = [(name, value) for name, value in headers if name in REPEATED_HEADERS]
        return self._answers.lock(orjson.dumps([fingerprint, said]) + b"\n" + raw, account_id=account_id)

    def _open(self, sealed: str, account_id: int, fingerprint: str) -> Kept | None:
        plain = self._answers.unlock(sealed, account_id=account_id)
        if plain is None:
            return None
        head, _, raw = plain.partition(b"\n")
        whose, headers = orjson.loads(head)
        return Kept(raw, [(name, value) for name, value in headers]) if whose == fingerprint else None

    async def call(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Send commands in one round trip. Raises: IdempotencyUnavailable."""
        try:
            async with asyncio.timeout(CALL_SECONDS), self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return list(await pipeline.execute())
        except (RedisError, OSError, TimeoutError) as error:
            raise IdempotencyUnavailable(str(error)) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


class Claim:
    """The right to serve a request. It ends with `keep`, `mark_used` or `give_back`; none of them raises when Valkey fails."""

    def __init__(self, owner: Idempotency, place: str, record: bytes, *, account_id: int, fingerprint: str, request_id: str) -> None:
        self._owner = owner
        self._place = place
        self._record = record
        self._account_id = account_id
        self._fingerprint = fingerprint
        self._request_id = request_id

    async def keep(self, raw: bytes, headers: Sequence[tuple[str, str]], *, now: datetime) -> None:
        """Keep the answer for who asks again."""
        seconds = now.timestamp()
        sealed = self._owner.seal(raw, headers, account_id=self._account_id, fingerprint=self._fingerprint, now=seconds)
        await self._write(_USED if sealed is None else _KEPT, sealed)

    async def mark_used(self) -> None:
        """Remember that the request was served: it is never sent again under this key."""
        await self._write(_USED, None)

    async def give_back(self) -> None:
        """Let another request have the key: this one was not charged."""
        try:
            await self._owner.call(("EVAL", _GIVE_BACK, 1, self._place, self._record))
        except IdempotencyUnavailable as error:
            logger.warning("an idempotency key was not given back: %s", error)

    async def _write(self, state: str, rest: str | None) -> None:
        record = orjson.dumps([state, self._fingerprint, self._request_id, rest])
        try:
            await self._owner.call(("SET", self._place, record, "EX", KEEP_SECONDS))
        except IdempotencyUnavailable as error:  # the claim itself stays, and counts as used once the request must have ended
            logger.warning("an answer is not kept under its idempotency key: %s", error)
