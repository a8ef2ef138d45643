"""Tells every process that something it caches has changed: a topic ("key:17", "account:5", "catalog") over Valkey's pub/sub.

It only makes caches fresh sooner. Nothing relies on it: the catalog is polled as well, and a hold refuses a revoked key whatever a cache says.
"""

import asyncio
from collections.abc import Callable

import redis
import redis.asyncio
import structlog
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

CHANNEL = "tollgate:changes"
RECONNECT_SECONDS = 1.0

log = structlog.get_logger(__name__)
_publisher: redis.Redis | None = None


def publish(topic: str) -> None:
    """Announce a change from ordinary (synchronous) code, after its commit. Does nothing worse than log when Valkey is away."""
    global _publisher
    if _publisher is None:
        _publisher = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=0.25, socket_connect_timeout=0.25, retry=Retry(NoBackoff(), 0))
    try:
        _publisher.publish(CHANNEL, topic)
    except redis.RedisError as error:
        log.warning("change_not_published", topic=topic, error=str(error))


class Listener:
    """Calls each registered function for the changes of its kind, and all of them after a gap in which changes may have been missed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._callbacks: dict[str, list[Callable[[str | None], None]]] = {}

    def on_change(self, kind: str, callback: Callable[[str | None], None]) -> None:
        """Call `callback` with the id part of each "kind:id" topic; with None when anything of the kind may have changed."""
        self._callbacks.setdefault(kind, []).append(callback)

    async def run(self) -> None:
        """Listen until cancelled, reconnecting for ever."""
        while True:
            try:
                async with (
                    redis.asyncio.Redis.from_url(self._url, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)) as client,
                    client.pubsub(ignore_subscribe_messages=True) as channel,
                ):
                    await channel.subscribe(CHANNEL)
                    self._dispatch_all()
                    while True:
                        message = await channel.get_message(timeout=30)
                        if message is not None and message["type"] == "message":
                            self._dispatch(message["data"].decode())
            except (redis.RedisError, OSError, TimeoutError) as error:
                log.info("changes_unheard", error=str(error))
            await asyncio.sleep(RECONNECT_SECONDS)

    def _dispatch(self, topic: str) -> None:
        kind, _, ident = topic.partition(":")
        for callback in self._callbacks.get(kind, ()):
            callback(ident or None)

    def _dispatch_all(self) -> None:
        for callbacks in self._callbacks.values():
            for callback in callbacks:
                callback(None)
