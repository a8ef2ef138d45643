"""Owns answers in the shape of Gemini's :generateContent and :streamGenerateContent."""

from typing import Any

from tests.fakes.provider.answers import Answer, Usage
from tests.fakes.provider.shapes.event import Event, Part, event

FINISHES = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}


def usage(counts: Usage) -> dict[str, Any]:
    """State counts as Gemini does: the thoughts beside the candidates, not within them."""
    visible = counts.completion
    if isinstance(counts.completion, int) and isinstance(counts.reasoning, int):
        visible = counts.completion - counts.reasoning
    return {
        "promptTokenCount": counts.prompt,
        "candidatesTokenCount": visible,
        "thoughtsTokenCount": counts.reasoning,
        "cachedContentTokenCount": counts.cached,
        "totalTokenCount": counts.total,
    }


def whole(answer: Answer) -> dict[str, Any]:
    finish = FINISHES.get(answer.finish, answer.finish)
    return _chunk(answer, [*_thoughts(answer), *_text(answer.text), *_calls(answer)], finish, counted=True)


def events(answer: Answer) -> list[Event]:
    """Write the stream as SSE; there is no closing event, the last chunk has the finish reason and the counts."""
    parts = [*_thoughts(answer), *(part for piece in answer.pieces for part in _text(piece)), *_calls(answer)]
    stream = [event(Part.CONTENT, _chunk(answer, [part], None, counted=False)) for part in parts]
    stream.append(event(Part.FINISH, _chunk(answer, _text(""), FINISHES.get(answer.finish, answer.finish), counted=True)))
    # Gemini ends its lines with CR LF.
    return [Event(one.part, one.data.replace(b"\n", b"\r\n")) for one in stream]


def as_array(stream: list[Event]) -> bytes:
    """Write the stream as the JSON array that is sent without `alt=sse`."""
    return b"[" + b",\r\n".join(one.data.removeprefix(b"data: ").rstrip() for one in stream) + b"]\n"


def _chunk(answer: Answer, parts: list[dict[str, Any]], finish: str | None, *, counted: bool) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    if finish and answer.searches:
        candidate["groundingMetadata"] = {"webSearchQueries": ["", *answer.searches]}
    body: dict[str, Any] = {"candidates": [candidate], "modelVersion": answer.model, "responseId": f"fake{answer.number}"}
    if counted and answer.usage:
        body["usageMetadata"] = usage(answer.usage)
    return body


def _thoughts(answer: Answer) -> list[dict[str, Any]]:
    return [{"text": answer.thinking, "thought": True}] if answer.thinking else []


def _text(text: str) -> list[dict[str, Any]]:
    return [{"text": text}]


def _calls(answer: Answer) -> list[dict[str, Any]]:
    return [{"functionCall": {"name": tool.name, "args": tool.arguments}} for tool in answer.tools]
