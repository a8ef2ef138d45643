"""What a row of the table says, and the words that rows share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

INVALID, AUTH, QUOTA, SERVER = "invalid_request_error", "authentication_error", "insufficient_quota", "server_error"
NO_RETRY = (("x-should-retry", "false"),)


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table; `say` makes the message (and `more` what else) from the condition's data."""

    status: int
    type: str
    code: str
    label: str
    when: str
    remedy: str
    say: Callable[[Any], str]
    more: Callable[[Any], Mapping[str, Any]] = field(default=lambda _: {})


def retry_after(seconds: float) -> tuple[tuple[str, str], ...]:
    """The headers that say when to ask again: in whole seconds, never sooner, and in milliseconds."""
    return (("retry-after", str(max(1, -int(-seconds // 1)))), ("retry-after-ms", str(max(1, int(seconds * 1000)))))
