"""Owns what the fake provider has seen: every request with its outcome, readable and awaitable from any thread."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class ReceivedRequest:
    """One request as it arrived, and how its answer went. Moments are `time.monotonic()` seconds."""

    number: int
    connection: int
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    arrived_at: float
    model: str = ""
    stream: bool = False
    status: int | None = None
    bytes_sent: int = 0
    first_byte_at: float | None = None
    response_finished: bool = False
    finished_at: float | None = None
    client_gone_at: float | None = None
    cut_at: float | None = None

    @property
    def ended(self) -> bool:
        """Whether the answer is over in any way: finished, cut by the provider on purpose, or abandoned by the client."""
        return self.response_finished or self.client_gone_at is not None or self.cut_at is not None

    def header(self, name: str) -> str | None:
        """Return the first value of a header, whatever the case of its name, or None."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def header_values(self, name: str) -> list[str]:
        """Return every value of a header in order, so that duplicates show."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        """Return the parsed body. Raises: ValueError when it is not JSON."""
        return json.loads(self.body)


class Journal:
    """The requests of one provider, oldest first, at most `keep` of them; every change wakes whoever waits."""

    def __init__(self, keep: int) -> None:
        self._changed = threading.Condition()
        self._requests: deque[ReceivedRequest] = deque(maxlen=keep)
        self._mistakes: list[str] = []
        self.total = 0

    @contextmanager
    def change(self) -> Iterator[None]:
        """Hold the lock while a record changes, then wake the waiters."""
        with self._changed:
            yield
            self._changed.notify_all()

    def add(self, *, connection: int, method: str, path: str, headers: list[tuple[str, str]], body: bytes, listed: bool) -> ReceivedRequest:
        """Make the record of a request; one that is not listed has number 0 and is seen by nobody."""
        if not listed:
            return ReceivedRequest(0, connection, method, path, headers, body, time.monotonic())
        with self.change():
            self.total += 1
            request = ReceivedRequest(self.total, connection, method, path, headers, body, time.monotonic())
            self._requests.append(request)
        return request

    def requests(self) -> list[ReceivedRequest]:
        with self._changed:
            return list(self._requests)

    def mistakes(self) -> list[str]:
        with self._changed:
            return list(self._mistakes)

    def blame(self, mistake: str) -> None:
        """Note a model name that asks for nothing this provider knows, or a fault of the provider itself."""
        with self.change():
            self._mistakes.append(mistake)

    def clear(self) -> None:
        with self.change():
            self._requests.clear()
            self._mistakes.clear()

    def wait(self, condition: Callable[[], Any], timeout: float, what: str) -> Any:
        """Return the first truthy value of `condition`, asked again after every change. Raises: TimeoutError."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not (value := condition()):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"after {timeout} s still not: {what}; seen: {[_summary(r) for r in self._requests][-10:]}")
                self._changed.wait(left)
            return value

    def wait_for(self, predicate: Callable[[ReceivedRequest], bool], timeout: float, count: int) -> list[ReceivedRequest]:
        """Return the requests that satisfy `predicate` once there are at least `count`. Raises: TimeoutError."""

        def enough() -> list[ReceivedRequest]:
            matching = [request for request in self._requests if predicate(request)]
            return matching if len(matching) >= count else []

        found: list[ReceivedRequest] = self.wait(enough, timeout, f"{count} matching request(s)")
        return found


def _summary(request: ReceivedRequest) -> str:
    end = "finished" if request.response_finished else "client gone" if request.client_gone_at else "cut" if request.cut_at else "open"
    return f"#{request.number} {request.method} {request.path} {request.model} {request.status} {end}"
