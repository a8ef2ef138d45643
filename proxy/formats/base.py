"""What a format offers to the relay: how to read a request's facts, how to pass its answers through, and how to bridge to and from the hub."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from catalog.usage import TokenUsage
from proxy.formats.conversation import Answer, Conversation, Echo, Event, Target

FormatName = Literal["chat", "responses", "messages", "gemini", "completions", "embeddings", "images"]
BYTES_PER_TOKEN = 4  # for estimates; bounds count a token a byte


class InvalidRequest(Exception):
    """A field of the request is missing or out of bounds."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class NotAnAnswer(Exception):
    """The body is not an answer of the format."""


@dataclass(slots=True)
class Facts:
    """What the gateway needs to know of a request, whatever its format. Tokens: `input_bound` can not be exceeded, `input_estimate` is likely.

    `output_limit` is the client's own for one choice; None when it gave none. `prompts` are read apart from each other: the model's context is
    the limit of each. `images` is how many pictures may come, `web_searches` how
    many searches the provider may run itself. `wants_sse` is false for Gemini's streams that are a JSON array.
    """

    model: str
    stream: bool
    wants_usage: bool
    choices: int
    output_limit: int | None
    input_bound: int
    input_estimate: int
    user_tag: str = ""
    prompts: int = 1
    images: int = 0
    web_searches: int = 0
    wants_sse: bool = True
    client_headers: Sequence[tuple[bytes, bytes]] = ()


class Whole(Protocol):
    """An answer in one piece, in the client's format."""

    usage: TokenUsage | None
    reported_cost: int | None  # nano-USD, where the provider says what the request cost
    finish_reason: str
    output_bytes: int
    web_searches: int  # seen in it: what counts when the provider does not say it

    def render(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:
        """The bytes to send, with the cost (nano-USD) where the format shows it."""
        ...


class Tap(Protocol):
    """Watches a stream go by, passing it through or translating it; whole events in the client's format come out."""

    finish_reason: str
    output_bytes: int
    web_searches: int  # seen so far: what counts when the provider does not come to say it
    done: bool
    error: Any

    @property
    def usage(self) -> TokenUsage | None:
        """What the provider said so far of the tokens."""
        ...

    @property
    def reported_cost(self) -> int | None:
        """What the provider says the request cost, in nano-USD."""
        ...

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
