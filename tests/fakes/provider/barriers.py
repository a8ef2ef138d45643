"""Owns the named doors at which answers wait, so that tests order events without sleeping."""

import asyncio

from tests.fakes.provider.journal import Journal


class Barriers:
    """Named doors at which answers wait until a test opens them; once opened a door stays open until `reset`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._opened: set[str] = set()
        self._waiting: dict[str, list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]] = {}

    async def wait(self, name: str) -> None:
        """Wait until the door is opened; return at once when it is open."""
        loop = asyncio.get_running_loop()
        entry = (loop, loop.create_future())
        with self._journal.change():
            if name in self._opened:
                return
            self._waiting.setdefault(name, []).append(entry)
        try:
            await entry[1]
        finally:
            with self._journal.change():
                if entry in self._waiting.get(name, []):
                    self._waiting[name].remove(entry)

    def open(self, name: str) -> None:
        """Open a door: all who wait go on, and all who come later do not wait. Safe from any thread."""
        with self._journal.change():
            self._opened.add(name)
            for loop, future in self._waiting.pop(name, []):
                loop.call_soon_threadsafe(_let_go, future)

    def waiting(self, name: str) -> int:
        """Return how many answers wait at a door right now."""
        with self._journal.change():
            return len(self._waiting.get(name, []))

    def wait_until_held(self, name: str, count: int, timeout: float) -> None:
        """Return when `count` answers wait at a door. Raises: TimeoutError."""
        self._journal.wait(lambda: len(self._waiting.get(name, [])) >= count, timeout, f"{count} answer(s) waiting at {name!r}")

    def reset(self) -> None:
        """Shut every door again; those who waited go on."""
        for name in [*self._waiting]:
            self.open(name)
        with self._journal.change():
            self._opened.clear()


def _let_go(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
