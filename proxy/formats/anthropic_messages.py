"""Anthropic Messages: the format's door (what the rest of the gateway calls) and the pass-through of same-format answers. Pure.

Requests are read in `anthropic_messages_requests` and written in `anthropic_messages_sending`; answers, usage and errors are in
`anthropic_messages_answers`, streams in `anthropic_messages_stream_in` and `_out`, what a model takes in `anthropic_messages_models`.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from catalog.usage import TokenUsage
from proxy.body import Body
from proxy.formats.anthropic_messages_answers import error_frame, parse_answer, read_usage, render_answer, render_error, render_usage
from proxy.formats.anthropic_messages_blocks import NAME, parse_object, printable, string_of, tool_id, write_json
from proxy.formats.anthropic_messages_models import traits_of
from proxy.formats.anthropic_messages_requests import parse_request
from proxy.formats.anthropic_messages_sending import (
    OLD_VERSION,
    VERSION,
    betas_for,
    render_request,
    tool_names,
    uses_json_tool,
    version_for,
)
from proxy.formats.anthropic_messages_stream_in import StreamParser
from proxy.formats.anthropic_messages_stream_out import StreamRenderer
from proxy.formats.base import NotAnAnswer
from proxy.formats.costs import splice_cost
from proxy.formats.openai_chat import read_reported_cost, with_cost
from proxy.formats.searches import is_messages_search
from proxy.sse import Splitter

__all__ = [
    "NAME",
    "OLD_VERSION",
    "VERSION",
    "MessagesTap",
    "MessagesWhole",
    "StreamParser",
    "StreamRenderer",
    "betas_for",
    "error_frame",
    "parse_answer",
    "parse_request",
    "read_answer",
    "read_usage",
    "render_answer",
    "render_error",
    "render_request",
    "render_usage",
    "tool_id",
    "tool_names",
    "traits_of",
    "uses_json_tool",
    "version_for",
]


_SPECIAL = re.compile(rb'"(?:message_start|message_delta|message_stop|error)"')
_SEARCHED = b'"web_search_tool_result"'
_OUTPUT = re.compile(rb'"(?:text|thinking|partial_json)"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')


class MessagesWhole:
    """A whole answer, passed through as it came; with `adds_cost` its `usage` is put in anew, with the cost."""

    __slots__ = ("_adds_cost", "_body", "_usage", "finish_reason", "output_bytes", "reported_cost", "usage", "web_searches")

    def __init__(self, raw: bytes, *, adds_cost: bool = False) -> None:
        """Read the answer.

        Raises: NotAnAnswer.
        """
        try:
            fields = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise NotAnAnswer("not JSON") from error
        if not isinstance(fields, dict) or fields.get("type") == "error" or not isinstance(fields.get("content"), list):
            raise NotAnAnswer("no content")
        usage = fields.get("usage")
        self._adds_cost = adds_cost
        self._body = Body(raw, fields)
        self._usage = usage if isinstance(usage, dict) and usage else None
        self.usage = read_usage(self._usage)
        self.reported_cost = read_reported_cost(self._usage)
        self.finish_reason = printable(string_of(fields, "stop_reason"))
        self.output_bytes = sum(_size(block) for block in fields["content"] if isinstance(block, dict))
        self.web_searches = sum(map(is_messages_search, fields["content"]))

    def render(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:
        """The answer as received (costs in nano-USD)."""
        if not self._adds_cost:
            return self._body.raw
        if self._usage is None:
            return self._body.splice({"usage": with_cost(render_usage(estimate), cost=cost, upstream_cost=upstream_cost)})
        return splice_cost(self._body.raw, self._usage, cost=cost, upstream_cost=upstream_cost)


def read_answer(raw: bytes, *, adds_cost: bool = False) -> MessagesWhole:
    """Read a whole answer that passes through.

    Raises: NotAnAnswer.
    """
    return MessagesWhole(raw, adds_cost=adds_cost)


def _size(block: Mapping[str, Any]) -> int:
    size = sum(len(string_of(block, name).encode(errors="surrogatepass")) for name in ("text", "thinking"))
    given = block.get("input")
    return size + (len(write_json(given)) if given else 0)


class MessagesTap:
    """Watches a stream go by: forwards whole events as received, remembers usage, stop reason and how much there was.

    `usage` is known only when the provider has told its final count; `input_usage` is what message_start said, good for the input alone.
    With `adds_cost` the end is held back until `finish` puts the cost into it; without, every byte passes as it came.
    """

    __slots__ = (
        "_adds_cost",
        "_answered",
        "_held",
        "_splitter",
        "_usage",
        "done",
        "error",
        "finish_reason",
        "input_usage",
        "output_bytes",
        "reported_cost",
        "usage",
        "web_searches",
    )

    def __init__(self, *, adds_cost: bool = False) -> None:
        self._splitter = Splitter()
        self._adds_cost = adds_cost
        self._held: list[bytes] = []
        self._usage: dict[str, Any] = {}
        self._answered = False
        self.usage: TokenUsage | None = None
        self.input_usage: TokenUsage | None = None
        self.reported_cost: int | None = None
        self.finish_reason = ""
        self.output_bytes = 0
        self.web_searches = 0
        self.done = False
        self.error: Any = None

    @property
    def has_output(self) -> bool:
        """Whether anything was delivered that a client would call an answer."""
        return self._answered or self.output_bytes > 0 or bool(self.finish_reason)

    def feed(self, data: bytes) -> bytes:
        """Take what one read returned; returns what to forward now (whole events).

        Raises: proxy.sse.EventTooLarge.
        """
        block = self._splitter.feed(data)
        if not block:
            return b""
        if _SPECIAL.search(block) is None and not self._held:
            self._watch(block)
            return block
        forward = []
        for event in self._splitter.events(block):
            if self._take(event):
                forward.append(event)
            elif self.error is not None:
                break
            else:
                self._held.append(event)
        return b"".join(forward)

    def flush(self) -> bytes:
        """Take the provider's end: an event that only lacks its last boundary counts; half an event does not."""
        if parse_object(self._splitter.data_of(self._splitter.rest)) is None:
            return b""
        return self.feed(b"\n\n")

    def finish(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:  # noqa: ARG002 - the provider always counts
        """What to send last: what was held back, with the cost (nano-USD) in it, and the end where only that is missing."""
        tail = b"".join(self._with_cost(event, cost=cost, upstream_cost=upstream_cost) for event in self._held)
        self._held = []
        return tail if self.done else tail + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    def fail(self, error: Mapping[str, Any], *, ran_out: bool) -> bytes:  # noqa: ARG002 - the error says so itself
        """What to send last when the stream failed after it began: the error, which the SDKs raise, never an invented clean end."""
        self._held = []
        return error_frame(error)

    def _watch(self, block: bytes) -> None:
        for text in _OUTPUT.findall(block):
            self.output_bytes += len(text)
        if not self._answered and b'"tool_use"' in block:
            self._answered = True
        if _SEARCHED in block:
            self._count_searches(block)

    def _count_searches(self, block: bytes) -> None:
        for event in self._splitter.events(block):
            fields = parse_object(self._splitter.data_of(event)) if _SEARCHED in event else None
            if fields is not None and fields.get("type") == "content_block_start":
                self.web_searches += is_messages_search(fields.get("content_block"))

    def _take(self, event: bytes) -> bool:
        """Note what an event says; whether it is to be forwarded now."""
        fields = parse_object(self._splitter.data_of(event)) if _SPECIAL.search(event) is not None else None
        kind = fields.get("type") if fields is not None else None
        if fields is None or kind not in ("message_start", "message_delta", "message_stop", "error"):
            if fields is not None and kind is None and fields.get("error"):
                self.error = fields["error"]
                return False
            self._watch(event)
            return not self._held
        if kind == "error":
            self.error = fields.get("error") or fields
            return False
        if kind == "message_stop":
            self.done = True
            return not self._held
        if kind == "message_start":
            message = fields.get("message")
            self._note(message.get("usage") if isinstance(message, dict) else None)
            self.input_usage = read_usage(self._usage)
            return not self._held
        self._note(fields.get("usage"))
        self.usage = read_usage(self._usage)
        self.reported_cost = read_reported_cost(self._usage)
        delta = fields.get("delta")
        if isinstance(delta, dict) and isinstance(delta.get("stop_reason"), str):
            self.finish_reason = printable(delta["stop_reason"])
        return not self._adds_cost

    def _note(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._usage.update((name, value) for name, value in usage.items() if value is not None)

    def _with_cost(self, event: bytes, *, cost: int, upstream_cost: int) -> bytes:
        data = self._splitter.data_of(event)
        fields = parse_object(data)
        if fields is None or fields.get("type") != "message_delta" or not isinstance(fields.get("usage"), dict) or b"\n" in data:
            return event
        return splice_cost(event, fields["usage"], cost=cost, upstream_cost=upstream_cost)
