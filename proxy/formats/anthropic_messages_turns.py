"""Items of the hub to the turns of a Messages request. Pure."""

from base64 import b64decode
from dataclasses import dataclass
from typing import Any, Literal

from proxy.formats.anthropic_messages_blocks import NAME, arguments_of, media_type_of, tool_id, unfold_url
from proxy.formats.anthropic_messages_models import Traits
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
from proxy.formats.tool_names import wire_name

_OPENING = "…"  # what a conversation opens with that the assistant began: the format wants the user first


@dataclass(slots=True)
class Turn:
    """One message that is being put together."""

    role: Literal["user", "assistant", "system"]
    blocks: list[dict[str, Any]]
    plain: str | None = None  # the content as it was, where it was one string


class Turns:
    """Sorts a flat list of items into the turns this format wants."""

    def __init__(self, conversation: Conversation, target: Target, traits: Traits) -> None:
        self._conversation = conversation
        self._target = target
        self._traits = traits
        self._native = conversation.origin == NAME
        self._system: list[dict[str, Any]] = []
        self._turns: list[Turn] = []
        self._ids: dict[str, str] = {}  # the id of the latest call that went by this id
        self._used: set[str] = set()
        self._calls: dict[str, Turn] = {}

    def build(self) -> tuple[list[dict[str, Any]], list[Turn]]:
        """The system's blocks, and the turns. Raises: CannotRender."""
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

    def _turn_for(self, role: Literal["user", "assistant", "system"], item: AnyItem) -> Turn:
        last = self._turns[-1] if self._turns else None
        if last is None or last.role != role or (self._native and item.new_turn):
            last = Turn(role, [])
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
            self._turns.insert(place, Turn("user", []))
        self._turns[place].blocks.append(block)
        self._turns[place].plain = None

    def _settle(self) -> list[Turn]:
        """Move system turns that may not stand where they stand to the front, join what is then adjacent, put results first."""
        settled: list[Turn] = []
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

    def _open_with_user(self, turns: list[Turn]) -> None:
        if not turns:
            if not self._system:
                raise CannotRender("The conversation says nothing.", param="messages")
            turns.append(Turn("user", [self._system.pop()]))  # only instructions: the last of them is the question
        elif turns[0].role != "user":
            turns.insert(0, Turn("user", [{"type": "text", "text": _OPENING}]))

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
        return [with_cache_mark({"type": "text", "text": item.text}, item.cache)]

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
                return [with_cache_mark(_render_image(item, self._target), item.cache)]
            case File():
                return [with_cache_mark(_render_file(item), item.cache)]
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
        name = item.name if self._native and not item.namespace else wire_name(item.name, item.namespace)
        block = {
            "type": "tool_use",
            "id": self._new_id(item.call_id),
            "name": name,
            "input": {"input": item.arguments} if item.kind == "custom" else arguments_of(item.arguments),
        }
        return {**raw, **block} if raw is not None else with_cache_mark(block, item.cache)

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
            block["content"] = simplest(content)
        if item.is_error:
            block["is_error"] = True
        return with_cache_mark(block, item.cache)

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


def with_cache_mark(block: dict[str, Any], cache: str | None) -> dict[str, Any]:
    """The block, with a cache mark where there is to be one."""
    if cache:
        block["cache_control"] = {"type": "ephemeral", "ttl": "1h"} if cache == "1h" else {"type": "ephemeral"}
    return block


def simplest(blocks: list[dict[str, Any]]) -> list[dict[str, Any]] | str:
    """One plain text as a string."""
    return blocks[0]["text"] if len(blocks) == 1 and set(blocks[0]) == {"type", "text"} else blocks


def _trim_end(turn: Turn) -> None:
    """White space at the end of a last assistant turn is refused."""
    last = turn.blocks[-1]
    if last["type"] == "text":
        turn.blocks[-1] = {**last, "text": last["text"].rstrip()}
        turn.plain = None
