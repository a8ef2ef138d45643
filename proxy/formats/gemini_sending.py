"""Requests from the hub to Gemini: settings, tools and what is refused. Pure."""

from typing import Any

from proxy.formats.conversation import AnyItem, CannotRender, Conversation, Refusal, Target, Text
from proxy.formats.gemini_contents import Contents
from proxy.formats.gemini_models import Traits, render_thinking, traits_of
from proxy.formats.gemini_parts import NAME
from proxy.formats.gemini_requests import parse_choice
from proxy.formats.gemini_schemas import to_google
from proxy.formats.tool_names import GOOGLE, wire_name

MOST_STOPS = 5

_PARAMS: dict[str, dict[str, str]] = {  # what a client calls a setting, for messages and lists of what was dropped
    "chat": {"thinking": "reasoning_effort", "format": "response_format", "parallel": "parallel_tool_calls"},
    "responses": {"thinking": "reasoning", "format": "text.format", "parallel": "parallel_tool_calls"},
    "messages": {"thinking": "thinking", "format": "output_config", "parallel": "tool_choice.disable_parallel_tool_use"},
    "gemini": {"thinking": "thinkingConfig", "format": "responseJsonSchema", "parallel": "parallel"},
}
_MEANINGFUL = ("logit_bias", "web_search_options", "audio", "background", "mcp_servers", "prompt")
_HARMLESS_TIERS = ("", "auto", "default", "standard", "standard_only")


def render_request(conversation: Conversation, target: Target) -> dict[str, Any]:
    """The JSON for generateContent; the model and whether to stream are in its address, not here.

    Raises: CannotRender.
    """
    traits = traits_of(target.model)
    own = conversation.origin == NAME
    _refuse(conversation)
    body: dict[str, Any] = {}
    if own:
        body.update({name: value for name, value in conversation.extra.items() if name not in ("generationConfig", "toolConfig")})
    else:
        target.dropped += [name for name in conversation.extra if name not in target.dropped]
    system = [part for item in conversation.items if item.role in ("system", "developer") and (part := _system_part(item, target))]
    contents = Contents(conversation, target, traits).render()
    if not contents and system:
        contents, system = [{"role": "user", "parts": system}], []
    if not contents:
        raise CannotRender("The conversation has no message for the model to answer.", param="messages")
    body["contents"] = contents
    if system:
        body["systemInstruction"] = {"parts": system}
    tools = _render_tools(conversation)
    if tools:
        body["tools"] = tools
    choice = _render_choice(conversation, target, traits)
    if choice:
        body["toolConfig"] = choice
    body["generationConfig"] = _render_generation(conversation, target, traits)
    if own and conversation.service_tier:
        body["serviceTier"] = conversation.service_tier
    elif conversation.service_tier not in _HARMLESS_TIERS:
        target.dropped.append("service_tier")
    for name, value in (
        ("user", conversation.user),
        ("metadata", conversation.metadata),
        ("prompt_cache_key", conversation.cache_key),
        ("verbosity", conversation.verbosity),
        ("cache_control", any(item.cache for item in conversation.items) or any(tool.cache for tool in conversation.tools)),
    ):
        if value and name not in target.dropped:
            target.dropped.append(name)
    return body


def _refuse(conversation: Conversation) -> None:
    """Refuse what changes the meaning and cannot be carried."""
    if conversation.origin == NAME:
        return
    if conversation.n > 1:
        raise CannotRender("This model gives one answer to a request; 'n' must be 1.", param="n")
    if conversation.logprobs or conversation.top_logprobs:
        raise CannotRender("This model's log probabilities cannot be given in this format.", param="logprobs")
    if len(conversation.stop) > MOST_STOPS:
        raise CannotRender(f"This model takes at most {MOST_STOPS} stop sequences.", param="stop")
    for name in _MEANINGFUL:
        if conversation.extra.get(name):
            raise CannotRender(f"This model does not support '{name}'.", param=name)
    modalities = conversation.extra.get("modalities")
    if isinstance(modalities, list) and any(one != "text" for one in modalities):
        raise CannotRender("This model answers in text only at this endpoint.", param="modalities")


def _render_generation(conversation: Conversation, target: Target, traits: Traits) -> dict[str, Any]:
    own = conversation.origin == NAME
    params = _PARAMS[conversation.origin]
    config: dict[str, Any] = dict(conversation.extra.get("generationConfig") or {}) if own else {}
    config["maxOutputTokens"] = target.max_output
    if conversation.temperature is not None:
        config["temperature"] = conversation.temperature if own else min(max(conversation.temperature, 0), 2)
    if conversation.top_p is not None:
        config["topP"] = conversation.top_p
    if conversation.top_k is not None:
        config["topK"] = conversation.top_k
    if conversation.stop:
        config["stopSequences"] = list(conversation.stop)
    if conversation.seed is not None:
        if -(2**31) <= conversation.seed < 2**31:
            config["seed"] = conversation.seed
        else:
            target.dropped.append("seed")
    for name, param, value in (
        ("presencePenalty", "presence_penalty", conversation.presence_penalty),
        ("frequencyPenalty", "frequency_penalty", conversation.frequency_penalty),
    ):
        if value is not None and (own or traits.knows_penalties):
            config[name] = value
        elif value:  # 0 is what it is without
            target.dropped.append(param)
    if own:
        if conversation.n > 1:
            config["candidateCount"] = conversation.n
        if conversation.logprobs:
            config["responseLogprobs"] = True
        if conversation.top_logprobs is not None:
            config["logprobs"] = conversation.top_logprobs
    if conversation.output_format is not None:
        if conversation.tools and not own and not traits.combines_tools_and_json:
            raise CannotRender("This model cannot use tools and answer in JSON in one request.", param=params["format"])
        config["responseMimeType"] = "application/json"
        schema = conversation.output_format.schema
        if schema is not None and "responseSchema" not in config:
            schema = schema if own else to_google(schema)
            if conversation.output_format.description and "description" not in schema:
                schema = {"description": conversation.output_format.description, **schema}
            config["responseJsonSchema"] = schema
    if conversation.thinking is not None and "thinkingConfig" not in config:
        thinking = render_thinking(conversation.thinking, traits, target, params["thinking"])
        if thinking:
            config["thinkingConfig"] = thinking
    return config


def _render_tools(conversation: Conversation) -> list[dict[str, Any]]:
    _refuse_same_names(conversation)
    declarations: list[dict[str, Any]] = []
    tools: list[dict[str, Any]] = []
    for tool in conversation.tools:
        if tool.kind == "builtin":
            if tool.origin != NAME or not isinstance(tool.raw, dict):
                raise CannotRender(f"The built-in tool '{tool.name}' is not available with this model.", param="tools")
            tools.append(tool.raw)
            continue
        if tool.origin == NAME and isinstance(tool.raw, dict):
            declarations.append(tool.raw)
            continue
        declaration: dict[str, Any] = {"name": wire_name(tool.name, tool.namespace, legal=GOOGLE)}
        if tool.description:
            declaration["description"] = tool.description
        if tool.kind == "custom":
            declaration["parametersJsonSchema"] = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
        elif tool.parameters:
            declaration["parametersJsonSchema"] = to_google(tool.parameters)
        declarations.append(declaration)
    return [*tools, {"functionDeclarations": declarations}] if declarations else tools


def _refuse_same_names(conversation: Conversation) -> None:
    known: set[str] = set()
    for tool in conversation.tools:
        name = wire_name(tool.name, tool.namespace, legal=GOOGLE)
        if tool.kind != "builtin" and name in known:
            raise CannotRender(f"Two tools have the name '{tool.name}'.", param="tools")
        if tool.kind != "builtin":
            known.add(name)


def _render_choice(conversation: Conversation, target: Target, traits: Traits) -> dict[str, Any]:
    kept = conversation.extra.get("toolConfig") if conversation.origin == NAME else None
    config: dict[str, Any] = dict(kept) if isinstance(kept, dict) else {}
    if conversation.parallel_tools is False and conversation.tools:
        target.dropped.append(_PARAMS[conversation.origin]["parallel"])
    choice = conversation.tool_choice
    if choice is None:
        return config
    calling = config.get("functionCallingConfig")
    if isinstance(calling, dict) and parse_choice(calling) == choice:  # as received: VALIDATED, and what else it says
        return config
    spaces = {tool.name: wire_name(tool.name, tool.namespace, legal=GOOGLE) for tool in conversation.tools if tool.kind != "builtin"}
    if not spaces:
        if choice.mode in ("auto", "none"):
            return config
        raise CannotRender("There is no tool to choose from.", param="tool_choice")
    allowed = [spaces.get(name) or wire_name(name, legal=GOOGLE) for name in ([choice.name] if choice.mode == "named" else choice.allowed)]
    mode = {"auto": "AUTO", "none": "NONE"}.get(choice.mode, "ANY")
    if mode == "AUTO" and allowed:  # AUTO takes no list of names
        if not traits.knows_validated:
            raise CannotRender("This model cannot be held to some of its tools.", param="tool_choice")
        mode = "VALIDATED"
    if choice.mode == "named" and allowed[0] not in spaces.values():
        raise CannotRender(f"There is no tool '{choice.name}'.", param="tool_choice")
    config["functionCallingConfig"] = {"mode": mode, **({"allowedFunctionNames": allowed} if allowed else {})}
    return config


def _system_part(item: AnyItem, target: Target) -> dict[str, Any] | None:
    if item.origin == NAME and isinstance(item.raw, dict) and not isinstance(item, Text):
        return item.raw
    if isinstance(item, Text | Refusal):
        extra = item.raw if item.origin == NAME and isinstance(item.raw, dict) else {}
        return {**extra, "text": item.text} if item.text or extra else None
    target.dropped.append(type(item).__name__.lower())
    return None
