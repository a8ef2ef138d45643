"""Owns the fake provider: a server thread on a loopback socket whose behaviour each request chooses by its model name."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

from tests.fakes.provider import asking, behaviours, control, faults, operations
from tests.fakes.provider.barriers import Barriers
from tests.fakes.provider.behaviours import Behaviour, Knobs, UnknownBehaviour
from tests.fakes.provider.call import Call
from tests.fakes.provider.faults import statuses
from tests.fakes.provider.journal import Journal, ReceivedRequest
from tests.fakes.provider.replays import replay
from tests.fakes.provider.wire import CONTROL, Connection, Exchange

DOORS = ("open", "close", "reset", "silent")


class FakeProvider:
    """A language-model provider in a daemon thread; every public method is safe from any thread.

    `keep` bounds how many requests are remembered. Used as a context manager it raises on leaving when a model name asked for something
    unknown, so that a misspelt fault never passes for one.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, keep: int = 20_000) -> None:
        self.host = host
        self.port = port
        self.canary_hits = 0
        self.door_hits = 0
        self._journal = Journal(keep)
        self._barriers = Barriers(self._journal)
        self._failures: Counter[str] = Counter()
        self._operations = operations.Operations()
        self._accepted: frozenset[str] | None = None
        self._door = "open"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Event | None = None
        self._connections: set[Connection] = set()

    # Life

    def start(self) -> Self:
        """Listen (on the earlier port after a stop) and return when connections are accepted. Raises: OSError."""
        if self._thread is not None:
            raise RuntimeError("the provider runs already")
        ready = threading.Event()
        failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(ready, failures), name="fake-provider", daemon=True)
        self._thread.start()
        ready.wait()
        if failures:
            self._thread.join()
            self._thread = None
            raise failures[0]
        return self

    def stop(self) -> None:
        """Close the listening socket, reset every open connection, and return when the thread has ended."""
        loop, stopping, thread = self._loop, self._stopping, self._thread
        if loop is None or stopping is None or thread is None:
            return
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        self._loop = self._stopping = self._thread = None

    def __enter__(self) -> Self:
        return self.start() if self._thread is None else self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        if kind is None and (mistakes := self.mistakes):
            raise AssertionError("the fake provider was asked for the impossible:\n" + "\n".join(mistakes))

    def _run(self, ready: threading.Event, failures: list[BaseException]) -> None:
        try:
            asyncio.run(self._listen(ready))
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    async def _listen(self, ready: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()

        def accept() -> Connection:
            return Connection(self._serve, self._journal, self._meet_door, self._connections)

        server = await self._loop.create_server(accept, self.host, self.port, backlog=4096)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stopping.wait()
        server.close()
        for connection in [*self._connections]:
            connection.stop()
        await asyncio.sleep(0)

    # Addresses

    @property
    def origin(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    # What happened

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The requests received, oldest first; the records go on changing while their answers run."""
        return self._journal.requests()

    @property
    def mistakes(self) -> list[str]:
        """Model names that asked for something unknown, requests that were no HTTP, and defects of this server."""
        return self._journal.mistakes()

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def wait_for(self, predicate: Callable[[ReceivedRequest], bool], timeout: float = 60) -> ReceivedRequest:
        """Return the first request that satisfies `predicate`, waiting up to `timeout` seconds. Raises: TimeoutError."""
        return self._journal.wait_for(predicate, timeout, 1)[0]

    def wait_for_count(
        self, count: int, predicate: Callable[[ReceivedRequest], bool] = lambda _: True, timeout: float = 60
    ) -> list[ReceivedRequest]:
        """Return all matching requests once there are at least `count`. Raises: TimeoutError."""
        return self._journal.wait_for(predicate, timeout, count)

    async def seen(self, predicate: Callable[[ReceivedRequest], bool], timeout: float = 60) -> ReceivedRequest:  # noqa: ASYNC109 - a thread waits
        """Do `wait_for` without blocking the running event loop."""
        return await asyncio.to_thread(self.wait_for, predicate, timeout)

    async def seen_count(
        self,
        count: int,
        predicate: Callable[[ReceivedRequest], bool] = lambda _: True,
        timeout: float = 60,  # noqa: ASYNC109 - a thread waits
    ) -> list[ReceivedRequest]:
        """Do `wait_for_count` without blocking the running event loop."""
        return await asyncio.to_thread(self.wait_for_count, count, predicate, timeout)

    # Orders

    def release(self, name: str) -> None:
        """Let every answer waiting at `hold:name` or `gate:name` go on, and all that come later."""
        self._barriers.open(name)

    def waiting(self, name: str) -> int:
        """Return how many answers wait at a barrier."""
        return self._barriers.waiting(name)

    def wait_until_held(self, name: str, count: int = 1, timeout: float = 60) -> None:
        """Return when `count` answers wait at a barrier. Raises: TimeoutError."""
        self._barriers.wait_until_held(name, count, timeout)

    async def held(self, name: str, count: int = 1, timeout: float = 60) -> None:  # noqa: ASYNC109 - a thread waits
        """Do `wait_until_held` without blocking the running event loop."""
        await asyncio.to_thread(self.wait_until_held, name, count, timeout)

    def accept_only(self, *credentials: str) -> None:
        """Answer 401 to every other credential (bearer, x-api-key, x-goog-api-key, api-key); with none given accept all again."""
        self._accepted = frozenset(credentials) or None

    def set_door(self, door: str) -> None:
        """Choose what a new connection meets before its first byte: open, close, reset, or silent (accepted and never read)."""
        if door not in DOORS:
            raise ValueError(f"{door!r} is none of {', '.join(DOORS)}")
        self._door = door

    def wait_for_door(self, count: int = 1, timeout: float = 60) -> None:
        """Return when `count` connections have met a door that was not open. Raises: TimeoutError."""
        self._journal.wait(lambda: self.door_hits >= count, timeout, f"{count} connection(s) at the door")

    def reset(self) -> None:
        """Forget requests, mistakes, failure counts and canary hits; shut the barriers; open the door; accept every credential."""
        self._barriers.reset()
        self._failures.clear()
        self.canary_hits = self.door_hits = 0
        self._accepted = None
        self._door = "open"
        self._journal.clear()

    # Answers

    def _meet_door(self) -> str:
        if self._door != "open":
            with self._journal.change():
                self.door_hits += 1
        return self._door

    async def _serve(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.path.startswith(CONTROL):
            await control.serve(self, exchange)
            return
        if await self._operations.serve(exchange, self.origin):
            return
        ask = asking.read(request.path, request.body)
        request.model, request.stream = ask.model, ask.stream
        if request.path.startswith("/canary"):
            self.canary_hits += 1
            await Call(exchange, ask, Behaviour("chat", knobs=Knobs({"say": "CANARY"})), self._barriers, self.origin).respond()
            return
        try:
            behaviour = behaviours.parse(ask.model)
            call = Call(exchange, ask, behaviour, self._barriers, self.origin)
            if self._accepted is not None and _credential(request) not in self._accepted:
                await statuses.refuse(call, 401)
                return
            await self._behave(call)
        except UnknownBehaviour as error:
            self._journal.blame(f"model {ask.model!r}: {error}")
            if request.status is None:
                refused = Call(exchange, ask, Behaviour("echo"), self._barriers, self.origin)
                await refused.fail(400, f"fake provider: {error}", code="unknown_behaviour")
            else:
                exchange.reset()
            return
        # What a flaky answer reads depends on whether it fails this time.
        if behaviour.kind != "flaky" and (unread := behaviour.knobs.unread()):
            self._journal.blame(f"model {ask.model!r}: nobody reads the knob(s) {', '.join(unread)}")

    async def _behave(self, call: Call) -> None:
        for common in ("chunks", "gap_ms", *(operations.KNOBS if call.ask.shape == "gemini_predictLongRunning" else ())):
            call.knobs.given(common)
        match call.behaviour.kind:
            case "replay":
                await replay(call)
            case "fault":
                await faults.find(call.behaviour.name)(call)
            case "flaky":
                await self._flake(call)
            case "hold":
                await self._barriers.wait(call.behaviour.name)
                await call.respond()
            case "gate":
                await _gate(call)
            case _:
                await call.respond()

    async def _flake(self, call: Call) -> None:
        """Fail `fail` times (default 1) for one token, by `status` (default 503) or by `fault`, then answer well."""
        token, knobs = call.behaviour.name, call.knobs
        if self._failures[token] >= knobs.number("fail", 1):
            await call.respond()
            return
        self._failures[token] += 1
        if knobs.given("fault"):
            name = knobs.text("fault")
            await faults.find(name)(replace(call, behaviour=Behaviour("fault", name, knobs)))
        else:
            await statuses.refuse(call, knobs.number("status", 503))


async def _gate(call: Call) -> None:
    """Send `chunks` content events (default 1), wait at the barrier, send the rest; a whole answer waits in the middle of its body."""
    if call.streams:
        sent, rest = call.content(call.knobs.number("chunks", 1))
        call.stream_head()
        await call.send(sent)
        await call.exchange.flush()
        await call.barriers.wait(call.behaviour.name)
        await call.send(rest)
        await call.exchange.finish()
    else:
        body = call.body()
        call.exchange.head(200, call.headers("application/json"), length=len(body))
        await call.exchange.send(body[: len(body) // 2])
        await call.barriers.wait(call.behaviour.name)
        await call.exchange.finish(body[len(body) // 2 :])


def _credential(request: ReceivedRequest) -> str:
    bearer = (request.header("authorization") or "").removeprefix("Bearer ")
    return bearer or next((value for name in ("x-api-key", "x-goog-api-key", "api-key") if (value := request.header(name))), "")
