"""Which routes and provider keys are worth trying: counts failures, cools down, probes again. Pure state; `now` is monotonic seconds.

A route opens its breaker after three failures in a row and is tried once when the cool-down ends; a wait the provider asked for is kept; a
key refused three times in a row, or out of money, rests longer. What is cooling is tried all the same when nothing else is left, so that a
gateway with one provider never refuses by its own guess, except while the provider itself asked to wait.
"""

from dataclasses import dataclass
from enum import IntEnum

from proxy import failures

FAILURES_TO_OPEN = 3
COOL_DOWN_SECONDS = 10.0
LONGEST_COOL_DOWN_SECONDS = 300.0
MOST_DOUBLINGS = 10  # beyond the longest anyway, and a route may fail for weeks
LONGEST_WAIT_SECONDS = 60.0
REFUSED_KEY_SECONDS = 300.0
Subject = tuple[str, object]


class State(IntEnum):
    """Lower is better."""

    HEALTHY = 0
    COOLING = 1
    ASKED_TO_WAIT = 2


@dataclass(slots=True)
class _Record:
    failures: int = 0
    opened: int = 0
    until: float = 0.0
    asked_to_wait: bool = False


class Health:
    """The memory of one process. Subjects are ("route", id) and ("key", id)."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, object], _Record] = {}

    def state(self, subject: tuple[str, object], now: float) -> State:
        """How this subject stands."""
        record = self._records.get(subject)
        if record is None or now >= record.until:
            return State.HEALTHY
        return State.ASKED_TO_WAIT if record.asked_to_wait else State.COOLING

    def seconds_left(self, subject: tuple[str, object], now: float) -> float:
        """How long until this subject is healthy again."""
        record = self._records.get(subject)
        return max(0.0, record.until - now) if record is not None else 0.0

    def resting(self, now: float) -> list[tuple[Subject, float, bool]]:
        """What is not tried first now: (subject, seconds left, whether the provider asked for it)."""
        return [(subject, record.until - now, record.asked_to_wait) for subject, record in self._records.items() if now < record.until]

    def forget(self, subject: Subject) -> None:
        """Close this subject's breaker: it is healthy until it fails again."""
        self._records.pop(subject, None)

    def note_success(self, route: int, key: str | None) -> None:
        """An answer arrived: both are healthy."""
        if self._records:
            self._records.pop(("route", route), None)
            self._records.pop(("key", key), None)

    def note_failure(self, route: int, key: str | None, failure: failures.UpstreamFailure, now: float) -> None:
        """An attempt failed: blame the key or the route."""
        if isinstance(failure, failures.ProviderKeyRefused):
            record = self._records.setdefault(("key", key), _Record())
            record.failures += 1
            if failure.out_of_money or record.failures >= FAILURES_TO_OPEN:
                record.until = now + REFUSED_KEY_SECONDS
            return
        record = self._records.setdefault(("route", route), _Record())
        if isinstance(failure, failures.ProviderBusy):
            wait = failure.retry_after_seconds if failure.retry_after_seconds is not None else COOL_DOWN_SECONDS / 10
            record.until = max(record.until, now + min(wait, LONGEST_WAIT_SECONDS))
            record.asked_to_wait = failure.retry_after_seconds is not None
            return
        record.failures += 1
        record.asked_to_wait = False
        if record.failures >= FAILURES_TO_OPEN:
            record.until = now + min(COOL_DOWN_SECONDS * 2**record.opened, LONGEST_COOL_DOWN_SECONDS)
            record.opened = min(record.opened + 1, MOST_DOUBLINGS)
            record.failures = FAILURES_TO_OPEN - 1  # the probe after the cool-down decides alone
