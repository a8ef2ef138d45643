"""Owns the replay of a recorded exchange: its status, its headers, its bytes exactly."""

import asyncio
import re
from collections.abc import Iterator

from tests.fakes.provider import recordings
from tests.fakes.provider.behaviours import UnknownBehaviour
from tests.fakes.provider.call import JSON, SSE, Call

# Of the connection, not of the answer: this server states its own.
OWN_HEADERS = ("connection", "content-encoding", "content-length", "content-type", "keep-alive", "transfer-encoding")
EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


async def replay(call: Call) -> None:
    """Answer as recorded; a stream is cut behind each event, or into `@N` bytes. Raises: UnknownBehaviour without the recording."""
    try:
        case = recordings.find(call.behaviour.name)
    except LookupError as error:
        raise UnknownBehaviour(str(error)) from None
    body = case.response_bytes
    kept = [(name, value) for name, value in case.response_headers.items() if name.lower() not in OWN_HEADERS]
    kind = case.response_headers.get("content-type") or (SSE if case.stream else JSON)
    size = call.knobs.number("piece", 0)
    call.exchange.head(case.status, [("Content-Type", kind), *kept], length=None if case.stream else len(body))
    for piece in _cut(body, size) if size else _events(body) if case.stream else [body]:
        await call.exchange.send(piece)
        # Letting the loop turn gives a small piece the chance to travel alone.
        await asyncio.sleep(0)
    await call.exchange.finish()


def _cut(body: bytes, size: int) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


def _events(body: bytes) -> Iterator[bytes]:
    start = 0
    for end in EVENT_END.finditer(body):
        yield body[start : end.end()]
        start = end.end()
    if start < len(body):
        yield body[start:]
