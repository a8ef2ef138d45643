"""OpenAI Chat Completions: what a request asks for, and what an answer (whole or streamed) used. Pure.

Same-format calls pass through as bytes. The request's declared splices are the model name, `stream_options.include_usage` and a clamped output
limit; the answer's are `usage` (which gains `cost`) and the usage chunk, added or hidden as the client asked.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from catalog import money
from catalog.usage import TokenUsage
from proxy.body import Body
from proxy.formats import searches
from proxy.formats.base import BYTES_PER_TOKEN, Facts, InvalidRequest, NotAnAnswer
from proxy.formats.fields import read_count, read_flag, read_messages, read_model, read_object, read_user_tag
from proxy.formats.usage_reading import Doubts, UnreadableCount, take_count
from proxy.sse import Splitter

NAME: Final = "chat"
MOST_MESSAGES = 2048
MOST_CHOICES = 128
MOST_OUTPUT = 10_000_000
TOKENS_PER_MESSAGE = 8  # roles and separators, and a little more
TOKENS_PER_MEDIUM = 3000  # an image or file given by reference costs tokens that its few bytes do not show
LIMIT_FIELDS = ("max_completion_tokens", "max_tokens")

_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_ERROR = re.compile(rb'"error"\s*:\s*[{"]')
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"([^"\\]{1,40})"')
_ID = re.compile(rb'"id"\s*:\s*"[^"]')
_DELTA = re.compile(rb'"(?:content|reasoning_content|reasoning|arguments|refusal|name)"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_DONE = b"data: [DONE]\n\n"


def read_request(body: Body) -> Facts:
    """Read and check a request.

    Raises: InvalidRequest.
    """
    fields = body.fields
    model = read_model(fields)
    messages = read_messages(fields)
    if len(messages) > MOST_MESSAGES:
        raise InvalidRequest(f"At most {MOST_MESSAGES} messages fit in one request.", param="messages")
    stream = read_flag(fields, "stream")
    options = read_object(fields, "stream_options")
    wants_usage = options.get("include_usage", False)
    if not isinstance(wants_usage, bool):
        raise InvalidRequest("The field 'stream_options.include_usage' must be true or false.", param="stream_options")
    choices = read_count(fields, "n", most=MOST_CHOICES) or 1
    limits = [limit for name in LIMIT_FIELDS if (limit := read_count(fields, name, most=MOST_OUTPUT)) is not None]
    media = sum(_count_media(message.get("content")) for message in messages)
    overhead = TOKENS_PER_MESSAGE * len(messages) + TOKENS_PER_MEDIUM * media
    return Facts(
        model=model,
        stream=stream,
        wants_usage=stream and wants_usage,
        choices=choices,
        output_limit=max(limits) if limits else None,  # given both, the provider may take either
        input_bound=len(body.raw) + overhead,
        input_estimate=_estimate_input(messages, fields) + overhead,
        user_tag=read_user_tag(fields),
        web_searches=searches.asked_of_chat(fields),
    )


def splice_request(
    body: Body, request: Facts, *, upstream_model: str, output_limit: int | None, limit_field: str, streams_usage: bool
) -> bytes:
    """The bytes to send upstream. `output_limit` (tokens) is set only when it had to be clamped."""
    edits: dict[str, bytes] = {}
    if body.fields.get("model") != upstream_model:
        edits["model"] = orjson.dumps(upstream_model)
    if request.stream and streams_usage and not request.wants_usage:
        edits["stream_options"] = orjson.dumps({**(body.fields.get("stream_options") or {}), "include_usage": True})
    if output_limit is not None:
        given = [name for name in LIMIT_FIELDS if body.fields.get(name) is not None]
        edits.update(dict.fromkeys(given or [limit_field], str(output_limit).encode()))
    return body.splice(edits) if edits else body.raw


_TOOL_COUNTS = ("num_sources_used", "num_server_side_tools_used")  # xAI's


def read_usage(usage: Mapping[str, Any] | None) -> TokenUsage | None:
    """Turn a provider's `usage` into disjoint buckets; None when there is none. What it breaks is among its doubts.

    Providers disagree on what contains what; the total tells (all seen in recorded traffic): reasoning outside the completion (xAI: total =
    prompt + completion + reasoning), cached outside the prompt (Grok on Azure: cached > prompt), thoughts only in the total (Gemini's
    OpenAI endpoint: total > prompt + completion), audio only in total and details (Mistral).
    """
    if not usage:
        return None
    if usage.get("prompt_tokens") is None and usage.get("completion_tokens") is None:
        return None
    details_in = _mapping(usage.get("prompt_tokens_details"))
    details_out = _mapping(usage.get("completion_tokens_details"))
    doubts = Doubts()
    try:
        prompt = take_count(usage.get("prompt_tokens"))
        completion = take_count(usage.get("completion_tokens"))
        total = take_count(usage.get("total_tokens"), default=prompt + completion)
        cached = (
            take_count(details_in.get("cached_tokens"))
            or take_count(usage.get("prompt_cache_hit_tokens"))  # DeepSeek
            or take_count(usage.get("cached_tokens"))  # Moonshot
            or take_count(usage.get("num_cached_tokens"))  # Mistral
        )
        written = take_count(details_in.get("cache_write_tokens"))
        audio_in = take_count(details_in.get("audio_tokens"))
        reasoning = take_count(details_out.get("reasoning_tokens"))
        audio_out = take_count(details_out.get("audio_tokens"))
        searched = (
            take_count(_mapping(usage.get("server_tool_use_details")).get("web_search_requests"))  # OpenRouter
            or take_count(_mapping(usage.get("server_tool_use")).get("web_search_requests"))  # as Anthropic says it
            or take_count(usage.get("num_search_queries"))  # Perplexity
            or count_tool_calls(usage, doubts)
        )
    except UnreadableCount as error:
        return error.usage
    beyond = total - prompt - completion
    if beyond > 0 and beyond == reasoning:
        completion += reasoning
    elif beyond > 0 and beyond == audio_in:
        prompt += audio_in
    elif beyond > 0 and reasoning == 0:
        reasoning = beyond
        completion += beyond
    doubts.expect("usage_total_mismatch", holds=total == prompt + completion)
    doubts.expect("usage_audio_beyond_input", holds=audio_in <= prompt)
    doubts.expect("usage_audio_beyond_output", holds=audio_out <= completion)
    doubts.expect("usage_reasoning_beyond_output", holds=reasoning <= completion)
    doubts.expect("usage_cache_write_beyond_input", holds=written <= prompt)
    if cached > prompt:
        doubts.note("usage_cached_beyond_input")
        prompt += cached
    if not searched and any(usage.get(name) for name in _TOOL_COUNTS):
        doubts.note("builtin_tools_unmetered")
    audio_in = min(audio_in, prompt - cached)  # what was heard may be what was cached: each token is in one bucket
    written = min(written, prompt - cached - audio_in)
    audio_out = min(audio_out, completion)
    reasoning = min(reasoning, completion - audio_out)
    return TokenUsage(
        input_tokens=prompt - cached - written - audio_in,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        audio_input_tokens=audio_in,
        output_tokens=completion - reasoning - audio_out,
        reasoning_tokens=reasoning,
        audio_output_tokens=audio_out,
        web_searches=searched,
        doubts=doubts.found,
    )


def count_tool_calls(usage: Mapping[str, Any], doubts: Doubts) -> int:
    """How many searches xAI counts among the calls of its own tools; any other tool that is billed apart is noted. Raises: UnreadableCount."""
    calls = _mapping(usage.get("server_side_tool_usage_details"))
    if any(calls.get(name) for name in _OTHER_CALLS):
        doubts.note("builtin_tools_unmetered")
    return take_count(calls.get("web_search_calls")) + take_count(calls.get("x_search_calls"))


_OTHER_CALLS = ("code_interpreter_calls", "file_search_calls", "document_search_calls", "image_generation_calls")


def read_reported_cost(usage: Mapping[str, Any] | None) -> int | None:
    """What the provider itself says the request cost, in nano-USD (OpenRouter's `cost` in dollars, xAI's ticks of 10^-10 dollars)."""
    if not usage:
        return None
    ticks = usage.get("cost_in_usd_ticks")
    if isinstance(ticks, int) and not isinstance(ticks, bool) and 0 <= ticks <= money.LARGEST:
        return -(-ticks // 10)
    cost = usage.get("cost")
    if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost < 1_000_000:
        return round(cost * money.NANO_PER_USD)
    return None


def render_usage(usage: TokenUsage) -> dict[str, Any]:
    """Our own count in the provider's words, for answers whose provider gave none."""
    return {
        "prompt_tokens": usage.total_input_tokens,
        "completion_tokens": usage.total_output_tokens,
        "total_tokens": usage.total_input_tokens + usage.total_output_tokens,
    }


def with_cost(usage: Mapping[str, Any], *, cost: int, upstream_cost: int) -> bytes:
    """The `usage` object with `cost` and `cost_details` as OpenRouter has them (dollars)."""
    return orjson.dumps(
        {**usage, "cost": cost / money.NANO_PER_USD, "cost_details": {"upstream_inference_cost": upstream_cost / money.NANO_PER_USD}}
    )


class ChatWhole:
    """A whole answer, passed through: only its `usage` is put in anew, with the cost."""

    __slots__ = ("_body", "_usage", "finish_reason", "output_bytes", "reported_cost", "usage")
    web_searches = 0  # the format tells of none but in its usage

    def __init__(self, raw: bytes) -> None:
        """Read the answer.

        Raises: NotAnAnswer.
        """
        try:
            fields = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise NotAnAnswer("not JSON") from error
        if not isinstance(fields, dict) or not isinstance(fields.get("choices"), list) or fields.get("error"):
            raise NotAnAnswer("no choices")
        choices = [choice for choice in fields["choices"] if isinstance(choice, dict)]
        usage = fields.get("usage")
        self._body = Body(raw, fields)
        self._usage = usage if isinstance(usage, dict) and usage else None
        self.usage = read_usage(self._usage)
        self.reported_cost = read_reported_cost(self._usage)
        self.finish_reason = next((reason for choice in choices if isinstance(reason := choice.get("finish_reason"), str)), "")
        # Only needed when the provider gave no usage.
        self.output_bytes = (
            0
            if self.usage is not None and self.usage.is_sane()
            else sum(len(text) for choice in choices for text in _DELTA.findall(orjson.dumps(choice.get("message"))))
        )

    def render(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:
        """The answer as received but for its usage."""
        return self._body.splice({"usage": with_cost(self._usage or render_usage(estimate), cost=cost, upstream_cost=upstream_cost)})


class ChatTap:
    """Watches a stream go by: forwards whole events as received, remembers usage, finish reason and how much text there was.

    The usage chunk is held back until the end, so that `finish` can put the cost in or leave the chunk out.
    """

    __slots__ = ("_held", "_identity", "_splitter", "_wants_usage", "done", "error", "finish_reason", "output_bytes", "raw_usage")
    web_searches = 0  # the format tells of none before its usage

    def __init__(self, *, wants_usage: bool) -> None:
        self._splitter = Splitter()
        self._wants_usage = wants_usage
        self._held: bytes | None = None
        self._identity: bytes = b""
        self.raw_usage: Mapping[str, Any] | None = None
        self.finish_reason = ""
        self.output_bytes = 0
        self.done = False
        self.error: Any = None

    @property
    def has_output(self) -> bool:
        """Whether anything was delivered that a client would call an answer."""
        return self.output_bytes > 0 or bool(self.finish_reason)

    def feed(self, data: bytes) -> bytes:
        """Take what one read returned; returns what to forward now (whole events).

        Raises: proxy.sse.EventTooLarge.
        """
        block = self._splitter.feed(data)
        if not block:
            return b""
        if not self._identity:  # the first event with an id: comments and Azure's filter results come before it
            self._identity = next(filter(_ID.search, self._splitter.events(block)), b"")
        special = _first_special(block)
        if special < 0:
            self._watch(block)
            return block
        # Only what follows the boundary before it is read event by event: a burst brings fifty events in one block.
        cut = block.rfind(b"\n\n", 0, special) + 2
        if cut == 1:
            return self._feed_events(block)
        front = block[:cut]
        self._watch(front)
        return front + self._feed_events(block[cut:])

    def flush(self) -> bytes:
        """Take the provider's end: an event that only lacks its last boundary counts; half an event does not."""
        data = self._splitter.data_of(self._splitter.rest)
        return self.feed(b"\n\n") if data.strip() == b"[DONE]" or _parse_event(data) is not None else b""

    @property
    def usage(self) -> TokenUsage | None:
        """What the provider said of the tokens."""
        return read_usage(self.raw_usage)

    @property
    def reported_cost(self) -> int | None:
        """What the provider says the request cost, in nano-USD."""
        return read_reported_cost(self.raw_usage)

    def finish(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:
        """What to send last: the usage chunk with the cost in it if the client asked for one, and the terminator."""
        if not self._wants_usage:
            return _DONE
        return self._usage_event(with_cost(self.raw_usage or render_usage(estimate), cost=cost, upstream_cost=upstream_cost)) + _DONE

    def fail(self, error: Mapping[str, Any], *, ran_out: bool) -> bytes:
        """What to send last when the stream failed after it began: the error, which OpenAI's SDKs raise, never an invented clean end.

        With `ran_out` (nothing more could be held) a chunk before it says that the answer ends for its length.
        """
        tail = b""
        if ran_out:
            tail = b"data: " + orjson.dumps({**self._chunk(), "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}) + b"\n\n"
        return tail + b"data: " + orjson.dumps(error) + b"\n\n" + _DONE

    def _watch(self, block: bytes) -> None:
        for text in _DELTA.findall(block):
            self.output_bytes += len(text)
        for reason in _FINISH.findall(block):
            self.finish_reason = _printable(reason.decode(errors="replace"))

    def _feed_events(self, block: bytes) -> bytes:
        forward = []
        for event in self._splitter.events(block):
            data = self._splitter.data_of(event)
            if data.strip() == b"[DONE]":
                self.done = True
                break  # `finish` ends the stream
            fields = _parse_event(data)
            if fields is None:
                forward.append(event)
                continue
            if fields.get("error"):
                self.error = fields["error"]
                break
            usage = fields.get("usage") or _mapping(fields.get("x_groq")).get("usage")
            if isinstance(usage, dict) and usage:
                self.raw_usage = usage
                if not fields.get("choices"):
                    # The usage chunk proper. (Some providers repeat a running usage in every chunk with choices: those pass.)
                    if self._wants_usage:
                        self._held = event
                    continue
            self._watch(event)
            forward.append(event)
        return b"".join(forward)

    def _usage_event(self, usage: bytes) -> bytes:
        if self._held is not None:
            data = self._splitter.data_of(self._held)
            return self._held.replace(data, Body(data, orjson.loads(data)).splice({"usage": usage}))
        chunk = {**self._chunk(), "choices": []}
        return b"data: " + Body(orjson.dumps(chunk), chunk).splice({"usage": usage}) + b"\n\n"

    def _chunk(self) -> dict[str, Any]:
        """The fields that every chunk of this stream has, taken from its first."""
        identity = _parse_event(self._splitter.data_of(self._identity)) or {}
        return {
            "id": identity.get("id") or "chatcmpl-0",
            "object": "chat.completion.chunk",
            "created": identity.get("created") or 0,
            "model": identity.get("model") or "",
        }


def _first_special(block: bytes) -> int:
    """Where the first thing stands that needs reading (a usage, an error, the end); -1 when there is none."""
    found = [match.start() for match in (_USAGE.search(block), _ERROR.search(block) if b'"error"' in block else None) if match is not None]
    end = block.find(b"[DONE]")
    if end >= 0:
        found.append(end)
    return min(found, default=-1)


def _parse_event(data: bytes) -> dict[str, Any] | None:
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) else None


def _printable(text: str) -> str:
    """Text from strangers without what PostgreSQL (U+0000) and logs (line ends) cannot take."""
    return "".join(filter(str.isprintable, text))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count_media(content: Any) -> int:
    if not isinstance(content, list):
        return 0
    return sum(1 for part in content if isinstance(part, dict) and part.get("type") not in ("text", None))


def _estimate_input(messages: list[dict[str, Any]], fields: Mapping[str, Any]) -> int:
    size = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            size += len(content)
        elif isinstance(content, list):
            size += sum(len(text) for part in content if isinstance(part, dict) and isinstance(text := part.get("text"), str))
        if "tool_calls" in message:
            size += len(orjson.dumps(message["tool_calls"]))
    if "tools" in fields:
        size += len(orjson.dumps(fields["tools"]))
    return -(-size // BYTES_PER_TOKEN)
