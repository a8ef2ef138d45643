"""The neutral hub: what a request asks and an answer says, in typed items that every format can be parsed into and rendered from.

A flat, ordered list of items with the role on each, because order, signatures and the structure of tool results must survive. Each item
keeps the `raw` JSON it came from and its `origin` format, so that a provider of the same kind gets back what it once said. No I/O.

Each format module offers (see `proxy.formats.base`):

    parse_request(fields) -> Conversation          render_request(conversation, target) -> dict
    parse_answer(fields) -> Answer                 render_answer(answer, echo) -> dict
    StreamParser().feed(bytes) -> list[Event]      StreamRenderer(echo).feed(Event) -> bytes
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from catalog.usage import TokenUsage

Role = Literal["system", "developer", "user", "assistant"]
Origin = Literal["chat", "responses", "messages", "gemini"]


class CannotParse(Exception):
    """The JSON is not of the format; the message names the field. The only exception a parser raises."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class CannotRender(Exception):
    """The target format cannot carry something that changes the meaning (`n`, `logprobs`, a built-in tool); named in `param`."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


# -- Items: what is said ---------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Item:
    """Something said. `raw` is the JSON it was parsed from, in the format `origin`; both empty for what we made ourselves."""

    role: Role
    raw: Any = field(default=None, kw_only=True)
    origin: Origin | None = field(default=None, kw_only=True)
    cache: str | None = field(default=None, kw_only=True)
    """A cache mark behind this item: "5m" or "1h"."""
    id: str = field(default="", kw_only=True)
    """The provider's id of the item, where it has one (Responses)."""
    new_turn: bool = field(default=False, kw_only=True)
    """Whether a message begins here: two messages of one role in a row stay two where the format can hold that."""


@dataclass(slots=True)
class Text(Item):
    """Plain text. `citations` are raw annotations in the format `origin`. `signature` is Gemini's on a text part."""

    text: str = ""
    citations: list[Any] = field(default_factory=list)
    signature: str = ""


@dataclass(slots=True)
class Image(Item):
    """A picture: base64 `data` with its `media_type`, or a `url`, or a provider's `file_id`."""

    media_type: str = ""
    data: str = ""
    url: str = ""
    file_id: str = ""
    detail: str = ""


@dataclass(slots=True)
class File(Item):
    """A document: base64 `data`, plain `text`, a `url` or a `file_id`. Video for Gemini is a File too."""

    media_type: str = ""
    data: str = ""
    text: str = ""
    url: str = ""
    file_id: str = ""
    name: str = ""


@dataclass(slots=True)
class Audio(Item):
    """Sound: base64 `data` of `format` ("wav", "mp3"); in answers with a `transcript` and the provider's `audio_id`."""

    format: str = ""
    data: str = ""
    transcript: str = ""
    audio_id: str = ""


@dataclass(slots=True)
class Seal:
    """Something opaque that a provider wants back unchanged: `kind` signature, redacted or encrypted, of the format `origin`."""

    kind: Literal["signature", "redacted", "encrypted"]
    data: str
    origin: Origin


@dataclass(slots=True)
class Reasoning(Item):
    """Thinking: `text` in full, or `summary` parts, or only seals."""

    text: str = ""
    summary: list[str] = field(default_factory=list)
    seals: list[Seal] = field(default_factory=list)


@dataclass(slots=True)
class ToolCall(Item):
    """The model calls a tool. `arguments` is the JSON text as the model wrote it ("" means {}); for kind custom it is free text."""

    call_id: str = ""
    name: str = ""
    namespace: str = ""
    kind: Literal["function", "custom"] = "function"
    arguments: str = ""
    seals: list[Seal] = field(default_factory=list)


@dataclass(slots=True)
class ToolResult(Item):
    """What a tool gave back (role user): text, image and file items. `name` is the tool's, where the format says it (Gemini)."""

    call_id: str = ""
    name: str = ""
    parts: list["Text | Image | File"] = field(default_factory=list)
    is_error: bool = False
    kind: Literal["function", "custom"] = "function"


@dataclass(slots=True)
class Refusal(Item):
    """The model declines, in words."""

    text: str = ""


@dataclass(slots=True)
class ServerTool(Item):
    """A built-in tool's use or result at the provider; only its own format can carry it (`raw`). It is never a client's tool call."""

    kind: str = ""


@dataclass(slots=True)
class Unknown(Item):
    """Something this version does not know; only its own format can carry it (`raw`)."""


AnyItem = Text | Image | File | Audio | Reasoning | ToolCall | ToolResult | Refusal | ServerTool | Unknown

# -- Requests --------------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ToolDef:
    """A tool offered. kind function: `parameters` is its JSON schema; custom: free text in; builtin: `raw` belongs to `origin` alone."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    kind: Literal["function", "custom", "builtin"] = "function"
    namespace: str = ""
    cache: str | None = None
    raw: Any = None
    origin: Origin | None = None


@dataclass(slots=True)
class ToolChoice:
    """mode auto, none, required, or named (with `name`); `allowed` restricts auto and required to these tools."""

    mode: Literal["auto", "none", "required", "named"]
    name: str = ""
    allowed: list[str] = field(default_factory=list)
    kind: Literal["function", "custom"] = "function"


@dataclass(slots=True)
class OutputFormat:
    """The answer is to be JSON: any object, or one that satisfies `schema`."""

    kind: Literal["json_object", "json_schema"]
    name: str = ""
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str = ""


@dataclass(slots=True)
class Thinking:
    """How much to think: `effort` (none, minimal, low, medium, high, xhigh, max) or a `budget` of tokens; `enabled` False switches it off.

    `summary` asks to show it ("auto", "concise", "detailed"). `adaptive` is Anthropic's own measure.
    """

    effort: str = ""
    budget: int | None = None
    enabled: bool | None = None
    adaptive: bool = False
    summary: str = ""


@dataclass(slots=True)
class Conversation:
    """A request, whatever format it came in. `extra` are top-level fields that only the `origin` format knows (raw JSON)."""

    origin: Origin
    model: str
    items: list[AnyItem]
    stream: bool = False
    tools: list[ToolDef] = field(default_factory=list)
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    max_output: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: list[str] = field(default_factory=list)
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    n: int = 1
    output_format: OutputFormat | None = None
    thinking: Thinking | None = None
    verbosity: str = ""
    user: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    service_tier: str = ""
    cache_key: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Target:
    """What a renderer must know of where a request goes: the upstream's name of the model, the output limit to send, the model's traits.

    `signing` is the format whose seals the target understands (its own, when the conversation's reasoning came from the same provider
    family). `max_output` is always set. `dropped` collects the names of fields that could not be carried and are harmless.
    """

    model: str
    max_output: int
    kind: str = ""  # the provider kind: "anthropic", "google", ...
    capabilities: tuple[str, ...] = ()
    dropped: list[str] = field(default_factory=list)


# -- Answers ---------------------------------------------------------------------------------------------------------------------------


class Stop(StrEnum):
    """Why an answer ended, in the hub's words."""

    END = "stop"
    LENGTH = "length"
    TOOL = "tool"
    FILTER = "filter"
    PAUSE = "pause"
    FAULT = "fault"


@dataclass(slots=True)
class Answer:
    """A whole answer. `stop_text` is the stop sequence that was hit. `usage` None: the provider gave none."""

    id: str
    model: str
    items: list[AnyItem]
    stop: Stop | None
    usage: TokenUsage | None
    created: int = 0
    stop_text: str = ""
    raw_stop: str = ""
    refusal: str = ""
    logprobs: Any = None
    raw: Mapping[str, Any] | None = None
    origin: Origin | None = None


@dataclass(slots=True)
class Echo:
    """What of the request an answer repeats (Responses shows tools and settings again), and the ids and times the gateway gives it."""

    id: str
    created: int
    model: str
    request: Mapping[str, Any] = field(default_factory=dict)
    conversation: Conversation | None = None


# -- Streams ---------------------------------------------------------------------------------------------------------------------------
# start, then for each item: opened, deltas, closed; then usage and stopped; then ended. Items do not overlap.


@dataclass(slots=True)
class Started:
    """The answer begins. `usage` when the format tells the input's tokens first (Messages)."""

    id: str = ""
    model: str = ""
    created: int = 0
    usage: TokenUsage | None = None


@dataclass(slots=True)
class Opened:
    """An item begins; it is complete but for what the deltas add (text, arguments, seals)."""

    index: int
    item: AnyItem


@dataclass(slots=True)
class Delta:
    """More of the open item `index`: `what` is text, reasoning, summary, arguments, refusal, signature (a whole Seal in `seal`) or citation."""

    index: int
    what: Literal["text", "reasoning", "summary", "arguments", "refusal", "signature", "citation", "audio"]
    text: str = ""
    seal: Seal | None = None
    raw: Any = None
    part: int = 0  # which part of the summary this is more of (Responses shows thinking in several)


@dataclass(slots=True)
class Closed:
    """The item is complete; `item` is all of it."""

    index: int
    item: AnyItem


@dataclass(slots=True)
class Metered:
    """The usage so far: it replaces what was said before."""

    usage: TokenUsage


@dataclass(slots=True)
class Stopped:
    """The answer ended for this reason."""

    stop: Stop
    stop_text: str = ""
    raw_stop: str = ""
    refusal: str = ""


@dataclass(slots=True)
class Failed:
    """The provider reported an error in the stream (its raw JSON)."""

    raw: Any


@dataclass(slots=True)
class Pinged:
    """The provider is still there."""


@dataclass(slots=True)
class Ended:
    """The stream's own terminator was seen."""


Event = Started | Opened | Delta | Closed | Metered | Stopped | Failed | Pinged | Ended


def collect(events: "list[Event]") -> Answer:
    """Put a whole stream's events together into the answer they tell."""
    answer = Answer("", "", [], None, None)
    for event in events:
        match event:
            case Started():
                answer.id, answer.model, answer.created = (
                    event.id or answer.id,
                    event.model or answer.model,
                    event.created or answer.created,
                )
                answer.usage = event.usage or answer.usage
            case Closed():
                answer.items.append(event.item)
            case Metered():
                answer.usage = event.usage
            case Stopped():
                answer.stop, answer.stop_text, answer.raw_stop, answer.refusal = event.stop, event.stop_text, event.raw_stop, event.refusal
            case _:
                pass
    return answer


def replay(answer: Answer) -> "list[Event]":
    """The events that tell a whole answer, each item in one delta."""
    events: list[Event] = [Started(answer.id, answer.model, answer.created)]
    for index, item in enumerate(answer.items):
        events += [Opened(index, hollow(item)), *_deltas(index, item), Closed(index, item)]
    if answer.usage is not None:
        events.append(Metered(answer.usage))
    if answer.stop is not None:
        events.append(Stopped(answer.stop, answer.stop_text, answer.raw_stop, answer.refusal))
    events.append(Ended())
    return events


def hollow(item: AnyItem) -> AnyItem:
    """The item as it is before its deltas: what streams (text, arguments, seals) is empty."""
    common: dict[str, Any] = {"raw": item.raw, "origin": item.origin, "id": item.id, "new_turn": item.new_turn}
    match item:
        case Text():
            return Text(item.role, **common)
        case Reasoning():
            return Reasoning(item.role, **common)
        case Refusal():
            return Refusal(item.role, **common)
        case ToolCall():
            return ToolCall(item.role, call_id=item.call_id, name=item.name, namespace=item.namespace, kind=item.kind, **common)
        case _:
            return item


def _deltas(index: int, item: AnyItem) -> "list[Event]":
    match item:
        case Text():
            deltas: list[Event] = [Delta(index, "text", item.text)] if item.text else []
            return deltas + [Delta(index, "citation", raw=citation) for citation in item.citations]
        case Reasoning():
            return [
                *([Delta(index, "reasoning", item.text)] if item.text else []),
                *(Delta(index, "summary", text, part=part) for part, text in enumerate(item.summary)),
                *(Delta(index, "signature", seal=seal) for seal in item.seals),
            ]
        case ToolCall():
            return [
                *([Delta(index, "arguments", item.arguments)] if item.arguments else []),
                *(Delta(index, "signature", seal=seal) for seal in item.seals),
            ]
        case Refusal():
            return [Delta(index, "refusal", item.text)]
        case _:
            return []
