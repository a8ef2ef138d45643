"""The clients of the measurements: keep-alive connections that send 1 KB chat requests, as many at once as asked, for a bounded time.

Run as `python -m tests.performance.load '{"port": …}'` (the fields of `Plan`); it prints one JSON object (the fields of `Result`). What is
under way when time is up is finished, so that the number of answers is the number of requests served.
"""

import asyncio
import sys
import time
from array import array
from dataclasses import asdict, dataclass

import orjson
import uvloop

STALL_SECONDS = 1.0
GRACE_SECONDS = 15.0
MOST_REQUESTS = 2_000_000
REQUEST_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send. `mode` is whole, bursts or paced; paced opens `concurrency` streams over `ramp_seconds` and lets each run `seconds`."""

    port: int
    mode: str
    model: str
    key: str
    concurrency: int = 1
    seconds: float = 2.0
    count: int = MOST_REQUESTS
    ramp_seconds: float = 1.0
    chunks_per_second: int = 50
    path: str = "/v1/chat/completions"


@dataclass(slots=True)
class Result:
    """What came back. Times are microseconds; `chunks` are server-sent events without [DONE]; a stalled stream was silent for a second."""

    answered: int = 0
    failed: int = 0
    unfinished: int = 0
    seconds: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    first_p50: float = 0.0
    first_p99: float = 0.0
    chunks: int = 0
    stalled: int = 0
    longest_gap: float = 0.0
    cpu_seconds: float = 0.0
    failure: str = ""


def request_bytes(plan: Plan) -> bytes:
    """The whole HTTP request: a body of exactly `REQUEST_BYTES`."""
    fields: dict[str, object] = {"model": plan.model, "messages": [], "max_tokens": 256}
    if plan.mode != "whole":
        fields |= {"stream": True}
        if plan.path.endswith("/chat/completions"):
            fields |= {"stream_options": {"include_usage": True}}
    if plan.mode == "paced":
        fields["user"] = f"chunks={int(plan.seconds * plan.chunks_per_second)}"
    messages = [{"role": "user", "content": ""}]
    if plan.path.endswith("/chat/completions"):
        messages.insert(0, {"role": "system", "content": "You are a helpful assistant."})
    fields["messages"] = messages
    messages[-1]["content"] = ("What is the answer to this question? " * 40)[: REQUEST_BYTES - len(orjson.dumps(fields))]
    body = orjson.dumps(fields)
    head = f"POST {plan.path} HTTP/1.1\r\nHost: 127.0.0.1:{plan.port}\r\nAuthorization: Bearer {plan.key}\r\n"
    return head.encode() + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Crowd:
    """All connections of one run, and what they have seen."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.request = request_bytes(plan)
        self.result = Result()
        self.latencies = array("d")
        self.firsts = array("d")
        self.sent = 0
        self.open = 0
        self.deadline = 0.0
        self.over = asyncio.Event()

    async def run(self) -> Result:
        """Send, wait for what is under way, and sum up."""
        loop = asyncio.get_running_loop()
        plan, result = self.plan, self.result
        whole_time = plan.seconds + (plan.ramp_seconds if plan.mode == "paced" else 0.0)
        began = time.perf_counter()
        self.deadline = began + plan.seconds
        self.open = plan.concurrency
        for number in range(plan.concurrency):
            if plan.mode == "paced":
                await asyncio.sleep(max(0.0, began + plan.ramp_seconds * number / plan.concurrency - time.perf_counter()))
            await loop.create_connection(lambda: Client(self), "127.0.0.1", plan.port)
        try:
            async with asyncio.timeout(whole_time + GRACE_SECONDS):
                await self.over.wait()
        except TimeoutError:
            result.unfinished = self.open
        result.seconds = time.perf_counter() - began
        result.answered = len(self.latencies)
        result.p50, result.p99 = _percentiles(self.latencies)
        result.first_p50, result.first_p99 = _percentiles(self.firsts)
        result.cpu_seconds = time.process_time()
        return result

    def may_send(self) -> bool:
        """Whether one more request fits in the plan; counts it."""
        if self.sent >= self.plan.count or (self.plan.mode == "paced" and self.sent >= self.plan.concurrency):
            return False
        if self.plan.mode != "paced" and time.perf_counter() >= self.deadline:
            return False
        self.sent += 1
        return True

    def leave(self) -> None:
        """One connection has nothing more to do."""
        self.open -= 1
        if self.open <= 0:
            self.over.set()


class Client(asyncio.Protocol):
    """One connection: one request at a time, read just closely enough to know where each answer ends."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._streams = crowd.plan.mode != "whole"
        self._buffer = b""
        self._busy = False
        self._begun = False
        self._stalled = False
        self._done = False
        self._began = self._last = 0.0
        self._expected = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._busy:
            self._fail("the connection was lost")
        self._crowd.leave()

    def data_received(self, data: bytes) -> None:
        if self._streams:
            self._read_stream(data)
        else:
            self._read_whole(data)

    def _send(self) -> None:
        if not self._crowd.may_send():
            self._transport.close()
            return
        self._busy, self._begun, self._stalled, self._done, self._expected = True, False, False, False, 0
        self._began = self._last = time.perf_counter()
        self._transport.write(self._crowd.request)

    def _read_whole(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        if not self._expected:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = data
                return
            self._expected = end + 4 + int(data[:end].lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or b"0")
        if len(data) < self._expected:
            self._buffer = data
            return
        self._buffer = b""
        if not data.startswith(b"HTTP/1.1 200"):
            self._fail(data[:400].decode(errors="replace"))
            self._transport.close()
            return
        self._finish(time.perf_counter())

    def _read_stream(self, data: bytes) -> None:
        now = time.perf_counter()
        crowd = self._crowd
        gap = now - self._last
        self._last = now
        crowd.result.longest_gap = max(crowd.result.longest_gap, gap)
        if gap > STALL_SECONDS and not self._stalled:
            self._stalled = True
            crowd.result.stalled += 1
        if not self._begun:
            data = self._buffer + data
            if b"\r\n\r\n" not in data:
                self._buffer = data
                return
            if not data.startswith(b"HTTP/1.1 200"):
                self._fail(data[:400].decode(errors="replace"))
                self._transport.close()
                return
            rest = data.partition(b"\r\n\r\n")[2]
            if not rest:
                self._buffer = data
                return
            self._begun = True
            self._buffer = b""
            data = rest
            crowd.firsts.append((now - self._began) * 1e6)
        joined = self._buffer + data
        crowd.result.chunks += joined.count(b"data: ")
        if b"[DONE]" in joined or b"message_stop" in joined:
            self._done = True
            crowd.result.chunks -= 1
        self._buffer = b"" if self._done else joined[-5:]
        if joined.endswith(b"0\r\n\r\n") or (self._done and data.endswith(b"0\r\n\r\n")):
            self._buffer = b""
            if self._done:
                self._finish(now)
            else:
                self._fail("a stream ended without [DONE]")
                self._transport.close()

    def _finish(self, now: float) -> None:
        self._busy = False
        self._crowd.latencies.append((now - self._began) * 1e6)
        self._send()

    def _fail(self, why: str) -> None:
        self._busy = False
        self._crowd.result.failed += 1
        self._crowd.result.failure = self._crowd.result.failure or why


def _percentiles(values: "array[float]") -> tuple[float, float]:
    if not values:
        return 0.0, 0.0
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


async def main(argument: str) -> Result:
    """Do what the JSON object `argument` plans."""
    return await Crowd(Plan(**orjson.loads(argument))).run()


if __name__ == "__main__":
    print(orjson.dumps(asdict(uvloop.run(main(sys.argv[1])))).decode(), flush=True)
