"""Items of the hub to Gemini's turns of parts. Pure.

A signature comes back from a client of another format as a seal of its own, right behind its text or right before its call; the request
puts it on that part again.
"""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

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
from proxy.formats.gemini_models import Traits
from proxy.formats.gemini_parts import NAME, audio_type, mapping_of
from proxy.formats.tool_names import GOOGLE, wire_name

UNSIGNED = "skip_thought_signature_validator"  # what Google takes in place of a signature on a call that another model made

_FETCHED = re.compile(
    r"gs://|https?://(?:[a-z0-9-]+\.)*generativelanguage\.googleapis\.com/|https?://(?:www\.|m\.)?youtube\.com/|https?://youtu\.be/"
)
_TYPES = {
    "pdf": "application/pdf", "txt": "text/plain", "md": "text/md", "csv": "text/csv", "html": "text/html", "json": "application/json",
    "xml": "text/xml", "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif",
    "mp3": "audio/mp3", "wav": "audio/wav", "mp4": "video/mp4", "mov": "video/mov", "webm": "video/webm", "mpeg": "video/mpeg",
}  # fmt: skip
_MEDIA_IN_RESULTS = ("image/png", "image/jpeg", "image/webp", "application/pdf", "text/plain")


class Contents:
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
                    part = render_text(item)
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
        name = wire_name(item.name, item.namespace, legal=GOOGLE)
        self._names[item.call_id] = name
        self._order[item.call_id] = len(self._order)
        own = item.raw if item.origin == NAME and isinstance(item.raw, dict) else {}
        call = {**mapping_of(own.get("functionCall")), "name": name, "args": arguments_of(item)}
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
                return render_text(item)
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
        response: dict[str, Any] = {"name": self._names.get(item.call_id) or wire_name(item.name or "tool", legal=GOOGLE)}
        response["response"] = {"error" if item.is_error else "output": said}
        if item.call_id and self._traits.knows_ids:
            response["id"] = item.call_id
        inside: list[dict[str, Any]] = []
        for part in item.parts:
            if isinstance(part, Text):
                continue
            media = render_media(part, self._target)
            kind = mapping_of(media.get("inlineData")).get("mimeType")
            (inside if self._traits.reads_media_in_results and kind in _MEDIA_IN_RESULTS else beside).append(media)
        if inside:
            response["parts"] = inside
        return {"functionResponse": response}

    def _other(self, item: AnyItem) -> dict[str, Any] | None:
        if item.origin == NAME and isinstance(item.raw, dict):
            return item.raw
        if isinstance(item, Image | File | Audio):
            return render_media(item, self._target)
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


def render_text(item: Text) -> dict[str, Any] | None:
    """A text as a part; None where there is nothing in it."""
    own = item.raw if item.origin == NAME and isinstance(item.raw, dict) else {}
    part: dict[str, Any] = {**own, "text": item.text}
    part.pop("thoughtSignature", None)
    if item.signature:
        part["thoughtSignature"] = item.signature
    return part if item.text or own or "thoughtSignature" in part else None


def arguments_of(item: ToolCall) -> dict[str, Any]:
    """The arguments of a call as an object."""
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


def render_media(item: Image | File | Audio, target: Target) -> dict[str, Any]:
    """A picture, sound or document as a part. Raises: CannotRender."""
    if item.origin == NAME and isinstance(item.raw, dict):
        return item.raw
    if isinstance(item, Audio):
        if item.data:
            return {"inlineData": {"mimeType": audio_type(item.format), "data": item.data}}
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
