"""A provider's Responses stream to the hub's events. Pure."""

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.formats.conversation import (
    Closed,
    Conversation,
    Delta,
    Ended,
    Event,
    Failed,
    Metered,
    Opened,
    Pinged,
    Reasoning,
    Refusal,
    Started,
    Stop,
    Stopped,
    Text,
    hollow,
)
from proxy.formats.openai_responses_items import (
    NAME,
    dicts_of,
    mapping_of,
    outer_of,
    parse_call,
    parse_item,
    parse_part,
    parse_reasoning,
    sent_tools,
    text_of,
)
from proxy.formats.openai_responses_output import read_stop, read_usage
from proxy.sse import Splitter

TERMINAL = frozenset(("response.completed", "response.incomplete", "response.failed"))
_DELTAS: Mapping[str, tuple[str, str]] = {  # event: the kind of item it belongs to, what it brings
    "response.output_text.delta": ("message", "text"),
    "response.refusal.delta": ("message", "refusal"),
    "response.reasoning_summary_text.delta": ("reasoning", "summary"),
    "response.reasoning_text.delta": ("reasoning", "reasoning"),
    "response.function_call_arguments.delta": ("function_call", "arguments"),
    "response.custom_tool_call_input.delta": ("custom_tool_call", "arguments"),
}
_KINDS = frozenset(kind for kind, _ in _DELTAS.values())
_OF_ITEMS = frozenset(
    (
        *_DELTAS,
        "response.output_item.added",
        "response.output_item.done",
        "response.content_part.added",
        "response.content_part.done",
        "response.output_text.annotation.added",
    )
)
MOST_WAITING = 100_000  # events of items that come while another is open


class _Message:
    """A message that is being told: one open part at a time, each a hub item."""

    __slots__ = ("_citations", "_hub", "_index", "_item", "_outer", "_texts", "_what", "seen", "told")

    kind = "message"

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self._outer = outer_of(entry)
        self._index = -1  # of the open or last part
        self._item: Any = None
        self._hub = 0
        self._what = "text"
        self._texts: list[str] = []
        self._citations: list[Any] = []
        self.seen = False
        self.told = ""

    def add_part(self, parser: "StreamParser", index: int, part: Mapping[str, Any], out: list[Event]) -> None:
        if self._item is not None:
            if index == self._index:
                return
            self.end_part({}, out)
        self._item = hollow(parse_part(part, "assistant", self._outer))
        self._item.new_turn = self._index < 0
        self._index = index
        self._what = "refusal" if isinstance(self._item, Refusal) else "text"
        self._hub = parser.take_index()
        self._texts, self._citations = [], []
        out.append(Opened(self._hub, self._item))

    def add(self, parser: "StreamParser", what: Any, fields: Mapping[str, Any], out: list[Event]) -> None:
        index = fields.get("content_index", 0)
        if self._item is None or index != self._index or what != self._what:
            number = index if isinstance(index, int) and index > self._index else self._index + 1
            self.add_part(parser, number, {"type": "refusal" if what == "refusal" else "output_text"}, out)
        self.seen = True
        text = fields["delta"]
        self._texts.append(text)
        out.append(Delta(self._hub, what, text))

    def cite(self, annotation: Any, out: list[Event]) -> None:
        if isinstance(self._item, Text):
            self._citations.append(annotation)
            out.append(Delta(self._hub, "citation", raw=annotation))

    def end_part(self, part: Mapping[str, Any], out: list[Event]) -> None:
        if self._item is None:
            return
        item = parse_part(part, "assistant", self._outer)
        if type(item) is not type(self._item):  # an end of another part, or none
            part = mapping_of(mapping_of(self._item.raw).get("part"))
            item = parse_part(part, "assistant", self._outer)
        text = _complete(self._texts, text_of(part.get(self._what)), self._hub, self._what, out)
        item.new_turn = self._item.new_turn
        if isinstance(item, Text):
            for annotation in item.citations[len(self._citations) :]:
                self.cite(annotation, out)
            item.text, item.citations = text, self._citations
        elif isinstance(item, Refusal):
            item.text = text
        self.told += text
        self._item = None
        out.append(Closed(self._hub, item))

    def end(self, parser: "StreamParser", entry: Mapping[str, Any], out: list[Event]) -> None:
        parts = dicts_of(entry.get("content"))
        if entry:
            self._outer = outer_of(entry)
        if self._item is not None:
            self.end_part(parts[self._index] if 0 <= self._index < len(parts) else {}, out)
        for index in range(self._index + 1, len(parts)):
            self.add_part(parser, index, parts[index], out)
            self.end_part(parts[index], out)


class _Thinking:
    """A reasoning item that is being told."""

    __slots__ = ("_hub", "_item", "_parts", "_texts", "seen")

    kind = "reasoning"

    def __init__(self, parser: "StreamParser", entry: Mapping[str, Any], out: list[Event]) -> None:
        self._item = parse_reasoning(entry)
        self._texts: list[str] = []
        self._parts: dict[int, list[str]] = {}
        self.seen = False
        self._hub = parser.take_index()
        out.append(Opened(self._hub, hollow(self._item)))

    @property
    def told(self) -> str:
        return "".join(self._texts) or "".join(text for part in self._parts.values() for text in part)

    def add(self, _parser: "StreamParser", what: Any, fields: Mapping[str, Any], out: list[Event]) -> None:
        text = fields["delta"]
        part = 0
        if what == "summary":
            index = fields.get("summary_index")
            part = max(index if isinstance(index, int) else 0, *self._parts, 0)  # what was told of a part cannot be added to later
            self._parts.setdefault(part, []).append(text)
        else:
            self._texts.append(text)
        self.seen = True
        out.append(Delta(self._hub, what, text, part=part))

    def end(self, _parser: "StreamParser", entry: Mapping[str, Any], out: list[Event]) -> None:
        item = parse_reasoning(entry) if entry else self._item
        item.text = _complete(self._texts, item.text, self._hub, "reasoning", out)
        # What was told stands; only the last part can still grow, and parts that were not told come behind it.
        last = max(self._parts, default=-1)
        summary = ["".join(texts) for part, texts in self._parts.items() if part != last]
        if last >= 0:
            full = item.summary[last] if last < len(item.summary) else ""
            summary.append(_complete(self._parts[last], full, self._hub, "summary", out, part=last))
        untold = [text for part, text in enumerate(item.summary) if part not in self._parts]
        summary += [_complete([], text, self._hub, "summary", out, part=last + 1 + place) for place, text in enumerate(untold)]
        item.summary = [text for text in summary if text]
        out += [Delta(self._hub, "signature", seal=seal) for seal in item.seals]
        out.append(Closed(self._hub, item))


class _Call:
    """A tool call that is being told."""

    __slots__ = ("_hub", "_item", "_texts", "kind", "seen")

    def __init__(self, parser: "StreamParser", entry: Mapping[str, Any], out: list[Event]) -> None:
        self.kind = entry["type"]
        self._item = parse_call(entry)
        self._item.name = parser.names.get(self._item.name, self._item.name)
        self._texts: list[str] = []
        self.seen = False
        self._hub = parser.take_index()
        out.append(Opened(self._hub, hollow(self._item)))

    @property
    def told(self) -> str:
        return "".join(self._texts)

    def add(self, _parser: "StreamParser", what: Any, fields: Mapping[str, Any], out: list[Event]) -> None:
        text = fields["delta"]
        self._texts.append(text)
        self.seen = True
        out.append(Delta(self._hub, what, text))

    def end(self, parser: "StreamParser", entry: Mapping[str, Any], out: list[Event]) -> None:
        item = parse_call(entry) if entry else self._item
        # Those who leave the identity out of the closing event have given it in the opening one.
        item.call_id, item.name = item.call_id or self._item.call_id, parser.names.get(item.name, item.name) or self._item.name
        item.arguments = _complete(self._texts, item.arguments, self._hub, "arguments", out)
        parser.called = True
        out.append(Closed(self._hub, item))


class _Other:
    """A built-in tool's item, or one that this version does not know: only its beginning and its end are told."""

    __slots__ = ("_hub", "_item", "seen")

    kind = "other"
    told = ""

    def __init__(self, parser: "StreamParser", entry: dict[str, Any], out: list[Event]) -> None:
        self._item = parse_item(entry, strict=False)[0]
        self.seen = False
        self._hub = parser.take_index()
        out.append(Opened(self._hub, self._item))

    def add(self, parser: "StreamParser", what: Any, fields: Mapping[str, Any], out: list[Event]) -> None:
        """Nothing: the closing event has it all."""

    def end(self, _parser: "StreamParser", entry: Mapping[str, Any], out: list[Event]) -> None:
        items = parse_item(dict(entry), strict=False) if entry else []
        out.append(Closed(self._hub, items[0] if len(items) == 1 else self._item))


def _complete(texts: list[str], full: str, hub: int, what: Any, out: list[Event], *, part: int = 0) -> str:
    """The whole text: what was streamed, and what of the `full` text the closing event adds to it."""
    told = "".join(texts)
    if len(full) > len(told) and full.startswith(told):
        out.append(Delta(hub, what, full[len(told) :], part=part))
        return full
    return told


class StreamParser:
    """Turns a Responses stream into events; items that overlap are told one after the other."""

    __slots__ = (
        "_closed",
        "_current",
        "_done",
        "_early",
        "_next",
        "_open",
        "_splitter",
        "_started",
        "_waiting",
        "_waiting_events",
        "called",
        "names",
    )

    def __init__(self, conversation: Conversation | None = None) -> None:
        """`conversation`: the request, to call tools by the names that the client gave them."""
        self._splitter = Splitter()
        self.names = sent_tools(conversation)
        self._started = False
        self._done = False
        self._next = 0
        self._current = -1  # the output_index of the open item
        self._open: _Message | _Thinking | _Call | _Other | None = None
        self._closed: set[int] = set()
        self._early: dict[int, str] = {}  # items closed because the next began; what was told of them
        self._waiting: dict[int, list[dict[str, Any]]] = {}
        self._waiting_events = 0
        self.called = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now.

        Raises: proxy.sse.EventTooLarge.
        """
        block = self._splitter.feed(data)
        return self._read(block) if block else []

    def finish(self) -> list[Event]:
        """The events that the end of the connection completes: a last one that only lacks its boundary."""
        rest = self._splitter.rest
        return self._read(rest) if rest else []

    def take_index(self) -> int:
        """The index of the next hub item."""
        self._next += 1
        return self._next - 1

    def _read(self, block: bytes) -> list[Event]:
        out: list[Event] = []
        for event in self._splitter.events(block):
            data = data_of(event)
            if not data:
                if event.startswith(b":"):
                    out.append(Pinged())
                continue
            try:
                fields = orjson.loads(data)
            except orjson.JSONDecodeError:
                continue
            if isinstance(fields, dict) and not self._done:
                self._take(fields, out)
        return out

    def _take(self, fields: dict[str, Any], out: list[Event]) -> None:
        kind = fields.get("type")
        if not isinstance(kind, str):
            if fields.get("error"):
                self._fail(fields["error"], out)
        elif kind in _OF_ITEMS:
            index = fields.get("output_index")
            if not isinstance(index, int) or isinstance(index, bool):
                index = max(self._current, 0)
            if kind in _DELTAS and not isinstance(fields.get("delta"), str):
                return
            if self._open is not None and index != self._current and not self._make_way(kind):
                self._wait(index, fields)
                return
            self._take_item(kind, index, fields, out)
            self._catch_up(out)
        elif kind in TERMINAL:
            self._end(kind, mapping_of(fields.get("response")), out)
        elif kind == "error":
            self._fail(fields.get("error") or {name: value for name, value in fields.items() if name != "sequence_number"}, out)
        elif kind == "response.created":
            self._start(mapping_of(fields.get("response")), out)

    def _start(self, response: Mapping[str, Any], out: list[Event]) -> None:
        if self._started:
            return
        self._started = True
        created = response.get("created_at")
        moment = int(created) if isinstance(created, int | float) and 0 <= created < 1e12 else 0
        out.append(Started(text_of(response.get("id")), text_of(response.get("model")), moment))

    def _make_way(self, kind: str) -> bool:
        """Whether the open item ends because another begins: thinking and messages do, once something was told of them.

        Some providers close the thinking only after the answer (OpenRouter): waiting for that would hold the whole answer back.
        """
        return kind == "response.output_item.added" and isinstance(self._open, _Message | _Thinking) and self._open.seen

    def _wait(self, index: int, fields: dict[str, Any]) -> None:
        self._waiting_events += 1
        if self._waiting_events <= MOST_WAITING:
            self._waiting.setdefault(index, []).append(fields)

    def _catch_up(self, out: list[Event]) -> None:
        while self._open is None and self._waiting:
            index = next(iter(self._waiting))
            for fields in self._waiting.pop(index):
                if self._open is not None and index != self._current:
                    self._wait(index, fields)
                else:
                    self._take_item(fields["type"], index, fields, out)

    def _take_item(self, kind: str, index: int, fields: dict[str, Any], out: list[Event]) -> None:
        self._start({}, out)
        told = _DELTAS.get(kind)
        if told is not None:
            if self._open is None:
                if index in self._closed or told[1] == "arguments":  # a call has no name before it is opened; its end has it all
                    return
                self._begin(index, {"type": told[0], "id": fields.get("item_id")}, out)
            if self._open is not None and told[0] == self._open.kind:
                self._open.add(self, told[1], fields, out)
            return
        match kind:
            case "response.output_item.added":
                if self._open is not None and index != self._current:
                    self._early[self._current] = self._open.told
                    self._close({}, out)
                if self._open is None:
                    self._closed.discard(index)
                    self._begin(index, _entry_of(fields.get("item")), out)
            case "response.output_item.done":
                self._finish_item(index, _entry_of(fields.get("item")), out)
            case _:
                if isinstance(self._open, _Message):
                    self._take_part(kind, self._open, fields, out)

    def _take_part(self, kind: str, message: _Message, fields: dict[str, Any], out: list[Event]) -> None:
        match kind:
            case "response.content_part.added":
                index = fields.get("content_index")
                message.add_part(self, index if isinstance(index, int) else 0, mapping_of(fields.get("part")), out)
            case "response.content_part.done":
                message.end_part(mapping_of(fields.get("part")), out)
            case _:
                message.cite(fields.get("annotation"), out)

    def _begin(self, index: int, entry: dict[str, Any], out: list[Event]) -> None:
        self._current = index
        match entry.get("type"):
            case "message":
                self._open = _Message(entry)
            case "reasoning":
                self._open = _Thinking(self, entry, out)
            case "function_call" | "custom_tool_call":
                self._open = _Call(self, entry, out)
            case _:
                self._open = _Other(self, {**entry, "type": text_of(entry.get("type")) or "unknown"}, out)

    def _finish_item(self, index: int, entry: dict[str, Any], out: list[Event]) -> None:
        if self._open is None:
            if index in self._early:
                self._add_rest(self._early.pop(index), entry, out)
            elif index not in self._closed and entry:
                self._begin(index, entry, out)
                self._close(entry, out)
        elif index == self._current:
            self._close(entry if _same_kind(self._open, entry) else {}, out)

    def _close(self, entry: dict[str, Any], out: list[Event]) -> None:
        if self._open is not None:
            self._open.end(self, entry, out)
            self._closed.add(self._current)
            self._open = None

    def _add_rest(self, told: str, entry: dict[str, Any], out: list[Event]) -> None:
        """Tell what the late end of an item adds to what was told of it: its seal, and text that came meanwhile."""
        if entry.get("type") == "reasoning":
            item = parse_reasoning(entry)
            rest = Reasoning("assistant", origin=NAME, id=item.id, seals=item.seals)
            full = item.text or "".join(item.summary)
            rest.text = full[len(told) :] if full.startswith(told) else ""
            if rest.text or rest.seals:
                hub = self.take_index()
                out.append(Opened(hub, hollow(rest)))
                out += [Delta(hub, "reasoning", rest.text)] if rest.text else []
                out += [Delta(hub, "signature", seal=seal) for seal in rest.seals]
                out.append(Closed(hub, rest))
        elif entry.get("type") == "message":
            full = "".join(text_of(part.get("text")) or text_of(part.get("refusal")) for part in dicts_of(entry.get("content")))
            if len(full) > len(told) and full.startswith(told):
                text = Text("assistant", origin=NAME, text=full[len(told) :])
                hub = self.take_index()
                out += [Opened(hub, hollow(text)), Delta(hub, "text", text.text), Closed(hub, text)]

    def _end(self, kind: str, response: Mapping[str, Any], out: list[Event]) -> None:
        self._start(response, out)
        output = response.get("output")
        entries = [_entry_of(entry) for entry in output] if isinstance(output, list) else []

        def said(index: int) -> dict[str, Any]:
            return entries[index] if 0 <= index < len(entries) else {}

        if self._open is not None:
            final = said(self._current)
            self._close(final if _same_kind(self._open, final) else {}, out)
        while self._waiting:
            self._catch_up(out)
            if self._open is not None:
                self._close({}, out)
        if len(self._closed) < len(entries) and kind != "response.failed":
            for index, entry in enumerate(entries):
                if index not in self._closed and entry:
                    self._begin(index, entry, out)
                    self._close(entry, out)
        usage = read_usage(response.get("usage"), response.get("output"))
        if usage is not None:
            out.append(Metered(usage))
        if kind == "response.failed":
            self._fail(response.get("error") or {"message": "The response failed."}, out)
            return
        stop, raw_stop = read_stop({"status": kind.removeprefix("response."), **_status(response)}, called=self.called)
        out.append(Stopped(stop or Stop.END, "", raw_stop))
        out.append(Ended())
        self._done = True

    def _fail(self, raw: Any, out: list[Event]) -> None:
        self._done = True
        out.append(Failed(raw))


def _same_kind(item: _Message | _Thinking | _Call | _Other, entry: Mapping[str, Any]) -> bool:
    kind = entry.get("type")
    return kind == item.kind or (item.kind == "other" and isinstance(kind, str) and kind not in _KINDS)


def _status(response: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say how the response ended, where they say it (a `response.completed` may leave its status out)."""
    found = {"incomplete_details": response.get("incomplete_details")}
    return found | ({"status": response["status"]} if response.get("status") in ("completed", "incomplete") else {})


def _entry_of(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def data_of(event: bytes) -> bytes:
    """The event's data; the usual event (a `data:` line, perhaps an `event:` line before it) without splitting its lines."""
    start = 0 if event.startswith(b"data:") else event.find(b"\ndata:") + 1
    if start == 0 and not event.startswith(b"data:"):
        return Splitter.data_of(event)
    data = event[start + 5 :].strip()
    return data if b"\n" not in data and b"\r" not in data else Splitter.data_of(event)
