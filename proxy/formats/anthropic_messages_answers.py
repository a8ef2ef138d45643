"""Messages answers, usage and errors, to and from the hub. Pure."""

from collections.abc import Mapping
from typing import Any

from catalog.usage import TokenUsage
from proxy.formats.anthropic_messages_blocks import (
    JSON_TOOL,
    NAME,
    arguments_of,
    frame,
    media_type_of,
    read_block,
    string_of,
    tool_id,
    unfold_url,
    write_json,
)
from proxy.formats.conversation import Answer, AnyItem, Audio, CannotParse, Echo, Image, Reasoning, Refusal, Stop, Text, ToolCall, ToolDef
from proxy.formats.tool_names import client_name, renamed_tools
from proxy.formats.usage_reading import Doubts, UnreadableCount, take_count

_STOPS = {
    "end_turn": Stop.END,
    "stop_sequence": Stop.END,
    "max_tokens": Stop.LENGTH,
    "model_context_window_exceeded": Stop.LENGTH,
    "tool_use": Stop.TOOL,
    "refusal": Stop.FILTER,
    "pause_turn": Stop.PAUSE,
    "compaction": Stop.PAUSE,
}
_REASONS = {
    Stop.END: "end_turn",
    Stop.LENGTH: "max_tokens",
    Stop.TOOL: "tool_use",
    Stop.FILTER: "refusal",
    Stop.PAUSE: "pause_turn",
    Stop.FAULT: "error",
}


def parse_answer(fields: Mapping[str, Any], *, unwrap_json: bool = False, tools: Mapping[str, ToolDef] | None = None) -> Answer:
    """Read a whole answer. `unwrap_json` turns the call of the forced JSON tool into text; `tools` are those to rename (`tool_names`).

    Raises: CannotParse.
    """
    if not isinstance(fields, Mapping) or fields.get("type") == "error" or not isinstance(fields.get("content"), list):
        raise CannotParse("The answer is not a message.", param="content")
    items: list[AnyItem] = []
    unwrapped = False
    for block in fields["content"]:
        if not isinstance(block, dict):
            raise CannotParse("content: a list of blocks is expected.", param="content")
        if unwrap_json and block.get("type") == "tool_use" and block.get("name") == JSON_TOOL:
            items.append(Text("assistant", text=write_json(block.get("input") or {})))
            unwrapped = True
        else:
            items.append(turn_back(read_block(block, "assistant"), tools))
    raw_stop = fields.get("stop_reason")
    stop = stop_of(raw_stop, unwrapped=unwrapped and not any(isinstance(item, ToolCall) for item in items))
    return Answer(
        id=string_of(fields, "id"),
        model=string_of(fields, "model"),
        items=items,
        stop=stop,
        usage=read_usage(fields.get("usage")),
        stop_text=string_of(fields, "stop_sequence"),
        raw_stop=raw_stop if isinstance(raw_stop, str) else "",
        refusal=explanation_of(fields),
        raw=fields,
        origin=NAME,
    )


def stop_of(reason: Any, *, unwrapped: bool) -> Stop | None:
    """Why an answer ended, in the hub's words; None where it does not say. `unwrapped`: its only call was the forced JSON tool's."""
    if not isinstance(reason, str):
        return None
    stop = _STOPS.get(reason, Stop.END)
    return Stop.END if unwrapped and stop is Stop.TOOL else stop


def explanation_of(fields: Mapping[str, Any]) -> str:
    """What a refusal says of itself."""
    details = fields.get("stop_details")
    return string_of(details, "explanation") if isinstance(details, dict) else ""


def turn_back(item: AnyItem, tools: Mapping[str, ToolDef] | None) -> AnyItem:
    """A call as the client knows its tool."""
    if tools and isinstance(item, ToolCall) and (tool := tools.get(item.name)) is not None:
        item.name, item.namespace = tool.name, tool.namespace
        if tool.kind == "custom":
            item.kind = "custom"
            given = arguments_of(item.arguments).get("input")
            item.arguments = given if isinstance(given, str) else item.arguments
        item.raw = item.origin = None
    return item


def read_usage(obj: Any) -> TokenUsage | None:
    """Turn a `usage` into disjoint buckets; None when there is none. What it breaks is among its doubts.

    `input_tokens` has neither what was read from the cache nor what was written to it. With compaction, advisors or fallbacks the top
    level leaves tokens out: the sum of `iterations` is what was used.
    """
    if not isinstance(obj, Mapping):
        return None
    doubts = Doubts()
    try:
        top = _read_counts(obj, doubts)
        if top is None:
            return None
        rounds = obj.get("iterations")
        if isinstance(rounds, list) and rounds:
            counted = [_read_counts(one, doubts) for one in rounds if isinstance(one, dict)]
            sums = tuple(sum(counts) for counts in zip(*(counts for counts in counted if counts is not None), strict=True))
            if None not in counted and len(sums) == len(top) and sum(sums[:5]) >= sum(top[:5]):
                top = (*sums[:5], max(sums[5], top[5]))
            else:
                doubts.note("usage_iterations_mismatch")
        tools = obj.get("server_tool_use")
        tools = tools if isinstance(tools, dict) else {}
        searched = take_count(tools.get("web_search_requests"))
        if take_count(tools.get("code_execution_requests")):  # fetching is free of charge
            doubts.note("builtin_tools_unmetered")
    except UnreadableCount as error:
        return error.usage
    fresh, cached, written, written_1h, out, reasoning = top
    doubts.expect("usage_reasoning_beyond_output", holds=reasoning <= out)
    reasoning = min(reasoning, out)
    return TokenUsage(
        input_tokens=fresh,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=written_1h,
        output_tokens=out - reasoning,
        reasoning_tokens=reasoning,
        web_searches=searched,
        doubts=doubts.found,
    )


_Counts = tuple[int, ...]


def _read_counts(obj: Mapping[str, Any], doubts: Doubts) -> _Counts | None:
    """Fresh, cached, written (5 minutes, 1 hour), out, thought. Raises: UnreadableCount."""
    if obj.get("input_tokens") is None and obj.get("output_tokens") is None:
        return None
    split, details = obj.get("cache_creation"), obj.get("output_tokens_details")
    split = split if isinstance(split, dict) else {}
    details = details if isinstance(details, dict) else {}
    short, hour = take_count(split.get("ephemeral_5m_input_tokens")), take_count(split.get("ephemeral_1h_input_tokens"))
    written = take_count(obj.get("cache_creation_input_tokens"), default=short + hour)
    doubts.expect("usage_cache_write_split_mismatch", holds=not split or written == short + hour)
    hour = min(hour, written)
    return (
        take_count(obj.get("input_tokens")),
        take_count(obj.get("cache_read_input_tokens")),
        written - hour,
        hour,
        take_count(obj.get("output_tokens")),
        take_count(details.get("thinking_tokens")),
    )


def render_usage(usage: TokenUsage) -> dict[str, Any]:
    """A count in this format's words."""
    return {
        "input_tokens": usage.input_tokens + usage.audio_input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        },
        "output_tokens": usage.total_output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        **({"server_tool_use": {"web_search_requests": usage.web_searches}} if usage.web_searches else {}),
    }


def render_answer(answer: Answer, echo: Echo) -> dict[str, Any]:
    """The answer as a client of this format reads it. Every seal stands in an opaque field, so that it comes back."""
    refusal = answer.refusal or "".join(item.text for item in answer.items if isinstance(item, Refusal))
    reason = stop_reason_of(
        answer.stop,
        answer.stop_text,
        answer.raw_stop,
        calls=any(isinstance(item, ToolCall) for item in answer.items),
        refuses=any(isinstance(item, Refusal) for item in answer.items),
    )
    renamed = renamed_tools(echo.conversation)
    rendered: dict[str, Any] = {
        "id": echo.id or answer.id,
        "type": "message",
        "role": "assistant",
        "model": echo.model or answer.model,
        "content": [block for item in answer.items for block in answer_blocks(item, renamed)],
        "stop_reason": reason,
        "stop_sequence": answer.stop_text or None,
        "usage": render_usage(answer.usage or TokenUsage()),
    }
    details = answer.raw.get("stop_details") if answer.raw is not None and answer.origin == NAME else None
    if reason == "refusal":
        rendered["stop_details"] = details or {"type": "refusal", "category": None, "explanation": refusal or None}
    return rendered


def stop_reason_of(stop: Stop | None, stop_text: str, raw_stop: str, *, calls: bool, refuses: bool) -> str | None:
    """Why an answer ended, in this format's words."""
    if stop is None:
        return None
    if _STOPS.get(raw_stop) is stop:
        return raw_stop
    if stop is Stop.END:
        return "refusal" if refuses else "tool_use" if calls else "stop_sequence" if stop_text else "end_turn"
    return _REASONS[stop]


def answer_blocks(item: AnyItem, renamed: Mapping[str, ToolDef]) -> list[dict[str, Any]]:
    """The blocks that say an item to a client; `renamed` are its tools that the provider may know by another name."""
    raw = item.raw if item.origin == NAME and isinstance(item.raw, dict) else None
    match item:
        case Text():
            if not (item.text if raw is not None else item.text.strip()):
                return []
            return [{**(raw or {}), "type": "text", "text": item.text}]
        case Reasoning():
            return _answer_thinking(item)
        case ToolCall():
            return [
                *(redacted_block(seal.data) for seal in item.seals),
                {
                    **call_block(item, renamed),
                    "input": {"input": item.arguments} if item.kind == "custom" else arguments_of(item.arguments),
                },
            ]
        case Audio():
            return [{"type": "text", "text": item.transcript}] if item.transcript.strip() else []
        case Image() if raw is None:
            media_type, data, url = unfold_url(item.media_type, item.data, item.url)
            if data:
                source = {"type": "base64", "media_type": media_type_of(media_type, data, "image/png"), "data": data}
                return [{"type": "image", "source": source}]
            return [{"type": "image", "source": {"type": "url", "url": url}}] if url else []
        case Refusal():
            return []  # told by stop_reason and stop_details
        case _:
            return [dict(raw)] if raw is not None and raw.get("type") and isinstance(raw["type"], str) else []


def _answer_thinking(item: Reasoning) -> list[dict[str, Any]]:
    text = item.text or "".join(item.summary)
    signed = next((seal for seal in item.seals if seal.kind != "redacted"), None)
    blocks: list[dict[str, Any]] = []
    if text or signed is not None:
        blocks.append({"type": "thinking", "thinking": text, "signature": signed.data if signed is not None else ""})
    return blocks + [redacted_block(seal.data) for seal in item.seals if seal is not signed]


def redacted_block(data: str) -> dict[str, Any]:
    """A block of thinking that only its provider can read."""
    return {"type": "redacted_thinking", "data": data}


def call_block(item: ToolCall, renamed: Mapping[str, ToolDef]) -> dict[str, Any]:
    """A call as the client knows its tool, without its input."""
    raw = item.raw if item.origin == NAME and isinstance(item.raw, dict) else {}
    return {
        **raw,
        "type": "tool_use",
        "id": tool_id(item.call_id),
        "name": client_name(item, renamed),
    }


_TYPES_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_TYPES_BY_CODE = {
    "insufficient_quota": "billing_error",
    "key_budget_exceeded": "billing_error",
    "upstream_timeout": "timeout_error",
    "no_available_provider": "overloaded_error",
    "billing_unavailable": "overloaded_error",
    "rate_limit_exceeded": "rate_limit_error",
    "token_limit_exceeded": "rate_limit_error",
    "model_not_found": "not_found_error",
}
_TYPES = frozenset((*_TYPES_BY_STATUS.values(), "api_error"))


def render_error(error: Mapping[str, Any], status: int, request_id: str) -> dict[str, Any]:
    """The body of an error in this format, from the gateway's own (its envelope or the `error` in it).

    The SDKs read the class from the status and `type`, the gateway's machine code from `details.error_code`.
    """
    inner = error.get("error")
    said: Mapping[str, Any] = inner if isinstance(inner, Mapping) else error
    code, kind, message, param = said.get("code"), said.get("type"), said.get("message"), said.get("param")
    shown = _TYPES_BY_STATUS.get(status) or ("invalid_request_error" if 400 <= status < 500 else "api_error" if status >= 500 else None)
    if shown is None:  # within a stream, where the status has long been sent
        shown = _TYPES_BY_CODE.get(code) if isinstance(code, str) else None
        shown = shown or (kind if isinstance(kind, str) and kind in _TYPES else "api_error")
    details = {name: value for name, value in (("error_code", code), ("param", param)) if isinstance(value, str) and value}
    body: dict[str, Any] = {"type": shown, "message": message if isinstance(message, str) else "The request failed."}
    if details:
        body["details"] = details
    given = request_id or said.get("request_id")
    return {"type": "error", "error": body, "request_id": given if isinstance(given, str) and given else None}


def error_frame(error: Mapping[str, Any]) -> bytes:
    """An error within a stream; only with its event name do the SDKs see it."""
    return frame("error", render_error(error, 200, ""))
