"""A provider's Messages stream to the hub's events. Pure."""

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.formats.anthropic_messages_answers import explanation_of, read_usage, stop_of, turn_back
from proxy.formats.anthropic_messages_blocks import JSON_TOOL, NAME, arguments_of, read_block, string_of, write_json
from proxy.formats.conversation import (
    AnyItem,
    CannotParse,
    Closed,
    Delta,
    Ended,
    Event,
    Failed,
    Metered,
    Opened,
    Pinged,
    Reasoning,
    Seal,
    Started,
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
