"""Gemini's stream to the hub's events. Pure."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

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
    Reasoning,
    Seal,
    Started,
    Stop,
    Stopped,
    Text,
    ToolCall,
    Unknown,
)
from proxy.formats.gemini_frames import Frames, data_of, load_object
from proxy.formats.gemini_parts import METADATA, NAME, Calls, camel_part, dump_json, epoch_of, mapping_of, parse_part
from proxy.formats.gemini_stops import read_reason, read_stop
from proxy.formats.gemini_usage import read_usage
from proxy.formats.searches import charged_by_google, queries_of


class StreamParser:
    """Turns Gemini's stream, SSE or JSON array, into events."""

    __slots__ = (
        "_args",
        "_calls",
        "_frames",
        "_has_calls",
        "_index",
        "_item",
        "_metadata",
        "_queries",
        "_searches",
        "_started",
        "_stopped",
        "_usage",
    )

    def __init__(self) -> None:
        self._frames = Frames()
        self._item: Text | Reasoning | ToolCall | None = None  # the open one
        self._index = -1
        self._calls = Calls("")
        self._has_calls = False
        self._args: _Partial | None = None
        self._metadata: dict[str, Any] = {}
        self._started = False
        self._stopped = False
        self._usage: Any = None
        self._queries: set[str] = set()
        self._searches = 0  # as last metered

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now.

        Raises: proxy.sse.EventTooLarge.
        """
        events: list[Event] = []
        for _, frame in self._frames.feed(data):
            fields = load_object(frame) if frame else None
            if fields is not None:
                self.take(fields, events)
        return events

    def finish(self) -> list[Event]:
        """The events that the end of the connection completes."""
        events: list[Event] = []
        if not self._frames.array:
            fields = load_object(data_of(self._frames.rest))
            if fields is not None:
                self.take(fields, events)
        if self._stopped:
            self._close(events)
            events.append(Ended())
        return events

    def take(self, chunk: dict[str, Any], events: list[Event]) -> None:
        """Read one chunk's JSON."""
        error = chunk.get("error")
        if error:
            self._close(events)
            events.append(Failed(error))
            return
        if not self._started:
            self._start(chunk, events)
        candidates = chunk.get("candidates")
        reason = ""
        message: Any = ""
        if type(candidates) is list:
            for candidate in candidates:
                if type(candidate) is not dict:
                    continue
                if "groundingMetadata" in candidate:
                    self._queries |= queries_of(candidate)
                if candidate.get("index", 0) != 0:
                    continue
                content = candidate.get("content")
                parts = content.get("parts") if type(content) is dict else None
                if type(parts) is list:
                    for part in parts:
                        if type(part) is dict:
                            self._take_part(part, events)
                for name in METADATA:
                    if candidate.get(name):
                        self._metadata[name] = candidate[name]
                if "finishReason" in candidate:
                    reason, message = read_reason(candidate["finishReason"]), candidate.get("finishMessage")
        if reason:
            self._close(events)
        usage = chunk.get("usageMetadata") or self._usage
        searches = charged_by_google(self._queries, model=chunk.get("modelVersion")) if self._queries else 0
        if usage and (usage != self._usage or searches != self._searches):
            self._usage, self._searches = usage, searches
            counted = read_usage(usage, web_searches=searches)
            if counted is not None:
                events.append(Metered(counted))
        if reason:
            self._stop(read_stop(reason, has_calls=self._has_calls), reason, message, events)
        elif "promptFeedback" in chunk:
            blocked = mapping_of(chunk["promptFeedback"]).get("blockReason")
            if blocked:
                self._close(events)
                name = blocked if isinstance(blocked, str) else "BLOCK_REASON_UNSPECIFIED"
                self._stop(Stop.FILTER, name, mapping_of(chunk["promptFeedback"]).get("blockReasonMessage"), events)

    def _start(self, chunk: dict[str, Any], events: list[Event]) -> None:
        self._started = True
        given, model = chunk.get("responseId"), chunk.get("modelVersion")
        name = given if isinstance(given, str) else ""
        self._calls = Calls(name)
        events.append(Started(name, model if isinstance(model, str) else "", epoch_of(chunk.get("createTime"))))

    def _stop(self, stop: Stop, reason: str, message: Any, events: list[Event]) -> None:
        self._stopped = True
        refusal = message if stop is Stop.FILTER and isinstance(message, str) else ""
        events.append(Stopped(stop, raw_stop=reason, refusal=refusal))

    def _take_part(self, part: dict[str, Any], events: list[Event]) -> None:
        text = part.get("text")
        if type(text) is str and "functionCall" not in part:
            signature = part.get("thoughtSignature")
            if part.get("thought") is True:
                self._take_thought(text, signature if isinstance(signature, str) else "", events)
                return
            signed = signature if isinstance(signature, str) else ""
            if text or signed:
                item = self._item
                if type(item) is not Text:
                    item = Text("assistant", origin=NAME)
                    self._open(item, events)
                if text:
                    item.text += text
                    events.append(Delta(self._index, "text", text))
                if signed:
                    item.signature = signed
            return
        self._take_other(camel_part(part), events)

    def _take_thought(self, text: str, signature: str, events: list[Event]) -> None:
        item = self._item
        if type(item) is not Reasoning:
            item = Reasoning("assistant", origin=NAME)
            self._open(item, events)
        if text:
            item.text += text
            events.append(Delta(self._index, "reasoning", text))
        if signature:
            seal = Seal("signature", signature, NAME)
            item.seals.append(seal)
            events.append(Delta(self._index, "signature", seal=seal))

    def _take_other(self, part: dict[str, Any], events: list[Event]) -> None:
        if "functionCall" in part:
            call = part["functionCall"]
            if type(call) is dict:
                self._take_call(part, call, events)
            return
        try:
            item = parse_part(part, "assistant", self._calls, "")
        except CannotParse:
            item = Unknown("assistant", raw=part, origin=NAME)
        self._close(events)
        self._index += 1
        item.role = "assistant"
        events += (Opened(self._index, item), Closed(self._index, item))

    def _take_call(self, part: dict[str, Any], call: dict[str, Any], events: list[Event]) -> None:
        name, given, signature = call.get("name"), call.get("id"), part.get("thoughtSignature")
        goes_on = call.get("willContinue") is True
        if name or self._args is None or type(self._item) is not ToolCall:
            self._has_calls = True
            name = name if isinstance(name, str) else ""
            call_id = self._calls.name(given if isinstance(given, str) else "", name)
            whole = None if goes_on or "partialArgs" in call else part
            item = ToolCall("assistant", call_id=call_id, name=name, raw=whole, origin=NAME)
            self._open(item, events)
            self._args = _Partial()
        item = self._item  # type: ignore[assignment]  # just opened, or found open above
        if signature and isinstance(signature, str):
            seal = Seal("signature", signature, NAME)
            item.seals.append(seal)
            events.append(Delta(self._index, "signature", seal=seal))
        if self._args is not None:
            args = call.get("args")
            if type(args) is dict and args:
                self._args.root.update(args)
            if type(partial := call.get("partialArgs")) is list:
                for one in partial:
                    if type(one) is dict:
                        self._args.put(one)
        if not goes_on:
            self._close(events)

    def _open(self, item: Text | Reasoning | ToolCall, events: list[Event]) -> None:
        self._close(events)
        self._item = item
        self._index += 1
        bare: AnyItem
        if type(item) is ToolCall:
            bare = ToolCall("assistant", call_id=item.call_id, name=item.name, raw=item.raw, origin=NAME)
        else:
            bare = type(item)("assistant", origin=NAME)
        events.append(Opened(self._index, bare))

    def _close(self, events: list[Event]) -> None:
        item = self._item
        if item is None:
            return
        self._item = None
        if type(item) is ToolCall and self._args is not None:
            try:
                item.arguments = dump_json(self._args.root) if self._args.root else ""
            except CannotParse:
                item.arguments = ""
            self._args = None
            if item.arguments:
                events.append(Delta(self._index, "arguments", item.arguments))
        if type(item) is Text and self._metadata:
            for name, value in self._metadata.items():
                item.citations.append({name: value})
                events.append(Delta(self._index, "citation", raw={name: value}))
            self._metadata = {}
        events.append(Closed(self._index, item))


_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d{1,5})\]|\['((?:[^'\\]|\\.)*)'\]|\[\"((?:[^\"\\]|\\.)*)\"\]")
_DEEPEST_PATH = 32
_LONGEST_LIST = 10_000


class _Partial:
    """The arguments of a call that arrives in pieces, each at its JSON path (`$.steps[0].name`)."""

    __slots__ = ("root",)

    def __init__(self) -> None:
        self.root: dict[str, Any] = {}

    def put(self, piece: Mapping[str, Any]) -> None:
        """Put a piece in its place; strings grow. A piece that has no place in what is there is left out."""
        path = piece.get("jsonPath")
        if not isinstance(path, str):
            return
        steps: list[str | int] = []
        at = 1 if path.startswith("$") else 0
        while at < len(path):
            match = _STEP.match(path, at)
            if match is None or len(steps) >= _DEEPEST_PATH:
                return
            name, number, single, double = match.groups()
            steps.append(int(number) if number is not None else next(one for one in (name, single, double) if one is not None))
            at = match.end()
        if not steps:
            return
        holder: Any = self.root
        for step, following in pairwise(steps):
            inner = _at(holder, step)
            if not isinstance(inner, dict | list):
                inner = [] if isinstance(following, int) else {}
                if not _put(holder, step, inner):
                    return
            holder = inner
        if "stringValue" in piece:
            before = _at(holder, steps[-1])
            text = piece["stringValue"]
            _put(holder, steps[-1], (before if isinstance(before, str) else "") + (text if isinstance(text, str) else ""))
        elif "numberValue" in piece:
            value = piece["numberValue"]
            _put(holder, steps[-1], int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value)
        elif "boolValue" in piece:
            _put(holder, steps[-1], piece["boolValue"])
        elif "nullValue" in piece:
            _put(holder, steps[-1], None)


def _at(holder: Any, step: str | int) -> Any:
    if isinstance(step, int):
        return holder[step] if isinstance(holder, list) and step < len(holder) else None
    return holder.get(step) if isinstance(holder, dict) else None


def _put(holder: Any, step: str | int, value: Any) -> bool:
    if isinstance(step, str):
        if not isinstance(holder, dict):
            return False
        holder[step] = value
        return True
    if not isinstance(holder, list) or step >= _LONGEST_LIST:
        return False
    holder.extend([None] * (step + 1 - len(holder)))
    holder[step] = value
    return True
