"""Splits a stream of server-sent events into whole events, whatever the reads were. Bytes in, bytes out; bounded memory.

Never `splitlines`: it also splits at U+2028 and U+0085, which occur inside JSON strings.
"""

import re
from collections.abc import Iterator

LARGEST_EVENT = 32 * 1024 * 1024  # one picture is one event; as large as an answer in one piece
_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LONG = 64 * 1024
_LINE = re.compile(rb"\r\n|\n|\r")


class EventTooLarge(Exception):
    """An event without end: no model server sends one."""


class Splitter:
    """Cuts what arrives at the last event boundary and keeps the rest for the next read."""

    __slots__ = ("_more", "_rest", "_seam", "_size")

    def __init__(self) -> None:
        self._rest = b""  # the first piece of an event that is not complete
        self._more: list[bytes] = []  # its other pieces: joined once, so that a long event costs no more a byte than a short one
        self._size = 0
        self._seam = b""  # its last bytes

    def feed(self, data: bytes) -> bytes:
        """The whole events now complete, as received.

        Raises: EventTooLarge.
        """
        if self._rest:
            if len(self._rest) + self._size > _LONG:
                seam = self._seam + data if self._more else self._rest[-3:] + data  # no boundary is longer than four bytes
                if _BOUNDARY.search(seam) is None:
                    self._seam = seam[-3:]
                    self._more.append(data)
                    self._size += len(data)
                    return self._within(b"")
            data = self.rest + data
            self._more.clear()
            self._size = 0
        cut = data.rfind(b"\n\n") + 2
        if cut == 1 or cut < len(data):  # not simply at the end: look for the other kinds of boundary as well
            cut = max(
                cut if cut > 1 else 0,
                data.rfind(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 0,
                data.rfind(b"\r\r") + 2 if b"\r\r" in data else 0,
            )
        if cut == len(data):
            self._rest = b""
            return data
        self._rest = data[cut:]
        return self._within(data[:cut])

    def _within(self, whole: bytes) -> bytes:
        if len(self._rest) + self._size > LARGEST_EVENT:
            raise EventTooLarge(f"an event of more than {LARGEST_EVENT} bytes")
        return whole

    @property
    def rest(self) -> bytes:
        """What arrived of an event that is not complete."""
        return self._rest + b"".join(self._more) if self._more else self._rest

    @staticmethod
    def events(block: bytes) -> Iterator[bytes]:
        """The events of a block, each with its boundary."""
        start = 0
        for match in _BOUNDARY.finditer(block):
            yield block[start : match.end()]
            start = match.end()
        if start < len(block):
            yield block[start:]

    @staticmethod
    def data_of(event: bytes) -> bytes:
        """The event's data (its lines joined); empty for a comment."""
        lines = [line[5:].removeprefix(b" ") for line in _LINE.split(event) if line.startswith(b"data:")]
        return b"\n".join(lines)
