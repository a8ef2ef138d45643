"""The inbox of Stripe's events: stored once, committed, then acknowledged; done right afterwards, and by a task what is left.

An attempt claims its event by a compare-and-set that leases it for a while, so that a crash at any point means another attempt later. All
handlers converge, so two attempts at once would do no harm.
"""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import structlog
from django.conf import settings
from django.db import DataError, connection, transaction
from django.db.models import F
from django.utils import timezone

from billing.models import StripeEvent
from billing.payments import events, news, signatures, stripe_client

log = structlog.get_logger(__name__)

LARGEST_BODY = 512 * 1024
DEEPEST = 64
LEASE = timedelta(seconds=30)
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(hours=1)
MOST_ATTEMPTS = 60  # two days and a half; then a person looks
LONGEST_ERROR = 2000
WAITING_AT_MOST = 200
_ID = re.compile(r"[A-Za-z0-9_]{3,100}", re.ASCII)
_TYPE = re.compile(r"[a-z0-9_.]{1,100}", re.ASCII)
_DUE = (StripeEvent.State.RECEIVED, StripeEvent.State.FAILED)


class NoSecrets(Exception):
    """STRIPE_WEBHOOK_SECRETS is not set: nobody can be believed."""


class InvalidEvent(Exception):
    """The bytes are no event that can be stored."""


# -- Receiving -----------------------------------------------------------------------------------------------------------------------


def receive(*, body: bytes, signature: str, now: datetime) -> str:
    """Store a signed event, committed, and return its id; one that is here already stays as it is.

    Raises: NoSecrets, signatures.InvalidSignature, InvalidEvent; django.db.Error when it could not be stored.
    """
    if not settings.STRIPE_WEBHOOK_SECRETS:
        raise NoSecrets
    signatures.verify(body=body, header=signature, secrets=settings.STRIPE_WEBHOOK_SECRETS, now=now)
    payload = read(body)
    store(payload=payload, source="webhook", now=now)
    return str(payload["id"])


def read(body: bytes) -> dict[str, Any]:
    """Read an event from JSON. Raises: InvalidEvent for anything that is none, or that the database could not hold."""
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent("the body is not JSON in UTF-8") from error
    if not isinstance(payload, dict) or payload.get("object") != "event":
        raise InvalidEvent("this is no event of the snapshot kind")
    if not _matches(_ID, payload.get("id")) or not _matches(_TYPE, payload.get("type")):
        raise InvalidEvent("the event has no id or no type")
    data = payload.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("object"), dict) or not isinstance(payload.get("livemode"), bool):
        raise InvalidEvent("the event has no data.object, or no livemode")
    _check_storable(payload)
    return payload


def store(*, payload: dict[str, Any], source: str, now: datetime) -> bool:
    """Put an event into the inbox, unless it is there; returns whether it was new.

    One of the other mode (test, live), or of another major version of the API, is stored for staff to decide.

    Raises: InvalidEvent, django.db.Error.
    """
    found = payload["data"]["object"]
    problem = _problem(payload, source)
    object_id = found.get("id")
    event = StripeEvent(
        id=payload["id"],
        type=payload["type"],
        object_id=object_id if _matches(_ID, object_id) else "",
        api_version=str(payload.get("api_version") or "")[:40],
        is_live=payload["livemode"],
        payload=payload,
        source=source,
        state=StripeEvent.State.QUARANTINED if problem else StripeEvent.State.RECEIVED,
        last_error=problem,
        next_try_at=now,
        created_at=_moment(payload.get("created"), now),
        received_at=now,
    )
    try:
        with transaction.atomic():
            before = StripeEvent.objects.filter(pk=event.pk).exists()
            StripeEvent.objects.bulk_create([event], ignore_conflicts=True)
            if problem and not before:
                _tell(event, problem, now)
    except DataError as error:
        raise InvalidEvent("the database cannot hold this event") from error
    return not before


def _problem(payload: dict[str, Any], source: str) -> str:
    if payload["livemode"] != stripe_client.is_live():
        return f"It is of {'live' if payload['livemode'] else 'test'} mode, the configured key is not."
    version = str(payload.get("api_version") or "")
    # Releases within one major version (the name after the date) are compatible. What is listed keeps the version of when it was made,
    # and of it only the kind and the id are read.
    if source == "webhook" and version.partition(".")[2] != stripe_client.API_VERSION.partition(".")[2]:
        return f"It is of API version {version or '?'}; set the endpoint at Stripe to {stripe_client.API_VERSION}."
    return ""


def _check_storable(value: Any) -> None:
    """Refuse what jsonb cannot hold: NUL characters; and nesting that no event has. Raises: InvalidEvent."""
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        if depth > DEEPEST:
            raise InvalidEvent("the event is nested too deeply")
        if isinstance(one, str) and "\0" in one:
            raise InvalidEvent("the event has a NUL character in it")
        if isinstance(one, float) and not -1e300 < one < 1e300:
            raise InvalidEvent("the event has a number in it that is none")
        if isinstance(one, dict):
            waiting += [(part, depth + 1) for pair in one.items() for part in pair]
        elif isinstance(one, list):
            waiting += [(part, depth + 1) for part in one]


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _moment(seconds: Any, now: datetime) -> datetime:
    """When Stripe made it; now for what is no moment."""
    return datetime.fromtimestamp(seconds, tz=UTC) if isinstance(seconds, int) and 0 < seconds < 2**33 else now


# -- Doing what it asks for ----------------------------------------------------------------------------------------------------------


def attempt(event_id: str, *, now: datetime) -> StripeEvent.State | None:
    """Handle an event that is due, unless somebody else is at it; returns the state it is in then, None when there was nothing to do."""
    due = StripeEvent.objects.filter(pk=event_id, state__in=_DUE, next_try_at__lte=now)
    if not due.update(attempts=F("attempts") + 1, next_try_at=now + LEASE):
        return None
    event = StripeEvent.objects.get(pk=event_id)
    notice = events.Notice(id=event.pk, type=event.type, object_id=event.object_id, object=event.payload["data"]["object"])
    try:
        ours = events.handle(notice, now=now)
    except events.Undecidable as problem:
        return _close(event, StripeEvent.State.QUARANTINED, str(problem), now)
    except Exception as error:
        expected = isinstance(error, (stripe_client.StripeUnavailable, stripe_client.StripeRefused, stripe_client.NotConfigured))
        log.warning(
            "stripe_event_failed", stripe_event=event.pk, type=event.type, attempts=event.attempts, error=str(error), exc_info=not expected
        )
        text = f"{type(error).__name__}: {error}"
        if event.attempts >= MOST_ATTEMPTS:
            return _close(event, StripeEvent.State.QUARANTINED, text, now)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(event.attempts - 1, 16))
        StripeEvent.objects.filter(pk=event.pk).update(
            state=StripeEvent.State.FAILED, next_try_at=now + pause, last_error=text[:LONGEST_ERROR]
        )
        return StripeEvent.State.FAILED
    return _close(event, StripeEvent.State.DONE if ours else StripeEvent.State.IGNORED, "", now)


def drain(*, now: datetime, limit: int) -> int:
    """Handle the events that are due, those that wait longest first, at most `limit`; returns how many were handled, well or not."""
    due = StripeEvent.objects.filter(state__in=_DUE, next_try_at__lte=now).order_by("next_try_at").values_list("pk", flat=True)[:limit]
    return sum(attempt(event_id, now=now) is not None for event_id in list(due))


def replay(*, event_id: str, now: datetime) -> StripeEvent.State | None:
    """Handle an event again, whatever became of it before: nothing is doubled. Returns the state it is in then."""
    StripeEvent.objects.filter(pk=event_id).update(state=StripeEvent.State.RECEIVED, attempts=0, next_try_at=now, last_error="")
    return attempt(event_id, now=now)


def _close(event: StripeEvent, state: StripeEvent.State, error: str, now: datetime) -> StripeEvent.State:
    with transaction.atomic():
        StripeEvent.objects.filter(pk=event.pk).update(state=state, last_error=error[:LONGEST_ERROR], done_at=now)
        if state == StripeEvent.State.QUARANTINED:
            _tell(event, error, now)
    return state


def _tell(event: StripeEvent, problem: str, now: datetime) -> None:
    news.tell_staff(
        event="staff.quarantined",
        dedupe_key=f"stripe_event:{event.pk}",
        context={"summary": f"Stripe's event {event.pk} ({event.type}) waits for a decision.", "details": problem},
        now=now,
    )


# -- Right afterwards ----------------------------------------------------------------------------------------------------------------


class _Attempts:
    """The threads of this process that handle what has just come, so that an acknowledgement waits for nobody and the credit for no task."""

    def __init__(self) -> None:
        self._room = threading.BoundedSemaphore(WAITING_AT_MOST)
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="stripe-inbox")

    def submit(self, event_id: str) -> None:
        """Have an attempt made soon; when many wait already, the task will make it."""
        if not self._room.acquire(blocking=False):
            return
        try:
            self._pool.submit(self._run, event_id)
        except RuntimeError:  # the process ends
            self._room.release()

    def _run(self, event_id: str) -> None:
        try:
            attempt(event_id, now=timezone.now())
        except Exception as error:
            log.warning("stripe_event_not_attempted", stripe_event=event_id, error=str(error))
        finally:
            connection.close()  # of this thread: it may rest for days
            self._room.release()


_attempts: _Attempts | None = None
_making = threading.Lock()


def wake(event_id: str) -> None:
    """Have an event handled soon, in a thread of this process."""
    global _attempts
    with _making:
        _attempts = _attempts or _Attempts()
    _attempts.submit(event_id)
