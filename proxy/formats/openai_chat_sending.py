"""Requests from the hub to providers of Chat Completions: settings and tools, in the words of each. Pure."""

from typing import Any

from proxy.formats.conversation import CannotRender, Conversation, OutputFormat, Target, Thinking, ToolChoice, ToolDef
from proxy.formats.openai_chat_dialects import (
    NEW_LIMIT_KINDS,
    NO_STREAM_OPTIONS,
    OPENAI_KINDS,
    TOP_K_KINDS,
    USER_KINDS,
    cache_mark,
)
from proxy.formats.openai_chat_fields import NAME, mapping_of, text_of
from proxy.formats.openai_chat_messages import Messages
from proxy.formats.tool_names import usable_text, wire_name

_MEANINGFUL_EXTRAS = frozenset({"mcp_servers", "prompt", "cachedContent"})
"""Fields of other formats that say what the model is to see: to leave them out would change the question."""


def render_request(conversation: Conversation, target: Target) -> dict[str, Any]:
    """The JSON to send to a provider of this format; `target.kind` decides between its dialects.

    What is left out without harm is named in `target.dropped`. Raises: CannotRender.
    """
    own = conversation.origin == NAME
    if not own:
        _refuse_meaning(conversation)
    body: dict[str, Any] = {"model": target.model, "messages": Messages(conversation, target).render()}
    body["max_completion_tokens" if target.kind in NEW_LIMIT_KINDS else "max_tokens"] = target.max_output
    if conversation.stream:
        body["stream"] = True
        if target.kind not in NO_STREAM_OPTIONS:
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
        if conversation.origin == NAME or target.kind in TOP_K_KINDS:
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
        ("user", "user", conversation.user, target.kind in USER_KINDS),
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
    said: dict[str, Any] = {"name": usable_text(wanted.name) or "response"}
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
        grammar = mapping_of(mapping_of(tool.raw).get("format") or mapping_of(mapping_of(tool.raw).get("custom")).get("format"))
        grammar = mapping_of(grammar.get("grammar")) or grammar
        description = tool.description
        if definition := text_of(grammar.get("definition")):
            description += f"\n\nThe input must follow this {text_of(grammar.get('syntax')) or 'formal'} grammar:\n{definition}"
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
        return {"type": "function", **tool.raw, "function": {**mapping_of(tool.raw.get("function")), **said}}
    rendered: dict[str, Any] = {"type": "function", "function": said}
    if tool.cache and target.kind == "openrouter":
        rendered["cache_control"] = cache_mark(tool.cache)
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
