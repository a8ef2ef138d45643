"""The provider of the measurements: an OpenAI chat endpoint that costs as little as Python allows, whole or streamed, in bursts or paced.

Run as `python -m tests.performance.origin`: it prints the port it listens on and serves until it is told to stop.

A request whose body has `"stream":true` is streamed: `CHUNKS` events in `BURSTS` writes, or, when its model is `paced`, as many events as
its `user` field says ("chunks=250"), `PACED_PER_SECOND` a second.
"""

import asyncio
import re
import signal
from collections import deque

import orjson
import uvloop

CHUNKS = 54  # the usage chunk included, [DONE] not
BURSTS = 3
BURST_GAP_SECONDS = 0.001
PACED_PER_SECOND = 50
PHASES = 20  # paced streams are spread over so many ticks, so that each chunk comes alone until there are many streams
MOST_PACED_CHUNKS = 10_000

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PACED = re.compile(rb'"chunks=(\d+)"')
_COMMON = {"id": "chatcmpl-BdB7rYH2qVxC5uXQpZnW3e1kTfLs0", "created": 1_750_000_000, "model": "gpt-4o-mini-2024-07-18"}
_USAGE = {
    "prompt_tokens": 212,
    "completion_tokens": CHUNKS - 2,
    "total_tokens": 212 + CHUNKS - 2,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def _whole() -> bytes:
    message: dict[str, object] = {"role": "assistant", "content": "", "refusal": None, "annotations": []}
    answer = {
        **_COMMON,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": _USAGE,
        "service_tier": "default",
        "system_fingerprint": "fp_34a54ae93c",
    }
    message["content"] = "the quick brown fox jumps over "[: 800 - len(orjson.dumps(answer))].ljust(800 - len(orjson.dumps(answer)), "x")
    body = orjson.dumps(answer)
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def _event(data: bytes) -> bytes:
    """One server-sent event in an HTTP chunk of its own, as model servers send it."""
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def _chunk(choices: list[dict[str, object]], usage: object = None) -> bytes:
    fields = {**_COMMON, "object": "chat.completion.chunk", "service_tier": "default", "system_fingerprint": "fp_34a54ae93c"}
    return _event(orjson.dumps({**fields, "choices": choices, "usage": usage, "obfuscation": "kQz7"}))


WHOLE = _whole()
FIRST = _chunk([{"index": 0, "delta": {"role": "assistant", "content": "", "refusal": None}, "logprobs": None, "finish_reason": None}])
TOKEN = _chunk([{"index": 0, "delta": {"content": " token"}, "logprobs": None, "finish_reason": None}])
LAST = _chunk([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]) + _chunk([], _USAGE)
END = _event(b"[DONE]") + b"0\r\n\r\n"


def _bursts() -> list[bytes]:
    tokens = CHUNKS - 3
    each = tokens // BURSTS
    pieces = [TOKEN * each for _ in range(BURSTS)]
    pieces[0] = _STREAM_HEAD + FIRST + pieces[0]
    pieces[-1] += TOKEN * (tokens - each * BURSTS) + LAST + END
    return pieces


BURST_PIECES = _bursts()


class Pacer:
    """One ticker for all paced streams: each stream belongs to one phase and gets one event a turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._phases: list[dict[Connection, int]] = [{} for _ in range(PHASES)]
        self._next = 0
        self._due = 0.0
        self._ticking = False

    def add(self, connection: "Connection", chunks: int) -> None:
        """Send `chunks` events, the first as soon as its phase comes round."""
        min(self._phases, key=len)[connection] = chunks
        if not self._ticking:
            self._ticking = True
            self._due = self._loop.time()
            self._tick()

    def drop(self, connection: "Connection") -> None:
        """Forget a stream whose reader has gone."""
        for phase in self._phases:
            phase.pop(connection, None)

    def _tick(self) -> None:
        now = self._loop.time()
        while self._due <= now:
            self._turn(self._phases[self._next])
            self._next = (self._next + 1) % PHASES
            self._due += 1 / (PACED_PER_SECOND * PHASES)
        self._ticking = any(self._phases)
        if self._ticking:
            self._loop.call_at(self._due, self._tick)

    def _turn(self, phase: "dict[Connection, int]") -> None:
        for connection, left in list(phase.items()):
            if left > 2:
                connection.write(TOKEN)
                phase[connection] = left - 1
            else:
                del phase[connection]
                connection.write(LAST + END)


class Connection(asyncio.Protocol):
    """One keep-alive connection: one request at a time."""

    pacer: Pacer

    def __init__(self) -> None:
        self._buffer = b""
        self._waiting: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self.write = transport.write

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.clear()
        self.pacer.drop(self)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = data
            return
        found = _LENGTH.search(data, 0, end)
        stop = end + 4 + (int(found.group(1)) if found else 0)
        if len(data) < stop:
            self._buffer = data
            return
        self._buffer = data[stop:]
        if data.find(b'"stream":true', end) < 0:
            self.write(WHOLE)
        elif paced := _PACED.search(data, end):
            self.write(_STREAM_HEAD + FIRST)
            self.pacer.add(self, min(int(paced.group(1)), MOST_PACED_CHUNKS))
        else:
            self._waiting.extend(BURST_PIECES)
            self._burst()

    def _burst(self) -> None:
        if self._waiting:
            self.write(self._waiting.popleft())
            self._loop.call_later(BURST_GAP_SECONDS, self._burst)


async def serve() -> None:
    """Listen on a free port of loopback, print it, and serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    Connection.pacer = Pacer(loop)
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(serve())
