"""How counts of tokens are read, whatever the format: one at a time, and against each other. What does not hold is noted, never passed over. Pure."""

from typing import Any

from catalog.usage import LARGEST_COUNT, TokenUsage


class UnreadableCount(ValueError):
    """A count is none; `doubt` is what it breaks (of `catalog.usage.UNREADABLE`)."""

    def __init__(self, doubt: str) -> None:
        super().__init__(doubt)
        self.doubt = doubt

    @property
    def usage(self) -> TokenUsage:
        """What stands for the whole usage then: nothing that could be believed, and why."""
        return TokenUsage(doubts=(self.doubt,))


def take_count(value: Any, default: int = 0) -> int:
    """A count of tokens; `default` where there is none. Raises: UnreadableCount."""
    if value is None:
        return default
    if type(value) is not int:  # true and false are no counts
        if not isinstance(value, float) or value != value or value in (float("inf"), float("-inf")) or value != int(value):
            raise UnreadableCount("usage_not_a_count")
        value = int(value)
    if value < 0:
        raise UnreadableCount("usage_negative")
    if value > LARGEST_COUNT:
        raise UnreadableCount("usage_too_large")
    return int(value)


class Doubts:
    """What one usage breaks, collected while it is read."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: list[str] = []

    @property
    def found(self) -> tuple[str, ...]:
        """The names of what does not hold, each once."""
        return tuple(dict.fromkeys(self._found))

    def note(self, doubt: str) -> None:
        """Remember one."""
        self._found.append(doubt)

    def expect(self, doubt: str, *, holds: bool) -> None:
        """Remember one unless it `holds`."""
        if not holds:
            self._found.append(doubt)
