"""Google's error object for one of the gateway's. Pure."""

import re
from collections.abc import Mapping
from typing import Any

_STATUS_OF = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 402: "FAILED_PRECONDITION", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED", 409: "ABORTED", 413: "INVALID_ARGUMENT", 422: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED", 502: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
_CODE_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "insufficient_quota": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "overloaded_error": 503,
    "timeout_error": 504,
}


def _inner(error: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = error.get("error")
    return inner if isinstance(inner, Mapping) else error


def code_of(error: Mapping[str, Any]) -> int:
    """The HTTP status that an error inside a stream would have had."""
    inner = _inner(error)
    code, kind = inner.get("code"), inner.get("type")
    if type(code) is int and 400 <= code < 600:
        return code
    return _CODE_OF.get(kind, 500) if isinstance(kind, str) else 500


def render_error(error: Mapping[str, Any], status: int, request_id: str) -> dict[str, Any]:
    """Google's error object for one of the gateway's (OpenAI's shape, with or without its outer `error`) and its HTTP status."""
    inner = _inner(error)
    code = inner.get("code")
    reason = re.sub(r"[^A-Z0-9_]", "_", str(code or inner.get("type") or "error").upper())[:63]
    param = inner.get("param")
    details: list[dict[str, Any]] = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": "gateway",
            "metadata": {"param": param} if isinstance(param, str) and param else {},
        }
    ]
    if request_id:
        details.append({"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": request_id})
    message = inner.get("message")
    return {
        "error": {
            "code": status,
            "message": message if isinstance(message, str) else "The request failed.",
            "status": _STATUS_OF.get(status, "INVALID_ARGUMENT" if 400 <= status < 500 else "INTERNAL"),
            "details": details,
        }
    }
