"""Responses requests to the hub. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from proxy.formats.conversation import AnyItem, CannotParse, Conversation, OutputFormat, Text, Thinking, ToolChoice, ToolDef
from proxy.formats.openai_responses_items import NAME, dicts_of, parse_items, text_of

MOST_ITEMS = 10_000
MOST_TOOLS = 1_024
MOST_OUTPUT = 10_000_000

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

_LOGPROBS = "message.output_text.logprobs"


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
