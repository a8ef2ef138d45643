"""Owns the grammar of the Responses streams that the gateway emits: what strict clients demand of events, their order and their contents."""

import json
import re
from typing import Any

TERMINAL = {"response.completed": "completed", "response.incomplete": "incomplete", "response.failed": "failed"}
EVENTS = {
    *TERMINAL,
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.output_item.done",
    "response.content_part.added",
    "response.content_part.done",
    "response.output_text.delta",
    "response.output_text.done",
    "response.output_text.annotation.added",
    "response.refusal.delta",
    "response.refusal.done",
    "response.reasoning_text.delta",
    "response.reasoning_text.done",
    "response.reasoning_summary_part.added",
    "response.reasoning_summary_part.done",
    "response.reasoning_summary_text.delta",
    "response.reasoning_summary_text.done",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.custom_tool_call_input.delta",
    "response.custom_tool_call_input.done",
}
ANSWER = (
    "id",
    "object",
    "created_at",
    "model",
    "output",
    "parallel_tool_calls",
    "tool_choice",
    "tools",
    "status",
    "text",
    "error",
    "usage",
)
PREFIXES = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_", "custom_tool_call": "ctc_"}
# A text's events: what holds its deltas, the name of its full text in the closing event, the part it becomes.
TEXTS = {
    "response.output_text": ("content_index", "text"),
    "response.refusal": ("content_index", "refusal"),
    "response.reasoning_text": ("content_index", "text"),
    "response.reasoning_summary_text": ("summary_index", "text"),
    "response.function_call_arguments": (None, "arguments"),
    "response.custom_tool_call_input": (None, "input"),
}
PARTS = {
    "response.output_text": "output_text",
    "response.refusal": "refusal",
    "response.reasoning_text": "reasoning_text",
    "response.reasoning_summary_text": "summary_text",
}


def check(stream: bytes) -> list[str]:
    """Return what is wrong with a whole emitted stream, in words; empty when nothing is."""
    return _Reader().read(stream)


def check_usage(usage: Any) -> list[str]:
    """Return what a usage object lacks for strict clients."""
    wanted = (
        ("input_tokens",),
        ("input_tokens_details", "cached_tokens"),
        ("input_tokens_details", "cache_write_tokens"),
        ("output_tokens",),
        ("output_tokens_details", "reasoning_tokens"),
        ("total_tokens",),
    )
    problems = []
    for path in wanted:
        value: Any = usage
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            problems.append(f"usage.{'.'.join(path)} is {value!r}")
    return problems


class _Reader:
    def __init__(self) -> None:
        self.problems: list[str] = []
        self.open: dict[str, Any] | None = None  # the item that is open
        self.part: dict[str, Any] | None = None  # its open part, with the text told so far
        self.told: str | None = None
        self.parts = 0
        self.summaries = 0
        self.ended = False  # the item's own text was closed (arguments)
        self.done: list[dict[str, Any]] = []

    def read(self, stream: bytes) -> list[str]:
        events = self._events(stream)
        names = [event.get("type") for event in events]
        if not names:
            return ["no event"]
        if names[0] != "response.created":
            self._say(f"begins with {names[0]}")
        if names[1:2] != ["response.in_progress"]:
            self._say("response.in_progress is not second")
        if names[-1] not in TERMINAL:
            self._say(f"ends with {names[-1]}")
        if sum(name in TERMINAL for name in names) > 1:
            self._say("more than one end")
        if [event.get("sequence_number") for event in events] != list(range(len(events))):
            self._say("sequence_number does not count from 0")
        first = events[0].get("response") or {}
        for event in events[2:-1]:
            self._step(str(event["type"]), event)
        self._end(events[-1], first)
        return self.problems

    def _say(self, problem: str) -> None:
        self.problems.append(problem)

    def _events(self, stream: bytes) -> list[dict[str, Any]]:
        if not stream.endswith(b"\n\n"):
            self._say("the last event is not closed")
        events = []
        for block in stream.decode().split("\n\n"):
            if not block or block.startswith(":"):
                continue
            found = re.fullmatch(r"event: (\S+)\ndata: ([^\n]*)", block)
            if found is None:
                self._say(f"not an event: {block[:80]!r}")
                continue
            event = json.loads(found[2])
            if event.get("type") != found[1]:
                self._say(f"event: {found[1]} but type {event.get('type')}")
            if found[1] not in EVENTS:
                self._say(f"an invented event: {found[1]}")
            events.append(event)
        return events

    def _step(self, name: str, event: dict[str, Any]) -> None:
        if name == "response.output_item.added":
            self._add_item(event)
        elif self.open is None:
            self._say(f"{name} outside of an item")
        elif event.get("output_index") != len(self.done):
            self._say(f"{name} of item {event.get('output_index')}, not {len(self.done)}")
        elif name == "response.output_item.done":
            self._end_item(event)
        elif event.get("item_id") != self.open.get("id"):
            self._say(f"{name} of item {event.get('item_id')!r}, not {self.open.get('id')!r}")
        elif name in ("response.content_part.added", "response.reasoning_summary_part.added"):
            self._add_part(name, event)
        elif name in ("response.content_part.done", "response.reasoning_summary_part.done"):
            self._end_part(event)
        elif name == "response.output_text.annotation.added":
            if self.part is None or self.part.get("type") != "output_text":
                self._say("an annotation outside of a text")
        else:
            self._text(name, event)

    def _add_item(self, event: dict[str, Any]) -> None:
        item = event["item"]
        if self.open is not None:
            self._say("an item inside an item")
        if event.get("output_index") != len(self.done):
            self._say(f"item {event.get('output_index')} added, not {len(self.done)}")
        if not item.get("id") or not item["id"].startswith(PREFIXES.get(item["type"], "")):
            self._say(f"a {item['type']} has the id {item.get('id')!r}")
        if item["type"] == "message" and item.get("content") != []:
            self._say("a message is added with content")
        self.open, self.part, self.told, self.parts, self.summaries, self.ended = item, None, None, 0, 0, False

    def _add_part(self, name: str, event: dict[str, Any]) -> None:
        if self.part is not None:
            self._say("a part inside a part")
        summary = name.startswith("response.reasoning_summary")
        index = event.get("summary_index" if summary else "content_index")
        expected = self.summaries if summary else self.parts
        if index != expected:
            self._say(f"part {index} added, not {expected}")
        self.part, self.told = event["part"], ""

    def _end_part(self, event: dict[str, Any]) -> None:
        if self.part is None:
            self._say("a part ends that did not begin")
            return
        part = event["part"]
        if part["type"] != self.part["type"]:
            self._say("a part changes its type")
        if (part.get("text") if "text" in part else part.get("refusal")) != self.told:
            self._say("a part is not what its deltas told")
        if part["type"] == "summary_text":
            self.summaries += 1
        else:
            self.parts += 1
        self.part = self.told = None

    def _text(self, name: str, event: dict[str, Any]) -> None:
        base, _, step = name.rpartition(".")
        place, full = TEXTS[base]
        if place is None:
            if self.open and self.open["type"] not in ("function_call", "custom_tool_call"):
                self._say(f"{name} in a {self.open['type']}")
            if self.told is None:
                self.told = ""
        elif self.part is None or self.part["type"] != PARTS[base]:
            self._say(f"{name} outside of its part")
            return
        if step == "delta":
            if not isinstance(event.get("delta"), str) or not event["delta"]:
                self._say(f"{name} without text")
            self.told = (self.told or "") + event.get("delta", "")
        else:
            if event.get(full) != self.told:
                self._say(f"{name} is not what its deltas told")
            self.ended = True
            if base == "response.function_call_arguments" and not event.get("name"):
                self._say(f"{name} without the function's name")
        if place is not None and event.get(place) != (self.summaries if place == "summary_index" else self.parts):
            self._say(f"{name} with {place} {event.get(place)}")

    def _end_item(self, event: dict[str, Any]) -> None:
        item, opened = event["item"], self.open or {}
        if (item.get("id"), item.get("type")) != (opened.get("id"), opened.get("type")):
            self._say(f"item {opened.get('id')!r} ends as {item.get('id')!r}")
        if self.part is not None:
            self._say("an item ends inside a part")
        if item["type"] == "message" and len(item["content"]) != self.parts:
            self._say("a message has other parts than were told")
        if item["type"] == "reasoning" and len(item.get("summary", ())) != self.summaries:
            self._say("thinking has another summary than was told")
        for kind, name in (("function_call", "arguments"), ("custom_tool_call", "input")):
            if item["type"] == kind:
                if not self.ended:
                    self._say(f"a {kind} without its {name}.done")
                if item.get(name) != (self.told or ""):
                    self._say(f"a {kind} is not what its deltas told")
                if not item.get("call_id") or not item.get("name"):
                    self._say(f"a {kind} without call_id or name")
        self.done.append(item)
        self.open = None

    def _end(self, event: dict[str, Any], first: dict[str, Any]) -> None:
        response = event.get("response") or {}
        kind = str(event.get("type"))
        if self.open is not None and kind != "response.failed":
            self._say("the end comes inside an item")
        if response.get("status") != TERMINAL.get(kind):
            self._say(f"{kind} has the status {response.get('status')}")
        for name in ANSWER:
            if name not in response:
                self._say(f"the response lacks {name!r}")
        for name in ("id", "created_at", "model", "object"):
            if response.get(name) != first.get(name):
                self._say(f"the response's {name} changes")
        if kind != "response.failed" and response.get("output") != self.done:
            self._say("the output is not what the items were")
        if (kind == "response.failed") != bool(response.get("error")):
            self._say("error and status disagree")
        if (kind == "response.incomplete") != bool((response.get("incomplete_details") or {}).get("reason")) and kind != "response.failed":
            self._say("incomplete without a reason")
        if response.get("usage") is not None:
            self.problems += check_usage(response["usage"])
        ids = [item.get("id") for item in response.get("output", ())]
        if len(set(ids)) != len(ids):
            self._say("two items have one id")
