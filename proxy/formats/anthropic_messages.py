"""Anthropic Messages: requests, answers and streams to and from the hub, the tap of the same-format pass-through, and its errors. Pure.

The shape's own laws are kept here: user and assistant take turns, tool results come first and together, text is never blank, tool ids have
a narrow alphabet, a stream's blocks are numbered from 0 and follow one another, and every event bears its name.
"""

import json
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, Literal

import orjson

from catalog.usage import TokenUsage
from proxy.body import Body
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
    Metered,
    Opened,
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
from proxy.formats.openai_chat import NotAnAnswer, read_reported_cost, with_cost
from proxy.sse import Splitter

NAME: Final = "messages"
OLD_VERSION = "2023-06-01"  # the last that takes sampling parameters
VERSION = "2026-10-21"
MOST_MESSAGES = 100_000
MOST_TOOLS = 10_000
MOST_OUTPUT = 10_000_000
MOST_CACHE_MARKS = 4
LONGEST_NAME = 64
SMALLEST_BUDGET = 1024
JSON_TOOL = "json"
SAMPLING = ("temperature", "top_p", "top_k")

_VOLATILE = "x-anthropic-billing-header:"  # changes with every request of Claude Code and would spoil every prefix cache
_OPENING = "…"  # what a conversation opens with that the assistant began: the format wants the user first
_JSON_ONLY = "Answer with one valid JSON object and nothing else: no words around it and no code fence."
_NAME = re.compile(r"[a-zA-Z0-9_-]+\Z")
_NOT_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^;,]*)*;base64,(.*)\Z", re.DOTALL)
_PERSONAL = re.compile(r"@|^\+?[\d\s().-]{7,}$")  # the provider refuses addresses and telephone numbers as user ids
_MAGIC = {"/9j/": "image/jpeg", "iVBOR": "image/png", "R0lGOD": "image/gif", "UklGR": "image/webp", "JVBERi0": "application/pdf"}
_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 32768}
_STOPS = {
    "end_turn": Stop.END,
    "stop_sequence": Stop.END,
    "max_tokens": Stop.LENGTH,
    "model_context_window_exceeded": Stop.LENGTH,
    "tool_use": Stop.TOOL,
    "refusal": Stop.FILTER,
    "pause_turn": Stop.PAUSE,
    "compaction": Stop.PAUSE,
}
_REASONS = {Stop.END: "end_turn", Stop.LENGTH: "max_tokens", Stop.TOOL: "tool_use", Stop.FILTER: "refusal", Stop.PAUSE: "pause_turn"}
_SERVER_TOOLS = ("server_tool_use", "mcp_tool_use", "container_upload")
_REQUEST_FIELDS = frozenset(
    "model messages max_tokens system stream tools tool_choice temperature top_p top_k stop_sequences thinking output_config output_format "
    "metadata service_tier".split()
)


# -- Models ----------------------------------------------------------------------------------------------------------------------------
# From the provider's migration guides; what a model does not take is a 400.


@dataclass(frozen=True, slots=True)
class Traits:
    """What a model takes. `thinking` is its way of being asked to think; `efforts` the values of `output_config.effort`."""

    thinking: Literal["none", "budget", "both", "adaptive"] = "budget"
    thinks_unasked: bool = False
    can_stop_thinking: bool = True
    efforts: tuple[str, ...] = ()
    sampling: bool = True
    one_sampler: bool = False  # temperature or top_p, not both
    forces_tools: bool = True
    schema: bool = False  # output_config.format
    mid_system: bool = False  # role system within the conversation
    known: bool = True


_NEW_NAME = re.compile(r"claude-(opus|sonnet|haiku|fable|mythos|instant)-(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?")
_OLD_NAME = re.compile(r"claude-(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?(?:-(opus|sonnet|haiku))?")


@lru_cache(maxsize=512)
def traits_of(model: str) -> Traits:
    """What a model takes, told from its name.

    A Claude without a version in its name is taken for the newest. Other makers' models behind this format are taken for plain ones: a
    thinking budget, sampling, forced tools, nothing newer.
    """
    name = model.lower()
    if new := _NEW_NAME.search(name):
        family, major, minor = new[1], int(new[2]), int(new[3] or 0)
    elif old := _OLD_NAME.search(name):
        family, major, minor = old[3] or "", int(old[1]), int(old[2] or 0)
    elif "claude" in name:
        family, major, minor = next((word for word in ("haiku", "sonnet", "opus", "fable", "mythos") if word in name), ""), 99, 0
        if "mythos-preview" in name:
            major = 5
    else:
        return Traits(known=False)
    version = (major, minor)
    largest = family in ("fable", "mythos")
    efforts: tuple[str, ...] = ()
    if version >= (4, 7):
        efforts = ("low", "medium", "high", "xhigh", "max")
    elif version == (4, 6):
        efforts = ("low", "medium", "high", "max")
    elif version == (4, 5) and family == "opus":
        efforts = ("low", "medium", "high")
    return Traits(
        thinking="none" if version < (3, 7) else "budget" if version < (4, 6) else "both" if version < (4, 7) else "adaptive",
        thinks_unasked=version >= (5, 0),
        can_stop_thinking=not largest and (version < (5, 5) or family == "haiku"),
        efforts=efforts,
        sampling=version < (4, 7),
        one_sampler=version >= (4, 1),
        forces_tools=version < ((5, 1) if largest else (5, 5)),
        schema=version >= (4, 5) or (family == "opus" and version >= (4, 1)),
        mid_system=version >= (5, 5)
        or (family == "opus" and version >= (4, 8))
        or (largest and version >= (5, 0) and "preview" not in name),
    )


# -- Names -----------------------------------------------------------------------------------------------------------------------------


def tool_id(text: str) -> str:
    """The id of a tool call as this format takes it: the same where it fits, else always the same for the same text."""
    return text if _NAME.match(text) else "toolu_" + blake2b(text.encode(errors="surrogatepass"), digest_size=12).hexdigest()


def tool_name(name: str, namespace: str = "") -> str:
    """A tool's name as this format takes it: a namespace goes before it, what does not fit is cut and told apart by a hash."""
    joined = f"{namespace}__{name}" if namespace else name
    if len(joined) <= LONGEST_NAME and _NAME.match(joined):
        return joined
    mark = blake2b(joined.encode(errors="surrogatepass"), digest_size=6).hexdigest()
    return _NOT_NAME.sub("_", joined)[: LONGEST_NAME - 13] + "_" + mark


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


# -- Reading requests ------------------------------------------------------------------------------------------------------------------


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
            items.append(_read_block(block, "system"))
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
        said = [_read_block(block, role) for block in content]
        if said:
            said[0].new_turn = True
        items += said
    return items


def _read_block(block: dict[str, Any], role: Role) -> AnyItem:
    """The item a block tells. Raises: CannotParse."""
    common: dict[str, Any] = {"raw": block, "origin": NAME, "cache": _cache_mark(block)}
    kind = block.get("type")
    match kind:
        case "text":
            citations = block.get("citations")
            return Text(role, text=_string(block, "text"), citations=citations if isinstance(citations, list) else [], **common)
        case "image":
            source = _source(block)
            if source is None:
                return Unknown(role, **common)
            return Image(
                role,
                media_type=_string(source, "media_type"),
                data=_string(source, "data"),
                url=_string(source, "url"),
                file_id=_string(source, "file_id"),
                **common,
            )
        case "document":
            return _read_document(block, role, common)
        case "search_result":
            return Text(role, text=_search_result_text(block), **common)
        case "thinking":
            signature = _string(block, "signature")
            return Reasoning(
                role, text=_string(block, "thinking"), seals=[Seal("signature", signature, NAME)] if signature else [], **common
            )
        case "redacted_thinking":
            return Reasoning(role, seals=[Seal("redacted", _string(block, "data"), NAME)], **common)
        case "tool_use":
            given = block.get("input")
            if given is not None and not isinstance(given, dict):
                raise CannotParse("tool_use.input: an object is expected.", param="messages")
            return ToolCall(role, call_id=_string(block, "id"), name=_string(block, "name"), arguments=_dumps(given or {}), **common)
        case "tool_result":
            return ToolResult(
                "user",
                call_id=_string(block, "tool_use_id"),
                parts=_read_result(block.get("content")),
                is_error=block.get("is_error") is True,
                **common,
            )
        case str() if kind in _SERVER_TOOLS or kind.endswith("_tool_result"):
            return ServerTool(role, kind=kind, **common)
        case _:
            return Unknown(role, **common)


def _read_document(block: dict[str, Any], role: Role, common: dict[str, Any]) -> AnyItem:
    source = _source(block)
    if source is None:
        return Unknown(role, **common)
    name = _string(block, "title")
    media_type = _string(source, "media_type")
    match source.get("type"):
        case "text":
            return File(role, media_type=media_type or "text/plain", text=_string(source, "data"), name=name, **common)
        case "content":
            content = source.get("content")
            parts = content if isinstance(content, list) else []
            text = content if isinstance(content, str) else "\n".join(_string(part, "text") for part in parts if isinstance(part, dict))
            return File(role, media_type="text/plain", text=text, name=name, **common)
        case _:
            return File(
                role,
                media_type=media_type or ("application/pdf" if source.get("url") else ""),
                data=_string(source, "data"),
                url=_string(source, "url"),
                file_id=_string(source, "file_id"),
                name=name,
                **common,
            )


def _source(block: Mapping[str, Any]) -> dict[str, Any] | None:
    source = block.get("source")
    return source if isinstance(source, dict) else None


def _search_result_text(block: Mapping[str, Any]) -> str:
    content = block.get("content")
    texts = [_string(part, "text") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    title, source = block.get("title"), block.get("source")
    return "\n".join(line for line in (title, source, *texts) if isinstance(line, str) and line)


def _read_result(content: Any) -> list[Text | Image | File]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [Text("user", text=content, raw=content, origin=NAME)]
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise CannotParse("tool_result.content: a string or a list of blocks is expected.", param="messages")
    parts: list[Text | Image | File] = []
    for block in content:
        item = _read_block(block, "user")
        parts.append(item if isinstance(item, Text | Image | File) else Text("user", text=_dumps(block), raw=block, origin=NAME))
    return parts


def _read_tools(tools: Any) -> list[ToolDef]:
    if tools is None:
        return []
    if not isinstance(tools, list) or len(tools) > MOST_TOOLS or not all(isinstance(tool, dict) for tool in tools):
        raise CannotParse("tools: a list of tools is expected.", param="tools")
    defined = []
    for tool in tools:
        name, kind = tool.get("name"), tool.get("type")
        common: dict[str, Any] = {"cache": _cache_mark(tool), "raw": tool, "origin": NAME}
        if kind not in (None, "custom"):
            defined.append(ToolDef(name if isinstance(name, str) else str(kind), kind="builtin", **common))
            continue
        schema = tool.get("input_schema")
        if not isinstance(name, str) or not name or not isinstance(schema, dict | None):
            raise CannotParse("tools: every tool needs a name and an input_schema.", param="tools")
        strict = tool.get("strict")
        defined.append(
            ToolDef(name, _string(tool, "description"), parameters=schema, strict=strict if isinstance(strict, bool) else None, **common)
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
    conversation.output_format = OutputFormat("json_schema", name=_string(asked, "name"), schema=asked["schema"], strict=True)


# -- Writing requests ------------------------------------------------------------------------------------------------------------------


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
        target.dropped += [name for name in conversation.extra if name not in target.dropped]
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
            "input": {"input": item.arguments} if item.kind == "custom" else _arguments(item.arguments),
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
    media_type, data, url = _unfold(item.media_type, item.data, item.url)
    if item.detail not in ("", "auto") and "detail" not in target.dropped:
        target.dropped.append("detail")
    if data:
        return {"type": "image", "source": {"type": "base64", "media_type": _media_type(media_type, data, "image/png"), "data": data}}
    if url:
        return {"type": "image", "source": {"type": "url", "url": url}}
    raise CannotRender("An image must be given as data or by its address: files uploaded elsewhere are not known here.", param="messages")


def _render_file(item: File) -> dict[str, Any]:
    media_type, data, url = _unfold(item.media_type, item.data, item.url)
    block: dict[str, Any] = {"type": "document"}
    if media_type.startswith(("audio/", "video/")):
        raise CannotRender("This model does not take audio or video.", param="messages")
    if item.text:
        block["source"] = {"type": "text", "media_type": "text/plain", "data": item.text}
    elif data:
        media_type = _media_type(media_type, data, "")
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


def _unfold(media_type: str, data: str, url: str) -> tuple[str, str, str]:
    """The media type, data and address, where either may be a data URL."""
    if found := _DATA_URL.match(data or url):
        return media_type or found[1], found[2], ""
    return media_type, data, url


def _media_type(media_type: str, data: str, otherwise: str) -> str:
    """The media type; where none or a vague one is given, what the data's first bytes say."""
    if media_type and media_type not in ("application/octet-stream", "image/*", "image/jpg"):
        return media_type
    return next((kind for start, kind in _MAGIC.items() if data.startswith(start)), media_type or otherwise)


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


def _arguments(text: str) -> dict[str, Any]:
    """A call's arguments as an object; what is not one is as good as none."""
    if not text.strip():
        return {}
    try:
        value = orjson.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


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
        words = _JSON_ONLY if schema is None else f"{_JSON_ONLY} It must satisfy this JSON schema:\n{_dumps(schema)}"
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
    if asked is None:
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
    if conversation.user:
        if native or not (_PERSONAL.search(conversation.user) or len(conversation.user) > 256):
            metadata["user_id"] = conversation.user
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


# -- Reading answers -------------------------------------------------------------------------------------------------------------------


def parse_answer(fields: Mapping[str, Any], *, unwrap_json: bool = False, tools: Mapping[str, ToolDef] | None = None) -> Answer:
    """Read a whole answer. `unwrap_json` turns the call of the forced JSON tool into text; `tools` are those to rename (`tool_names`).

    Raises: CannotParse.
    """
    if not isinstance(fields, Mapping) or fields.get("type") == "error" or not isinstance(fields.get("content"), list):
        raise CannotParse("The answer is not a message.", param="content")
    items: list[AnyItem] = []
    unwrapped = False
    for block in fields["content"]:
        if not isinstance(block, dict):
            raise CannotParse("content: a list of blocks is expected.", param="content")
        if unwrap_json and block.get("type") == "tool_use" and block.get("name") == JSON_TOOL:
            items.append(Text("assistant", text=_dumps(block.get("input") or {})))
            unwrapped = True
        else:
            items.append(_turn_back(_read_block(block, "assistant"), tools))
    raw_stop = fields.get("stop_reason")
    stop = _stop_of(raw_stop, unwrapped=unwrapped and not any(isinstance(item, ToolCall) for item in items))
    return Answer(
        id=_string(fields, "id"),
        model=_string(fields, "model"),
        items=items,
        stop=stop,
        usage=read_usage(fields.get("usage")),
        stop_text=_string(fields, "stop_sequence"),
        raw_stop=raw_stop if isinstance(raw_stop, str) else "",
        refusal=_explanation(fields),
        raw=fields,
        origin=NAME,
    )


def _stop_of(reason: Any, *, unwrapped: bool) -> Stop | None:
    if not isinstance(reason, str):
        return None
    stop = _STOPS.get(reason, Stop.END)
    return Stop.END if unwrapped and stop is Stop.TOOL else stop


def _explanation(fields: Mapping[str, Any]) -> str:
    details = fields.get("stop_details")
    return _string(details, "explanation") if isinstance(details, dict) else ""


def _turn_back(item: AnyItem, tools: Mapping[str, ToolDef] | None) -> AnyItem:
    """A call as the client knows its tool."""
    if tools and isinstance(item, ToolCall) and (tool := tools.get(item.name)) is not None:
        item.name, item.namespace = tool.name, tool.namespace
        if tool.kind == "custom":
            item.kind = "custom"
            given = _arguments(item.arguments).get("input")
            item.arguments = given if isinstance(given, str) else item.arguments
        item.raw = item.origin = None
    return item


def read_usage(obj: Any) -> TokenUsage | None:
    """Turn a `usage` into disjoint buckets; None when there is none or it cannot be believed.

    `input_tokens` has neither what was read from the cache nor what was written to it. With compaction, advisors or fallbacks the top
    level leaves tokens out: the sum of `iterations` is what was used.
    """
    if not isinstance(obj, Mapping):
        return None
    top = _read_counts(obj)
    if top is None:
        return None
    rounds = obj.get("iterations")
    if isinstance(rounds, list) and rounds:
        counted = [_read_counts(one) for one in rounds if isinstance(one, dict)]
        if None not in counted:
            sums = tuple(sum(counts) for counts in zip(*(counts for counts in counted if counts is not None), strict=True))
            if len(sums) == len(top) and sum(sums[:5]) >= sum(top[:5]):
                top = (*sums[:5], max(sums[5], top[5]))
    fresh, cached, written, written_1h, out, reasoning = top
    reasoning = min(reasoning, out)
    usage = TokenUsage(
        input_tokens=fresh,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=written_1h,
        output_tokens=out - reasoning,
        reasoning_tokens=reasoning,
    )
    return usage if usage.is_sane() else None


_Counts = tuple[int, ...]


def _read_counts(obj: Mapping[str, Any]) -> _Counts | None:
    """Fresh, cached, written (5 minutes, 1 hour), out, thought."""
    if obj.get("input_tokens") is None and obj.get("output_tokens") is None:
        return None
    split, details = obj.get("cache_creation"), obj.get("output_tokens_details")
    split = split if isinstance(split, dict) else {}
    details = details if isinstance(details, dict) else {}
    try:
        short, hour = _count(split.get("ephemeral_5m_input_tokens")), _count(split.get("ephemeral_1h_input_tokens"))
        given = obj.get("cache_creation_input_tokens")
        written = short + hour if given is None else _count(given)
        hour = min(hour, written)
        return (
            _count(obj.get("input_tokens")),
            _count(obj.get("cache_read_input_tokens")),
            written - hour,
            hour,
            _count(obj.get("output_tokens")),
            _count(details.get("thinking_tokens")),
        )
    except ValueError:
        return None


def _count(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15 or value != int(value):
        raise ValueError(value)
    return int(value)


def render_usage(usage: TokenUsage) -> dict[str, Any]:
    """A count in this format's words."""
    return {
        "input_tokens": usage.input_tokens + usage.audio_input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        },
        "output_tokens": usage.total_output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


# -- Writing answers -------------------------------------------------------------------------------------------------------------------


def render_answer(answer: Answer, echo: Echo) -> dict[str, Any]:
    """The answer as a client of this format reads it. Every seal stands in an opaque field, so that it comes back.

    Raises: CannotRender for an answer that ended in a fault: the format has only an error for that.
    """
    if answer.stop is Stop.FAULT:
        raise CannotRender("The provider could not finish the answer.")
    refusal = answer.refusal or "".join(item.text for item in answer.items if isinstance(item, Refusal))
    reason = _stop_reason(
        answer.stop,
        answer.stop_text,
        answer.raw_stop,
        calls=any(isinstance(item, ToolCall) for item in answer.items),
        refuses=any(isinstance(item, Refusal) for item in answer.items),
    )
    rendered: dict[str, Any] = {
        "id": echo.id or answer.id,
        "type": "message",
        "role": "assistant",
        "model": echo.model or answer.model,
        "content": [block for item in answer.items for block in _answer_blocks(item)],
        "stop_reason": reason,
        "stop_sequence": answer.stop_text or None,
        "usage": render_usage(answer.usage or TokenUsage()),
    }
    details = answer.raw.get("stop_details") if answer.raw is not None and answer.origin == NAME else None
    if reason == "refusal":
        rendered["stop_details"] = details or {"type": "refusal", "category": None, "explanation": refusal or None}
    return rendered


def _stop_reason(stop: Stop | None, stop_text: str, raw_stop: str, *, calls: bool, refuses: bool) -> str | None:
    if stop is None:
        return None
    if _STOPS.get(raw_stop) is stop:
        return raw_stop
    if stop is Stop.END:
        return "refusal" if refuses else "tool_use" if calls else "stop_sequence" if stop_text else "end_turn"
    return _REASONS.get(stop, "end_turn")


def _answer_blocks(item: AnyItem) -> list[dict[str, Any]]:
    raw = item.raw if item.origin == NAME and isinstance(item.raw, dict) else None
    match item:
        case Text():
            if not (item.text if raw is not None else item.text.strip()):
                return []
            return [{**(raw or {}), "type": "text", "text": item.text}]
        case Reasoning():
            return _answer_thinking(item)
        case ToolCall():
            return [
                *(_redacted(seal.data) for seal in item.seals),
                {**_call_block(item), "input": {"input": item.arguments} if item.kind == "custom" else _arguments(item.arguments)},
            ]
        case Audio():
            return [{"type": "text", "text": item.transcript}] if item.transcript.strip() else []
        case Image() if raw is None:
            media_type, data, url = _unfold(item.media_type, item.data, item.url)
            if data:
                source = {"type": "base64", "media_type": _media_type(media_type, data, "image/png"), "data": data}
                return [{"type": "image", "source": source}]
            return [{"type": "image", "source": {"type": "url", "url": url}}] if url else []
        case Refusal():
            return []  # told by stop_reason and stop_details
        case _:
            return [dict(raw)] if raw is not None else []


def _answer_thinking(item: Reasoning) -> list[dict[str, Any]]:
    text = item.text or "".join(item.summary)
    signed = next((seal for seal in item.seals if seal.kind != "redacted"), None)
    blocks: list[dict[str, Any]] = []
    if text or signed is not None:
        blocks.append({"type": "thinking", "thinking": text, "signature": signed.data if signed is not None else ""})
    return blocks + [_redacted(seal.data) for seal in item.seals if seal is not signed]


def _redacted(data: str) -> dict[str, Any]:
    return {"type": "redacted_thinking", "data": data}


def _call_block(item: ToolCall) -> dict[str, Any]:
    raw = item.raw if item.origin == NAME and isinstance(item.raw, dict) else {}
    return {
        **raw,
        "type": "tool_use",
        "id": tool_id(item.call_id),
        "name": tool_name(item.name, item.namespace) if item.namespace else item.name,
    }


# -- Reading streams -------------------------------------------------------------------------------------------------------------------


class _Block:
    """A block under way: where it stands at the provider, its JSON so far, and the pieces of what streams."""

    __slots__ = ("at", "block", "index", "kind", "pieces", "signature")

    def __init__(self, at: int, index: int, block: dict[str, Any], kind: str) -> None:
        self.at = at
        self.index = index
        self.block = block
        self.kind = kind
        self.pieces: list[str] = []
        self.signature = ""


class StreamParser:
    """Turns a provider's stream into events, whatever the reads were. Blocks that overlap are told one after the other."""

    __slots__ = ("_called", "_later", "_next", "_open", "_over", "_splitter", "_tools", "_unwrap_json", "_unwrapped", "_usage")

    def __init__(self, *, unwrap_json: bool = False, tools: Mapping[str, ToolDef] | None = None) -> None:
        self._splitter = Splitter()
        self._unwrap_json = unwrap_json
        self._tools = tools or {}
        self._usage: dict[str, Any] = {}
        self._open: _Block | None = None
        self._later: dict[int, list[tuple[str, dict[str, Any]]]] = {}
        self._next = 0
        self._called = False
        self._unwrapped = False
        self._over = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now.

        Raises: proxy.sse.EventTooLarge.
        """
        block = self._splitter.feed(data)
        events: list[Event] = []
        if block:
            for event in self._splitter.events(block):
                self._read(self._splitter.data_of(event), events)
        return events

    def finish(self) -> list[Event]:
        """The events that the end of the connection completes."""
        events: list[Event] = []
        self._read(self._splitter.data_of(self._splitter.rest), events)
        return events

    def _read(self, data: bytes, events: list[Event]) -> None:
        if not data or self._over:
            return
        try:
            fields = orjson.loads(data)
        except orjson.JSONDecodeError:
            return  # such as [DONE]
        if not isinstance(fields, dict):
            return
        kind = fields.get("type")
        if kind in ("content_block_delta", "content_block_start", "content_block_stop"):
            self._read_block_event(kind, fields, events)
        elif kind == "message_start":
            self._read_start(fields.get("message"), events)
        elif kind == "message_delta":
            self._close_all(events)
            self._read_end(fields, events)
        elif kind == "message_stop":
            self._close_all(events)
            events.append(Ended())
            self._over = True
        elif kind == "ping":
            events.append(Pinged())
        elif kind == "error" or fields.get("error"):
            events.append(Failed(fields))

    def _read_start(self, message: Any, events: list[Event]) -> None:
        if not isinstance(message, dict):
            message = {}
        self._note_usage(message.get("usage"))
        events.append(Started(_string(message, "id"), _string(message, "model"), usage=read_usage(self._usage)))

    def _note_usage(self, usage: Any) -> None:
        """The counts are running totals: what comes later replaces what came before."""
        if isinstance(usage, dict):
            self._usage.update((name, value) for name, value in usage.items() if value is not None)

    def _read_end(self, fields: dict[str, Any], events: list[Event]) -> None:
        if isinstance(fields.get("usage"), dict):
            self._note_usage(fields["usage"])
            usage = read_usage(self._usage)
            if usage is not None:
                events.append(Metered(usage))
        delta = fields.get("delta")
        if not isinstance(delta, dict):
            return
        reason = delta.get("stop_reason")
        stop = _stop_of(reason, unwrapped=self._unwrapped and not self._called)
        if stop is not None:
            events.append(Stopped(stop, _string(delta, "stop_sequence"), reason, _explanation(delta)))

    def _read_block_event(self, kind: str, fields: dict[str, Any], events: list[Event]) -> None:
        at = fields.get("index")
        if type(at) is not int:
            at = 0
        open_ = self._open
        if open_ is None:
            if kind == "content_block_start":
                self._begin(at, fields.get("content_block"), events)
        elif open_.at != at:
            if kind == "content_block_start":
                self._later[at] = [(kind, fields)]
            elif at in self._later:
                self._later[at].append((kind, fields))
        elif kind == "content_block_delta":
            delta = fields.get("delta")
            if isinstance(delta, dict):
                self._extend(open_, delta, events)
        elif kind == "content_block_stop":
            self._close(open_, events)
        else:  # begun again without an end
            self._close(open_, events)
            self._read_block_event(kind, fields, events)

    def _begin(self, at: int, block: Any, events: list[Event]) -> None:
        if not isinstance(block, dict):
            return
        kind = block.get("type")
        kind = kind if isinstance(kind, str) else ""
        index = self._next
        self._next += 1
        if kind == "tool_use":
            name = _string(block, "name")
            tool = self._tools.get(name)
            if self._unwrap_json and name == JSON_TOOL:
                kind = "json"
                self._unwrapped = True
            elif tool is not None and tool.kind == "custom":
                kind = "custom"
            self._called |= kind != "json"
        begun = self._open = _Block(at, index, block, kind)
        if kind == "text":
            events.append(Opened(index, Text("assistant", raw=block, origin=NAME)))
            self._extend(begun, {"type": "text_delta", "text": block.get("text")}, events)
        elif kind == "json":
            events.append(Opened(index, Text("assistant")))
        elif kind == "thinking":
            events.append(Opened(index, Reasoning("assistant", raw=block, origin=NAME)))
            self._extend(begun, {"type": "thinking_delta", "thinking": block.get("thinking")}, events)
            begun.signature = _string(block, "signature")
        elif kind == "redacted_thinking":
            events.append(Opened(index, Reasoning("assistant", raw=block, origin=NAME)))
            events.append(Delta(index, "signature", seal=Seal("redacted", _string(block, "data"), NAME)))
        elif kind in ("tool_use", "custom"):
            call = ToolCall("assistant", call_id=_string(block, "id"), name=_string(block, "name"), raw=block, origin=NAME)
            events.append(Opened(index, _turn_back(call, self._tools)))

    def _extend(self, begun: _Block, delta: dict[str, Any], events: list[Event]) -> None:
        what = delta.get("type")
        kind = begun.kind
        if what == "text_delta" and kind == "text":
            text = delta.get("text")
            if text and isinstance(text, str):
                begun.pieces.append(text)
                events.append(Delta(begun.index, "text", text))
        elif what == "input_json_delta":
            text = delta.get("partial_json")
            if text and isinstance(text, str):
                begun.pieces.append(text)
                if kind == "tool_use":
                    events.append(Delta(begun.index, "arguments", text))
                elif kind == "json":
                    events.append(Delta(begun.index, "text", text))
        elif what == "thinking_delta" and kind == "thinking":
            text = delta.get("thinking")
            if text and isinstance(text, str):
                begun.pieces.append(text)
                events.append(Delta(begun.index, "reasoning", text))
        elif what == "signature_delta":
            begun.signature += _string(delta, "signature")
        elif what == "citations_delta" and kind == "text":
            cited = begun.block.get("citations")
            begun.block["citations"] = [*(cited if isinstance(cited, list) else []), delta.get("citation")]
            events.append(Delta(begun.index, "citation", raw=delta.get("citation")))
        elif what == "compaction_delta":
            begun.block["content"] = _string(begun.block, "content") + _string(delta, "content")

    def _close(self, begun: _Block, events: list[Event]) -> None:
        self._open = None
        block, index, text = begun.block, begun.index, "".join(begun.pieces)
        item: AnyItem
        match begun.kind:
            case "text":
                block["text"] = text
                item = _read_block(block, "assistant")
            case "json":
                if not text:
                    text = _dumps(block.get("input") or {})
                    events.append(Delta(index, "text", text))
                item = Text("assistant", text=text)
            case "thinking":
                block["thinking"], block["signature"] = text, begun.signature
                item = _read_block(block, "assistant")
                events += [Delta(index, "signature", seal=seal) for seal in getattr(item, "seals", ())]
            case "tool_use" | "custom":
                item = self._close_call(begun, text, events)
            case "redacted_thinking":
                item = _read_block(block, "assistant")
            case _:  # a built-in tool, or what is not known: told whole
                if text:
                    block["input"] = _arguments(text)
                try:
                    item = _read_block(block, "assistant")
                except CannotParse:
                    item = Unknown("assistant", raw=block, origin=NAME)
                events.append(Opened(index, item))
        events.append(Closed(index, item))
        while self._open is None and self._later:
            waiting = self._later.pop(next(iter(self._later)))
            for kind, fields in waiting:
                self._read_block_event(kind, fields, events)

    def _close_call(self, begun: _Block, text: str, events: list[Event]) -> ToolCall:
        block = begun.block
        given = block.get("input")
        if text:
            block["input"] = _arguments(text)
        elif isinstance(given, dict) and given:  # whole from the beginning, as some servers do
            text = _dumps(given)
            if begun.kind == "tool_use":
                events.append(Delta(begun.index, "arguments", text))
        call = ToolCall("assistant", call_id=_string(block, "id"), name=_string(block, "name"), arguments=text, raw=block, origin=NAME)
        _turn_back(call, self._tools)
        if begun.kind == "custom" and call.arguments:
            events.append(Delta(begun.index, "arguments", call.arguments))
        return call

    def _close_all(self, events: list[Event]) -> None:
        while self._open is not None:
            self._close(self._open, events)


# -- Writing streams -------------------------------------------------------------------------------------------------------------------

_DELTAS: Final = {
    "text": b'{"type":"text_delta","text":',
    "thinking": b'{"type":"thinking_delta","thinking":',
    "tool": b'{"type":"input_json_delta","partial_json":',
}


class StreamRenderer:
    """Turns events into a client's stream: message_start, blocks one after the other, and at the end what was used and why it ended.

    The end is held until `Ended`, because most providers tell their usage last. A failure is told by `fail`.
    """

    keep_alive: bytes = b'event: ping\ndata: {"type": "ping"}\n\n'
    __slots__ = (
        "_after",
        "_call",
        "_calls",
        "_custom",
        "_echo",
        "_kept",
        "_kind",
        "_model",
        "_native",
        "_next",
        "_prefix",
        "_refusal",
        "_refuses",
        "_signed",
        "_space",
        "_started",
        "_stopped",
        "_usage",
        "_wrote",
    )

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._started = False
        self._next = 0  # the number of the next block
        self._kind = ""  # what block is open
        self._prefix = b""
        self._usage: TokenUsage | None = None
        self._stopped: Stopped | None = None
        self._refusal = ""
        self._refuses = False
        self._calls = False
        self._reset()

    def _reset(self) -> None:
        """Forget the item that is over."""
        self._wrote = False
        self._signed = False
        self._native = False
        self._space = ""  # white space that waits for text
        self._kept = ""  # whether reasoning or its summary is shown: what comes first
        self._call: ToolCall | None = None  # a call whose block waits for its first argument
        self._custom = False
        self._after: list[Seal] = []

    def feed(self, event: Event) -> bytes:
        """The bytes to send for one event; empty where there is nothing to say."""
        if type(event) is Delta:
            return self._delta(event)
        match event:
            case Opened():
                return self._opened(event.item)
            case Closed():
                return self._closed(event.item)
            case Started():
                return b"" if self._started else self._start(event)
            case Metered():
                self._usage = event.usage
            case Stopped():
                self._stopped = event
            case Pinged():
                return self.keep_alive if self._started else b""
            case Ended():
                return self._end()
            case _:
                pass
        return b""

    def fail(self, error: Mapping[str, Any]) -> bytes:
        """The error frame, from the gateway's own error; the SDKs raise it."""
        return error_frame(error)

    def _start(self, event: Started | None = None) -> bytes:
        self._started = True
        event = event or Started()
        self._usage = event.usage
        message = {
            "id": self._echo.id or event.id,
            "type": "message",
            "role": "assistant",
            "model": self._echo.model or event.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": render_usage(event.usage or TokenUsage()),
        }
        return _frame("message_start", {"type": "message_start", "message": message})

    def _opened(self, item: AnyItem) -> bytes:
        out = b"" if self._started else self._start()
        out += self._shut()
        self._reset()
        self._native = item.origin == NAME
        if isinstance(item, ToolCall):
            out += b"".join(self._whole(_redacted(seal.data)) for seal in item.seals)
            self._signed = bool(item.seals)
            self._call = item
        return out

    def _delta(self, event: Delta) -> bytes:
        what, text = event.what, event.text
        out = b"" if self._started else self._start()
        if what == "text":
            return out + self._say(text) if text else out
        if what == "arguments":
            return out + self._argue(text) if text else out
        if what in ("reasoning", "summary"):
            if text and self._kept in ("", what):
                self._kept = what
                return out + self._write("thinking", text)
        elif what == "signature":
            if event.seal is not None:
                return out + self._seal(event.seal)
        elif what == "citation" and self._native and isinstance(event.raw, dict):
            out += b"" if self._kind == "text" else self._begin("text", {"type": "text", "text": ""})
            delta = {"type": "citations_delta", "citation": event.raw}
            return out + _frame("content_block_delta", {"type": "content_block_delta", "index": self._next, "delta": delta})
        return out

    def _say(self, text: str) -> bytes:
        if self._kind != "text" and not self._native:
            text = self._space + text
            if not text.strip():
                self._space = text
                return b""
            self._space = ""
        return self._write("text", text)

    def _argue(self, text: str) -> bytes:
        out = self._begin_call()
        if self._kind != "tool":
            return out
        if self._custom:  # free text goes in as a string, escaped piece by piece
            text = ("" if self._wrote else '{"input":"') + _dumps(text)[1:-1]
        return out + self._write("tool", text)

    def _begin_call(self) -> bytes:
        item = self._call
        if item is None:
            return b""
        self._call = None
        self._calls = True
        self._custom = item.kind == "custom"
        return self._begin("tool", {**_call_block(item), "input": {}})

    def _seal(self, seal: Seal) -> bytes:
        if self._kind == "tool":
            self._after.append(seal)
            return b""
        if self._call is not None or seal.kind == "redacted" or self._signed:
            self._signed = True
            return self._shut() + self._whole(_redacted(seal.data))
        self._signed = True
        out = b"" if self._kind == "thinking" else self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        delta = {"type": "signature_delta", "signature": seal.data}
        out += _frame("content_block_delta", {"type": "content_block_delta", "index": self._next, "delta": delta})
        return out + self._shut()

    def _closed(self, item: AnyItem) -> bytes:
        out = b"" if self._started else self._start()
        match item:
            case Text() if not self._wrote and item.text:
                self._space = ""
                out += self._say(item.text)
            case Reasoning():
                if not self._wrote and (text := item.text or "".join(item.summary)):
                    out += self._write("thinking", text)
                if not self._signed:
                    out += b"".join(self._seal(seal) for seal in item.seals)
            case ToolCall():
                if self._call is not None and item.seals and not self._signed:
                    out += b"".join(self._seal(seal) for seal in item.seals)
                out += self._begin_call()
                if not self._wrote and item.arguments:
                    out += self._argue(item.arguments)
                if self._custom:
                    out += self._write("tool", '"}' if self._wrote else '{"input":""}')
            case Refusal():
                self._refuses = True
                self._refusal += item.text
            case Audio() if not self._wrote and item.transcript.strip():
                out += self._write("text", item.transcript)
            case Image() | ServerTool() | Unknown() | File():
                out += b"".join(self._whole(block) for block in _answer_blocks(item))
            case _:
                pass
        out += self._shut()
        out += b"".join(self._whole(_redacted(seal.data)) for seal in self._after)
        self._reset()
        return out

    def _write(self, kind: str, text: str) -> bytes:
        self._wrote = True
        out = b""
        if self._kind != kind:
            empty = {"type": "text", "text": ""} if kind == "text" else {"type": "thinking", "thinking": "", "signature": ""}
            out = self._begin(kind, empty)
        return out + self._prefix + _json(text) + b"}}\n\n"

    def _begin(self, kind: str, block: dict[str, Any]) -> bytes:
        out = self._shut()
        self._kind = kind
        self._prefix = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b' % (
            self._next,
            _DELTAS[kind],
        )
        return out + _frame("content_block_start", {"type": "content_block_start", "index": self._next, "content_block": block})

    def _whole(self, block: dict[str, Any]) -> bytes:
        """A block that does not stream; only a built-in tool's input does, as the SDKs expect."""
        index = self._next
        self._next += 1
        given = block.get("input")
        out = b""
        if isinstance(given, dict) and given:
            block = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": _dumps(given)}
            out = _frame("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})
        return (
            _frame("content_block_start", {"type": "content_block_start", "index": index, "content_block": block})
            + out
            + b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % index
        )

    def _shut(self) -> bytes:
        if not self._kind:
            return b""
        self._kind = ""
        self._next += 1
        return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % (self._next - 1)

    def _end(self) -> bytes:
        out = b"" if self._started else self._start()
        out += self._shut()
        stopped = self._stopped
        if stopped is not None and stopped.stop is Stop.FAULT:
            return out + error_frame(
                {"type": "server_error", "message": "The provider could not finish the answer.", "code": "provider_error"}
            )
        delta: dict[str, Any] = {"stop_reason": None, "stop_sequence": None}
        if stopped is not None:
            delta["stop_reason"] = _stop_reason(stopped.stop, stopped.stop_text, stopped.raw_stop, calls=self._calls, refuses=self._refuses)
            delta["stop_sequence"] = stopped.stop_text or None
            if delta["stop_reason"] == "refusal":
                delta["stop_details"] = {"type": "refusal", "category": None, "explanation": stopped.refusal or self._refusal or None}
        usage = render_usage(self._usage or TokenUsage())
        return (
            out
            + _frame("message_delta", {"type": "message_delta", "delta": delta, "usage": usage})
            + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
        )


# -- Errors ----------------------------------------------------------------------------------------------------------------------------

_TYPES_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_TYPES_BY_CODE = {
    "insufficient_quota": "billing_error",
    "key_budget_exceeded": "billing_error",
    "upstream_timeout": "timeout_error",
    "no_available_provider": "overloaded_error",
    "billing_unavailable": "overloaded_error",
    "rate_limit_exceeded": "rate_limit_error",
    "token_limit_exceeded": "rate_limit_error",
    "model_not_found": "not_found_error",
}
_TYPES = frozenset((*_TYPES_BY_STATUS.values(), "api_error"))


def render_error(error: Mapping[str, Any], status: int, request_id: str) -> dict[str, Any]:
    """The body of an error in this format, from the gateway's own (its envelope or the `error` in it).

    The SDKs read the class from the status and `type`, the gateway's machine code from `details.error_code`.
    """
    inner = error.get("error")
    said: Mapping[str, Any] = inner if isinstance(inner, Mapping) else error
    code, kind, message, param = said.get("code"), said.get("type"), said.get("message"), said.get("param")
    shown = _TYPES_BY_STATUS.get(status) or ("invalid_request_error" if 400 <= status < 500 else "api_error" if status >= 500 else None)
    if shown is None:  # within a stream, where the status has long been sent
        shown = _TYPES_BY_CODE.get(code) if isinstance(code, str) else None
        shown = shown or (kind if isinstance(kind, str) and kind in _TYPES else "api_error")
    details = {name: value for name, value in (("error_code", code), ("param", param)) if isinstance(value, str) and value}
    body: dict[str, Any] = {"type": shown, "message": message if isinstance(message, str) else "The request failed."}
    if details:
        body["details"] = details
    given = request_id or said.get("request_id")
    return {"type": "error", "error": body, "request_id": given if isinstance(given, str) and given else None}


def error_frame(error: Mapping[str, Any]) -> bytes:
    """An error within a stream; only with its event name do the SDKs see it."""
    return _frame("error", render_error(error, 200, ""))


# -- Passing through -------------------------------------------------------------------------------------------------------------------

_SPECIAL = re.compile(rb'"(?:message_start|message_delta|message_stop|error)"')
_OUTPUT = re.compile(rb'"(?:text|thinking|partial_json)"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')


@dataclass(slots=True)
class MessagesAnswer:
    """What a whole answer used and how it ended."""

    body: Body
    usage: Mapping[str, Any] | None
    finish_reason: str
    output_bytes: int


def read_answer(raw: bytes) -> MessagesAnswer:
    """Read a whole answer that passes through.

    Raises: NotAnAnswer.
    """
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise NotAnAnswer("not JSON") from error
    if not isinstance(fields, dict) or fields.get("type") == "error" or not isinstance(fields.get("content"), list):
        raise NotAnAnswer("no content")
    usage = fields.get("usage")
    return MessagesAnswer(
        body=Body(raw, fields),
        usage=usage if isinstance(usage, dict) else None,
        finish_reason=_printable(_string(fields, "stop_reason")),
        output_bytes=sum(_size(block) for block in fields["content"] if isinstance(block, dict)),
    )


def _size(block: Mapping[str, Any]) -> int:
    size = sum(len(_string(block, name).encode(errors="surrogatepass")) for name in ("text", "thinking"))
    given = block.get("input")
    return size + (len(_dumps(given)) if given else 0)


class MessagesTap:
    """Watches a stream go by: forwards whole events as received, remembers usage, stop reason and how much there was.

    `usage` is known only when the provider has told its final count; `input_usage` is what message_start said, good for the input alone.
    With `adds_cost` the end is held back until `finish` puts the cost into it; without, every byte passes as it came.
    """

    __slots__ = (
        "_adds_cost",
        "_answered",
        "_held",
        "_splitter",
        "_usage",
        "done",
        "error",
        "finish_reason",
        "input_usage",
        "output_bytes",
        "reported_cost",
        "usage",
    )

    def __init__(self, *, adds_cost: bool = False) -> None:
        self._splitter = Splitter()
        self._adds_cost = adds_cost
        self._held: list[bytes] = []
        self._usage: dict[str, Any] = {}
        self._answered = False
        self.usage: TokenUsage | None = None
        self.input_usage: TokenUsage | None = None
        self.reported_cost: int | None = None
        self.finish_reason = ""
        self.output_bytes = 0
        self.done = False
        self.error: Any = None

    @property
    def has_output(self) -> bool:
        """Whether anything was delivered that a client would call an answer."""
        return self._answered or self.output_bytes > 0 or bool(self.finish_reason)

    def feed(self, data: bytes) -> bytes:
        """Take what one read returned; returns what to forward now (whole events).

        Raises: proxy.sse.EventTooLarge.
        """
        block = self._splitter.feed(data)
        if not block:
            return b""
        if _SPECIAL.search(block) is None and not self._held:
            self._watch(block)
            return block
        forward = []
        for event in self._splitter.events(block):
            if self._take(event):
                forward.append(event)
            elif self.error is not None:
                break
            else:
                self._held.append(event)
        return b"".join(forward)

    def flush(self) -> bytes:
        """Take the provider's end: an event that only lacks its last boundary counts; half an event does not."""
        if _parse(self._splitter.data_of(self._splitter.rest)) is None:
            return b""
        return self.feed(b"\n\n")

    def finish(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:  # noqa: ARG002 - the provider always counts
        """What to send last: what was held back, with the cost (nano-USD) in it, and the end where only that is missing."""
        tail = b"".join(self._with_cost(event, cost=cost, upstream_cost=upstream_cost) for event in self._held)
        self._held = []
        return tail if self.done else tail + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    def fail(self, error: Mapping[str, Any], *, ran_out: bool) -> bytes:  # noqa: ARG002 - the error says so itself
        """What to send last when the stream failed after it began: the error, which the SDKs raise, never an invented clean end."""
        self._held = []
        return error_frame(error)

    def _watch(self, block: bytes) -> None:
        for text in _OUTPUT.findall(block):
            self.output_bytes += len(text)
        if not self._answered and b'"tool_use"' in block:
            self._answered = True

    def _take(self, event: bytes) -> bool:
        """Note what an event says; whether it is to be forwarded now."""
        fields = _parse(self._splitter.data_of(event)) if _SPECIAL.search(event) is not None else None
        kind = fields.get("type") if fields is not None else None
        if fields is None or kind not in ("message_start", "message_delta", "message_stop", "error"):
            if fields is not None and kind is None and fields.get("error"):
                self.error = fields["error"]
                return False
            self._watch(event)
            return not self._held
        if kind == "error":
            self.error = fields.get("error") or fields
            return False
        if kind == "message_stop":
            self.done = True
            return not self._held
        if kind == "message_start":
            message = fields.get("message")
            self._note(message.get("usage") if isinstance(message, dict) else None)
            self.input_usage = read_usage(self._usage)
            return not self._held
        self._note(fields.get("usage"))
        self.usage = read_usage(self._usage)
        self.reported_cost = read_reported_cost(self._usage)
        delta = fields.get("delta")
        if isinstance(delta, dict) and isinstance(delta.get("stop_reason"), str):
            self.finish_reason = _printable(delta["stop_reason"])
        return not self._adds_cost

    def _note(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._usage.update((name, value) for name, value in usage.items() if value is not None)

    def _with_cost(self, event: bytes, *, cost: int, upstream_cost: int) -> bytes:
        data = self._splitter.data_of(event)
        fields = _parse(data)
        if fields is None or fields.get("type") != "message_delta" or not isinstance(fields.get("usage"), dict) or b"\n" in data:
            return event
        return event.replace(data, Body(data, fields).splice({"usage": with_cost(fields["usage"], cost=cost, upstream_cost=upstream_cost)}))


# -- JSON ------------------------------------------------------------------------------------------------------------------------------


def _frame(name: str, value: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + _json(value) + b"\n\n"


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # lone surrogates, whole numbers beyond 64 bits, very deep nesting
        try:
            return json.dumps(value, separators=(",", ":")).encode()
        except (RecursionError, TypeError, ValueError):
            return b"{}"


def _dumps(value: Any) -> str:
    return _json(value).decode()


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) else None


def _printable(text: str) -> str:
    """Text from strangers without what PostgreSQL (U+0000) and logs (line ends) cannot take."""
    return "".join(filter(str.isprintable, text[:100]))


def _string(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _cache_mark(block: Mapping[str, Any]) -> str | None:
    mark = block.get("cache_control")
    if not isinstance(mark, dict):
        return None
    return "1h" if mark.get("ttl") == "1h" else "5m"


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
