"""How an error looks in each client's format."""

from typing import Any

import orjson

from proxy import errors
from proxy.formats import anthropic_messages, gemini
from proxy.formats.base import FormatName


def format_of(path: str) -> FormatName:
    """The format that is spoken at an address."""
    if path.startswith(("/v1/messages", "/api/v1/messages")):
        return "messages"
    if path.startswith(("/v1beta/", "/v1beta1/", "/v1/publishers/", "/v1/projects/", "/v1/operations/", "/v1/files/")):
        return "gemini"
    if path.startswith("/v1/models/") and (":" in path or "/operations/" in path):
        return "gemini"
    return "chat"


def render(problem: errors.Problem, request_id: str, path: str) -> bytes:
    """The error body for a client that called this address."""
    return orjson.dumps(shape(problem, request_id, path))


def shape(problem: errors.Problem, request_id: str, path: str) -> dict[str, Any]:
    """The same, not yet written as JSON."""
    body = errors.render(problem, request_id)
    match format_of(path):
        case "messages":
            return anthropic_messages.render_error(body, problem.status, request_id)
        case "gemini":
            return gemini.render_error(body, problem.status, request_id)
        case _:
            return body
