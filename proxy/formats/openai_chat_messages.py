"""Items of the hub to the messages of a Chat Completions request. Pure."""

import base64
import binascii
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
    Role,
    ServerTool,
    Target,
    Text,
    ToolCall,
    ToolResult,
    Unknown,
)
from proxy.formats.openai_chat_dialects import EXTENSIONS, LIST_KINDS, OPENAI_KINDS, cache_mark
from proxy.formats.openai_chat_fields import NAME, dicts_of, is_count, mapping_of, raw_of, text_of
from proxy.formats.openai_chat_reasoning import format_of, is_as_parsed, render_details, thinking_text
from proxy.formats.openai_chat_requests import CALL_FIELDS
from proxy.formats.tool_names import wire_name


class Messages:
    """Puts the items of a conversation together into messages, in the order that providers accept.

    Everything an assistant says between two answers of others is one message; the results of its calls follow at once; pictures that no
    tool or assistant message can hold come in a user message behind them.
    """

    def __init__(self, conversation: Conversation, target: Target) -> None:
        self._items = conversation.items
        self._target = target
        self._openai = target.kind in OPENAI_KINDS
        self._messages: list[dict[str, Any]] = []
        self._calls: dict[str, dict[str, Any]] = {}  # the assistant message that made a call, by the call's id
        self._behind: list[dict[str, Any]] = []  # parts that have to wait for a user message of their own
        self._custom_as_function = conversation.origin != NAME or not self._openai
        thinking = conversation.thinking
        # DeepSeek's thinking models refuse a call without the thought before it, and take an empty one where it was another's.
        unwanted = thinking is not None and thinking.enabled is False
        self._wants_thoughts = target.kind == "deepseek" and conversation.origin != NAME and not unwanted

    def render(self) -> list[dict[str, Any]]:
        """The `messages`. Raises: CannotRender."""
        group: list[AnyItem] = []
        for item in self._items:
            if isinstance(item, ToolResult):
                self._flush(group)
                group = []
                self._add_result(item)
                continue
            if group and (item.role != group[0].role or (item.new_turn and not self._belongs(item, group))):
                self._flush(group)
                group = []
            group.append(item)
        self._flush(group)
        self._add_behind()
        return self._messages

    @staticmethod
    def _belongs(item: AnyItem, group: list[AnyItem]) -> bool:
        """Whether an item that begins a turn has to join the assistant's message before it: calls, and what they were thought of with."""
        if item.role != "assistant":
            return False
        return (
            isinstance(item, ToolCall)
            or any(isinstance(one, ToolCall) for one in group)
            or all(isinstance(one, Reasoning) for one in group)
        )

    def _flush(self, group: list[AnyItem]) -> None:
        if not group:
            return
        if group[0].role == "assistant":
            self._add_assistant(group)
        else:
            self._add_said(group)

    def _role(self, role: Role) -> str:
        return "system" if role == "developer" and not self._openai else role

    def _drop(self, name: str) -> None:
        if name not in self._target.dropped:
            self._target.dropped.append(name)

    # What users and systems say

    def _add_said(self, group: list[AnyItem]) -> None:
        self._add_behind()
        parts = [part for item in group for part in self._render_part(item)]
        content: Any = parts
        if all(part.keys() == {"type", "text"} and part["type"] == "text" for part in parts):
            texts = [part["text"] for part in parts]
            is_list = any("part" in raw_of(item) for item in group)  # a client of this format wrote a list itself
            if len(texts) < 2 and not is_list:
                content = "".join(texts)
            elif not is_list and self._target.kind not in LIST_KINDS:
                content = "\n\n".join(texts)
        if not parts:
            if not any(item.origin == NAME for item in group):
                return
            content = ""
        self._messages.append({**raw_of(group[0]).get("message", {}), "role": self._role(group[0].role), "content": content})

    def _render_part(self, item: AnyItem) -> list[dict[str, Any]]:
        raw = raw_of(item).get("part")
        if isinstance(raw, dict) and (not isinstance(item, Text) or raw.get("text") == item.text):
            return [raw]
        match item:
            case Text():
                part: dict[str, Any] | None = {"type": "text", "text": item.text} if item.text else None
            case Refusal():
                part = {"type": "text", "text": item.text}
            case Image():
                part = self._render_image(item)
            case Audio():
                if not item.data:
                    raise CannotRender("Only sound that is sent with the request can be passed on.", param="input")
                part = {"type": "input_audio", "input_audio": {"data": item.data, "format": item.format or "wav"}}
            case File():
                part = self._render_file(item)
            case Unknown() | ServerTool() if item.role == "user":
                raise CannotRender("Part of a message is of a kind that this model's provider does not know.", param="messages")
            case _:
                self._drop("server_tool" if isinstance(item, ServerTool) else "unknown")
                part = None
        if part is None:
            return []
        if item.cache:
            if self._target.kind == "openrouter":
                part["cache_control"] = cache_mark(item.cache)
            else:
                self._drop("cache_control")
        return [part]

    @staticmethod
    def _render_image(item: Image) -> dict[str, Any]:
        url = f"data:{item.media_type or 'image/png'};base64,{item.data}" if item.data else item.url
        if not url:
            raise CannotRender("An image known only by its file id cannot be sent to this model.", param="file_id")
        return {"type": "image_url", "image_url": {"url": url, "detail": item.detail} if item.detail else {"url": url}}

    def _render_file(self, item: File) -> dict[str, Any]:
        family = item.media_type.partition("/")[0]
        name = item.name or f"document.{EXTENSIONS.get(item.media_type, 'pdf')}"
        if item.text or (item.data and family == "text"):
            text = item.text or _decode_text(item.data)
            return {"type": "text", "text": f"{item.name}:\n{text}" if item.name else text}
        if family == "image" and (item.data or item.url):
            return self._render_image(Image(item.role, item.media_type, item.data, item.url))
        if family == "audio" and item.data:
            sound = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav"}.get(kind := item.media_type.partition("/")[2], kind)
            return {"type": "input_audio", "input_audio": {"data": item.data, "format": sound}}
        url = f"data:{item.media_type or 'application/pdf'};base64,{item.data}" if item.data else item.url
        if family == "video":
            if self._target.kind != "openrouter":
                raise CannotRender("This model's provider takes no video.", param="messages")
            return {"type": "video_url", "video_url": {"url": url}}
        if item.data or (url and self._target.kind == "openrouter"):
            return {"type": "file", "file": {"filename": name, "file_data": url}}
        if item.file_id and item.origin == NAME:
            return {"type": "file", "file": {"file_id": item.file_id}}
        raise CannotRender("A file must be sent with the request: this model's provider does not fetch it.", param="messages")

    # What tools give back

    def _add_result(self, item: ToolResult) -> None:
        content = raw_of(item).get("content")
        if not isinstance(content, list) or any(not isinstance(part, Text) for part in item.parts):
            content = self._result_text(item)
        if item.is_error:
            self._drop("is_error")
            content = content or "Error"
        message = {**raw_of(item).get("message", {}), "role": "tool", "tool_call_id": item.call_id, "content": content}
        caller = self._calls.get(item.call_id)
        place = len(self._messages)
        if caller is not None:
            # Somebody may have said something between a call and its result; providers want the result right behind the call.
            while self._messages[place - 1]["role"] != "tool" and self._messages[place - 1] is not caller:
                place -= 1
        self._messages.insert(place, message)

    def _result_text(self, item: ToolResult) -> str:
        texts: list[str] = []
        others: list[dict[str, Any]] = []
        for part in item.parts:
            for rendered in self._render_part(part):
                if rendered.get("type") == "text":
                    texts.append(text_of(rendered.get("text")))
                else:
                    others.append(rendered)
        if others:
            label = f"What the tool call {item.call_id} gave back besides text:"
            self._behind += [{"type": "text", "text": label}, *others]
            if not texts:
                texts = ["The result is in the next message."]
        return "\n".join(texts)

    def _add_behind(self) -> None:
        if self._behind:
            self._messages.append({"role": "user", "content": self._behind})
            self._behind = []

    # What the model said

    def _add_assistant(self, group: list[AnyItem]) -> None:
        self._add_behind()
        message: dict[str, Any] = {**raw_of(group[0]).get("message", {}), "role": "assistant"}
        parts: list[dict[str, Any]] = []
        pictures: list[dict[str, Any]] = []
        calls: list[dict[str, Any]] = []
        for item in group:
            match item:
                case Reasoning():
                    self._add_reasoning(message, parts, item)
                case Refusal() if self._openai and "part" not in raw_of(item):
                    message["refusal"] = message.get("refusal", "") + item.text
                case Text() | Refusal():
                    parts += self._render_part(item)
                case Audio() if item.origin == NAME and item.audio_id:
                    message["audio"] = {"id": item.audio_id}
                case Audio():
                    if item.transcript:
                        parts.append({"type": "text", "text": item.transcript})
                    self._drop("audio")
                case Image() | File():
                    pictures += self._render_part(item)
                case ToolCall():
                    calls.append(self._render_call(item, message))
                    self._calls[item.call_id] = message
                case Unknown() if "tool_call" in raw_of(item):
                    calls.append(raw_of(item)["tool_call"])
                case _:
                    parts += self._render_part(item)
        if self._openai:
            message.pop("reasoning_content", None)
        citations = [note for item in group if isinstance(item, Text) and item.origin == NAME for note in item.citations]
        if citations and self._openai:
            message["annotations"] = citations
        if not parts and not calls and len(message) == 1 and not (group[0].origin == NAME and isinstance(group[0], Text)):
            if not pictures:
                return  # only thinking that cannot be carried, or nothing at all
            parts = [{"type": "text", "text": "Here it is."}]
        message["content"] = self._assistant_content(parts, group)
        if calls:
            message["tool_calls"] = calls
            if self._wants_thoughts:
                message.setdefault("reasoning_content", "")
        if message["content"] == "" and (calls or "refusal" in message or "audio" in message):
            message["content"] = None
        self._messages.append(message)
        if pictures:
            if self._target.kind == "openrouter":
                message["images"] = pictures
            else:
                self._behind += [{"type": "text", "text": "What you made in your last answer:"}, *pictures]

    @staticmethod
    def _assistant_content(parts: list[dict[str, Any]], group: list[AnyItem]) -> Any:
        if any("part" in raw_of(item) for item in group) or any(part.keys() != {"type", "text"} for part in parts):
            return parts
        return "".join(part["text"] for part in parts)

    def _add_reasoning(self, message: dict[str, Any], parts: list[dict[str, Any]], item: Reasoning) -> None:
        """Give a provider back what it thought, in the field it came in; the thinking of others is left out, never sent as text."""
        if item.origin not in (NAME, None) or any(seal.origin != NAME for seal in item.seals):
            self._drop("reasoning")
            return
        kind, raw = self._target.kind, raw_of(item)
        if kind in ("openai", "azure", "perplexity"):  # they refuse a message that has any such field
            self._drop("reasoning")
        elif isinstance(part := raw.get("part"), dict) and thinking_text(part) == item.text:
            parts.append(part)
        elif kind == "mistral":
            if item.text:
                parts.append({"type": "thinking", "thinking": [{"type": "text", "text": item.text}]})
        elif kind == "groq":
            message["reasoning"] = message.get("reasoning", "") + item.text
        elif "thinking_blocks" in raw and kind != "openrouter":
            message.setdefault("thinking_blocks", []).extend(raw["thinking_blocks"])
        elif kind == "openrouter" or item.seals or "reasoning_details" in raw:
            details = message.setdefault("reasoning_details", [])
            known = dicts_of(raw.get("reasoning_details"))
            index = 1 + max((detail["index"] for detail in details if is_count(detail.get("index"))), default=-1)
            details += known if known and is_as_parsed(item, known) else render_details(item, index, format_of(self._target.model, kind))
            if known and (flat := raw.get("reasoning")):
                message["reasoning"] = message.get("reasoning", "") + flat
        else:
            field = "reasoning" if "reasoning" in raw else "reasoning_content"
            message[field] = message.get(field, "") + (item.text or "".join(item.summary))

    def _render_call(self, call: ToolCall, message: dict[str, Any]) -> dict[str, Any]:
        raw = raw_of(call)
        rendered = {name: value for name, value in mapping_of(raw.get("tool_call")).items() if name not in CALL_FIELDS}
        rendered["id"] = call.call_id
        name = wire_name(call.name, call.namespace)
        if call.kind == "custom" and not self._custom_as_function:
            return {**rendered, "type": "custom", "custom": {"name": name, "input": call.arguments}}
        arguments = orjson.dumps({"input": call.arguments}).decode() if call.kind == "custom" else call.arguments or "{}"
        seals = [seal for seal in call.seals if seal.origin == NAME]
        if "reasoning_details" in raw and self._target.kind not in ("openai", "azure", "groq", "mistral", "perplexity", "google"):
            message.setdefault("reasoning_details", []).extend(raw["reasoning_details"])
        if seals and "extra_content" not in rendered and self._target.kind in ("google", "custom") and "extra_content" not in message:
            rendered["extra_content"] = {"google": {"thought_signature": seals[0].data}}
        if self._target.kind in OPENAI_KINDS:
            rendered.pop("extra_content", None)
        return {**rendered, "type": "function", "function": {"name": name, "arguments": arguments}}


def _decode_text(data: str) -> str:
    try:
        return base64.b64decode(data, validate=False).decode(errors="replace")
    except (binascii.Error, ValueError):
        raise CannotRender("A file's data is not base64.", param="messages") from None
