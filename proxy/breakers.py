"""What the serving processes tell of their breakers, and the way to close one in all of them: for the operator's pages.

Each process keeps its health to itself (`proxy.health`). While something rests there, it says so in one hash in Valkey, a field a process,
and renews it; what is not renewed is not believed. To close a breaker is a topic of `gateway_site.changes`. Routing depends on none of it.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
import redis
from django.conf import settings
from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway_site import changes
from proxy.health import Health, Subject

logger = logging.getLogger(__name__)

HASH: Final = "tollgate:breakers"
TOPIC: Final = "breaker"
TELL_SECONDS: Final = 2.0
BELIEVED_SECONDS: Final = 10.0
READ_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Resting:
    """A route, or a provider's key, that one process does not try now; `kind` is "route" or "key"."""

    process: str
    kind: str
    ident: str
    seconds_left: int
    asked_to_wait: bool


async def keep_telling(health: Health, *, process: str, client: Redis) -> None:
    """Tell what rests in this process, until cancelled. What cannot be told is told later."""
    told = False
    while True:
        resting = health.resting(time.monotonic())
        try:
            if resting:
                said = [[kind, str(ident), round(left), waits] for (kind, ident), left, waits in resting]
                await client.hset(HASH, process, orjson.dumps({"at": time.time(), "resting": said}))
                told = True
            elif told:
                await client.hdel(HASH, process)
                told = False
        except (redis.RedisError, OSError) as error:
            logger.info("breakers not told: %s", type(error).__name__)
        await asyncio.sleep(TELL_SECONDS)


def read(*, now: float) -> list[Resting] | None:
    """What rests in which process (`now` is seconds since the epoch); None while Valkey does not answer.

    Forgets processes that have not said anything for long.
    """
    try:
        with _client() as client:
            told: Mapping[bytes, bytes] = client.hgetall(HASH)
            found, silent = [], []
            for process, text in told.items():
                said: dict[str, Any] = orjson.loads(text)
                if now - said["at"] > BELIEVED_SECONDS:
                    silent.append(process)
                    continue
                found += [Resting(process.decode(), kind, ident, left, waits) for kind, ident, left, waits in said["resting"]]
            if silent:
                client.hdel(HASH, *silent)
    except redis.RedisError:
        return None
    return sorted(found, key=lambda one: (one.kind, one.ident, one.process))


def close(kind: str, ident: str) -> None:
    """Ask every process to try this route or key again now."""
    changes.publish(f"{TOPIC}:{kind}/{ident}")


def forget(health: Health, said: str | None) -> None:
    """Do what `close` asked for; a gap in what was heard asks for nothing."""
    kind, _, ident = (said or "").partition("/")
    subject: Subject | None = ("key", ident) if kind == "key" and ident else None
    if kind == "route" and ident.lstrip("-").isdecimal():
        subject = ("route", int(ident))
    if subject is not None:
        health.forget(subject)


def _client() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=READ_SECONDS, socket_connect_timeout=READ_SECONDS, retry=Retry(NoBackoff(), 0)
    )
