"""Writes Messages requests as the provider takes them, from conversations of any format. Pure.

Kept here: user and assistant take turns, tool results come first and together, text is never blank, tool ids have a narrow alphabet, and no
model is asked for what it refuses (see `anthropic_messages_models`).
"""

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from proxy.formats.anthropic_messages_blocks import JSON_TOOL, NAME, arguments_of, media_type_of, tool_id, tool_name, unfold_url, write_json
from proxy.formats.anthropic_messages_models import Traits, traits_of
from proxy.formats.conversation import (
    AnyItem,
    Audio,
    CannotRender,
    Conversation,
    File,
    Image,
    Reasoning,
    Refusal,
    ServerTool,
    Target,
    Text,
    Thinking,
    ToolCall,
    ToolDef,
    ToolResult,
    Unknown,
)

OLD_VERSION = "2023-06-01"  # the last that takes sampling parameters
VERSION = "2026-10-21"
MOST_CACHE_MARKS = 4
SMALLEST_BUDGET = 1024
SAMPLING = ("temperature", "top_p", "top_k")
_OPENING = "…"  # what a conversation opens with that the assistant began: the format wants the user first
_JSON_ONLY = "Answer with one valid JSON object and nothing else: no words around it and no code fence."
_PERSONAL = re.compile(r"@|^\+?[\d\s().-]{7,}$")  # the provider refuses addresses and telephone numbers as user ids
_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 32768}


@dataclass(slots=True)
class _Turn:
    role: Literal["user", "assistant", "system"]
    blocks: list[dict[str, Any]]
    plain: str | None = None  # the content as it was, where it was one string


def render_request(conversation: Conversation, target: Target) -> dict[str, Any]:
    """The request as a provider of this format takes it; `target.dropped` gains what could not be carried and does no harm.

    Raises: CannotRender.
    """
    native = conversation.origin == NAME
    traits = traits_of(target.model)
    _refuse(conversation)
    system, turns = _Turns(conversation, target, traits).build()
    request: dict[str, Any] = {"model": target.model, "max_tokens": target.max_output}
    tools = _render_tools(conversation, target, traits)
    choice = _render_tool_choice(conversation, tools)
    config: dict[str, Any] = {}
    forced_json = _render_output_format(conversation, target, traits, system, tools, config)
    if forced_json is not None:
        tools, choice = [forced_json], {"type": "tool", "name": JSON_TOOL}
    if choice is not None and choice["type"] in ("any", "tool") and not traits.forces_tools:
        target.dropped.append("tool_choice")
        choice = {"type": "auto"} | ({"disable_parallel_tool_use": True} if choice.get("disable_parallel_tool_use") else {})
    thinking = _render_thinking(
        conversation, target, traits, config, forced=choice is not None and choice["type"] in ("any", "tool"), turns=turns
    )
    if system:
        request["system"] = system[0]["text"] if len(system) == 1 and set(system[0]) == {"type", "text"} else system
    request["messages"] = [
        {"role": turn.role, "content": turn.plain if turn.plain is not None else _simplest(turn.blocks)} for turn in turns
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


class _Turns:
    """Sorts a flat list of items into the turns this format wants."""

    def __init__(self, conversation: Conversation, target: Target, traits: Traits) -> None:
        self._conversation = conversation
        self._target = target
        self._traits = traits
        self._native = conversation.origin == NAME
        self._system: list[dict[str, Any]] = []
        self._turns: list[_Turn] = []
        self._ids: dict[str, str] = {}  # the id of the latest call that went by this id
        self._used: set[str] = set()
        self._calls: dict[str, _Turn] = {}

    def build(self) -> tuple[list[dict[str, Any]], list[_Turn]]:
        for item in self._conversation.items:
            self._take(item)
        turns = self._settle()
        if not self._native:
            self._open_with_user(turns)
            if turns[-1].role == "assistant":
                _trim_end(turns[-1])
        elif not turns:
            raise CannotRender("The conversation says nothing.", param="messages")
        return self._system, turns

    def _take(self, item: AnyItem) -> None:
        if item.role in ("system", "developer"):
            blocks = self._render_system(item)
            if not self._turns:
                self._system += blocks
            elif blocks:
                self._turn_for("system", item).blocks += blocks
            return
        if isinstance(item, ToolResult):
            self._take_result(item)
            return
        blocks = self._render(item)
        if blocks:
            role: Literal["user", "assistant"] = "assistant" if item.role == "assistant" else "user"
            turn = self._turn_for(role, item)
            turn.plain = item.raw if isinstance(item.raw, str) and not turn.blocks and item.raw == getattr(item, "text", None) else None
            turn.blocks += blocks
            if isinstance(item, ToolCall):
                self._calls[blocks[0]["id"]] = turn

    def _turn_for(self, role: Literal["user", "assistant", "system"], item: AnyItem) -> _Turn:
        last = self._turns[-1] if self._turns else None
        if last is None or last.role != role or (self._native and item.new_turn):
            last = _Turn(role, [])
            self._turns.append(last)
        last.plain = None
        return last

    def _take_result(self, item: ToolResult) -> None:
        block = self._render_result(item)
        called = self._calls.get(block["tool_use_id"])
        if self._native or called is None:
            self._turn_for("user", item).blocks.append(block)
            return
        # Whatever came between the call and its result comes after the result.
        place = next(position for position, turn in enumerate(self._turns) if turn is called) + 1
        if place == len(self._turns) or self._turns[place].role != "user":
            self._turns.insert(place, _Turn("user", []))
        self._turns[place].blocks.append(block)
        self._turns[place].plain = None

    def _settle(self) -> list[_Turn]:
        """Move system turns that may not stand where they stand to the front, join what is then adjacent, put results first."""
        settled: list[_Turn] = []
        for position, turn in enumerate(self._turns):
            if not turn.blocks:
                continue
            following = self._turns[position + 1].role if position + 1 < len(self._turns) else "assistant"
            if turn.role == "system" and not (
                self._traits.mid_system and settled and settled[-1].role == "user" and following == "assistant"
            ):
                self._system += turn.blocks
            elif settled and settled[-1].role == turn.role and not self._native:
                settled[-1].blocks += turn.blocks
                settled[-1].plain = None
            else:
                settled.append(turn)
        for turn in settled:
            if turn.role == "user" and len(turn.blocks) > 1:
                turn.blocks.sort(key=lambda block: block["type"] != "tool_result")
        return settled

    def _open_with_user(self, turns: list[_Turn]) -> None:
        if not turns:
            if not self._system:
                raise CannotRender("The conversation says nothing.", param="messages")
            turns.append(_Turn("user", [self._system.pop()]))  # only instructions: the last of them is the question
        elif turns[0].role != "user":
            turns.insert(0, _Turn("user", [{"type": "text", "text": _OPENING}]))

    def _render_system(self, item: AnyItem) -> list[dict[str, Any]]:
        if isinstance(item, Text | Refusal):
            return self._render_text(item)
        raise CannotRender("System messages can only be text for this model.", param="messages")

    def _render_text(self, item: Text | Refusal) -> list[dict[str, Any]]:
        if not item.text.strip():
            return []
        raw = item.raw if item.origin == NAME and isinstance(item.raw, dict) else None
        if raw is not None:
            return [dict(raw) if raw.get("type") != "text" else {**raw, "text": item.text}]
        return [_marked({"type": "text", "text": item.text}, item.cache)]

    def _render(self, item: AnyItem) -> list[dict[str, Any]]:
        raw = item.raw if item.origin == NAME and isinstance(item.raw, dict) else None
        match item:
            case Text() | Refusal():
                return self._render_text(item)
            case Reasoning():
                return _render_seals(item)
            case ToolCall():
                return [self._render_call(item, raw)]
            case Image() | File() if raw is not None:
                return [dict(raw)]
            case Audio() if item.transcript:
                return [{"type": "text", "text": item.transcript}]
            case Image() | File() | Audio() if item.role == "assistant":
                raise CannotRender("This model does not take media that an assistant made.", param="messages")
            case Image():
                return [_marked(_render_image(item, self._target), item.cache)]
            case File():
                return [_marked(_render_file(item), item.cache)]
            case Audio():
                raise CannotRender("This model does not take audio.", param="messages")
            case ServerTool() | Unknown() if raw is not None:
                return [dict(raw)]
            case ServerTool():
                self._drop(item.kind or "server_tool")
            case Unknown() if item.role == "assistant":
                self._drop("messages.content")
            case _:
                raise CannotRender("A part of a message is of a kind this model does not take.", param="messages")
        return []

    def _render_call(self, item: ToolCall, raw: dict[str, Any] | None) -> dict[str, Any]:
        name = item.name if self._native and not item.namespace else tool_name(item.name, item.namespace)
        block = {
            "type": "tool_use",
            "id": self._new_id(item.call_id),
            "name": name,
            "input": {"input": item.arguments} if item.kind == "custom" else arguments_of(item.arguments),
        }
        return {**raw, **block} if raw is not None else _marked(block, item.cache)

    def _new_id(self, call_id: str) -> str:
        base = sent = tool_id(call_id)
        count = 1
        while sent in self._used and not self._native:  # some servers count their calls from 0 in every turn; here ids are unique
            count += 1
            sent = f"{base}_{count}"
        self._used.add(sent)
        self._ids[call_id] = sent
        return sent

    def _render_result(self, item: ToolResult) -> dict[str, Any]:
        raw = item.raw if item.origin == NAME and isinstance(item.raw, dict) else None
        sent = self._ids.get(item.call_id) or tool_id(item.call_id)
        if raw is not None:
            return {**raw, "tool_use_id": sent}
        block: dict[str, Any] = {"type": "tool_result", "tool_use_id": sent}
        content = [block for part in item.parts for block in self._render(part)]
        if content:
            block["content"] = _simplest(content)
        if item.is_error:
            block["is_error"] = True
        return _marked(block, item.cache)

    def _drop(self, name: str) -> None:
        if name not in self._target.dropped:
            self._target.dropped.append(name)


def _render_seals(item: Reasoning) -> list[dict[str, Any]]:
    """The thinking blocks that our own seals stand for; what another provider signed, or nobody, is not sent."""
    blocks: list[dict[str, Any]] = []
    text = item.text
    for seal in item.seals:
        if seal.origin != NAME:
            continue
        if seal.kind == "redacted":
            blocks.append({"type": "redacted_thinking", "data": seal.data})
        else:
            blocks.append({"type": "thinking", "thinking": text, "signature": seal.data})
            text = ""
    return blocks


def _render_image(item: Image, target: Target) -> dict[str, Any]:
    media_type, data, url = unfold_url(item.media_type, item.data, item.url)
    if item.detail not in ("", "auto") and "detail" not in target.dropped:
        target.dropped.append("detail")
    if data:
        return {"type": "image", "source": {"type": "base64", "media_type": media_type_of(media_type, data, "image/png"), "data": data}}
    if url:
        return {"type": "image", "source": {"type": "url", "url": url}}
    raise CannotRender("An image must be given as data or by its address: files uploaded elsewhere are not known here.", param="messages")


def _render_file(item: File) -> dict[str, Any]:
    media_type, data, url = unfold_url(item.media_type, item.data, item.url)
    block: dict[str, Any] = {"type": "document"}
    if media_type.startswith(("audio/", "video/")):
        raise CannotRender("This model does not take audio or video.", param="messages")
    if item.text:
        block["source"] = {"type": "text", "media_type": "text/plain", "data": item.text}
    elif data:
        media_type = media_type_of(media_type, data, "")
        if media_type.startswith("image/"):
            return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
        if media_type == "application/pdf":
            block["source"] = {"type": "base64", "media_type": media_type, "data": data}
        else:
            block["source"] = {"type": "text", "media_type": "text/plain", "data": _decode(data)}
    elif url:
        if media_type.startswith("image/"):
            return {"type": "image", "source": {"type": "url", "url": url}}
        block["source"] = {"type": "url", "url": url}
    else:
        raise CannotRender("A file must be given as data or by its address: files uploaded elsewhere are not known here.", param="messages")
    if item.name:
        block["title"] = item.name
    return block


def _decode(data: str) -> str:
    try:
        return b64decode(data, validate=True).decode()
    except ValueError as error:
        raise CannotRender("This model takes PDF and plain text files only.", param="messages") from error


def _marked(block: dict[str, Any], cache: str | None) -> dict[str, Any]:
    if cache:
        block["cache_control"] = {"type": "ephemeral", "ttl": "1h"} if cache == "1h" else {"type": "ephemeral"}
    return block


def _simplest(blocks: list[dict[str, Any]]) -> list[dict[str, Any]] | str:
    """One plain text as a string."""
    return blocks[0]["text"] if len(blocks) == 1 and set(blocks[0]) == {"type", "text"} else blocks


def _trim_end(turn: _Turn) -> None:
    """White space at the end of a last assistant turn is refused."""
    last = turn.blocks[-1]
    if last["type"] == "text":
        turn.blocks[-1] = {**last, "text": last["text"].rstrip()}
        turn.plain = None


def _render_tools(conversation: Conversation, target: Target, traits: Traits) -> list[dict[str, Any]]:
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
        name = tool_name(tool.name, tool.namespace)
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
    return _marked(rendered, tool.cache)


def _render_tool_choice(conversation: Conversation, tools: list[dict[str, Any]]) -> dict[str, Any] | None:
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
                name = tool_name(tool.name, tool.namespace) if tool is not None else tool_name(name)
            choice = {"type": "tool", "name": name}
    if conversation.parallel_tools is False:
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    return choice


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
    if schema is not None and traits.schema and not _is_open(schema):
        lost: list[str] = []
        config["format"] = {"type": "json_schema", "schema": narrow_schema(schema, lost)}
        target.dropped += [f"json_schema.{name}" for name in dict.fromkeys(lost)]
        return None
    if tools or not traits.forces_tools:
        words = _JSON_ONLY if schema is None else f"{_JSON_ONLY} It must satisfy this JSON schema:\n{write_json(schema)}"
        system.append({"type": "text", "text": words})
        return None
    return {"name": JSON_TOOL, "description": "Output the result in JSON format", "input_schema": {"type": "object", **(schema or {})}}


_BOUNDS = frozenset(
    "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength minItems maxItems uniqueItems minProperties "
    "maxProperties propertyOrdering".split()
)
_MAPS = frozenset(("properties", "$defs", "definitions", "patternProperties"))


def _is_open(schema: Mapping[str, Any]) -> bool:
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


def _render_thinking(
    conversation: Conversation, target: Target, traits: Traits, config: dict[str, Any], *, forced: bool, turns: list[_Turn]
) -> dict[str, Any] | None:
    asked = conversation.thinking
    if asked is None or asked == Thinking():
        return None
    raw = conversation.extra.get("thinking") if conversation.origin == NAME else None
    if conversation.origin == NAME and (not traits.known or _takes(traits, asked)):
        if asked.effort:
            config["effort"] = asked.effort
        return _within_limit(raw, target) if isinstance(raw, dict) else None
    if asked.enabled is False or asked.effort == "none" or asked.budget == 0:
        if traits.thinks_unasked and traits.can_stop_thinking:
            return {"type": "disabled"}
        if traits.thinks_unasked:
            config["effort"] = "low"
            _note_effort(target)
        return None
    budget = asked.budget if asked.budget is not None and asked.budget > 0 else None
    effort = asked.effort or _effort_of(budget)
    if traits.efforts and (asked.effort or traits.thinking == "adaptive") and effort:
        config["effort"] = _nearest(effort, traits.efforts)
    if forced and traits.thinking != "none":
        # A tool that must be called and thinking exclude each other; the tool is what the client cannot do without.
        _note_effort(target)
        if traits.thinks_unasked and traits.can_stop_thinking:
            if config.get("effort") in ("xhigh", "max"):
                config["effort"] = "high"
            return {"type": "disabled"}
        return None
    if traits.thinking == "adaptive" or (traits.thinking == "both" and budget is None):
        return {"type": "adaptive"} | ({"display": "summarized"} if asked.summary or conversation.origin == "chat" else {})
    if traits.thinking == "none" or target.max_output <= SMALLEST_BUDGET or _lacks_thinking(turns):
        _note_effort(target)
        return None
    wanted = budget if budget is not None else _BUDGETS.get(effort, _BUDGETS["medium"])
    # What is thought counts against the limit: leave a part of it for the answer.
    most = target.max_output - 1 if budget is not None and budget < target.max_output else max(target.max_output // 2, SMALLEST_BUDGET)
    return {"type": "enabled", "budget_tokens": max(min(wanted, most), SMALLEST_BUDGET)}


def _takes(traits: Traits, asked: Thinking) -> bool:
    """Whether a model takes thinking as this format's client asked for it."""
    if asked.effort and asked.effort not in traits.efforts:
        return False
    if asked.enabled is False:
        return traits.can_stop_thinking
    if asked.adaptive:
        return traits.thinking in ("both", "adaptive")
    return asked.enabled is None or traits.thinking in ("budget", "both")


def _within_limit(thinking: dict[str, Any], target: Target) -> dict[str, Any] | None:
    """The client's own wish, its budget below the limit of the answer."""
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or budget < target.max_output:
        return thinking
    _note_effort(target)
    return {**thinking, "budget_tokens": target.max_output - 1} if target.max_output > SMALLEST_BUDGET else None


def _lacks_thinking(turns: list[_Turn]) -> bool:
    """Whether the tool loop under way began without a thinking block that could be sent: the provider refuses to think in it."""
    if len(turns) < 2 or turns[-1].role != "user" or turns[-1].blocks[0]["type"] != "tool_result":
        return False
    return turns[-2].blocks[0]["type"] not in ("thinking", "redacted_thinking")


def _effort_of(budget: int | None) -> str:
    if budget is None:
        return ""
    return "low" if budget <= 2048 else "medium" if budget <= 8192 else "high" if budget <= 24576 else "xhigh"


def _nearest(effort: str, efforts: tuple[str, ...]) -> str:
    if effort in efforts:
        return effort
    return "low" if effort in ("minimal", "low") else "medium" if effort == "medium" else "high"


def _note_effort(target: Target) -> None:
    if "reasoning_effort" not in target.dropped:
        target.dropped.append("reasoning_effort")


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
    return {
        sent: tool
        for tool in conversation.tools
        if tool.kind != "builtin" and conversation.origin != NAME
        if (sent := tool_name(tool.name, tool.namespace)) != tool.name or tool.kind == "custom"
    }


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
