"""Tools, the choice among them and schemas, as Messages takes them. Pure."""

from collections.abc import Mapping
from typing import Any

from proxy.formats.anthropic_messages_blocks import NAME
from proxy.formats.anthropic_messages_models import Traits
from proxy.formats.anthropic_messages_turns import with_cache_mark
from proxy.formats.conversation import CannotRender, Conversation, Target, ToolDef
from proxy.formats.tool_names import wire_name


def render_tools(conversation: Conversation, target: Target, traits: Traits) -> list[dict[str, Any]]:
    """The request's `tools`. Raises: CannotRender."""
    choice = conversation.tool_choice
    allowed = set(choice.allowed) if choice is not None and choice.allowed and choice.mode in ("auto", "required") else None
    rendered: list[dict[str, Any]] = []
    seen: set[str] = set()
    for tool in conversation.tools:
        if tool.origin == NAME and isinstance(tool.raw, dict):
            rendered.append(dict(tool.raw))
            continue
        if tool.kind == "builtin":
            raise CannotRender(f"The built-in tool {tool.name!r} belongs to another provider.", param="tools")
        if allowed is not None and tool.name not in allowed:
            continue
        name = wire_name(tool.name, tool.namespace)
        if name in seen:
            raise CannotRender(f"Two tools are called {name!r}.", param="tools")
        seen.add(name)
        rendered.append(_render_tool(tool, name, target, traits))
    return rendered


def _render_tool(tool: ToolDef, name: str, target: Target, traits: Traits) -> dict[str, Any]:
    if tool.kind == "custom":
        schema: dict[str, Any] = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    else:
        schema = {"type": "object", **({"properties": {}} if not tool.parameters else {}), **(tool.parameters or {})}
    rendered: dict[str, Any] = {"name": name, "input_schema": schema}
    if tool.description:
        rendered["description"] = tool.description
    if tool.strict:
        # A strict schema has to be of the narrow kind; the constraints of another say more than strictness does.
        if traits.schema and narrow_schema(schema, []) == schema:
            rendered["strict"] = True
        elif "tools.strict" not in target.dropped:
            target.dropped.append("tools.strict")
    return with_cache_mark(rendered, tool.cache)


def render_tool_choice(conversation: Conversation, tools: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The request's `tool_choice`; None where nothing is asked. Raises: CannotRender."""
    if not tools:
        return None
    asked = conversation.tool_choice
    choice: dict[str, Any] | None = None
    match asked.mode if asked is not None else None:
        case "auto":
            choice = {"type": "auto"}
        case "none":
            return {"type": "none"}
        case "required":
            choice = (
                {"type": "tool", "name": tools[0]["name"]} if asked is not None and asked.allowed and len(tools) == 1 else {"type": "any"}
            )
        case "named":
            name = asked.name if asked is not None else ""
            if conversation.origin != NAME:
                tool = next((tool for tool in conversation.tools if tool.name == name), None)
                name = wire_name(tool.name, tool.namespace) if tool is not None else wire_name(name)
            choice = {"type": "tool", "name": name}
    if conversation.parallel_tools is False:
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    return choice


_BOUNDS = frozenset(
    "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength minItems maxItems uniqueItems minProperties "
    "maxProperties propertyOrdering".split()
)
_MAPS = frozenset(("properties", "$defs", "definitions", "patternProperties"))


def is_open(schema: Mapping[str, Any]) -> bool:
    """Whether any object satisfies the schema: closed, as structured output wants it, only {} would."""
    return (
        schema.get("type") == "object"
        and not schema.get("properties")
        and not any(name in schema for name in ("$ref", "anyOf", "allOf", "oneOf"))
    )


def narrow_schema(schema: Any, lost: list[str]) -> Any:
    """The schema as structured output takes it: objects closed, bounds left out (their names are added to `lost`)."""
    if isinstance(schema, list):
        return [narrow_schema(part, lost) for part in schema]
    if not isinstance(schema, dict):
        return schema
    narrow: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _MAPS and isinstance(value, dict):
            narrow[name] = {key: narrow_schema(part, lost) for key, part in value.items()}
        elif name in ("enum", "const", "default", "examples", "required") or (name == "minItems" and value in (0, 1)):
            narrow[name] = value
        elif name in _BOUNDS:
            lost.append(name)
        else:
            narrow["anyOf" if name == "oneOf" else name] = narrow_schema(value, lost)
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in schema:
        if schema.get("additionalProperties") not in (None, False):
            lost.append("additionalProperties")
        narrow["additionalProperties"] = False
    return narrow
