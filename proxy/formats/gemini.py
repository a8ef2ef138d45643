"""Gemini generateContent: to and from the hub, streams as events or as a JSON array, the pass-through tap, and what its other methods use. Pure.

What is peculiar to it: roles are `user` and `model`, results are matched to calls by order and name where no ids are given, a thought
signature belongs to the part it came on, usage is repeated in every chunk (the last one counts), and nothing marks the end of a stream but
its finish reason. Google reads field names in both spellings (`functionCall`, `function_call`); here they are camel case once parsed.

A signature comes back from a client of another format as a seal of its own, right behind its text or right before its call; the request
puts it on that part again.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

import orjson

from catalog.usage import LARGEST_COUNT, TokenUsage
from proxy.formats.base import BYTES_PER_TOKEN, NotAnAnswer
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
    collect,
)
from proxy.sse import EventTooLarge

NAME: Final = "gemini"
UNSIGNED = "skip_thought_signature_validator"  # what Google takes in place of a signature on a call that another model made
LARGEST_FRAME = 32 * 1024 * 1024  # one picture is one event
MOST_STOPS = 5
LONGEST_NAME = 64
TOKENS_PER_PICTURE = 1290  # made by a model, up to 1024 by 1024 pixels
BASE64_PER_AUDIO_TOKEN = 2560  # 24 kHz, 16 bits, 25 tokens a second

_STOPS: dict[str, Stop] = {
    "STOP": Stop.END,
    "FINISH_REASON_UNSPECIFIED": Stop.END,
    "MAX_TOKENS": Stop.LENGTH,
    **dict.fromkeys(
        (
            "SAFETY RECITATION BLOCKLIST PROHIBITED_CONTENT SPII MODEL_ARMOR IMAGE_SAFETY IMAGE_PROHIBITED_CONTENT IMAGE_RECITATION "
            "JAILBREAK BLOCK_REASON_UNSPECIFIED"
        ).split(),
        Stop.FILTER,
    ),
    **dict.fromkeys(
        (
            "OTHER LANGUAGE MALFORMED_FUNCTION_CALL UNEXPECTED_TOOL_CALL TOO_MANY_TOOL_CALLS MISSING_THOUGHT_SIGNATURE NO_IMAGE IMAGE_OTHER "
            "MALFORMED_RESPONSE"
        ).split(),
        Stop.FAULT,
    ),
}
_NUMBERED_STOPS = (  # with `enum-encoding=int`
    "FINISH_REASON_UNSPECIFIED STOP MAX_TOKENS SAFETY RECITATION OTHER LANGUAGE BLOCKLIST PROHIBITED_CONTENT SPII MALFORMED_FUNCTION_CALL "
    "IMAGE_SAFETY"
).split()
_REASONS = {Stop.END: "STOP", Stop.LENGTH: "MAX_TOKENS", Stop.TOOL: "STOP", Stop.FILTER: "SAFETY", Stop.PAUSE: "STOP", Stop.FAULT: "OTHER"}
_ONLY_PROMPT = {"MODEL_ARMOR", "JAILBREAK", "BLOCK_REASON_UNSPECIFIED"}  # never a candidate's finish reason
_A_REASON = re.compile(r"[A-Z][A-Z_]+")
_METADATA = ("groundingMetadata", "citationMetadata", "urlContextMetadata")
_SERVER_PARTS = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse")
_SIZED = ("functionCall", *_SERVER_PARTS)


# -- Models ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Traits:
    """What a model takes: `levels` of thinking, or a `budget` of least and most tokens; whether it can stop thinking at all."""

    levels: tuple[str, ...] = ()
    budget: tuple[int, int] | None = None
    can_stop_thinking: bool = False
    thinks: bool = True
    demands_signatures: bool = True
    knows_ids: bool = True
    reads_media_in_results: bool = True
    combines_tools_and_json: bool = True
    knows_penalties: bool = False
    knows_validated: bool = True


_ALL_LEVELS = ("MINIMAL", "LOW", "MEDIUM", "HIGH")
_SECOND = Traits(demands_signatures=False, knows_ids=False, reads_media_in_results=False, combines_tools_and_json=False)
_FIRST = replace(_SECOND, thinks=False, knows_penalties=True, knows_validated=False)
_TRAITS: tuple[tuple[str, Traits], ...] = (  # the first that the name begins with
    ("gemini-3-pro-image", Traits(demands_signatures=False)),
    ("gemini-3-pro", Traits(levels=("LOW", "HIGH"))),
    ("gemini-3.1-flash-image", Traits(levels=("MINIMAL", "HIGH"), demands_signatures=False)),
    ("gemini-2.5-flash-image", replace(_SECOND, thinks=False)),
    ("gemini-2.5-flash-preview-tts", replace(_SECOND, thinks=False)),
    ("gemini-2.5-pro-preview-tts", replace(_SECOND, thinks=False)),
    ("gemini-2.5-flash-lite", replace(_SECOND, budget=(512, 24_576), can_stop_thinking=True)),
    ("gemini-2.5-flash", replace(_SECOND, budget=(1, 24_576), can_stop_thinking=True)),
    ("gemini-2.5-pro", replace(_SECOND, budget=(128, 32_768))),
    ("gemini-2.", _FIRST),
    ("gemini-1.", _FIRST),
    ("gemma", replace(_FIRST, knows_penalties=False)),
    ("learnlm", _FIRST),
)


def traits_of(model: str) -> Traits:
    """What the model of this upstream name takes. A name that is not in the table counts as one of the newest generation."""
    name = model.rsplit("/", 1)[-1].lower()
    for prefix, traits in _TRAITS:
        if name.startswith(prefix):
            return traits
    if "image" in name or "tts" in name:
        return Traits(demands_signatures=False)
    return Traits(levels=_ALL_LEVELS[1:] if "pro" in name else _ALL_LEVELS)


_LEVEL_OF = {"none": 0, "minimal": 0, "low": 1, "medium": 2, "high": 3, "xhigh": 3, "max": 3}
_BUDGET_OF = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 32_768, "max": 32_768}


def _render_thinking(thinking: Thinking, traits: Traits, target: Target, param: str) -> dict[str, Any]:
    off = thinking.enabled is False or thinking.effort == "none" or thinking.budget == 0
    if not traits.thinks:
        if not off:
            target.dropped.append(param)
        return {}
    config: dict[str, Any] = {} if off else {"includeThoughts": True}
    wanted = "none" if off else thinking.effort
    if traits.levels:
        if not wanted and thinking.budget is not None:
            wanted = "low" if thinking.budget <= 2048 else "medium" if thinking.budget <= 8192 else "high"
        if wanted in _LEVEL_OF:
            config["thinkingLevel"] = _nearest_level(_ALL_LEVELS[_LEVEL_OF[wanted]], traits.levels)
    elif traits.budget is not None:
        least, most = traits.budget
        if off:
            config["thinkingBudget"] = 0 if traits.can_stop_thinking else least
        elif thinking.budget is not None:
            config["thinkingBudget"] = min(max(thinking.budget, least), most)
        elif wanted in _BUDGET_OF:
            budget = _BUDGET_OF[wanted]
            if budget >= target.max_output:  # thoughts count as output: leave room for the answer
                budget = target.max_output // 2
            config["thinkingBudget"] = min(max(budget, least), most)
        else:
            config["thinkingBudget"] = -1
    return config


def _nearest_level(level: str, levels: tuple[str, ...]) -> str:
    """The level itself, else the next one above it, else the highest there is."""
    at = _ALL_LEVELS.index(level)
    return next((name for name in levels if _ALL_LEVELS.index(name) >= at), levels[-1])


# -- Reading JSON ----------------------------------------------------------------------------------------------------------------------


def _camel_name(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in tail) if head else name


def _camel(fields: Mapping[str, Any], *inner: str) -> dict[str, Any]:
    """The object with its own names, and those of these inner objects, in camel case; what else is inside stays as it is."""
    named = {(_camel_name(name) if "_" in name else name): value for name, value in fields.items() if isinstance(name, str)}
    for name in inner:
        value = named.get(name)
        if isinstance(value, dict) and any(isinstance(key, str) and "_" in key for key in value):
            named[name] = _camel(value)
    return named


def _camel_part(part: Mapping[str, Any]) -> dict[str, Any]:
    return _camel(
        part, "inlineData", "fileData", "functionCall", "functionResponse", "videoMetadata", "executableCode", "codeExecutionResult"
    )


def _dump(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # numbers of more than 64 bits
        try:
            return json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise CannotParse("A value cannot be written as JSON.") from error


def _string(fields: Mapping[str, Any], name: str, place: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CannotParse(f"The field '{place}{name}' must be a string.", param=place + name)
    return value


def _object(fields: Mapping[str, Any], name: str, place: str) -> dict[str, Any]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CannotParse(f"The field '{place}{name}' must be an object.", param=place + name)
    return value


def _objects(value: Any, place: str) -> list[dict[str, Any]]:
    """A list of objects; Google takes a single one in place of a list of one."""
    if value is None:
        return []
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise CannotParse(f"The field '{place}' must be a list of objects.", param=place)
    return value


def _strings(fields: Mapping[str, Any], name: str, place: str) -> list[str]:
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise CannotParse(f"The field '{place}{name}' must be a list of strings.", param=place + name)
    return value


def _boolean(fields: Mapping[str, Any], name: str, place: str) -> bool | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise CannotParse(f"The field '{place}{name}' must be true or false.", param=place + name)
    return value


def _number(fields: Mapping[str, Any], name: str, place: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or not -1e9 <= value <= 1e9:
        raise CannotParse(f"The field '{place}{name}' must be a number.", param=place + name)
    return value


def _whole(fields: Mapping[str, Any], name: str, place: str, *, least: int = 0, most: int = 10_000_000) -> int | None:
    value = _number(fields, name, place)
    if value is None:
        return None
    if value != int(value) or not least <= value <= most:
        raise CannotParse(f"The field '{place}{name}' must be a whole number from {least} to {most}.", param=place + name)
    return int(value)


# -- Parts, from Gemini ----------------------------------------------------------------------------------------------------------------


class _Calls:
    """Gives calls without an id one that is the same whenever the same JSON is read, and finds the call that a result answers."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._count = 0
        self._open: list[tuple[str, str]] = []

    def name(self, given: str, name: str) -> str:
        """The id of the next call."""
        self._count += 1
        call_id = given or "call_" + hashlib.blake2s(f"{self._seed}/{self._count}/{name}".encode(errors="replace")).hexdigest()[:24]
        self._open.append((call_id, name))
        return call_id

    def answered(self, given: str, name: str) -> str:
        """The id of the call that this result belongs to: the given one, else that of the first open call of the name."""
        found = next((one for one in self._open if (one[0] == given if given else one[1] == name)), None)
        if found is not None:
            self._open.remove(found)
            return found[0]
        return given or "call_" + hashlib.blake2s(f"{self._seed}/result/{name}".encode(errors="replace")).hexdigest()[:24]


def _signature_of(part: Mapping[str, Any], place: str) -> str:
    return _string(part, "thoughtSignature", place)


def _parse_part(given: Mapping[str, Any], role: Role, calls: _Calls, place: str) -> AnyItem:
    part = _camel_part(given)
    kept: dict[str, Any] = {"raw": part, "origin": NAME}
    if "functionCall" in part:
        call = _object(part, "functionCall", place)
        name = _string(call, "name", place + "functionCall.")
        arguments = _object(call, "args", place + "functionCall.")
        seal = _signature_of(part, place)
        return ToolCall(
            "assistant",
            call_id=calls.name(_string(call, "id", place + "functionCall."), name),
            name=name,
            arguments=_dump(arguments) if arguments else "",
            seals=[Seal("signature", seal, NAME)] if seal else [],
            **kept,
        )
    if "functionResponse" in part:
        return _parse_result(_object(part, "functionResponse", place), calls, place + "functionResponse.", kept)
    if isinstance(part.get("text"), str):
        signature = _signature_of(part, place)
        if part.get("thought") is True:
            return Reasoning(role, text=part["text"], seals=[Seal("signature", signature, NAME)] if signature else [], **kept)
        return Text(role, text=part["text"], signature=signature, **kept)
    if "inlineData" in part or "fileData" in part:
        return _parse_media(part, role, place, kept)
    for name in _SERVER_PARTS:
        if name in part:
            return ServerTool(role, kind=name, **kept)
    return Unknown(role, **kept)


def _parse_media(part: Mapping[str, Any], role: Role, place: str, kept: dict[str, Any]) -> Image | File | Audio:
    if "inlineData" in part:
        blob = _object(part, "inlineData", place)
        media_type = _string(blob, "mimeType", place + "inlineData.")
        data = _string(blob, "data", place + "inlineData.")
        if media_type.startswith("image/"):
            return Image(role, media_type=media_type, data=data, **kept)
        if media_type.startswith("audio/"):
            return Audio(role, format=_audio_format(media_type), data=data, **kept)
        return File(role, media_type=media_type, data=data, name=_string(blob, "displayName", place + "inlineData."), **kept)
    named = _object(part, "fileData", place)
    media_type = _string(named, "mimeType", place + "fileData.")
    address = _string(named, "fileUri", place + "fileData.")
    if media_type.startswith("image/"):
        return Image(role, media_type=media_type, url=address, **kept)
    return File(role, media_type=media_type, url=address, name=_string(named, "displayName", place + "fileData."), **kept)


def _parse_result(response: Mapping[str, Any], calls: _Calls, place: str, kept: dict[str, Any]) -> ToolResult:
    name = _string(response, "name", place)
    said = _object(response, "response", place)
    is_error = list(said) == ["error"]
    only = next(iter(said.values())) if list(said) in (["output"], ["result"], ["error"]) else said
    parts: list[Text | Image | File] = [Text("user", text=only if isinstance(only, str) else _dump(only))]
    for index, given in enumerate(_objects(response.get("parts"), place + "parts")):
        part = _camel_part(given)
        if "inlineData" not in part and "fileData" not in part:
            continue
        media = _parse_media(part, "user", f"{place}parts[{index}].", {"raw": part, "origin": NAME})
        parts.append(File("user", media_type=_audio_type(media.format), data=media.data) if isinstance(media, Audio) else media)
    return ToolResult(
        "user", call_id=calls.answered(_string(response, "id", place), name), name=name, parts=parts, is_error=is_error, **kept
    )


_AUDIO_FORMATS = {"mpeg": "mp3", "mp3": "mp3", "x-wav": "wav", "wave": "wav", "x-aac": "aac"}


def _audio_format(media_type: str) -> str:
    kind = media_type[6:].split(";", maxsplit=1)[0].strip().lower()
    return "pcm16" if kind == "l16" else _AUDIO_FORMATS.get(kind, kind)


def _audio_type(name: str) -> str:
    return "audio/L16;codec=pcm;rate=24000" if name == "pcm16" else "audio/mp3" if name == "mp3" else "audio/" + (name or "wav")


# -- Requests, from Gemini -------------------------------------------------------------------------------------------------------------

_GENERATION = (
    "temperature topP topK maxOutputTokens stopSequences candidateCount seed presencePenalty frequencyPenalty responseLogprobs logprobs "
    "responseJsonSchema responseFormat"
).split()
_TOP_LEVEL = {"contents", "systemInstruction", "generationConfig", "tools", "toolConfig", "model", "serviceTier", "stream"}
_EFFORTS = {"MINIMAL": "minimal", "LOW": "low", "MEDIUM": "medium", "HIGH": "high"}


def parse_request(fields: Mapping[str, Any], *, model: str = "", stream: bool = False) -> Conversation:
    """Read a generateContent request. The address tells the model and whether to stream, so the caller may pass both.

    Raises: CannotParse.
    """
    if not isinstance(fields, Mapping):
        raise CannotParse("The request must be an object.")
    fields = _camel(fields)
    conversation = Conversation(
        NAME, model or _string(fields, "model", "").removeprefix("models/"), [], stream=stream or fields.get("stream") is True
    )
    calls = _Calls("request")
    system = fields.get("systemInstruction")
    if isinstance(system, str):
        system = {"parts": [{"text": system}]}
    if system is not None:
        if not isinstance(system, dict):
            raise CannotParse("The field 'systemInstruction' must be an object.", param="systemInstruction")
        _parse_content(system, "system", conversation.items, calls, "systemInstruction.")
    if fields.get("contents") is None:
        raise CannotParse("The field 'contents' is required.", param="contents")
    for index, content in enumerate(_objects(fields["contents"], "contents")):
        place = f"contents[{index}]."
        role = _string(content, "role", place) or "user"
        if role not in ("user", "model", "function"):
            raise CannotParse("Please use a valid role: user, model.", param=place + "role")
        _parse_content(content, "assistant" if role == "model" else "user", conversation.items, calls, place)
    for index, tool in enumerate(_objects(fields.get("tools"), "tools")):
        conversation.tools += _parse_tools(tool, f"tools[{index}].")
    choice = _camel(_object(fields, "toolConfig", ""), "functionCallingConfig")
    if choice:
        conversation.tool_choice = _parse_choice(_object(choice, "functionCallingConfig", "toolConfig."))
        conversation.extra["toolConfig"] = choice
    _parse_generation(_camel(_object(fields, "generationConfig", ""), "thinkingConfig"), conversation)
    conversation.service_tier = _string(fields, "serviceTier", "")
    conversation.extra.update({name: value for name, value in fields.items() if name not in _TOP_LEVEL and value is not None})
    return conversation


def _parse_content(content: Mapping[str, Any], role: Role, items: list[AnyItem], calls: _Calls, place: str) -> None:
    starts = True
    for index, part in enumerate(_objects(content.get("parts"), place + "parts")):
        item = _parse_part(part, role, calls, f"{place}parts[{index}].")
        item.role = role
        item.new_turn = starts
        starts = False
        items.append(item)


def _parse_tools(given: Mapping[str, Any], place: str) -> list[ToolDef]:
    found: list[ToolDef] = []
    for name, value in _camel(given).items():
        if name != "functionDeclarations":
            if value is not None:
                found.append(ToolDef(name, kind="builtin", raw={name: value}, origin=NAME))
            continue
        for index, declared in enumerate(_objects(value, place + name)):
            declaration = _camel(declared)
            at = f"{place}{name}[{index}]."
            schema = declaration.get("parametersJsonSchema")
            if schema is None and (openapi := _object(declaration, "parameters", at)):
                schema = _from_openapi(openapi)
            if schema is not None and not isinstance(schema, dict):
                raise CannotParse(f"The field '{at}parametersJsonSchema' must be an object.", param=at + "parametersJsonSchema")
            found.append(
                ToolDef(
                    _string(declaration, "name", at),
                    description=_string(declaration, "description", at),
                    parameters=schema,
                    raw=declaration,
                    origin=NAME,
                )
            )
    return found


def _parse_choice(config: Mapping[str, Any]) -> ToolChoice | None:
    mode = config.get("mode")
    allowed = _strings(config, "allowedFunctionNames", "toolConfig.functionCallingConfig.")
    match mode:
        case "NONE":
            return ToolChoice("none")
        case "ANY" if len(allowed) == 1:
            return ToolChoice("named", name=allowed[0])
        case "ANY":
            return ToolChoice("required", allowed=allowed)
        case "AUTO" | "VALIDATED":
            return ToolChoice("auto", allowed=allowed)
        case None | "MODE_UNSPECIFIED":
            return None
    raise CannotParse("The mode of function calling must be AUTO, ANY, NONE or VALIDATED.", param="toolConfig.functionCallingConfig.mode")


def _parse_generation(config: dict[str, Any], conversation: Conversation) -> None:
    place = "generationConfig."
    conversation.temperature = _number(config, "temperature", place)
    conversation.top_p = _number(config, "topP", place)
    conversation.top_k = _whole(config, "topK", place)
    conversation.max_output = _whole(config, "maxOutputTokens", place, least=1)
    conversation.stop = _strings(config, "stopSequences", place)
    conversation.n = _whole(config, "candidateCount", place, least=1, most=128) or 1
    conversation.seed = _whole(config, "seed", place, least=-(2**31), most=2**31)
    conversation.presence_penalty = _number(config, "presencePenalty", place)
    conversation.frequency_penalty = _number(config, "frequencyPenalty", place)
    conversation.logprobs = bool(_boolean(config, "responseLogprobs", place))
    conversation.top_logprobs = _whole(config, "logprobs", place, most=20)
    schema = config.get("responseJsonSchema")
    if schema is None and (openapi := _object(config, "responseSchema", place)):
        schema = _from_openapi(openapi)
    if schema is not None and not isinstance(schema, dict):
        raise CannotParse("The field 'generationConfig.responseJsonSchema' must be an object.", param=place + "responseJsonSchema")
    if schema is not None:
        conversation.output_format = OutputFormat("json_schema", schema=schema)
    elif config.get("responseMimeType") == "application/json":
        conversation.output_format = OutputFormat("json_object")
    thinking = _object(config, "thinkingConfig", place)
    if thinking:
        conversation.thinking = _parse_thinking(thinking)
    rest = {name: value for name, value in config.items() if name not in _GENERATION and value is not None}
    if rest:
        conversation.extra["generationConfig"] = rest


def _parse_thinking(config: Mapping[str, Any]) -> Thinking:
    place = "generationConfig.thinkingConfig."
    budget = _whole(config, "thinkingBudget", place, least=-1)
    level = _string(config, "thinkingLevel", place).upper()
    thinking = Thinking(effort=_EFFORTS.get(level, ""), summary="auto" if _boolean(config, "includeThoughts", place) else "")
    if budget == -1:
        thinking.enabled = thinking.adaptive = True
    elif budget == 0:
        thinking.enabled = False
    elif budget is not None:
        thinking.enabled, thinking.budget = True, budget
    return thinking


# -- Schemas ---------------------------------------------------------------------------------------------------------------------------

_ONE_SCHEMA = ("items", "additionalProperties", "not", "contains", "propertyNames")
_MANY_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED_SCHEMAS = ("properties", "$defs", "definitions", "patternProperties")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


def _walk_schema(schema: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The schema with `change` made to it and to every schema inside it; names of properties are never taken for keywords."""
    changed = change(schema)
    for name, value in changed.items():
        if name in _NAMED_SCHEMAS and isinstance(value, dict):
            changed[name] = {key: _walk_schema(one, change) if isinstance(one, dict) else one for key, one in value.items()}
        elif name in _MANY_SCHEMAS and isinstance(value, list):
            changed[name] = [_walk_schema(one, change) if isinstance(one, dict) else one for one in value]
        elif name in _ONE_SCHEMA and isinstance(value, dict):
            changed[name] = _walk_schema(value, change)
    return changed


def _from_openapi(schema: dict[str, Any]) -> dict[str, Any]:
    """Turn Google's OpenAPI subset (upper-case types, `nullable`, counts as strings) into JSON schema."""
    return _walk_schema(schema, _change_openapi)


def _change_openapi(given: dict[str, Any]) -> dict[str, Any]:
    schema = _camel(given)
    kind = schema.get("type")
    if isinstance(kind, str):
        schema["type"] = kind.lower()
        if kind.lower() == "type_unspecified":
            del schema["type"]
        elif schema.get("nullable") is True:
            schema["type"] = [kind.lower(), "null"]
            if isinstance(schema.get("enum"), list):
                schema["enum"] = [*schema["enum"], None]
    schema.pop("nullable", None)
    schema.pop("propertyOrdering", None)
    for name in _COUNTS:
        value = schema.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
            schema[name] = int(value)
    return schema


def _to_google(schema: dict[str, Any]) -> dict[str, Any]:
    """Say in Google's part of JSON schema what it has other words for: `const`, exclusive bounds."""
    return _walk_schema(schema, _change_to_google)


def _change_to_google(given: dict[str, Any]) -> dict[str, Any]:
    schema = {name: value for name, value in given.items() if name != "$schema"}
    if "const" in schema:
        value = schema.pop("const")
        schema["enum"] = [value]
        kinds = {str: "string", bool: "boolean", int: "integer", float: "number"}
        if "type" not in schema and type(value) in kinds:
            schema["type"] = kinds[type(value)]
    for exclusive, inclusive, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        bound = schema.pop(exclusive, None)
        if isinstance(bound, int | float) and not isinstance(bound, bool) and inclusive not in schema:
            schema[inclusive] = bound + step if schema.get("type") == "integer" and isinstance(bound, int) else bound
    return schema


# -- Requests, to Gemini ---------------------------------------------------------------------------------------------------------------

_PARAMS: dict[str, dict[str, str]] = {  # what a client calls a setting, for messages and lists of what was dropped
    "chat": {"thinking": "reasoning_effort", "format": "response_format", "parallel": "parallel_tool_calls"},
    "responses": {"thinking": "reasoning", "format": "text.format", "parallel": "parallel_tool_calls"},
    "messages": {"thinking": "thinking", "format": "output_config", "parallel": "tool_choice.disable_parallel_tool_use"},
    "gemini": {"thinking": "thinkingConfig", "format": "responseJsonSchema", "parallel": "parallel"},
}
_MEANINGFUL = ("logit_bias", "web_search_options", "audio", "background", "mcp_servers", "prompt")
_HARMLESS_TIERS = ("", "auto", "default", "standard", "standard_only")
_BAD_IN_NAME = re.compile(r"[^a-zA-Z0-9_.:-]")
_FETCHED = re.compile(
    r"gs://|https?://(?:[a-z0-9-]+\.)*generativelanguage\.googleapis\.com/|https?://(?:www\.|m\.)?youtube\.com/|https?://youtu\.be/"
)
_TYPES = {
    "pdf": "application/pdf", "txt": "text/plain", "md": "text/md", "csv": "text/csv", "html": "text/html", "json": "application/json",
    "xml": "text/xml", "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif",
    "mp3": "audio/mp3", "wav": "audio/wav", "mp4": "video/mp4", "mov": "video/mov", "webm": "video/webm", "mpeg": "video/mpeg",
}  # fmt: skip
_MEDIA_IN_RESULTS = ("image/png", "image/jpeg", "image/webp", "application/pdf", "text/plain")


def wire_name(name: str, namespace: str = "") -> str:
    """The name under which Gemini knows a tool: at most 64 of its characters, always the same for the same tool."""
    full = f"{namespace}__{name}" if namespace else name
    usable = _BAD_IN_NAME.sub("_", full)
    if not usable[:1].isalpha() and usable[:1] != "_":
        usable = "_" + usable
    if usable == full and len(full) <= LONGEST_NAME:
        return full
    return f"{usable[: LONGEST_NAME - 9]}_{hashlib.sha256(full.encode(errors='replace')).hexdigest()[:8]}"


def tools_by_wire_name(tools: Sequence[ToolDef]) -> dict[str, ToolDef]:
    """Which tool a name in Gemini's answer means.

    Raises: CannotRender when two tools would have one name.
    """
    named: dict[str, ToolDef] = {}
    for tool in tools:
        if tool.kind == "builtin":
            continue
        name = wire_name(tool.name, tool.namespace)
        if name in named:
            raise CannotRender(f"Two tools have the name '{tool.name}'.", param="tools")
        named[name] = tool
    return named


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
    contents = _Contents(conversation, target, traits).render()
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
            schema = schema if own else _to_google(schema)
            if conversation.output_format.description and "description" not in schema:
                schema = {"description": conversation.output_format.description, **schema}
            config["responseJsonSchema"] = schema
    if conversation.thinking is not None and "thinkingConfig" not in config:
        thinking = _render_thinking(conversation.thinking, traits, target, params["thinking"])
        if thinking:
            config["thinkingConfig"] = thinking
    return config


def _render_tools(conversation: Conversation) -> list[dict[str, Any]]:
    tools_by_wire_name(conversation.tools)  # refuses two of one name
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
        declaration: dict[str, Any] = {"name": wire_name(tool.name, tool.namespace)}
        if tool.description:
            declaration["description"] = tool.description
        if tool.kind == "custom":
            declaration["parametersJsonSchema"] = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
        elif tool.parameters:
            declaration["parametersJsonSchema"] = _to_google(tool.parameters)
        declarations.append(declaration)
    return [*tools, {"functionDeclarations": declarations}] if declarations else tools


def _render_choice(conversation: Conversation, target: Target, traits: Traits) -> dict[str, Any]:
    kept = conversation.extra.get("toolConfig") if conversation.origin == NAME else None
    config: dict[str, Any] = dict(kept) if isinstance(kept, dict) else {}
    if conversation.parallel_tools is False and conversation.tools:
        target.dropped.append(_PARAMS[conversation.origin]["parallel"])
    choice = conversation.tool_choice
    if choice is None:
        return config
    calling = config.get("functionCallingConfig")
    if isinstance(calling, dict) and _parse_choice(calling) == choice:  # as received: VALIDATED, and what else it says
        return config
    spaces = {tool.name: wire_name(tool.name, tool.namespace) for tool in conversation.tools if tool.kind != "builtin"}
    if not spaces:
        if choice.mode in ("auto", "none"):
            return config
        raise CannotRender("There is no tool to choose from.", param="tool_choice")
    allowed = [spaces.get(name) or wire_name(name) for name in ([choice.name] if choice.mode == "named" else choice.allowed)]
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


class _Contents:
    """Puts a conversation's items into turns of parts."""

    def __init__(self, conversation: Conversation, target: Target, traits: Traits) -> None:
        self._own = conversation.origin == NAME
        self._items = [item for item in conversation.items if item.role not in ("system", "developer")]
        self._target = target
        self._traits = traits
        self._names: dict[str, str] = {}  # of the calls, by id
        self._order: dict[str, int] = {}

    def render(self) -> list[dict[str, Any]]:
        """The turns, none of them empty."""
        contents: list[dict[str, Any]] = []
        for role, items in self._turns():
            if role == "model":
                rendered = [self._model_parts(items)]
            elif self._own:
                rendered = [[part for item in items if (part := self._user_part(item)) is not None]]
            else:
                rendered = self._user_turns(items)
            contents += [{"role": role, "parts": parts} for parts in rendered if parts]
        return contents

    def _turns(self) -> Iterator[tuple[str, list[AnyItem]]]:
        role, turn = "", list[AnyItem]()
        for item in self._items:
            now = "user" if isinstance(item, ToolResult) or item.role == "user" else "model"
            # Two turns of one role stay two only where Gemini itself said so: it wants a call after a user's turn.
            if turn and (now != role or (self._own and item.new_turn)):
                yield role, turn
                turn = []
            role = now
            turn.append(item)
        if turn:
            yield role, turn

    # -- what the model said

    def _model_parts(self, items: list[AnyItem]) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        loose: list[str] = []  # signatures that came apart from their parts
        for item in items:
            match item:
                case Reasoning():
                    part = self._thought(item, loose)
                case Text():
                    part = _text_part(item)
                    if part is not None and loose:
                        _sign_text(parts, loose, part)
                        loose = []
                case ToolCall():
                    part = self._call(item)
                    if loose and "thoughtSignature" not in part:
                        part["thoughtSignature"] = loose.pop()
                    if loose:
                        _sign_text(parts, loose, None)
                        loose = []
                case Refusal():
                    part = {"text": item.text} if item.text else None
                case _:
                    part = self._other(item)
            if part is not None:
                parts.append(part)
        if loose:
            _sign_text(parts, loose, None)
        first = next((part for part in parts if "functionCall" in part), None)
        if first is not None and "thoughtSignature" not in first and self._traits.demands_signatures:
            first["thoughtSignature"] = UNSIGNED
        return parts

    def _thought(self, item: Reasoning, loose: list[str]) -> dict[str, Any] | None:
        seals = [seal.data for seal in item.seals if seal.origin == NAME and seal.data]
        if item.origin != NAME or not isinstance(item.raw, dict):
            loose += seals
            return None  # another provider's thoughts are not told as text
        part = {**item.raw, "text": item.text, "thought": True}
        part.pop("thoughtSignature", None)
        return {**part, "thoughtSignature": seals[0]} if seals else part

    def _call(self, item: ToolCall) -> dict[str, Any]:
        name = wire_name(item.name, item.namespace)
        self._names[item.call_id] = name
        self._order[item.call_id] = len(self._order)
        own = item.raw if item.origin == NAME and isinstance(item.raw, dict) else {}
        call = {**_mapping(own.get("functionCall")), "name": name, "args": _arguments(item)}
        if not own and item.call_id and self._traits.knows_ids:
            call["id"] = item.call_id
        part = {**own, "functionCall": call}
        part.pop("thoughtSignature", None)
        signature = next((seal.data for seal in item.seals if seal.origin == NAME and seal.data), "")
        if signature:
            part["thoughtSignature"] = signature
        return part

    # -- what the user said, and the tools

    def _user_turns(self, items: list[AnyItem]) -> list[list[dict[str, Any]]]:
        """The results of a turn together, in the order of their calls (models without ids go by it), then the rest."""
        results = sorted((item for item in items if isinstance(item, ToolResult)), key=lambda item: self._order.get(item.call_id, 1 << 30))
        beside: list[dict[str, Any]] = []
        answers = [self._result(item, beside) for item in results]
        rest = [part for item in items if not isinstance(item, ToolResult) and (part := self._user_part(item)) is not None]
        return [answers, beside + rest]

    def _user_part(self, item: AnyItem) -> dict[str, Any] | None:
        match item:
            case Text():
                return _text_part(item)
            case ToolResult():
                beside: list[dict[str, Any]] = []
                return self._result(item, beside)
            case Unknown() | ServerTool() if item.origin != NAME:
                raise CannotRender("The conversation has a kind of content that this model does not take.", param="messages")
            case Refusal():
                return {"text": item.text} if item.text else None
        return self._other(item)

    def _result(self, item: ToolResult, beside: list[dict[str, Any]]) -> dict[str, Any]:
        if item.origin == NAME and isinstance(item.raw, dict):
            return item.raw
        said = "".join(part.text for part in item.parts if isinstance(part, Text))
        response: dict[str, Any] = {"name": self._names.get(item.call_id) or wire_name(item.name or "tool")}
        response["response"] = {"error" if item.is_error else "output": said}
        if item.call_id and self._traits.knows_ids:
            response["id"] = item.call_id
        inside: list[dict[str, Any]] = []
        for part in item.parts:
            if isinstance(part, Text):
                continue
            media = _media_part(part, self._target)
            kind = _mapping(media.get("inlineData")).get("mimeType")
            (inside if self._traits.reads_media_in_results and kind in _MEDIA_IN_RESULTS else beside).append(media)
        if inside:
            response["parts"] = inside
        return {"functionResponse": response}

    def _other(self, item: AnyItem) -> dict[str, Any] | None:
        if item.origin == NAME and isinstance(item.raw, dict):
            return item.raw
        if isinstance(item, Image | File | Audio):
            return _media_part(item, self._target)
        if "server_tool" not in self._target.dropped:  # another provider's own tool in the history; its text is there as well
            self._target.dropped.append("server_tool")
        return None


def _sign_text(parts: list[dict[str, Any]], signatures: list[str], following: dict[str, Any] | None) -> None:
    """Put signatures on the texts that they came behind, else on the one that follows; one without a text gets an empty one."""
    for signature in signatures:
        if any(part.get("thoughtSignature") == signature for part in (*parts, following or {})):
            continue
        bare = next(
            (part for part in reversed(parts) if "text" in part and not part.get("thought") and "thoughtSignature" not in part), None
        )
        if bare is None and following is not None and "thoughtSignature" not in following:
            bare = following
        if bare is None:
            bare = {"text": ""}
            parts.append(bare)
        bare["thoughtSignature"] = signature


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text_part(item: Text) -> dict[str, Any] | None:
    own = item.raw if item.origin == NAME and isinstance(item.raw, dict) else {}
    part: dict[str, Any] = {**own, "text": item.text}
    part.pop("thoughtSignature", None)
    if item.signature:
        part["thoughtSignature"] = item.signature
    return part if item.text or own or "thoughtSignature" in part else None


def _arguments(item: ToolCall) -> dict[str, Any]:
    if item.kind == "custom":
        return {"input": item.arguments}
    try:
        arguments = orjson.loads(item.arguments) if item.arguments else {}
    except orjson.JSONDecodeError:
        try:
            arguments = json.loads(item.arguments)
        except (ValueError, RecursionError):
            return {}
    return arguments if isinstance(arguments, dict) else {}


def _media_part(item: Image | File | Audio, target: Target) -> dict[str, Any]:
    if item.origin == NAME and isinstance(item.raw, dict):
        return item.raw
    if isinstance(item, Audio):
        if item.data:
            return {"inlineData": {"mimeType": _audio_type(item.format), "data": item.data}}
        if item.transcript:
            return {"text": item.transcript}
        raise CannotRender("This model cannot hear audio that is given by its id; send its data.", param="messages")
    what = "image" if isinstance(item, Image) else "file"
    if isinstance(item, Image) and item.detail not in ("", "auto") and "detail" not in target.dropped:
        target.dropped.append("detail")
    media_type = item.media_type or _guess_type(item)
    if item.data:
        return {"inlineData": {"mimeType": media_type, "data": item.data}}
    if isinstance(item, File) and item.text:
        return {"inlineData": {"mimeType": "text/plain", "data": base64.b64encode(item.text.encode(errors="replace")).decode()}}
    address = item.url or item.file_id
    if _FETCHED.match(address):
        return {"fileData": {"fileUri": address, **({"mimeType": media_type} if media_type else {})}}
    if item.url:
        raise CannotRender(
            f"This model cannot fetch the {what} from its URL. Send the {what} itself, base64 encoded, in place of its URL.",
            param="messages",
        )
    raise CannotRender(f"This model does not know the {what}'s id. Send the {what} itself, base64 encoded.", param="messages")


def _guess_type(item: Image | File) -> str:
    name = item.name if isinstance(item, File) and item.name else (item.url or item.file_id).split("?")[0]
    if "youtu" in name:
        return "video/mp4"
    found = _TYPES.get(name.rsplit(".", 1)[-1].lower(), "")
    return found or ("image/jpeg" if isinstance(item, Image) else "application/pdf" if item.data else "")


# -- Usage -----------------------------------------------------------------------------------------------------------------------------


def read_usage(obj: Any) -> TokenUsage | None:
    """Turn `usageMetadata` into disjoint buckets; None when there is none or it is not made of counts.

    Cached tokens are inside the prompt, those of built-in tools beside it; thoughts are beside the candidates.
    """
    if not isinstance(obj, dict):
        return None
    get = obj.get
    prompt, candidates = get("promptTokenCount"), get("candidatesTokenCount")
    thoughts, cached, tools = get("thoughtsTokenCount"), get("cachedContentTokenCount"), get("toolUsePromptTokenCount")
    if candidates is None:
        candidates = get("responseTokenCount")
    if prompt is None and candidates is None and thoughts is None:
        return None
    try:
        read, out, thought, reused = _count(prompt) + _count(tools), _count(candidates), _count(thoughts), _count(cached)
        heard = said = 0
        if "promptTokensDetails" in obj or "candidatesTokensDetails" in obj:
            heard = _audio(get("promptTokensDetails")) + _audio(get("toolUsePromptTokensDetails")) - _audio(get("cacheTokensDetails"))
            said = min(_audio(get("candidatesTokensDetails")), out)
    except ValueError:
        return None
    if reused > read:
        read += reused
    heard = min(max(heard, 0), read - reused)
    return TokenUsage(
        input_tokens=read - reused - heard,
        cached_input_tokens=reused,
        audio_input_tokens=heard,
        output_tokens=out - said,
        reasoning_tokens=thought,
        audio_output_tokens=said,
    )


def _count(value: Any) -> int:
    if value is None:
        return 0
    if type(value) is int and 0 <= value <= LARGEST_COUNT:
        return value
    if isinstance(value, float) and 0 <= value <= LARGEST_COUNT and value == int(value):
        return int(value)
    raise ValueError(value)


def _audio(details: Any) -> int:
    if not isinstance(details, list):
        return 0
    return sum(_count(one.get("tokenCount")) for one in details if isinstance(one, dict) and one.get("modality") == "AUDIO")


def render_usage(usage: TokenUsage) -> dict[str, Any]:
    """The `usageMetadata` that says this."""
    metadata: dict[str, Any] = {
        "promptTokenCount": usage.total_input_tokens,
        "candidatesTokenCount": usage.output_tokens + usage.audio_output_tokens,
        "totalTokenCount": usage.total_input_tokens + usage.total_output_tokens,
    }
    if usage.cached_input_tokens:
        metadata["cachedContentTokenCount"] = usage.cached_input_tokens
    if usage.reasoning_tokens:
        metadata["thoughtsTokenCount"] = usage.reasoning_tokens
    if usage.audio_input_tokens:
        text = usage.total_input_tokens - usage.audio_input_tokens
        metadata["promptTokensDetails"] = [
            {"modality": "TEXT", "tokenCount": text},
            {"modality": "AUDIO", "tokenCount": usage.audio_input_tokens},
        ]
    if usage.audio_output_tokens:
        metadata["candidatesTokensDetails"] = [{"modality": "AUDIO", "tokenCount": usage.audio_output_tokens}]
    return metadata


@dataclass(frozen=True, slots=True)
class MethodUsage:
    """What a call of another method used; `estimated` when the provider did not say and the tokens are our own count."""

    usage: TokenUsage
    estimated: bool = False


def read_method_usage(method: str, request: Any, answer: Any) -> MethodUsage:
    """What countTokens (nothing), embedContent, batchEmbedContents, predict (embeddings, or Imagen's pictures) or generateContent used.

    Never raises: what cannot be read is estimated from the request.
    """
    answer = _camel(answer) if isinstance(answer, dict) else {}
    if method == "countTokens":
        return MethodUsage(TokenUsage())
    predictions = [one for one in _listed(answer.get("predictions")) if isinstance(one, dict)]
    pictures = _listed(answer.get("generatedImages")) + [one for one in predictions if "bytesBase64Encoded" in one or "gcsUri" in one]
    if pictures:
        return MethodUsage(TokenUsage(images=len(pictures)))
    usage = read_usage(answer.get("usageMetadata"))
    if usage is not None:
        return MethodUsage(usage)
    if method in ("predict", "generateImages") and not any("embeddings" in one for one in predictions) and not _has_text(request):
        return MethodUsage(TokenUsage())  # every picture was filtered
    embedded = [*_listed(answer.get("embeddings")), answer.get("embedding"), *(one.get("embeddings") for one in predictions)]
    counted = [_tokens_of(one) for one in embedded if isinstance(one, dict)]
    if counted and None not in counted:
        return MethodUsage(TokenUsage(input_tokens=sum(one for one in counted if one is not None)))
    if method in ("predict", "generateImages") and not counted:
        return MethodUsage(TokenUsage())
    return MethodUsage(TokenUsage(input_tokens=-(-_text_bytes(request) // BYTES_PER_TOKEN)), estimated=True)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _has_text(request: Any) -> bool:
    return isinstance(request, dict) and any(
        isinstance(one, dict) and isinstance(one.get("content"), str) for one in _listed(request.get("instances"))
    )


def _tokens_of(embedding: Mapping[str, Any]) -> int | None:
    statistics = _camel(_mapping(embedding.get("statistics")))
    try:
        return _count(statistics["tokenCount"])
    except (KeyError, ValueError):
        return None


def _text_bytes(value: Any) -> int:
    """The bytes of every text in a request, wherever it stands; data in base64 is not text."""
    size = 0
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            for name, inner in one.items():
                if isinstance(inner, str):
                    size += len(inner.encode(errors="replace")) if name in ("text", "content", "prompt", "title") else 0
                else:
                    waiting.append(inner)
    return size


# -- Answers, from Gemini --------------------------------------------------------------------------------------------------------------


def parse_answer(fields: Any) -> Answer:
    """Read a whole answer; a list of chunks (a stream without SSE, read to its end) counts as one.

    Raises: CannotParse.
    """
    if isinstance(fields, list):
        return _parse_chunks(fields)
    if not isinstance(fields, Mapping):
        raise CannotParse("The answer must be an object.")
    if fields.get("error"):
        raise CannotParse("The answer is an error.", param="error")
    candidates = _objects(fields.get("candidates"), "candidates")
    feedback = _object(fields, "promptFeedback", "")
    if not candidates and not feedback and "usageMetadata" not in fields:
        raise CannotParse("The answer has no candidates.", param="candidates")
    answer = Answer(
        _string(fields, "responseId", ""),
        _string(fields, "modelVersion", ""),
        [],
        None,
        read_usage(fields.get("usageMetadata")),
        created=_epoch(fields.get("createTime")),
        raw=fields,
        origin=NAME,
    )
    candidate = next((one for one in candidates if one.get("index", 0) == 0), {})
    calls = _Calls(answer.id)
    for index, part in enumerate(
        _objects(_object(candidate, "content", "candidates[0].").get("parts"), place := "candidates[0].content.parts")
    ):
        item = _parse_part(part, "assistant", calls, f"{place}[{index}].")
        item.role = "assistant"
        answer.items.append(item)
    citations = [{name: candidate[name]} for name in _METADATA if candidate.get(name)]
    text = next((item for item in reversed(answer.items) if isinstance(item, Text)), None)
    if text is not None:
        text.citations += citations
    reason = _reason(candidate.get("finishReason"))
    blocked = feedback.get("blockReason")
    if reason:
        answer.raw_stop = reason
        answer.stop = _stop_of(reason, has_calls=any(isinstance(item, ToolCall) for item in answer.items))
        if answer.stop is Stop.FILTER:
            answer.refusal = _string(candidate, "finishMessage", "candidates[0].")
    elif blocked:
        answer.raw_stop = blocked if isinstance(blocked, str) else "BLOCK_REASON_UNSPECIFIED"
        answer.stop = Stop.FILTER
        answer.refusal = _string(feedback, "blockReasonMessage", "promptFeedback.")
    if candidate.get("logprobsResult") is not None:
        answer.logprobs = candidate["logprobsResult"]
    return answer


def _parse_chunks(chunks: list[Any]) -> Answer:
    if not chunks or not all(isinstance(chunk, dict) for chunk in chunks):
        raise CannotParse("The answer must be a list of chunks.")
    if len(chunks) == 1:
        return parse_answer(chunks[0])
    parser = StreamParser()
    events: list[Event] = []
    for chunk in chunks:
        parser.take(chunk, events)
    events += parser.finish()
    failed = next((event for event in events if isinstance(event, Failed)), None)
    if failed is not None:
        raise CannotParse("The answer is an error.", param="error")
    answer = collect(events)
    if not answer.items and answer.stop is None and answer.usage is None:
        raise CannotParse("The answer has no candidates.", param="candidates")
    answer.origin = NAME
    return answer


def _reason(value: Any) -> str:
    if type(value) is int:
        return _NUMBERED_STOPS[value] if 0 <= value < len(_NUMBERED_STOPS) else "OTHER"
    return value[:60] if isinstance(value, str) and value.isprintable() else ""


def _stop_of(reason: str, *, has_calls: bool) -> Stop:
    stop = _STOPS.get(reason, Stop.FAULT)
    return Stop.TOOL if stop is Stop.END and has_calls else stop


def _epoch(value: Any) -> int:
    if not isinstance(value, str):
        return 0
    try:
        return max(0, int(datetime.fromisoformat(value).timestamp()))
    except (ValueError, OverflowError, OSError):
        return 0


# -- Answers, to clients of Gemini -----------------------------------------------------------------------------------------------------


def render_answer(answer: Answer, echo: Echo) -> dict[str, Any]:
    """The generateContent answer that says this."""
    own = answer.raw if answer.origin == NAME and isinstance(answer.raw, Mapping) else {}
    parts: list[dict[str, Any]] = []
    metadata: dict[str, Any] = {}
    for item in answer.items:
        parts += _answer_parts(item)
        metadata.update(_citations(item))
    body: dict[str, Any] = {}
    if answer.stop is Stop.FILTER and not parts and answer.raw_stop in _ONLY_PROMPT:
        body["promptFeedback"] = own.get("promptFeedback") or _feedback(answer.raw_stop, answer.refusal)
    elif not (own and not own.get("candidates")):
        candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"} if parts else {"role": "model"}}
        if answer.stop is not None:
            candidate["finishReason"] = _reason_of(answer.stop, answer.raw_stop)
        candidate["index"] = 0
        candidate.update(metadata)
        if answer.refusal:
            candidate["finishMessage"] = answer.refusal
        first = next((one for one in _listed(own.get("candidates")) if isinstance(one, dict)), {})
        candidate.update({name: value for name, value in first.items() if name not in candidate})
        body["candidates"] = [candidate]
    if answer.usage is not None or own.get("usageMetadata"):
        body["usageMetadata"] = {**_mapping(own.get("usageMetadata")), **(render_own(answer.usage, own) if answer.usage else {})}
    body["modelVersion"] = echo.model or answer.model
    body["responseId"] = echo.id or answer.id
    body.update({name: value for name, value in own.items() if name not in body and name != "candidates"})
    return body


def render_own(usage: TokenUsage, own: Mapping[str, Any]) -> dict[str, Any]:
    """The usage to show; nothing where the provider's own figures say the same already."""
    return {} if read_usage(own.get("usageMetadata")) == usage else render_usage(usage)


def _feedback(reason: str, message: str) -> dict[str, Any]:
    return {"blockReason": reason, **({"blockReasonMessage": message} if message else {})}


def _reason_of(stop: Stop, raw: str) -> str:
    known = _stop_of(raw, has_calls=stop is Stop.TOOL)
    return raw if raw and _A_REASON.fullmatch(raw) and known is stop and raw not in _ONLY_PROMPT else _REASONS[stop]


def _citations(item: AnyItem) -> dict[str, Any]:
    """What of a text's citations is Gemini's own; those of other formats point into other texts."""
    found: dict[str, Any] = {}
    if isinstance(item, Text):
        for citation in item.citations:
            found.update(_own_metadata(citation))
    return found


def _own_metadata(citation: Any) -> dict[str, Any]:
    return {name: value for name, value in citation.items() if name in _METADATA} if isinstance(citation, dict) else {}


def _answer_parts(item: AnyItem) -> list[dict[str, Any]]:
    match item:
        case Text():
            part = _text_part(item)
            return [part] if part is not None else []
        case Refusal():
            return [{"text": item.text}] if item.text else []
        case Reasoning():
            return _thought_parts(item)
        case ToolCall():
            own = item.raw if item.origin == NAME and isinstance(item.raw, dict) else {}
            call = {**_mapping(own.get("functionCall")), "name": wire_name(item.name, item.namespace), "args": _arguments(item)}
            if not own and item.call_id:
                call["id"] = item.call_id
            part = {**own, "functionCall": call}
            part.pop("thoughtSignature", None)
            seals = [seal.data for seal in item.seals if seal.data]
            if seals:
                part["thoughtSignature"] = seals[0]
            return [*(_sealed_thought(data) for data in seals[1:]), part]
        case Image() | File() | Audio():
            try:
                return [_media_part(item, Target("", 0))]
            except CannotRender:
                return [{"fileData": {"fileUri": item.url}}] if isinstance(item, Image | File) and item.url else []
        case ServerTool() | Unknown() if item.origin == NAME and isinstance(item.raw, dict):
            return [item.raw]
    return []


def _thought_parts(item: Reasoning) -> list[dict[str, Any]]:
    own = item.raw if item.origin == NAME and isinstance(item.raw, dict) else {}
    seals = [seal.data for seal in item.seals if seal.data]
    text = item.text or "\n\n".join(item.summary)
    parts: list[dict[str, Any]] = []
    if text or own:
        part = {**own, "text": text, "thought": True}
        part.pop("thoughtSignature", None)
        if seals:
            part["thoughtSignature"] = seals.pop(0)
        parts.append(part)
    return parts + [_sealed_thought(data) for data in seals]


def _sealed_thought(data: str) -> dict[str, Any]:
    return {"text": "", "thought": True, "thoughtSignature": data}


# -- Streams, from Gemini --------------------------------------------------------------------------------------------------------------

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_STRUCTURE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[{}\[\]]', re.DOTALL)
_IN_STRING = re.compile(rb'["\\]')
_ONE_READ = 64 * 1024  # what is longer is looked through as it comes


class Frames:
    """Cuts a stream into whole frames (what to forward, and its JSON), be it SSE or one JSON array; every byte is looked at once.

    A frame's first part is exactly what was received for it, with what stood between it and the frame before.
    """

    __slots__ = ("_buffer", "_cut", "_depth", "_in_string", "_seen", "_start", "array", "ended")

    def __init__(self) -> None:
        self.array: bool | None = None  # not known before the first byte that is not a space
        self.ended = False  # the array is closed
        self._buffer = bytearray()
        self._seen = 0  # up to where the buffer was searched
        self._cut = 0
        self._depth = 0
        self._start = -1
        self._in_string = False

    @property
    def rest(self) -> bytes:
        """What arrived and is not a whole frame."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The frames that are complete now.

        Raises: proxy.sse.EventTooLarge.
        """
        if self.array is None:
            first = data.lstrip(b" \t\r\n\xef\xbb\xbf")[:1]
            if not first:
                self._buffer += data
                self._seen = 0
                return self._within([])
            self.array = first in (b"[", b"{")
        if not self.array and not self._buffer and _ends_whole(data):  # the common case: one read is one event
            return [(data, data[6 : -4 if data.endswith(b"\r\n\r\n") else -2])]
        if self.array and not self._buffer and len(data) < _ONE_READ and (whole := _whole_object(data)):
            return [(data, whole)]
        self._buffer += data
        self._cut = 0
        frames = self._objects() if self.array else self._events()
        if self._cut:
            del self._buffer[: self._cut]
            self._seen -= self._cut
            self._start -= self._cut
        return self._within(frames)

    def _within(self, frames: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        if len(self._buffer) > LARGEST_FRAME:
            raise EventTooLarge(f"an event of more than {LARGEST_FRAME} bytes")
        return frames

    def _events(self) -> list[tuple[bytes, bytes]]:
        frames: list[tuple[bytes, bytes]] = []
        for match in _EVENT_END.finditer(self._buffer, max(0, self._seen - 3)):
            if match.start() < self._cut:
                continue
            event = bytes(self._buffer[self._cut : match.end()])
            self._cut = match.end()
            frames.append((event, _data_of(event)))
        self._seen = len(self._buffer)
        return frames

    def _objects(self) -> list[tuple[bytes, bytes]]:
        frames: list[tuple[bytes, bytes]] = []
        buffer, at = self._buffer, self._seen
        while True:
            if self._in_string:
                found = _IN_STRING.search(buffer, at)
                if found is None:
                    at = len(buffer)
                    break
                if buffer[found.start()] == 0x5C:
                    if found.end() == len(buffer):
                        at = found.start()
                        break
                    at = found.end() + 1
                    continue
                self._in_string = False
                at = found.end()
            match = _STRUCTURE.search(buffer, at)
            if match is None:
                at = len(buffer)
                break
            at = match.end()
            first = buffer[match.start()]
            if first == 0x22:
                if not match.group(1):  # the string goes on in the next read
                    self._in_string = True
                    at = match.start() + 1 if buffer.find(b"\\", match.start()) >= 0 else len(buffer)
            elif first == 0x7B:
                if self._depth == 0:
                    self._start = match.start()
                self._depth += 1
            elif first == 0x7D:
                self._depth = max(0, self._depth - 1)
                if self._depth == 0:
                    frames.append((bytes(buffer[self._cut : at]), bytes(buffer[self._start : at])))
                    self._cut = at
            elif first == 0x5B and self._depth:
                self._depth += 1
            elif first == 0x5D:
                if self._depth:
                    self._depth -= 1
                else:
                    self.ended = True
        self._seen = at
        return frames


def _whole_object(data: bytes) -> bytes:
    """The one object that these bytes of an array are, with what stands before it; empty when they are more or less than that."""
    body = data.lstrip(b"[, \t\r\n")
    if not (body.startswith(b"{") and body.endswith(b"}")):
        return b""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return b""
    return body


def _ends_whole(data: bytes) -> bool:
    """Whether these bytes are exactly one event with one line of data."""
    if not data.startswith(b"data: "):
        return False
    if data.endswith(b"\r\n\r\n"):
        return data.find(b"\n") == len(data) - 3 and data.find(b"\r") == len(data) - 4
    return data.endswith(b"\n\n") and data.find(b"\n") == len(data) - 2 and b"\r" not in data


def _data_of(event: bytes) -> bytes:
    lines = [line[5:].removeprefix(b" ") for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines)


def _load(data: bytes) -> dict[str, Any] | None:
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if isinstance(fields, list) and fields:  # an error in the form of a list of one
        fields = fields[0]
    return fields if isinstance(fields, dict) else None


class StreamParser:
    """Turns Gemini's stream, SSE or JSON array, into events."""

    __slots__ = ("_args", "_calls", "_frames", "_has_calls", "_index", "_item", "_metadata", "_started", "_stopped", "_usage")

    def __init__(self) -> None:
        self._frames = Frames()
        self._item: Text | Reasoning | ToolCall | None = None  # the open one
        self._index = -1
        self._calls = _Calls("")
        self._has_calls = False
        self._args: _Partial | None = None
        self._metadata: dict[str, Any] = {}
        self._started = False
        self._stopped = False
        self._usage: Any = None

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now.

        Raises: proxy.sse.EventTooLarge.
        """
        events: list[Event] = []
        for _, frame in self._frames.feed(data):
            fields = _load(frame) if frame else None
            if fields is not None:
                self.take(fields, events)
        return events

    def finish(self) -> list[Event]:
        """The events that the end of the connection completes."""
        events: list[Event] = []
        if not self._frames.array:
            fields = _load(_data_of(self._frames.rest))
            if fields is not None:
                self.take(fields, events)
        if self._stopped:
            self._close(events)
            events.append(Ended())
        return events

    def take(self, chunk: dict[str, Any], events: list[Event]) -> None:
        """Read one chunk's JSON."""
        error = chunk.get("error")
        if error:
            self._close(events)
            events.append(Failed(error))
            return
        if not self._started:
            self._start(chunk, events)
        candidates = chunk.get("candidates")
        reason = ""
        message: Any = ""
        if type(candidates) is list:
            for candidate in candidates:
                if type(candidate) is not dict or candidate.get("index", 0) != 0:
                    continue
                content = candidate.get("content")
                parts = content.get("parts") if type(content) is dict else None
                if type(parts) is list:
                    for part in parts:
                        if type(part) is dict:
                            self._take_part(part, events)
                for name in _METADATA:
                    if candidate.get(name):
                        self._metadata[name] = candidate[name]
                if "finishReason" in candidate:
                    reason, message = _reason(candidate["finishReason"]), candidate.get("finishMessage")
        if reason:
            self._close(events)
        usage = chunk.get("usageMetadata")
        if usage and usage != self._usage:
            self._usage = usage
            counted = read_usage(usage)
            if counted is not None:
                events.append(Metered(counted))
        if reason:
            self._stop(_stop_of(reason, has_calls=self._has_calls), reason, message, events)
        elif "promptFeedback" in chunk:
            blocked = _mapping(chunk["promptFeedback"]).get("blockReason")
            if blocked:
                self._close(events)
                name = blocked if isinstance(blocked, str) else "BLOCK_REASON_UNSPECIFIED"
                self._stop(Stop.FILTER, name, _mapping(chunk["promptFeedback"]).get("blockReasonMessage"), events)

    def _start(self, chunk: dict[str, Any], events: list[Event]) -> None:
        self._started = True
        given, model = chunk.get("responseId"), chunk.get("modelVersion")
        name = given if isinstance(given, str) else ""
        self._calls = _Calls(name)
        events.append(Started(name, model if isinstance(model, str) else "", _epoch(chunk.get("createTime"))))

    def _stop(self, stop: Stop, reason: str, message: Any, events: list[Event]) -> None:
        self._stopped = True
        refusal = message if stop is Stop.FILTER and isinstance(message, str) else ""
        events.append(Stopped(stop, raw_stop=reason, refusal=refusal))

    def _take_part(self, part: dict[str, Any], events: list[Event]) -> None:
        text = part.get("text")
        if type(text) is str and "functionCall" not in part:
            signature = part.get("thoughtSignature")
            if part.get("thought") is True:
                self._take_thought(text, signature if isinstance(signature, str) else "", events)
                return
            signed = signature if isinstance(signature, str) else ""
            if text or signed:
                item = self._item
                if type(item) is not Text:
                    item = Text("assistant", origin=NAME)
                    self._open(item, events)
                if text:
                    item.text += text
                    events.append(Delta(self._index, "text", text))
                if signed:
                    item.signature = signed
            return
        self._take_other(_camel_part(part), events)

    def _take_thought(self, text: str, signature: str, events: list[Event]) -> None:
        item = self._item
        if type(item) is not Reasoning:
            item = Reasoning("assistant", origin=NAME)
            self._open(item, events)
        if text:
            item.text += text
            events.append(Delta(self._index, "reasoning", text))
        if signature:
            seal = Seal("signature", signature, NAME)
            item.seals.append(seal)
            events.append(Delta(self._index, "signature", seal=seal))

    def _take_other(self, part: dict[str, Any], events: list[Event]) -> None:
        if "functionCall" in part:
            call = part["functionCall"]
            if type(call) is dict:
                self._take_call(part, call, events)
            return
        try:
            item = _parse_part(part, "assistant", self._calls, "")
        except CannotParse:
            item = Unknown("assistant", raw=part, origin=NAME)
        self._close(events)
        self._index += 1
        item.role = "assistant"
        events += (Opened(self._index, item), Closed(self._index, item))

    def _take_call(self, part: dict[str, Any], call: dict[str, Any], events: list[Event]) -> None:
        name, given, signature = call.get("name"), call.get("id"), part.get("thoughtSignature")
        goes_on = call.get("willContinue") is True
        if name or self._args is None or type(self._item) is not ToolCall:
            self._has_calls = True
            name = name if isinstance(name, str) else ""
            call_id = self._calls.name(given if isinstance(given, str) else "", name)
            whole = None if goes_on or "partialArgs" in call else part
            item = ToolCall("assistant", call_id=call_id, name=name, raw=whole, origin=NAME)
            self._open(item, events)
            self._args = _Partial()
        item = self._item  # type: ignore[assignment]  # just opened, or found open above
        if signature and isinstance(signature, str):
            seal = Seal("signature", signature, NAME)
            item.seals.append(seal)
            events.append(Delta(self._index, "signature", seal=seal))
        if self._args is not None:
            args = call.get("args")
            if type(args) is dict and args:
                self._args.root.update(args)
            if type(partial := call.get("partialArgs")) is list:
                for one in partial:
                    if type(one) is dict:
                        self._args.put(one)
        if not goes_on:
            self._close(events)

    def _open(self, item: Text | Reasoning | ToolCall, events: list[Event]) -> None:
        self._close(events)
        self._item = item
        self._index += 1
        bare: AnyItem
        if type(item) is ToolCall:
            bare = ToolCall("assistant", call_id=item.call_id, name=item.name, raw=item.raw, origin=NAME)
        else:
            bare = type(item)("assistant", origin=NAME)
        events.append(Opened(self._index, bare))

    def _close(self, events: list[Event]) -> None:
        item = self._item
        if item is None:
            return
        self._item = None
        if type(item) is ToolCall and self._args is not None:
            try:
                item.arguments = _dump(self._args.root) if self._args.root else ""
            except CannotParse:
                item.arguments = ""
            self._args = None
            if item.arguments:
                events.append(Delta(self._index, "arguments", item.arguments))
        if type(item) is Text and self._metadata:
            for name, value in self._metadata.items():
                item.citations.append({name: value})
                events.append(Delta(self._index, "citation", raw={name: value}))
            self._metadata = {}
        events.append(Closed(self._index, item))


_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d{1,5})\]|\['((?:[^'\\]|\\.)*)'\]|\[\"((?:[^\"\\]|\\.)*)\"\]")
_DEEPEST_PATH = 32
_LONGEST_LIST = 10_000


class _Partial:
    """The arguments of a call that arrives in pieces, each at its JSON path (`$.steps[0].name`)."""

    __slots__ = ("root",)

    def __init__(self) -> None:
        self.root: dict[str, Any] = {}

    def put(self, piece: Mapping[str, Any]) -> None:
        """Put a piece in its place; strings grow. A piece that has no place in what is there is left out."""
        path = piece.get("jsonPath")
        if not isinstance(path, str):
            return
        steps: list[str | int] = []
        at = 1 if path.startswith("$") else 0
        while at < len(path):
            match = _STEP.match(path, at)
            if match is None or len(steps) >= _DEEPEST_PATH:
                return
            name, number, single, double = match.groups()
            steps.append(int(number) if number is not None else next(one for one in (name, single, double) if one is not None))
            at = match.end()
        if not steps:
            return
        holder: Any = self.root
        for step, following in pairwise(steps):
            inner = _at(holder, step)
            if not isinstance(inner, dict | list):
                inner = [] if isinstance(following, int) else {}
                if not _put(holder, step, inner):
                    return
            holder = inner
        if "stringValue" in piece:
            before = _at(holder, steps[-1])
            text = piece["stringValue"]
            _put(holder, steps[-1], (before if isinstance(before, str) else "") + (text if isinstance(text, str) else ""))
        elif "numberValue" in piece:
            value = piece["numberValue"]
            _put(holder, steps[-1], int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value)
        elif "boolValue" in piece:
            _put(holder, steps[-1], piece["boolValue"])
        elif "nullValue" in piece:
            _put(holder, steps[-1], None)


def _at(holder: Any, step: str | int) -> Any:
    if isinstance(step, int):
        return holder[step] if isinstance(holder, list) and step < len(holder) else None
    return holder.get(step) if isinstance(holder, dict) else None


def _put(holder: Any, step: str | int, value: Any) -> bool:
    if isinstance(step, str):
        if not isinstance(holder, dict):
            return False
        holder[step] = value
        return True
    if not isinstance(holder, list) or step >= _LONGEST_LIST:
        return False
    holder.extend([None] * (step + 1 - len(holder)))
    holder[step] = value
    return True


# -- Streams, to clients of Gemini -----------------------------------------------------------------------------------------------------


class StreamRenderer:
    """Tells events as Gemini's SSE: only `data:` lines (its SDKs give up on any other), the finish reason and the usage in the last.

    A call is told whole, when it is closed. The last chunk waits for `Ended`, because some providers tell the usage after the stop.
    """

    keep_alive: bytes = b""  # there is none that the SDKs survive

    __slots__ = ("_after", "_before", "_echo", "_has_output", "_metadata", "_stopped", "_usage")

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._before = b'data: {"candidates":[{"content":{"parts":['
        self._after = b""
        self._metadata: dict[str, Any] = {}
        self._usage: TokenUsage | None = None
        self._stopped: Stopped | None = None
        self._has_output = False
        self._name(echo.model, echo.id)

    def feed(self, event: Event) -> bytes:
        """The bytes to send for one event."""
        match event:
            case Delta():
                return self._delta(event)
            case Closed():
                return self._closed(event.item)
            case Started():
                self._usage = event.usage or self._usage
                self._name(self._echo.model or event.model, self._echo.id or event.id)
            case Metered():
                self._usage = event.usage
            case Stopped():
                self._stopped = event
            case Failed():
                return self.fail({"error": event.raw} if isinstance(event.raw, dict) else {})
            case Ended():
                return self._last()
        return b""

    def fail(self, error: Mapping[str, Any]) -> bytes:
        """The frame that tells of an error, which Google's SDKs raise; from the gateway's own error object."""
        return self._last() + b"data: " + _bytes(render_error(error, _code_of(error), "")) + b"\r\n\r\n"

    def _name(self, model: str, answer_id: str) -> None:
        said = orjson.dumps({"modelVersion": model, "responseId": answer_id})
        self._after = b'],"role":"model"},"index":0}],' + said[1:] + b"\r\n\r\n"

    def _part(self, part: dict[str, Any]) -> bytes:
        self._has_output = True
        return self._before + _bytes(part) + self._after

    def _delta(self, event: Delta) -> bytes:
        match event.what:
            case "text" | "refusal":
                return self._part({"text": event.text}) if event.text else b""
            case "reasoning" | "summary":
                return self._part({"text": event.text, "thought": True}) if event.text else b""
            case "citation":
                self._metadata.update(_own_metadata(event.raw))
        return b""  # arguments and signatures are told when the item is closed

    def _closed(self, item: AnyItem) -> bytes:
        match item:
            case Text():
                # Its text has been told, its signature has not.
                return self._part({"text": "", "thoughtSignature": item.signature}) if item.signature else b""
            case Reasoning():
                return b"".join(self._part(_sealed_thought(seal.data)) for seal in item.seals if seal.data)
            case Refusal():
                return b""
        return b"".join(self._part(part) for part in _answer_parts(item))

    def _last(self) -> bytes:
        stopped, self._stopped = self._stopped, None
        if stopped is None:
            return b""
        chunk: dict[str, Any] = {}
        if stopped.stop is Stop.FILTER and not self._has_output and stopped.raw_stop in _ONLY_PROMPT:
            chunk["promptFeedback"] = _feedback(stopped.raw_stop, stopped.refusal)
        else:
            candidate: dict[str, Any] = {
                "content": {"parts": [{"text": ""}], "role": "model"},
                "finishReason": _reason_of(stopped.stop, stopped.raw_stop),
                "index": 0,
                **self._metadata,
            }
            if stopped.refusal:
                candidate["finishMessage"] = stopped.refusal
            chunk["candidates"] = [candidate]
        if self._usage is not None:
            chunk["usageMetadata"] = render_usage(self._usage)
        # What names the answer stands at the end of every chunk alike.
        return b"data: " + _bytes(chunk)[:-1] + b"," + self._after[self._after.index(b'"modelVersion"') :]


def _bytes(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # numbers of more than 64 bits, halves of surrogate pairs
        return json.dumps(value).encode()


# -- Errors ----------------------------------------------------------------------------------------------------------------------------

_STATUS_OF = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 402: "FAILED_PRECONDITION", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED", 409: "ABORTED", 413: "INVALID_ARGUMENT", 422: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED", 502: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
_CODE_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "insufficient_quota": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "overloaded_error": 503,
    "timeout_error": 504,
}


def _inner(error: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = error.get("error")
    return inner if isinstance(inner, Mapping) else error


def _code_of(error: Mapping[str, Any]) -> int:
    """The HTTP status that an error inside a stream would have had."""
    inner = _inner(error)
    code, kind = inner.get("code"), inner.get("type")
    if type(code) is int and 400 <= code < 600:
        return code
    return _CODE_OF.get(kind, 500) if isinstance(kind, str) else 500


def render_error(error: Mapping[str, Any], status: int, request_id: str) -> dict[str, Any]:
    """Google's error object for one of the gateway's (OpenAI's shape, with or without its outer `error`) and its HTTP status."""
    inner = _inner(error)
    code = inner.get("code")
    reason = re.sub(r"[^A-Z0-9_]", "_", str(code or inner.get("type") or "error").upper())[:63]
    param = inner.get("param")
    details: list[dict[str, Any]] = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": "gateway",
            "metadata": {"param": param} if isinstance(param, str) and param else {},
        }
    ]
    if request_id:
        details.append({"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": request_id})
    message = inner.get("message")
    return {
        "error": {
            "code": status,
            "message": message if isinstance(message, str) else "The request failed.",
            "status": _STATUS_OF.get(status, "INVALID_ARGUMENT" if 400 <= status < 500 else "INTERNAL"),
            "details": details,
        }
    }


# -- Pass-through ----------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class GeminiAnswer:
    """What a whole answer used and how it ended. `usage_json` is the provider's own object."""

    fields: Mapping[str, Any]
    usage: TokenUsage | None
    usage_json: Mapping[str, Any] | None
    finish_reason: str
    output_bytes: int


def read_answer(raw: bytes) -> GeminiAnswer:
    """Read a whole generateContent answer.

    Raises: NotAnAnswer.
    """
    try:
        loaded = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise NotAnAnswer("not JSON") from error
    chunks = loaded if isinstance(loaded, list) else [loaded]
    watched = GeminiTap()
    fields: Mapping[str, Any] = {}
    for chunk in chunks:
        if not isinstance(chunk, dict) or chunk.get("error"):
            raise NotAnAnswer("not an answer")
        watched.watch(chunk)
        fields = chunk
    if not isinstance(fields.get("candidates"), list) and not fields.get("promptFeedback") and watched.usage_json is None:
        raise NotAnAnswer("no candidates")
    return GeminiAnswer(fields, watched.usage, watched.usage_json, watched.finish_reason, watched.output_bytes)


class GeminiTap:
    """Watches a stream go by: forwards whole frames as received, remembers usage, finish reason and how much text there was.

    Nothing is added or changed: what the client gets is what the provider sent, to the byte. The end is the end of the connection.
    """

    keep_alive: bytes = b""

    __slots__ = (
        "_forwarded",
        "_frames",
        "_model",
        "_response_id",
        "done",
        "error",
        "finish_reason",
        "output_bytes",
        "reported_cost",
        "usage",
        "usage_json",
    )

    def __init__(self) -> None:
        self._frames = Frames()
        self._forwarded = False
        self._model = ""
        self._response_id = ""
        self.usage: TokenUsage | None = None
        self.usage_json: Mapping[str, Any] | None = None
        self.reported_cost: int | None = None
        self.finish_reason = ""
        self.output_bytes = 0
        self.done = False
        self.error: Any = None

    @property
    def has_output(self) -> bool:
        """Whether anything was delivered that a client would call an answer."""
        return self.output_bytes > 0 or bool(self.finish_reason)

    def feed(self, data: bytes) -> bytes:
        """Take what one read returned; returns what to forward now.

        Raises: proxy.sse.EventTooLarge.
        """
        frames = self._frames.feed(data)
        if len(frames) == 1:
            frame, body = frames[0]
            return frame if self._passes(body) else b""
        forward = []
        for frame, body in frames:
            if not self._passes(body):
                break
            forward.append(frame)
        return b"".join(forward)

    def flush(self) -> bytes:
        """Take the provider's end: an event that only lacks its last boundary counts; half an event does not."""
        if self.error is not None:
            return b""
        rest = self._frames.rest
        tail = b""
        if self._frames.array:
            tail = rest if self._frames.ended else b""
        elif _load(_data_of(rest)) is not None:
            if not self._passes(_data_of(rest)):
                return b""
            tail = rest.rstrip(b"\r\n") + b"\r\n\r\n"
        self.done = bool(self.finish_reason) and (not self._frames.array or self._frames.ended)
        return tail

    def finish(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:  # noqa: ARG002 - a pass-through adds nothing
        """Nothing: the provider has said all of it."""
        return b""

    def fail(self, error: Mapping[str, Any], *, ran_out: bool) -> bytes:
        """What to send last when the stream failed after it began: the error, which Google's SDKs raise.

        With `ran_out` (nothing more could be held) a chunk before it says that the answer ends for its length.
        """
        said = [render_error(error, _code_of(error), "")]
        if ran_out:
            cut = {"content": {"parts": [{"text": ""}], "role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}
            said.insert(0, {"candidates": [cut], "modelVersion": self._model, "responseId": self._response_id})
        if self._frames.array:
            return (b",\r\n" if self._forwarded else b"[") + b",\r\n".join(map(orjson.dumps, said)) + b"]\n"
        return b"".join(b"data: " + orjson.dumps(one) + b"\r\n\r\n" for one in said)

    def watch(self, chunk: dict[str, Any]) -> None:
        """Take note of one chunk's JSON."""
        candidates = chunk.get("candidates")
        if type(candidates) is list:
            for candidate in candidates:
                if type(candidate) is not dict:
                    continue
                content = candidate.get("content")
                parts = content.get("parts") if type(content) is dict else None
                if type(parts) is list:
                    for part in parts:
                        if type(part) is dict:
                            self.output_bytes += _size(part)
                if "finishReason" in candidate:
                    self.finish_reason = _reason(candidate["finishReason"]) or self.finish_reason
        usage = chunk.get("usageMetadata")
        if type(usage) is dict:
            counted = read_usage(usage)
            if counted is not None:
                self.usage, self.usage_json = counted, usage
        if "promptFeedback" in chunk:
            blocked = _mapping(chunk["promptFeedback"]).get("blockReason")
            if blocked:
                self.finish_reason = blocked[:60] if isinstance(blocked, str) and blocked.isprintable() else "BLOCK_REASON_UNSPECIFIED"
        if not self._response_id:
            name, model = chunk.get("responseId"), chunk.get("modelVersion")
            self._response_id, self._model = name if isinstance(name, str) else "", model if isinstance(model, str) else ""

    def _passes(self, body: bytes) -> bool:
        if self.error is not None:
            return False
        fields = _load(body) if body else None
        if fields is not None:
            if fields.get("error"):
                self.error = fields["error"]
                return False
            self.watch(fields)
        self._forwarded = True
        return True


def _size(part: Mapping[str, Any]) -> int:
    """How many bytes of text would be as many tokens as the part: text, arguments and code as they are, media by what they cost."""
    text = part.get("text")
    if type(text) is str:
        return len(text) if text.isascii() else len(text.encode(errors="replace"))
    media = part.get("inlineData")
    if type(media) is dict:
        kind, data = media.get("mimeType"), media.get("data")
        if isinstance(kind, str) and kind.startswith("audio/"):
            return 1 + (len(data) // BASE64_PER_AUDIO_TOKEN * BYTES_PER_TOKEN if isinstance(data, str) else 0)
        return TOKENS_PER_PICTURE * BYTES_PER_TOKEN
    return len(_bytes(part)) if any(name in part for name in _SIZED) else 0
