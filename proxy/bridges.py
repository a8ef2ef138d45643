"""Answers that change their format on the way: events of the provider's format in, the client's format out. No I/O."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson

from catalog.usage import TokenUsage
from proxy.formats.base import NotAnAnswer, StreamParser
from proxy.formats.conversation import (
    Answer,
    AnyItem,
    CannotParse,
    Closed,
    Delta,
    Echo,
    Ended,
    Event,
    Failed,
    Metered,
    Opened,
    Pinged,
    Reasoning,
    Refusal,
    ServerTool,
    Started,
    Stop,
    Stopped,
    Text,
    ToolCall,
)
from proxy.formats.costs import cost_fields
from proxy.formats.searches import is_messages_search, is_response_search


class Renderer(Protocol):
    """A format's renderer of streams towards a client."""

    def feed(self, event: Event) -> bytes:
        """The bytes for one event."""
        ...

    def fail(self, error: Mapping[str, Any]) -> bytes:
        """The error frame of the format."""
        ...


Wrap = Callable[[Event], Event]
Check = Callable[[bytes], None]


class BridgeTap:
    """A stream on its way through the hub. The end (usage, stop, terminator) is held back until the request is settled, so that it is true.

    `check`, where there is one, is given the whole stream as it was told to the client, once it has ended.
    """

    __slots__ = (
        "_check",
        "_parser",
        "_renderer",
        "_stopped",
        "_told",
        "_wrap",
        "done",
        "error",
        "finish_reason",
        "output_bytes",
        "reported_cost",
        "usage",
        "web_searches",
    )

    def __init__(self, parser: StreamParser, renderer: Renderer, *, wrap: Wrap, check: Check | None = None) -> None:
        self._check = check
        self._told = bytearray()  # only where there is a check
        self._parser = parser
        self._renderer = renderer
        self._wrap = wrap
        self._stopped: Stopped | None = None
        self.usage: TokenUsage | None = None
        self.reported_cost: int | None = None
        self.finish_reason = ""
        self.output_bytes = 0
        self.web_searches = 0
        self.done = False
        self.error: Any = None

    @property
    def has_output(self) -> bool:
        """Whether anything was delivered that a client would call an answer."""
        return self.output_bytes > 0 or bool(self.finish_reason)

    def feed(self, data: bytes) -> bytes:
        """Translate what is complete. Raises: proxy.sse.EventTooLarge."""
        return self._take(self._parser.feed(data))

    def flush(self) -> bytes:
        """Translate what the end of the connection completes."""
        return self._take(self._parser.finish())

    def finish(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:
        """The usage, the reason and the terminator of the client's format."""
        show_cost(self._renderer, cost=cost, upstream_cost=upstream_cost)
        stopped = self._stopped or Stopped(Stop.END)
        return self._checked(
            b"".join(self._renderer.feed(event) for event in (Metered(believable(self.usage, estimate)), stopped, Ended()))
        )

    def fail(self, error: Mapping[str, Any], *, ran_out: bool) -> bytes:
        """The error frame; with `ran_out` the answer first ends for its length."""
        tail = self._renderer.feed(Stopped(Stop.LENGTH)) if ran_out else b""
        return self._checked(tail + self._renderer.fail(error))

    def _checked(self, last: bytes) -> bytes:
        check, self._check = self._check, None
        if check is not None:
            check(bytes(self._told) + last)
        return last

    def _take(self, events: list[Event]) -> bytes:
        out = []
        for event in events:
            match event:
                case Delta():
                    self.output_bytes += len(event.text) if event.text.isascii() else len(event.text.encode())
                    out.append(self._renderer.feed(self._wrap(event)))
                case Metered():
                    self.usage = event.usage
                case Stopped(stop=Stop.FAULT):
                    self.error = {"message": event.raw_stop}
                    break
                case Stopped():
                    self._stopped = event
                    self.finish_reason = event.raw_stop or event.stop.value
                case Failed():
                    self.error = event.raw
                    break
                case Ended():
                    self.done = True
                    break
                case Started():  # what it says of tokens is only the input and the first of the output: no usage to bill by
                    out.append(self._renderer.feed(event))
                case Opened() | Closed():
                    self.web_searches += isinstance(event, Closed) and _is_search(event.item)
                    out.append(self._renderer.feed(self._wrap(event)))
                case Pinged():
                    pass  # keep-alives are the gateway's own
        told = b"".join(out)
        if self._check is not None:
            self._told += told
        return told


class BridgeWhole:
    """An answer in one piece on its way through the hub."""

    __slots__ = ("_answer", "_echo", "_render", "finish_reason", "output_bytes", "reported_cost", "usage", "web_searches")

    def __init__(
        self,
        raw: bytes,
        *,
        parse: Callable[[Mapping[str, Any]], Answer],
        render: Callable[[Answer, Echo], dict[str, Any]],
        echo: Echo,
        wrap: Callable[[Answer], Answer],
    ) -> None:
        """Read the provider's answer.

        Raises: NotAnAnswer.
        """
        try:
            fields = orjson.loads(raw)
            if not isinstance(fields, dict):
                raise NotAnAnswer("not an object")
            answer = parse(fields)
        except (orjson.JSONDecodeError, CannotParse) as error:
            raise NotAnAnswer(str(error)) from error
        if answer.stop is Stop.FAULT:
            raise NotAnAnswer(f"the model failed: {answer.raw_stop}")
        self._answer = wrap(answer)
        self._echo = echo
        self._render = render
        self.usage = answer.usage
        self.reported_cost: int | None = None
        self.finish_reason = answer.raw_stop or (answer.stop.value if answer.stop is not None else "")
        self.output_bytes = sum(_size(item) for item in answer.items)
        self.web_searches = sum(map(_is_search, answer.items))

    def render(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:
        """The answer in the client's format."""
        self._answer.usage = believable(self._answer.usage, estimate)
        fields = self._render(self._answer, self._echo)
        usage = fields.get("usage")
        if isinstance(usage, dict):
            usage.update(cost_fields(cost=cost, upstream_cost=upstream_cost))
        return orjson.dumps(fields)


def _is_search(item: AnyItem) -> bool:
    return isinstance(item, ServerTool) and (is_response_search(item.raw) or is_messages_search(item.raw))


def believable(reported: TokenUsage | None, estimate: TokenUsage) -> TokenUsage:
    """What the client is shown: the provider's count, or ours where it gave none or nonsense."""
    return reported if reported is not None and reported.is_sane() else estimate


def show_cost(renderer: Renderer, *, cost: int, upstream_cost: int) -> None:
    """Tell a renderer whose format shows a cost (its `usage_extra`) what it is."""
    if hasattr(renderer, "usage_extra"):
        renderer.usage_extra = cost_fields(cost=cost, upstream_cost=upstream_cost)


def _size(item: Any) -> int:
    match item:
        case Text() | Refusal():
            return len(item.text)
        case Reasoning():
            return len(item.text) + sum(map(len, item.summary))
        case ToolCall():
            return len(item.name) + len(item.arguments)
    return 0
