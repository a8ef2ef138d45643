"""OpenAI Responses passed through: answers go to the client byte for byte but for the cost, and what the gateway must know is read on the side. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from catalog.usage import TokenUsage
from proxy.formats.base import NotAnAnswer
from proxy.formats.costs import splice_cost
from proxy.formats.openai_chat import read_reported_cost
from proxy.formats.openai_responses_items import dicts_of, mapping_of, text_of
from proxy.formats.openai_responses_output import read_usage
from proxy.formats.openai_responses_stream_in import TERMINAL, data_of
from proxy.formats.openai_responses_stream_out import failure_of
from proxy.formats.searches import is_response_search
from proxy.sse import Splitter

_SPECIAL = re.compile(rb'"type"\s*:\s*"(?:response\.(?:completed|incomplete|failed)|error)"|"error"\s*:\s*[{"]|\[DONE\]')
_DELTA = re.compile(rb'"delta"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_CREATED = re.compile(rb'"type"\s*:\s*"response\.created"')
_SEQUENCE = re.compile(rb'"sequence_number"\s*:\s*(\d{1,15})')


class ResponsesTap:
    """Watches a stream go by: forwards whole events as received, remembers usage, how it ended and how much text there was.

    The last event is held back until `finish`, so that what the gateway writes down is written before the client knows that all is well.
    """

    __slots__ = (
        "_created",
        "_forwarded",
        "_last",
        "_splitter",
        "_usage",
        "_usage_json",
        "done",
        "error",
        "finish_reason",
        "output_bytes",
        "web_searches",
    )

    def __init__(self) -> None:
        self._splitter = Splitter()
        self._created = b""  # the event that began the response
        self._last = b""  # the event that ends it
        self._forwarded = b""  # what went to the client last
        self._usage: TokenUsage | None = None
        self._usage_json: Mapping[str, Any] | None = None
        self.finish_reason = ""
        self.output_bytes = 0
        self.web_searches = 0
        self.done = False
        self.error: Any = None

    @property
    def usage(self) -> TokenUsage | None:
        """What the provider said of the tokens."""
        return self._usage

    @property
    def reported_cost(self) -> int | None:
        """What the provider says the request cost, in nano-USD."""
        return read_reported_cost(self._usage_json)

    @property
    def has_output(self) -> bool:
        """Whether anything was delivered that a client would call an answer."""
        return self.output_bytes > 0 or bool(self.finish_reason)

    def feed(self, data: bytes) -> bytes:
        """Take what one read returned; returns what to forward now (whole events).

        Raises: proxy.sse.EventTooLarge.
        """
        block = self._splitter.feed(data)
        if not block or self.done or self.error is not None:
            return b""
        if not self._created and _CREATED.search(block):
            self._created = next((event for event in self._splitter.events(block) if _CREATED.search(event)), b"")
        if _SPECIAL.search(block) is None:
            self._watch(block)
            return block
        forward = []
        for event in self._splitter.events(block):
            if _SPECIAL.search(event) is not None and self._ends(event):
                break
            self._watch(event)
            forward.append(event)
        return b"".join(forward)

    def flush(self) -> bytes:
        """Take the provider's end: an event that only lacks its last boundary counts; half an event does not."""
        data = data_of(self._splitter.rest)
        try:
            orjson.loads(data)
        except orjson.JSONDecodeError:
            return b""
        return self.feed(b"\n\n")

    def finish(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:  # noqa: ARG002 - the provider always counts
        """What to send last when all went well: the provider's own last event, with the cost (nano-USD) in its usage."""
        return splice_cost(self._last, self._usage_json or {}, cost=cost, upstream_cost=upstream_cost)

    def fail(self, error: Mapping[str, Any], *, ran_out: bool) -> bytes:
        """What to send last when the stream failed after it began: `response.failed`, never an invented clean end.

        With `ran_out` (nothing more could be held) it says as well that the answer ends for its length.
        """
        created = _fields_of(self._created)
        response = {
            "id": "",
            "object": "response",
            "output": [],
            **mapping_of(created.get("response")),
            "status": "failed",
            "error": failure_of(error),
            "incomplete_details": {"reason": "max_output_tokens"} if ran_out else None,
        }
        body = {"type": "response.failed", "sequence_number": self._next_sequence(), "response": response}
        return b"event: response.failed\ndata: " + orjson.dumps(body) + b"\n\n"

    def _watch(self, block: bytes) -> None:
        self._forwarded = block
        for text in _DELTA.findall(block):
            self.output_bytes += len(text)
        if b"web_search_call" in block:
            self._count_searches(block)

    def _count_searches(self, block: bytes) -> None:
        for event in self._splitter.events(block):
            if b"web_search_call" in event and b"response.output_item.done" in event:
                fields = _fields_of(event)
                self.web_searches += fields.get("type") == "response.output_item.done" and is_response_search(fields.get("item"))

    def _ends(self, event: bytes) -> bool:
        """Take an event that may be the last; whether it is."""
        data = data_of(event)
        if data == b"[DONE]":
            return True
        fields = _fields_of(event)
        kind, response = fields.get("type"), mapping_of(fields.get("response"))
        if kind == "error" or (kind is None and fields.get("error")):
            self.error = fields.get("error") or {name: value for name, value in fields.items() if name != "sequence_number"}
            return True
        if not isinstance(kind, str) or kind not in TERMINAL:
            return False
        self._take_usage(response)
        if kind == "response.failed":
            self.error = response.get("error") or {"message": "The response failed."}
            return True
        reason = text_of(mapping_of(response.get("incomplete_details")).get("reason"))
        self.finish_reason = "".join(filter(str.isprintable, reason))[:40] or text_of(kind).removeprefix("response.")
        if not self.output_bytes:  # told in no delta
            self.output_bytes = count_output(response)
        self._last = event
        self.done = True
        return True

    def _take_usage(self, response: Mapping[str, Any]) -> None:
        usage = response.get("usage")
        found = read_usage(usage, response.get("output"))
        if found is not None:
            self._usage, self._usage_json = found, usage

    def _next_sequence(self) -> int:
        seen = _SEQUENCE.findall(self._forwarded)
        return int(seen[-1]) + 1 if seen else 0


def count_output(response: Mapping[str, Any]) -> int:
    """How many bytes of text, thinking and arguments an answer holds."""
    size = 0
    for entry in dicts_of(response.get("output")):
        for name in ("arguments", "input"):
            size += len(text_of(entry.get(name)).encode(errors="replace"))
        for part in dicts_of(entry.get("content")) + dicts_of(entry.get("summary")):
            size += len((text_of(part.get("text")) or text_of(part.get("refusal"))).encode(errors="replace"))
    return size


def _fields_of(event: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(data_of(event))
    except orjson.JSONDecodeError:
        return {}
    return fields if isinstance(fields, dict) else {}


@dataclass(slots=True)
class ResponsesAnswer:
    """A whole answer of a provider of this format: it goes to the client as it came, but for the cost in its usage."""

    raw: bytes
    fields: Mapping[str, Any]
    usage: TokenUsage | None
    reported_cost: int | None
    finish_reason: str
    output_bytes: int
    web_searches: int

    def render(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:  # noqa: ARG002 - the provider always counts
        """The bytes to send."""
        return splice_cost(self.raw, mapping_of(self.fields.get("usage")), cost=cost, upstream_cost=upstream_cost)


def read_answer(raw: bytes) -> ResponsesAnswer:
    """Read a whole answer.

    Raises: NotAnAnswer.
    """
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise NotAnAnswer("not JSON") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("output"), list) or fields.get("error"):
        raise NotAnAnswer("no output")
    usage = fields.get("usage")
    reason = text_of(mapping_of(fields.get("incomplete_details")).get("reason")) or text_of(fields.get("status"))
    return ResponsesAnswer(
        raw=raw,
        fields=fields,
        usage=read_usage(usage, fields["output"]),
        reported_cost=read_reported_cost(usage) if isinstance(usage, dict) else None,
        finish_reason="".join(filter(str.isprintable, reason))[:40],
        output_bytes=count_output(fields),
        web_searches=sum(map(is_response_search, fields["output"])),
    )
