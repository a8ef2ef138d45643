"""Reads Messages requests into the hub: strictly, every field bounded. Pure."""

from collections.abc import Mapping
from typing import Any

from proxy.formats.anthropic_messages_blocks import NAME, cache_mark_of, read_block, string_of
from proxy.formats.conversation import AnyItem, CannotParse, Conversation, OutputFormat, Text, Thinking, ToolChoice, ToolDef

MOST_MESSAGES = 100_000
MOST_TOOLS = 10_000
MOST_OUTPUT = 10_000_000
_VOLATILE = "x-anthropic-billing-header:"  # changes with every request of Claude Code and would spoil every prefix cache
_REQUEST_FIELDS = frozenset(
    "model messages max_tokens system stream tools tool_choice temperature top_p top_k stop_sequences thinking output_config output_format "
    "metadata service_tier".split()
)


def parse_request(fields: Mapping[str, Any]) -> Conversation:
    """Read a request. `max_tokens` may be missing (counting tokens has none).

    Raises: CannotParse.
    """
    if not isinstance(fields, Mapping):
        raise CannotParse("The request must be a JSON object.")
    conversation = Conversation(
        origin=NAME,
        model=_field(fields, "model", str) or "",
        items=[*_read_system(fields.get("system")), *_read_messages(fields.get("messages"))],
        stream=_field(fields, "stream", bool) or False,
        tools=_read_tools(fields.get("tools")),
        max_output=_whole(fields, "max_tokens", least=0, most=MOST_OUTPUT),
        temperature=_number(fields, "temperature"),
        top_p=_number(fields, "top_p"),
        top_k=_whole(fields, "top_k", least=0, most=1_000_000),
        extra={name: value for name, value in fields.items() if name not in _REQUEST_FIELDS},
    )
    stops = _field(fields, "stop_sequences", list) or []
    if not all(isinstance(stop, str) for stop in stops):
        raise CannotParse("stop_sequences: a list of strings is expected.", param="stop_sequences")
    conversation.stop = list(stops)
    _read_tool_choice(conversation, _field(fields, "tool_choice", dict))
    _read_thinking(conversation, _field(fields, "thinking", dict), _field(fields, "output_config", dict) or {})
    _read_output_format(conversation, fields)
    metadata = dict(_field(fields, "metadata", dict) or {})
    user = metadata.pop("user_id", None)
    if user is not None and not isinstance(user, str):
        raise CannotParse("metadata.user_id: a string is expected.", param="metadata")
    conversation.user = user or ""
    conversation.metadata = metadata
    tier = _field(fields, "service_tier", str) or ""
    conversation.service_tier = "default" if tier == "standard_only" else tier
    return conversation


def _read_system(system: Any) -> list[AnyItem]:
    if system is None or system == "":
        return []
    if isinstance(system, str):
        if system.startswith(_VOLATILE):
            system = system.partition("\n")[2]
        return [Text("system", text=system, raw=system, origin=NAME, new_turn=True)] if system else []
    if not isinstance(system, list):
        raise CannotParse("system: a string or a list of text blocks is expected.", param="system")
    items: list[AnyItem] = []
    for block in system:
        if not isinstance(block, dict) or block.get("type") != "text" or not isinstance(block.get("text"), str):
            raise CannotParse("system: every block must be a text block.", param="system")
        if not block["text"].lstrip().startswith(_VOLATILE):
            items.append(read_block(block, "system"))
    if items:
        items[0].new_turn = True
    return items


def _read_messages(messages: Any) -> list[AnyItem]:
    if not isinstance(messages, list) or not messages:
        raise CannotParse("messages: a list of at least one message is expected.", param="messages")
    if len(messages) > MOST_MESSAGES:
        raise CannotParse(f"messages: at most {MOST_MESSAGES} messages fit in one request.", param="messages")
    items: list[AnyItem] = []
    for position, message in enumerate(messages):
        where = f"messages.{position}"
        if not isinstance(message, dict):
            raise CannotParse(f"{where}: an object is expected.", param="messages")
        role = message.get("role")
        if role not in ("user", "assistant", "system"):
            raise CannotParse(f"{where}.role: user or assistant is expected.", param="messages")
        content = message.get("content")
        if isinstance(content, str):
            items.append(Text(role, text=content, raw=content, origin=NAME, new_turn=True))
            continue
        if not isinstance(content, list) or not all(isinstance(block, dict) and isinstance(block.get("type"), str) for block in content):
            raise CannotParse(f"{where}.content: a string or a list of blocks is expected.", param="messages")
        said = [read_block(block, role) for block in content]
        if said:
            said[0].new_turn = True
        items += said
    return items


def _read_tools(tools: Any) -> list[ToolDef]:
    if tools is None:
        return []
    if not isinstance(tools, list) or len(tools) > MOST_TOOLS or not all(isinstance(tool, dict) for tool in tools):
        raise CannotParse("tools: a list of tools is expected.", param="tools")
    defined = []
    for tool in tools:
        name, kind = tool.get("name"), tool.get("type")
        common: dict[str, Any] = {"cache": cache_mark_of(tool), "raw": tool, "origin": NAME}
        if kind not in (None, "custom"):
            defined.append(ToolDef(name if isinstance(name, str) else str(kind), kind="builtin", **common))
            continue
        schema = tool.get("input_schema")
        if not isinstance(name, str) or not name or not isinstance(schema, dict | None):
            raise CannotParse("tools: every tool needs a name and an input_schema.", param="tools")
        strict = tool.get("strict")
        defined.append(
            ToolDef(name, string_of(tool, "description"), parameters=schema, strict=strict if isinstance(strict, bool) else None, **common)
        )
    return defined


def _read_tool_choice(conversation: Conversation, choice: Mapping[str, Any] | None) -> None:
    if choice is None:
        return
    match choice.get("type"):
        case "auto":
            conversation.tool_choice = ToolChoice("auto")
        case "none":
            conversation.tool_choice = ToolChoice("none")
        case "any":
            conversation.tool_choice = ToolChoice("required")
        case "tool" if isinstance(choice.get("name"), str):
            conversation.tool_choice = ToolChoice("named", choice["name"])
        case _:
            raise CannotParse("tool_choice: auto, any, none, or tool with a name is expected.", param="tool_choice")
    if choice.get("disable_parallel_tool_use") is True:
        conversation.parallel_tools = False


def _read_thinking(conversation: Conversation, thinking: Mapping[str, Any] | None, config: Mapping[str, Any]) -> None:
    effort = config.get("effort")
    if effort is not None and not isinstance(effort, str):
        raise CannotParse("output_config.effort: a string is expected.", param="output_config")
    rest = {name: value for name, value in config.items() if name not in ("effort", "format")}
    if rest:
        conversation.extra["output_config"] = rest
    if thinking is None:
        conversation.thinking = Thinking(effort=effort) if effort else None
        return
    summary = "auto" if thinking.get("display") == "summarized" else ""
    match thinking.get("type"):
        case "enabled":
            budget = _whole(thinking, "budget_tokens", least=0, most=MOST_OUTPUT)
            conversation.thinking = Thinking(effort or "", budget, enabled=True, summary=summary)
        case "adaptive":
            conversation.thinking = Thinking(effort or "", enabled=True, adaptive=True, summary=summary)
        case "disabled":
            conversation.thinking = Thinking(effort or "", enabled=False)
        case _:
            raise CannotParse("thinking.type: enabled, adaptive or disabled is expected.", param="thinking")
    conversation.extra["thinking"] = dict(thinking)


def _read_output_format(conversation: Conversation, fields: Mapping[str, Any]) -> None:
    config = fields.get("output_config") or {}
    asked = config.get("format") or _field(fields, "output_format", dict)
    if asked is None:
        return
    if not isinstance(asked, dict) or asked.get("type") != "json_schema" or not isinstance(asked.get("schema"), dict):
        raise CannotParse("output_config.format: a json_schema with its schema is expected.", param="output_config")
    conversation.output_format = OutputFormat("json_schema", name=string_of(asked, "name"), schema=asked["schema"], strict=True)


def _field(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    value = fields.get(name)
    if value is not None and not isinstance(value, kind):
        raise CannotParse(f"{name}: the value is of the wrong type.", param=name)
    return value


def _number(fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise CannotParse(f"{name}: a number is expected.", param=name)
    return float(value) if isinstance(value, float) else value


def _whole(fields: Mapping[str, Any], name: str, *, least: int, most: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise CannotParse(f"{name}: a whole number from {least} to {most} is expected.", param=name)
    return value
