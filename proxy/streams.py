"""The streams that are open in this process, and the one ticker that watches over all of them: silence upstream, silence downstream
(keep-alive comments), readers too slow, and the end of the process.

One timer for all streams, not one a chunk: arming a timer for every chunk would cost more than relaying it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from django.conf import settings

from proxy import failures
from proxy.errors import ServerRestarting

TICK_SECONDS = 0.25
LAST_FRAME_SECONDS = 2.0
Send = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]


class OpenStream:
    """One streamed answer: its `frames` (whole events), and when it last moved. Times are monotonic seconds."""

    __slots__ = (
        "_sending_since",
        "_waiting_since",
        "abandon",
        "abort",
        "deadline",
        "frames",
        "hang_up",
        "headers",
        "keep_alive",
        "last_sent",
        "reason",
        "send",
    )

    frames: AsyncGenerator[bytes, None]

    def __init__(self, *, headers: list[tuple[str, str]], keep_alive: bytes, deadline: float) -> None:
        self.headers = headers
        self.keep_alive = keep_alive
        self.deadline = deadline
        self.send: Send | None = None
        self.hang_up: Callable[[], None] = _nothing  # ends the upstream call: the relay then ends the stream in order
        self.abort: Callable[[], None] = _nothing  # ends the client's request, when it cannot be spoken to any more
        self.abandon: Callable[[], None] = _nothing  # settles what the frames have not, called when the client is served or gone
        self.reason: Exception | None = None
        self.last_sent = time.monotonic()
        self._sending_since: float | None = None
        self._waiting_since: float | None = None

    def waiting(self) -> None:
        """The relay now waits for the provider."""
        self._waiting_since = time.monotonic()

    def arrived(self) -> None:
        """The provider has sent something."""
        self._waiting_since = None

    async def pump(self, send: Send) -> None:
        """Send every frame to the client, then the end."""
        self.send = send
        async for frame in self.frames:
            self._sending_since = time.monotonic()
            await send({"type": "http.response.body", "body": frame, "more_body": True})
            self.last_sent = time.monotonic()
            self._sending_since = None
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def tick(self, now: float, *, draining_until: float | None) -> None:
        """Keep the client's connection alive, or end what has been silent, slow or open for too long."""
        drained = draining_until is not None and now > draining_until
        if drained:
            self._end(ServerRestarting())
        elif now > self.deadline:
            self._end(failures.TimedOut("the answer was not complete within the total deadline"))
        if self._sending_since is not None:
            # A process that is going away waits only a moment for the client to take its last frame.
            if now - self._sending_since > (LAST_FRAME_SECONDS if drained else settings.SLOW_READER_SECONDS):
                self.abort()
        elif self._waiting_since is None or self.reason is not None:
            return
        elif now - self._waiting_since > settings.IDLE_TIMEOUT_SECONDS:
            self._end(failures.TimedOut("the provider stopped in the middle of its answer"))
        elif self.keep_alive and self.send is not None and now - self.last_sent > settings.KEEPALIVE_SECONDS:
            self.last_sent = now
            _in_background(self.send({"type": "http.response.body", "body": self.keep_alive, "more_body": True}))

    def _end(self, reason: Exception) -> None:
        if self.reason is None:
            self.reason = reason
            self.hang_up()


class Streams:
    """All open streams of this process."""

    def __init__(self) -> None:
        self._open: set[OpenStream] = set()
        self.draining_until: float | None = None

    def __len__(self) -> int:
        return len(self._open)

    @property
    def draining(self) -> bool:
        """Whether the process is on its way out and takes nothing new."""
        return self.draining_until is not None

    def drain(self, seconds: float) -> None:
        """Let what is open run for so long, then end it in order."""
        self.draining_until = time.monotonic() + seconds

    def add(self, stream: OpenStream) -> None:
        """Watch over a stream."""
        self._open.add(stream)

    def discard(self, stream: OpenStream) -> None:
        """Stop watching."""
        self._open.discard(stream)

    async def keep_watch(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            for stream in list(self._open):
                if stream in self._open:
                    stream.tick(now, draining_until=self.draining_until)


_background: set[asyncio.Task[None]] = set()


def _in_background(work: Coroutine[Any, Any, None]) -> None:
    """Run without waiting: one client that does not read must not hold up the ticker."""
    task = asyncio.get_running_loop().create_task(work)
    _background.add(task)
    task.add_done_callback(_background.discard)


def _nothing() -> None:
    """Nothing to end yet."""
