"""OpenAI Responses: requests and whole answers, to and from the hub. Pure. Its streams are in `openai_responses_stream`, its pass-through
in `openai_responses_tap`.

The provider keeps nothing: a request goes out with all its items, `store` false and sealed thinking; what a client calls by id
(`previous_response_id`, `conversation`, an item's reference) the gateway has put in before.
"""

from collections.abc import Mapping
from typing import Any, Final

from proxy.formats.conversation import (
    Answer,
    AnyItem,
    Audio,
    CannotParse,
    CannotRender,
    Conversation,
    Echo,
    File,
    Image,
    OutputFormat,
    Reasoning,
    Refusal,
    ServerTool,
    Target,
    Text,
    Thinking,
    ToolCall,
    ToolChoice,
    ToolDef,
    ToolResult,
    Unknown,
)
from proxy.formats.openai_responses_items import (
    NAME,
    dicts_of,
    flat_name,
    mapping_of,
    parse_items,
    read_stop,
    read_usage,
    render_output,
    render_response,
    render_stop,
    render_usage,
    sent_tools,
    short_call_id,
    text_of,
)
from proxy.formats.openai_responses_stream import KEEP_ALIVE, StreamParser, StreamRenderer
from proxy.formats.openai_responses_tap import ResponsesAnswer, ResponsesTap, read_answer

__all__ = [
    "KEEP_ALIVE",
    "NAME",
    "STATE_FIELDS",
    "ResponsesAnswer",
    "ResponsesTap",
    "StreamParser",
    "StreamRenderer",
    "flat_name",
    "is_instructions",
    "parse_answer",
    "parse_request",
    "read_answer",
    "read_usage",
    "render_answer",
    "render_request",
    "render_usage",
]

MOST_ITEMS = 10_000
MOST_TOOLS = 1_024
MOST_OUTPUT = 10_000_000
LEAST_OUTPUT = 16  # OpenAI refuses less
LONGEST_WORD = 200  # of a model's name, an effort, a tier

STATE_FIELDS: Final = ("previous_response_id", "conversation", "background", "prompt")
"""What refers to things kept at the provider: the gateway resolves or refuses it, and takes it out of `extra`, before a request is rendered."""

_PARSED = frozenset(
    (
        "model",
        "input",
        "instructions",
        "stream",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "max_output_tokens",
        "temperature",
        "top_p",
        "top_logprobs",
        "reasoning",
        "text",
        "user",
        "metadata",
        "service_tier",
        "prompt_cache_key",
    )
)
_SEALED_THINKING = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"
_TIERS = frozenset(("auto", "default", "flex", "priority", "scale"))
_STRICT_KINDS = frozenset(("openai", "azure"))  # who refuse thinking that is not sealed, and roles of others' making
# Extras of other formats that change the meaning of the request; the others are harmless where they are not known.
_REFUSED_EXTRAS = frozenset(
    (
        "audio",
        "web_search_options",
        "mcp_servers",
        "container",
        "cachedContent",
        "cached_content",
        "speechConfig",
    )
)

# -- Requests: from JSON ---------------------------------------------------------------------------------------------------------------


def parse_request(fields: Mapping[str, Any]) -> Conversation:
    """The conversation that a request's fields tell.

    Raises: CannotParse.
    """
    asked = fields.get("input")
    instructions = _read_text(fields, "instructions", longest=None)
    items: list[AnyItem] = []
    if instructions is not None:
        items.append(Text("system", raw={"instructions": instructions}, origin=NAME, new_turn=True, text=instructions))
    if isinstance(asked, str):
        items.append(Text("user", raw={"input": asked}, origin=NAME, new_turn=True, text=asked))
    elif isinstance(asked, list):
        if len(asked) > MOST_ITEMS:
            raise CannotParse(f"At most {MOST_ITEMS} items fit in one request.", param="input")
        items += parse_items(asked, strict=True)
    elif asked is not None or not any(fields.get(name) is not None for name in STATE_FIELDS):
        raise CannotParse("The field 'input' must be text or a list of items.", param="input")
    extra = {name: value for name, value in fields.items() if name not in _PARSED and value is not None}
    thinking = _parse_thinking(fields, extra)
    output_format, verbosity = _parse_text(fields, extra)
    include = _check_extra(extra)
    top_logprobs = _read_whole(fields, "top_logprobs", least=0, most=20)
    return Conversation(
        origin=NAME,
        model=_read_text(fields, "model") or "",
        items=items,
        stream=_read_flag(fields, "stream") or False,
        tools=_parse_tools(fields.get("tools")),
        tool_choice=_parse_choice(fields.get("tool_choice"), extra),
        parallel_tools=_read_flag(fields, "parallel_tool_calls"),
        max_output=_read_whole(fields, "max_output_tokens", least=1, most=MOST_OUTPUT),
        temperature=_read_number(fields, "temperature"),
        top_p=_read_number(fields, "top_p"),
        logprobs=_LOGPROBS in include or bool(top_logprobs),
        top_logprobs=top_logprobs,
        output_format=output_format,
        thinking=thinking,
        verbosity=verbosity,
        user=_read_text(fields, "user") or "",
        metadata=dict(_read_object(fields, "metadata")),
        service_tier=_read_text(fields, "service_tier") or "",
        cache_key=_read_text(fields, "prompt_cache_key", longest=None) or "",
        extra=extra,
    )


def is_instructions(item: AnyItem) -> bool:
    """Whether the item is a request's `instructions`: they stand before everything, and the next response does not inherit them."""
    return isinstance(item, Text) and item.origin == NAME and isinstance(item.raw, dict) and "instructions" in item.raw


def _parse_thinking(fields: Mapping[str, Any], extra: dict[str, Any]) -> Thinking | None:
    if fields.get("reasoning") is None:
        return None
    said = _read_object(fields, "reasoning")
    effort = _read_text(said, "effort", "reasoning.") or ""
    summary = _read_text(said, "summary", "reasoning.") or _read_text(said, "generate_summary", "reasoning.") or ""
    rest = {name: value for name, value in said.items() if name not in ("effort", "summary", "generate_summary") and value is not None}
    if rest:
        extra["reasoning"] = rest
    return Thinking(effort=effort, summary=summary, enabled=False if effort == "none" else None)


def _parse_text(fields: Mapping[str, Any], extra: dict[str, Any]) -> tuple[OutputFormat | None, str]:
    said = _read_object(fields, "text")
    form = _read_object(said, "format", "text.")
    rest = {name: value for name, value in said.items() if name not in ("format", "verbosity") and value is not None}
    if rest:
        extra["text"] = rest
    verbosity = _read_text(said, "verbosity", "text.") or ""
    match form.get("type"):
        case "json_object":
            return OutputFormat("json_object"), verbosity
        case "json_schema":
            schema = form.get("schema")
            if not isinstance(schema, dict):
                raise CannotParse("The field 'text.format.schema' must be a JSON schema.", param="text.format.schema")
            found = OutputFormat(
                "json_schema",
                name=_read_text(form, "name", "text.format.") or "",
                schema=schema,
                strict=_read_flag(form, "strict", "text.format."),
                description=_read_text(form, "description", "text.format.", longest=None) or "",
            )
            return found, verbosity
        case "text" | None:
            return None, verbosity
        case _:
            raise CannotParse("The field 'text.format.type' must be text, json_object or json_schema.", param="text.format.type")


def _check_extra(extra: Mapping[str, Any]) -> list[str]:
    """What the request asks to include; the types of the extras that the gateway itself looks at."""
    include = extra.get("include", [])
    if not isinstance(include, list) or not all(isinstance(name, str) for name in include):
        raise CannotParse("The field 'include' must be a list of names.", param="include")
    for name, kind, what in (
        ("store", bool, "true or false"),
        ("background", bool, "true or false"),
        ("previous_response_id", str, "a response's id"),
        ("conversation", str | dict, "a conversation's id or an object"),
        ("prompt", dict, "an object"),
        ("truncation", str, "auto or disabled"),
        ("stream_options", dict, "an object"),
        ("safety_identifier", str, "text"),
    ):
        if name in extra and not isinstance(extra[name], kind):
            raise CannotParse(f"The field {name!r} must be {what}.", param=name)
    return include


def _parse_tools(tools: Any) -> list[ToolDef]:
    if tools is None:
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise CannotParse("The field 'tools' must be a list of tools.", param="tools")
    if len(tools) > MOST_TOOLS:
        raise CannotParse(f"At most {MOST_TOOLS} tools fit in one request.", param="tools")
    found: list[ToolDef] = []
    for index, tool in enumerate(tools):
        param = f"tools[{index}]"
        if tool.get("type") == "namespace" and isinstance(tool.get("tools"), list):
            outer = {name: value for name, value in tool.items() if name != "tools"}
            namespace = _need_name(tool, param)
            for place, inner in enumerate(tool["tools"]):
                if not isinstance(inner, dict):
                    raise CannotParse(f"The field '{param}.tools[{place}]' must be a tool.", param=param)
                definition = _parse_tool(inner, f"{param}.tools[{place}]")
                definition.namespace = namespace
                definition.raw = {"namespace": outer, "tool": inner}
                found.append(definition)
        else:
            found.append(_parse_tool(tool, param))
    return found


def _parse_tool(tool: dict[str, Any], param: str) -> ToolDef:
    kind = tool.get("type")
    if not isinstance(kind, str):
        raise CannotParse(f"The field '{param}.type' must be a tool's type.", param=param)
    if kind not in ("function", "custom"):
        return ToolDef(text_of(tool.get("name")) or kind, kind="builtin", raw=tool, origin=NAME)
    parameters = tool.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise CannotParse(f"The field '{param}.parameters' must be a JSON schema.", param=param)
    return ToolDef(
        _need_name(tool, param),
        description=_read_text(tool, "description", f"{param}.", longest=None) or "",
        parameters=parameters if kind == "function" else None,
        strict=_read_flag(tool, "strict", f"{param}."),
        kind="custom" if kind == "custom" else "function",
        raw=tool,
        origin=NAME,
    )


def _need_name(tool: Mapping[str, Any], param: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name or len(name) > LONGEST_WORD:
        raise CannotParse(f"The field '{param}.name' must be a tool's name.", param=param)
    return name


def _parse_choice(choice: Any, extra: dict[str, Any]) -> ToolChoice | None:
    """The choice in the hub's words; one that names a built-in tool stays in `extra`, because only this format has it."""
    match choice:
        case None:
            return None
        case "auto" | "none" | "required":
            return ToolChoice(choice)
        case {"type": "function" | "custom" as kind, "name": str(name)}:
            return ToolChoice("named", name=name, kind="custom" if kind == "custom" else "function")
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": list(tools)}:
            allowed = dicts_of(tools)
            if any(tool.get("type") not in ("function", "custom") for tool in allowed):
                extra["tool_choice"] = choice
            return ToolChoice(
                "required" if mode == "required" else "auto",
                allowed=[name for tool in allowed if (name := text_of(tool.get("name")))],
            )
        case {"type": str()}:
            extra["tool_choice"] = choice
            return None
        case _:
            raise CannotParse("The field 'tool_choice' must be auto, none, required or name a tool.", param="tool_choice")


# -- Requests: to JSON -----------------------------------------------------------------------------------------------------------------


def render_request(conversation: Conversation, target: Target) -> dict[str, Any]:
    """The request to send to a provider of this format; harmless losses are named in `target.dropped`.

    Raises: CannotRender, for what would change the meaning.
    """
    own = conversation.origin == NAME
    _refuse(conversation, own=own)
    body: dict[str, Any] = {"model": target.model, "input": _render_input(conversation, target)}
    instructions = "\n\n".join(item.text for item in conversation.items if is_instructions(item) and isinstance(item, Text))
    if instructions:
        body["instructions"] = instructions
    if conversation.stream:
        body["stream"] = True
    body["max_output_tokens"] = max(target.max_output, LEAST_OUTPUT)
    _render_tools(conversation, target, body, own=own)
    _render_sampling(conversation, target, body, own=own)
    _render_text(conversation, body, own=own)
    thinks = _render_thinking(conversation, target, body, own=own)
    _render_labels(conversation, target, body, own=own)
    include = list(conversation.extra.get("include", [])) if own else []
    if (thinks or any(isinstance(item, Reasoning) for item in conversation.items)) and _SEALED_THINKING not in include:
        include.append(_SEALED_THINKING)
    if include:
        body["include"] = include
    body["store"] = False
    if own:
        skipped = (*STATE_FIELDS, "store", "include", "tool_choice", "reasoning", "text")
        body |= {name: value for name, value in conversation.extra.items() if name not in skipped}
        if not conversation.stream:
            body.pop("stream_options", None)
    else:
        target.dropped += conversation.extra
    return body


def _refuse(conversation: Conversation, *, own: bool) -> None:
    if conversation.stop:
        raise CannotRender("This model's provider cannot stop at a text ('stop').", param="stop")
    if conversation.n > 1:
        raise CannotRender("This model's provider gives one answer to a request ('n').", param="n")
    if conversation.logprobs and not own:
        raise CannotRender("Log probabilities cannot be had from this model's provider ('logprobs').", param="logprobs")
    for name in STATE_FIELDS if own else ():
        if conversation.extra.get(name):
            raise CannotRender(f"The field {name!r} is not available for this model.", param=name)
    for name in () if own else conversation.extra:
        if name in _REFUSED_EXTRAS:
            raise CannotRender(f"The field {name!r} is not available for this model.", param=name)


def _render_tools(conversation: Conversation, target: Target, body: dict[str, Any], *, own: bool) -> None:
    tools: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for tool in () if own else conversation.tools:
        if names.setdefault(flat_name(tool.namespace, tool.name), tool.name) != tool.name:
            raise CannotRender(f"The tools {tool.name!r} and another have one name at this model's provider.", param="tools")
    for tool in conversation.tools:
        rendered = _render_tool(tool, target)
        raw = tool.raw if isinstance(tool.raw, dict) else {}
        if tool.namespace and "namespace" in raw:
            if not (tools and tools[-1].get("type") == "namespace" and tools[-1].get("name") == tool.namespace):
                tools.append({**raw["namespace"], "tools": []})
            tools[-1]["tools"].append(rendered)
        else:
            tools.append(rendered)
    if tools:
        body["tools"] = tools
    choice = _render_choice(conversation)
    if choice is not None:
        if tools or own:
            body["tool_choice"] = choice
        else:
            target.dropped.append("tool_choice")
    if conversation.parallel_tools is not None and (tools or own):
        body["parallel_tool_calls"] = conversation.parallel_tools


def _render_tool(tool: ToolDef, target: Target) -> dict[str, Any]:
    if tool.origin == NAME and isinstance(tool.raw, dict):
        raw: dict[str, Any] = tool.raw.get("tool", tool.raw) if tool.namespace else tool.raw
        return raw
    if tool.cache:
        target.dropped.append("cache_control")
    if tool.kind == "builtin":
        raise CannotRender(f"The built-in tool {tool.name!r} is not available for this model.", param="tools")
    name = flat_name(tool.namespace, tool.name)
    if tool.kind == "custom":
        custom: dict[str, Any] = {"type": "custom", "name": name}
        if tool.description:
            custom["description"] = tool.description
        form = _custom_format(tool)
        return custom | ({"format": form} if form else {})
    rendered: dict[str, Any] = {"type": "function", "name": name}
    if tool.description:
        rendered["description"] = tool.description
    rendered["parameters"] = tool.parameters if tool.parameters is not None else {"type": "object", "properties": {}}
    # Strictness is the default here and nowhere else.
    rendered["strict"] = tool.strict is True
    return rendered


def _custom_format(tool: ToolDef) -> dict[str, Any]:
    """The grammar of a custom tool that came in a chat request, flat as it is here."""
    form = mapping_of(mapping_of(mapping_of(tool.raw).get("custom")).get("format")) if tool.origin == "chat" else {}
    if form.get("type") != "grammar":
        return {}
    return {"type": "grammar", **mapping_of(form.get("grammar"))}


def _render_choice(conversation: Conversation) -> Any:
    if conversation.origin == NAME and "tool_choice" in conversation.extra:
        return conversation.extra["tool_choice"]
    choice = conversation.tool_choice
    if choice is None:
        return None
    own = conversation.origin == NAME
    customs = {tool.name for tool in conversation.tools if tool.kind == "custom"}

    def refer(name: str, *, custom: bool) -> dict[str, str]:
        return {"type": "custom" if custom else "function", "name": name if own else flat_name("", name)}

    if choice.mode == "named":
        return refer(choice.name, custom=choice.kind == "custom" or choice.name in customs)
    if choice.allowed and choice.mode != "none":
        return {
            "type": "allowed_tools",
            "mode": choice.mode,
            "tools": [refer(name, custom=name in customs) for name in choice.allowed],
        }
    return choice.mode


def _render_sampling(conversation: Conversation, target: Target, body: dict[str, Any], *, own: bool) -> None:
    if conversation.temperature is not None:
        body["temperature"] = conversation.temperature
    if conversation.top_p is not None:
        body["top_p"] = conversation.top_p
    if own and conversation.top_logprobs is not None:
        body["top_logprobs"] = conversation.top_logprobs
    for name in ("top_k", "seed", "presence_penalty", "frequency_penalty"):
        if getattr(conversation, name) is not None:
            target.dropped.append(name)


def _render_text(conversation: Conversation, body: dict[str, Any], *, own: bool) -> None:
    text: dict[str, Any] = dict(mapping_of(conversation.extra.get("text"))) if own else {}
    form = conversation.output_format
    if form is not None and form.kind == "json_object":
        text["format"] = {"type": "json_object"}
    elif form is not None:
        text["format"] = {"type": "json_schema", "name": form.name or "response", "schema": form.schema or {}}
        if form.strict is not None:
            text["format"]["strict"] = form.strict
        if form.description:
            text["format"]["description"] = form.description
    if conversation.verbosity:
        text["verbosity"] = conversation.verbosity
    if text:
        body["text"] = text


def _render_thinking(conversation: Conversation, target: Target, body: dict[str, Any], *, own: bool) -> bool:
    """Put in how much to think; whether the model will think, as far as that is known."""
    reasoning: dict[str, Any] = dict(mapping_of(conversation.extra.get("reasoning"))) if own else {}
    thinking = conversation.thinking
    if thinking is not None:
        effort = thinking.effort or _effort_of(thinking)
        if effort:
            reasoning["effort"] = effort
        if thinking.summary:
            reasoning["summary"] = thinking.summary
    if reasoning:
        body["reasoning"] = reasoning
    return reasoning.get("effort") != "none" and (bool(reasoning) or "reasoning" in target.capabilities)


def _effort_of(thinking: Thinking) -> str:
    """The effort that comes nearest to a budget of tokens; nothing where the model is to decide."""
    if thinking.enabled is False or thinking.budget == 0:
        return "none"
    if thinking.budget is None or thinking.budget < 0:
        return ""
    return "low" if thinking.budget <= 4_096 else "medium" if thinking.budget <= 16_384 else "high"


def _render_labels(conversation: Conversation, target: Target, body: dict[str, Any], *, own: bool) -> None:
    if conversation.metadata:
        if own or all(isinstance(value, str) and len(value) <= 512 for value in conversation.metadata.values()):
            body["metadata"] = conversation.metadata
        else:
            target.dropped.append("metadata")
    if conversation.user:
        body["user"] = conversation.user
    if conversation.cache_key:
        body["prompt_cache_key"] = conversation.cache_key
    if conversation.service_tier:
        if own or conversation.service_tier in _TIERS:
            body["service_tier"] = conversation.service_tier
        else:
            target.dropped.append("service_tier")


# -- Items of a request: to JSON -------------------------------------------------------------------------------------------------------


def _render_input(conversation: Conversation, target: Target) -> list[dict[str, Any]] | str:
    items = [item for item in conversation.items if not is_instructions(item)]
    if len(items) == 1 and isinstance(items[0], Text) and isinstance(items[0].raw, dict) and "input" in items[0].raw:
        return items[0].text
    rendered: list[dict[str, Any]] = []
    message: dict[str, Any] | None = None
    for index, item in enumerate(items):
        if item.cache and item.origin != NAME:
            _note(target, "cache_control")
        if isinstance(item, Text | Refusal | Image | File | Audio) or (isinstance(item, Unknown) and _is_part(item)):
            part = _render_part(item, target)
            if part is None:
                continue
            role = _role_of(item, target)
            if message is None or message["role"] != role or item.new_turn:
                message = _open_message(item, role)
                rendered.append(message)
            message["content"].append(part)
            continue
        message = None
        entry = _render_item(item, target, last=not _goes_on(items, index))
        if entry is not None:
            rendered.append(entry)
    return [_simplify(entry) for entry in rendered]


def _note(target: Target, name: str) -> None:
    if name not in target.dropped:
        target.dropped.append(name)


def _goes_on(items: list[AnyItem], index: int) -> bool:
    """Whether the model said something more after this item, before anybody answered."""
    following = next((item for item in items[index + 1 :] if not isinstance(item, Reasoning)), None)
    return following is not None and following.role == "assistant"


def _is_part(item: Unknown) -> bool:
    return item.origin == NAME and isinstance(item.raw, dict) and "part" in item.raw


def _role_of(item: AnyItem, target: Target) -> str:
    if item.role == "developer" and target.kind and target.kind not in _STRICT_KINDS and item.origin != NAME:
        return "system"
    if item.role == "assistant" and item.origin != NAME and isinstance(item, Image | File):
        return "user"  # there is no field for a picture that the model made
    return item.role


def _open_message(item: AnyItem, role: str) -> dict[str, Any]:
    outer = mapping_of(mapping_of(item.raw).get("message")) if item.origin == NAME else {}
    kept = {name: value for name, value in outer.items() if name not in ("id", "role")}
    return {"type": "message", **kept, "role": role, "content": []}


def _simplify(entry: dict[str, Any]) -> dict[str, Any]:
    """A message that is one plain text is told as text, which every provider takes."""
    content = entry.get("content")
    if entry.get("type") != "message" or not isinstance(content, list) or len(content) != 1:
        return entry
    part = content[0]
    plain = part.get("type") == "input_text" and len(part) == 2
    return {**entry, "content": part["text"]} if plain and isinstance(part.get("text"), str) else entry


def _render_part(item: AnyItem, target: Target) -> dict[str, Any] | None:
    raw = mapping_of(item.raw).get("part") if item.origin == NAME else None
    if isinstance(raw, dict):
        return raw
    match item:
        case Text():
            if item.role == "assistant":
                if item.origin == NAME:
                    return {"type": "output_text", "text": item.text}
                return {"type": "output_text", "text": item.text, "annotations": []} if item.text else None
            return {"type": "input_text", "text": item.text} if item.text or item.origin == NAME else None
        case Refusal():
            return {"type": "refusal", "refusal": item.text}
        case Image():
            return _render_image(item)
        case File():
            return _render_file(item)
        case Audio():
            if item.role == "assistant":
                return {"type": "output_text", "text": item.transcript, "annotations": []} if item.transcript else None
            raise CannotRender("This model's provider cannot hear ('input_audio').", param="input")
        case _:
            _note(target, "input")
            return None


def _render_image(item: Image) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "input_image"}
    if item.data:
        part["image_url"] = f"data:{item.media_type or 'image/png'};base64,{item.data}"
    elif item.url:
        part["image_url"] = item.url
    elif item.file_id and item.origin in (NAME, "chat"):
        part["file_id"] = item.file_id
    else:
        raise CannotRender("An image given by another provider's file id cannot be read by this model's.", param="input")
    return part | ({"detail": item.detail} if item.detail else {})


def _render_file(item: File) -> dict[str, Any]:
    if item.media_type.startswith(("video/", "audio/")):
        raise CannotRender(f"This model's provider cannot read {item.media_type}.", param="input")
    part: dict[str, Any] = {"type": "input_file"}
    if item.data:
        part["filename"] = item.name or _file_name(item.media_type)
        part["file_data"] = f"data:{item.media_type or 'application/pdf'};base64,{item.data}"
    elif item.text:
        return {"type": "input_text", "text": f"{item.name}\n\n{item.text}" if item.name else item.text}
    elif item.url:
        part["file_url"] = item.url
    elif item.file_id and item.origin in (NAME, "chat"):
        part["file_id"] = item.file_id
    else:
        raise CannotRender("A file given by another provider's id cannot be read by this model's.", param="input")
    return part


def _file_name(media_type: str) -> str:
    """A name for a file that has none: OpenAI demands one, and goes by its ending."""
    ending = {"text/plain": "txt", "text/csv": "csv", "text/html": "html", "text/markdown": "md", "application/json": "json"}
    return f"document.{ending.get(media_type, 'pdf')}"


def _render_item(item: AnyItem, target: Target, *, last: bool) -> dict[str, Any] | None:
    match item:
        case Reasoning():
            return _render_reasoning(item, target, last=last)
        case ToolCall():
            return _render_call(item)
        case ToolResult():
            return _render_result(item, target)
        case ServerTool() | Unknown() if item.origin == NAME and isinstance(item.raw, dict):
            if item.raw.get("type") == "item_reference":
                raise CannotRender("The item referred to by its id is not known.", param="input")
            return item.raw
        case _:
            _note(target, "server_tools" if isinstance(item, ServerTool) else "input")
            return None


def _render_reasoning(item: Reasoning, target: Target, *, last: bool) -> dict[str, Any] | None:
    """Thinking as its own kind of provider wants it back; all other thinking is left out.

    OpenAI takes it sealed only, without its visible text, and refuses what nothing of the model's follows; open models take the text.
    """
    if item.origin != NAME and not item.seals:
        return None
    sealed = next((seal.data for seal in item.seals if seal.origin == NAME and seal.data), "")
    raw = dict(item.raw) if item.origin == NAME and isinstance(item.raw, dict) else {}
    if target.kind in _STRICT_KINDS:
        if not sealed or last:
            return None
        raw.pop("content", None)
    elif (item.seals and not sealed) or (not sealed and not item.text):
        return None
    kept = {name: value for name, value in raw.items() if name not in ("id", "status", "encrypted_content") and value is not None}
    entry: dict[str, Any] = {
        **kept,
        "type": "reasoning",
        "summary": raw.get("summary") or [{"type": "summary_text", "text": text} for text in item.summary],
    }
    return entry | ({"encrypted_content": sealed} if sealed else {})


def _render_call(call: ToolCall) -> dict[str, Any]:
    raw = item_raw(call)
    entry: dict[str, Any] = {name: value for name, value in raw.items() if name != "id"}
    entry["type"] = "custom_tool_call" if call.kind == "custom" else "function_call"
    entry["call_id"] = short_call_id(call.call_id)
    entry["name"] = call.name if raw else flat_name(call.namespace, call.name)
    if call.namespace and raw:
        entry["namespace"] = call.namespace
    if call.kind == "custom":
        entry["input"] = call.arguments
    else:
        entry["arguments"] = call.arguments or "{}"
    return entry


def _render_result(result: ToolResult, target: Target) -> dict[str, Any]:
    entry: dict[str, Any] = {name: value for name, value in item_raw(result).items() if name != "id"}
    if result.is_error:
        _note(target, "is_error")
    entry["type"] = "custom_tool_call_output" if result.kind == "custom" else "function_call_output"
    entry["call_id"] = short_call_id(result.call_id)
    if "output" not in entry:
        if all(isinstance(part, Text) for part in result.parts):
            entry["output"] = "\n".join(part.text for part in result.parts if isinstance(part, Text))
        else:
            entry["output"] = [part for item in result.parts if (part := _render_part(item, target)) is not None]
    return entry


def item_raw(item: AnyItem) -> Mapping[str, Any]:
    """The JSON that the item came from, if it came in this format."""
    return mapping_of(item.raw) if item.origin == NAME else {}


# -- Answers ---------------------------------------------------------------------------------------------------------------------------


def parse_answer(fields: Mapping[str, Any], conversation: Conversation | None = None) -> Answer:
    """The answer that a response object tells. `conversation`: the request, to call tools by the names that the client gave them.

    Raises: CannotParse.
    """
    output = fields.get("output")
    if not isinstance(output, list):
        raise CannotParse("The answer has no output.", param="output")
    if fields.get("object", "response") != "response":  # a compaction is no answer
        raise CannotParse("The answer is not a response.", param="object")
    items = parse_items(output, strict=False, param="output")
    calls = [item for item in items if isinstance(item, ToolCall)]
    names = sent_tools(conversation)
    for call in calls:
        call.name = names.get(call.name, call.name)
    stop, raw_stop = read_stop(fields, called=bool(calls))
    created = fields.get("created_at")
    return Answer(
        id=text_of(fields.get("id")),
        model=text_of(fields.get("model")),
        items=items,
        stop=stop,
        usage=read_usage(fields.get("usage")),
        created=int(created) if isinstance(created, int | float) and 0 <= created < 1e12 else 0,
        raw_stop=raw_stop,
        raw=fields,
        origin=NAME,
    )


def render_answer(answer: Answer, echo: Echo) -> dict[str, Any]:
    """The response object to give to a client."""
    items = answer.items
    if answer.refusal and not any(isinstance(item, Refusal) for item in items):
        items = [*items, Refusal("assistant", text=answer.refusal)]
    return {
        **render_response(echo),
        **render_stop(answer.stop, answer.raw_stop),
        "output": render_output(items, echo),
        "usage": None if answer.usage is None else render_usage(answer.usage),
    }


# -- Reading fields --------------------------------------------------------------------------------------------------------------------


def _read_text(fields: Mapping[str, Any], name: str, prefix: str = "", *, longest: int | None = LONGEST_WORD) -> str | None:
    value = fields.get(name)
    if value is not None and (not isinstance(value, str) or (longest is not None and len(value) > longest)):
        raise CannotParse(f"The field '{prefix}{name}' must be text of a reasonable length.", param=prefix + name)
    return value


def _read_flag(fields: Mapping[str, Any], name: str, prefix: str = "") -> bool | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise CannotParse(f"The field '{prefix}{name}' must be true or false.", param=prefix + name)
    return value


def _read_object(fields: Mapping[str, Any], name: str, prefix: str = "") -> Mapping[str, Any]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CannotParse(f"The field '{prefix}{name}' must be an object.", param=prefix + name)
    return value


def _read_number(fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e6 < value < 1e6:
        raise CannotParse(f"The field {name!r} must be a number.", param=name)
    return value


def _read_whole(fields: Mapping[str, Any], name: str, *, least: int, most: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise CannotParse(f"The field {name!r} must be a whole number from {least} to {most}.", param=name)
    return value
