"""The one table of errors: which condition becomes which status, type, code and message, and how a client's format shows it.

Its rows stand in the module of their status. `docs/errors.md` is generated from it (`python -m tools.build_error_docs`), and a test compares
the two.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from proxy import failures
from proxy.errors import access, conflicts, faults, limits, missing, request
from proxy.errors.conditions import (
    BodyTooLarge,
    BodyTooSlow,
    CostAboveMaximum,
    EndpointNotAllowed,
    ModelNotAllowed,
    ModelTooDear,
    NoSuchRoute,
    NotJson,
    OperationNotFound,
    ServerRestarting,
    WalletRanOut,
    WrongEndpoint,
)
from proxy.errors.faults import INTERNAL
from proxy.errors.row import NO_RETRY, Entry

__all__ = [
    "HELP_URL",
    "INTERNAL",
    "TABLE",
    "BodyTooLarge",
    "BodyTooSlow",
    "CostAboveMaximum",
    "EndpointNotAllowed",
    "Entry",
    "ModelNotAllowed",
    "ModelTooDear",
    "NoSuchRoute",
    "NotJson",
    "OperationNotFound",
    "Problem",
    "ServerRestarting",
    "WalletRanOut",
    "WrongEndpoint",
    "describe",
    "render",
    "render_bytes",
]

HELP_URL = "/docs/errors#"

TABLE: dict[type[Exception], Entry] = {
    **request.ROWS,
    **access.ROWS,
    **limits.ROWS,
    **missing.ROWS,
    **conflicts.ROWS,
    **faults.ROWS,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One error as a client sees it."""

    status: int
    type: str
    code: str
    label: str  # the upper-case code of the envelope
    message: str
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


def describe(condition: BaseException) -> Problem:
    """The row of the table for a condition; what is not in it is an internal error."""
    entry = next((TABLE[kind] for kind in type(condition).__mro__ if kind in TABLE), INTERNAL)
    more = entry.more(condition)
    headers = tuple(more.get("headers", ()))
    if isinstance(condition, failures.Unanswered) and condition.attempts:
        headers += (("x-gateway-attempts", str(condition.attempts)),)
        if condition.attempts > 1 and entry.status in (502, 503, 504) and NO_RETRY[0] not in headers:
            headers += NO_RETRY  # every route was tried: the SDKs' own retries would only multiply the load
    return Problem(
        status=more.get("status", entry.status),
        type=entry.type,
        code=more.get("code", entry.code),
        label=entry.label,
        message=entry.say(condition),
        param=more.get("param"),
        headers=headers,
    )


def render(problem: Problem, request_id: str) -> dict[str, Any]:
    """The error body in OpenAI's shape, a superset that serves every client of the formats we started from."""
    return {
        "success": False,
        "code": problem.label,
        "error": {
            "message": problem.message,
            "type": problem.type,
            "param": problem.param,
            "code": problem.code,
            "request_id": request_id,
            "help_url": HELP_URL + problem.code,
        },
    }


def render_bytes(problem: Problem, request_id: str) -> bytes:
    """`render` as JSON."""
    return orjson.dumps(render(problem, request_id))
