"""Owns answers in the shape of Anthropic's /v1/messages."""

import json
from typing import Any

from tests.fakes.provider.answers import Answer, Usage
from tests.fakes.provider.shapes.event import Event, Part, event

STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
SIGNATURE = "ZmFrZS1zaWduYXR1cmU="


def usage(counts: Usage, searches: tuple[str, ...]) -> dict[str, Any]:
    """State counts as Anthropic does: the input without what the cache gave or took."""
    fresh = counts.prompt
    if all(isinstance(count, int) for count in (counts.prompt, counts.cached, counts.cache_write)):
        fresh = counts.prompt - counts.cached - counts.cache_write
    return {
        "input_tokens": fresh,
        "cache_creation_input_tokens": counts.cache_write,
        "cache_read_input_tokens": counts.cached,
        "output_tokens": counts.completion,
        **({"server_tool_use": {"web_search_requests": len(searches)}} if searches else {}),
    }


def whole(answer: Answer) -> dict[str, Any]:
    body = {**_frame(answer), "content": _blocks(answer), "stop_reason": STOPS.get(answer.finish, answer.finish)}
    if answer.usage:
        body["usage"] = usage(answer.usage, answer.searches)
    return body


def events(answer: Answer) -> list[Event]:
    opening = {**_frame(answer), "content": [], "stop_reason": None}
    stated = usage(answer.usage, answer.searches) if answer.usage else {}
    if stated:
        opening["usage"] = {**stated, "output_tokens": 1}
        opening["usage"].pop("server_tool_use", None)
    stream = [_named(Part.OPEN, "message_start", message=opening), _named(Part.OPEN, "ping")]
    for index, block in enumerate(_blocks(answer)):
        empties: dict[str, dict[str, Any]] = {
            "thinking": {"thinking": "", "signature": ""},
            "text": {"text": ""},
            "tool_use": {"input": {}},
            "server_tool_use": {"input": {}},
            "web_search_tool_result": {},
        }
        stream.append(_named(Part.CONTENT, "content_block_start", index=index, content_block={**block, **empties[block["type"]]}))
        stream += [_named(Part.CONTENT, "content_block_delta", index=index, delta=delta) for delta in _deltas(block, answer)]
        stream.append(_named(Part.CONTENT, "content_block_stop", index=index))
    delta = {"stop_reason": STOPS.get(answer.finish, answer.finish), "stop_sequence": None}
    stream.append(_named(Part.FINISH, "message_delta", delta=delta, **({"usage": stated} if stated else {})))
    stream.append(_named(Part.DONE, "message_stop"))
    return stream


def _named(part: Part, name: str, **fields: Any) -> Event:
    return event(part, {"type": name, **fields}, name)


def _frame(answer: Answer) -> dict[str, Any]:
    return {"id": f"msg_fake{answer.number}", "type": "message", "role": "assistant", "model": answer.model, "stop_sequence": None}


def _blocks(answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.thinking:
        blocks.append({"type": "thinking", "thinking": answer.thinking, "signature": SIGNATURE})
    for position, query in enumerate(answer.searches):
        name = f"srvtoolu_fake{answer.number}_{position}"
        found = {
            "type": "web_search_result",
            "url": "https://example.org/",
            "title": query,
            "encrypted_content": "ZmFrZQ==",
            "page_age": None,
        }
        blocks.append({"type": "server_tool_use", "id": name, "name": "web_search", "input": {"query": query}})
        blocks.append({"type": "web_search_tool_result", "tool_use_id": name, "content": [found]})
    if answer.text:
        blocks.append({"type": "text", "text": answer.text})
    blocks += [{"type": "tool_use", "id": tool.id, "name": tool.name, "input": tool.arguments} for tool in answer.tools]
    return blocks


def _deltas(block: dict[str, Any], answer: Answer) -> list[dict[str, Any]]:
    if block["type"] == "thinking":
        return [{"type": "thinking_delta", "thinking": block["thinking"]}, {"type": "signature_delta", "signature": SIGNATURE}]
    if block["type"] == "text":
        return [{"type": "text_delta", "text": piece} for piece in answer.pieces]
    if block["type"] == "web_search_tool_result":
        return []  # comes whole
    arguments = json.dumps(block["input"])
    return [{"type": "input_json_delta", "partial_json": half} for half in ("", arguments[:6], arguments[6:])]
