"""Request ids: UUIDv7 (RFC 9562), so that ids sort by time and a month of them is one range."""

import os
import uuid
from datetime import datetime


def uuid7(unix_milliseconds: int) -> uuid.UUID:
    """Make an id for this moment, with 74 random bits."""
    return uuid.UUID(bytes=_layout(unix_milliseconds, os.urandom(10)))


def lowest_uuid7(moment: datetime) -> uuid.UUID:
    """The bound below every id made at `moment` or later: where a month's partition begins."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)


def moment_of(request_id: uuid.UUID) -> float:
    """The unix time (seconds) an id was made at."""
    return (request_id.int >> 80) / 1000


def _layout(milliseconds: int, random: bytes) -> bytes:
    return milliseconds.to_bytes(6, "big") + bytes((0x70 | random[0] & 0x0F, random[1], 0x80 | random[2] & 0x3F)) + random[3:]
