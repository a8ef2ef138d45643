"""Owns the giving of a shape: one neutral answer written as any provider's API would write it, whole or streamed."""

from typing import Any

from tests.fakes.provider.answers import Answer
from tests.fakes.provider.asking import Ask
from tests.fakes.provider.shapes import chat, gemini, messages, responses, small
from tests.fakes.provider.shapes.event import Event

STREAMED = ("chat", "messages", "responses", "gemini", "other")


def whole(answer: Answer, ask: Ask) -> Any:
    """Return the body of the answer as JSON values. A path of no known shape gets chat's."""
    match ask.shape:
        case "messages":
            return messages.whole(answer)
        case "responses":
            return responses.whole(answer)
        case "gemini":
            return gemini.whole(answer)
        case "embeddings":
            return small.embeddings(answer, ask)
        case "images":
            return small.images(answer, ask)
        case "count_tokens":
            return small.count_tokens(answer)
        case "gemini_countTokens":
            return small.gemini_count(answer)
        case "gemini_embedContent":
            return small.gemini_embedding(ask)
        case "gemini_batchEmbedContents":
            return small.gemini_embeddings(ask)
        case "gemini_predict":
            return small.gemini_prediction(answer)
        case "gemini_predictLongRunning":
            return small.gemini_operation(ask.model)
        case "models":
            return small.models()
        case _:
            return chat.whole(answer)


def events(answer: Answer, ask: Ask) -> list[Event]:
    """Return the events of the streamed answer, in order."""
    match ask.shape:
        case "messages":
            return messages.events(answer)
        case "responses":
            return responses.events(answer)
        case "gemini":
            return gemini.events(answer)
        case _:
            return chat.events(answer, ask)


def error(shape: str, status: int, message: str, kind: str = "", code: str | None = None) -> dict[str, Any]:
    """Return an error body as the API of that shape writes it."""
    if shape in ("messages", "count_tokens"):
        return {
            "type": "error",
            "error": {"type": kind or _ANTHROPIC.get(status, "api_error"), "message": message},
            "request_id": "req_fake",
        }
    if shape.startswith("gemini"):
        return {"error": {"code": status, "message": message, "status": _GOOGLE.get(status, "INTERNAL")}}
    return {"error": {"message": message, "type": kind or _OPENAI.get(status, "server_error"), "param": None, "code": code}}


def error_event(shape: str, status: int, message: str, kind: str = "", code: str | None = None) -> tuple[str, dict[str, Any]]:
    """Return (event name, JSON) of an error inside a stream of that shape."""
    body = error(shape, status, message, kind, code)
    if shape == "messages":
        return "error", body
    if shape == "responses":
        return "error", {"type": "error", "sequence_number": 99, "code": code or "server_error", "message": message, "param": None}
    return "", body


_OPENAI = {
    400: "invalid_request_error", 401: "invalid_request_error", 402: "insufficient_balance", 403: "permission_error",
    404: "invalid_request_error", 408: "timeout_error", 409: "conflict_error", 413: "invalid_request_error",
    422: "invalid_request_error", 429: "tokens", 529: "overloaded_error",
}  # fmt: skip
_ANTHROPIC = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
    408: "timeout_error", 409: "conflict_error", 413: "request_too_large", 422: "invalid_request_error", 429: "rate_limit_error",
    504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip
_GOOGLE = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 408: "DEADLINE_EXCEEDED", 409: "ABORTED",
    413: "INVALID_ARGUMENT", 422: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 502: "UNAVAILABLE", 503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED", 529: "UNAVAILABLE",
}  # fmt: skip
