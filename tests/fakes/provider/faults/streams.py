"""Owns streams that end or travel badly; a request that does not stream gets the nearest thing in one body."""

import asyncio
from dataclasses import replace

from tests.fakes.provider import shapes
from tests.fakes.provider.call import JSON, SSE, Call
from tests.fakes.provider.shapes.event import Event, Part, dump

CHUNKS = 3
POLYGLOT = "Grüße, 世界! 🌍 naïve café — здравствуй 👩‍👩‍👧 end"


async def _begin(call: Call) -> None:
    """Send the first `chunks` content events (default 3), or the first half of the one body."""
    if call.streams:
        sent, _ = call.content(call.knobs.number("chunks", CHUNKS))
        call.stream_head()
        await call.send(sent)
    else:
        body = call.body()
        call.exchange.head(200, call.headers(JSON), length=len(body))
        await call.exchange.send(body[: len(body) // 2])


async def stall_midstream(call: Call) -> None:
    """Send `chunks` and then nothing, for as long as the client stays."""
    await _begin(call)
    await call.exchange.until_client_leaves()


async def drop_midstream(call: Call) -> None:
    """Send `chunks` and reset the connection."""
    await _begin(call)
    call.exchange.reset()


async def _without(call: Call, *parts: Part) -> None:
    if call.streams:
        call.stream_head()
        await call.send(one for one in call.events() if one.part not in parts)
        await call.exchange.finish()
        return
    body = shapes.whole(replace(call.answer, usage=None), call.ask)
    if Part.FINISH in parts:
        for choice in body.get("choices", []):
            choice["finish_reason"] = None
    await call.exchange.answer(200, call.headers(JSON), dump(body))


async def no_done(call: Call) -> None:
    """End cleanly without finish reason, counts and [DONE]."""
    await _without(call, Part.FINISH, Part.USAGE, Part.DONE)


async def finish_no_done(call: Call) -> None:
    """Give the finish reason and end cleanly without counts and [DONE]."""
    await _without(call, Part.USAGE, Part.DONE)


async def error_event_midstream(call: Call) -> None:
    """Send `chunks`, then an error event, then end cleanly."""
    await _error_after(call, call.knobs.number("chunks", CHUNKS))


async def error_event_first(call: Call) -> None:
    """Make the error the first event of a 200 stream."""
    await _error_after(call, None)


async def _error_after(call: Call, chunks: int | None) -> None:
    text, code = call.knobs.text("message") or "The server had an error while processing your request.", call.knobs.text("code") or None
    if not call.streams:
        await call.exchange.answer(200, call.headers(JSON), dump(shapes.error(call.ask.shape, 500, text, "server_error", code)))
        return
    call.stream_head()
    await call.send([] if chunks is None else call.content(chunks)[0])
    await call.exchange.finish(call.error_event(text, code=code))


async def crlf_events(call: Call) -> None:
    """End the lines of the events with CR LF, with `eol=cr` with CR alone."""
    ending = b"\r" if call.knobs.text("eol") == "cr" else b"\r\n"
    if not call.streams:
        await call.respond()
        return
    call.stream_head()
    await call.send(Event(one.part, one.data.replace(b"\r\n", b"\n").replace(b"\n", ending)) for one in call.events())
    await call.exchange.finish()


async def trickle(call: Call) -> None:
    """Send head, framing and body one byte at a time, `gap_ms` apart (default none)."""
    if call.streams:
        pieces = [one.data for one in call.events()]
        framing, wire = b"Transfer-Encoding: chunked", b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    else:
        wire = call.body()
        framing = b"Content-Length: %d" % len(wire)
    kind = (SSE if call.streams else JSON).encode()
    for byte in b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n\r\n%b" % (kind, framing, wire):
        await call.exchange.raw(bytes([byte]))
        if call.answer.gap:
            await asyncio.sleep(call.answer.gap)
    call.exchange.finished_by_hand()


async def split_utf8(call: Call) -> None:
    """Answer with letters of several bytes and cut the body inside every one of them."""
    answer = call.compose(text=POLYGLOT)
    if call.streams:
        call.stream_head()
        body = b"".join(one.data for one in call.events(answer))
    else:
        body = call.body(answer)
        call.exchange.head(200, call.headers(JSON), length=len(body))
    start = 0
    for position, byte in enumerate(body):
        if byte & 0xC0 == 0x80:  # a continuation byte: the cut falls before it
            await call.exchange.send(body[start:position])
            # The pause lets the piece travel alone instead of in one packet with the next.
            await asyncio.sleep(0.001)
            start = position
    await call.exchange.finish(body[start:])


FAULTS = {
    "stall-midstream": stall_midstream,
    "drop-midstream": drop_midstream,
    "no-done": no_done,
    "finish-no-done": finish_no_done,
    "error-event-midstream": error_event_midstream,
    "error-event-first": error_event_first,
    "crlf-events": crlf_events,
    "trickle": trickle,
    "split-utf8": split_utf8,
}
