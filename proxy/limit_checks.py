"""What a rate limiter is asked and what it answers, whoever counts: `rate_limits.lua` in Valkey, or `proxy.local_buckets` beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WINDOW_SECONDS: Final = 60
REQUESTS: Final = 1
TOKENS: Final = 2
CONCURRENCY: Final = 3
FREE: Final = 4
FREE_OR_PAID: Final = 5
DAY_SECONDS: Final = 86_400
ANSWER_LENGTH: Final = 9

Check = tuple[int, str, int, str]
"""Kind, Valkey key, limit, subject."""
Answer = Sequence[int]
"""Refusing check (0 = admitted), ms to wait, then check, remaining, ms to reset for requests and for tokens, and the day whose free requests
it was counted in (negative: by this process alone). Empty for a finish."""


@dataclass(slots=True)
class Operation:
    """One admission, or one finish if `seconds` is negative: then it is -tokens - 1 (or -day - 1), as the script wants it."""

    account: int
    request_id: str
    seconds: int
    checks: list[Check]
    now_ms: int
