"""OpenAI Chat Completions to and from the hub, for calls whose two sides speak different formats. Pure.

What is particular to this format:

* A message holds several things. Each becomes an item; the first of a message has `new_turn`. An item's `raw` is a dictionary with what it
  was parsed from: `part` (of a content list), `tool_call`, `content` (of a tool's result), the reasoning fields by their names, and, on the
  first item of a message, `message`: the message's fields that no item holds (`name`, `prefix`, ...).
* Reasoning goes out to clients as `reasoning_content` and as `reasoning_details` (OpenRouter's form). Entries of one `index` are one item;
  an entry whose `id` is that of a tool call in the same message is that call's seal, one whose `id` is "text" the text's.
* The tools' names are narrower here than elsewhere: `wire_name` makes a valid one, and answers get the client's own name back.
"""

import base64
import binascii
import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NoReturn, TypeGuard

import orjson

from catalog.usage import TokenUsage
from proxy.formats import openai_chat
from proxy.formats.conversation import (
    Answer,
    AnyItem,
    Audio,
    CannotParse,
    CannotRender,
    Closed,
    Conversation,
    Delta,
    Echo,
    Ended,
    Event,
    Failed,
    File,
    Image,
    Item,
    Metered,
    Opened,
    Origin,
    OutputFormat,
    Pinged,
    Reasoning,
    Refusal,
    Role,
    Seal,
    ServerTool,
    Started,
    Stop,
    Stopped,
    Target,
    Text,
    Thinking,
    ToolCall,
    ToolChoice,
    ToolDef,
    ToolResult,
    Unknown,
)
from proxy.sse import Splitter

NAME: Final = "chat"
LONGEST_NAME = 64
MOST_STOPS = 64
MOST_TOOLS = 1024
DONE = b"data: [DONE]\n\n"

OPENAI_KINDS = frozenset({"openai", "azure"})
"""Who knows the newest fields, and refuses what it does not know."""
_NEW_LIMIT_KINDS = frozenset({"openai", "azure", "groq"})
_TOP_K_KINDS = frozenset({"openrouter", "custom", "alibaba", "lmstudio", "anthropic"})
_LIST_KINDS = frozenset({"openai", "azure", "openrouter", "groq", "mistral", "xai", "google"})
"""Who takes a list of text parts where a string would do; elsewhere several texts are joined."""
_USER_KINDS = frozenset({"openai", "azure", "openrouter", "groq", "custom"})
_NO_STREAM_OPTIONS = frozenset({"mistral"})

_STOPS: Final[Mapping[str, Stop]] = {
    "stop": Stop.END,
    "eos": Stop.END,
    "length": Stop.LENGTH,
    "model_length": Stop.LENGTH,
    "model_context_window_exceeded": Stop.LENGTH,
    "tool_calls": Stop.TOOL,
    "function_call": Stop.TOOL,
    "content_filter": Stop.FILTER,
    "sensitive": Stop.FILTER,
    "refusal": Stop.FILTER,
    "error": Stop.FAULT,
    "network_error": Stop.FAULT,
    "insufficient_system_resource": Stop.FAULT,
}
_FINISHES: Final[Mapping[Stop, str]] = {
    Stop.END: "stop",
    Stop.LENGTH: "length",
    Stop.TOOL: "tool_calls",
    Stop.FILTER: "content_filter",
    Stop.PAUSE: "stop",
    Stop.FAULT: "error",
}
_DETAIL_FORMATS: Final[Mapping[str, str]] = {
    "messages": "anthropic-claude-v1",
    "responses": "openai-responses-v1",
    "gemini": "google-gemini-v1",
    "chat": "unknown",
}
_MEDIA_TYPES: Final[Mapping[str, str]] = {
    "pdf": "application/pdf",
    "json": "application/json",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "html": "text/html",
    "xml": "text/xml",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "ogg": "audio/ogg",
    "flac": "audio/flac",
    "m4a": "audio/mp4",
    "mp4": "video/mp4",
    "mpeg": "video/mpeg",
    "mov": "video/quicktime",
    "webm": "video/webm",
}
_EXTENSIONS: Final[Mapping[str, str]] = {media_type: extension for extension, media_type in _MEDIA_TYPES.items()}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
_NOT_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_DATA_URL = re.compile(r"data:([a-zA-Z0-9.+-]+/[a-zA-Z0-9.+-]+)?((?:;[a-zA-Z0-9_.-]+=[^;,]*)*);base64,")
_TEXT_ID = "text"  # the `id` of a reasoning detail that is the signature of the text itself
_MEANINGFUL_EXTRAS = frozenset({"mcp_servers", "prompt", "cachedContent"})
"""Fields of other formats that say what the model is to see: to leave them out would change the question."""

# -- Reading JSON from strangers -------------------------------------------------------------------------------------------------------


def _refuse(param: str, what: str) -> NoReturn:
    raise CannotParse(f"The field {param!r} must be {what}.", param=param)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    return value if isinstance(value, str) else _refuse(name, "a string")


def _flag(fields: Mapping[str, Any], name: str) -> bool | None:
    value = fields.get(name)
    return value if value is None or isinstance(value, bool) else _refuse(name, "true or false")


def _whole(fields: Mapping[str, Any], name: str, *, least: int, most: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not _is_count(value) or not least <= value <= most:
        _refuse(name, f"a whole number from {least} to {most}")
    return value


def _number(fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e6 or not math.isfinite(value):
        _refuse(name, "a number")
    return value


def _object(fields: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    value = fields.get(name)
    return value if value is None or isinstance(value, dict) else _refuse(name, "an object")


def _objects(fields: Mapping[str, Any], name: str, *, most: int) -> list[dict[str, Any]]:
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > most or not all(isinstance(one, dict) for one in value):
        _refuse(name, f"a list of at most {most} objects")
    return value


def _str(value: Any) -> str:
    """The value where it is a string: for answers, which are read as far as they make sense."""
    return value if isinstance(value, str) else ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _arguments(value: Any) -> str:
    """A call's arguments as JSON text; some servers send the object itself."""
    if isinstance(value, str):
        return value
    try:
        return "" if value is None else orjson.dumps(value).decode()
    except TypeError:  # a number beyond 64 bits
        return ""


def _raw(item: Item) -> dict[str, Any]:
    """What the item was parsed from, where that was this format."""
    return item.raw if item.origin == NAME and isinstance(item.raw, dict) else {}


# -- Names of tools --------------------------------------------------------------------------------------------------------------------


def wire_name(name: str, namespace: str = "") -> str:
    """A tool's name as this format takes it: at most 64 of a-z, A-Z, 0-9, `_` and `-`; always the same for the same tool."""
    full = f"{namespace}__{name}" if namespace else name
    if _NAME.match(full):
        return full
    digest = hashlib.blake2s(full.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return f"{_NOT_NAME.sub('_', full)[: LONGEST_NAME - 9]}_{digest}"


def _changed_tools(conversation: Conversation | None) -> dict[str, ToolDef]:
    """The client's tools that a provider knows by another name or as another kind, by the name it knows."""
    if conversation is None:
        return {}
    return {
        called: tool
        for tool in conversation.tools
        if tool.kind != "builtin" and ((called := wire_name(tool.name, tool.namespace)) != tool.name or tool.kind == "custom")
    }


def _unwrap_input(arguments: str) -> str:
    """The free text in the arguments of a function that stands for a custom tool."""
    try:
        found = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    text = found.get("input") if isinstance(found, dict) else None
    return text if isinstance(text, str) else arguments


# -- Usage -----------------------------------------------------------------------------------------------------------------------------


def read_usage(usage: Any) -> TokenUsage | None:
    """Turn a `usage` object into disjoint buckets; None when there is none or it is not to be believed."""
    if not isinstance(usage, dict):
        return None
    found = openai_chat.read_usage(usage)
    return found if found is not None and found.is_sane() else None


def render_usage(usage: TokenUsage) -> dict[str, Any]:
    """The counts as a `usage` object: `prompt_tokens` contains what was cached, `completion_tokens` the reasoning."""
    return {
        "prompt_tokens": usage.total_input_tokens,
        "completion_tokens": usage.total_output_tokens,
        "total_tokens": usage.total_input_tokens + usage.total_output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
            "audio_tokens": usage.audio_input_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": usage.audio_output_tokens},
    }


# -- Reasoning, in both directions -----------------------------------------------------------------------------------------------------


def _seals_of(detail: Mapping[str, Any]) -> list[Seal]:
    """The opaque parts of a reasoning detail: one, or both where a client added up the entries of one index."""
    seals = []
    if data := _str(detail.get("signature")):
        seals.append(Seal("signature", data, NAME))
    if data := _str(detail.get("data")):
        seals.append(Seal("redacted" if _str(detail.get("format")).startswith("anthropic") else "encrypted", data, NAME))
    return seals


def _thinking_text(part: Mapping[str, Any]) -> str:
    """The text of a thinking part: Mistral has a list of text parts in it, Anthropic-like servers a string."""
    thinking = part.get("thinking")
    if isinstance(thinking, list):
        return "".join(_str(piece.get("text")) for piece in _dicts(thinking))
    return _str(thinking)


def _parse_reasoning(message: Mapping[str, Any], calls: Mapping[str, ToolCall], texts: list[Text]) -> list[Reasoning]:
    """The reasoning of an assistant message, whichever way it is written; seals of calls and texts go to these."""
    flat_field = next((name for name in ("reasoning_content", "reasoning") if _str(message.get(name))), "")
    found: list[Reasoning] = []
    last: Any = None
    for detail in _dicts(message.get("reasoning_details")):
        seals = _seals_of(detail)
        owner = detail.get("id")
        if seals and isinstance(owner, str) and (call := calls.get(owner)) is not None:
            known = {seal.data for seal in call.seals}
            call.seals += [Seal("signature", seal.data, NAME) for seal in seals if seal.data not in known]
            call.raw = {**_raw(call), "reasoning_details": [*_raw(call).get("reasoning_details", []), detail]}
            continue
        if seals and owner == _TEXT_ID and texts:
            texts[-1].signature = seals[0].data
            continue
        index = detail.get("index")
        text, summary = _str(detail.get("text")), _str(detail.get("summary"))
        if not found or (index != last if index is not None else bool(text or summary or detail.get("data"))):
            found.append(Reasoning("assistant", raw={"reasoning_details": []}, origin=NAME))
        last = index
        item = found[-1]
        item.raw["reasoning_details"].append(detail)
        item.text += text
        if summary:
            item.summary.append(summary)
        item.seals += seals
        item.id = item.id or _str(owner)
    for block in _dicts(message.get("thinking_blocks")) if not found else ():
        data = _str(block.get("signature")) or _str(block.get("data"))
        kind: Literal["signature", "redacted"] = "redacted" if block.get("type") == "redacted_thinking" else "signature"
        seals = [Seal(kind, data, NAME)] if data else []
        found.append(Reasoning("assistant", _thinking_text(block), seals=seals, raw={"thinking_blocks": [block]}, origin=NAME))
    if flat_field and not any(item.text or item.summary for item in found):
        if not found:
            found.append(Reasoning("assistant", raw={}, origin=NAME))
        found[0].text = message[flat_field]
        found[0].raw[flat_field] = message[flat_field]
    return found


def _is_as_parsed(item: Reasoning, details: list[dict[str, Any]]) -> bool:
    """Whether the details still say what the item says (its seals may have been opened or sealed since)."""
    seals = [seal.data for detail in details for seal in _seals_of(detail)]
    text = (
        "".join(_str(detail.get("text")) for detail in details)
        or _str(_raw(item).get("reasoning_content"))
        or _str(_raw(item).get("reasoning"))
    )
    return seals == [seal.data for seal in item.seals] and text == item.text


def _detail_format(item: Item, seals: Iterable[Seal]) -> str:
    """Whose reasoning it is, in OpenRouter's words."""
    for detail in _dicts(_raw(item).get("reasoning_details")):
        if name := _str(detail.get("format")):
            return name
    origin = next((seal.origin for seal in seals), item.origin)
    return _DETAIL_FORMATS.get(origin or "", "unknown")


def _seal_detail(seal: Seal, *, owner: str, format_name: str, index: int) -> dict[str, Any]:
    detail: dict[str, Any] = {"type": "reasoning.text", "signature": seal.data}
    if seal.kind != "signature" or owner:
        detail = {"type": "reasoning.encrypted", "data": seal.data}
    if owner:
        detail["id"] = owner
    return {**detail, "format": format_name, "index": index}


def _render_details(item: Reasoning, index: int) -> list[dict[str, Any]]:
    """A reasoning item as entries of `reasoning_details`, all with its index."""
    known = _dicts(_raw(item).get("reasoning_details"))
    if known and _is_as_parsed(item, known):
        return [{**detail, "index": index} for detail in known]
    format_name = _detail_format(item, item.seals)
    about = {"id": item.id, "format": format_name, "index": index} if item.id else {"format": format_name, "index": index}
    details: list[dict[str, Any]] = []
    seals = list(item.seals)
    if item.text:
        detail = {"type": "reasoning.text", "text": item.text, **about}
        if seals and seals[0].kind == "signature":
            detail["signature"] = seals.pop(0).data
        details.append(detail)
    details += [{"type": "reasoning.summary", "summary": part, **about} for part in item.summary]
    return details + [{**_seal_detail(seal, owner="", format_name=format_name, index=index), **about} for seal in seals]


# -- Requests in -----------------------------------------------------------------------------------------------------------------------

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
    messages = _objects(fields, "messages", most=openai_chat.MOST_MESSAGES)
    if not messages:
        _refuse("messages", "a list of at least one message object")
    _object(fields, "stream_options")
    limits = [
        limit for name in openai_chat.LIMIT_FIELDS if (limit := _whole(fields, name, least=1, most=openai_chat.MOST_OUTPUT)) is not None
    ]
    conversation = Conversation(
        origin=NAME,
        model=_text(fields, "model"),
        items=_parse_messages(messages),
        stream=_flag(fields, "stream") or False,
        parallel_tools=_flag(fields, "parallel_tool_calls"),
        max_output=max(limits, default=None),  # given both, the provider may take either
        temperature=_number(fields, "temperature"),
        top_p=_number(fields, "top_p"),
        top_k=_whole(fields, "top_k", least=-1, most=1_000_000),
        stop=_parse_stop(fields.get("stop")),
        seed=_whole(fields, "seed", least=-(2**63), most=2**63 - 1),
        presence_penalty=_number(fields, "presence_penalty"),
        frequency_penalty=_number(fields, "frequency_penalty"),
        logprobs=_flag(fields, "logprobs") or False,
        top_logprobs=_whole(fields, "top_logprobs", least=0, most=100),
        n=_whole(fields, "n", least=1, most=openai_chat.MOST_CHOICES) or 1,
        verbosity=_text(fields, "verbosity"),
        user=_text(fields, "user"),
        metadata=_object(fields, "metadata") or {},
        service_tier=_text(fields, "service_tier"),
        cache_key=_text(fields, "prompt_cache_key"),
        extra={name: value for name, value in fields.items() if name not in _TYPED_FIELDS and value is not None},
    )
    conversation.tools = [_parse_tool(tool) for tool in _objects(fields, "tools", most=MOST_TOOLS)]
    conversation.tool_choice = _parse_tool_choice(fields.get("tool_choice"), "tool_choice")
    if not conversation.tools and fields.get("functions") is not None:  # before there were tools there was one function at a time
        functions = _objects(fields, "functions", most=MOST_TOOLS)
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
        _refuse("stop", f"a string or a list of at most {MOST_STOPS} strings")
    return list(stops)


def _parse_response_format(fields: Mapping[str, Any], conversation: Conversation) -> None:
    wanted = _object(fields, "response_format")
    if wanted is None or wanted.get("type") == "text":
        return
    if wanted.get("type") == "json_object":
        conversation.output_format = OutputFormat("json_object")
    elif wanted.get("type") == "json_schema":
        said = _object(wanted, "json_schema")
        if said is None:
            _refuse("response_format.json_schema", "an object")
        conversation.output_format = OutputFormat(
            "json_schema",
            name=_text(said, "name"),
            schema=_object(said, "schema"),
            strict=_flag(said, "strict"),
            description=_text(said, "description"),
        )
    else:  # a grammar or the like, of one provider
        conversation.extra["response_format"] = wanted


def _parse_thinking(fields: Mapping[str, Any], conversation: Conversation) -> None:
    """Read the ways in which this format's dialects ask for thinking; what is beyond the hub's words stays in `extra` as it is."""
    effort = _text(fields, "reasoning_effort")
    budget = _whole(fields, "thinking_budget", least=0, most=openai_chat.MOST_OUTPUT)
    enabled = _flag(fields, "enable_thinking")
    summary, adaptive, asked = "", False, False
    if (wanted := _object(fields, "reasoning")) is not None:  # OpenRouter
        asked = True
        effort = effort or _text(wanted, "effort")
        limit = _whole(wanted, "max_tokens", least=0, most=openai_chat.MOST_OUTPUT)
        budget = limit if limit is not None else budget
        switched = _flag(wanted, "enabled")
        enabled = switched if switched is not None else enabled
        summary = _text(wanted, "summary")
        if wanted.keys() - {"effort", "max_tokens", "enabled", "summary"}:
            conversation.extra["reasoning"] = wanted
    if (wanted := _object(fields, "thinking")) is not None:  # Anthropic, DeepSeek, Z.ai, Moonshot
        asked = True
        kind = _text(wanted, "type")
        adaptive = kind == "adaptive"
        enabled = {"enabled": True, "disabled": False}.get(kind, enabled)
        limit = _whole(wanted, "budget_tokens", least=0, most=openai_chat.MOST_OUTPUT)
        budget = limit if limit is not None else budget
        if wanted.keys() - {"type", "budget_tokens"}:
            conversation.extra["thinking"] = wanted
    if effort or asked or budget is not None or enabled is not None:
        conversation.thinking = Thinking(effort=effort, budget=budget, enabled=enabled, adaptive=adaptive, summary=summary)


def _parse_tool(tool: dict[str, Any]) -> ToolDef:
    kind = tool.get("type", "function")
    if kind == "function":
        said = _object(tool, "function")
        if said is None or not _text(said, "name"):
            _refuse("tools", "a list of tools, each function with a name")
        return ToolDef(
            said["name"],
            _text(said, "description"),
            _object(said, "parameters"),
            _flag(said, "strict"),
            cache=_cache_of(tool) or _cache_of(said),
            raw=tool,
            origin=NAME,
        )
    if kind == "custom" and isinstance(tool.get("custom"), dict):
        name = _text(tool["custom"], "name") or _refuse("tools", "a list of tools, each custom tool with a name")
        return ToolDef(name, _text(tool["custom"], "description"), kind="custom", raw=tool, origin=NAME)
    if not isinstance(kind, str):
        _refuse("tools", "a list of tools, each with a type")
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
            said = _dict(value.get("allowed_tools")) or value
            mode = said.get("mode", "auto")
            names = [
                _str(_dict(tool.get(_str(tool.get("type")))).get("name")) or _str(tool.get("name")) for tool in _dicts(said.get("tools"))
            ]
            if isinstance(mode, str) and mode in _CHOICES and names and all(names):
                return ToolChoice(_CHOICES[mode], allowed=names)
            _refuse(param, "a known choice of tools")
        name = _str(_dict(value.get("custom") or value.get("function")).get("name")) or _str(value.get("name"))
        if name:
            return ToolChoice("named", name, kind="custom" if kind == "custom" else "function")
    _refuse(param, "a known choice of tools")


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
            _refuse(f"messages[{position}].role", "system, developer, user, assistant or tool")
        where = f"messages[{position}].content"
        found: list[AnyItem]
        if role == "assistant":
            found = _parse_assistant(message, where, legacy_id=f"call_legacy_{position}")
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
            found[0].raw = {**_raw(found[0]), "message": others}
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
            _refuse(where, "text, images and files in a tool's result")
        kept.append(part)
    name = _text(message, "name")
    call_id = legacy.get(name, f"call_{name}") if message.get("role") == "function" else _text(message, "tool_call_id")
    return ToolResult(
        "user",
        call_id,
        name,
        kept,
        raw={"content": content} if isinstance(content, list) else None,
        origin=NAME,
        cache=kept[-1].cache if kept else None,
    )


def _parse_assistant(message: Mapping[str, Any], where: str, *, legacy_id: str) -> list[AnyItem]:
    content = _parse_content(message.get("content"), "assistant", where)
    texts = [item for item in content if isinstance(item, Text)]
    if texts:
        texts[-1].citations = _dicts(message.get("annotations"))
    content += [_parse_part(image, "assistant") for image in _dicts(message.get("images"))]
    if refusal := _text(message, "refusal"):
        content.append(Refusal("assistant", refusal, origin=NAME))
    if audio := _object(message, "audio"):
        content.append(_parse_audio(audio))
    calls = _parse_calls(_objects(message, "tool_calls", most=MOST_TOOLS), missing=legacy_id)
    if (called := _object(message, "function_call")) is not None and not calls:
        calls = [ToolCall("assistant", legacy_id, _text(called, "name"), arguments=_arguments(called.get("arguments")), origin=NAME)]
    named = {call.call_id: call for call in calls if isinstance(call, ToolCall)}
    if (signature := _google_signature(message)) and (first := next(iter(named.values()), None)) is not None:
        if not first.seals:
            first.seals.append(Seal("signature", signature, NAME))
    elif signature and texts:
        texts[-1].signature = signature
    return [*_parse_reasoning(message, named, texts), *content, *calls]


def _google_signature(said: Mapping[str, Any]) -> str:
    """Gemini's signature on a message or a call, as its OpenAI endpoint writes it."""
    found = _dict(_dict(said.get("extra_content")).get("google")).get("thought_signature")
    return _str(found) or _str(said.get("thought_signature"))


_CALL_FIELDS = frozenset({"id", "type", "function", "custom", "index"})


def _parse_calls(calls: list[dict[str, Any]], *, missing: str) -> list[AnyItem]:
    """Read `tool_calls`. A call without an id gets one made of `missing` and its place."""
    found: list[AnyItem] = []
    for place, call in enumerate(calls):
        custom = call.get("type") == "custom"
        said = call.get("custom" if custom else "function")
        if not isinstance(said, dict):
            found.append(Unknown("assistant", raw={"tool_call": call}, origin=NAME))
            continue
        signature = _google_signature(call)
        found.append(
            ToolCall(
                "assistant",
                _str(call.get("id")) or f"{missing}_{place}",
                _str(said.get("name")),
                kind="custom" if custom else "function",
                arguments=_str(said.get("input")) if custom else _arguments(said.get("arguments")),
                seals=[Seal("signature", signature, NAME)] if signature else [],
                raw={"tool_call": call} if call.keys() - _CALL_FIELDS or said.keys() - {"name", "arguments", "input"} else None,
                origin=NAME,
            )
        )
    return found


def _parse_audio(audio: Mapping[str, Any]) -> Audio:
    return Audio(
        "assistant",
        data=_str(audio.get("data")),
        transcript=_str(audio.get("transcript")),
        audio_id=_str(audio.get("id")),
        raw={"audio": audio},
        origin=NAME,
    )


def _parse_content(content: Any, role: Role, where: str) -> list[AnyItem]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [Text(role, content, origin=NAME)]
    if not isinstance(content, list) or not all(isinstance(part, dict | str) for part in content):
        _refuse(where, "a string or a list of parts")
    return [_parse_part({"type": "text", "text": part} if isinstance(part, str) else part, role) for part in content]


def _parse_part(part: dict[str, Any], role: Role) -> AnyItem:
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
            url = said if isinstance(said, str) else _str(_dict(said).get("url"))
            media_type, data = split_data_url(url)
            detail = _str(_dict(said).get("detail"))
            return Image(role, media_type, data, "" if data else url, detail=detail) if url else None
        case "input_audio" if isinstance(said, dict) and isinstance(said.get("data"), str):
            return Audio(role, _str(said.get("format")), said["data"])
        case "file" if isinstance(said, dict):
            return _parse_file(said, role)
        case "video_url" | "document_url":
            url = said if isinstance(said, str) else _str(_dict(said).get("url"))
            media_type, data = split_data_url(url)
            guess = media_type or _guess_type(url) or ("video/mp4" if kind == "video_url" else "")
            return File(role, guess, data, url="" if data else url, name=_str(part.get("document_name"))) if url else None
        case "thinking" if role == "assistant":
            signature = _str(part.get("signature"))
            return Reasoning(role, _thinking_text(part), seals=[Seal("signature", signature, NAME)] if signature else [])
        case _:
            return None


def _parse_file(said: Mapping[str, Any], role: Role) -> File | None:
    name, file_id, given = _str(said.get("filename")), _str(said.get("file_id")), _str(said.get("file_data"))
    media_type, data = split_data_url(given)
    guess = media_type or _guess_type(name)
    if data:
        return File(role, guess, data, name=name)
    if "://" in given[:16]:
        return File(role, guess or _guess_type(given), url=given, name=name)
    if given:
        return File(role, guess or "application/pdf", given, name=name)
    return File(role, guess, file_id=file_id, name=name) if file_id else None


def _guess_type(name: str) -> str:
    """The media type that the end of a file's name or address tells; empty for none."""
    return _MEDIA_TYPES.get(name.partition("?")[0].rpartition(".")[2].lower(), "")


def split_data_url(url: str) -> tuple[str, str]:
    """The media type and base64 data of a data URL; two empty strings for any other."""
    match = _DATA_URL.match(url)
    return (match.group(1) or "text/plain", url[match.end() :]) if match else ("", "")


# -- Requests out ----------------------------------------------------------------------------------------------------------------------


def render_request(conversation: Conversation, target: Target) -> dict[str, Any]:
    """The JSON to send to a provider of this format; `target.kind` decides between its dialects.

    What is left out without harm is named in `target.dropped`. Raises: CannotRender.
    """
    own = conversation.origin == NAME
    if not own:
        _refuse_meaning(conversation)
    body: dict[str, Any] = {"model": target.model, "messages": _Messages(conversation, target).render()}
    body["max_completion_tokens" if target.kind in _NEW_LIMIT_KINDS else "max_tokens"] = target.max_output
    if conversation.stream:
        body["stream"] = True
        if target.kind not in _NO_STREAM_OPTIONS:
            body["stream_options"] = {"include_usage": True}
    _render_tools(body, conversation, target)
    _render_sampling(body, conversation, target)
    if (wanted := conversation.output_format) is not None:
        body["response_format"] = _render_format(wanted)
    if conversation.thinking is not None:
        _render_thinking(body, conversation.thinking, target, own=own)
    _render_labels(body, conversation, target)
    if own:
        body |= conversation.extra
    else:
        target.dropped += sorted(conversation.extra)
    return body


def _refuse_meaning(conversation: Conversation) -> None:
    if conversation.n > 1:
        raise CannotRender("This model gives one answer at a time: ask for n = 1.", param="n")
    if conversation.logprobs or conversation.top_logprobs:
        raise CannotRender("Log probabilities cannot be translated from this model's own format.", param="logprobs")
    for name in sorted(_MEANINGFUL_EXTRAS & conversation.extra.keys()):
        raise CannotRender(f"The field {name!r} has no equivalent for this model.", param=name)


def _render_sampling(body: dict[str, Any], conversation: Conversation, target: Target) -> None:
    values = {
        "temperature": conversation.temperature,
        "top_p": conversation.top_p,
        "presence_penalty": conversation.presence_penalty,
        "frequency_penalty": conversation.frequency_penalty,
    }
    # OpenAI's reasoning models answer 400 to these. A chat client that sends them itself is told so; others could not know.
    refused = conversation.origin != NAME and target.kind in OPENAI_KINDS and "reasoning" in target.capabilities
    for name, value in values.items():
        if value is None:
            continue
        if refused:
            target.dropped.append(name)
        else:
            body[name] = value
    if conversation.top_k is not None:
        if conversation.origin == NAME or target.kind in _TOP_K_KINDS:
            body["top_k"] = conversation.top_k
        else:
            target.dropped.append("top_k")
    if conversation.seed is not None:
        body["random_seed" if target.kind == "mistral" else "seed"] = conversation.seed
    if conversation.stop:
        body["stop"] = conversation.stop
    if conversation.n > 1:
        body["n"] = conversation.n
    if conversation.logprobs:
        body["logprobs"] = True
    if conversation.top_logprobs is not None:
        body["top_logprobs"] = conversation.top_logprobs


def _render_labels(body: dict[str, Any], conversation: Conversation, target: Target) -> None:
    """What does not change the answer: who asks, which tier, which cache."""
    own, openai = conversation.origin == NAME, target.kind in OPENAI_KINDS
    tier = conversation.service_tier
    labels: tuple[tuple[str, str, Any, bool], ...] = (
        ("user", "user", conversation.user, target.kind in _USER_KINDS),
        ("service_tier", "service_tier", tier, openai and tier in ("auto", "default", "flex", "priority")),
        ("prompt_cache_key", "prompt_cache_key", conversation.cache_key, openai),
        ("verbosity", "verbosity", conversation.verbosity, openai),
        ("metadata", "metadata", conversation.metadata, False),  # OpenAI takes it only with `store`
    )
    for name, field, value, carried in labels:
        if not value:
            continue
        if own or carried:
            body[field] = value
        else:
            target.dropped.append(name)


def _render_format(wanted: OutputFormat) -> dict[str, Any]:
    if wanted.kind == "json_object":
        return {"type": "json_object"}
    said: dict[str, Any] = {"name": _NOT_NAME.sub("_", wanted.name)[:LONGEST_NAME] or "response"}
    if wanted.description:
        said["description"] = wanted.description
    if wanted.schema is not None:
        said["schema"] = wanted.schema
    if wanted.strict is not None:
        said["strict"] = wanted.strict
    return {"type": "json_schema", "json_schema": said}


def _render_thinking(body: dict[str, Any], wanted: Thinking, target: Target, *, own: bool) -> None:
    off = wanted.enabled is False or wanted.effort == "none" or wanted.budget == 0
    effort = wanted.effort
    if not own:
        effort = _closest_effort(wanted)
        if target.capabilities and "reasoning" not in target.capabilities:
            if not off:
                target.dropped.append("thinking")
            return
    match target.kind:
        case "openrouter":
            if off:
                body["reasoning"] = {"enabled": False}
            elif wanted.budget is not None:
                body["reasoning"] = {"max_tokens": wanted.budget}
            elif effort:
                body["reasoning"] = {"effort": effort}
            elif wanted.enabled or wanted.adaptive:
                body["reasoning"] = {"enabled": True}
            if wanted.summary and "reasoning" in body:
                body["reasoning"]["summary"] = wanted.summary
        case "deepseek" | "zai" | "moonshot":
            if off and wanted.effort != "none":
                body["thinking"] = {"type": "disabled"}
            elif wanted.enabled or wanted.budget or (effort and not own):
                body["thinking"] = {"type": "disabled" if off else "enabled"}
            if own and wanted.effort:
                body["reasoning_effort"] = wanted.effort
        case "alibaba":
            if wanted.enabled is not None or off or effort or wanted.budget:
                body["enable_thinking"] = not off
            if wanted.budget and not off:
                body["thinking_budget"] = wanted.budget
        case "anthropic" if wanted.budget or off:
            body["thinking"] = {"type": "disabled"} if off else {"type": "enabled", "budget_tokens": wanted.budget}
        case "mistral" if not own:
            target.dropped.append("thinking")
        case _ if off and not wanted.effort:
            # There is no word for "do not think" that every model takes; the least that is sure to be accepted is to say nothing.
            target.dropped.append("thinking")
        case _ if effort and not (off and not own):
            body["reasoning_effort"] = effort


def _closest_effort(wanted: Thinking) -> str:
    """The effort that every reasoning model of this format takes: low, medium or high."""
    if wanted.effort:
        return {"minimal": "low", "xhigh": "high", "max": "high"}.get(wanted.effort, wanted.effort)
    if not wanted.budget or wanted.budget < 0:
        return ""
    return "low" if wanted.budget <= 2_000 else "medium" if wanted.budget <= 8_000 else "high"


def _render_tools(body: dict[str, Any], conversation: Conversation, target: Target) -> None:
    choice = conversation.tool_choice
    allowed = set(choice.allowed) if choice is not None else set()
    whole = not allowed or (conversation.origin == NAME and target.kind in OPENAI_KINDS)  # else the list itself is shortened
    tools: list[dict[str, Any]] = []
    owners: dict[str, tuple[str, str]] = {}
    for tool in conversation.tools:
        if tool.kind == "builtin":
            if tool.origin != NAME:
                raise CannotRender(f"The built-in tool {tool.name!r} is not available with this model.", param="tools")
            tools.append(tool.raw)
            continue
        name = wire_name(tool.name, tool.namespace)
        if owners.setdefault(name, (tool.namespace, tool.name)) != (tool.namespace, tool.name):
            raise CannotRender(f"Two tools would both be called {name!r} at this provider.", param="tools")
        if whole or tool.name in allowed or name in allowed:
            tools.append(_render_tool(tool, name, target))
    if not tools:
        return  # a choice without tools is an error at every provider
    body["tools"] = tools
    if choice is not None:
        body["tool_choice"] = _render_choice(choice, conversation.tools, as_list=bool(allowed) and whole)
    if conversation.parallel_tools is not None:
        body["parallel_tool_calls"] = conversation.parallel_tools


def _render_tool(tool: ToolDef, name: str, target: Target) -> dict[str, Any]:
    if tool.kind == "custom":
        if tool.origin == NAME and target.kind in OPENAI_KINDS:
            return dict(tool.raw)
        grammar = _dict(_dict(tool.raw).get("format") or _dict(_dict(tool.raw).get("custom")).get("format"))
        grammar = _dict(grammar.get("grammar")) or grammar
        description = tool.description
        if definition := _str(grammar.get("definition")):
            description += f"\n\nThe input must follow this {_str(grammar.get('syntax')) or 'formal'} grammar:\n{definition}"
        schema = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"], "additionalProperties": False}
        return {"type": "function", "function": {"name": name, "description": description.strip(), "parameters": schema}}
    said: dict[str, Any] = {"name": name}
    if tool.description:
        said["description"] = tool.description
    if tool.parameters is not None:
        said["parameters"] = tool.parameters
    if tool.strict is not None:
        said["strict"] = tool.strict
    if tool.origin == NAME and isinstance(tool.raw, dict):
        return {"type": "function", **tool.raw, "function": {**_dict(tool.raw.get("function")), **said}}
    rendered: dict[str, Any] = {"type": "function", "function": said}
    if tool.cache and target.kind == "openrouter":
        rendered["cache_control"] = _cache_mark(tool.cache)
    return rendered


def _render_choice(choice: ToolChoice, tools: list[ToolDef], *, as_list: bool) -> Any:
    if choice.mode == "named":
        named = next((tool for tool in tools if choice.name in (tool.name, wire_name(tool.name, tool.namespace))), None)
        name = wire_name(named.name, named.namespace) if named is not None else wire_name(choice.name)
        return {"type": "function", "function": {"name": name}} if choice.kind == "function" else _custom_choice(name, named)
    if as_list:
        names = [{"type": "function", "function": {"name": wire_name(name)}} for name in choice.allowed]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": names}}
    return choice.mode


def _custom_choice(name: str, tool: ToolDef | None) -> dict[str, Any]:
    if tool is not None and tool.origin == NAME:
        return {"type": "custom", "custom": {"name": name}}
    return {"type": "function", "function": {"name": name}}


def _cache_mark(cache: str) -> dict[str, Any]:
    return {"type": "ephemeral", "ttl": "1h"} if cache == "1h" else {"type": "ephemeral"}


class _Messages:
    """Puts the items of a conversation together into messages, in the order that providers accept.

    Everything an assistant says between two answers of others is one message; the results of its calls follow at once; pictures that no
    tool or assistant message can hold come in a user message behind them.
    """

    def __init__(self, conversation: Conversation, target: Target) -> None:
        self._items = conversation.items
        self._target = target
        self._openai = target.kind in OPENAI_KINDS
        self._messages: list[dict[str, Any]] = []
        self._calls: dict[str, dict[str, Any]] = {}  # the assistant message that made a call, by the call's id
        self._behind: list[dict[str, Any]] = []  # parts that have to wait for a user message of their own
        self._custom_as_function = conversation.origin != NAME or not self._openai
        thinking = conversation.thinking
        # DeepSeek's thinking models refuse a call without the thought before it, and take an empty one where it was another's.
        unwanted = thinking is not None and thinking.enabled is False
        self._wants_thoughts = target.kind == "deepseek" and conversation.origin != NAME and not unwanted

    def render(self) -> list[dict[str, Any]]:
        """The `messages`. Raises: CannotRender."""
        group: list[AnyItem] = []
        for item in self._items:
            if isinstance(item, ToolResult):
                self._flush(group)
                group = []
                self._add_result(item)
                continue
            if group and (item.role != group[0].role or (item.new_turn and not self._belongs(item, group))):
                self._flush(group)
                group = []
            group.append(item)
        self._flush(group)
        self._add_behind()
        return self._messages

    @staticmethod
    def _belongs(item: AnyItem, group: list[AnyItem]) -> bool:
        """Whether an item that begins a turn has to join the assistant's message before it: calls, and what they were thought of with."""
        if item.role != "assistant":
            return False
        return (
            isinstance(item, ToolCall)
            or any(isinstance(one, ToolCall) for one in group)
            or all(isinstance(one, Reasoning) for one in group)
        )

    def _flush(self, group: list[AnyItem]) -> None:
        if not group:
            return
        if group[0].role == "assistant":
            self._add_assistant(group)
        else:
            self._add_said(group)

    def _role(self, role: Role) -> str:
        return "system" if role == "developer" and not self._openai else role

    def _drop(self, name: str) -> None:
        if name not in self._target.dropped:
            self._target.dropped.append(name)

    # What users and systems say

    def _add_said(self, group: list[AnyItem]) -> None:
        self._add_behind()
        parts = [part for item in group for part in self._render_part(item)]
        content: Any = parts
        if all(part.keys() == {"type", "text"} and part["type"] == "text" for part in parts):
            texts = [part["text"] for part in parts]
            is_list = any("part" in _raw(item) for item in group)  # a client of this format wrote a list itself
            if len(texts) < 2 and not is_list:
                content = "".join(texts)
            elif not is_list and self._target.kind not in _LIST_KINDS:
                content = "\n\n".join(texts)
        if not parts:
            if not any(item.origin == NAME for item in group):
                return
            content = ""
        self._messages.append({**_raw(group[0]).get("message", {}), "role": self._role(group[0].role), "content": content})

    def _render_part(self, item: AnyItem) -> list[dict[str, Any]]:
        raw = _raw(item).get("part")
        if isinstance(raw, dict) and (not isinstance(item, Text) or raw.get("text") == item.text):
            return [raw]
        match item:
            case Text():
                part: dict[str, Any] | None = {"type": "text", "text": item.text} if item.text else None
            case Refusal():
                part = {"type": "text", "text": item.text}
            case Image():
                part = self._render_image(item)
            case Audio():
                if not item.data:
                    raise CannotRender("Only sound that is sent with the request can be passed on.", param="input")
                part = {"type": "input_audio", "input_audio": {"data": item.data, "format": item.format or "wav"}}
            case File():
                part = self._render_file(item)
            case Unknown() | ServerTool() if item.role == "user":
                raise CannotRender("Part of a message is of a kind that this model's provider does not know.", param="messages")
            case _:
                self._drop("server_tool" if isinstance(item, ServerTool) else "unknown")
                part = None
        if part is None:
            return []
        if item.cache:
            if self._target.kind == "openrouter":
                part["cache_control"] = _cache_mark(item.cache)
            else:
                self._drop("cache_control")
        return [part]

    @staticmethod
    def _render_image(item: Image) -> dict[str, Any]:
        url = f"data:{item.media_type or 'image/png'};base64,{item.data}" if item.data else item.url
        if not url:
            raise CannotRender("An image known only by its file id cannot be sent to this model.", param="file_id")
        return {"type": "image_url", "image_url": {"url": url, "detail": item.detail} if item.detail else {"url": url}}

    def _render_file(self, item: File) -> dict[str, Any]:
        family = item.media_type.partition("/")[0]
        name = item.name or f"document.{_EXTENSIONS.get(item.media_type, 'pdf')}"
        if item.text or (item.data and family == "text"):
            text = item.text or _decode_text(item.data)
            return {"type": "text", "text": f"{item.name}:\n{text}" if item.name else text}
        if family == "image" and (item.data or item.url):
            return self._render_image(Image(item.role, item.media_type, item.data, item.url))
        if family == "audio" and item.data:
            sound = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav"}.get(kind := item.media_type.partition("/")[2], kind)
            return {"type": "input_audio", "input_audio": {"data": item.data, "format": sound}}
        url = f"data:{item.media_type or 'application/pdf'};base64,{item.data}" if item.data else item.url
        if family == "video":
            if self._target.kind != "openrouter":
                raise CannotRender("This model's provider takes no video.", param="messages")
            return {"type": "video_url", "video_url": {"url": url}}
        if item.data or (url and self._target.kind == "openrouter"):
            return {"type": "file", "file": {"filename": name, "file_data": url}}
        if item.file_id and item.origin == NAME:
            return {"type": "file", "file": {"file_id": item.file_id}}
        raise CannotRender("A file must be sent with the request: this model's provider does not fetch it.", param="messages")

    # What tools give back

    def _add_result(self, item: ToolResult) -> None:
        content = _raw(item).get("content")
        if not isinstance(content, list) or any(not isinstance(part, Text) for part in item.parts):
            content = self._result_text(item)
        if item.is_error:
            self._drop("is_error")
            content = content or "Error"
        message = {**_raw(item).get("message", {}), "role": "tool", "tool_call_id": item.call_id, "content": content}
        caller = self._calls.get(item.call_id)
        place = len(self._messages)
        if caller is not None:
            # Somebody may have said something between a call and its result; providers want the result right behind the call.
            while self._messages[place - 1]["role"] != "tool" and self._messages[place - 1] is not caller:
                place -= 1
        self._messages.insert(place, message)

    def _result_text(self, item: ToolResult) -> str:
        texts: list[str] = []
        others: list[dict[str, Any]] = []
        for part in item.parts:
            for rendered in self._render_part(part):
                if rendered.get("type") == "text":
                    texts.append(_str(rendered.get("text")))
                else:
                    others.append(rendered)
        if others:
            label = f"What the tool call {item.call_id} gave back besides text:"
            self._behind += [{"type": "text", "text": label}, *others]
            if not texts:
                texts = ["The result is in the next message."]
        return "\n".join(texts)

    def _add_behind(self) -> None:
        if self._behind:
            self._messages.append({"role": "user", "content": self._behind})
            self._behind = []

    # What the model said

    def _add_assistant(self, group: list[AnyItem]) -> None:
        self._add_behind()
        message: dict[str, Any] = {**_raw(group[0]).get("message", {}), "role": "assistant"}
        parts: list[dict[str, Any]] = []
        pictures: list[dict[str, Any]] = []
        calls: list[dict[str, Any]] = []
        for item in group:
            match item:
                case Reasoning():
                    self._add_reasoning(message, parts, item)
                case Refusal() if self._openai and "part" not in _raw(item):
                    message["refusal"] = message.get("refusal", "") + item.text
                case Text() | Refusal():
                    parts += self._render_part(item)
                case Audio() if item.origin == NAME and item.audio_id:
                    message["audio"] = {"id": item.audio_id}
                case Audio():
                    if item.transcript:
                        parts.append({"type": "text", "text": item.transcript})
                    self._drop("audio")
                case Image() | File():
                    pictures += self._render_part(item)
                case ToolCall():
                    calls.append(self._render_call(item, message))
                    self._calls[item.call_id] = message
                case Unknown() if "tool_call" in _raw(item):
                    calls.append(_raw(item)["tool_call"])
                case _:
                    parts += self._render_part(item)
        if self._openai:
            message.pop("reasoning_content", None)
        citations = [note for item in group if isinstance(item, Text) and item.origin == NAME for note in item.citations]
        if citations and self._openai:
            message["annotations"] = citations
        if not parts and not calls and len(message) == 1 and not (group[0].origin == NAME and isinstance(group[0], Text)):
            if not pictures:
                return  # only thinking that cannot be carried, or nothing at all
            parts = [{"type": "text", "text": "Here it is."}]
        message["content"] = self._assistant_content(parts, group)
        if calls:
            message["tool_calls"] = calls
            if self._wants_thoughts:
                message.setdefault("reasoning_content", "")
        if message["content"] == "" and (calls or "refusal" in message or "audio" in message):
            message["content"] = None
        self._messages.append(message)
        if pictures:
            if self._target.kind == "openrouter":
                message["images"] = pictures
            else:
                self._behind += [{"type": "text", "text": "What you made in your last answer:"}, *pictures]

    @staticmethod
    def _assistant_content(parts: list[dict[str, Any]], group: list[AnyItem]) -> Any:
        if any("part" in _raw(item) for item in group) or any(part.keys() != {"type", "text"} for part in parts):
            return parts
        return "".join(part["text"] for part in parts)

    def _add_reasoning(self, message: dict[str, Any], parts: list[dict[str, Any]], item: Reasoning) -> None:
        """Give a provider back what it thought, in the field it came in; the thinking of others is left out, never sent as text."""
        if item.origin not in (NAME, None) or any(seal.origin != NAME for seal in item.seals):
            self._drop("reasoning")
            return
        kind, raw = self._target.kind, _raw(item)
        if kind in ("openai", "azure", "perplexity"):  # they refuse a message that has any such field
            self._drop("reasoning")
        elif isinstance(part := raw.get("part"), dict) and _thinking_text(part) == item.text:
            parts.append(part)
        elif kind == "mistral":
            if item.text:
                parts.append({"type": "thinking", "thinking": [{"type": "text", "text": item.text}]})
        elif kind == "groq":
            message["reasoning"] = message.get("reasoning", "") + item.text
        elif "thinking_blocks" in raw and kind != "openrouter":
            message.setdefault("thinking_blocks", []).extend(raw["thinking_blocks"])
        elif kind == "openrouter" or item.seals or "reasoning_details" in raw:
            details = message.setdefault("reasoning_details", [])
            known = _dicts(raw.get("reasoning_details"))
            index = 1 + max((detail["index"] for detail in details if _is_count(detail.get("index"))), default=-1)
            details += known if known and _is_as_parsed(item, known) else _render_details(item, index)
            if known and (flat := raw.get("reasoning")):
                message["reasoning"] = message.get("reasoning", "") + flat
        else:
            field = "reasoning" if "reasoning" in raw else "reasoning_content"
            message[field] = message.get(field, "") + (item.text or "".join(item.summary))

    def _render_call(self, call: ToolCall, message: dict[str, Any]) -> dict[str, Any]:
        raw = _raw(call)
        rendered = {name: value for name, value in _dict(raw.get("tool_call")).items() if name not in _CALL_FIELDS}
        rendered["id"] = call.call_id
        name = wire_name(call.name, call.namespace)
        if call.kind == "custom" and not self._custom_as_function:
            return {**rendered, "type": "custom", "custom": {"name": name, "input": call.arguments}}
        arguments = orjson.dumps({"input": call.arguments}).decode() if call.kind == "custom" else call.arguments or "{}"
        seals = [seal for seal in call.seals if seal.origin == NAME]
        if "reasoning_details" in raw and self._target.kind not in ("openai", "azure", "groq", "mistral", "perplexity", "google"):
            message.setdefault("reasoning_details", []).extend(raw["reasoning_details"])
        if seals and "extra_content" not in rendered and self._target.kind in ("google", "custom") and "extra_content" not in message:
            rendered["extra_content"] = {"google": {"thought_signature": seals[0].data}}
        if self._target.kind in OPENAI_KINDS:
            rendered.pop("extra_content", None)
        return {**rendered, "type": "function", "function": {"name": name, "arguments": arguments}}


def _decode_text(data: str) -> str:
    try:
        return base64.b64decode(data, validate=False).decode(errors="replace")
    except (binascii.Error, ValueError):
        raise CannotRender("A file's data is not base64.", param="messages") from None


# -- Answers in ------------------------------------------------------------------------------------------------------------------------


def _read_stop(reason: str, *, calls: bool) -> Stop:
    """The hub's word for a finish reason. With calls there, "stop" means that they are to be made (Gemini's OpenAI endpoint, xAI)."""
    stop = _STOPS.get(reason, Stop.END)
    return Stop.TOOL if calls and stop is Stop.END else stop


def _made_id(answer_id: str, created: int, place: int) -> str:
    """An id for a call whose provider gave none: the same for the same answer, another in the next."""
    return f"call_{hashlib.blake2s(f'{answer_id}/{created}/{place}'.encode(errors='surrogatepass'), digest_size=12).hexdigest()}"


def _search_results(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Perplexity's sources, which stand beside the choices, as annotations."""
    cited = fields.get("citations")
    sources = _dicts(fields.get("search_results")) or [{"url": url} for url in (cited if isinstance(cited, list) else ())]
    return [_url_citation(source) for source in sources if _str(source.get("url"))]


def _url_citation(source: Mapping[str, Any]) -> dict[str, Any]:
    start, end = source.get("start_index"), source.get("end_index")
    return {
        "type": "url_citation",
        "url_citation": {
            "url": source.get("url") or source.get("uri"),
            "title": _str(source.get("title")),
            "start_index": start if _is_count(start) else 0,
            "end_index": end if _is_count(end) else 0,
        },
    }


def _render_citation(raw: Any, origin: Origin | None) -> dict[str, Any] | None:
    """A citation as an annotation of this format; None where it names no address."""
    if not isinstance(raw, dict):
        return None
    if origin == NAME:
        return raw
    source = raw["web"] if isinstance(raw.get("web"), dict) else raw
    return _url_citation(source) if _str(source.get("url")) or _str(source.get("uri")) else None


def parse_answer(fields: Mapping[str, Any]) -> Answer:
    """Read a whole answer: its first choice.

    Raises: CannotParse.
    """
    choices = fields.get("choices")
    if not isinstance(choices, list) or fields.get("error"):
        raise CannotParse("The answer has no choices.", param="choices")
    choice = next((one for one in _dicts(choices) if one.get("index") in (None, 0)), {})
    message = _dict(choice.get("message"))
    created = fields.get("created")
    answer = Answer(
        id=_str(fields.get("id")),
        model=_str(fields.get("model")),
        items=[],
        stop=None,
        usage=read_usage(fields.get("usage")),
        created=created if _is_count(created) else 0,
        raw=fields,
        origin=NAME,
    )
    answer.items = _parse_answer_message(message, answer)
    texts = [item for item in answer.items if isinstance(item, Text)]
    if texts and not texts[-1].citations:
        texts[-1].citations = _search_results(fields)
    if reason := _str(choice.get("finish_reason")):
        answer.stop = _read_stop(reason, calls=any(isinstance(item, ToolCall) for item in answer.items))
        answer.raw_stop = reason
        answer.stop_text = _str(choice.get("stop_reason"))
    answer.logprobs = choice.get("logprobs")
    return answer


def _parse_answer_message(message: dict[str, Any], answer: Answer) -> list[AnyItem]:
    """The items of an answer's message. Unlike a client, a provider is read as far as it makes sense."""
    content = message.get("content")
    calls = _dicts(message.get("tool_calls"))
    for place, call in enumerate(calls):
        if not _str(call.get("id")):
            calls[place] = {**call, "id": _made_id(answer.id, answer.created, place)}
    tidy: dict[str, Any] = {
        **message,
        "content": content if isinstance(content, str) else _dicts(content),
        "tool_calls": calls,
        "refusal": _str(message.get("refusal")),
    }
    for name in ("audio", "function_call"):
        tidy[name] = message.get(name) if isinstance(message.get(name), dict) else None
    if tidy["function_call"] is not None:
        tidy["function_call"] = {**tidy["function_call"], "name": _str(tidy["function_call"].get("name"))}
    return _parse_assistant(tidy, "content", legacy_id=_made_id(answer.id, answer.created, 0))


# -- Answers out -----------------------------------------------------------------------------------------------------------------------


def _is_legacy(echo: Echo) -> bool:
    """Whether the client asked in the words of before there were tools."""
    return bool(echo.request.get("functions")) and not echo.request.get("tools")


def _render_image_part(item: Image, index: int) -> dict[str, Any]:
    url = f"data:{item.media_type or 'image/png'};base64,{item.data}" if item.data else item.url
    return {"type": "image_url", "image_url": {"url": url}, "index": index}


def _render_audio(item: Audio) -> dict[str, Any]:
    given = _dict(_raw(item).get("audio"))
    return {
        **given,
        "id": item.audio_id or given.get("id") or "audio_0",
        "data": item.data,
        "transcript": item.transcript,
        "expires_at": given.get("expires_at") or 0,
    }


def render_answer(answer: Answer, echo: Echo) -> dict[str, Any]:
    """The JSON to give to a client of this format."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    texts: list[str] = []
    thoughts: list[str] = []
    details: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    refusals: list[str] = []
    changed = _changed_tools(echo.conversation)
    groups = 0
    for item in answer.items:
        match item:
            case Text():
                texts.append(item.text)
                notes += [note for raw in item.citations if (note := _render_citation(raw, item.origin)) is not None]
                if item.signature:
                    details.append(_text_detail(item, groups))
                    groups += 1
            case Reasoning():
                thoughts += [item.text] if item.text else item.summary
                found = _render_details(item, groups)
                details += found
                groups += bool(found)
            case ToolCall():
                calls.append(_render_call(item, changed))
                for seal in item.seals:
                    details.append(_seal_detail(seal, owner=item.call_id, format_name=_detail_format(item, [seal]), index=groups))
                    groups += 1
            case Refusal():
                refusals.append(item.text)
            case Image():
                images.append(_render_image_part(item, len(images)))
            case Audio():
                message["audio"] = _render_audio(item)
            case _:
                pass  # built-in tools ran at the provider: a client of this format sees only what came of them
    if texts:
        message["content"] = "".join(texts)
    if refusals or answer.refusal:
        message["refusal"] = "".join(refusals) or answer.refusal
    elif not calls and message["content"] is None and "audio" not in message:
        message["content"] = ""
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    lists = {"reasoning_details": details, "annotations": notes, "images": images, "tool_calls": calls}
    message |= {name: values for name, values in lists.items() if values}
    finish = _finish(answer.stop or Stop.END, calls=bool(calls), legacy=_is_legacy(echo))
    if calls and _is_legacy(echo):
        message["function_call"] = message.pop("tool_calls")[0].get("function")
    logprobs = answer.logprobs
    if isinstance(logprobs, list):
        logprobs = {"content": logprobs, "refusal": None}
    rendered: dict[str, Any] = {
        "id": echo.id,
        "object": "chat.completion",
        "created": echo.created,
        "model": echo.model,
        "choices": [{"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}],
    }
    if answer.usage is not None:
        rendered["usage"] = render_usage(answer.usage)
    return rendered


def _finish(stop: Stop, *, calls: bool, legacy: bool) -> str:
    finish = _FINISHES[stop]
    if calls and finish == "stop":
        finish = "tool_calls"
    return "function_call" if legacy and finish == "tool_calls" else finish


def _text_detail(item: Text, index: int) -> dict[str, Any]:
    format_name = _DETAIL_FORMATS.get(item.origin or "", "unknown")
    return {"type": "reasoning.encrypted", "data": item.signature, "id": _TEXT_ID, "format": format_name, "index": index}


def _render_call(call: ToolCall, changed: Mapping[str, ToolDef]) -> dict[str, Any]:
    """A call as the client knows its tool, whatever the provider called it."""
    tool = changed.get(wire_name(call.name, call.namespace))
    name = tool.name if tool is not None else wire_name(call.name, call.namespace) if call.namespace else call.name
    rendered: dict[str, Any] = {"id": call.call_id}
    if call.kind == "custom" or (tool is not None and tool.kind == "custom"):
        text = call.arguments if call.kind == "custom" else _unwrap_input(call.arguments)
        rendered |= {"type": "custom", "custom": {"name": name, "input": text}}
    else:
        rendered |= {"type": "function", "function": {"name": name, "arguments": call.arguments or "{}"}}
    if call.seals:
        rendered["extra_content"] = {"google": {"thought_signature": call.seals[0].data}}
    return rendered


# -- Streams in ------------------------------------------------------------------------------------------------------------------------

_What = Literal["text", "reasoning", "arguments", "refusal", "audio"]


class _Piece:
    """An item of a stream that is being told."""

    __slots__ = ("call", "details", "field", "index", "key", "live", "notes", "seals", "signature", "summary", "texts", "what")

    def __init__(self, key: object, what: _What, call: ToolCall | None = None) -> None:
        self.key = key
        self.what = what
        self.call = call
        self.index = -1
        self.live = False
        self.texts: list[str] = []
        self.summary: list[str] = []
        self.seals: list[Seal] = []
        self.notes: list[Any] = []  # citations of a text, fragments of sound
        self.details: list[dict[str, Any]] = []
        self.field = ""  # of plain reasoning
        self.signature = ""  # of a text

    def begun(self) -> AnyItem:
        """The item without what the deltas add."""
        match self.what:
            case "text":
                return Text("assistant", origin=NAME)
            case "reasoning":
                return Reasoning("assistant", origin=NAME)
            case "refusal":
                return Refusal("assistant", origin=NAME)
            case "audio":
                return Audio("assistant", audio_id=self._joined("id"), origin=NAME)
        call = self.call
        assert call is not None  # noqa: S101 - a call's piece has one
        return ToolCall("assistant", call.call_id, call.name, kind=call.kind, origin=NAME)

    def whole(self) -> AnyItem:
        """The whole item."""
        text = "".join(self.texts)
        match self.what:
            case "text":
                return Text("assistant", text, list(self.notes), self.signature, origin=NAME)
            case "reasoning":
                summary = "".join(self.summary)
                item = Reasoning("assistant", text, [summary] if summary else [], list(self.seals), origin=NAME)
                item.raw = {"reasoning_details": _joined_details(self.details)} if self.details else {}
                if self.field and not any("text" in detail for detail in self.details):
                    item.raw[self.field] = text
                item.id = next((_str(detail.get("id")) for detail in self.details if _str(detail.get("id"))), "")
                return item
            case "refusal":
                return Refusal("assistant", text, origin=NAME)
            case "audio":
                expires = next((note["expires_at"] for note in self.notes if _is_count(note.get("expires_at"))), 0)
                return Audio(
                    "assistant",
                    data=self._joined("data"),
                    transcript=self._joined("transcript"),
                    audio_id=self._joined("id"),
                    raw={"audio": {"expires_at": expires}},
                    origin=NAME,
                )
        call = self.call
        assert call is not None  # noqa: S101 - a call's piece has one
        return ToolCall(
            "assistant", call.call_id, call.name, kind=call.kind, arguments=text, seals=list(self.seals), raw=call.raw, origin=NAME
        )

    def _joined(self, name: str) -> str:
        if name == "id":
            return next((found for note in self.notes if (found := _str(note.get("id")))), "")
        return "".join(_str(note.get(name)) for note in self.notes)

    @property
    def is_complete(self) -> bool:
        """Whether nothing more can come: the arguments of a call are a whole JSON value."""
        if self.what != "arguments":
            return True
        text = "".join(self.texts)
        if not text.rstrip().endswith("}"):
            return False
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError:
            return False
        return True


def _joined_details(details: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fragments of a stream as the entries that a whole answer would have: one text with its signature, then what is opaque."""
    joined: list[dict[str, Any]] = []
    for detail in details:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.get("type") == detail.get("type")
            and detail.get("type") != "reasoning.encrypted"
            and not last.get("signature")
        ):
            for name, value in detail.items():
                if name in ("text", "summary") and isinstance(value, str):
                    last[name] = _str(last.get(name)) + value
                elif value is not None:
                    last[name] = value
        else:
            joined.append(dict(detail))
    return joined


class StreamParser:
    """Turns a provider's stream into events, whatever the reads were.

    Items do not overlap: when a provider tells two calls at once, the later one waits until the arguments of the first are whole. How the
    answer ended is told at the end, because some providers say it several times, or before the usage.
    """

    __slots__ = (
        "_answer",
        "_begun",
        "_calls",
        "_count",
        "_done",
        "_failed",
        "_live",
        "_reason",
        "_sources",
        "_splitter",
        "_stop_text",
        "_usage",
        "_waiting",
    )

    def __init__(self) -> None:
        self._splitter = Splitter()
        self._live: _Piece | None = None
        self._waiting: list[_Piece] = []
        self._calls: dict[int, _Piece] = {}  # the latest call at a place
        self._count = 0
        self._answer: tuple[str, int] | None = None  # its id and time, once it has begun
        self._usage: Any = None
        self._reason = ""
        self._stop_text = ""
        self._sources: list[dict[str, Any]] = []
        self._begun = 0  # calls so far
        self._done = False
        self._failed = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now.

        Raises: proxy.sse.EventTooLarge.
        """
        block = self._splitter.feed(data)
        events: list[Event] = []
        if block:
            for event in Splitter.events(block):
                self._read_event(event, events)
        return events

    def finish(self) -> list[Event]:
        """The events that the end of the connection completes. Without a reason to stop there is no `Stopped`: the answer was cut."""
        events: list[Event] = []
        if self._splitter.rest.strip():
            self._read_event(self._splitter.rest, events, at_end=True)
        if self._done:
            return events
        self._done = True
        if self._reason and not self._failed:
            self._complete(events)
        elif not self._failed:
            self._meter(events)
        return events

    def _read_event(self, event: bytes, events: list[Event], *, at_end: bool = False) -> None:
        data = Splitter.data_of(event).strip()
        if self._done:
            return
        if data == b"[DONE]":
            self._done = True
            if not self._failed:
                self._complete(events)
            events.append(Ended())
            return
        if not data:
            if event.startswith(b":"):
                events.append(Pinged())
            return
        if self._failed:
            return
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            if data.startswith(b"{") and not at_end:  # part of the answer is lost; to go on would hide it
                self._fail({"message": "The provider sent a chunk that is not JSON."}, events)
            return
        if isinstance(chunk, dict):
            if (error := chunk.get("error")) or event.startswith(b"event: error"):
                self._note_usage(chunk, {})
                self._meter(events)
                self._fail(error or chunk, events)
            else:
                self._read_chunk(chunk, events)

    def _fail(self, raw: Any, events: list[Event]) -> None:
        self._failed = True
        events.append(Failed(raw))

    def _read_chunk(self, chunk: dict[str, Any], events: list[Event]) -> None:
        choices = chunk.get("choices")
        choice: dict[str, Any] = {}
        if isinstance(choices, list):
            for one in choices:
                if isinstance(one, dict) and one.get("index") in (None, 0):
                    choice = one
                    break
        if self._answer is None and (choice or chunk.get("id")):
            created = chunk.get("created")
            self._answer = (_str(chunk.get("id")), created if _is_count(created) else 0)
            events.append(Started(self._answer[0], _str(chunk.get("model")), self._answer[1]))
        self._note_usage(chunk, choice)
        if "search_results" in chunk or "citations" in chunk:
            self._sources = _search_results(chunk) or self._sources
        delta = choice.get("delta")
        if isinstance(delta, dict):
            content = delta.get("content")
            if content.__class__ is str and content and len(delta) <= 2:  # the plain chunk, which most are: content, perhaps the role
                self._tell("text", "text", content, events)
                for name in delta:
                    if name not in ("content", "role"):
                        self._read_delta({**delta, "content": None}, events)
            elif delta:
                self._read_delta(delta, events)
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self._reason = reason
            self._stop_text = _str(choice.get("stop_reason"))

    def _note_usage(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        usage = chunk.get("usage") or choice.get("usage") or _dict(chunk.get("x_groq")).get("usage")
        if usage:
            self._usage = usage

    def _read_delta(self, delta: dict[str, Any], events: list[Event]) -> None:
        calls = _dicts(delta.get("tool_calls"))
        details = _dicts(delta.get("reasoning_details"))
        self._read_reasoning(delta, details, events)
        content = delta.get("content")
        if isinstance(content, str):
            if content:
                self._tell("text", "text", content, events)
        else:
            for part in _dicts(content):
                self._read_part(part, events)
        if refusal := _str(delta.get("refusal")):
            self._tell("refusal", "refusal", refusal, events)
        for note in _dicts(delta.get("annotations")):
            self._cite(note, events)
        for image in _dicts(delta.get("images")):
            self._tell_whole(_parse_part(image, "assistant"), events)
        if audio := _dict(delta.get("audio")):
            self._tell_audio(audio, events)
        for place, call in enumerate(calls):
            self._read_call(call, place, events)
        if isinstance(called := delta.get("function_call"), dict):
            self._read_call({"index": 0, "type": "function", "function": called}, 0, events)
        if signature := _google_signature(delta):
            if self._calls:
                self._seal(self._calls[min(self._calls)], Seal("signature", signature, NAME), events)
            elif self._live is not None and self._live.what == "text":
                self._live.signature = signature
        for detail in details:
            if (piece := self._owner(detail)) is not None:
                for seal in _seals_of(detail):
                    self._seal(piece, Seal("signature", seal.data, NAME), events)

    def _read_part(self, part: dict[str, Any], events: list[Event]) -> None:
        if part.get("type") == "thinking":
            if text := _thinking_text(part):
                self._tell("reasoning", "reasoning", text, events, field="reasoning_content")
            for seal in _seals_of(part):
                self._seal(self._reach("reasoning", "reasoning", events), seal, events)
        elif text := _str(part.get("text")):
            self._tell("text", "text", text, events)

    def _read_reasoning(self, delta: dict[str, Any], details: list[dict[str, Any]], events: list[Event]) -> None:
        has_text = False
        for detail in details:
            seals = _seals_of(detail)
            if seals and self._owner(detail) is not None:
                continue
            text, summary = _str(detail.get("text")), _str(detail.get("summary"))
            if not (text or summary or seals):
                continue
            live = self._waiting[-1] if self._waiting else self._live
            index = detail.get("index")
            key: object = ("reasoning", index if _is_count(index) else 0)
            if live is not None and live.what == "reasoning" and (live.key == "reasoning" or not _is_count(index)):
                key = live.key
            if text:
                has_text = True
                self._tell(key, "reasoning", text, events)
            piece = self._reach(key, "reasoning", events)
            piece.details.append(detail)
            if summary:
                has_text = True
                piece.summary.append(summary)
                if piece.live:
                    events.append(Delta(piece.index, "summary", summary))
            for seal in seals:
                self._seal(piece, seal, events)
        if has_text:
            return  # the plain field beside it says the same
        for field in ("reasoning_content", "reasoning"):
            if text := _str(delta.get(field)):
                live = self._waiting[-1] if self._waiting else self._live
                self._tell(
                    live.key if live is not None and live.what == "reasoning" else "reasoning", "reasoning", text, events, field=field
                )
                return

    def _owner(self, detail: Mapping[str, Any]) -> _Piece | None:
        """The call that a reasoning detail belongs to, while it is still being told."""
        owner = detail.get("id")
        if not owner or not self._calls:
            return None
        for piece in self._calls.values():
            if piece.call is not None and piece.call.call_id == owner and self._is_open(piece):
                return piece
        return None

    def _is_open(self, piece: _Piece) -> bool:
        return piece is self._live or piece in self._waiting

    def _read_call(self, call: dict[str, Any], place: int, events: list[Event]) -> None:
        custom = call.get("type") == "custom" or isinstance(call.get("custom"), dict)
        said = _dict(call.get("custom" if custom else "function"))
        index, call_id, name = call.get("index"), _str(call.get("id")), _str(said.get("name"))
        arguments = _str(said.get("input")) if custom else _arguments(said.get("arguments"))
        if not _is_count(index):
            same = next(
                (number for number, piece in self._calls.items() if call_id and piece.call is not None and piece.call.call_id == call_id),
                None,
            )
            index = same if same is not None else len(self._calls) if call_id or name else max(self._calls, default=place)
        piece = self._calls.get(index)
        # Some servers give every call the index 0: another id with a name, or a name behind whole arguments, is another call.
        if piece is not None and name and piece.call is not None and piece.call.name:
            other_id = bool(call_id) and call_id != piece.call.call_id
            if other_id or (not call_id and piece.texts and piece.is_complete):
                piece = None
        if piece is None:
            if not name and not call_id:
                return  # a continuation of nothing
            answer_id, created = self._answer or ("", 0)
            made = call_id or _made_id(answer_id, created, self._begun)
            extra = {"tool_call": {key: value for key, value in call.items() if key != "index"}} if call.keys() - _CALL_FIELDS else None
            known = ToolCall("assistant", made, kind="custom" if custom else "function", raw=extra, origin=NAME)
            piece = _Piece(("call", self._begun), "arguments", known)
            self._calls[index] = piece
            self._begun += 1
        if name and piece.call is not None and not piece.call.name:
            piece.call.name = name
            self._add(piece, events)
        if arguments:
            if self._is_open(piece):
                self._say(piece, arguments, events)
            elif piece.call is not None and not piece.call.name:
                piece.texts.append(arguments)  # its name is still to come
        if signature := _google_signature(call):
            self._seal(piece, Seal("signature", signature, NAME), events)
        if self._waiting and self._live is not None and self._live.is_complete:
            self._advance(events)

    def _tell_audio(self, audio: dict[str, Any], events: list[Event]) -> None:
        live = self._waiting[-1] if self._waiting else self._live
        if live is not None and live.key == "audio":
            live.notes.append(audio)
            if live.live:
                events.append(Delta(live.index, "audio", raw=audio))
            return
        piece = _Piece("audio", "audio")
        piece.notes.append(audio)
        self._add(piece, events)

    def _cite(self, note: dict[str, Any], events: list[Event]) -> None:
        """Add a citation to the text; late ones, behind a call, find it closed and make an empty text of their own."""
        if self._live is None and not self._count:
            return
        piece = self._reach("text", "text", events)
        piece.notes.append(note)
        if piece.live:
            events.append(Delta(piece.index, "citation", raw=note))

    # The items, one after the other

    def _tell(self, key: object, what: _What, text: str, events: list[Event], *, field: str = "") -> None:
        live = self._live
        if live is not None and live.key == key and not self._waiting:
            live.texts.append(text)
            events.append(Delta(live.index, what, text))
        else:
            live = self._reach(key, what, events)
            self._say(live, text, events)
        if field:
            live.field = field

    def _reach(self, key: object, what: _What, events: list[Event]) -> _Piece:
        """The piece of this key that is told now or waits last; else a new one."""
        last = self._waiting[-1] if self._waiting else self._live
        if last is not None and last.key == key:
            return last
        piece = _Piece(key, what)
        self._add(piece, events)
        return piece

    def _add(self, piece: _Piece, events: list[Event]) -> None:
        live = self._live
        if live is not None and (self._waiting or not (live.is_complete or (piece.what != "arguments" and not live.texts))):
            self._waiting.append(piece)
            return
        if live is not None:
            self._close(live, events)
        self._open(piece, events)

    def _open(self, piece: _Piece, events: list[Event]) -> None:
        self._live = piece
        piece.live = True
        piece.index = self._count
        self._count += 1
        events.append(Opened(piece.index, piece.begun()))
        if piece.texts:
            events.append(Delta(piece.index, piece.what, "".join(piece.texts)))
        if piece.summary:
            events.append(Delta(piece.index, "summary", "".join(piece.summary)))
        if piece.what == "audio":
            events.extend(Delta(piece.index, "audio", raw=note) for note in piece.notes)
        else:
            events.extend(Delta(piece.index, "citation", raw=note) for note in piece.notes)
        events.extend(Delta(piece.index, "signature", seal=seal) for seal in piece.seals)

    def _say(self, piece: _Piece, text: str, events: list[Event]) -> None:
        piece.texts.append(text)
        if piece.live:
            events.append(Delta(piece.index, piece.what, text))

    def _seal(self, piece: _Piece, seal: Seal, events: list[Event]) -> None:
        if any(known.data == seal.data for known in piece.seals) or not self._is_open(piece):
            return
        piece.seals.append(seal)
        if piece.live:
            events.append(Delta(piece.index, "signature", seal=seal))

    def _tell_whole(self, item: AnyItem, events: list[Event]) -> None:
        self._advance(events, all_of_them=True)
        if self._live is not None:
            self._close(self._live, events)
        events += [Opened(self._count, item), Closed(self._count, item)]
        self._count += 1

    def _close(self, piece: _Piece, events: list[Event]) -> None:
        events.append(Closed(piece.index, piece.whole()))
        self._live = None

    def _advance(self, events: list[Event], *, all_of_them: bool = False) -> None:
        """Let those that wait speak, as far as the one before is complete."""
        while self._waiting and (self._live is None or all_of_them or self._live.is_complete):
            if self._live is not None:
                self._close(self._live, events)
            self._open(self._waiting.pop(0), events)

    def _meter(self, events: list[Event]) -> None:
        usage = read_usage(self._usage)
        self._usage = None
        if usage is not None:
            events.append(Metered(usage))

    def _complete(self, events: list[Event]) -> None:
        self._advance(events, all_of_them=True)
        live = self._live
        if live is not None:
            if live.what == "text" and not live.notes:
                for note in self._sources:
                    live.notes.append(note)
                    events.append(Delta(live.index, "citation", raw=note))
            self._close(live, events)
        self._meter(events)
        if self._answer is not None:
            events.append(Stopped(_read_stop(self._reason, calls=bool(self._calls)), self._stop_text, self._reason))


# -- Streams out -----------------------------------------------------------------------------------------------------------------------


class StreamRenderer:
    """Turns events into a client's stream. The first bytes come with the first thing said, so that a failure before it stays retryable."""

    __slots__ = (
        "_call", "_calls", "_changed", "_details", "_empty", "_finished", "_format", "_groups", "_head", "_images", "_item", "_legacy", "_notes", "_opening",
        "_origin", "_pending", "_plain", "_refused", "_sealed", "_tail", "_usage", "_wants_usage",
    )  # fmt: skip

    keep_alive = b": keep-alive\n\n"

    def __init__(self, echo: Echo) -> None:
        options = echo.request.get("stream_options")
        self._wants_usage = isinstance(options, dict) and options.get("include_usage") is True
        self._legacy = _is_legacy(echo)
        self._changed = _changed_tools(echo.conversation)
        self._plain = {"id": echo.id, "object": "chat.completion.chunk", "created": echo.created, "model": echo.model}
        self._head = b"data: " + orjson.dumps(self._plain)[:-1] + b',"choices":[{"index":0,"delta":'
        self._tail = b',"logprobs":null,"finish_reason":null}]' + (b',"usage":null' if self._wants_usage else b"") + b"}\n\n"
        self._opening = True  # the role is still to be said
        self._item: AnyItem | None = None
        self._origin: Origin | None = None
        self._format = "unknown"
        self._groups = 0  # reasoning details: how many indexes are taken
        self._details = False  # whether the open item has taken one
        self._sealed = False  # whether the open item has a seal there
        self._notes = 0
        self._calls = 0
        self._call: int | None = None  # the place of the open call, None where the client cannot see it
        self._pending = False  # the open call is a custom tool's, whose input has to be unwrapped when it is whole
        self._empty = True  # nothing of the open call's arguments was said
        self._images = 0
        self._refused = False
        self._finished = False
        self._usage: TokenUsage | None = None

    def feed(self, event: Event) -> bytes:
        """The bytes to send for one event; empty where the format has nothing to say."""
        match event:
            case Delta():
                return self._render_delta(event)
            case Opened():
                return self._render_opened(event.item)
            case Closed():
                return self._render_closed(event.item)
            case Started():
                self._usage = event.usage or self._usage
            case Metered():
                self._usage = event.usage
            case Stopped():
                return self._render_stopped(event)
            case Pinged():
                return self.keep_alive
            case Ended():
                return self._usage_chunk() + DONE
            case _:
                pass  # what went wrong at the provider is for `fail` to say, in the gateway's words
        return b""

    def fail(self, error: Mapping[str, Any]) -> bytes:
        """The error frame, which the SDKs raise, and the end of the stream."""
        return b"data: " + orjson.dumps(error if "error" in error else {"error": error}) + b"\n\n" + DONE

    def _chunk(self, delta: dict[str, Any]) -> bytes:
        if self._opening:
            self._opening = False
            delta = (
                {"role": "assistant", "content": "", **delta}
                if "tool_calls" not in delta
                else {"role": "assistant", "content": None, **delta}
            )
        return self._head + orjson.dumps(delta) + self._tail

    def _render_delta(self, event: Delta) -> bytes:
        match event.what:
            case "text":
                return self._chunk({"content": event.text}) if event.text else b""
            case "reasoning" | "summary":
                if not event.text:
                    return b""
                kind, field = ("reasoning.text", "text") if event.what == "reasoning" else ("reasoning.summary", "summary")
                detail = {"type": kind, field: event.text, "index": self._groups}
                if not self._details:  # once an index: the SDKs add up the strings of one
                    self._details = True
                    detail["format"] = self._format
                return self._chunk({"reasoning_content": event.text, "reasoning_details": [detail]})
            case "arguments":
                return self._render_arguments(event.text)
            case "refusal":
                self._refused = True
                return self._chunk({"refusal": event.text})
            case "signature":
                return self._render_seal(event.seal) if event.seal is not None else b""
            case "citation":
                note = _render_citation(event.raw, self._origin)
                if note is None:
                    return b""
                self._notes += 1
                return self._chunk({"annotations": [{**note, "index": self._notes - 1}]})
            case "audio":
                return self._chunk({"audio": event.raw}) if isinstance(event.raw, dict) else b""

    def _render_arguments(self, text: str) -> bytes:
        if not text or self._call is None or self._pending:
            return b""
        self._empty = False
        if self._legacy:
            return self._chunk({"function_call": {"arguments": text}})
        custom = isinstance(self._item, ToolCall) and self._item.kind == "custom"
        said = {"custom": {"input": text}} if custom else {"function": {"arguments": text}}
        return self._chunk({"tool_calls": [{"index": self._call, **said}]})

    def _render_seal(self, seal: Seal) -> bytes:
        """One more entry of the reasoning details; it shares the index of the item's text as long as nothing else is sealed there."""
        item = self._item
        format_name = _DETAIL_FORMATS[seal.origin] if seal.origin != NAME else self._format
        owner = item.call_id if isinstance(item, ToolCall) else ""
        if self._sealed:
            self._groups += 1
            self._details = False
        detail = _seal_detail(seal, owner=owner, format_name=format_name, index=self._groups)
        if self._details:
            del detail["format"]
        if isinstance(item, Reasoning) and item.id:
            detail["id"] = item.id
        delta: dict[str, Any] = {"reasoning_details": [detail]}
        if (
            isinstance(item, ToolCall)
            and item.kind == "function"
            and not (self._call is None or self._legacy or self._pending or self._sealed)
        ):
            signature = {"google": {"thought_signature": seal.data}}
            delta["tool_calls"] = [{"index": self._call, "function": {"arguments": ""}, "extra_content": signature}]
        self._details = self._sealed = True
        return self._chunk(delta)

    def _render_opened(self, item: AnyItem) -> bytes:
        self._item = item
        self._origin = item.origin
        self._details = self._sealed = False
        match item:
            case Reasoning():
                self._format = _detail_format(item, item.seals)
            case ToolCall():
                self._format = _DETAIL_FORMATS.get(item.origin or "", "unknown")
                return self._open_call(item)
            case Image():
                self._images += 1
                return self._chunk({"images": [_render_image_part(item, self._images - 1)]})
            case Audio() if item.data or item.transcript:
                return self._chunk({"audio": _render_audio(item)})
            case _:
                pass
        return b""

    def _open_call(self, call: ToolCall) -> bytes:
        tool = self._changed.get(wire_name(call.name, call.namespace))
        name = tool.name if tool is not None else wire_name(call.name, call.namespace) if call.namespace else call.name
        self._call, self._empty = self._calls, True
        self._calls += 1
        self._pending = tool is not None and tool.kind == "custom" and call.kind == "function"
        if self._legacy:
            if self._call:
                self._call = None  # a client of that time takes one call at a time
                return b""
            return self._chunk({"function_call": {"name": name, "arguments": ""}})
        if self._pending:
            return b""
        if call.kind == "custom":
            said: dict[str, Any] = {"type": "custom", "custom": {"name": name, "input": ""}}
        else:
            said = {"type": "function", "function": {"name": name, "arguments": ""}}
        return self._chunk({"tool_calls": [{"index": self._call, "id": call.call_id, **said}]})

    def _render_closed(self, item: AnyItem) -> bytes:
        rendered = b""
        if isinstance(item, ToolCall) and self._call is not None:
            if self._pending:
                call = _render_call(item, self._changed)
                call.pop("extra_content", None)
                rendered = self._chunk({"tool_calls": [{"index": self._call, **call}]})
            elif self._empty and item.kind == "function":
                rendered = self._render_arguments("{}")  # clients parse what they get
        elif isinstance(item, Text) and item.signature:
            rendered = self._chunk({"reasoning_details": [_text_detail(item, self._groups)]})
            self._details = True
        if self._details:
            self._groups += 1
        self._item, self._call, self._pending, self._details, self._sealed = None, None, False, False, False
        return rendered

    def _render_stopped(self, event: Stopped) -> bytes:
        if self._finished:
            return b""
        self._finished = True
        if event.stop is Stop.FAULT:
            message = f"The model's answer broke off ({event.raw_stop})." if event.raw_stop else "The model's answer broke off."
            error = {"message": message, "type": "api_error", "param": None, "code": "upstream_error"}
            return b"data: " + orjson.dumps({"error": error}) + b"\n\n"
        before = b""
        if event.refusal and not self._refused:
            before = self._chunk({"refusal": event.refusal})
        elif self._opening:
            before = self._chunk({})
        finish = _finish(event.stop, calls=self._calls > 0, legacy=self._legacy)
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish}
        last: dict[str, Any] = {**self._plain, "choices": [choice]}
        if self._wants_usage:
            last["usage"] = None
        return before + b"data: " + orjson.dumps(last) + b"\n\n"

    def _usage_chunk(self) -> bytes:
        if not self._wants_usage or self._usage is None:
            return b""
        return b"data: " + orjson.dumps({**self._plain, "choices": [], "usage": render_usage(self._usage)}) + b"\n\n"
