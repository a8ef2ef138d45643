"""Owns answers in the shape of /v1/chat/completions."""

import json
import time
from typing import Any

from tests.fakes.provider.answers import Answer, ToolUse, Usage
from tests.fakes.provider.asking import Ask
from tests.fakes.provider.shapes.event import Event, Part, event


def usage(counts: Usage, searches: tuple[str, ...]) -> dict[str, Any]:
    """State counts as OpenAI does, and searches as OpenRouter does: OpenAI itself states none here."""
    return {
        **({"server_tool_use_details": {"web_search_requests": len(searches)}} if searches else {}),
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.total,
        "prompt_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": counts.cache_write, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": counts.reasoning, "audio_tokens": 0},
    }


def whole(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.thinking:
        message["reasoning_content"] = answer.thinking
    if answer.tools:
        message["tool_calls"] = [_call(tool) for tool in answer.tools]
    body = {
        **_frame(answer, "chat.completion"),
        "choices": [
            {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish} for index in range(answer.choices)
        ],
    }
    if answer.usage:
        body["usage"] = usage(answer.usage, answer.searches)
    return body


def events(answer: Answer, ask: Ask) -> list[Event]:
    """Write the stream as OpenAI does: the usage chunk only when it was asked for, and then `usage: null` in every other."""
    frame = _frame(answer, "chat.completion.chunk")
    last = answer.usage is not None and (answer.usage_mode == "always" or (answer.usage_mode == "final" and ask.include_usage))
    if last:
        frame["usage"] = None

    def chunk(part: Part, index: int, delta: dict[str, Any], finish: str | None = None, **more: Any) -> Event:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event(part, {**frame, "choices": [choice], **more})

    choices = range(answer.choices)
    stream = [chunk(Part.OPEN, index, {"role": "assistant", "content": "", "refusal": None}) for index in choices]
    if answer.thinking:
        stream += [chunk(Part.CONTENT, index, {"reasoning_content": answer.thinking}) for index in choices]
    stream += [chunk(Part.CONTENT, index, {"content": piece}) for piece in answer.pieces for index in choices]
    for position, tool in enumerate(answer.tools):
        call = _call(tool)
        arguments = call["function"]["arguments"]
        opened = {"index": position, **call, "function": {"name": tool.name, "arguments": ""}}
        for index in choices:
            stream.append(chunk(Part.CONTENT, index, {"tool_calls": [opened]}))
            stream += [
                chunk(Part.CONTENT, index, {"tool_calls": [{"index": position, "function": {"arguments": half}}]})
                for half in (arguments[:6], arguments[6:])
            ]
    inline = {"usage": usage(answer.usage, answer.searches)} if answer.usage and answer.usage_mode == "inline" else {}
    stream += [chunk(Part.FINISH, index, {}, answer.finish, **(inline if index == answer.choices - 1 else {})) for index in choices]
    if last and answer.usage:
        stream.append(event(Part.USAGE, {**frame, "choices": [], "usage": usage(answer.usage, answer.searches)}))
    stream.append(Event(Part.DONE, b"data: [DONE]\n\n"))
    return stream


def _frame(answer: Answer, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-fake{answer.number}",
        "object": kind,
        "created": int(time.time()),
        "model": answer.model,
        "system_fingerprint": "fp_fake",
    }


def _call(tool: ToolUse) -> dict[str, Any]:
    return {"id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": json.dumps(tool.arguments)}}
