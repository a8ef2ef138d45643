"""The hub's events to a stream for clients of Chat Completions. Pure."""

from collections.abc import Mapping
from typing import Any

import orjson

from catalog.usage import TokenUsage
from proxy.formats.conversation import (
    AnyItem,
    Audio,
    Closed,
    Delta,
    Echo,
    Ended,
    Event,
    Image,
    Metered,
    Opened,
    Origin,
    Pinged,
    Reasoning,
    Seal,
    Started,
    Stop,
    Stopped,
    Text,
    ToolCall,
)
from proxy.formats.openai_chat_answers import (
    finish_of,
    is_legacy,
    render_audio,
    render_call,
    render_citation,
    render_image_part,
    render_usage,
)
from proxy.formats.openai_chat_reasoning import DETAIL_FORMATS, UNKNOWN, detail_format, format_of, seal_detail, text_detail
from proxy.formats.tool_names import client_name, renamed_tools, tool_of

DONE = b"data: [DONE]\n\n"


class StreamRenderer:
    """Turns events into a client's stream. The first bytes come with the first thing said, so that a failure before it stays retryable."""

    __slots__ = (
        "_call", "_calls", "_changed", "_details", "_empty", "_finished", "_format", "_groups", "_head", "_images", "_item", "_legacy", "_notes", "_opening",
        "_origin", "_pending", "_plain", "_refused", "_sealed", "_tail", "_usage", "_usual", "_wants_usage",
        "usage_extra",
    )  # fmt: skip

    keep_alive = b": keep-alive\n\n"

    def __init__(self, echo: Echo) -> None:
        options = echo.request.get("stream_options")
        self._wants_usage = isinstance(options, dict) and options.get("include_usage") is True
        self._legacy = is_legacy(echo)
        self._changed = renamed_tools(echo.conversation)
        self._plain = {"id": echo.id, "object": "chat.completion.chunk", "created": echo.created, "model": echo.model}
        self._head = b"data: " + orjson.dumps(self._plain)[:-1] + b',"choices":[{"index":0,"delta":'
        self._tail = b',"logprobs":null,"finish_reason":null}]' + (b',"usage":null' if self._wants_usage else b"") + b"}\n\n"
        self._opening = True  # the role is still to be said
        self._item: AnyItem | None = None
        self._origin: Origin | None = None
        self._format = self._usual = UNKNOWN
        self._groups = 0  # reasoning details: how many indexes are taken
        self._details = False  # whether the open item has taken one
        self._sealed = False  # whether the open item has a seal there
        self._notes = 0
        self._calls = 0
        self._call: int | None = None  # the place of the open call, None where the client cannot see it
        self._pending = False  # the open call is a custom tool's, whose input has to be unwrapped when it is whole
        self._empty = True  # nothing of the open call's arguments was said
        self._images = 0
        self._refused = False
        self._finished = False
        self._usage: TokenUsage | None = None
        self.usage_extra: dict[str, Any] = {}  # what else the usage shows (the cost)

    def feed(self, event: Event) -> bytes:
        """The bytes to send for one event; empty where the format has nothing to say."""
        match event:
            case Delta():
                return self._render_delta(event)
            case Opened():
                return self._render_opened(event.item)
            case Closed():
                return self._render_closed(event.item)
            case Started():
                self._usage = event.usage or self._usage
                self._usual = format_of(event.model)
            case Metered():
                self._usage = event.usage
            case Stopped():
                return self._render_stopped(event)
            case Pinged():
                return self.keep_alive
            case Ended():
                return self._usage_chunk() + DONE
            case _:
                pass  # what went wrong at the provider is for `fail` to say, in the gateway's words
        return b""

    def fail(self, error: Mapping[str, Any]) -> bytes:
        """The error frame, which the SDKs raise, and the end of the stream."""
        return b"data: " + orjson.dumps(error if "error" in error else {"error": error}) + b"\n\n" + DONE

    def _chunk(self, delta: dict[str, Any]) -> bytes:
        if self._opening:
            self._opening = False
            delta = (
                {"role": "assistant", "content": "", **delta}
                if "tool_calls" not in delta
                else {"role": "assistant", "content": None, **delta}
            )
        return self._head + orjson.dumps(delta) + self._tail

    def _render_delta(self, event: Delta) -> bytes:
        match event.what:
            case "text":
                return self._chunk({"content": event.text}) if event.text else b""
            case "reasoning" | "summary":
                if not event.text:
                    return b""
                kind, field = ("reasoning.text", "text") if event.what == "reasoning" else ("reasoning.summary", "summary")
                detail = {"type": kind, field: event.text, "index": self._groups}
                if not self._details:  # once an index: the SDKs add up the strings of one
                    self._details = True
                    detail["format"] = self._format
                return self._chunk({"reasoning_content": event.text, "reasoning_details": [detail]})
            case "arguments":
                return self._render_arguments(event.text)
            case "refusal":
                self._refused = True
                return self._chunk({"refusal": event.text})
            case "signature":
                return self._render_seal(event.seal) if event.seal is not None else b""
            case "citation":
                note = render_citation(event.raw, self._origin)
                if note is None:
                    return b""
                self._notes += 1
                return self._chunk({"annotations": [{**note, "index": self._notes - 1}]})
            case "audio":
                return self._chunk({"audio": event.raw}) if isinstance(event.raw, dict) else b""

    def _render_arguments(self, text: str) -> bytes:
        if not text or self._call is None or self._pending:
            return b""
        self._empty = False
        if self._legacy:
            return self._chunk({"function_call": {"arguments": text}})
        custom = isinstance(self._item, ToolCall) and self._item.kind == "custom"
        said = {"custom": {"input": text}} if custom else {"function": {"arguments": text}}
        return self._chunk({"tool_calls": [{"index": self._call, **said}]})

    def _render_seal(self, seal: Seal) -> bytes:
        """One more entry of the reasoning details; it shares the index of the item's text as long as nothing else is sealed there."""
        item = self._item
        format_name = DETAIL_FORMATS.get(seal.origin, self._format)
        owner = item.call_id if isinstance(item, ToolCall) else ""
        if self._sealed:
            self._groups += 1
            self._details = False
        detail = seal_detail(seal, owner=owner, format_name=format_name, index=self._groups)
        if self._details:
            del detail["format"]
        if isinstance(item, Reasoning) and item.id:
            detail["id"] = item.id
        delta: dict[str, Any] = {"reasoning_details": [detail]}
        if (
            isinstance(item, ToolCall)
            and item.kind == "function"
            and not (self._call is None or self._legacy or self._pending or self._sealed)
        ):
            signature = {"google": {"thought_signature": seal.data}}
            delta["tool_calls"] = [{"index": self._call, "function": {"arguments": ""}, "extra_content": signature}]
        self._details = self._sealed = True
        return self._chunk(delta)

    def _render_opened(self, item: AnyItem) -> bytes:
        self._item = item
        self._origin = item.origin
        self._details = self._sealed = False
        match item:
            case Reasoning():
                self._format = detail_format(item, item.seals, self._usual)
            case ToolCall():
                self._format = DETAIL_FORMATS.get(item.origin or "", self._usual)
                return self._open_call(item)
            case Image():
                self._images += 1
                return self._chunk({"images": [render_image_part(item, self._images - 1)]})
            case Audio() if item.data or item.transcript:
                return self._chunk({"audio": render_audio(item)})
            case _:
                pass
        return b""

    def _open_call(self, call: ToolCall) -> bytes:
        tool, name = tool_of(call, self._changed), client_name(call, self._changed)
        self._call, self._empty = self._calls, True
        self._calls += 1
        self._pending = tool is not None and tool.kind == "custom" and call.kind == "function"
        if self._legacy:
            if self._call:
                self._call = None  # a client of that time takes one call at a time
                return b""
            return self._chunk({"function_call": {"name": name, "arguments": ""}})
        if self._pending:
            return b""
        if call.kind == "custom":
            said: dict[str, Any] = {"type": "custom", "custom": {"name": name, "input": ""}}
        else:
            said = {"type": "function", "function": {"name": name, "arguments": ""}}
        return self._chunk({"tool_calls": [{"index": self._call, "id": call.call_id, **said}]})

    def _render_closed(self, item: AnyItem) -> bytes:
        rendered = b""
        if isinstance(item, ToolCall) and self._call is not None:
            if self._pending:
                call = render_call(item, self._changed)
                call.pop("extra_content", None)
                rendered = self._chunk({"tool_calls": [{"index": self._call, **call}]})
            elif self._empty and item.kind == "function":
                rendered = self._render_arguments("{}")  # clients parse what they get
        elif isinstance(item, Text) and item.signature:
            rendered = self._chunk({"reasoning_details": [text_detail(item, self._groups, self._usual)]})
            self._details = True
        if self._details:
            self._groups += 1
        self._item, self._call, self._pending, self._details, self._sealed = None, None, False, False, False
        return rendered

    def _render_stopped(self, event: Stopped) -> bytes:
        if self._finished:
            return b""
        self._finished = True
        if event.stop is Stop.FAULT:
            message = f"The model's answer broke off ({event.raw_stop})." if event.raw_stop else "The model's answer broke off."
            error = {"message": message, "type": "api_error", "param": None, "code": "upstream_error"}
            return b"data: " + orjson.dumps({"error": error}) + b"\n\n"
        before = b""
        if event.refusal and not self._refused:
            before = self._chunk({"refusal": event.refusal})
        elif self._opening:
            before = self._chunk({})
        finish = finish_of(event.stop, calls=self._calls > 0, legacy=self._legacy)
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish}
        last: dict[str, Any] = {**self._plain, "choices": [choice]}
        if self._wants_usage:
            last["usage"] = None
        return before + b"data: " + orjson.dumps(last) + b"\n\n"

    def _usage_chunk(self) -> bytes:
        if not self._wants_usage or self._usage is None:
            return b""
        usage = render_usage(self._usage) | self.usage_extra
        return b"data: " + orjson.dumps({**self._plain, "choices": [], "usage": usage}) + b"\n\n"
