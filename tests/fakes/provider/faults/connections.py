"""Owns faults of the connection and of HTTP itself: closes, resets, wrong lengths, bytes that are no HTTP."""

import asyncio

from tests.fakes.provider.call import JSON, SSE, Call
from tests.fakes.provider.shapes.event import dump

STALE = "STALE-ANSWER-OF-ANOTHER-REQUEST"


async def connect_close(call: Call) -> None:
    """Read the request, then close without a byte."""
    call.exchange.close()


async def reset(call: Call) -> None:
    """Read the request, then reset the connection without a byte."""
    call.exchange.reset()


async def silence(call: Call) -> None:
    """Read the request and never say anything."""
    await call.exchange.until_client_leaves()


async def slow_first_byte(call: Call) -> None:
    """Wait `ms` (default 1000) and then answer well; with `headers=1` the head has left before the wait."""
    wait = call.knobs.seconds("ms", 1000)
    if not call.knobs.flag("headers"):
        await asyncio.sleep(wait)
        await call.respond()
        return
    if call.streams:
        call.stream_head()
        await call.exchange.flush()
        await asyncio.sleep(wait)
        await call.send(call.events())
        await call.exchange.finish()
    else:
        body = call.body()
        call.exchange.head(200, call.headers(JSON), length=len(body))
        await call.exchange.flush()
        await asyncio.sleep(wait)
        await call.exchange.finish(body)


def _whole(call: Call) -> tuple[str, bytes]:
    """Return the type and the whole body of the good answer, a stream joined into one."""
    if call.streams:
        return SSE, b"".join(one.data for one in call.events())
    return JSON, call.body()


async def truncated_chunked(call: Call) -> None:
    """Announce a chunk, send half of it and close."""
    sent, rest = call.content(call.knobs.number("chunks", 3)) if call.streams else ([], [])
    body = b"".join(one.data for one in rest) if call.streams else call.body()
    call.exchange.head(200, call.headers(SSE if call.streams else JSON))
    await call.send(sent)
    await call.exchange.raw(b"%x\r\n%b" % (len(body), body[: len(body) // 2]))
    call.exchange.close()


async def content_length_short(call: Call) -> None:
    """Announce 100 bytes more than are sent, then close."""
    kind, body = _whole(call)
    call.exchange.head(200, call.headers(kind), length=len(body) + 100)
    await call.exchange.send(body)
    call.exchange.close()


async def duplicate_content_length(call: Call) -> None:
    """State two lengths that differ (the first is the true one)."""
    kind, body = _whole(call)
    call.exchange.head(200, [*call.headers(kind), ("Content-Length", str(len(body)))], length=len(body) + 5)
    await call.exchange.raw(body)
    call.exchange.finished_by_hand()


async def length_and_chunked(call: Call) -> None:
    """State a length of 3 and chunked framing at once."""
    kind, body = _whole(call)
    call.exchange.head(200, [*call.headers(kind), ("Content-Length", "3")])
    await call.exchange.finish(body)


async def glued_response(call: Call) -> None:
    """Send a second, stale response in the same bytes as the true one and keep the connection open."""
    kind, body = _whole(call)
    stale = dump(
        {"id": "stale", "object": "chat.completion", "choices": [_stale_choice()], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    )
    second = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(stale), stale)
    call.exchange.head(200, call.headers(kind), length=len(body))
    await call.exchange.raw(body + second)
    call.exchange.finished_by_hand()


def _stale_choice() -> dict[str, object]:
    return {"index": 0, "message": {"role": "assistant", "content": STALE}, "finish_reason": "stop"}


async def non_http_banner(call: Call) -> None:
    """Speak another protocol and wait; with `close=1` close behind it."""
    await call.exchange.raw(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    if call.knobs.flag("close"):
        call.exchange.close()
    else:
        await call.exchange.until_client_leaves()


async def switching_101(call: Call) -> None:
    """Switch protocols unasked, send bytes of no meaning and wait; with `close=1` close behind them."""
    await call.exchange.raw(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello")
    if call.knobs.flag("close"):
        call.exchange.close()
    else:
        await call.exchange.until_client_leaves()


FAULTS = {
    "connect-close": connect_close,
    "reset": reset,
    "silence": silence,
    "slow-first-byte": slow_first_byte,
    "truncated-chunked": truncated_chunked,
    "content-length-short": content_length_short,
    "duplicate-content-length": duplicate_content_length,
    "length-and-chunked": length_and_chunked,
    "glued-response": glued_response,
    "non-http-banner": non_http_banner,
    "switching-101": switching_101,
}
