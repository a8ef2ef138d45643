"""The items of Responses, as requests and answers have them, to the hub; names and ids on both sides. Pure."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import orjson

from proxy.formats.conversation import (
    AnyItem,
    Audio,
    CannotParse,
    Conversation,
    File,
    Image,
    Reasoning,
    Refusal,
    Role,
    Seal,
    ServerTool,
    Text,
    ToolCall,
    ToolDef,
    ToolResult,
    Unknown,
)
from proxy.formats.tool_names import renamed_tools, tool_of

NAME: Final = "responses"
ROLES = frozenset(("system", "developer", "user", "assistant"))
LONGEST_CALL_ID = 64

# Built-in tools whose call the client runs itself: their outputs come from the user's side.
CLIENT_OUTPUTS = frozenset(
    (
        "computer_call_output",
        "local_shell_call_output",
        "shell_call_output",
        "apply_patch_call_output",
        "mcp_approval_response",
    )
)
SERVER_TOOLS = CLIENT_OUTPUTS | frozenset(
    (
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "image_generation_call",
        "computer_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "tool_search_call",
        "tool_search_output",
        "mcp_call",
        "mcp_list_tools",
        "mcp_approval_request",
    )
)


def text_of(value: Any) -> str:
    """The value if it is text, else nothing."""
    return value if isinstance(value, str) else ""


def mapping_of(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def dicts_of(value: Any) -> list[dict[str, Any]]:
    """The objects in the value, if it is a list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def short_call_id(call_id: str) -> str:
    """The call id as OpenAI takes it (64 characters), always the same for the same id."""
    if len(call_id) <= LONGEST_CALL_ID:
        return call_id
    return f"call_{hashlib.sha256(call_id.encode(errors='replace')).hexdigest()[:40]}"


def item_id(prefix: str, response_id: str, index: int) -> str:
    """The id of an answer's item: it follows from the answer's, so that a stream and a whole answer agree."""
    return f"{prefix}_{response_id.removeprefix('resp_')[:52]}{index:04x}"


def sent_tools(conversation: Conversation | None) -> dict[str, str]:
    """The names of the client's tools that a provider of this format may know by another: what it calls, and what the client calls it."""
    if conversation is None or conversation.origin == NAME:
        return {}
    return {called: tool.name for called, tool in renamed_tools(conversation).items()}


def original_call(call: ToolCall, renamed: Mapping[str, ToolDef]) -> ToolCall:
    """The call as the client defined its tool: with its namespace, and free text where the tool is a custom one."""
    tool = None if call.namespace else tool_of(call, renamed)
    if tool is None:
        return call
    unwrap = tool.kind == "custom" and call.kind == "function"
    return ToolCall(
        call.role,
        raw=call.raw,
        origin=call.origin,
        id=call.id,
        call_id=call.call_id,
        name=tool.name,
        namespace=tool.namespace,
        kind="custom" if tool.kind == "custom" else call.kind,
        arguments=_free_text(call.arguments) if unwrap else call.arguments,
        seals=call.seals,
    )


def _free_text(arguments: str) -> str:
    """The text that a custom tool was given, from the `{"input": "…"}` that its stand-in function was called with."""
    try:
        fields = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    return fields["input"] if isinstance(fields, dict) and isinstance(fields.get("input"), str) else arguments


def parse_items(entries: Iterable[Any], *, strict: bool, param: str = "input") -> list[AnyItem]:
    """The items that a list of JSON items says. A `strict` reader refuses what is not of the format; an answer is read as far as it goes.

    Raises: CannotParse, when strict.
    """
    items: list[AnyItem] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, dict):
            items += parse_item(entry, strict=strict, param=f"{param}[{index}]" if strict else param)
        elif strict:
            raise CannotParse(f"The field '{param}[{index}]' must be an object.", param=f"{param}[{index}]")
    return items


def parse_item(entry: dict[str, Any], *, strict: bool, param: str = "input") -> list[AnyItem]:
    """The hub's items for one JSON item: a message has as many as it has parts, the others one.

    Raises: CannotParse, when strict.
    """
    kind = entry.get("type")
    if kind == "message" or (kind is None and "role" in entry):
        return _parse_message(entry, strict=strict, param=param)
    if not isinstance(kind, str):
        if not strict:
            return [Unknown("assistant", raw=entry, origin=NAME)]
        if kind is None and isinstance(entry.get("id"), str):
            return [Unknown("user", raw={**entry, "type": "item_reference"}, origin=NAME, id=entry["id"])]
        raise CannotParse(f"The field '{param}.type' must be an item's type.", param=param)
    identity = text_of(entry.get("id"))
    match kind:
        case "reasoning":
            return [parse_reasoning(entry)]
        case "function_call" | "custom_tool_call":
            if strict:
                _need_text(entry, ("call_id", "name", "input" if kind == "custom_tool_call" else "arguments"), param)
            return [parse_call(entry)]
        case "function_call_output" | "custom_tool_call_output":
            if strict:
                _need_text(entry, ("call_id",), param)
            return [_parse_result(entry, strict=strict, param=param)]
        case _ if kind in SERVER_TOOLS:
            return [ServerTool("user" if kind in CLIENT_OUTPUTS else "assistant", raw=entry, origin=NAME, id=identity, kind=kind)]
        case _:
            return [Unknown("user" if kind in ("item_reference", "additional_tools") else "assistant", raw=entry, origin=NAME, id=identity)]


def parse_reasoning(entry: Mapping[str, Any]) -> Reasoning:
    """The thinking that a reasoning item shows and seals."""
    sealed = text_of(entry.get("encrypted_content"))
    return Reasoning(
        "assistant",
        raw=entry,
        origin=NAME,
        id=text_of(entry.get("id")),
        text="".join(text_of(part.get("text")) for part in dicts_of(entry.get("content"))),
        summary=[text for part in dicts_of(entry.get("summary")) if (text := text_of(part.get("text")))],
        seals=[Seal("encrypted", sealed, NAME)] if sealed else [],
    )


def parse_call(entry: Mapping[str, Any]) -> ToolCall:
    """The tool call that an item makes."""
    custom = entry.get("type") == "custom_tool_call"
    return ToolCall(
        "assistant",
        raw=entry,
        origin=NAME,
        id=text_of(entry.get("id")),
        call_id=text_of(entry.get("call_id")),
        name=text_of(entry.get("name")),
        namespace=text_of(entry.get("namespace")),
        kind="custom" if custom else "function",
        arguments=text_of(entry.get("input" if custom else "arguments")),
    )


def parse_part(part: Mapping[str, Any], role: Role, outer: Mapping[str, Any], *, strict: bool = False, param: str = "") -> AnyItem:
    """The item that one content part is; `outer` are the fields of the message around it.

    Raises: CannotParse, when strict.
    """
    raw = {"message": outer, "part": part}
    identity = text_of(outer.get("id"))
    cache = "5m" if isinstance(part.get("prompt_cache_breakpoint"), dict) else None
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            if strict:
                _need_text(part, ("text",), param)
            citations = part.get("annotations")
            return Text(
                role,
                raw=raw,
                origin=NAME,
                id=identity,
                cache=cache,
                text=text_of(part.get("text")),
                citations=list(citations) if isinstance(citations, list) else [],
            )
        case "refusal":
            return Refusal(role, raw=raw, origin=NAME, id=identity, text=text_of(part.get("refusal")))
        case "input_image":
            media_type, data, url = _split_url(text_of(part.get("image_url")))
            file_id, detail = text_of(part.get("file_id")), text_of(part.get("detail"))
            return Image(role, raw=raw, origin=NAME, cache=cache, media_type=media_type, data=data, url=url, file_id=file_id, detail=detail)
        case "input_file":
            media_type, data, _ = _split_url(text_of(part.get("file_data")))
            return File(
                role,
                raw=raw,
                origin=NAME,
                cache=cache,
                media_type=media_type,
                data=data or ("" if media_type else text_of(part.get("file_data"))),
                url=text_of(part.get("file_url")),
                file_id=text_of(part.get("file_id")),
                name=text_of(part.get("filename")),
            )
        case "input_audio":
            sound = mapping_of(part.get("input_audio"))
            return Audio(role, raw=raw, origin=NAME, format=text_of(sound.get("format")), data=text_of(sound.get("data")))
        case _:
            return Unknown(role, raw=raw, origin=NAME)


def outer_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A message without its content."""
    return {name: value for name, value in entry.items() if name != "content"}


def _parse_message(entry: Mapping[str, Any], *, strict: bool, param: str) -> list[AnyItem]:
    role = entry.get("role")
    if role not in ROLES:
        if strict:
            raise CannotParse(f"The field '{param}.role' must be one of: {', '.join(sorted(ROLES))}.", param=f"{param}.role")
        role = "assistant"
    speaker = cast("Role", role)
    content = entry.get("content")
    outer = outer_of(entry)
    if isinstance(content, str):
        raw = {"message": outer, "part": None}
        return [Text(speaker, raw=raw, origin=NAME, id=text_of(entry.get("id")), new_turn=True, text=content)]
    if strict and not (isinstance(content, list) and all(isinstance(part, dict) for part in content)):
        raise CannotParse(f"The field '{param}.content' must be text or a list of content parts.", param=f"{param}.content")
    items = [
        parse_part(part, speaker, outer, strict=strict, param=f"{param}.content[{index}]") for index, part in enumerate(dicts_of(content))
    ]
    if items:
        items[0].new_turn = True
    return items


def _parse_result(entry: Mapping[str, Any], *, strict: bool, param: str) -> ToolResult:
    output = entry.get("output")
    parts: list[Text | Image | File] = []
    if isinstance(output, str):
        parts = [Text("user", text=output)]
    elif isinstance(output, list):
        found = [parse_part(part, "user", {}) for part in dicts_of(output)]
        parts = [part for part in found if isinstance(part, Text | Image | File)]
        if strict and len(parts) != len(output):
            raise CannotParse(f"The field '{param}.output' must hold text, images and files only.", param=f"{param}.output")
    elif strict:
        raise CannotParse(f"The field '{param}.output' must be text or a list of parts.", param=f"{param}.output")
    return ToolResult(
        "user",
        raw=entry,
        origin=NAME,
        id=text_of(entry.get("id")),
        call_id=text_of(entry.get("call_id")),
        parts=parts,
        kind="custom" if entry.get("type") == "custom_tool_call_output" else "function",
    )


def _need_text(entry: Mapping[str, Any], names: Iterable[str], param: str) -> None:
    for name in names:
        if not isinstance(entry.get(name), str):
            raise CannotParse(f"The field '{param}.{name}' must be text.", param=f"{param}.{name}")


def _split_url(url: str) -> tuple[str, str, str]:
    """A data URL's media type and base64 data, or the URL itself."""
    if url.startswith("data:"):
        head, comma, data = url[5:].partition(",")
        if comma and head.endswith(";base64"):
            return head.removesuffix(";base64"), data, ""
    return "", "", url
