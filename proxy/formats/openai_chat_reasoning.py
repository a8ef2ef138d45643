"""Reasoning in Chat Completions, read and written: `reasoning_content`, and `reasoning_details` in OpenRouter's form. Pure.

Entries of one `index` are one item; an entry whose `id` is that of a tool call in the same message is that call's seal, one whose `id` is
"text" the text's.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from proxy.formats.conversation import Item, Reasoning, Seal, Text, ToolCall
from proxy.formats.openai_chat_fields import NAME, dicts_of, raw_of, text_of

DETAIL_FORMATS: Final[Mapping[str, str]] = {
    "messages": "anthropic-claude-v1",
    "responses": "openai-responses-v1",
    "gemini": "google-gemini-v1",
}
UNKNOWN = "unknown"
_FORMATS_OF_KINDS = {"anthropic": "anthropic-claude-v1", "openai": "openai-responses-v1", "google": "google-gemini-v1"}
_FORMATS_OF_MODELS = (
    (re.compile(r"(?:^|[/.:@])claude\b"), "anthropic-claude-v1"),
    (re.compile(r"(?:^|[/.:@])gemini-"), "google-gemini-v1"),
    (re.compile(r"(?:^|[/.:@])(?:gpt-\d|o\d+(?:-|$))"), "openai-responses-v1"),
)

_TEXT_ID = "text"  # the `id` of a reasoning detail that is the signature of the text itself


def seals_of(detail: Mapping[str, Any]) -> list[Seal]:
    """The opaque parts of a reasoning detail: one, or both where a client added up the entries of one index."""
    seals = []
    if data := text_of(detail.get("signature")):
        seals.append(Seal("signature", data, NAME))
    if data := text_of(detail.get("data")):
        seals.append(Seal("redacted" if text_of(detail.get("format")).startswith("anthropic") else "encrypted", data, NAME))
    return seals


def thinking_text(part: Mapping[str, Any]) -> str:
    """The text of a thinking part: Mistral has a list of text parts in it, Anthropic-like servers a string."""
    thinking = part.get("thinking")
    if isinstance(thinking, list):
        return "".join(text_of(piece.get("text")) for piece in dicts_of(thinking))
    return text_of(thinking)


def parse_reasoning(message: Mapping[str, Any], calls: Mapping[str, ToolCall], texts: list[Text]) -> list[Reasoning]:
    """The reasoning of an assistant message, whichever way it is written; seals of calls and texts go to these."""
    flat_field = next((name for name in ("reasoning_content", "reasoning") if text_of(message.get(name))), "")
    found: list[Reasoning] = []
    last: Any = None
    for detail in dicts_of(message.get("reasoning_details")):
        seals = seals_of(detail)
        owner = detail.get("id")
        if seals and isinstance(owner, str) and (call := calls.get(owner)) is not None:
            known = {seal.data for seal in call.seals}
            call.seals += [Seal("signature", seal.data, NAME) for seal in seals if seal.data not in known]
            call.raw = {**raw_of(call), "reasoning_details": [*raw_of(call).get("reasoning_details", []), detail]}
            continue
        if seals and owner == _TEXT_ID and texts:
            texts[-1].signature = seals[0].data
            continue
        index = detail.get("index")
        text, summary = text_of(detail.get("text")), text_of(detail.get("summary"))
        if not found or (index != last if index is not None else bool(text or summary or detail.get("data"))):
            found.append(Reasoning("assistant", raw={"reasoning_details": []}, origin=NAME))
        last = index
        item = found[-1]
        item.raw["reasoning_details"].append(detail)
        item.text += text
        if summary:
            item.summary.append(summary)
        item.seals += seals
        item.id = item.id or text_of(owner)
    for block in dicts_of(message.get("thinking_blocks")) if not found else ():
        data = text_of(block.get("signature")) or text_of(block.get("data"))
        kind: Literal["signature", "redacted"] = "redacted" if block.get("type") == "redacted_thinking" else "signature"
        seals = [Seal(kind, data, NAME)] if data else []
        found.append(Reasoning("assistant", thinking_text(block), seals=seals, raw={"thinking_blocks": [block]}, origin=NAME))
    if flat_field and not any(item.text or item.summary for item in found):
        if not found:
            found.append(Reasoning("assistant", raw={}, origin=NAME))
        found[0].text = message[flat_field]
        found[0].raw[flat_field] = message[flat_field]
    return found


def is_as_parsed(item: Reasoning, details: list[dict[str, Any]]) -> bool:
    """Whether the details still say what the item says (its seals may have been opened or sealed since)."""
    seals = [seal.data for detail in details for seal in seals_of(detail)]
    text = (
        "".join(text_of(detail.get("text")) for detail in details)
        or text_of(raw_of(item).get("reasoning_content"))
        or text_of(raw_of(item).get("reasoning"))
    )
    return seals == [seal.data for seal in item.seals] and text == item.text


def format_of(model: str, kind: str = "") -> str:
    """Whose reasoning a model's is, in OpenRouter's words: by the provider's kind, else by the upstream's name of the model."""
    name = model.lower()
    return _FORMATS_OF_KINDS.get(kind) or next((said for pattern, said in _FORMATS_OF_MODELS if pattern.search(name)), UNKNOWN)


def detail_format(item: Item, seals: Iterable[Seal], usual: str) -> str:
    """Whose reasoning it is, in OpenRouter's words; `usual` is that of the model, for what does not say it itself."""
    for detail in dicts_of(raw_of(item).get("reasoning_details")):
        if name := text_of(detail.get("format")):
            return name
    origin = next((seal.origin for seal in seals), item.origin)
    return DETAIL_FORMATS.get(origin or "", usual)


def seal_detail(seal: Seal, *, owner: str, format_name: str, index: int) -> dict[str, Any]:
    """A seal as an entry of `reasoning_details`; `owner` is the id of the call that it belongs to, empty for a thought."""
    detail: dict[str, Any] = {"type": "reasoning.text", "signature": seal.data}
    if seal.kind != "signature" or owner:
        detail = {"type": "reasoning.encrypted", "data": seal.data}
    if owner:
        detail["id"] = owner
    return {**detail, "format": format_name, "index": index}


def render_details(item: Reasoning, index: int, usual: str) -> list[dict[str, Any]]:
    """A reasoning item as entries of `reasoning_details`, all with its index."""
    known = dicts_of(raw_of(item).get("reasoning_details"))
    if known and is_as_parsed(item, known):
        return [{**detail, "index": index} for detail in known]
    format_name = detail_format(item, item.seals, usual)
    about = {"id": item.id, "format": format_name, "index": index} if item.id else {"format": format_name, "index": index}
    details: list[dict[str, Any]] = []
    seals = list(item.seals)
    if item.text:
        detail = {"type": "reasoning.text", "text": item.text, **about}
        if seals and seals[0].kind == "signature":
            detail["signature"] = seals.pop(0).data
        details.append(detail)
    details += [{"type": "reasoning.summary", "summary": part, **about} for part in item.summary]
    return details + [{**seal_detail(seal, owner="", format_name=format_name, index=index), **about} for seal in seals]


def text_detail(item: Text, index: int, usual: str) -> dict[str, Any]:
    """The signature of a text, as an entry of `reasoning_details`."""
    format_name = DETAIL_FORMATS.get(item.origin or "", usual)
    return {"type": "reasoning.encrypted", "data": item.signature, "id": _TEXT_ID, "format": format_name, "index": index}
