"""A provider's Chat Completions stream to the hub's events. Pure."""

from collections.abc import Mapping
from typing import Any, Literal

import orjson

from proxy.formats.conversation import (
    AnyItem,
    Audio,
    Closed,
    Delta,
    Ended,
    Event,
    Failed,
    Metered,
    Opened,
    Pinged,
    Reasoning,
    Refusal,
    Seal,
    Started,
    Stopped,
    Text,
    ToolCall,
)
from proxy.formats.openai_chat_answers import make_call_id, read_stop, read_usage, search_results
from proxy.formats.openai_chat_fields import NAME, arguments_of, dicts_of, is_count, mapping_of, text_of
from proxy.formats.openai_chat_reasoning import seals_of, thinking_text
from proxy.formats.openai_chat_requests import CALL_FIELDS, google_signature, parse_part
from proxy.sse import Splitter

_What = Literal["text", "reasoning", "arguments", "refusal", "audio"]


class _Piece:
    """An item of a stream that is being told."""

    __slots__ = ("call", "details", "field", "index", "key", "live", "notes", "seals", "signature", "summary", "texts", "what")

    def __init__(self, key: object, what: _What, call: ToolCall | None = None) -> None:
        self.key = key
        self.what = what
        self.call = call
        self.index = -1
        self.live = False
        self.texts: list[str] = []
        self.summary: list[str] = []
        self.seals: list[Seal] = []
        self.notes: list[Any] = []  # citations of a text, fragments of sound
        self.details: list[dict[str, Any]] = []
        self.field = ""  # of plain reasoning
        self.signature = ""  # of a text

    def begun(self) -> AnyItem:
        """The item without what the deltas add."""
        match self.what:
            case "text":
                return Text("assistant", origin=NAME)
            case "reasoning":
                return Reasoning("assistant", origin=NAME)
            case "refusal":
                return Refusal("assistant", origin=NAME)
            case "audio":
                return Audio("assistant", audio_id=self._joined("id"), origin=NAME)
        call = self.call
        assert call is not None  # noqa: S101 - a call's piece has one
        return ToolCall("assistant", call.call_id, call.name, kind=call.kind, origin=NAME)

    def whole(self) -> AnyItem:
        """The whole item."""
        text = "".join(self.texts)
        match self.what:
            case "text":
                return Text("assistant", text, list(self.notes), self.signature, origin=NAME)
            case "reasoning":
                summary = "".join(self.summary)
                item = Reasoning("assistant", text, [summary] if summary else [], list(self.seals), origin=NAME)
                item.raw = {"reasoning_details": _joined_details(self.details)} if self.details else {}
                if self.field and not any("text" in detail for detail in self.details):
                    item.raw[self.field] = text
                item.id = next((text_of(detail.get("id")) for detail in self.details if text_of(detail.get("id"))), "")
                return item
            case "refusal":
                return Refusal("assistant", text, origin=NAME)
            case "audio":
                expires = next((note["expires_at"] for note in self.notes if is_count(note.get("expires_at"))), 0)
                return Audio(
                    "assistant",
                    data=self._joined("data"),
                    transcript=self._joined("transcript"),
                    audio_id=self._joined("id"),
                    raw={"audio": {"expires_at": expires}},
                    origin=NAME,
                )
        call = self.call
        assert call is not None  # noqa: S101 - a call's piece has one
        return ToolCall(
            "assistant", call.call_id, call.name, kind=call.kind, arguments=text, seals=list(self.seals), raw=call.raw, origin=NAME
        )

    def _joined(self, name: str) -> str:
        if name == "id":
            return next((found for note in self.notes if (found := text_of(note.get("id")))), "")
        return "".join(text_of(note.get(name)) for note in self.notes)

    @property
    def is_complete(self) -> bool:
        """Whether nothing more can come: the arguments of a call are a whole JSON value."""
        if self.what != "arguments":
            return True
        text = "".join(self.texts)
        if not text.rstrip().endswith("}"):
            return False
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError:
            return False
        return True


def _joined_details(details: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fragments of a stream as the entries that a whole answer would have: one text with its signature, then what is opaque."""
    joined: list[dict[str, Any]] = []
    for detail in details:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.get("type") == detail.get("type")
            and detail.get("type") != "reasoning.encrypted"
            and not last.get("signature")
        ):
            for name, value in detail.items():
                if name in ("text", "summary") and isinstance(value, str):
                    last[name] = text_of(last.get(name)) + value
                elif value is not None:
                    last[name] = value
        else:
            joined.append(dict(detail))
    return joined


class StreamParser:
    """Turns a provider's stream into events, whatever the reads were.

    Items do not overlap: when a provider tells two calls at once, the later one waits until the arguments of the first are whole. How the
    answer ended is told at the end, because some providers say it several times, or before the usage.
    """

    __slots__ = (
        "_answer",
        "_begun",
        "_calls",
        "_count",
        "_done",
        "_failed",
        "_live",
        "_reason",
        "_sources",
        "_splitter",
        "_stop_text",
        "_usage",
        "_waiting",
    )

    def __init__(self) -> None:
        self._splitter = Splitter()
        self._live: _Piece | None = None
        self._waiting: list[_Piece] = []
        self._calls: dict[int, _Piece] = {}  # the latest call at a place
        self._count = 0
        self._answer: tuple[str, int] | None = None  # its id and time, once it has begun
        self._usage: Any = None
        self._reason = ""
        self._stop_text = ""
        self._sources: list[dict[str, Any]] = []
        self._begun = 0  # calls so far
        self._done = False
        self._failed = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now.

        Raises: proxy.sse.EventTooLarge.
        """
        block = self._splitter.feed(data)
        events: list[Event] = []
        if block:
            for event in Splitter.events(block):
                self._read_event(event, events)
        return events

    def finish(self) -> list[Event]:
        """The events that the end of the connection completes. Without a reason to stop there is no `Stopped`: the answer was cut."""
        events: list[Event] = []
        if self._splitter.rest.strip():
            self._read_event(self._splitter.rest, events, at_end=True)
        if self._done:
            return events
        self._done = True
        if self._reason and not self._failed:
            self._complete(events)
        elif not self._failed:
            self._meter(events)
        return events

    def _read_event(self, event: bytes, events: list[Event], *, at_end: bool = False) -> None:
        data = Splitter.data_of(event).strip()
        if self._done:
            return
        if data == b"[DONE]":
            self._done = True
            if not self._failed:
                self._complete(events)
            events.append(Ended())
            return
        if not data:
            if event.startswith(b":"):
                events.append(Pinged())
            return
        if self._failed:
            return
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            if data.startswith(b"{") and not at_end:  # part of the answer is lost; to go on would hide it
                self._fail({"message": "The provider sent a chunk that is not JSON."}, events)
            return
        if isinstance(chunk, dict):
            if (error := chunk.get("error")) or event.startswith(b"event: error"):
                self._note_usage(chunk, {})
                self._meter(events)
                self._fail(error or chunk, events)
            else:
                self._read_chunk(chunk, events)

    def _fail(self, raw: Any, events: list[Event]) -> None:
        self._failed = True
        events.append(Failed(raw))

    def _read_chunk(self, chunk: dict[str, Any], events: list[Event]) -> None:
        choices = chunk.get("choices")
        choice: dict[str, Any] = {}
        if isinstance(choices, list):
            for one in choices:
                if isinstance(one, dict) and one.get("index") in (None, 0):
                    choice = one
                    break
        if self._answer is None and (choice or chunk.get("id")):
            created = chunk.get("created")
            self._answer = (text_of(chunk.get("id")), created if is_count(created) else 0)
            events.append(Started(self._answer[0], text_of(chunk.get("model")), self._answer[1]))
        self._note_usage(chunk, choice)
        if "search_results" in chunk or "citations" in chunk:
            self._sources = search_results(chunk) or self._sources
        delta = choice.get("delta")
        if isinstance(delta, dict):
            content = delta.get("content")
            if content.__class__ is str and content and len(delta) <= 2:  # the plain chunk, which most are: content, perhaps the role
                self._tell("text", "text", content, events)
                for name in delta:
                    if name not in ("content", "role"):
                        self._read_delta({**delta, "content": None}, events)
            elif delta:
                self._read_delta(delta, events)
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self._reason = reason
            self._stop_text = text_of(choice.get("stop_reason"))

    def _note_usage(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        usage = chunk.get("usage") or choice.get("usage") or mapping_of(chunk.get("x_groq")).get("usage")
        if usage:
            self._usage = usage

    def _read_delta(self, delta: dict[str, Any], events: list[Event]) -> None:
        calls = dicts_of(delta.get("tool_calls"))
        details = dicts_of(delta.get("reasoning_details"))
        self._read_reasoning(delta, details, events)
        content = delta.get("content")
        if isinstance(content, str):
            if content:
                self._tell("text", "text", content, events)
        else:
            for part in dicts_of(content):
                self._read_part(part, events)
        if refusal := text_of(delta.get("refusal")):
            self._tell("refusal", "refusal", refusal, events)
        for note in dicts_of(delta.get("annotations")):
            self._cite(note, events)
        for image in dicts_of(delta.get("images")):
            self._tell_whole(parse_part(image, "assistant"), events)
        if audio := mapping_of(delta.get("audio")):
            self._tell_audio(audio, events)
        for place, call in enumerate(calls):
            self._read_call(call, place, events)
        if isinstance(called := delta.get("function_call"), dict):
            self._read_call({"index": 0, "type": "function", "function": called}, 0, events)
        if signature := google_signature(delta):
            if self._calls:
                self._seal(self._calls[min(self._calls)], Seal("signature", signature, NAME), events)
            elif self._live is not None and self._live.what == "text":
                self._live.signature = signature
        for detail in details:
            if (piece := self._owner(detail)) is not None:
                for seal in seals_of(detail):
                    self._seal(piece, Seal("signature", seal.data, NAME), events)

    def _read_part(self, part: dict[str, Any], events: list[Event]) -> None:
        if part.get("type") == "thinking":
            if text := thinking_text(part):
                self._tell("reasoning", "reasoning", text, events, field="reasoning_content")
            for seal in seals_of(part):
                self._seal(self._reach("reasoning", "reasoning", events), seal, events)
        elif text := text_of(part.get("text")):
            self._tell("text", "text", text, events)

    def _read_reasoning(self, delta: dict[str, Any], details: list[dict[str, Any]], events: list[Event]) -> None:
        has_text = False
        for detail in details:
            seals = seals_of(detail)
            if seals and self._owner(detail) is not None:
                continue
            text, summary = text_of(detail.get("text")), text_of(detail.get("summary"))
            if not (text or summary or seals):
                continue
            live = self._waiting[-1] if self._waiting else self._live
            index = detail.get("index")
            key: object = ("reasoning", index if is_count(index) else 0)
            if live is not None and live.what == "reasoning" and (live.key == "reasoning" or not is_count(index)):
                key = live.key
            if text:
                has_text = True
                self._tell(key, "reasoning", text, events)
            piece = self._reach(key, "reasoning", events)
            piece.details.append(detail)
            if summary:
                has_text = True
                piece.summary.append(summary)
                if piece.live:
                    events.append(Delta(piece.index, "summary", summary))
            for seal in seals:
                self._seal(piece, seal, events)
        if has_text:
            return  # the plain field beside it says the same
        for field in ("reasoning_content", "reasoning"):
            if text := text_of(delta.get(field)):
                live = self._waiting[-1] if self._waiting else self._live
                self._tell(
                    live.key if live is not None and live.what == "reasoning" else "reasoning", "reasoning", text, events, field=field
                )
                return

    def _owner(self, detail: Mapping[str, Any]) -> _Piece | None:
        """The call that a reasoning detail belongs to, while it is still being told."""
        owner = detail.get("id")
        if not owner or not self._calls:
            return None
        for piece in self._calls.values():
            if piece.call is not None and piece.call.call_id == owner and self._is_open(piece):
                return piece
        return None

    def _is_open(self, piece: _Piece) -> bool:
        return piece is self._live or piece in self._waiting

    def _read_call(self, call: dict[str, Any], place: int, events: list[Event]) -> None:
        custom = call.get("type") == "custom" or isinstance(call.get("custom"), dict)
        said = mapping_of(call.get("custom" if custom else "function"))
        index, call_id, name = call.get("index"), text_of(call.get("id")), text_of(said.get("name"))
        arguments = text_of(said.get("input")) if custom else arguments_of(said.get("arguments"))
        if not is_count(index):
            same = next(
                (number for number, piece in self._calls.items() if call_id and piece.call is not None and piece.call.call_id == call_id),
                None,
            )
            index = same if same is not None else len(self._calls) if call_id or name else max(self._calls, default=place)
        piece = self._calls.get(index)
        # Some servers give every call the index 0: another id with a name, or a name behind whole arguments, is another call.
        if piece is not None and name and piece.call is not None and piece.call.name:
            other_id = bool(call_id) and call_id != piece.call.call_id
            if other_id or (not call_id and piece.texts and piece.is_complete):
                piece = None
        if piece is None:
            if not name and not call_id:
                return  # a continuation of nothing
            answer_id, created = self._answer or ("", 0)
            made = call_id or make_call_id(answer_id, created, self._begun)
            extra = {"tool_call": {key: value for key, value in call.items() if key != "index"}} if call.keys() - CALL_FIELDS else None
            known = ToolCall("assistant", made, kind="custom" if custom else "function", raw=extra, origin=NAME)
            piece = _Piece(("call", self._begun), "arguments", known)
            self._calls[index] = piece
            self._begun += 1
        if name and piece.call is not None and not piece.call.name:
            piece.call.name = name
            self._add(piece, events)
        if arguments:
            if self._is_open(piece):
                self._say(piece, arguments, events)
            elif piece.call is not None and not piece.call.name:
                piece.texts.append(arguments)  # its name is still to come
        if signature := google_signature(call):
            self._seal(piece, Seal("signature", signature, NAME), events)
        if self._waiting and self._live is not None and self._live.is_complete:
            self._advance(events)

    def _tell_audio(self, audio: dict[str, Any], events: list[Event]) -> None:
        live = self._waiting[-1] if self._waiting else self._live
        if live is not None and live.key == "audio":
            live.notes.append(audio)
            if live.live:
                events.append(Delta(live.index, "audio", raw=audio))
            return
        piece = _Piece("audio", "audio")
        piece.notes.append(audio)
        self._add(piece, events)

    def _cite(self, note: dict[str, Any], events: list[Event]) -> None:
        """Add a citation to the text; late ones, behind a call, find it closed and make an empty text of their own."""
        if self._live is None and not self._count:
            return
        piece = self._reach("text", "text", events)
        piece.notes.append(note)
        if piece.live:
            events.append(Delta(piece.index, "citation", raw=note))

    # The items, one after the other

    def _tell(self, key: object, what: _What, text: str, events: list[Event], *, field: str = "") -> None:
        live = self._live
        if live is not None and live.key == key and not self._waiting:
            live.texts.append(text)
            events.append(Delta(live.index, what, text))
        else:
            live = self._reach(key, what, events)
            self._say(live, text, events)
        if field:
            live.field = field

    def _reach(self, key: object, what: _What, events: list[Event]) -> _Piece:
        """The piece of this key that is told now or waits last; else a new one."""
        last = self._waiting[-1] if self._waiting else self._live
        if last is not None and last.key == key:
            return last
        piece = _Piece(key, what)
        self._add(piece, events)
        return piece

    def _add(self, piece: _Piece, events: list[Event]) -> None:
        live = self._live
        if live is not None and (self._waiting or not (live.is_complete or (piece.what != "arguments" and not live.texts))):
            self._waiting.append(piece)
            return
        if live is not None:
            self._close(live, events)
        self._open(piece, events)

    def _open(self, piece: _Piece, events: list[Event]) -> None:
        self._live = piece
        piece.live = True
        piece.index = self._count
        self._count += 1
        events.append(Opened(piece.index, piece.begun()))
        if piece.texts:
            events.append(Delta(piece.index, piece.what, "".join(piece.texts)))
        if piece.summary:
            events.append(Delta(piece.index, "summary", "".join(piece.summary)))
        if piece.what == "audio":
            events.extend(Delta(piece.index, "audio", raw=note) for note in piece.notes)
        else:
            events.extend(Delta(piece.index, "citation", raw=note) for note in piece.notes)
        events.extend(Delta(piece.index, "signature", seal=seal) for seal in piece.seals)

    def _say(self, piece: _Piece, text: str, events: list[Event]) -> None:
        piece.texts.append(text)
        if piece.live:
            events.append(Delta(piece.index, piece.what, text))

    def _seal(self, piece: _Piece, seal: Seal, events: list[Event]) -> None:
        if any(known.data == seal.data for known in piece.seals) or not self._is_open(piece):
            return
        piece.seals.append(seal)
        if piece.live:
            events.append(Delta(piece.index, "signature", seal=seal))

    def _tell_whole(self, item: AnyItem, events: list[Event]) -> None:
        self._advance(events, all_of_them=True)
        if self._live is not None:
            self._close(self._live, events)
        events += [Opened(self._count, item), Closed(self._count, item)]
        self._count += 1

    def _close(self, piece: _Piece, events: list[Event]) -> None:
        events.append(Closed(piece.index, piece.whole()))
        self._live = None

    def _advance(self, events: list[Event], *, all_of_them: bool = False) -> None:
        """Let those that wait speak, as far as the one before is complete."""
        while self._waiting and (self._live is None or all_of_them or self._live.is_complete):
            if self._live is not None:
                self._close(self._live, events)
            self._open(self._waiting.pop(0), events)

    def _meter(self, events: list[Event]) -> None:
        usage = read_usage(self._usage)
        self._usage = None
        if usage is not None:
            events.append(Metered(usage))

    def _complete(self, events: list[Event]) -> None:
        self._advance(events, all_of_them=True)
        live = self._live
        if live is not None:
            if live.what == "text" and not live.notes:
                for note in self._sources:
                    live.notes.append(note)
                    events.append(Delta(live.index, "citation", raw=note))
            self._close(live, events)
        self._meter(events)
        if self._answer is not None:
            events.append(Stopped(read_stop(self._reason, calls=bool(self._calls)), self._stop_text, self._reason))
