"""Self-clocking batches: gather what arrives while the last call runs, send it together.

An idle process waits for nothing (a lone item leaves at once); a busy one makes one round trip for many items. Holds, settlements, key
look-ups and rate limits all ride on this one primitive.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Send items in batches through `send`, which answers a batch with one answer per item, in order.

    `lanes` batches may be under way at once. An exception raised by `send` reaches every submitter of that batch; an answer that is itself
    an exception reaches only its own submitter. A submitter that is cancelled takes nobody else with it.
    """

    def __init__(
        self, send: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]], *, limit: int = 128, lanes: int = 1
    ) -> None:
        self._send = send
        self._limit = limit
        self._lanes = lanes
        self._running: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()

    def submit(self, item: Item) -> "asyncio.Future[Answer]":
        """Queue `item` and return the future of its answer. The item is sent even when nobody awaits the future any more."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._running) < self._lanes:
            self._start_lane()
        return future

    async def idle(self) -> None:
        """Return when nothing is queued or under way."""
        while self._running:
            await asyncio.wait(self._running)

    def _start_lane(self) -> None:
        task = asyncio.get_running_loop().create_task(self._run_lane())
        self._running.add(task)
        task.add_done_callback(self._running.discard)  # for a lane that was cancelled before it began

    async def _run_lane(self) -> None:
        try:
            await self._send_waiting()
        finally:
            # In the step that found nothing waiting: a done-callback comes only after the submitters it woke, who would count on this lane.
            lane = asyncio.current_task()
            if lane is not None:
                self._running.discard(lane)

    async def _send_waiting(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._limit, len(self._waiting)))]
            try:
                answers = await self._send([item for item, _ in batch])
                if len(answers) != len(batch):
                    raise RuntimeError(f"a batch of {len(batch)} was answered with {len(answers)} answers")
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                        future.exception()  # seen: nobody may be waiting any more
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                    future.exception()
                else:
                    future.set_result(answer)
