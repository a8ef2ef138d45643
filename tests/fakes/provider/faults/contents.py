"""Owns answers whose status says 200 and whose content is wrong: errors, pages, broken JSON, impossible counts, packed bodies."""

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import lru_cache

from tests.fakes.provider import shapes
from tests.fakes.provider.answers import Usage
from tests.fakes.provider.call import JSON, SSE, Call
from tests.fakes.provider.faults.statuses import HTML
from tests.fakes.provider.shapes.event import Part, dump

MEBIBYTE = 1024 * 1024


async def ok_with_error_body(call: Call) -> None:
    """Answer 200 with an error as JSON, to a stream too."""
    await call.exchange.answer(200, call.headers(JSON), dump(shapes.error(call.ask.shape, 500, "The model is not ready.", "server_error")))


async def ok_html(call: Call) -> None:
    """Answer 200 with a page, as a login wall does."""
    await call.exchange.answer(200, [("Content-Type", "text/html; charset=utf-8")], HTML % (b"Sign in", b"Sign in"))


async def bad_json(call: Call) -> None:
    """Break off inside the JSON; in a stream one event behind the first chunks is broken and the rest is good."""
    if not call.streams:
        body = call.body()
        await call.exchange.answer(200, call.headers(JSON), body[: len(body) // 2])
        return
    sent, rest = call.content(call.knobs.number("chunks", 2))
    call.stream_head()
    await call.send(sent)
    await call.exchange.send(b'data: {"id":"chatcmpl-broken","choices":[{"index":0,"delta":{"content":\n\n')
    await call.send(rest)
    await call.exchange.finish()


async def empty_body(call: Call) -> None:
    """Answer 200 with nothing at all."""
    if call.streams:
        call.stream_head()
        await call.exchange.finish()
    else:
        await call.exchange.answer(200, call.headers(JSON), b"")


async def other_mode(call: Call) -> None:
    """Answer a stream request with one JSON body, and any other with a stream."""
    if call.streams:
        await call.exchange.answer(200, call.headers(JSON), call.body())
        return
    call.stream_head()
    await call.send(shapes.events(call.answer, call.ask))
    await call.exchange.finish()


async def unknown_fields(call: Call) -> None:
    """Answer whole with fields nobody has heard of."""
    body = shapes.whole(call.answer, call.ask) | {"x_vendor": {"trace": [1, 2, {"deep": None}]}, "service_tier": "vendor-tier"}
    await call.exchange.answer(200, call.headers(JSON), dump(body))


async def gzip_encoded(call: Call) -> None:
    """Answer gzip-encoded although nobody accepts it; `mb=N` makes it a bomb that unpacks to N MiB more."""
    stream = call.streams
    body = b"".join(one.data for one in call.events()) if stream else call.body()
    packed = await asyncio.to_thread(_pack, body, call.knobs.number("mb", 0), comment=stream)
    await call.exchange.answer(200, [*call.headers(SSE if stream else JSON), ("Content-Encoding", "gzip")], packed)


@lru_cache(maxsize=4)
def _pack(body: bytes, mebibytes: int, *, comment: bool) -> bytes:
    """Pack `body` behind padding that means nothing: blanks before JSON, a comment line before events."""
    if not mebibytes:
        return gzip.compress(body)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    start, end = (b":", b"\n\n") if comment else (b"", b"")
    padding = b" " * MEBIBYTE
    return b"".join(
        [packer.compress(start), *(packer.compress(padding) for _ in range(mebibytes)), packer.compress(end + body), packer.flush()]
    )


def _stating(change: Callable[[Call, Usage], Usage | None]) -> Callable[[Call], Awaitable[None]]:
    async def fault(call: Call) -> None:
        # The counts are always stated at the end of a stream, asked for or not: an impossible count that is not sent proves nothing.
        honest = call.compose().usage or Usage(1, 1)
        stated = change(call, honest)
        await call.respond(replace(call.compose(), usage=stated, usage_mode="always"))

    return fault


def _more_than_hold(call: Call, honest: Usage) -> Usage:
    asked = call.ask.max_tokens or 1000
    tokens = call.knobs.number("tokens", asked * 10)
    return replace(honest, completion=tokens, reasoning=tokens - min(tokens, honest.completion))


async def no_usage(call: Call) -> None:
    """Answer well and state no counts."""
    await call.respond(replace(call.compose(), usage=None))


async def unknown_events(call: Call) -> None:
    """Put comments, pings, ids, retry lines and objects of unknown kinds between the good events; whole answers get unknown fields."""
    if not call.streams:
        await unknown_fields(call)
        return
    call.stream_head()
    await call.exchange.send(b": VENDOR PROCESSING\n\nretry: 10\nid: 7\n\n")
    for one in call.events():
        await call.exchange.send(one.data)
        if one.part is Part.OPEN:
            await call.exchange.send(b'event: vendor.trace\nid: 8\ndata: {"type":"vendor.trace","object":"vendor.trace","trace":[1]}\n\n')
        elif one.part is Part.CONTENT:
            await call.exchange.send(b": \xe2\x80\xa8 keep-alive\n\n")
    await call.exchange.finish()


FAULTS: dict[str, Callable[[Call], Awaitable[None]]] = {
    "ok-with-error-body": ok_with_error_body,
    "ok-html": ok_html,
    "bad-json": bad_json,
    "empty-body": empty_body,
    "other-mode": other_mode,
    "gzip-encoded": gzip_encoded,
    "unknown-events": unknown_events,
    "no-usage": no_usage,
    "negative-usage": _stating(lambda _, honest: replace(honest, prompt=-50, completion=-7)),
    "huge-usage": _stating(lambda _, honest: replace(honest, prompt=10**24, completion=10**24)),
    "float-usage": _stating(lambda _, honest: replace(honest, prompt=12.5, completion=3.25)),
    "nan-usage": _stating(lambda _, honest: replace(honest, prompt=float("nan"), completion=float("inf"))),
    "text-usage": _stating(lambda _, honest: replace(honest, prompt="12", completion="3")),
    "null-usage": _stating(lambda _, honest: replace(honest, prompt=None, completion=None)),
    "usage-more-than-hold": _stating(_more_than_hold),
}
