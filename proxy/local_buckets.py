"""The rate limits of one process by itself, while Valkey is away: the counting of `rate_limits.lua` in plain Python."""

from collections import deque
from typing import Final

from proxy.limit_checks import CONCURRENCY, DAY_SECONDS, FREE, FREE_OR_PAID, REQUESTS, TOKENS, WINDOW_SECONDS, Answer, Operation

CONCURRENCY_WAIT_MS: Final = 1000


class LocalBuckets:
    """Every limit that this process was asked for: each limit is divided by `processes`, but never below one."""

    def __init__(self, processes: int = 1) -> None:
        self._processes = processes
        self._windows: dict[str, _Window] = {}
        self._sets: dict[str, dict[str, int]] = {}
        self._days: dict[str, tuple[int, int]] = {}  # the UTC day since 1970, and how many free requests were counted in it
        self._swept_ms = 0

    def serve(self, operation: Operation) -> Answer:
        """Do one operation at its own time and answer as the script does."""
        if operation.now_ms - self._swept_ms >= WINDOW_SECONDS * 1000:
            self._sweep(operation.now_ms)
        if operation.seconds < 0:
            self._finish(operation)
            return ()
        return self._admit(operation)

    def free_requests(self) -> list[tuple[str, int, int]]:
        """What was counted by the day: key, day, count."""
        return [(key, day, count) for key, (day, count) in self._days.items() if count]

    def _admit(self, operation: Operation) -> Answer:
        now_ms = operation.now_ms
        refusing = wait_ms = counted = 0
        pays = False
        today = now_ms // (DAY_SECONDS * 1000)
        midnight_ms = (today + 1) * DAY_SECONDS * 1000 - now_ms
        for index, (kind, key, limit, _) in enumerate(operation.checks, 1):
            share = self._share(limit)
            needed = 0
            if kind == CONCURRENCY:
                if self._is_full(key, share, now_ms):
                    needed = CONCURRENCY_WAIT_MS
            elif kind in (FREE, FREE_OR_PAID):
                if self._count_of(key, today) >= share:
                    needed, pays = (midnight_ms, pays) if kind == FREE else (0, True)
            else:
                window = self._window(key, now_ms)
                if window.total >= share:
                    needed = window.wait_ms(window.total + 1 - share, now_ms)
            if needed > wait_ms:
                refusing, wait_ms = index, needed
        shown = {REQUESTS: (0, 0, 0), TOKENS: (0, 0, 0)}
        for index, (kind, key, limit, _) in enumerate(operation.checks, 1):
            if kind == CONCURRENCY:
                if not refusing:
                    self._sets.setdefault(key, {})[operation.request_id] = now_ms + operation.seconds * 1000
                continue
            if kind in (FREE, FREE_OR_PAID):
                count = self._count_of(key, today)
                if not refusing and not pays:
                    count, counted = count + 1, -today
                    self._days[key] = (today, count)
                remaining = max(0, self._share(limit) - count)
                if not pays and (not shown[REQUESTS][0] or remaining < shown[REQUESTS][1]):
                    shown[REQUESTS] = (index, remaining, midnight_ms if count else 0)
                continue
            window = self._windows[key]
            if kind == REQUESTS and not refusing:
                window.add(1)
            remaining = max(0, self._share(limit) - window.total)
            if not shown[kind][0] or remaining < shown[kind][1]:
                shown[kind] = (index, remaining, window.reset_ms(now_ms))
        return (refusing, wait_ms, *shown[REQUESTS], *shown[TOKENS], counted)

    def _count_of(self, key: str, today: int) -> int:
        day, count = self._days.get(key, (0, 0))
        return count if day == today else 0

    def _finish(self, operation: Operation) -> None:
        for kind, key, change, _ in operation.checks:
            if kind == CONCURRENCY:
                self._sets.get(key, {}).pop(operation.request_id, None)
            elif kind == FREE:
                day = -operation.seconds - 1
                if change > 0 or self._count_of(key, day):
                    self._days[key] = (day, max(0, self._count_of(key, day) + change))
            else:
                self._window(key, operation.now_ms).add(-operation.seconds - 1)

    def _share(self, limit: int) -> int:
        return max(1, limit // self._processes) if limit > 0 else 0

    def _window(self, key: str, now_ms: int) -> "_Window":
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window()
        window.advance(now_ms)
        return window

    def _is_full(self, key: str, limit: int, now_ms: int) -> bool:
        ids = self._sets.get(key, {})
        if len(ids) >= limit:
            for request_id in [request_id for request_id, expiry_ms in ids.items() if expiry_ms <= now_ms]:
                del ids[request_id]
        return len(ids) >= limit

    def _sweep(self, now_ms: int) -> None:
        """Forget, once a minute, what no longer counts, so that an outage does not collect every subject there is."""
        self._swept_ms = now_ms
        for window in self._windows.values():
            window.advance(now_ms)
        self._windows = {key: window for key, window in self._windows.items() if window.total}
        alive = ((key, {name: expiry_ms for name, expiry_ms in ids.items() if expiry_ms > now_ms}) for key, ids in self._sets.items())
        self._sets = {key: ids for key, ids in alive if ids}
        today = now_ms // (DAY_SECONDS * 1000)
        self._days = {key: (day, count) for key, (day, count) in self._days.items() if day >= today}


class _Window:
    """One sliding minute: (second, count) pairs, oldest first, and their sum."""

    __slots__ = ("at", "slots", "total")

    def __init__(self) -> None:
        self.at = 0
        self.total = 0
        self.slots: deque[list[int]] = deque()

    def advance(self, now_ms: int) -> None:
        """Move to `now_ms`, never backwards, and drop the seconds that have left the minute."""
        self.at = max(self.at, now_ms // 1000)
        while self.slots and self.slots[0][0] <= self.at - WINDOW_SECONDS:
            self.total -= self.slots.popleft()[1]

    def add(self, count: int) -> None:
        """Count in the current second."""
        self.total += count
        if self.slots and self.slots[-1][0] == self.at:
            self.slots[-1][1] += count
        else:
            self.slots.append([self.at, count])

    def wait_ms(self, excess: int, now_ms: int) -> int:
        """Milliseconds until `excess` has left the window."""
        for second, count in self.slots:
            excess -= count
            if excess <= 0:
                return (second + WINDOW_SECONDS) * 1000 - now_ms
        return (self.at + WINDOW_SECONDS) * 1000 - now_ms

    def reset_ms(self, now_ms: int) -> int:
        """Milliseconds until the window is empty."""
        return (self.slots[-1][0] + WINDOW_SECONDS) * 1000 - now_ms if self.slots else 0
