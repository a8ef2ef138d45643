"""Messages streams, to and from the hub: blocks are numbered from 0 and follow one another, and every event bears its name. Pure."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from catalog.usage import TokenUsage
from proxy.formats.anthropic_messages_answers import (
    answer_blocks,
    call_block,
    error_frame,
    explanation_of,
    read_usage,
    redacted_block,
    render_usage,
    stop_of,
    stop_reason_of,
    turn_back,
)
from proxy.formats.anthropic_messages_blocks import JSON_TOOL, NAME, arguments_of, encode_json, frame, read_block, string_of, write_json
from proxy.formats.conversation import (
    AnyItem,
    Audio,
    CannotParse,
    Closed,
    Delta,
    Echo,
    Ended,
    Event,
    Failed,
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
    ToolDef,
    Unknown,
)
from proxy.sse import Splitter


class _Block:
    """A block under way: where it stands at the provider, its JSON so far, and the pieces of what streams."""

    __slots__ = ("at", "block", "index", "kind", "pieces", "signature")

    def __init__(self, at: int, index: int, block: dict[str, Any], kind: str) -> None:
        self.at = at
        self.index = index
        self.block = block
        self.kind = kind
        self.pieces: list[str] = []
        self.signature = ""


class StreamParser:
    """Turns a provider's stream into events, whatever the reads were. Blocks that overlap are told one after the other."""

    __slots__ = ("_called", "_later", "_next", "_open", "_over", "_splitter", "_tools", "_unwrap_json", "_unwrapped", "_usage")

    def __init__(self, *, unwrap_json: bool = False, tools: Mapping[str, ToolDef] | None = None) -> None:
        self._splitter = Splitter()
        self._unwrap_json = unwrap_json
        self._tools = tools or {}
        self._usage: dict[str, Any] = {}
        self._open: _Block | None = None
        self._later: dict[int, list[tuple[str, dict[str, Any]]]] = {}
        self._next = 0
        self._called = False
        self._unwrapped = False
        self._over = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now.

        Raises: proxy.sse.EventTooLarge.
        """
        block = self._splitter.feed(data)
        events: list[Event] = []
        if block:
            for event in self._splitter.events(block):
                self._read(self._splitter.data_of(event), events)
        return events

    def finish(self) -> list[Event]:
        """The events that the end of the connection completes."""
        events: list[Event] = []
        self._read(self._splitter.data_of(self._splitter.rest), events)
        return events

    def _read(self, data: bytes, events: list[Event]) -> None:
        if not data or self._over:
            return
        try:
            fields = orjson.loads(data)
        except orjson.JSONDecodeError:
            return  # such as [DONE]
        if not isinstance(fields, dict):
            return
        kind = fields.get("type")
        if kind in ("content_block_delta", "content_block_start", "content_block_stop"):
            self._read_block_event(kind, fields, events)
        elif kind == "message_start":
            self._close_all(events)  # a server that began anew in the middle of its answer: what it said before was said
            self._read_start(fields.get("message"), events)
        elif kind == "message_delta":
            self._close_all(events)
            self._read_end(fields, events)
        elif kind == "message_stop":
            self._close_all(events)
            events.append(Ended())
            self._over = True
        elif kind == "ping":
            events.append(Pinged())
        elif kind == "error" or fields.get("error"):
            events.append(Failed(fields))

    def _read_start(self, message: Any, events: list[Event]) -> None:
        if not isinstance(message, dict):
            message = {}
        self._note_usage(message.get("usage"))
        events.append(Started(string_of(message, "id"), string_of(message, "model"), usage=read_usage(self._usage)))

    def _note_usage(self, usage: Any) -> None:
        """The counts are running totals: what comes later replaces what came before."""
        if isinstance(usage, dict):
            self._usage.update((name, value) for name, value in usage.items() if value is not None)

    def _read_end(self, fields: dict[str, Any], events: list[Event]) -> None:
        if isinstance(fields.get("usage"), dict):
            self._note_usage(fields["usage"])
            usage = read_usage(self._usage)
            if usage is not None:
                events.append(Metered(usage))
        delta = fields.get("delta")
        if not isinstance(delta, dict):
            return
        reason = delta.get("stop_reason")
        stop = stop_of(reason, unwrapped=self._unwrapped and not self._called)
        if stop is not None:
            events.append(Stopped(stop, string_of(delta, "stop_sequence"), string_of(delta, "stop_reason"), explanation_of(delta)))

    def _read_block_event(self, kind: str, fields: dict[str, Any], events: list[Event]) -> None:
        at = fields.get("index")
        if type(at) is not int:
            at = 0
        open_ = self._open
        if open_ is None:
            if kind == "content_block_start":
                self._begin(at, fields.get("content_block"), events)
        elif open_.at != at:
            if kind == "content_block_start":
                self._later[at] = [(kind, fields)]
            elif at in self._later:
                self._later[at].append((kind, fields))
        elif kind == "content_block_delta":
            delta = fields.get("delta")
            if isinstance(delta, dict):
                self._extend(open_, delta, events)
        elif kind == "content_block_stop":
            self._close(open_, events)
        else:  # begun again without an end
            self._close(open_, events)
            self._read_block_event(kind, fields, events)

    def _begin(self, at: int, block: Any, events: list[Event]) -> None:
        if not isinstance(block, dict) or not isinstance(kind := block.get("type"), str) or not kind:
            return
        index = self._next
        self._next += 1
        if kind == "tool_use":
            name = string_of(block, "name")
            tool = self._tools.get(name)
            if self._unwrap_json and name == JSON_TOOL:
                kind = "json"
                self._unwrapped = True
            elif tool is not None and tool.kind == "custom":
                kind = "custom"
            self._called |= kind != "json"
        begun = self._open = _Block(at, index, block, kind)
        if kind == "text":
            events.append(Opened(index, Text("assistant", raw=block, origin=NAME)))
            self._extend(begun, {"type": "text_delta", "text": block.get("text")}, events)
        elif kind == "json":
            events.append(Opened(index, Text("assistant")))
        elif kind == "thinking":
            events.append(Opened(index, Reasoning("assistant", raw=block, origin=NAME)))
            self._extend(begun, {"type": "thinking_delta", "thinking": block.get("thinking")}, events)
            begun.signature = string_of(block, "signature")
        elif kind == "redacted_thinking":
            events.append(Opened(index, Reasoning("assistant", raw=block, origin=NAME)))
            events.append(Delta(index, "signature", seal=Seal("redacted", string_of(block, "data"), NAME)))
        elif kind in ("tool_use", "custom"):
            call = ToolCall("assistant", call_id=string_of(block, "id"), name=string_of(block, "name"), raw=block, origin=NAME)
            events.append(Opened(index, turn_back(call, self._tools)))

    def _extend(self, begun: _Block, delta: dict[str, Any], events: list[Event]) -> None:
        what = delta.get("type")
        kind = begun.kind
        if what == "text_delta" and kind == "text":
            text = delta.get("text")
            if text and isinstance(text, str):
                begun.pieces.append(text)
                events.append(Delta(begun.index, "text", text))
        elif what == "input_json_delta":
            text = delta.get("partial_json")
            if text and isinstance(text, str):
                begun.pieces.append(text)
                if kind == "tool_use":
                    events.append(Delta(begun.index, "arguments", text))
                elif kind == "json":
                    events.append(Delta(begun.index, "text", text))
        elif what == "thinking_delta" and kind == "thinking":
            text = delta.get("thinking")
            if text and isinstance(text, str):
                begun.pieces.append(text)
                events.append(Delta(begun.index, "reasoning", text))
        elif what == "signature_delta":
            begun.signature += string_of(delta, "signature")
        elif what == "citations_delta" and kind == "text":
            cited = begun.block.get("citations")
            begun.block["citations"] = [*(cited if isinstance(cited, list) else []), delta.get("citation")]
            events.append(Delta(begun.index, "citation", raw=delta.get("citation")))
        elif what == "compaction_delta":
            begun.block["content"] = string_of(begun.block, "content") + string_of(delta, "content")

    def _close(self, begun: _Block, events: list[Event]) -> None:
        self._open = None
        block, index, text = begun.block, begun.index, "".join(begun.pieces)
        item: AnyItem
        match begun.kind:
            case "text":
                block["text"] = text
                item = read_block(block, "assistant")
            case "json":
                if not text:
                    text = write_json(block.get("input") or {})
                    events.append(Delta(index, "text", text))
                item = Text("assistant", text=text)
            case "thinking":
                block["thinking"], block["signature"] = text, begun.signature
                item = read_block(block, "assistant")
                events += [Delta(index, "signature", seal=seal) for seal in getattr(item, "seals", ())]
            case "tool_use" | "custom":
                item = self._close_call(begun, text, events)
            case "redacted_thinking":
                item = read_block(block, "assistant")
            case _:  # a built-in tool, or what is not known: told whole
                if text:
                    block["input"] = arguments_of(text)
                try:
                    item = read_block(block, "assistant")
                except CannotParse:
                    item = Unknown("assistant", raw=block, origin=NAME)
                events.append(Opened(index, item))
        events.append(Closed(index, item))
        while self._open is None and self._later:
            waiting = self._later.pop(next(iter(self._later)))
            for kind, fields in waiting:
                self._read_block_event(kind, fields, events)

    def _close_call(self, begun: _Block, text: str, events: list[Event]) -> ToolCall:
        block = begun.block
        given = block.get("input")
        if text:
            block["input"] = arguments_of(text)
        elif isinstance(given, dict) and given:  # whole from the beginning, as some servers do
            text = write_json(given)
            if begun.kind == "tool_use":
                events.append(Delta(begun.index, "arguments", text))
        call = ToolCall("assistant", call_id=string_of(block, "id"), name=string_of(block, "name"), arguments=text, raw=block, origin=NAME)
        turn_back(call, self._tools)
        if begun.kind == "custom" and call.arguments:
            events.append(Delta(begun.index, "arguments", call.arguments))
        return call

    def _close_all(self, events: list[Event]) -> None:
        while self._open is not None:
            self._close(self._open, events)


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
        return self._begin("tool", {**call_block(item), "input": {}})

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
                out += b"".join(self._whole(block) for block in answer_blocks(item))
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
