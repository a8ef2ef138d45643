"""Cuts Gemini's streams into JSON objects: events of SSE, or the elements of one array that arrives piece by piece. Pure."""

import re
from typing import Any

import orjson

from proxy.sse import EventTooLarge

LARGEST_FRAME = 32 * 1024 * 1024  # one picture is one event

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_STRUCTURE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[{}\[\]]', re.DOTALL)
_IN_STRING = re.compile(rb'["\\]')
_ONE_READ = 64 * 1024  # what is longer is looked through as it comes


class Frames:
    """Cuts a stream into whole frames (what to forward, and its JSON), be it SSE or one JSON array; every byte is looked at once.

    A frame's first part is exactly what was received for it, with what stood between it and the frame before.
    """

    __slots__ = ("_buffer", "_cut", "_depth", "_in_string", "_seen", "_start", "array", "ended")

    def __init__(self) -> None:
        self.array: bool | None = None  # not known before the first byte that is not a space
        self.ended = False  # the array is closed
        self._buffer = bytearray()
        self._seen = 0  # up to where the buffer was searched
        self._cut = 0
        self._depth = 0
        self._start = -1
        self._in_string = False

    @property
    def rest(self) -> bytes:
        """What arrived and is not a whole frame."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The frames that are complete now.

        Raises: proxy.sse.EventTooLarge.
        """
        if self.array is None:
            first = data.lstrip(b" \t\r\n\xef\xbb\xbf")[:1]
            if not first:
                self._buffer += data
                self._seen = 0
                return self._within([])
            self.array = first in (b"[", b"{")
        if not self.array and not self._buffer and _ends_whole(data):  # the common case: one read is one event
            return [(data, data[6 : -4 if data.endswith(b"\r\n\r\n") else -2])]
        if self.array and not self._buffer and len(data) < _ONE_READ and (whole := _whole_object(data)):
            return [(data, whole)]
        self._buffer += data
        self._cut = 0
        frames = self._objects() if self.array else self._events()
        if self._cut:
            del self._buffer[: self._cut]
            self._seen -= self._cut
            self._start -= self._cut
        return self._within(frames)

    def _within(self, frames: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        if len(self._buffer) > LARGEST_FRAME:
            raise EventTooLarge(f"an event of more than {LARGEST_FRAME} bytes")
        return frames

    def _events(self) -> list[tuple[bytes, bytes]]:
        frames: list[tuple[bytes, bytes]] = []
        for match in _EVENT_END.finditer(self._buffer, max(0, self._seen - 3)):
            if match.start() < self._cut:
                continue
            event = bytes(self._buffer[self._cut : match.end()])
            self._cut = match.end()
            frames.append((event, data_of(event)))
        self._seen = len(self._buffer)
        return frames

    def _objects(self) -> list[tuple[bytes, bytes]]:
        frames: list[tuple[bytes, bytes]] = []
        buffer, at = self._buffer, self._seen
        while True:
            if self._in_string:
                found = _IN_STRING.search(buffer, at)
                if found is None:
                    at = len(buffer)
                    break
                if buffer[found.start()] == 0x5C:
                    if found.end() == len(buffer):
                        at = found.start()
                        break
                    at = found.end() + 1
                    continue
                self._in_string = False
                at = found.end()
            match = _STRUCTURE.search(buffer, at)
            if match is None:
                at = len(buffer)
                break
            at = match.end()
            first = buffer[match.start()]
            if first == 0x22:
                if not match.group(1):  # the string goes on in the next read
                    self._in_string = True
                    at = match.start() + 1 if buffer.find(b"\\", match.start()) >= 0 else len(buffer)
            elif first == 0x7B:
                if self._depth == 0:
                    self._start = match.start()
                self._depth += 1
            elif first == 0x7D:
                self._depth = max(0, self._depth - 1)
                if self._depth == 0:
                    frames.append((bytes(buffer[self._cut : at]), bytes(buffer[self._start : at])))
                    self._cut = at
            elif first == 0x5B and self._depth:
                self._depth += 1
            elif first == 0x5D:
                if self._depth:
                    self._depth -= 1
                else:
                    self.ended = True
        self._seen = at
        return frames


def _whole_object(data: bytes) -> bytes:
    """The one object that these bytes of an array are, with what stands before it; empty when they are more or less than that."""
    body = data.lstrip(b"[, \t\r\n")
    if not (body.startswith(b"{") and body.endswith(b"}")):
        return b""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return b""
    return body


def _ends_whole(data: bytes) -> bool:
    """Whether these bytes are exactly one event with one line of data."""
    if not data.startswith(b"data: "):
        return False
    if data.endswith(b"\r\n\r\n"):
        return data.find(b"\n") == len(data) - 3 and data.find(b"\r") == len(data) - 4
    return data.endswith(b"\n\n") and data.find(b"\n") == len(data) - 2 and b"\r" not in data


def data_of(event: bytes) -> bytes:
    """What the `data:` lines of an event say."""
    lines = [line[5:].removeprefix(b" ") for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines)


def load_object(data: bytes) -> dict[str, Any] | None:
    """The object that the bytes are as JSON; None for anything else."""
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if isinstance(fields, list) and fields:  # an error in the form of a list of one
        fields = fields[0]
    return fields if isinstance(fields, dict) else None
