"""What the commands about keys read from their command line: lists, durations and moments."""

import argparse
import re
from datetime import UTC, date, datetime, time, timedelta

_DURATION = re.compile(r"([0-9]{1,5})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(text: str) -> timedelta:
    """Read "90d", "24h", "30m", "0"."""
    if text == "0":
        return timedelta()
    found = _DURATION.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 24h, 90d or 0")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def moment(text: str) -> datetime | timedelta:
    """Read a day ("2027-01-31": its first moment in UTC), a moment ("2027-01-31T12:00+01:00"; without a zone: UTC) or a time from now."""
    if _DURATION.fullmatch(text):
        return duration(text)
    try:
        if len(text) == len("2027-01-31"):
            return datetime.combine(date.fromisoformat(text), time(), tzinfo=UTC)
        read = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a day such as 2027-01-31, nor a moment, nor a duration such as 90d"
        ) from None
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)


def names(text: str) -> list[str]:
    """Read names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
