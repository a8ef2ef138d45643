"""The hub's events to a stream for clients of Responses, with their whole lifecycle. Pure."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from catalog.usage import TokenUsage
from proxy.formats.conversation import (
    Audio,
    Closed,
    Delta,
    Echo,
    Ended,
    Event,
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
)
from proxy.formats.openai_responses_items import NAME, dicts_of, item_id, mapping_of, original_call, text_of
from proxy.formats.openai_responses_output import (
    call_prefix,
    open_message,
    render_call,
    render_citation,
    render_other,
    render_part,
    render_reasoning,
    render_response,
    render_seal,
    render_stop,
    render_usage,
)
from proxy.formats.tool_names import renamed_tools

KEEP_ALIVE: Final = b": keep-alive\n\n"


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
        "usage_extra",
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
        self.usage_extra: dict[str, Any] = {}  # what else the usage shows (the cost)
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
                return self._start() + self._cut_part() + self._end_message(event.refusal)
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
        usage = None if self._usage is None else render_usage(self._usage) | self.usage_extra
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

    def _cut_part(self) -> bytes:
        """Close the text that an answer is stopped in the middle of."""
        if self._kind not in ("output_text", "refusal"):
            return b""
        told = "".join(self._texts)
        return self._close_part(Text("assistant", text=told) if self._kind == "output_text" else Refusal("assistant", text=told))

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
