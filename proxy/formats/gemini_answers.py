"""Whole answers, from Gemini to the hub and from the hub to Gemini's clients. Pure."""

from collections.abc import Mapping
from typing import Any

from catalog.usage import TokenUsage
from proxy.formats.conversation import (
    Answer,
    AnyItem,
    Audio,
    CannotParse,
    CannotRender,
    Echo,
    Event,
    Failed,
    File,
    Image,
    Reasoning,
    Refusal,
    ServerTool,
    Stop,
    Target,
    Text,
    ToolCall,
    ToolDef,
    Unknown,
    collect,
)
from proxy.formats.gemini_contents import arguments_of, render_media, render_text
from proxy.formats.gemini_parts import METADATA, NAME, Calls, epoch_of, list_of, mapping_of, object_of, objects_of, parse_part, string_of
from proxy.formats.gemini_stops import ONLY_PROMPT, read_reason, read_stop, render_reason
from proxy.formats.gemini_stream_in import StreamParser
from proxy.formats.gemini_usage import read_usage, render_usage
from proxy.formats.searches import charged_by_google, queries_of
from proxy.formats.tool_names import client_name, renamed_tools


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
    candidates = objects_of(fields.get("candidates"), "candidates")
    feedback = object_of(fields, "promptFeedback", "")
    if not candidates and not feedback and "usageMetadata" not in fields:
        raise CannotParse("The answer has no candidates.", param="candidates")
    answer = Answer(
        string_of(fields, "responseId", ""),
        string_of(fields, "modelVersion", ""),
        [],
        None,
        None,
        created=epoch_of(fields.get("createTime")),
        raw=fields,
        origin=NAME,
    )
    candidate = next((one for one in candidates if one.get("index", 0) == 0), {})
    searches = charged_by_google(set().union(*map(queries_of, candidates)), model=answer.model)
    answer.usage = read_usage(fields.get("usageMetadata"), web_searches=searches)
    calls = Calls(answer.id)
    for index, part in enumerate(
        objects_of(object_of(candidate, "content", "candidates[0].").get("parts"), place := "candidates[0].content.parts")
    ):
        item = parse_part(part, "assistant", calls, f"{place}[{index}].")
        item.role = "assistant"
        answer.items.append(item)
    citations = [{name: candidate[name]} for name in METADATA if candidate.get(name)]
    text = next((item for item in reversed(answer.items) if isinstance(item, Text)), None)
    if text is not None:
        text.citations += citations
    reason = read_reason(candidate.get("finishReason"))
    blocked = feedback.get("blockReason")
    if reason:
        answer.raw_stop = reason
        answer.stop = read_stop(reason, has_calls=any(isinstance(item, ToolCall) for item in answer.items))
        if answer.stop is Stop.FILTER:
            answer.refusal = string_of(candidate, "finishMessage", "candidates[0].")
    elif blocked:
        answer.raw_stop = blocked if isinstance(blocked, str) else "BLOCK_REASON_UNSPECIFIED"
        answer.stop = Stop.FILTER
        answer.refusal = string_of(feedback, "blockReasonMessage", "promptFeedback.")
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


def render_answer(answer: Answer, echo: Echo) -> dict[str, Any]:
    """The generateContent answer that says this."""
    own = answer.raw if answer.origin == NAME and isinstance(answer.raw, Mapping) else {}
    parts: list[dict[str, Any]] = []
    metadata: dict[str, Any] = {}
    renamed = renamed_tools(echo.conversation)
    for item in answer.items:
        parts += answer_parts(item, renamed)
        metadata.update(_citations(item))
    body: dict[str, Any] = {}
    if answer.stop is Stop.FILTER and not parts and answer.raw_stop in ONLY_PROMPT:
        body["promptFeedback"] = own.get("promptFeedback") or feedback_of(answer.raw_stop, answer.refusal)
    elif not (own and not own.get("candidates")):
        candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"} if parts else {"role": "model"}}
        if answer.stop is not None:
            candidate["finishReason"] = render_reason(answer.stop, answer.raw_stop)
        candidate["index"] = 0
        candidate.update(metadata)
        if answer.refusal:
            candidate["finishMessage"] = answer.refusal
        first = next((one for one in list_of(own.get("candidates")) if isinstance(one, dict)), {})
        candidate.update({name: value for name, value in first.items() if name not in candidate})
        body["candidates"] = [candidate]
    if answer.usage is not None or own.get("usageMetadata"):
        body["usageMetadata"] = {**mapping_of(own.get("usageMetadata")), **(render_own(answer.usage, own) if answer.usage else {})}
    body["modelVersion"] = echo.model or answer.model
    body["responseId"] = echo.id or answer.id
    body.update({name: value for name, value in own.items() if name not in body and name != "candidates"})
    return body


def render_own(usage: TokenUsage, own: Mapping[str, Any]) -> dict[str, Any]:
    """The usage to show; nothing where the provider's own figures say the same already."""
    return {} if read_usage(own.get("usageMetadata"), web_searches=usage.web_searches) == usage else render_usage(usage)


def feedback_of(reason: str, message: str) -> dict[str, Any]:
    """The `promptFeedback` of a request that was refused before anything was said."""
    return {"blockReason": reason, **({"blockReasonMessage": message} if message else {})}


def _citations(item: AnyItem) -> dict[str, Any]:
    """What of a text's citations is Gemini's own; those of other formats point into other texts."""
    found: dict[str, Any] = {}
    if isinstance(item, Text):
        for citation in item.citations:
            found.update(own_metadata(citation))
    return found


def own_metadata(citation: Any) -> dict[str, Any]:
    """What of a citation is Gemini's own."""
    return {name: value for name, value in citation.items() if name in METADATA} if isinstance(citation, dict) else {}


def answer_parts(item: AnyItem, renamed: Mapping[str, ToolDef]) -> list[dict[str, Any]]:
    """The parts that say an item to a client; `renamed` are its tools that the provider may know by another name."""
    match item:
        case Text():
            part = render_text(item)
            return [part] if part is not None else []
        case Refusal():
            return [{"text": item.text}] if item.text else []
        case Reasoning():
            return _thought_parts(item)
        case ToolCall():
            own = item.raw if item.origin == NAME and isinstance(item.raw, dict) else {}
            call = {**mapping_of(own.get("functionCall")), "name": client_name(item, renamed), "args": arguments_of(item)}
            if not own and item.call_id:
                call["id"] = item.call_id
            part = {**own, "functionCall": call}
            part.pop("thoughtSignature", None)
            seals = [seal.data for seal in item.seals if seal.data]
            if seals:
                part["thoughtSignature"] = seals[0]
            return [*(sealed_thought(data) for data in seals[1:]), part]
        case Image() | File() | Audio():
            try:
                return [render_media(item, Target("", 0))]
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
    return parts + [sealed_thought(data) for data in seals]


def sealed_thought(data: str) -> dict[str, Any]:
    """A part that holds nothing but a thought's signature."""
    return {"text": "", "thought": True, "thoughtSignature": data}
