"""Gemini requests to the hub. Pure."""

from collections.abc import Mapping
from typing import Any

from proxy.formats.conversation import AnyItem, CannotParse, Conversation, OutputFormat, Role, Thinking, ToolChoice, ToolDef
from proxy.formats.gemini_parts import (
    NAME,
    Calls,
    camel_case,
    flag_of,
    number_of,
    object_of,
    objects_of,
    parse_part,
    string_of,
    strings_of,
    whole_of,
)
from proxy.formats.gemini_schemas import from_openapi

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
    fields = camel_case(fields)
    conversation = Conversation(
        NAME, model or string_of(fields, "model", "").removeprefix("models/"), [], stream=stream or fields.get("stream") is True
    )
    calls = Calls("request")
    system = fields.get("systemInstruction")
    if isinstance(system, str):
        system = {"parts": [{"text": system}]}
    if system is not None:
        if not isinstance(system, dict):
            raise CannotParse("The field 'systemInstruction' must be an object.", param="systemInstruction")
        _parse_content(system, "system", conversation.items, calls, "systemInstruction.")
    if fields.get("contents") is None:
        raise CannotParse("The field 'contents' is required.", param="contents")
    for index, content in enumerate(objects_of(fields["contents"], "contents")):
        place = f"contents[{index}]."
        role = string_of(content, "role", place) or "user"
        if role not in ("user", "model", "function"):
            raise CannotParse("Please use a valid role: user, model.", param=place + "role")
        _parse_content(content, "assistant" if role == "model" else "user", conversation.items, calls, place)
    for index, tool in enumerate(objects_of(fields.get("tools"), "tools")):
        conversation.tools += _parse_tools(tool, f"tools[{index}].")
    choice = camel_case(object_of(fields, "toolConfig", ""), "functionCallingConfig")
    if choice:
        conversation.tool_choice = parse_choice(object_of(choice, "functionCallingConfig", "toolConfig."))
        conversation.extra["toolConfig"] = choice
    _parse_generation(camel_case(object_of(fields, "generationConfig", ""), "thinkingConfig"), conversation)
    conversation.service_tier = string_of(fields, "serviceTier", "")
    conversation.extra.update({name: value for name, value in fields.items() if name not in _TOP_LEVEL and value is not None})
    return conversation


def _parse_content(content: Mapping[str, Any], role: Role, items: list[AnyItem], calls: Calls, place: str) -> None:
    starts = True
    for index, part in enumerate(objects_of(content.get("parts"), place + "parts")):
        item = parse_part(part, role, calls, f"{place}parts[{index}].")
        item.role = role
        item.new_turn = starts
        starts = False
        items.append(item)


def _parse_tools(given: Mapping[str, Any], place: str) -> list[ToolDef]:
    found: list[ToolDef] = []
    for name, value in camel_case(given).items():
        if name != "functionDeclarations":
            if value is not None:
                found.append(ToolDef(name, kind="builtin", raw={name: value}, origin=NAME))
            continue
        for index, declared in enumerate(objects_of(value, place + name)):
            declaration = camel_case(declared)
            at = f"{place}{name}[{index}]."
            schema = declaration.get("parametersJsonSchema")
            if schema is None and (openapi := object_of(declaration, "parameters", at)):
                schema = from_openapi(openapi)
            if schema is not None and not isinstance(schema, dict):
                raise CannotParse(f"The field '{at}parametersJsonSchema' must be an object.", param=at + "parametersJsonSchema")
            found.append(
                ToolDef(
                    string_of(declaration, "name", at),
                    description=string_of(declaration, "description", at),
                    parameters=schema,
                    raw=declaration,
                    origin=NAME,
                )
            )
    return found


def parse_choice(config: Mapping[str, Any]) -> ToolChoice | None:
    """Which tools may or must be called, from a `functionCallingConfig`. Raises: CannotParse."""
    mode = config.get("mode")
    allowed = strings_of(config, "allowedFunctionNames", "toolConfig.functionCallingConfig.")
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
    conversation.temperature = number_of(config, "temperature", place)
    conversation.top_p = number_of(config, "topP", place)
    conversation.top_k = whole_of(config, "topK", place)
    conversation.max_output = whole_of(config, "maxOutputTokens", place, least=1)
    conversation.stop = strings_of(config, "stopSequences", place)
    conversation.n = whole_of(config, "candidateCount", place, least=1, most=128) or 1
    conversation.seed = whole_of(config, "seed", place, least=-(2**31), most=2**31)
    conversation.presence_penalty = number_of(config, "presencePenalty", place)
    conversation.frequency_penalty = number_of(config, "frequencyPenalty", place)
    conversation.logprobs = bool(flag_of(config, "responseLogprobs", place))
    conversation.top_logprobs = whole_of(config, "logprobs", place, most=20)
    schema = config.get("responseJsonSchema")
    if schema is None and (openapi := object_of(config, "responseSchema", place)):
        schema = from_openapi(openapi)
    if schema is not None and not isinstance(schema, dict):
        raise CannotParse("The field 'generationConfig.responseJsonSchema' must be an object.", param=place + "responseJsonSchema")
    if schema is not None:
        conversation.output_format = OutputFormat("json_schema", schema=schema)
    elif config.get("responseMimeType") == "application/json":
        conversation.output_format = OutputFormat("json_object")
    thinking = object_of(config, "thinkingConfig", place)
    if thinking:
        conversation.thinking = _parse_thinking(thinking)
    rest = {name: value for name, value in config.items() if name not in _GENERATION and value is not None}
    if rest:
        conversation.extra["generationConfig"] = rest


def _parse_thinking(config: Mapping[str, Any]) -> Thinking:
    place = "generationConfig.thinkingConfig."
    budget = whole_of(config, "thinkingBudget", place, least=-1)
    level = string_of(config, "thinkingLevel", place).upper()
    thinking = Thinking(effort=_EFFORTS.get(level, ""), summary="auto" if flag_of(config, "includeThoughts", place) else "")
    if budget == -1:
        thinking.enabled = thinking.adaptive = True
    elif budget == 0:
        thinking.enabled = False
    elif budget is not None:
        thinking.enabled, thinking.budget = True, budget
    return thinking
