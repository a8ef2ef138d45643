"""Owns one event of a streamed answer: its bytes as SSE has them, and the part it plays, so that faults can leave parts out."""

import json
from enum import Enum
from typing import Any, NamedTuple


class Part(Enum):
    OPEN = "open"
    CONTENT = "content"
    FINISH = "finish"
    USAGE = "usage"
    DONE = "done"


class Event(NamedTuple):
    part: Part
    data: bytes


def dump(value: Any) -> bytes:
    """Write JSON compactly, with NaN allowed and text as UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def event(part: Part, value: Any, name: str = "") -> Event:
    """Write one SSE event; `name` gives it an `event:` line."""
    return Event(part, (b"event: %b\n" % name.encode() if name else b"") + b"data: " + dump(value) + b"\n\n")
