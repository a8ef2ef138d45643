"""How a request passes to a provider and its answer back: as bytes where both speak the same format, through the hub otherwise. Pure."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from proxy.body import Body
from proxy.formats import openai_chat
from proxy.formats.base import Facts, FormatName, Tap, Whole
from proxy.providers.base import path_of
from proxy.providers.registry import DECLARATIONS
from proxy.routing import Candidate

# A stream has begun when its first event with data is there.
FIRST_EVENT = re.compile(rb"(?:^|[\r\n])data:.*?(?:\n\n|\r\n\r\n|\r\r)", re.DOTALL)


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


class Surface(Protocol):
    """A format as clients meet it."""

    name: FormatName
    keep_alive: bytes
    bridges: bool  # whether a provider of another format may answer

    def read(self, body: Body) -> Facts:
        """The facts of a request. Raises: InvalidRequest."""
        ...

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """Make the request ready for a provider of the same format; `output_limit` (tokens) is set only when it had to be clamped."""
        ...


class ChatSurface:
    """OpenAI Chat Completions."""

    name: FormatName = "chat"
    keep_alive = b": keep-alive\n\n"
    bridges = False

    def read(self, body: Body) -> Facts:
        """Raises: InvalidRequest."""
        return openai_chat.read_request(body)

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """The bytes with the declared splices."""
        declaration = DECLARATIONS[candidate.route.provider.kind]
        raw = openai_chat.splice_request(
            body,
            facts,
            upstream_model=candidate.route.upstream_model,
            output_limit=output_limit,
            limit_field=declaration.output_limit_field,
            streams_usage=declaration.streams_usage,
        )
        return Passage(
            path_of("chat", candidate.route.upstream_model, stream=facts.stream),
            raw,
            lambda: openai_chat.ChatTap(wants_usage=facts.wants_usage),
            openai_chat.ChatWhole,
        )


SURFACES: dict[str, Surface] = {surface.name: surface for surface in (ChatSurface(),)}


def plan(surface: Surface, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
    """Make a request ready for a candidate.

    Raises: CannotRender, when the candidate's format cannot carry what the request asks.
    """
    return surface.pass_through(body, facts, candidate, output_limit=output_limit)
