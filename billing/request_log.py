"""The log of an account's requests: its usage records, newest first, page by page, narrowed as asked. Queries only.

Pages are keyed by the place of their last row (start and id), not by number: each costs the same however deep it lies, and rows that arrive
meanwhile shift nothing.
"""

import base64
import binascii
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db.models import Q, QuerySet

from accounts.models import Account
from billing.models import UsageRecord
from billing.reports import ID_MARGIN, InvalidParameter, Period
from gateway_site.identifiers import lowest_uuid7, moment_of

PAGE_ROWS = 50
MOST_ROWS = 500


@dataclass(frozen=True, slots=True)
class Search:
    """What the log is narrowed to; None or an empty text is everything. `request_id` may be the first characters of one."""

    period: Period | None = None
    model: str = ""
    key_id: int | None = None
    provider: str = ""
    status: str = ""
    user_tag: str = ""
    request_id: str = ""


EVERYTHING = Search()


@dataclass(frozen=True, slots=True)
class Page:
    """Some records, newest first, and where the next page begins: pass that as `after`; None on the last page."""

    records: list[UsageRecord]
    next: str | None


def page(*, account: Account, search: Search = EVERYTHING, after: str | None = None, rows: int = PAGE_ROWS) -> Page:
    """One page of the log. Each record comes with its key.

    Raises: billing.reports.InvalidParameter for a request id or a place that cannot be read.
    """
    rows = max(1, min(rows, MOST_ROWS))
    found = matching(account=account, search=search)
    if after:
        started_at, request_id = _read_place(after)
        # The first condition says nothing new, but is one that an index and the partitions understand.
        found = found.filter(Q(started_at__lt=started_at) | Q(request_id__lt=request_id), started_at__lte=started_at)
        found = found.filter(request_id__lt=lowest_uuid7(started_at + ID_MARGIN))
    records = list(found.select_related("key")[: rows + 1])
    has_more = len(records) > rows
    records = records[:rows]
    return Page(records, _place(records[-1]) if has_more else None)


def matching(*, account: Account, search: Search = EVERYTHING) -> QuerySet[UsageRecord]:
    """All records that a search finds, newest first.

    Raises: billing.reports.InvalidParameter for a request id that cannot be one, and for text that no column holds.
    """
    found = UsageRecord.objects.filter(account=account)
    if search.period is not None:
        found = found.filter(
            started_at__gte=search.period.starts_at,
            started_at__lt=search.period.ends_at,
            request_id__gte=lowest_uuid7(search.period.starts_at - ID_MARGIN),
            request_id__lt=lowest_uuid7(search.period.ends_at + ID_MARGIN),
        )
    if search.request_id:
        lowest, highest = _range_of(search.request_id)
        found = found.filter(request_id__gte=lowest, request_id__lte=highest)
        # An id says when it was made: with that the account's own index leads there, whatever else is asked.
        if len(search.request_id.replace("-", "")) >= 12:
            try:
                made = datetime.fromtimestamp(moment_of(lowest), UTC)
            except (ValueError, OverflowError):
                return found.none()  # a moment that no calendar has
            found = found.filter(started_at__gte=made - ID_MARGIN, started_at__lte=made + ID_MARGIN + timedelta(seconds=1))
    if search.key_id is not None:
        found = found.filter(key_id=search.key_id)
    for name in ("model", "provider", "status", "user_tag"):
        if wanted := getattr(search, name):
            if "\0" in wanted:
                raise InvalidParameter(name, "Has a character in it that no name has.")
            found = found.filter(**{name: wanted})
    return found.order_by("-started_at", "-request_id")


def _range_of(text: str) -> tuple[uuid.UUID, uuid.UUID]:
    """The lowest and the highest id that begin with `text`."""
    digits = text.strip().lower().replace("-", "")
    if not digits or len(digits) > 32 or not set(digits) <= set("0123456789abcdef"):
        raise InvalidParameter("request_id", "Must be a request's id, or how one begins.")
    return uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f"))


def _place(record: UsageRecord) -> str:
    text = f"{record.started_at.astimezone(UTC).isoformat()}|{record.request_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_place(text: str) -> tuple[datetime, uuid.UUID]:
    try:
        moment, _, request_id = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition("|")
        started_at = datetime.fromisoformat(moment)
        if started_at.tzinfo is None:
            raise ValueError(moment)
        lowest_uuid7(started_at + ID_MARGIN)  # a moment that no request has would fail there later
        return started_at.astimezone(UTC), uuid.UUID(request_id)
    except (ValueError, OverflowError, binascii.Error):
        raise InvalidParameter("after", "Is not a place in this log.") from None
