"""Leaks to be noticed: each is a believable mistake, planted in the processes of one gateway. A run with one of them must fail."""

import asyncio
from collections.abc import Callable
from typing import Any

BYTES_KEPT = 4096
OBJECTS_KEPT = 1000  # well above what a short run frees by chance
_kept: list[object] = []


def keep_bytes() -> None:
    """Keep a few kilobytes of every request."""
    from proxy import asgi

    read = asgi._read_body

    async def read_body(scope: Any, receive: Any) -> bytes:
        _kept.append(bytes(BYTES_KEPT))
        return await read(scope, receive)

    asgi._read_body = read_body


def keep_objects() -> None:
    """Keep many small objects of every request, as a cache by request id would."""
    from proxy import asgi

    read = asgi._read_body

    async def read_body(scope: Any, receive: Any) -> bytes:
        _kept.append([object() for _ in range(OBJECTS_KEPT)])
        return await read(scope, receive)

    asgi._read_body = read_body


def forget_streams() -> None:
    """Watch over a stream for ever."""
    from proxy.streams import Streams

    Streams.discard = lambda *_: None  # type: ignore[method-assign]


def hold_calls() -> None:
    """Never give a connection to a provider back that was not read to its end."""
    from proxy import upstream

    upstream._HttpAnswer.close = lambda *_: None  # type: ignore[method-assign]


def leave_tasks() -> None:
    """Wait for ever for the goodbye of a stream."""
    from proxy import relay

    async def wait(answer: Any) -> None:
        await asyncio.Event().wait()

    relay._read_goodbye = wait


BUGS: dict[str, Callable[[], None]] = {bug.__name__: bug for bug in (keep_bytes, keep_objects, forget_streams, hold_calls, leave_tasks)}


def plant(names: str) -> None:
    """Break this process, in which Django is ready, in every way of `names` (with commas)."""
    for name in names.split(","):
        BUGS[name]()
