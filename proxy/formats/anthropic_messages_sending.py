"""Writes Messages requests as the provider takes them, from conversations of any format. Pure.

Kept here and in `anthropic_messages_turns`: user and assistant take turns, tool results come first and together, text is never blank, tool
ids have a narrow alphabet, and no model is asked for what it refuses (see `anthropic_messages_models`).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from proxy.formats.anthropic_messages_blocks import JSON_TOOL, NAME, write_json
from proxy.formats.anthropic_messages_models import Traits, traits_of
from proxy.formats.anthropic_messages_thinking import render_thinking
from proxy.formats.anthropic_messages_tools import is_open, narrow_schema, render_tool_choice, render_tools
from proxy.formats.anthropic_messages_turns import Turns, simplest
from proxy.formats.conversation import CannotRender, Conversation, Target, ToolDef
from proxy.formats.tool_names import renamed_tools

OLD_VERSION = "2023-06-01"  # the last that takes sampling parameters
VERSION = "2026-10-21"
MOST_CACHE_MARKS = 4

SAMPLING = ("temperature", "top_p", "top_k")

_JSON_ONLY = "Answer with one valid JSON object and nothing else: no words around it and no code fence."
_PERSONAL = re.compile(r"@|^\+?[\d\s().-]{7,}$")  # the provider refuses addresses and telephone numbers as user ids


def render_request(conversation: Conversation, target: Target) -> dict[str, Any]:
    """The request as a provider of this format takes it; `target.dropped` gains what could not be carried and does no harm.

    Raises: CannotRender.
    """
    native = conversation.origin == NAME
    traits = traits_of(target.model)
    _refuse(conversation)
    system, turns = Turns(conversation, target, traits).build()
    request: dict[str, Any] = {"model": target.model, "max_tokens": target.max_output}
    tools = render_tools(conversation, target, traits)
    choice = render_tool_choice(conversation, tools)
    config: dict[str, Any] = {}
    forced_json = _render_output_format(conversation, target, traits, system, tools, config)
    if forced_json is not None:
        tools, choice = [forced_json], {"type": "tool", "name": JSON_TOOL}
    if choice is not None and choice["type"] in ("any", "tool") and not traits.forces_tools:
        target.dropped.append("tool_choice")
        choice = {"type": "auto"} | ({"disable_parallel_tool_use": True} if choice.get("disable_parallel_tool_use") else {})
    thinking = render_thinking(
        conversation, target, traits, config, forced=choice is not None and choice["type"] in ("any", "tool"), turns=turns
    )
    if system:
        request["system"] = system[0]["text"] if len(system) == 1 and set(system[0]) == {"type", "text"} else system
    request["messages"] = [
        {"role": turn.role, "content": turn.plain if turn.plain is not None else simplest(turn.blocks)} for turn in turns
    ]
    if tools:
        request["tools"] = tools
        if choice is not None:
            request["tool_choice"] = choice
    if thinking is not None:
        request["thinking"] = thinking
    _render_sampling(conversation, target, traits, request, thinking)
    if conversation.stop:
        request["stop_sequences"] = conversation.stop
    _render_labels(conversation, target, request)
    if native:
        extra = dict(conversation.extra)
        extra.pop("thinking", None)
        config = {**(extra.pop("output_config", None) or {}), **config}
        request |= extra
    else:
        carried = {"safety_identifier"} if "metadata" in request else set()
        target.dropped += [name for name in conversation.extra if name not in target.dropped and name not in carried]
        _mark_for_caching(conversation, target, request)
    if config:
        request["output_config"] = config
    if conversation.stream:
        request["stream"] = True
    return request


def _refuse(conversation: Conversation) -> None:
    if conversation.n > 1:
        raise CannotRender("This model gives one answer at a time: 'n' must be 1.", param="n")
    if conversation.logprobs or conversation.top_logprobs:
        raise CannotRender("This model does not give 'logprobs'.", param="logprobs")
    modalities = conversation.extra.get("modalities")
    if conversation.origin != NAME and isinstance(modalities, list) and any(kind != "text" for kind in modalities):
        raise CannotRender("This model answers in text only.", param="modalities")
    if conversation.origin != NAME and any(not stop.strip() for stop in conversation.stop):
        raise CannotRender("This model takes no stop sequence of white space alone.", param="stop")


def _render_output_format(
    conversation: Conversation,
    target: Target,
    traits: Traits,
    system: list[dict[str, Any]],
    tools: list[dict[str, Any]],
    config: dict[str, Any],
) -> dict[str, Any] | None:
    """Ask for JSON: by `output_config.format`, or by a tool (returned) that must be called, or, where neither goes, in words."""
    asked = conversation.output_format
    if asked is None:
        return None
    if conversation.origin == NAME:
        config["format"] = {"type": "json_schema", "schema": asked.schema}
        return None
    schema = asked.schema if asked.kind == "json_schema" else None
    if schema is not None and traits.schema and not is_open(schema):
        lost: list[str] = []
        config["format"] = {"type": "json_schema", "schema": narrow_schema(schema, lost)}
        target.dropped += [f"json_schema.{name}" for name in dict.fromkeys(lost)]
        return None
    if tools or not traits.forces_tools:
        words = _JSON_ONLY if schema is None else f"{_JSON_ONLY} It must satisfy this JSON schema:\n{write_json(schema)}"
        system.append({"type": "text", "text": words})
        return None
    return {"name": JSON_TOOL, "description": "Output the result in JSON format", "input_schema": {"type": "object", **(schema or {})}}


def _render_sampling(
    conversation: Conversation, target: Target, traits: Traits, request: dict[str, Any], thinking: Mapping[str, Any] | None
) -> None:
    native = conversation.origin == NAME
    thinks = thinking is not None and thinking.get("type") != "disabled"
    values: dict[str, float | int | None] = {name: getattr(conversation, name) for name in SAMPLING}
    for name, value in values.items():
        if value is None:
            continue
        sent = value
        if not native and name == "temperature" and value > 1:
            target.dropped.append(name)
            sent = 1
        refused = not traits.sampling
        if not native:
            if thinks:
                refused |= (name == "temperature" and sent != 1) or (name == "top_p" and not 0.95 <= value <= 1) or name == "top_k"
            refused |= name == "top_p" and traits.one_sampler and values["temperature"] is not None
        if not refused:
            request[name] = sent
        elif name not in target.dropped:
            target.dropped.append(name)
    for name in ("seed", "presence_penalty", "frequency_penalty", "verbosity"):
        if getattr(conversation, name) not in (None, "", 0):
            target.dropped.append(name)


def _render_labels(conversation: Conversation, target: Target, request: dict[str, Any]) -> None:
    native = conversation.origin == NAME
    metadata = dict(conversation.metadata) if native else {}
    if not native and conversation.metadata:
        target.dropped.append("metadata")
    safety = None if native else conversation.extra.get("safety_identifier")  # what OpenAI now calls its `user`
    user = conversation.user or (safety if isinstance(safety, str) else "")
    if user:
        if native or not (_PERSONAL.search(user) or len(user) > 256):
            metadata["user_id"] = user
        else:
            target.dropped.append("user")
    if metadata:
        request["metadata"] = metadata
    tier = conversation.service_tier
    if tier == "default":
        request["service_tier"] = "standard_only"
    elif tier == "auto" or (tier and native):
        request["service_tier"] = tier
    elif tier:
        target.dropped.append("service_tier")


def _mark_for_caching(conversation: Conversation, target: Target, request: dict[str, Any]) -> None:
    """Keep at most four cache marks, the last ones; where there is none and the prompt will come again, ask for automatic caching."""
    marked = [
        block
        for group in (request.get("tools"), request.get("system"), *(message["content"] for message in request["messages"]))
        if isinstance(group, list)
        for block in group
        if "cache_control" in block
    ]
    for block in marked[:-MOST_CACHE_MARKS]:
        del block["cache_control"]
    comes_again = conversation.cache_key or conversation.tools or any(message["role"] == "assistant" for message in request["messages"])
    if not marked and target.kind == "anthropic" and comes_again:
        request["cache_control"] = {"type": "ephemeral"}


def tool_names(conversation: Conversation) -> dict[str, ToolDef]:
    """The tools whose calls have to be turned back in answers (renamed, namespaced or custom), by their name upstream."""
    return {} if conversation.origin == NAME else renamed_tools(conversation)


def version_for(request: Mapping[str, Any]) -> str:
    """The `anthropic-version` to send a request of ours with: the old one where it carries what the newer version refuses."""
    if any(request.get(name) is not None for name in SAMPLING):
        return OLD_VERSION
    for role, block in _blocks_of(request):
        if (role == "assistant" and block.get("type") == "document") or (
            role == "user" and block.get("type") == "text" and block.get("citations")
        ):
            return OLD_VERSION
    return VERSION


def betas_for(request: Mapping[str, Any]) -> list[str]:
    """The `anthropic-beta` names that a request of ours needs."""
    betas = []
    if any(isinstance(source := block.get("source"), dict) and source.get("type") == "file" for _, block in _blocks_of(request)):
        betas.append("files-api-2025-04-14")
    if request.get("context_management"):
        betas.append("context-management-2025-06-27")
    if request.get("mcp_servers"):
        betas.append("mcp-client-2025-11-20")
    return betas


def uses_json_tool(request: Mapping[str, Any], conversation: Conversation) -> bool:
    """Whether `render_request` asked for JSON by a forced tool, so that the answer has to be unwrapped again."""
    choice = request.get("tool_choice")
    return (
        conversation.output_format is not None and isinstance(choice, dict) and choice.get("name") == JSON_TOOL and not conversation.tools
    )


def _blocks_of(request: Mapping[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    for message in request.get("messages") or ():
        content = message.get("content")
        if isinstance(content, list):
            for block in content:
                yield message.get("role", ""), block
                inner = block.get("content")
                if isinstance(inner, list):
                    yield from (("result", part) for part in inner if isinstance(part, dict))
