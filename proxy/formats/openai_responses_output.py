"""The hub's items to the output of a Responses answer, and the response around them: how it ended, what it used, what it repeats. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from catalog.usage import TokenUsage
from proxy.formats.conversation import AnyItem, Audio, Echo, Image, Reasoning, Refusal, ServerTool, Stop, Text, ToolCall, Unknown
from proxy.formats.openai_chat import count_tool_calls
from proxy.formats.openai_responses_items import NAME, dicts_of, item_id, mapping_of, original_call, text_of
from proxy.formats.searches import is_response_search
from proxy.formats.tool_names import renamed_tools
from proxy.formats.usage_reading import Doubts, UnreadableCount, take_count

REASONS = {
    "max_output_tokens": Stop.LENGTH,
    "max_tokens": Stop.LENGTH,
    "length": Stop.LENGTH,
    "max_messages": Stop.LENGTH,
    "steered": Stop.END,
    "content_filter": Stop.FILTER,
}
_OWN_REASONS = frozenset(("max_output_tokens", "content_filter", "max_messages", "steered"))
_RUNNING = frozenset(("queued", "in_progress", "cancelled"))


def render_output(items: Iterable[AnyItem], echo: Echo) -> list[dict[str, Any]]:
    """The `output` of an answer: messages, calls and thinking in order, each with an id."""
    output: list[dict[str, Any]] = []
    renamed = renamed_tools(echo.conversation)
    message: dict[str, Any] | None = None

    def add(entry: dict[str, Any]) -> None:
        nonlocal message
        message = None
        output.append(entry)

    for item in items:
        match item:
            case Text() | Refusal() | Audio():
                part = render_part(item)
                if part is not None:
                    if message is None or item.new_turn:
                        message = open_message(item_id("msg", echo.id, len(output)), item, status="completed")
                        output.append(message)
                    message["content"].append(part)
                if isinstance(item, Text) and item.signature:
                    add(render_seal(item_id("rs", echo.id, len(output)), item.signature))
            case Reasoning():
                add(render_reasoning(item_id("rs", echo.id, len(output)), item))
                for seal in item.seals[1:]:
                    add(render_seal(item_id("rs", echo.id, len(output)), seal.data))
            case ToolCall():
                for seal in item.seals:
                    add(render_seal(item_id("rs", echo.id, len(output)), seal.data))
                call = original_call(item, renamed)
                add(render_call(item_id(call_prefix(call), echo.id, len(output)), call))
            case _:
                entry = render_other(item, echo.id, len(output))
                if entry is not None:
                    add(entry)
    return output


def open_message(identity: str, item: AnyItem, *, status: str) -> dict[str, Any]:
    """A message without content yet; the provider's own fields of it (`phase`) survive."""
    outer = mapping_of(item.raw.get("message")) if item.origin == NAME and isinstance(item.raw, dict) else {}
    kept = {name: value for name, value in outer.items() if name not in ("id", "type", "status", "role", "content")}
    return {"id": identity, "type": "message", "status": status, "role": "assistant", "content": [], **kept}


def render_part(item: Text | Refusal | Audio) -> dict[str, Any] | None:
    """The content part of an answer's message; None where there is nothing to say."""
    if isinstance(item, Refusal):
        return {"type": "refusal", "refusal": item.text}
    if isinstance(item, Audio):
        return {"type": "output_text", "annotations": [], "logprobs": [], "text": item.transcript} if item.transcript else None
    if not item.text and not item.citations:
        return None
    if item.origin == NAME:
        part = mapping_of(item.raw.get("part")) if isinstance(item.raw, dict) else {}
        logprobs = part.get("logprobs")
        kept = {name: value for name, value in part.items() if name not in ("type", "annotations", "logprobs", "text")}
        return {
            "type": "output_text",
            "annotations": item.citations,
            "logprobs": logprobs if isinstance(logprobs, list) else [],
            "text": item.text,
            **kept,
        }
    annotations = [found for citation in item.citations if (found := render_citation(citation, len(item.text))) is not None]
    return {"type": "output_text", "annotations": annotations, "logprobs": [], "text": item.text}


def render_citation(citation: Any, length: int) -> dict[str, Any] | None:
    """Another format's citation of a web page as an annotation of ours; None for what has no address."""
    fields = mapping_of(citation)
    inner = mapping_of(fields.get("url_citation")) or mapping_of(fields.get("web")) or fields
    url = text_of(inner.get("url")) or text_of(inner.get("uri"))
    if not url:
        return None
    start, end = inner.get("start_index"), inner.get("end_index")
    return {
        "type": "url_citation",
        "start_index": start if isinstance(start, int) else 0,
        "end_index": end if isinstance(end, int) else length,
        "title": text_of(inner.get("title")),
        "url": url,
    }


def render_reasoning(identity: str, item: Reasoning) -> dict[str, Any]:
    """A reasoning item. Thinking that came in another format is shown as summary, which is what clients display."""
    entry: dict[str, Any] = {"id": identity, "type": "reasoning", "summary": [{"type": "summary_text", "text": t} for t in item.summary]}
    if item.text:
        if item.origin == NAME:
            entry["content"] = [{"type": "reasoning_text", "text": item.text}]
        else:
            entry["summary"].insert(0, {"type": "summary_text", "text": item.text})
    if item.seals:
        entry["encrypted_content"] = item.seals[0].data
    return entry | _unknown_of(item, ("id", "type", "status", "summary", "content", "encrypted_content"))


def render_seal(identity: str, data: str) -> dict[str, Any]:
    """A reasoning item that only carries a seal (a call's or a text's signature: they have no field for it here)."""
    return {"id": identity, "type": "reasoning", "summary": [], "encrypted_content": data}


def call_prefix(call: ToolCall) -> str:
    """What the ids of such calls begin with."""
    return "ctc" if call.kind == "custom" else "fc"


def render_call(identity: str, call: ToolCall, *, status: str = "completed") -> dict[str, Any]:
    """A function_call or custom_tool_call item."""
    entry: dict[str, Any] = {"id": identity, "type": "function_call", "status": status}
    if call.kind == "custom":
        entry["type"] = "custom_tool_call"
        entry["input"] = call.arguments
    else:
        entry["arguments"] = call.arguments or ("{}" if status == "completed" else "")
    entry["call_id"] = call.call_id
    entry["name"] = call.name
    if call.namespace:
        entry["namespace"] = call.namespace
    return entry | _unknown_of(call, (*entry, "namespace", "arguments", "input"))


def _unknown_of(item: AnyItem, known: Iterable[str]) -> dict[str, Any]:
    """The fields of an item of our own format that are none of the known ones: they survive."""
    if item.origin != NAME or not isinstance(item.raw, dict):
        return {}
    return {name: value for name, value in item.raw.items() if name not in known}


def render_other(item: AnyItem, response_id: str, index: int) -> dict[str, Any] | None:
    """What is neither text, thinking nor a call: our own built-in tools and unknown items as they came, pictures as generated ones."""
    if isinstance(item, Image) and item.data:
        return {"id": item_id("ig", response_id, index), "type": "image_generation_call", "status": "completed", "result": item.data}
    if isinstance(item, ServerTool | Unknown) and item.origin == NAME and isinstance(item.raw, dict) and text_of(item.raw.get("type")):
        return {**item.raw, "id": text_of(item.raw.get("id")) or item_id("it", response_id, index)}
    return None


def read_stop(fields: Mapping[str, Any], *, called: bool) -> tuple[Stop | None, str]:
    """Why the response ended, and the provider's word for it; `called`: it calls a tool of the client's."""
    status = text_of(fields.get("status"))
    if status == "completed":
        return (Stop.TOOL if called else Stop.END), status
    if status == "incomplete":
        reason = text_of(mapping_of(fields.get("incomplete_details")).get("reason"))
        return REASONS.get(reason, Stop.LENGTH), reason or status
    if status == "failed":
        return Stop.FAULT, status
    return None, status


def render_stop(stop: Stop | None, raw_stop: str) -> dict[str, Any]:
    """The `status`, `error` and `incomplete_details` that say why the answer ended."""
    match stop:
        case Stop.LENGTH:
            reason = raw_stop if raw_stop in _OWN_REASONS else "max_output_tokens"
            return {"status": "incomplete", "error": None, "incomplete_details": {"reason": reason}}
        case Stop.FILTER:
            return {"status": "incomplete", "error": None, "incomplete_details": {"reason": "content_filter"}}
        case Stop.FAULT:
            error = {"code": "server_error", "message": "The model did not produce a valid answer."}
            return {"status": "failed", "error": error, "incomplete_details": None}
        case _:
            status = raw_stop if stop is None and raw_stop in _RUNNING else "completed"
            return {"status": status, "error": None, "incomplete_details": None}


_BILLED_TOOLS = ("file_search_call", "code_interpreter_call", "image_generation_call")
_TOOL_COUNTS = ("num_sources_used", "num_server_side_tools_used")  # xAI's


def read_usage(usage: Any, output: Any = None) -> TokenUsage | None:
    """Turn a `usage` object into disjoint buckets; None when there is none. What it breaks is among its doubts.
    `output` are the answer's items: searches are counted there (xAI counts them itself), other tools that are billed apart are noted.

    Input contains what was cached and written to the cache, output contains reasoning. Those who count otherwise show it: cached beyond the
    input, reasoning beyond the output, a total beyond both.
    """
    if not isinstance(usage, dict) or (usage.get("input_tokens") is None and usage.get("output_tokens") is None):
        return None
    details_in, details_out = mapping_of(usage.get("input_tokens_details")), mapping_of(usage.get("output_tokens_details"))
    lifetimes, items = mapping_of(details_in.get("cache_write_tokens_details")), dicts_of(output)
    doubts = Doubts()
    try:
        given = take_count(usage.get("input_tokens"))
        produced = take_count(usage.get("output_tokens"))
        total = take_count(usage.get("total_tokens"), default=given + produced)
        cached = take_count(details_in.get("cached_tokens"))
        written = take_count(details_in.get("cache_write_tokens"))
        written_long = take_count(lifetimes.get("ttl_12h_tokens"))
        heard = take_count(details_in.get("audio_tokens"))
        reasoning = take_count(details_out.get("reasoning_tokens"))
        spoken = take_count(details_out.get("audio_tokens"))
        searched = count_tool_calls(usage, doubts) or sum(map(is_response_search, items))
    except UnreadableCount as error:
        return error.usage
    beyond = total - given - produced
    if reasoning and beyond == reasoning:
        produced += reasoning
    elif beyond > 0 and reasoning == 0:
        reasoning = beyond
        produced += beyond
    doubts.expect("usage_total_mismatch", holds=total == given + produced)
    doubts.expect("usage_audio_beyond_input", holds=heard <= given)
    doubts.expect("usage_audio_beyond_output", holds=spoken <= produced)
    doubts.expect("usage_reasoning_beyond_output", holds=reasoning <= produced)
    doubts.expect("usage_cache_write_beyond_input", holds=written <= given)
    doubts.expect("usage_cache_write_split_mismatch", holds=written_long <= written)
    if any(item.get("type") in _BILLED_TOOLS for item in items) or (not searched and any(usage.get(name) for name in _TOOL_COUNTS)):
        doubts.note("builtin_tools_unmetered")
    if cached > given:
        doubts.note("usage_cached_beyond_input")
        given += cached
    written = min(written, given - cached)
    written_long = min(written_long, written)
    heard = min(heard, given - cached - written)
    spoken = min(spoken, produced)
    reasoning = min(reasoning, produced - spoken)
    return TokenUsage(
        input_tokens=given - cached - written - heard,
        cached_input_tokens=cached,
        cache_write_tokens=written - written_long,
        cache_write_1h_tokens=written_long,
        audio_input_tokens=heard,
        output_tokens=produced - reasoning - spoken,
        reasoning_tokens=reasoning,
        audio_output_tokens=spoken,
        web_searches=searched,
        doubts=doubts.found,
    )


def render_usage(usage: TokenUsage) -> dict[str, Any]:
    """The `usage` object for these buckets."""
    return {
        "input_tokens": usage.total_input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
        },
        "output_tokens": usage.total_output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_input_tokens + usage.total_output_tokens,
    }


_ECHOED: Mapping[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def render_response(echo: Echo) -> dict[str, Any]:
    """The response as it begins: what the request asked, shown again with its defaults as strict clients need it, and no output yet."""
    request = echo.request
    asked = mapping_of(request.get("text"))
    thinking = mapping_of(request.get("reasoning"))
    text_format = mapping_of(asked.get("format")) or {"type": "text"}
    if text_format.get("type") == "json_schema":
        text_format = {"description": None, "strict": False, **text_format}
    fields: dict[str, Any] = {
        "id": echo.id,
        "object": "response",
        "created_at": echo.created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": echo.model,
        "output": [],
        "reasoning": {**thinking, "effort": thinking.get("effort"), "summary": thinking.get("summary")},
        "text": {**asked, "format": text_format, "verbosity": asked.get("verbosity") or "medium"},
        "tools": [_echo_tool(tool) for tool in dicts_of(request.get("tools"))],
        "usage": None,
    }
    fields |= {name: default if (value := request.get(name)) is None else value for name, default in _ECHOED.items()}
    if fields["service_tier"] == "auto":
        fields["service_tier"] = "default"
    conversation = request.get("conversation")
    if conversation is not None:
        fields["conversation"] = {"id": conversation} if isinstance(conversation, str) else conversation
    return fields


def _echo_tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") == "function":
        return {
            **tool,
            "description": tool.get("description"),
            "parameters": tool.get("parameters"),
            "strict": True if tool.get("strict") is None else tool["strict"],
        }
    if tool.get("type") == "namespace" and isinstance(tool.get("tools"), list):
        return {**tool, "tools": [_echo_tool(inner) for inner in dicts_of(tool["tools"])]}
    return tool
