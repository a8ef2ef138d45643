"""Chat Completions requests to the hub. Pure.

A message holds several things. Each becomes an item; the first of a message has `new_turn`. An item's `raw` is a dictionary with what it
was parsed from: `part` (of a content list), `tool_call`, `content` (of a tool's result), the reasoning fields by their names, and, on the
first item of a message, `message`: the message's fields that no item holds (`name`, `prefix`, ...).
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from proxy.formats import openai_chat
from proxy.formats.conversation import (
    AnyItem,
    Audio,
    Conversation,
    File,
    Image,
    OutputFormat,
    Reasoning,
    Refusal,
    Role,
    Seal,
    Text,
    Thinking,
    ToolCall,
    ToolChoice,
    ToolDef,
    ToolResult,
    Unknown,
)
from proxy.formats.openai_chat_dialects import guess_type, split_data_url
from proxy.formats.openai_chat_fields import (
    NAME,
    arguments_of,
    dicts_of,
    mapping_of,
    raw_of,
    read_flag,
    read_number,
    read_object,
    read_objects,
    read_text,
    read_whole,
    refuse_field,
    text_of,
)
from proxy.formats.openai_chat_reasoning import parse_reasoning, thinking_text

MOST_STOPS = 64
MOST_TOOLS = 1024

_TYPED_FIELDS = frozenset(
    """
    model messages stream stream_options tools tool_choice functions function_call parallel_tool_calls max_tokens max_completion_tokens
    temperature top_p top_k stop seed presence_penalty frequency_penalty logprobs top_logprobs n response_format reasoning_effort reasoning
    thinking enable_thinking thinking_budget verbosity user metadata service_tier prompt_cache_key
    """.split()
)
_MESSAGE_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "assistant": frozenset(
        "role content tool_calls function_call refusal reasoning_content reasoning reasoning_details thinking_blocks audio annotations "
        "images".split()
    ),
    "tool": frozenset({"role", "content", "tool_call_id"}),
    "function": frozenset({"role", "content", "name"}),
}
_PLAIN_FIELDS = frozenset({"role", "content"})
_ROLES: Final[Mapping[str, Role]] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
    "function": "user",
}


def parse_request(fields: Mapping[str, Any]) -> Conversation:
    """Read a request of this format.

    Raises: CannotParse.
    """
    messages = read_objects(fields, "messages", most=openai_chat.MOST_MESSAGES)
    if not messages:
        refuse_field("messages", "a list of at least one message object")
    read_object(fields, "stream_options")
    limits = [
        limit for name in openai_chat.LIMIT_FIELDS if (limit := read_whole(fields, name, least=1, most=openai_chat.MOST_OUTPUT)) is not None
    ]
    conversation = Conversation(
        origin=NAME,
        model=read_text(fields, "model"),
        items=_parse_messages(messages),
        stream=read_flag(fields, "stream") or False,
        parallel_tools=read_flag(fields, "parallel_tool_calls"),
        max_output=max(limits, default=None),  # given both, the provider may take either
        temperature=read_number(fields, "temperature"),
        top_p=read_number(fields, "top_p"),
        top_k=read_whole(fields, "top_k", least=-1, most=1_000_000),
        stop=_parse_stop(fields.get("stop")),
        seed=read_whole(fields, "seed", least=-(2**63), most=2**63 - 1),
        presence_penalty=read_number(fields, "presence_penalty"),
        frequency_penalty=read_number(fields, "frequency_penalty"),
        logprobs=read_flag(fields, "logprobs") or False,
        top_logprobs=read_whole(fields, "top_logprobs", least=0, most=100),
        n=read_whole(fields, "n", least=1, most=openai_chat.MOST_CHOICES) or 1,
        verbosity=read_text(fields, "verbosity"),
        user=read_text(fields, "user"),
        metadata=read_object(fields, "metadata") or {},
        service_tier=read_text(fields, "service_tier"),
        cache_key=read_text(fields, "prompt_cache_key"),
        extra={name: value for name, value in fields.items() if name not in _TYPED_FIELDS and value is not None},
    )
    conversation.tools = [_parse_tool(tool) for tool in read_objects(fields, "tools", most=MOST_TOOLS)]
    conversation.tool_choice = _parse_tool_choice(fields.get("tool_choice"), "tool_choice")
    if not conversation.tools and fields.get("functions") is not None:  # before there were tools there was one function at a time
        functions = read_objects(fields, "functions", most=MOST_TOOLS)
        conversation.tools = [_parse_tool({"type": "function", "function": function}) for function in functions]
        conversation.tool_choice = _parse_tool_choice(fields.get("function_call"), "function_call")
        conversation.parallel_tools = False
    _parse_response_format(fields, conversation)
    _parse_thinking(fields, conversation)
    return conversation


def _parse_stop(value: Any) -> list[str]:
    if value is None:
        return []
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(stop, str) for stop in stops):
        refuse_field("stop", f"a string or a list of at most {MOST_STOPS} strings")
    return list(stops)


def _parse_response_format(fields: Mapping[str, Any], conversation: Conversation) -> None:
    wanted = read_object(fields, "response_format")
    if wanted is None or wanted.get("type") == "text":
        return
    if wanted.get("type") == "json_object":
        conversation.output_format = OutputFormat("json_object")
    elif wanted.get("type") == "json_schema":
        said = read_object(wanted, "json_schema")
        if said is None:
            refuse_field("response_format.json_schema", "an object")
        conversation.output_format = OutputFormat(
            "json_schema",
            name=read_text(said, "name"),
            schema=read_object(said, "schema"),
            strict=read_flag(said, "strict"),
            description=read_text(said, "description"),
        )
    else:  # a grammar or the like, of one provider
        conversation.extra["response_format"] = wanted


def _parse_thinking(fields: Mapping[str, Any], conversation: Conversation) -> None:
    """Read the ways in which this format's dialects ask for thinking; what is beyond the hub's words stays in `extra` as it is."""
    effort = read_text(fields, "reasoning_effort")
    budget = read_whole(fields, "thinking_budget", least=0, most=openai_chat.MOST_OUTPUT)
    enabled = read_flag(fields, "enable_thinking")
    summary, adaptive, asked = "", False, False
    if (wanted := read_object(fields, "reasoning")) is not None:  # OpenRouter
        asked = True
        effort = effort or read_text(wanted, "effort")
        limit = read_whole(wanted, "max_tokens", least=0, most=openai_chat.MOST_OUTPUT)
        budget = limit if limit is not None else budget
        switched = read_flag(wanted, "enabled")
        enabled = switched if switched is not None else enabled
        summary = read_text(wanted, "summary")
        if wanted.keys() - {"effort", "max_tokens", "enabled", "summary"}:
            conversation.extra["reasoning"] = wanted
    if (wanted := read_object(fields, "thinking")) is not None:  # Anthropic, DeepSeek, Z.ai, Moonshot
        asked = True
        kind = read_text(wanted, "type")
        adaptive = kind == "adaptive"
        enabled = {"enabled": True, "disabled": False}.get(kind, enabled)
        limit = read_whole(wanted, "budget_tokens", least=0, most=openai_chat.MOST_OUTPUT)
        budget = limit if limit is not None else budget
        if wanted.keys() - {"type", "budget_tokens"}:
            conversation.extra["thinking"] = wanted
    if effort or asked or budget is not None or enabled is not None:
        conversation.thinking = Thinking(effort=effort, budget=budget, enabled=enabled, adaptive=adaptive, summary=summary)


def _parse_tool(tool: dict[str, Any]) -> ToolDef:
    kind = tool.get("type", "function")
    if kind == "function":
        said = read_object(tool, "function")
        if said is None or not read_text(said, "name"):
            refuse_field("tools", "a list of tools, each function with a name")
        return ToolDef(
            said["name"],
            read_text(said, "description"),
            read_object(said, "parameters"),
            read_flag(said, "strict"),
            cache=_cache_of(tool) or _cache_of(said),
            raw=tool,
            origin=NAME,
        )
    if kind == "custom" and isinstance(tool.get("custom"), dict):
        name = read_text(tool["custom"], "name") or refuse_field("tools", "a list of tools, each custom tool with a name")
        return ToolDef(name, read_text(tool["custom"], "description"), kind="custom", raw=tool, origin=NAME)
    if not isinstance(kind, str):
        refuse_field("tools", "a list of tools, each with a type")
    return ToolDef(kind, kind="builtin", raw=tool, origin=NAME)


_CHOICES: Final[Mapping[str, Literal["auto", "none", "required"]]] = {
    "auto": "auto",
    "none": "none",
    "required": "required",
    "any": "required",
}


def _parse_tool_choice(value: Any, param: str) -> ToolChoice | None:
    if value is None:
        return None
    if isinstance(value, str) and value in _CHOICES:
        return ToolChoice(_CHOICES[value])
    if isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and kind in _CHOICES:
            return ToolChoice(_CHOICES[kind])
        if kind == "allowed_tools":
            said = mapping_of(value.get("allowed_tools")) or value
            mode = said.get("mode", "auto")
            names = [
                text_of(mapping_of(tool.get(text_of(tool.get("type")))).get("name")) or text_of(tool.get("name"))
                for tool in dicts_of(said.get("tools"))
            ]
            if isinstance(mode, str) and mode in _CHOICES and names and all(names):
                return ToolChoice(_CHOICES[mode], allowed=names)
            refuse_field(param, "a known choice of tools")
        name = text_of(mapping_of(value.get("custom") or value.get("function")).get("name")) or text_of(value.get("name"))
        if name:
            return ToolChoice("named", name, kind="custom" if kind == "custom" else "function")
    return refuse_field(param, "a known choice of tools")


def _cache_of(said: Mapping[str, Any]) -> str | None:
    mark = said.get("cache_control")
    if isinstance(mark, dict):
        return "1h" if mark.get("ttl") == "1h" else "5m"
    return "5m" if isinstance(said.get("prompt_cache_breakpoint"), dict) else None


def _parse_messages(messages: list[dict[str, Any]]) -> list[AnyItem]:
    items: list[AnyItem] = []
    legacy: dict[str, str] = {}  # the latest call of a legacy function, by its name
    for position, message in enumerate(messages):
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            refuse_field(f"messages[{position}].role", "system, developer, user, assistant or tool")
        where = f"messages[{position}].content"
        found: list[AnyItem]
        if role == "assistant":
            found = parse_assistant(message, where, legacy_id=f"call_legacy_{position}")
            legacy |= {call.name: call.call_id for call in found if isinstance(call, ToolCall) and call.call_id.startswith("call_legacy_")}
        elif role in ("tool", "function"):
            found = [_parse_result(message, where, legacy)]
        else:
            found = _parse_content(message.get("content"), _ROLES[role], where)
        if not found:
            found = [Text(_ROLES[role], "", origin=NAME)]
        known = _MESSAGE_FIELDS.get(role, _PLAIN_FIELDS)
        others = {name: value for name, value in message.items() if name not in known and value is not None}
        if message.get("reasoning_content") == "":  # DeepSeek wants the field with every call, also where nothing was thought
            others["reasoning_content"] = ""
        if others:
            found[0].raw = {**raw_of(found[0]), "message": others}
            found[-1].cache = found[-1].cache or _cache_of(others)
        found[0].new_turn = True
        items += found
    return items


def _parse_result(message: Mapping[str, Any], where: str, legacy: Mapping[str, str]) -> ToolResult:
    content = message.get("content")
    parts = _parse_content(content, "user", where)
    kept: list[Text | Image | File] = []
    for part in parts:
        if not isinstance(part, Text | Image | File):
            refuse_field(where, "text, images and files in a tool's result")
        kept.append(part)
    name = read_text(message, "name")
    call_id = legacy.get(name, f"call_{name}") if message.get("role") == "function" else read_text(message, "tool_call_id")
    return ToolResult(
        "user",
        call_id,
        name,
        kept,
        raw={"content": content} if isinstance(content, list) else None,
        origin=NAME,
        cache=kept[-1].cache if kept else None,
    )


def parse_assistant(message: Mapping[str, Any], where: str, *, legacy_id: str) -> list[AnyItem]:
    """The items of an assistant's message; `where` is for errors, `legacy_id` for calls without an id. Raises: CannotParse."""
    content = _parse_content(message.get("content"), "assistant", where)
    texts = [item for item in content if isinstance(item, Text)]
    if texts:
        texts[-1].citations = dicts_of(message.get("annotations"))
    content += [parse_part(image, "assistant") for image in dicts_of(message.get("images"))]
    if refusal := read_text(message, "refusal"):
        content.append(Refusal("assistant", refusal, origin=NAME))
    if audio := read_object(message, "audio"):
        content.append(_parse_audio(audio))
    calls = _parse_calls(read_objects(message, "tool_calls", most=MOST_TOOLS), missing=legacy_id)
    if (called := read_object(message, "function_call")) is not None and not calls:
        calls = [ToolCall("assistant", legacy_id, read_text(called, "name"), arguments=arguments_of(called.get("arguments")), origin=NAME)]
    named = {call.call_id: call for call in calls if isinstance(call, ToolCall)}
    if (signature := google_signature(message)) and (first := next(iter(named.values()), None)) is not None:
        if not first.seals:
            first.seals.append(Seal("signature", signature, NAME))
    elif signature and texts:
        texts[-1].signature = signature
    return [*parse_reasoning(message, named, texts), *content, *calls]


def google_signature(said: Mapping[str, Any]) -> str:
    """Gemini's signature on a message or a call, as its OpenAI endpoint writes it."""
    found = mapping_of(mapping_of(said.get("extra_content")).get("google")).get("thought_signature")
    return text_of(found) or text_of(said.get("thought_signature"))


CALL_FIELDS = frozenset({"id", "type", "function", "custom", "index"})


def _parse_calls(calls: list[dict[str, Any]], *, missing: str) -> list[AnyItem]:
    """Read `tool_calls`. A call without an id gets one made of `missing` and its place."""
    found: list[AnyItem] = []
    for place, call in enumerate(calls):
        custom = call.get("type") == "custom"
        said = call.get("custom" if custom else "function")
        if not isinstance(said, dict):
            found.append(Unknown("assistant", raw={"tool_call": call}, origin=NAME))
            continue
        signature = google_signature(call)
        found.append(
            ToolCall(
                "assistant",
                text_of(call.get("id")) or f"{missing}_{place}",
                text_of(said.get("name")),
                kind="custom" if custom else "function",
                arguments=text_of(said.get("input")) if custom else arguments_of(said.get("arguments")),
                seals=[Seal("signature", signature, NAME)] if signature else [],
                raw={"tool_call": call} if call.keys() - CALL_FIELDS or said.keys() - {"name", "arguments", "input"} else None,
                origin=NAME,
            )
        )
    return found


def _parse_audio(audio: Mapping[str, Any]) -> Audio:
    return Audio(
        "assistant",
        data=text_of(audio.get("data")),
        transcript=text_of(audio.get("transcript")),
        audio_id=text_of(audio.get("id")),
        raw={"audio": audio},
        origin=NAME,
    )


def _parse_content(content: Any, role: Role, where: str) -> list[AnyItem]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [Text(role, content, origin=NAME)]
    if not isinstance(content, list) or not all(isinstance(part, dict | str) for part in content):
        refuse_field(where, "a string or a list of parts")
    return [parse_part({"type": "text", "text": part} if isinstance(part, str) else part, role) for part in content]


def parse_part(part: dict[str, Any], role: Role) -> AnyItem:
    """Read one part of a content list; what is not understood is Unknown, never an error."""
    item = _parse_known_part(part, role) or Unknown(role)
    item.raw = {"part": part}
    item.origin = NAME
    item.cache = _cache_of(part)
    return item


def _parse_known_part(part: Mapping[str, Any], role: Role) -> AnyItem | None:
    kind = part.get("type")
    said = part.get(kind) if isinstance(kind, str) else None
    match kind:
        case "text" if isinstance(said, str):
            return Text(role, said)
        case "refusal" if isinstance(said, str):
            return Refusal(role, said)
        case "image_url":
            url = said if isinstance(said, str) else text_of(mapping_of(said).get("url"))
            media_type, data = split_data_url(url)
            detail = text_of(mapping_of(said).get("detail"))
            return Image(role, media_type, data, "" if data else url, detail=detail) if url else None
        case "input_audio" if isinstance(said, dict) and isinstance(said.get("data"), str):
            return Audio(role, text_of(said.get("format")), said["data"])
        case "file" if isinstance(said, dict):
            return _parse_file(said, role)
        case "video_url" | "document_url":
            url = said if isinstance(said, str) else text_of(mapping_of(said).get("url"))
            media_type, data = split_data_url(url)
            guess = media_type or guess_type(url) or ("video/mp4" if kind == "video_url" else "")
            return File(role, guess, data, url="" if data else url, name=text_of(part.get("document_name"))) if url else None
        case "thinking" if role == "assistant":
            signature = text_of(part.get("signature"))
            return Reasoning(role, thinking_text(part), seals=[Seal("signature", signature, NAME)] if signature else [])
        case _:
            return None


def _parse_file(said: Mapping[str, Any], role: Role) -> File | None:
    name, file_id, given = text_of(said.get("filename")), text_of(said.get("file_id")), text_of(said.get("file_data"))
    media_type, data = split_data_url(given)
    guess = media_type or guess_type(name)
    if data:
        return File(role, guess, data, name=name)
    if "://" in given[:16]:
        return File(role, guess or guess_type(given), url=given, name=name)
    if given:
        return File(role, guess or "application/pdf", given, name=name)
    return File(role, guess, file_id=file_id, name=name) if file_id else None
