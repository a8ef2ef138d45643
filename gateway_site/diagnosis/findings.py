"""What a finding is, how grave it is, and how it is worded."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

NAMED_AT_MOST = 3


class Severity(StrEnum):
    """How much a finding matters: an error is broken or dangerous, a warning will be, a note is good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: what, and how to mend it, in a line each."""

    severity: Severity
    subject: str
    problem: str
    remedy: str

    def as_dict(self) -> dict[str, str]:
        """The fields, for JSON."""
        return asdict(self)


def error(subject: str, problem: str, remedy: str) -> Finding:
    """Something that is broken or dangerous."""
    return Finding(Severity.ERROR, subject, problem, remedy)


def warning(subject: str, problem: str, remedy: str) -> Finding:
    """Something that will be trouble."""
    return Finding(Severity.WARNING, subject, problem, remedy)


def note(subject: str, problem: str, remedy: str) -> Finding:
    """Something that is good to know."""
    return Finding(Severity.NOTE, subject, problem, remedy)


def counted(number: object, noun: str) -> str:
    """A number with its noun: `1 event`, `2 events`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def first_line(problem: Exception) -> str:
    """What an exception says, in one line and without a full stop."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[0].rstrip(".")
