"""The self-clocking batch: what gathers while a call runs goes out together, each answer finds its asker, nothing is lost."""

import asyncio
from collections.abc import Sequence

import pytest

from gateway_site.batches import Batcher


class Line:
    """A slow line to answer batches: each call waits at a gate the test opens."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.gate = asyncio.Semaphore(0)
        self.running = 0
        self.most_running = 0

    async def send(self, items: Sequence[int]) -> list[int | Exception]:
        self.calls.append(list(items))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.acquire()
        finally:
            self.running -= 1
        return [ValueError(item) if item < 0 else item * 10 for item in items]

    def let(self, count: int) -> None:
        for _ in range(count):
            self.gate.release()


@pytest.fixture
def line() -> Line:
    return Line()


async def turn() -> None:
    """Let everything that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_lone_item_leaves_at_once(line: Line) -> None:
    line.let(1)
    assert await Batcher(line.send).submit(1) == 10
    assert line.calls == [[1]]


async def test_what_arrives_while_a_call_runs_leaves_together(line: Line) -> None:
    batcher = Batcher(line.send)
    futures = [batcher.submit(1)]
    await turn()
    futures += [batcher.submit(number) for number in range(2, 6)]
    line.let(2)
    assert await asyncio.gather(*futures) == [10, 20, 30, 40, 50]
    assert line.calls == [[1], [2, 3, 4, 5]]


async def test_a_batch_is_bounded(line: Line) -> None:
    batcher = Batcher(line.send, limit=3)
    futures = [batcher.submit(number) for number in range(8)]
    line.let(10)
    assert await asyncio.gather(*futures) == [number * 10 for number in range(8)]
    assert [len(call) for call in line.calls] == [3, 3, 2]


async def test_lanes_bound_how_many_calls_run_at_once(line: Line) -> None:
    batcher = Batcher(line.send, limit=1, lanes=3)
    futures = [batcher.submit(number) for number in range(9)]
    await turn()
    assert line.running == 3
    line.let(9)
    await asyncio.gather(*futures)
    assert line.most_running == 3


async def test_an_answer_that_is_an_error_reaches_its_asker_only(line: Line) -> None:
    batcher = Batcher(line.send)
    futures = [batcher.submit(number) for number in (1, -2, 3)]
    line.let(2)
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert [answers[0], answers[2]] == [10, 30]
    assert isinstance(answers[1], ValueError)


async def test_a_failed_call_reaches_everyone_in_it_and_the_next_goes_on() -> None:
    async def send(items: Sequence[int]) -> list[int | Exception]:
        if 1 in items:
            raise ConnectionError("gone")
        return list(items)

    batcher = Batcher(send, limit=2)
    answers = await asyncio.gather(*(batcher.submit(number) for number in (1, 2, 3, 4)), return_exceptions=True)
    assert [type(answer) for answer in answers[:2]] == [ConnectionError] * 2
    assert answers[2:] == [3, 4]


async def test_too_few_answers_are_an_error_and_not_a_wait() -> None:
    async def send(_: Sequence[int]) -> list[int | Exception]:
        return []

    with pytest.raises(RuntimeError, match="1 was answered with 0"):
        await Batcher(send).submit(1)


async def test_an_asker_who_gives_up_takes_nobody_along_and_its_item_is_sent(line: Line) -> None:
    batcher = Batcher(line.send)
    first = batcher.submit(1)
    await turn()
    second, third = batcher.submit(2), batcher.submit(3)
    second.cancel()
    line.let(2)
    assert [await first, await third] == [10, 30]
    assert line.calls == [[1], [2, 3]]


async def test_idle_waits_for_what_is_queued(line: Line) -> None:
    batcher = Batcher(line.send, limit=1)
    futures = [batcher.submit(number) for number in range(3)]
    idle = asyncio.create_task(batcher.idle())
    await turn()
    assert not idle.done()
    line.let(3)
    await idle
    assert all(future.done() for future in futures)
    await batcher.idle()


async def test_an_item_submitted_by_whoever_an_answer_woke_is_sent(line: Line) -> None:
    """The lane that served the answer is ending at that moment: it must not be counted on."""
    batcher = Batcher(line.send)
    line.let(100)
    for number in range(50):
        assert await asyncio.wait_for(batcher.submit(number), 5) == number * 10
