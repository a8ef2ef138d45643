"""Owns answers that are too much: endless ones, huge ones, thousands of interim responses. All of them wait for a slow reader."""

import asyncio
from itertools import count

from tests.fakes.provider.call import JSON, Call
from tests.fakes.provider.shapes.event import Event, Part

PIECE = 64 * 1024
MEBIBYTE = 1024 * 1024
MARK = "@@filling@@"


async def huge_line(call: Call) -> None:
    """Send one line of `mb` MiB (default 200): one event of a stream, or one body."""
    if not call.streams:
        await huge_body(call)
        return
    before, mark, after = b"".join(one.data for one in call.events(call.compose(text=MARK))).partition(MARK.encode())
    call.stream_head()
    await call.exchange.send(before)
    await _fill(call, call.knobs.number("mb", 200) * MEBIBYTE if mark else 0)
    await call.exchange.finish(after)


async def huge_body(call: Call) -> None:
    """Send an answer of `mb` MiB (default 200): events of 16 KiB each in a stream, or one body."""
    size = call.knobs.number("mb", 200) * MEBIBYTE
    if call.streams:
        letters = "a" * (16 * 1024)
        opening, repeated, ending = _around(call, letters)
        call.stream_head()
        await call.send(opening)
        for _ in range(size // len(letters)):
            await call.exchange.send(repeated)
        await call.exchange.finish(b"".join(one.data for one in ending))
        return
    before, _, after = call.body(call.compose(text=MARK)).partition(MARK.encode())
    call.exchange.head(200, call.headers(JSON), length=len(before) + size + len(after))
    await call.exchange.send(before)
    await _fill(call, size)
    await call.exchange.finish(after)


async def _fill(call: Call, size: int) -> None:
    filling = b"a" * PIECE
    for _ in range(size // PIECE):
        await call.exchange.send(filling)


async def endless_comments(call: Call) -> None:
    """Send comments for ever, `gap_ms` apart (default 10); `count=N` ends with a good answer behind N of them."""
    await _forever(call, b": keep-alive\n\n", default_gap=0.01)


async def endless_stream(call: Call) -> None:
    """Send content for ever, `gap_ms` apart (default none); `count=N` ends well behind N of them."""
    await _forever(call, None, default_gap=0)


async def _forever(call: Call, filler: bytes | None, *, default_gap: float) -> None:
    """Repeat `filler`, or a word of the answer where there is none; a body that is no stream gets blanks before its JSON."""
    gap = call.answer.gap if call.knobs.given("gap_ms") else default_gap
    limit = call.knobs.number("count", 0)
    before, piece, after = _around(call, "again ") if call.streams else ([], b" ", [])
    if call.streams:
        call.stream_head()
        await call.send(before)
    else:
        call.exchange.head(200, call.headers(JSON))
    for _ in range(limit) if limit else count():
        await call.exchange.send(filler if filler and call.streams else piece)
        if gap:
            await asyncio.sleep(gap)
    await call.exchange.finish(b"".join(one.data for one in after) if call.streams else call.body())


def _around(call: Call, text: str) -> tuple[list[Event], bytes, list[Event]]:
    """Split a stream at the event that brings `text`: (what is before it, its bytes, what is after it)."""
    stream = call.events(call.compose(text=text))
    place = next(position for position, one in enumerate(stream) if one.part is Part.CONTENT and text.strip().encode() in one.data)
    return stream[:place], stream[place].data, stream[place + 1 :]


async def many_100_continue(call: Call) -> None:
    """Send `count` interim responses (default 100000), then answer well."""
    left = call.knobs.number("count", 100_000)
    while left > 0:
        batch = min(left, 1000)
        await call.exchange.raw(b"HTTP/1.1 100 Continue\r\n\r\n" * batch)
        left -= batch
    await call.respond()


async def huge_headers(call: Call) -> None:
    """Answer well behind `kb` KiB of headers (default 256), 4 KiB each."""
    padding = [(f"x-padding-{position}", "p" * 4096) for position in range(call.knobs.number("kb", 256) // 4)]
    body = call.body()
    await call.exchange.answer(200, [*call.headers(JSON), *padding], body)


FAULTS = {
    "huge-line": huge_line,
    "huge-body": huge_body,
    "endless-comments": endless_comments,
    "endless-stream": endless_stream,
    "many-100-continue": many_100_continue,
    "huge-headers": huge_headers,
}
