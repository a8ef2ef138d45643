"""OpenAI Responses, streamed: its events into the hub's, the hub's events into its own with their whole lifecycle. Pure."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from catalog.usage import TokenUsage
from proxy.formats.conversation import (
    Audio,
    Closed,
    Conversation,
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
    Started,
    Stop,
    Stopped,
    Text,
    ToolCall,
    hollow,
)
from proxy.formats.openai_responses_items import (
    NAME,
    call_prefix,
    dicts_of,
    item_id,
    mapping_of,
    open_message,
    original_call,
    outer_of,
    parse_call,
    parse_item,
    parse_part,
    parse_reasoning,
    read_stop,
    read_usage,
    renamed_tools,
    render_call,
    render_citation,
    render_other,
    render_part,
    render_reasoning,
    render_response,
    render_seal,
    render_stop,
    render_usage,
    sent_tools,
    text_of,
)
from proxy.sse import Splitter

KEEP_ALIVE: Final = b": keep-alive\n\n"

# -- From the provider -----------------------------------------------------------------------------------------------------------------

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
        usage = read_usage(response.get("usage"))
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


# -- To the client ---------------------------------------------------------------------------------------------------------------------


class StreamRenderer:
    """Turns events into a Responses stream: every item opened, told, closed, and the whole answer again in the last event."""

    __slots__ = (
        "_call",
        "_deltas",
        "_echo",
        "_entry",
        "_head",
        "_held",
        "_identity",
        "_kind",
        "_message",
        "_output",
        "_part",
        "_parts",
        "_renamed",
        "_response",
        "_sequence",
        "_stopped",
        "_terminated",
        "_texts",
        "_usage",
    )

    keep_alive: bytes = KEEP_ALIVE

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._renamed = renamed_tools(echo.conversation)
        self._response: dict[str, Any] | None = None
        self._sequence = 0
        self._output: list[dict[str, Any]] = []
        self._message: dict[str, Any] | None = None  # the message that is open; it is the last of the output
        self._part: Any = None  # the hub item whose part is open, or about to be
        self._kind = ""  # of the open part: output_text, refusal, summary or reasoning
        self._head = b""  # a delta of the open part, up to its text
        self._texts: list[str] = []
        self._parts: list[tuple[str, str]] = []  # of the open thinking: what was told, part by part
        self._identity = ""
        self._entry: dict[str, Any] | None = None  # the open item that is not a message
        self._call: ToolCall | None = None
        self._held = False  # the open call is shown when it is whole
        self._deltas = 0
        self._usage: TokenUsage | None = None
        self._stopped: Stopped | None = None
        self._terminated = False

    def feed(self, event: Event) -> bytes:
        """The bytes to send for one event; empty where the format has nothing to say."""
        if self._terminated:
            return b""
        if isinstance(event, Delta):
            return self._start() + self._tell(event)
        match event:
            case Started():
                if event.usage is not None:
                    self._usage = event.usage
                return self._start()
            case Opened():
                return self._start() + self._open(event.item)
            case Closed():
                return self._start() + self._close(event.item)
            case Metered():
                self._usage = event.usage
            case Stopped():
                self._stopped = event
                return self._start() + self._end_message(event.refusal)
            case Pinged():
                return self.keep_alive
            case Ended():
                return self._start() + self._end()
            case _:
                pass
        return b""

    def fail(self, error: Mapping[str, Any], *, ran_out: bool = False) -> bytes:
        """The last event of a stream that failed: `response.failed` with the gateway's error (OpenAI's shape), its output so far kept.

        With `ran_out` (nothing more could be held) it also says that the answer ends for its length.
        """
        if self._terminated:
            return b""
        start = self._start()
        self._terminated = True
        details = {"reason": "max_output_tokens"} if ran_out else None
        fields = {"status": "failed", "error": failure_of(error), "incomplete_details": details}
        return start + self._event("response.failed", {"response": self._whole(fields)})

    # The lifecycle of the response

    def _start(self) -> bytes:
        if self._response is not None:
            return b""
        self._response = render_response(self._echo)
        shown = {"response": self._response}
        return self._event("response.created", shown) + self._event("response.in_progress", shown)

    def _end(self) -> bytes:
        stopped = self._stopped or Stopped(Stop.END)
        tail = self._end_message(stopped.refusal)
        fields = render_stop(stopped.stop, stopped.raw_stop)
        kind = {"completed": "response.completed", "incomplete": "response.incomplete"}.get(fields["status"], "response.failed")
        self._terminated = True
        return tail + self._event(kind, {"response": self._whole(fields)})

    def _whole(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        usage = None if self._usage is None else render_usage(self._usage)
        return {**(self._response or {}), **fields, "output": self._output, "usage": usage}

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        body = orjson.dumps({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n"

    def _prepare(self, kind: str, fields: dict[str, Any]) -> None:
        """Encode what all deltas of a part share, once."""
        body = orjson.dumps({"type": kind, "item_id": self._identity, "output_index": len(self._output) - 1, **fields})
        self._head = b"event: " + kind.encode() + b"\ndata: " + body[:-1] + b',"delta":'

    def _delta(self, text: str) -> bytes:
        event = b'%b%b,"sequence_number":%d}\n\n' % (self._head, orjson.dumps(text), self._sequence)
        self._sequence += 1
        return event

    def _add(self, prefix: str, entry: dict[str, Any], *, identity: str = "") -> bytes:
        """Open an item: `entry` is how it looks as yet."""
        self._identity = identity or entry.get("id") or item_id(prefix, self._echo.id, len(self._output))
        entry["id"] = self._identity
        self._output.append(entry)
        return self._event("response.output_item.added", {"output_index": len(self._output) - 1, "item": entry})

    def _done(self, entry: dict[str, Any]) -> bytes:
        """Close the last item of the output: `entry` is all of it."""
        self._output[-1] = entry
        return self._event("response.output_item.done", {"output_index": len(self._output) - 1, "item": entry})

    def _next_id(self, prefix: str) -> str:
        return item_id(prefix, self._echo.id, len(self._output))

    # Items

    def _open(self, item: Any) -> bytes:
        self._texts = []
        self._deltas = 0
        match item:
            case Text() | Refusal() | Audio():
                self._part, self._kind = item, ""
                return b""
            case Reasoning():
                head = self._end_message()
                self._part, self._kind, self._parts = item, "", []
                return head + self._add("rs", {"id": "", "type": "reasoning", "summary": []})
            case ToolCall():
                head = self._end_message()
                for seal in item.seals:
                    head += self._show_seal(seal.data)
                # Gemini signs its calls, and sends them whole: the signature is shown before the call that it belongs to.
                self._call = original_call(item, self._renamed)
                self._held = item.origin == "gemini" or (self._call.kind == "custom" and item.kind == "function")
                return head if self._held else head + self._open_call(self._call)
            case _:
                self._entry = render_other(item, self._echo.id, len(self._output)) if item.origin == NAME else None
                if self._entry is None:
                    return b""
                head = self._end_message()
                self._entry["id"] = text_of(self._entry.get("id")) or self._next_id("it")
                return head + self._add("it", self._entry)

    def _tell(self, event: Delta) -> bytes:
        text = event.text
        match event.what:
            case "text" | "refusal" if isinstance(self._part, Text | Refusal):
                if not text:
                    return b""
                head = b"" if self._kind else self._open_part("refusal" if event.what == "refusal" else "output_text")
                self._texts.append(text)
                return head + self._delta(text)
            case "reasoning" | "summary" if isinstance(self._part, Reasoning):
                return self._think(event.what, text, event.part) if text else b""
            case "arguments" if self._call is not None:
                self._texts.append(text)
                return b"" if self._held or not text else self._delta(text)
            case "citation" if isinstance(self._part, Text):
                return self._cite(event.raw)
            case _:
                return b""

    def _close(self, item: Any) -> bytes:
        match item:
            case Text() | Refusal() | Audio():
                return self._close_part(item)
            case Reasoning():
                return self._close_thinking(item)
            case ToolCall():
                return self._close_call(item)
            case _:
                return self._close_other(item)

    def _close_other(self, item: Any) -> bytes:
        opened, self._entry = self._entry, None
        if opened is not None:
            found = render_other(item, self._echo.id, len(self._output) - 1) or opened
            return self._done({**found, "id": opened["id"]})
        entry = render_other(item, self._echo.id, len(self._output))
        if entry is None:
            return b""
        head = self._end_message()
        return (
            head + self._add("it", {**entry, "status": "in_progress", "result": None} if "result" in entry else entry) + self._done(entry)
        )

    def _show_seal(self, data: str) -> bytes:
        entry = render_seal(self._next_id("rs"), data)
        return self._add("rs", entry) + self._done(entry)

    # Messages

    def _open_part(self, kind: str) -> bytes:
        head = b""
        if self._message is not None and self._part.new_turn:
            head = self._end_message()
        if self._message is None:
            self._message = open_message("", self._part, status="in_progress")
            head += self._add("msg", self._message)
        self._kind = kind
        index = len(self._message["content"])
        part: dict[str, Any] = {"type": "refusal", "refusal": ""}
        if kind == "output_text":
            part = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
        place = {"item_id": self._identity, "output_index": len(self._output) - 1, "content_index": index}
        head += self._event("response.content_part.added", {**place, "part": part})
        if kind == "output_text":
            self._prepare("response.output_text.delta", {"content_index": index, "logprobs": []})
        else:
            self._prepare("response.refusal.delta", {"content_index": index})
        return head

    def _cite(self, raw: Any) -> bytes:
        annotation = raw if self._part.origin == NAME else render_citation(raw, sum(map(len, self._texts)))
        if annotation is None:
            return b""
        head = b"" if self._kind else self._open_part("output_text")
        self._deltas += 1
        content = self._message["content"] if self._message else []
        place = {"item_id": self._identity, "output_index": len(self._output) - 1, "content_index": len(content)}
        fields = {**place, "annotation_index": self._deltas - 1, "annotation": annotation}
        return head + self._event("response.output_text.annotation.added", fields)

    def _close_part(self, item: Text | Refusal | Audio) -> bytes:
        part = render_part(item)
        self._part = item
        head = b""
        if part is not None:
            if not self._kind:
                head = self._open_part(part["type"])
            head += self._end_part(part)
        self._part, self._kind = None, ""
        if isinstance(item, Text) and item.signature:
            head += self._end_message() + self._show_seal(item.signature)
        return head

    def _end_part(self, part: dict[str, Any]) -> bytes:
        name = "refusal" if part["type"] == "refusal" else "text"
        told = "".join(self._texts)
        tail = b""
        if part[name] != told:
            if part[name].startswith(told):
                tail = self._delta(part[name][len(told) :])
            else:
                part[name] = told  # what the client has read is what was said
        content = self._message["content"] if self._message is not None else []
        place = {"item_id": self._identity, "output_index": len(self._output) - 1, "content_index": len(content)}
        content.append(part)
        if name == "text":
            tail += self._event("response.output_text.done", {**place, "text": part["text"], "logprobs": part["logprobs"]})
        else:
            tail += self._event("response.refusal.done", {**place, "refusal": part["refusal"]})
        return tail + self._event("response.content_part.done", {**place, "part": part})

    def _end_message(self, refusal: str = "") -> bytes:
        head = b""
        if refusal and not _refused(self._output):
            self._part, self._texts = Refusal("assistant", text=refusal), []
            head = self._close_part(self._part)
        if self._message is None:
            return head
        message = {**self._message, "status": "completed"}
        self._message = None
        return head + self._done(message)

    # Thinking

    def _think(self, what: str, text: str, part: int) -> bytes:
        shown = "reasoning" if what == "reasoning" and self._part.origin == NAME else f"{what}{part}"
        head = b""
        if shown != self._kind:
            head = self._end_thought()
            self._kind = shown
            place = {"item_id": self._identity, "output_index": len(self._output) - 1}
            if shown == "reasoning":
                index = len(self._parts) - self._summaries()
                opened = {"content_index": index, "part": {"type": "reasoning_text", "text": ""}}
                head += self._event("response.content_part.added", {**place, **opened})
                self._prepare("response.reasoning_text.delta", {"content_index": index})
            else:
                index = self._summaries()
                opened = {"summary_index": index, "part": {"type": "summary_text", "text": ""}}
                head += self._event("response.reasoning_summary_part.added", {**place, **opened})
                self._prepare("response.reasoning_summary_text.delta", {"summary_index": index})
        self._texts.append(text)
        return head + self._delta(text)

    def _summaries(self) -> int:
        return sum(kind != "reasoning" for kind, _ in self._parts)

    def _end_thought(self) -> bytes:
        if not self._kind:
            return b""
        text = "".join(self._texts)
        place: dict[str, Any] = {"item_id": self._identity, "output_index": len(self._output) - 1}
        if self._kind == "reasoning":
            place["content_index"] = len(self._parts) - self._summaries()
            tail = self._event("response.reasoning_text.done", {**place, "text": text})
            tail += self._event("response.content_part.done", {**place, "part": {"type": "reasoning_text", "text": text}})
        else:
            place["summary_index"] = self._summaries()
            tail = self._event("response.reasoning_summary_text.done", {**place, "text": text})
            tail += self._event("response.reasoning_summary_part.done", {**place, "part": {"type": "summary_text", "text": text}})
        self._parts.append((self._kind, text))
        self._texts, self._kind = [], ""
        return tail

    def _close_thinking(self, item: Reasoning) -> bytes:
        tail = self._end_thought()
        if not self._parts:  # told in no delta
            self._part = item
            if item.text:
                tail += self._think("reasoning", item.text, 0)
            for index, text in enumerate(item.summary):
                tail += self._think("summary", text, index) if text else b""
            tail += self._end_thought()
        entry = render_reasoning(self._identity, item)
        entry["summary"] = [{"type": "summary_text", "text": text} for kind, text in self._parts if kind != "reasoning"]
        thoughts = [{"type": "reasoning_text", "text": text} for kind, text in self._parts if kind == "reasoning"]
        if thoughts:
            entry["content"] = thoughts
        else:
            entry.pop("content", None)
        self._part, self._parts = None, []
        tail += self._done(entry)
        for seal in item.seals[1:]:
            tail += self._show_seal(seal.data)
        return tail

    # Calls

    def _open_call(self, call: ToolCall) -> bytes:
        shown = ToolCall("assistant", call_id=call.call_id, name=call.name, namespace=call.namespace, kind=call.kind)
        added = self._add(call_prefix(call), render_call(self._next_id(call_prefix(call)), shown, status="in_progress"))
        self._prepare(
            "response.custom_tool_call_input.delta" if call.kind == "custom" else "response.function_call_arguments.delta",
            {},
        )
        return added

    def _close_call(self, item: ToolCall) -> bytes:
        call = original_call(item, self._renamed)
        told = "".join(self._texts)
        opened, self._call, self._texts = self._call, None, []
        if opened is None or self._held:
            head = self._end_message()
            for seal in item.seals if not (opened is not None and opened.seals) else []:
                head += self._show_seal(seal.data)
            told, seals = "", []
            head += self._open_call(call)
        else:
            head, seals = b"", [] if opened.seals else item.seals
        self._held = False
        entry = render_call(self._identity, call)
        name, event = (
            ("input", "response.custom_tool_call_input") if call.kind == "custom" else ("arguments", "response.function_call_arguments")
        )
        if entry[name] != told:
            if entry[name].startswith(told):
                head += self._delta(entry[name][len(told) :])
            else:
                entry[name] = told
        place = {"item_id": self._identity, "output_index": len(self._output) - 1}
        # The function's name is part of the closing event in newer SDKs.
        closing = {**place, name: entry[name], **({} if name == "input" else {"name": call.name})}
        head += self._event(f"{event}.done", closing) + self._done(entry)
        for seal in seals:
            head += self._show_seal(seal.data)
        return head


def _refused(output: list[dict[str, Any]]) -> bool:
    return any(part.get("type") == "refusal" for entry in output for part in dicts_of(entry.get("content")))


def failure_of(error: Mapping[str, Any]) -> dict[str, Any]:
    """The `error` of a failed response, from the gateway's error in OpenAI's shape."""
    inner = mapping_of(error.get("error")) or error
    code = text_of(inner.get("code")) or text_of(inner.get("type")) or "server_error"
    return {"code": code, "message": text_of(inner.get("message")) or "The answer could not be completed."}
