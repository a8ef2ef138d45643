"""Django's cache in Valkey, which forgets instead of failing when Valkey is away: it holds nothing but counters of sign-in attempts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
import structlog
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache
from redis.backoff import NoBackoff
from redis.retry import Retry

log = structlog.get_logger(__name__)


class ForgivingCache(RedisCache):
    """Valkey, and while it does not answer this process's own memory."""

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        options = {"socket_timeout": 0.25, "socket_connect_timeout": 0.25, "retry": Retry(NoBackoff(), 0)}
        super().__init__(server, {**params, "OPTIONS": {**options, **params.get("OPTIONS", {})}})
        self._own = LocMemCache("site", {**params, "OPTIONS": {}})

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        with self._forgiving():
            return super().get(key, default, version)
        return self._own.get(key, default, version)

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        with self._forgiving():
            return super().set(key, value, timeout, version)
        return self._own.set(key, value, timeout, version)

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        with self._forgiving():
            return bool(super().add(key, value, timeout, version))
        return self._own.add(key, value, timeout, version)

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Count up. Raises: ValueError when nothing was counted there."""
        with self._forgiving():
            return int(super().incr(key, delta, version))
        return int(self._own.incr(key, delta, version))

    def delete(self, key: Any, version: int | None = None) -> bool:
        with self._forgiving():
            return bool(super().delete(key, version))
        return self._own.delete(key, version)

    @staticmethod
    @contextmanager
    def _forgiving() -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            log.warning("cache_unavailable", error=str(error))
