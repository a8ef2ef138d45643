"""OpenAI Responses, the small parts: an item as JSON and in the hub's words, both ways; usage; how an answer ends; names and ids. Pure."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import orjson

from catalog.usage import TokenUsage
from proxy.formats.conversation import (
    AnyItem,
    Audio,
    CannotParse,
    Conversation,
    Echo,
    File,
    Image,
    Reasoning,
    Refusal,
    Role,
    Seal,
    ServerTool,
    Stop,
    Text,
    ToolCall,
    ToolDef,
    ToolResult,
    Unknown,
)

NAME: Final = "responses"
ROLES = frozenset(("system", "developer", "user", "assistant"))
LONGEST_NAME = 64  # of a tool, at OpenAI and most who followed
LONGEST_CALL_ID = 64
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NOT_NAME = re.compile(r"[^a-zA-Z0-9_-]")

# Built-in tools whose call the client runs itself: their outputs come from the user's side.
CLIENT_OUTPUTS = frozenset(
    (
        "computer_call_output",
        "local_shell_call_output",
        "shell_call_output",
        "apply_patch_call_output",
        "mcp_approval_response",
    )
)
SERVER_TOOLS = CLIENT_OUTPUTS | frozenset(
    (
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "image_generation_call",
        "computer_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "tool_search_call",
        "tool_search_output",
        "mcp_call",
        "mcp_list_tools",
        "mcp_approval_request",
    )
)
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

# -- Reading values from strangers -----------------------------------------------------------------------------------------------------


def text_of(value: Any) -> str:
    """The value if it is text, else nothing."""
    return value if isinstance(value, str) else ""


def mapping_of(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def dicts_of(value: Any) -> list[dict[str, Any]]:
    """The objects in the value, if it is a list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


# -- Names and ids ---------------------------------------------------------------------------------------------------------------------


def flat_name(namespace: str, name: str) -> str:
    """A tool's name where there are no namespaces: `ns__tool`, at most 64 of a-z, A-Z, 0-9, `_` and `-`; always the same for the same."""
    full = f"{namespace}__{name}" if namespace else name
    if _NAME.fullmatch(full):
        return full
    digest = hashlib.blake2s(full.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return f"{_NOT_NAME.sub('_', full)[: LONGEST_NAME - 9]}_{digest}"


def short_call_id(call_id: str) -> str:
    """The call id as OpenAI takes it (64 characters), always the same for the same id."""
    if len(call_id) <= LONGEST_CALL_ID:
        return call_id
    return f"call_{hashlib.sha256(call_id.encode(errors='replace')).hexdigest()[:40]}"


def item_id(prefix: str, response_id: str, index: int) -> str:
    """The id of an answer's item: it follows from the answer's, so that a stream and a whole answer agree."""
    return f"{prefix}_{response_id.removeprefix('resp_')[:52]}{index:04x}"


def renamed_tools(conversation: Conversation | None) -> dict[str, ToolDef]:
    """The client's tools that other formats know under another name or kind, by the name they have there."""
    if conversation is None:
        return {}
    plain = {tool.name for tool in conversation.tools if tool.kind == "function" and not tool.namespace}
    return {
        flat: tool
        for tool in conversation.tools
        if (flat := flat_name(tool.namespace, tool.name)) != tool.name or tool.kind == "custom"
        if tool.kind != "builtin" and flat not in plain - {tool.name}
    }


def sent_tools(conversation: Conversation | None) -> dict[str, str]:
    """The names of the client's tools that a provider of this format knows by another: what it calls, and what the client calls it."""
    if conversation is None or conversation.origin == NAME:
        return {}
    return {flat: tool.name for tool in conversation.tools if (flat := flat_name(tool.namespace, tool.name)) != tool.name}


def original_call(call: ToolCall, renamed: Mapping[str, ToolDef]) -> ToolCall:
    """The call as the client defined its tool: with its namespace, and free text where the tool is a custom one."""
    tool = None if call.namespace else renamed.get(call.name)
    if tool is None:
        return call
    unwrap = tool.kind == "custom" and call.kind == "function"
    return ToolCall(
        call.role,
        raw=call.raw,
        origin=call.origin,
        id=call.id,
        call_id=call.call_id,
        name=tool.name,
        namespace=tool.namespace,
        kind="custom" if tool.kind == "custom" else call.kind,
        arguments=_free_text(call.arguments) if unwrap else call.arguments,
        seals=call.seals,
    )


def _free_text(arguments: str) -> str:
    """The text that a custom tool was given, from the `{"input": "…"}` that its stand-in function was called with."""
    try:
        fields = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    return fields["input"] if isinstance(fields, dict) and isinstance(fields.get("input"), str) else arguments


# -- Items: from JSON ------------------------------------------------------------------------------------------------------------------


def parse_items(entries: Iterable[Any], *, strict: bool, param: str = "input") -> list[AnyItem]:
    """The items that a list of JSON items says. A `strict` reader refuses what is not of the format; an answer is read as far as it goes.

    Raises: CannotParse, when strict.
    """
    items: list[AnyItem] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, dict):
            items += parse_item(entry, strict=strict, param=f"{param}[{index}]" if strict else param)
        elif strict:
            raise CannotParse(f"The field '{param}[{index}]' must be an object.", param=f"{param}[{index}]")
    return items


def parse_item(entry: dict[str, Any], *, strict: bool, param: str = "input") -> list[AnyItem]:
    """The hub's items for one JSON item: a message has as many as it has parts, the others one.

    Raises: CannotParse, when strict.
    """
    kind = entry.get("type")
    if kind == "message" or (kind is None and "role" in entry):
        return _parse_message(entry, strict=strict, param=param)
    if not isinstance(kind, str):
        if not strict:
            return [Unknown("assistant", raw=entry, origin=NAME)]
        if kind is None and isinstance(entry.get("id"), str):
            return [Unknown("user", raw={**entry, "type": "item_reference"}, origin=NAME, id=entry["id"])]
        raise CannotParse(f"The field '{param}.type' must be an item's type.", param=param)
    identity = text_of(entry.get("id"))
    match kind:
        case "reasoning":
            return [parse_reasoning(entry)]
        case "function_call" | "custom_tool_call":
            if strict:
                _need_text(entry, ("call_id", "name", "input" if kind == "custom_tool_call" else "arguments"), param)
            return [parse_call(entry)]
        case "function_call_output" | "custom_tool_call_output":
            if strict:
                _need_text(entry, ("call_id",), param)
            return [_parse_result(entry, strict=strict, param=param)]
        case _ if kind in SERVER_TOOLS:
            return [ServerTool("user" if kind in CLIENT_OUTPUTS else "assistant", raw=entry, origin=NAME, id=identity, kind=kind)]
        case _:
            return [Unknown("user" if kind in ("item_reference", "additional_tools") else "assistant", raw=entry, origin=NAME, id=identity)]


def parse_reasoning(entry: Mapping[str, Any]) -> Reasoning:
    """The thinking that a reasoning item shows and seals."""
    sealed = text_of(entry.get("encrypted_content"))
    return Reasoning(
        "assistant",
        raw=entry,
        origin=NAME,
        id=text_of(entry.get("id")),
        text="".join(text_of(part.get("text")) for part in dicts_of(entry.get("content"))),
        summary=[text for part in dicts_of(entry.get("summary")) if (text := text_of(part.get("text")))],
        seals=[Seal("encrypted", sealed, NAME)] if sealed else [],
    )


def parse_call(entry: Mapping[str, Any]) -> ToolCall:
    """The tool call that an item makes."""
    custom = entry.get("type") == "custom_tool_call"
    return ToolCall(
        "assistant",
        raw=entry,
        origin=NAME,
        id=text_of(entry.get("id")),
        call_id=text_of(entry.get("call_id")),
        name=text_of(entry.get("name")),
        namespace=text_of(entry.get("namespace")),
        kind="custom" if custom else "function",
        arguments=text_of(entry.get("input" if custom else "arguments")),
    )


def parse_part(part: Mapping[str, Any], role: Role, outer: Mapping[str, Any], *, strict: bool = False, param: str = "") -> AnyItem:
    """The item that one content part is; `outer` are the fields of the message around it.

    Raises: CannotParse, when strict.
    """
    raw = {"message": outer, "part": part}
    identity = text_of(outer.get("id"))
    cache = "5m" if isinstance(part.get("prompt_cache_breakpoint"), dict) else None
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            if strict:
                _need_text(part, ("text",), param)
            citations = part.get("annotations")
            return Text(
                role,
                raw=raw,
                origin=NAME,
                id=identity,
                cache=cache,
                text=text_of(part.get("text")),
                citations=list(citations) if isinstance(citations, list) else [],
            )
        case "refusal":
            return Refusal(role, raw=raw, origin=NAME, id=identity, text=text_of(part.get("refusal")))
        case "input_image":
            media_type, data, url = _split_url(text_of(part.get("image_url")))
            file_id, detail = text_of(part.get("file_id")), text_of(part.get("detail"))
            return Image(role, raw=raw, origin=NAME, cache=cache, media_type=media_type, data=data, url=url, file_id=file_id, detail=detail)
        case "input_file":
            media_type, data, _ = _split_url(text_of(part.get("file_data")))
            return File(
                role,
                raw=raw,
                origin=NAME,
                cache=cache,
                media_type=media_type,
                data=data or ("" if media_type else text_of(part.get("file_data"))),
                url=text_of(part.get("file_url")),
                file_id=text_of(part.get("file_id")),
                name=text_of(part.get("filename")),
            )
        case "input_audio":
            sound = mapping_of(part.get("input_audio"))
            return Audio(role, raw=raw, origin=NAME, format=text_of(sound.get("format")), data=text_of(sound.get("data")))
        case _:
            return Unknown(role, raw=raw, origin=NAME)


def outer_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A message without its content."""
    return {name: value for name, value in entry.items() if name != "content"}


def _parse_message(entry: Mapping[str, Any], *, strict: bool, param: str) -> list[AnyItem]:
    role = entry.get("role")
    if role not in ROLES:
        if strict:
            raise CannotParse(f"The field '{param}.role' must be one of: {', '.join(sorted(ROLES))}.", param=f"{param}.role")
        role = "assistant"
    speaker = cast("Role", role)
    content = entry.get("content")
    outer = outer_of(entry)
    if isinstance(content, str):
        raw = {"message": outer, "part": None}
        return [Text(speaker, raw=raw, origin=NAME, id=text_of(entry.get("id")), new_turn=True, text=content)]
    if strict and not (isinstance(content, list) and all(isinstance(part, dict) for part in content)):
        raise CannotParse(f"The field '{param}.content' must be text or a list of content parts.", param=f"{param}.content")
    items = [
        parse_part(part, speaker, outer, strict=strict, param=f"{param}.content[{index}]") for index, part in enumerate(dicts_of(content))
    ]
    if items:
        items[0].new_turn = True
    return items


def _parse_result(entry: Mapping[str, Any], *, strict: bool, param: str) -> ToolResult:
    output = entry.get("output")
    parts: list[Text | Image | File] = []
    if isinstance(output, str):
        parts = [Text("user", text=output)]
    elif isinstance(output, list):
        found = [parse_part(part, "user", {}) for part in dicts_of(output)]
        parts = [part for part in found if isinstance(part, Text | Image | File)]
        if strict and len(parts) != len(output):
            raise CannotParse(f"The field '{param}.output' must hold text, images and files only.", param=f"{param}.output")
    elif strict:
        raise CannotParse(f"The field '{param}.output' must be text or a list of parts.", param=f"{param}.output")
    return ToolResult(
        "user",
        raw=entry,
        origin=NAME,
        id=text_of(entry.get("id")),
        call_id=text_of(entry.get("call_id")),
        parts=parts,
        kind="custom" if entry.get("type") == "custom_tool_call_output" else "function",
    )


def _need_text(entry: Mapping[str, Any], names: Iterable[str], param: str) -> None:
    for name in names:
        if not isinstance(entry.get(name), str):
            raise CannotParse(f"The field '{param}.{name}' must be text.", param=f"{param}.{name}")


def _split_url(url: str) -> tuple[str, str, str]:
    """A data URL's media type and base64 data, or the URL itself."""
    if url.startswith("data:"):
        head, comma, data = url[5:].partition(",")
        if comma and head.endswith(";base64"):
            return head.removesuffix(";base64"), data, ""
    return "", "", url


# -- Items of an answer: to JSON -------------------------------------------------------------------------------------------------------


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


# -- How an answer ends ----------------------------------------------------------------------------------------------------------------


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


# -- Usage -----------------------------------------------------------------------------------------------------------------------------


def read_usage(usage: Any) -> TokenUsage | None:
    """Turn a `usage` object into disjoint buckets; None when there is none or it is not made of believable numbers.

    Input contains what was cached and written to the cache, output contains reasoning. Those who count otherwise show it: cached beyond the
    input, reasoning beyond the output, a total beyond both.
    """
    if not isinstance(usage, dict) or (usage.get("input_tokens") is None and usage.get("output_tokens") is None):
        return None
    details_in, details_out = mapping_of(usage.get("input_tokens_details")), mapping_of(usage.get("output_tokens_details"))
    lifetimes = mapping_of(details_in.get("cache_write_tokens_details"))
    try:
        given = _count(usage.get("input_tokens"))
        produced = _count(usage.get("output_tokens"))
        total = _count(usage.get("total_tokens"), default=given + produced)
        cached = _count(details_in.get("cached_tokens"))
        written = _count(details_in.get("cache_write_tokens"))
        written_long = _count(lifetimes.get("ttl_12h_tokens"))
        heard = _count(details_in.get("audio_tokens"))
        reasoning = _count(details_out.get("reasoning_tokens"))
        spoken = _count(details_out.get("audio_tokens"))
    except ValueError:
        return None
    beyond = total - given - produced
    if reasoning and beyond == reasoning:
        produced += reasoning
    elif beyond > 0 and reasoning == 0:
        reasoning = beyond
        produced += beyond
    if cached > given:
        given += cached
    written = min(written, given - cached)
    written_long = min(written_long, written)
    heard = min(heard, given - cached - written)
    spoken = min(spoken, produced)
    reasoning = min(reasoning, produced - spoken)
    found = TokenUsage(
        input_tokens=given - cached - written - heard,
        cached_input_tokens=cached,
        cache_write_tokens=written - written_long,
        cache_write_1h_tokens=written_long,
        audio_input_tokens=heard,
        output_tokens=produced - reasoning - spoken,
        reasoning_tokens=reasoning,
        audio_output_tokens=spoken,
    )
    return found if found.is_sane() else None


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


def _count(value: Any, default: int = 0) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12 or value != int(value):
        raise ValueError(value)
    return int(value)


# -- The response around the items -----------------------------------------------------------------------------------------------------

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
