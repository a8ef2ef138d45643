"""Owns answers in the shape of /v1/responses."""

import json
import time
from itertools import count
from typing import Any

from tests.fakes.provider.answers import Answer, Usage
from tests.fakes.provider.shapes.event import Event, Part, event

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def usage(counts: Usage) -> dict[str, Any]:
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": counts.cache_write},
        "output_tokens": counts.completion,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.total,
    }


def whole(answer: Answer) -> dict[str, Any]:
    why = INCOMPLETE.get(answer.finish)
    body = {
        **_frame(answer),
        "status": "incomplete" if why else "completed",
        "incomplete_details": {"reason": why} if why else None,
        "output": _items(answer),
    }
    if answer.usage:
        body["usage"] = usage(answer.usage)
    return body


def events(answer: Answer) -> list[Event]:
    numbers = count()

    def named(role: Part, title: str, /, **fields: Any) -> Event:
        return event(role, {"type": title, "sequence_number": next(numbers), **fields}, title)

    started = {**_frame(answer), "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    stream = [named(Part.OPEN, f"response.{moment}", response=started) for moment in ("created", "in_progress")]
    for index, item in enumerate(_items(answer)):
        place = {"output_index": index, "item_id": item["id"]}
        opened = {**item, "status": "in_progress"}
        if item["type"] == "message":
            opened["content"] = []
        elif item["type"] == "function_call":
            opened["arguments"] = ""  # clients add the deltas to it
        stream.append(named(Part.CONTENT, "response.output_item.added", output_index=index, item=opened))
        if item["type"] == "message":
            inside = {**place, "content_index": 0}
            part = item["content"][0]
            stream.append(named(Part.CONTENT, "response.content_part.added", **inside, part={**part, "text": ""}))
            stream += [named(Part.CONTENT, "response.output_text.delta", **inside, delta=piece, logprobs=[]) for piece in answer.pieces]
            stream.append(named(Part.CONTENT, "response.output_text.done", **inside, text=answer.text, logprobs=[]))
            stream.append(named(Part.CONTENT, "response.content_part.done", **inside, part=part))
        elif item["type"] == "web_search_call":
            moments = ("in_progress", "searching", "completed")
            stream += [named(Part.CONTENT, f"response.web_search_call.{moment}", **place) for moment in moments]
        elif item["type"] == "function_call":
            halves = (item["arguments"][:6], item["arguments"][6:])
            stream += [named(Part.CONTENT, "response.function_call_arguments.delta", **place, delta=half) for half in halves]
            stream.append(
                named(Part.CONTENT, "response.function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"])
            )
        stream.append(named(Part.CONTENT, "response.output_item.done", output_index=index, item=item))
    final = whole(answer)
    # The last event carries the ending, the counts and the end of the stream in one.
    stream.append(named(Part.DONE, f"response.{final['status']}", response=final))
    return stream


def _frame(answer: Answer) -> dict[str, Any]:
    return {
        "id": f"resp_fake{answer.number}",
        "object": "response",
        "created_at": int(time.time()),
        "model": answer.model,
        "error": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "text": {"format": {"type": "text"}},
    }


def _items(answer: Answer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if answer.thinking:
        summary = [{"type": "summary_text", "text": answer.thinking}]
        items.append({"type": "reasoning", "id": f"rs_fake{answer.number}", "status": "completed", "summary": summary})
    items += [
        {
            "type": "web_search_call",
            "id": f"ws_fake{answer.number}_{position}",
            "status": "completed",
            "action": {"type": "search", "query": query},
        }
        for position, query in enumerate(answer.searches)
    ]
    if answer.text:
        content = [{"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}]
        items.append({"type": "message", "id": f"msg_fake{answer.number}", "status": "completed", "role": "assistant", "content": content})
    items += [
        {
            "type": "function_call",
            "id": f"fc_{tool.id}",
            "call_id": tool.id,
            "name": tool.name,
            "arguments": json.dumps(tool.arguments),
            "status": "completed",
        }
        for tool in answer.tools
    ]
    return items
