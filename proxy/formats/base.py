"""What a format offers to the relay: how to read a request's facts, how to pass its answers through, and how to bridge to and from the hub."""

from collections.abc import Mapping
from typing import Any, Protocol

from catalog.usage import TokenUsage
from proxy.formats.conversation import Answer, Conversation, Echo, Event, Target


class Tap(Protocol):
    """Watches a stream go by, passing it through or translating it; whole events in the client's format come out.

    `usage_json` is the provider's own usage object when the format passes through (it may gain a cost), None when bridged.
    """

    usage: TokenUsage | None
    reported_cost: int | None  # nano-USD, where the provider says what the request cost
    finish_reason: str
    output_bytes: int
    done: bool
    error: Any

    @property
    def has_output(self) -> bool:
        """Whether anything was delivered that a client would call an answer."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Take what one read returned; returns what to forward now. Raises: proxy.sse.EventTooLarge."""
        ...

    def flush(self) -> bytes:
        """Take the provider's end of the stream."""
        ...

    def finish(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:
        """What to send last when all went well; `estimate` is our own count where the provider gave none. Costs in nano-USD."""
        ...

    def fail(self, error: Mapping[str, Any], *, ran_out: bool) -> bytes:
        """What to send last when the stream failed after it began, in the client's format."""
        ...


class StreamParser(Protocol):
    """Turns a provider's stream into events, whatever the reads were. One per answer."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now. Never raises anything but proxy.sse.EventTooLarge."""
        ...

    def finish(self) -> list[Event]:
        """The events that the end of the connection completes."""
        ...


class StreamRenderer(Protocol):
    """Turns events into a client's stream. One per answer."""

    def feed(self, event: Event) -> bytes:
        """The bytes to send for one event; empty where the format has nothing to say."""
        ...


class Format(Protocol):
    """The pure functions of a format's module."""

    NAME: str

    def parse_request(self, fields: Mapping[str, Any]) -> Conversation: ...

    def render_request(self, conversation: Conversation, target: Target) -> dict[str, Any]: ...

    def parse_answer(self, fields: Mapping[str, Any]) -> Answer: ...

    def render_answer(self, answer: Answer, echo: Echo) -> dict[str, Any]: ...
