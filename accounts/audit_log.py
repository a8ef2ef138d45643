"""The audit log as it is read: the events of one account page by page, the latest first, without counting them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from accounts.models import Account, AuditEvent

PAGE = 50
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NoSuchPlace(Exception):
    """The place to read from is not one that a page gave out."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some events, and the place where the older ones begin (empty: there are none)."""

    events: tuple[AuditEvent, ...]
    older: str


def page(account: Account, *, before: str = "") -> Page:
    """Read the events before a place that an earlier page gave out. Raises: NoSuchPlace."""
    events = AuditEvent.objects.filter(account=account).order_by("-at", "-id")
    if before:
        at, event_id = _read(before)
        events = events.extra(where=["(at, id) < (%s, %s)"], params=[at, event_id])  # a row comparison, which the ORM lacks
    found = list(events[: PAGE + 1])
    shown = found[:PAGE]
    return Page(tuple(shown), _place(shown[-1]) if len(found) > PAGE else "")


def _place(event: AuditEvent) -> str:
    return f"{(event.at - _EPOCH) // timedelta(microseconds=1)}-{event.pk}"


def _read(place: str) -> tuple[datetime, int]:
    microseconds, _, event_id = place.partition("-")
    if not (microseconds.isdecimal() and event_id.isdecimal()) or len(place) > 40:
        raise NoSuchPlace
    try:
        return _EPOCH + timedelta(microseconds=int(microseconds)), int(event_id)
    except OverflowError:
        raise NoSuchPlace from None
