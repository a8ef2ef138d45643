"""What the demo provider turns down, in the words of an OpenAI error, and the models that always fail."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from proxy.providers.demo import script


class Refused(Exception):
    """The body is one that a provider turns down."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status

    def body(self) -> dict[str, Any]:
        return _error(self.message, "invalid_request_error", self.param, self.code)


@dataclass(frozen=True, slots=True)
class _Failure:
    """A model that always fails, so that clients can try their retries."""

    status: int
    type: str
    code: str | None
    message: str
    headers: tuple[tuple[str, str], ...] = ()

    def body(self, model: str) -> dict[str, Any]:
        return _error(self.message.format(model=model), self.type, None, self.code)


FAILURES: Final = {
    "error-429": _Failure(
        429,
        "requests",
        "rate_limit_exceeded",
        "Rate limit reached for {model} on requests per min (RPM): Limit 1, Used 1, Requested 1. Please try again in 1s.",
        (("retry-after", "1"),),
    ),
    "error-500": _Failure(
        500,
        "server_error",
        None,
        "The server had an error while processing your request. Sorry about that!",
    ),
}


def _error(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _kind(value: Any) -> str:
    """Name a JSON type in the words of an OpenAI error."""
    if value is None:
        return "null"
    names = ((bool, "a boolean"), (int, "an integer"), (float, "a decimal"), (str, "a string"), (Mapping, "an object"))
    return next((name for kind, name in names if isinstance(value, kind)), "an array")


def missing(param: str) -> Refused:
    """Turn down a body without `param`."""
    return Refused(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def wrong_type(param: str, expected: str, value: Any) -> Refused:
    """Turn down a value of another type; `expected` has its article ("a string")."""
    return Refused(f"Invalid type for '{param}': expected {expected}, but got {_kind(value)} instead.", param, "invalid_type")


def wrong_value(param: str, value: Any, supported: Iterable[str]) -> Refused:
    """Turn down a value that is none of those supported."""
    names = ", ".join(f"'{name}'" for name in supported)
    shown = value[:64] if isinstance(value, str) else script.compact(value)[:64]
    return Refused(f"Invalid value: '{shown}'. Supported values are: {names}.", param, "invalid_value")
