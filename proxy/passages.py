"""How a request passes to a provider and its answer back: as bytes where both speak the same format, through the hub otherwise. Pure."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from proxy.body import Body
from proxy.formats import openai_chat
from proxy.formats.base import Facts, FormatName, Tap, Whole
from proxy.routing import Candidate

# A stream has begun when its first event with data is there.
FIRST_EVENT = re.compile(rb"(?:^|[\r\n])data:.*?(?:\n\n|\r\n\r\n|\r\r)", re.DOTALL)
LARGEST_ANSWER = 32 * 1024 * 1024  # bytes, of an answer in one piece
LARGEST_DATA = 64 * 1024 * 1024  # ten large pictures, or 2,048 vectors of 3,072 numbers in base64


def _nothing() -> None:
    """Nothing is to be done afterwards."""


@dataclass(slots=True)
class Passage:
    """One request made ready for one candidate: the bytes to send, and how to read and show what comes back.

    `dropped` names fields that the provider's format cannot carry and that change nothing much.
    """

    path: str  # behind the provider's base address
    raw: bytes
    make_tap: Callable[[], Tap]
    read_whole: Callable[[bytes], Whole]
    begins: re.Pattern[bytes] = FIRST_EVENT
    headers: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()
    largest: int = LARGEST_ANSWER
    finished: Callable[[], None] = _nothing  # to be called when the answer went well
    booked_first: bool = False  # whether the answer waits until it is charged: it gives the client something to come back for
    # To be awaited before it is charged: what must not be forgotten once it is paid.
    write_down: Callable[[], Awaitable[None]] | None = None


class Surface(Protocol):
    """A format as clients meet it."""

    name: FormatName
    keep_alive: bytes
    bridges: bool  # whether a provider of another format may answer
    is_conversation: bool  # whether its requests may bring back what earlier answers sealed
    model_kind: str

    def read(self, body: Body) -> Facts:
        """The facts of a request. Raises: InvalidRequest."""
        ...

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """Make the request ready for a provider of the same format; `output_limit` (tokens) is set only when it had to be clamped."""
        ...


def no_tap() -> Tap:
    """For what never streams: nothing is fed to it."""
    return openai_chat.ChatTap(wants_usage=False)
