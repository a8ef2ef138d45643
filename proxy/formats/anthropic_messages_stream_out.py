"""The hub's events to a stream for clients of Messages: blocks are numbered from 0 and follow one another, and every event bears its name. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from catalog.usage import TokenUsage
from proxy.formats.anthropic_messages_answers import answer_blocks, call_block, error_frame, redacted_block, render_usage, stop_reason_of
from proxy.formats.anthropic_messages_blocks import NAME, encode_json, frame, write_json
from proxy.formats.conversation import (
    AnyItem,
    Audio,
    Closed,
    Delta,
    Echo,
    Ended,
    Event,
    File,
    Image,
    Metered,
    Opened,
    Pinged,
    Reasoning,
    Refusal,
    Seal,
    ServerTool,
    Started,
    Stop,
    Stopped,
    Text,
    ToolCall,
    Unknown,
)
from proxy.formats.tool_names import renamed_tools

_DELTAS: Final = {
    "text": b'{"type":"text_delta","text":',
    "thinking": b'{"type":"thinking_delta","thinking":',
    "tool": b'{"type":"input_json_delta","partial_json":',
}


class StreamRenderer:
    """Turns events into a client's stream: message_start, blocks one after the other, and at the end what was used and why it ended.

    The end is held until `Ended`, because most providers tell their usage last. A failure is told by `fail`.
    """

    keep_alive: bytes = b'event: ping\ndata: {"type": "ping"}\n\n'
    __slots__ = (
        "_after",
        "_call",
        "_calls",
        "_custom",
        "_echo",
        "_kept",
        "_kind",
        "_model",
        "_native",
        "_next",
        "_prefix",
        "_refusal",
        "_refuses",
        "_renamed",
        "_signed",
        "_space",
        "_started",
        "_stopped",
        "_usage",
        "_wrote",
        "usage_extra",
    )

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._started = False
        self._next = 0  # the number of the next block
        self._kind = ""  # what block is open
        self._prefix = b""
        self._usage: TokenUsage | None = None
        self._stopped: Stopped | None = None
        self._refusal = ""
        self._refuses = False
        self._calls = False
        self._renamed = renamed_tools(echo.conversation)
        self.usage_extra: dict[str, Any] = {}  # what else the last usage shows (the cost)
        self._reset()

    def _reset(self) -> None:
        """Forget the item that is over."""
        self._wrote = False
        self._signed = False
        self._native = False
        self._space = ""  # white space that waits for text
        self._kept = ""  # whether reasoning or its summary is shown: what comes first
        self._call: ToolCall | None = None  # a call whose block waits for its first argument
        self._custom = False
        self._after: list[Seal] = []

    def feed(self, event: Event) -> bytes:
        """The bytes to send for one event; empty where there is nothing to say."""
        if type(event) is Delta:
            return self._delta(event)
        match event:
            case Opened():
                return self._opened(event.item)
            case Closed():
                return self._closed(event.item)
            case Started():
                return b"" if self._started else self._start(event)
            case Metered():
                self._usage = event.usage
            case Stopped():
                self._stopped = event
            case Pinged():
                return self.keep_alive if self._started else b""
            case Ended():
                return self._end()
            case _:
                pass
        return b""

    def fail(self, error: Mapping[str, Any]) -> bytes:
        """The error frame, from the gateway's own error; the SDKs raise it."""
        return error_frame(error)

    def _start(self, event: Started | None = None) -> bytes:
        self._started = True
        event = event or Started()
        self._usage = event.usage or self._usage
        message: dict[str, Any] = {
            "id": self._echo.id or event.id,
            "type": "message",
            "role": "assistant",
            "model": self._echo.model or event.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": render_usage(event.usage or TokenUsage()),
        }
        return frame("message_start", {"type": "message_start", "message": message})

    def _opened(self, item: AnyItem) -> bytes:
        out = b"" if self._started else self._start()
        out += self._shut()
        self._reset()
        self._native = item.origin == NAME
        if isinstance(item, ToolCall):
            out += b"".join(self._whole(redacted_block(seal.data)) for seal in item.seals)
            self._signed = bool(item.seals)
            self._call = item
        return out

    def _delta(self, event: Delta) -> bytes:
        what, text = event.what, event.text
        out = b"" if self._started else self._start()
        if what == "text":
            return out + self._say(text) if text else out
        if what == "arguments":
            return out + self._argue(text) if text else out
        if what in ("reasoning", "summary"):
            if text and self._kept in ("", what):
                self._kept = what
                return out + self._write("thinking", text)
        elif what == "signature":
            if event.seal is not None:
                return out + self._seal(event.seal)
        elif what == "citation" and self._native and isinstance(event.raw, dict):
            out += b"" if self._kind == "text" else self._begin("text", {"type": "text", "text": ""})
            delta = {"type": "citations_delta", "citation": event.raw}
            return out + frame("content_block_delta", {"type": "content_block_delta", "index": self._next, "delta": delta})
        return out

    def _say(self, text: str) -> bytes:
        if self._kind != "text" and not self._native:
            text = self._space + text
            if not text.strip():
                self._space = text
                return b""
            self._space = ""
        return self._write("text", text)

    def _argue(self, text: str) -> bytes:
        out = self._begin_call()
        if self._kind != "tool":
            return out
        if self._custom:  # free text goes in as a string, escaped piece by piece
            text = ("" if self._wrote else '{"input":"') + write_json(text)[1:-1]
        return out + self._write("tool", text)

    def _begin_call(self) -> bytes:
        item = self._call
        if item is None:
            return b""
        self._call = None
        self._calls = True
        self._custom = item.kind == "custom"
        return self._begin("tool", {**call_block(item, self._renamed), "input": {}})

    def _seal(self, seal: Seal) -> bytes:
        if self._kind == "tool":
            self._after.append(seal)
            return b""
        if self._call is not None or seal.kind == "redacted" or self._signed:
            self._signed = True
            return self._shut() + self._whole(redacted_block(seal.data))
        self._signed = True
        out = b"" if self._kind == "thinking" else self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        delta = {"type": "signature_delta", "signature": seal.data}
        out += frame("content_block_delta", {"type": "content_block_delta", "index": self._next, "delta": delta})
        return out + self._shut()

    def _closed(self, item: AnyItem) -> bytes:
        out = b"" if self._started else self._start()
        match item:
            case Text() if not self._wrote and item.text:
                self._space = ""
                out += self._say(item.text)
            case Reasoning():
                if not self._wrote and (text := item.text or "".join(item.summary)):
                    out += self._write("thinking", text)
                if not self._signed:
                    out += b"".join(self._seal(seal) for seal in item.seals)
            case ToolCall():
                if self._call is not None and item.seals and not self._signed:
                    out += b"".join(self._seal(seal) for seal in item.seals)
                out += self._begin_call()
                if not self._wrote and item.arguments:
                    out += self._argue(item.arguments)
                if self._custom:
                    out += self._write("tool", '"}' if self._wrote else '{"input":""}')
            case Refusal():
                self._refuses = True
                self._refusal += item.text
            case Audio() if not self._wrote and item.transcript.strip():
                out += self._write("text", item.transcript)
            case Image() | ServerTool() | Unknown() | File():
                out += b"".join(self._whole(block) for block in answer_blocks(item, self._renamed))
            case _:
                pass
        out += self._shut()
        out += b"".join(self._whole(redacted_block(seal.data)) for seal in self._after)
        self._reset()
        return out

    def _write(self, kind: str, text: str) -> bytes:
        self._wrote = True
        out = b""
        if self._kind != kind:
            empty = {"type": "text", "text": ""} if kind == "text" else {"type": "thinking", "thinking": "", "signature": ""}
            out = self._begin(kind, empty)
        return out + self._prefix + encode_json(text) + b"}}\n\n"

    def _begin(self, kind: str, block: dict[str, Any]) -> bytes:
        out = self._shut()
        self._kind = kind
        self._prefix = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b' % (
            self._next,
            _DELTAS[kind],
        )
        return out + frame("content_block_start", {"type": "content_block_start", "index": self._next, "content_block": block})

    def _whole(self, block: dict[str, Any]) -> bytes:
        """A block that does not stream; only a built-in tool's input does, as the SDKs expect."""
        index = self._next
        self._next += 1
        given = block.get("input")
        out = b""
        if isinstance(given, dict) and given and block["type"].endswith("tool_use"):
            block = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": write_json(given)}
            out = frame("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})
        return (
            frame("content_block_start", {"type": "content_block_start", "index": index, "content_block": block})
            + out
            + b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % index
        )

    def _shut(self) -> bytes:
        if not self._kind:
            return b""
        self._kind = ""
        self._next += 1
        return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % (self._next - 1)

    def _end(self) -> bytes:
        out = b"" if self._started else self._start()
        out += self._shut()
        stopped = self._stopped
        if stopped is not None and stopped.stop is Stop.FAULT:
            return out + error_frame(
                {"type": "server_error", "message": "The provider could not finish the answer.", "code": "provider_error"}
            )
        delta: dict[str, Any] = {"stop_reason": None, "stop_sequence": None}
        if stopped is not None:
            delta["stop_reason"] = stop_reason_of(
                stopped.stop, stopped.stop_text, stopped.raw_stop, calls=self._calls, refuses=self._refuses
            )
            delta["stop_sequence"] = stopped.stop_text or None
            if delta["stop_reason"] == "refusal":
                delta["stop_details"] = {"type": "refusal", "category": None, "explanation": stopped.refusal or self._refusal or None}
        usage = render_usage(self._usage or TokenUsage()) | self.usage_extra
        return (
            out
            + frame("message_delta", {"type": "message_delta", "delta": delta, "usage": usage})
            + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
        )
