"""Items of the hub to the input of a Responses request. Pure."""

from collections.abc import Mapping
from typing import Any

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
    ToolCall,
    ToolResult,
    Unknown,
)
from proxy.formats.openai_responses_items import NAME, mapping_of, short_call_id
from proxy.formats.openai_responses_requests import is_instructions
from proxy.formats.tool_names import wire_name

_STRICT_KINDS = frozenset(("openai", "azure"))  # who refuse thinking that is not sealed, and roles of others' making


def render_input(conversation: Conversation, target: Target) -> list[dict[str, Any]] | str:
    """The request's `input`: a list of items, or plain text. Raises: CannotRender."""
    items = [item for item in conversation.items if not is_instructions(item)]
    if len(items) == 1 and isinstance(items[0], Text) and isinstance(items[0].raw, dict) and "input" in items[0].raw:
        return items[0].text
    rendered: list[dict[str, Any]] = []
    message: dict[str, Any] | None = None
    for index, item in enumerate(items):
        if item.cache and item.origin != NAME:
            _note(target, "cache_control")
        if isinstance(item, Text | Refusal | Image | File | Audio) or (isinstance(item, Unknown) and _is_part(item)):
            part = _render_part(item, target)
            if part is None:
                continue
            role = _role_of(item, target)
            if message is None or message["role"] != role or item.new_turn:
                message = _open_message(item, role)
                rendered.append(message)
            message["content"].append(part)
            continue
        message = None
        entry = _render_item(item, target, last=not _goes_on(items, index))
        if entry is not None:
            rendered.append(entry)
    return [_simplify(entry) for entry in rendered]


def _note(target: Target, name: str) -> None:
    if name not in target.dropped:
        target.dropped.append(name)


def _goes_on(items: list[AnyItem], index: int) -> bool:
    """Whether the model said something more after this item, before anybody answered."""
    following = next((item for item in items[index + 1 :] if not isinstance(item, Reasoning)), None)
    return following is not None and following.role == "assistant"


def _is_part(item: Unknown) -> bool:
    return item.origin == NAME and isinstance(item.raw, dict) and "part" in item.raw


def _role_of(item: AnyItem, target: Target) -> str:
    if item.role == "developer" and target.kind and target.kind not in _STRICT_KINDS and item.origin != NAME:
        return "system"
    if item.role == "assistant" and item.origin != NAME and isinstance(item, Image | File):
        return "user"  # there is no field for a picture that the model made
    return item.role


def _open_message(item: AnyItem, role: str) -> dict[str, Any]:
    outer = mapping_of(mapping_of(item.raw).get("message")) if item.origin == NAME else {}
    kept = {name: value for name, value in outer.items() if name not in ("id", "role")}
    return {"type": "message", **kept, "role": role, "content": []}


def _simplify(entry: dict[str, Any]) -> dict[str, Any]:
    """A message that is one plain text is told as text, which every provider takes."""
    content = entry.get("content")
    if entry.get("type") != "message" or not isinstance(content, list) or len(content) != 1:
        return entry
    part = content[0]
    plain = part.get("type") == "input_text" and len(part) == 2
    return {**entry, "content": part["text"]} if plain and isinstance(part.get("text"), str) else entry


def _render_part(item: AnyItem, target: Target) -> dict[str, Any] | None:
    raw = mapping_of(item.raw).get("part") if item.origin == NAME else None
    if isinstance(raw, dict):
        return raw
    match item:
        case Text():
            if item.role == "assistant":
                if item.origin == NAME:
                    return {"type": "output_text", "text": item.text}
                return {"type": "output_text", "text": item.text, "annotations": []} if item.text else None
            return {"type": "input_text", "text": item.text} if item.text or item.origin == NAME else None
        case Refusal():
            return {"type": "refusal", "refusal": item.text}
        case Image():
            return _render_image(item)
        case File():
            return _render_file(item)
        case Audio():
            if item.role == "assistant":
                return {"type": "output_text", "text": item.transcript, "annotations": []} if item.transcript else None
            raise CannotRender("This model's provider cannot hear ('input_audio').", param="input")
        case _:
            _note(target, "input")
            return None


def _render_image(item: Image) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "input_image"}
    if item.data:
        part["image_url"] = f"data:{item.media_type or 'image/png'};base64,{item.data}"
    elif item.url:
        part["image_url"] = item.url
    elif item.file_id and item.origin in (NAME, "chat"):
        part["file_id"] = item.file_id
    else:
        raise CannotRender("An image given by another provider's file id cannot be read by this model's.", param="input")
    return part | ({"detail": item.detail} if item.detail else {})


def _render_file(item: File) -> dict[str, Any]:
    if item.media_type.startswith(("video/", "audio/")):
        raise CannotRender(f"This model's provider cannot read {item.media_type}.", param="input")
    part: dict[str, Any] = {"type": "input_file"}
    if item.data:
        part["filename"] = item.name or _file_name(item.media_type)
        part["file_data"] = f"data:{item.media_type or 'application/pdf'};base64,{item.data}"
    elif item.text:
        return {"type": "input_text", "text": f"{item.name}\n\n{item.text}" if item.name else item.text}
    elif item.url:
        part["file_url"] = item.url
    elif item.file_id and item.origin in (NAME, "chat"):
        part["file_id"] = item.file_id
    else:
        raise CannotRender("A file given by another provider's id cannot be read by this model's.", param="input")
    return part


def _file_name(media_type: str) -> str:
    """A name for a file that has none: OpenAI demands one, and goes by its ending."""
    ending = {"text/plain": "txt", "text/csv": "csv", "text/html": "html", "text/markdown": "md", "application/json": "json"}
    return f"document.{ending.get(media_type, 'pdf')}"


def _render_item(item: AnyItem, target: Target, *, last: bool) -> dict[str, Any] | None:
    match item:
        case Reasoning():
            return _render_reasoning(item, target, last=last)
        case ToolCall():
            return _render_call(item)
        case ToolResult():
            return _render_result(item, target)
        case ServerTool() | Unknown() if item.origin == NAME and isinstance(item.raw, dict):
            if item.raw.get("type") == "item_reference":
                raise CannotRender("The item referred to by its id is not known.", param="input")
            return item.raw
        case _:
            _note(target, "server_tools" if isinstance(item, ServerTool) else "input")
            return None


def _render_reasoning(item: Reasoning, target: Target, *, last: bool) -> dict[str, Any] | None:
    """Thinking as its own kind of provider wants it back; all other thinking is left out.

    OpenAI takes it sealed only, without its visible text, and refuses what nothing of the model's follows; open models take the text.
    """
    if item.origin != NAME and not item.seals:
        return None
    sealed = next((seal.data for seal in item.seals if seal.origin == NAME and seal.data), "")
    raw = dict(item.raw) if item.origin == NAME and isinstance(item.raw, dict) else {}
    if target.kind in _STRICT_KINDS:
        if not sealed or last:
            return None
        raw.pop("content", None)
    elif (item.seals and not sealed) or (not sealed and not item.text):
        return None
    kept = {name: value for name, value in raw.items() if name not in ("id", "status", "encrypted_content") and value is not None}
    entry: dict[str, Any] = {
        **kept,
        "type": "reasoning",
        "summary": raw.get("summary") or [{"type": "summary_text", "text": text} for text in item.summary],
    }
    return entry | ({"encrypted_content": sealed} if sealed else {})


def _render_call(call: ToolCall) -> dict[str, Any]:
    raw = item_raw(call)
    entry: dict[str, Any] = {name: value for name, value in raw.items() if name != "id"}
    entry["type"] = "custom_tool_call" if call.kind == "custom" else "function_call"
    entry["call_id"] = short_call_id(call.call_id)
    entry["name"] = call.name if raw else wire_name(call.name, call.namespace)
    if call.namespace and raw:
        entry["namespace"] = call.namespace
    if call.kind == "custom":
        entry["input"] = call.arguments
    else:
        entry["arguments"] = call.arguments or "{}"
    return entry


def _render_result(result: ToolResult, target: Target) -> dict[str, Any]:
    entry: dict[str, Any] = {name: value for name, value in item_raw(result).items() if name != "id"}
    if result.is_error:
        _note(target, "is_error")
    entry["type"] = "custom_tool_call_output" if result.kind == "custom" else "function_call_output"
    entry["call_id"] = short_call_id(result.call_id)
    if "output" not in entry:
        if all(isinstance(part, Text) for part in result.parts):
            entry["output"] = "\n".join(part.text for part in result.parts if isinstance(part, Text))
        else:
            entry["output"] = [part for item in result.parts if (part := _render_part(item, target)) is not None]
    return entry


def item_raw(item: AnyItem) -> Mapping[str, Any]:
    """The JSON that the item came from, if it came in this format."""
    return mapping_of(item.raw) if item.origin == NAME else {}
