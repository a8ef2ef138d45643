"""Requests from the hub to providers of Responses: settings and tools. Pure."""

from typing import Any

from proxy.formats.conversation import CannotRender, Conversation, Reasoning, Target, Text, Thinking, ToolDef
from proxy.formats.openai_responses_input import render_input
from proxy.formats.openai_responses_items import NAME, mapping_of
from proxy.formats.openai_responses_requests import STATE_FIELDS, is_instructions
from proxy.formats.tool_names import wire_name

LEAST_OUTPUT = 16  # OpenAI refuses less

_SEALED_THINKING = "reasoning.encrypted_content"

_TIERS = frozenset(("auto", "default", "flex", "priority", "scale"))

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


def render_request(conversation: Conversation, target: Target) -> dict[str, Any]:
    """The request to send to a provider of this format; harmless losses are named in `target.dropped`.

    Raises: CannotRender, for what would change the meaning.
    """
    own = conversation.origin == NAME
    _refuse(conversation, own=own)
    body: dict[str, Any] = {"model": target.model, "input": render_input(conversation, target)}
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
        if names.setdefault(wire_name(tool.name, tool.namespace), tool.name) != tool.name:
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
    name = wire_name(tool.name, tool.namespace)
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
        return {"type": "custom" if custom else "function", "name": name if own else wire_name(name)}

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
