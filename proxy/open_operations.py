"""Open operations: those that a provider accepted and whose end nobody has seen. Where no client asks, the gateway does, and pays back.

A row is written before the order is charged. It goes when a poll or a look of our own has found the end, and what was not delivered is paid
back; whoever dies in between leaves the row to the next look, and paying back twice pays once (`billing.undelivered`). The data plane comes
here over a lane of its own, the task over Django's connection.
"""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F

from billing import undelivered
from catalog import snapshot
from catalog.snapshot import ProviderEntry
from gateway_site.clients import DatabaseUnavailable, Lane
from proxy import endings, envelopes, failures
from proxy.errors import OperationNotFound
from proxy.models import OpenOperation
from proxy.operations import Names, Operation
from proxy.upstream import Upstream

log = structlog.get_logger(__name__)

FIRST_WAIT = timedelta(minutes=15)  # whoever waits for a video has asked by then
LONGEST_WAIT = timedelta(hours=6)
GIVEN_UP_AFTER = timedelta(days=3)  # Google keeps operations for about two
NOTE_PAUSES = (0.4, 0.8, 1.6)  # seconds; longer than a lane that has failed fails at once
AT_ONCE = 4  # looks at a time: the answer to one may have the videos in it
LOOK_SECONDS = 20.0

NOTE = """INSERT INTO proxy_openoperation (request_id, account_id, name, created_at, next_look_at, looks) VALUES (%s, %s, %s, %s, %s, 0)
    ON CONFLICT (request_id) DO NOTHING RETURNING request_id"""
FORGET = "DELETE FROM proxy_openoperation WHERE request_id = %s RETURNING request_id"


class OpenOperations:
    """The data plane's way to open operations. What cannot be written is logged: a client that polls is paid back all the same."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def note(self, request_id: uuid.UUID, name: str, *, account_id: int, now: datetime) -> None:
        """Write down that the operation is open, under the `name` that its account knows it by.

        Tried again for a few seconds: after a restart of PostgreSQL the first statement of a lane fails, and what is not written down is only
        paid back when somebody asks.
        """
        for pause in (*NOTE_PAUSES, None):
            try:
                await self._lane.fetch(NOTE, [request_id, account_id, name, now, now + FIRST_WAIT])
            except (DatabaseUnavailable, psycopg.Error) as error:
                if pause is None:
                    log.warning("open_operation_not_noted", request_id=str(request_id), error=str(error))
                else:
                    await asyncio.sleep(pause)
            else:
                return

    async def forget(self, request_id: uuid.UUID) -> None:
        """Its end was seen, and nothing is owed any more."""
        try:
            await self._lane.fetch(FORGET, [request_id])
        except (DatabaseUnavailable, psycopg.Error) as error:  # the next look finds the same end
            log.info("open_operation_not_forgotten", request_id=str(request_id), error=str(error))


@dataclass(frozen=True, slots=True)
class Round:
    """How a round of looks went: operations that had ended, how many of those were paid back, and what is left of the others."""

    ended: int = 0
    paid_back: int = 0
    waiting: int = 0
    given_up: int = 0

    def __add__(self, other: "Round") -> "Round":
        return Round(
            self.ended + other.ended, self.paid_back + other.paid_back, self.waiting + other.waiting, self.given_up + other.given_up
        )


@dataclass(frozen=True, slots=True)
class _Stand:
    """How an operation stands: `delivered` videos once it has ended, and whether its provider knows it at all."""

    delivered: int | None = None
    is_gone: bool = False


_OPEN = _Stand()


def look_after(*, now: datetime, limit: int, seconds: float) -> Round:
    """Ask how the open operations stand that are due, at most `limit`, as long as `seconds` last; pay back what was not delivered.

    Several workers may do so at once: what one has claimed is skipped by the others. A provider that is silent or busy is not asked again in
    this round. What nobody could tell the end of for three days is given up, and stays charged: nothing proves that it was not delivered.
    """
    claimed = _claim(now, limit)
    if not claimed:
        return Round()
    names = Names(envelopes.read_keys(settings.ENCRYPTION_KEYS))
    operations = {row.pk: operation for row in claimed if (operation := names.read_operation(row.name, account_id=row.account_id))}
    stands = asyncio.run(_look_at_all(operations, snapshot.load().providers, seconds))
    done = Round()
    for row in claimed:
        operation = operations.get(row.pk)
        if operation is None:  # sealed with a key that is not here: it may come back
            log.warning("open_operation_not_readable", request_id=str(row.pk))
            done += _leave(row, _OPEN, now)
        elif row.pk in stands:
            done += _note(row, operation, stands[row.pk], now)
        else:  # time was up
            OpenOperation.objects.filter(pk=row.pk).update(next_look_at=now, looks=F("looks") - 1)
    return done


def wait_after(looks: int) -> timedelta:
    """How long to wait for the next look after so many: twice as long each time, up to six hours."""
    doubled: int = 2 ** min(looks, 20)
    return min(FIRST_WAIT * doubled, LONGEST_WAIT)


@transaction.atomic
def _claim(now: datetime, limit: int) -> list[OpenOperation]:
    due = OpenOperation.objects.select_for_update(skip_locked=True).filter(next_look_at__lte=now)
    claimed = list(due.order_by("next_look_at", "pk")[:limit])
    for row in claimed:
        # Counted before it is looked at: one that kills its worker does not come up every time.
        row.looks += 1
        row.next_look_at = now + wait_after(row.looks)
    OpenOperation.objects.bulk_update(claimed, ["looks", "next_look_at"])
    return claimed


async def _look_at_all(
    operations: Mapping[uuid.UUID, Operation], providers: Mapping[str, ProviderEntry], seconds: float
) -> dict[uuid.UUID, _Stand]:
    """How the operations stand; one that is missing was not reached in time."""
    upstream = Upstream()
    await upstream.start()
    clock = asyncio.get_running_loop().time
    until = clock() + seconds
    waiting = iter(operations.items())
    unwilling: set[str] = set()
    stands: dict[uuid.UUID, _Stand] = {}

    async def look_on() -> None:
        while clock() < until and (following := next(waiting, None)) is not None:
            request_id, operation = following
            stands[request_id] = _OPEN
            if operation.provider in unwilling:
                continue
            try:
                stands[request_id] = await _look_at(upstream, providers, operation)
            except (failures.CannotConnect, failures.TimedOut, failures.ProviderBusy, TimeoutError) as failure:
                unwilling.add(operation.provider)
                log.info(
                    "open_operation_not_answered", request_id=str(request_id), provider=operation.provider, reason=type(failure).__name__
                )
            except (failures.UpstreamFailure, failures.RequestRefused) as failure:
                log.info("open_operation_not_answered", request_id=str(request_id), provider=operation.provider, reason=str(failure))
            except Exception:  # whatever one answer does to us, the others are looked at
                log.exception("open_operation_not_looked_at", request_id=str(request_id))

    try:
        await asyncio.gather(*(look_on() for _ in range(AT_ONCE)))
    finally:
        await upstream.close()
    return stands


async def _look_at(upstream: Upstream, providers: Mapping[str, ProviderEntry], operation: Operation) -> _Stand:
    """Raises: TimeoutError, UpstreamFailure, RequestRefused."""
    try:
        provider, candidate = endings.find_again(providers, operation.provider, operation.key, operation.upstream_model)
    except OperationNotFound:  # the provider is switched off: it may come back
        return _OPEN
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            found = await endings.ask(upstream, candidate, operation, patience=LOOK_SECONDS)
    except OperationNotFound:
        # Another key than the one it was ordered with may just not know it.
        return _Stand(is_gone=(candidate.key.id if candidate.key else None) == operation.key)
    if found.get("done") is not True:
        return _OPEN
    ending = endings.read_ending(found, operation.videos, lambda url: url if endings.is_at(provider, url) else None)
    return _Stand(delivered=len(ending.videos))


def _note(row: OpenOperation, operation: Operation, stand: _Stand, now: datetime) -> Round:
    if stand.delivered is not None:
        try:
            return _end(row, operation, stand.delivered, now)
        except undelivered.NotBooked:
            log.info("open_operation_not_booked", request_id=str(row.pk))  # its settlement waits on disk
        except (OperationalError, InterfaceError):
            raise
        except Exception:  # whatever is wrong with one, the others are paid back
            log.exception("open_operation_not_paid_back", request_id=str(row.pk))
    return _leave(row, stand, now)


@transaction.atomic
def _end(row: OpenOperation, operation: Operation, delivered: int, now: datetime) -> Round:
    """Pay back what was not delivered and forget the row, both or neither. Raises: NotBooked."""
    transfer = endings.pay_back(operation, account_id=row.account_id, delivered=delivered, now=now)
    row.delete()
    if transfer is None:
        return Round(ended=1)
    log.info("undelivered_paid_back", request_id=str(row.pk), videos=operation.videos, delivered=delivered, nano_usd=transfer.amount)
    return Round(ended=1, paid_back=1)


def _leave(row: OpenOperation, stand: _Stand, now: datetime) -> Round:
    """Leave an operation to its next look, unless there is nothing to hope for: then it stays charged."""
    if not stand.is_gone and now - row.created_at < GIVEN_UP_AFTER:
        return Round(waiting=1)
    reason = "its provider does not know it" if stand.is_gone else "no end within three days"
    log.warning("open_operation_given_up", request_id=str(row.pk), account=row.account_id, looks=row.looks, reason=reason)
    row.delete()
    return Round(given_up=1)
