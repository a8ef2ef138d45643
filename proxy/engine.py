"""The parts of the data plane, one set a process: made when the process starts, stopped in order when it ends."""

import asyncio
import os
import socket
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import structlog
from django.conf import settings

from accounts import announcements
from billing.holds import HoldDesk
from billing.quotas import PlanBook
from billing.settlement import Settlement
from catalog.snapshot import LiveCatalog
from gateway_site import metrics
from gateway_site.changes import Listener
from gateway_site.clients import DatabaseUnavailable, Lane
from keys.authentication import Authenticator
from keys.secret import read_peppers
from proxy import breakers, envelopes, rate_limits
from proxy.admission import SLACK_SECONDS
from proxy.carryover import Carryover
from proxy.content import Keeper
from proxy.envelopes import Envelopes
from proxy.health import Health
from proxy.idempotency import CALL_SECONDS as IDEMPOTENCY_CALL_SECONDS
from proxy.idempotency import Idempotency
from proxy.open_operations import OpenOperations
from proxy.operations import Names
from proxy.response_store import ResponseStore
from proxy.streams import Streams
from proxy.turns import Turns
from proxy.upstream import Upstream

log = structlog.get_logger(__name__)

LAST_USED_SECONDS = 30.0
SETTLE_DEADLINE_SECONDS = 10.0
STATE_DEADLINE_SECONDS = 3.0
NOTE_USED = "UPDATE keys_apikey SET last_used_at = now() WHERE id = ANY(%s) RETURNING id"


class Engine:
    """Everything that requests of one process share."""

    def __init__(self) -> None:
        deadline = settings.DATABASE_DEADLINE_SECONDS
        conninfo = settings.DATABASE_URL
        # A lost hold costs nothing (its request dies with it), so holds do not wait for the disk; settlements do.
        self._hold_lane = Lane(conninfo, deadline_seconds=deadline, options="-c synchronous_commit=off")
        self._settle_lane = Lane(conninfo, deadline_seconds=SETTLE_DEADLINE_SECONDS)
        self._look_up_lane = Lane(conninfo, deadline_seconds=deadline)
        self._housekeeping_lane = Lane(conninfo, deadline_seconds=deadline)
        self.settlement = Settlement(self._settle_lane, spool=Path(settings.SPOOL_DIR))
        self.desk = HoldDesk(
            self._hold_lane,
            lease=timedelta(seconds=settings.HOLD_LEASE_SECONDS),
            release=self.settlement.release,
            owner_lane=self._housekeeping_lane,
        )
        self.authenticator = Authenticator(self._look_up_lane, read_peppers(settings.KEY_PEPPERS))
        self.plans = PlanBook(self._look_up_lane)
        self.catalog = LiveCatalog(self._housekeeping_lane)
        self.limiter = rate_limits.RateLimiter(rate_limits.connect(settings.REDIS_URL), processes=settings.WEB_CONCURRENCY)
        self.envelopes = Envelopes(envelopes.read_keys(settings.ENCRYPTION_KEYS))
        self.names = Names(envelopes.read_keys(settings.ENCRYPTION_KEYS))
        self.carryover = Carryover(rate_limits.connect(settings.REDIS_URL))
        self.idempotency = Idempotency(
            rate_limits.connect(settings.REDIS_URL, seconds=IDEMPOTENCY_CALL_SECONDS),
            envelopes.read_keys(settings.ENCRYPTION_KEYS),
            lasts_seconds=settings.TOTAL_TIMEOUT_SECONDS + SLACK_SECONDS,
        )
        self._state_lane = Lane(conninfo, deadline_seconds=STATE_DEADLINE_SECONDS)
        self.turns = Turns(ResponseStore(self._state_lane, retention=timedelta(days=settings.RESPONSES_RETENTION_DAYS)))
        self._content_lane = Lane(conninfo, deadline_seconds=STATE_DEADLINE_SECONDS)  # not connected before somebody wants content stored
        self.open_operations = OpenOperations(self._state_lane)
        self.keeper = Keeper(self._content_lane, most_each=settings.CONTENT_MAX_BYTES, most_days=settings.CONTENT_MAX_DAYS)
        self.health = Health()
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._teller = rate_limits.connect(settings.REDIS_URL)
        self.streams = Streams()
        self.upstream = Upstream()
        self._listener = Listener(settings.REDIS_URL)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wire_changes()

    async def start(self) -> None:
        """Load the catalog, say that this process lives, and begin the background work."""
        await self.upstream.start()
        await self.catalog.refresh()
        await self.desk.renew_lease()
        for work in (
            self.catalog.keep_fresh(),
            self.desk.keep_lease(),
            self.settlement.keep_replaying(),
            self.streams.keep_watch(),
            self._listener.run(),
            self._note_used_keys(),
            self._show_figures(),
            breakers.keep_telling(self.health, process=self._name, client=self._teller),
        ):
            self.spawn(work)

    async def stop(self) -> None:
        """Settle what is over, then stop everything. Requests that are still open die with the process and are swept."""
        await self.settlement.idle()
        await self.limiter.idle()
        await self.keeper.idle()
        metrics.pass_on()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.limiter.close()
        await self.carryover.close()
        await self._teller.aclose()
        await self.idempotency.close()
        await self.upstream.close()
        lanes = (self._hold_lane, self._settle_lane, self._look_up_lane, self._housekeeping_lane, self._state_lane, self._content_lane)
        for lane in lanes:
            await lane.close()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run in the background, with a strong reference, until done or until the process stops."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def degraded(self) -> list[str]:
        """What works less well than it should, for /readyz."""
        return ["rate_limits"] if self.limiter.degraded else []

    def _wire_changes(self) -> None:
        self._listener.on_change("catalog", self.catalog.nudge)
        self._listener.on_change(breakers.TOPIC, lambda said: breakers.forget(self.health, said))
        self._listener.on_change(announcements.TOPIC, lambda _: announcements.forget())
        self._listener.on_change("key", lambda ident: self.authenticator.forget(_number(ident)))
        self._listener.on_change("account", lambda ident: self.plans.forget(_number(ident)))
        self._listener.on_change("account", lambda ident: self.authenticator.forget_account(_number(ident)))

    async def _note_used_keys(self) -> None:
        while True:
            await asyncio.sleep(LAST_USED_SECONDS)
            used = self.authenticator.used
            if used:
                self.authenticator.used = set()
                try:
                    await self._housekeeping_lane.fetch(NOTE_USED, [list(used)])
                except (DatabaseUnavailable, psycopg.Error) as error:
                    log.info("last_used_not_noted", error=str(error))

    async def _show_figures(self) -> None:
        while True:
            metrics.STREAMS.set(len(self.streams))
            metrics.RATE_LIMITS_DEGRADED.set(self.limiter.degraded)
            metrics.pass_on()
            await asyncio.sleep(metrics.PASS_ON_SECONDS)


def _number(ident: str | None) -> int | None:
    return int(ident) if ident is not None and ident.isdigit() else None


_current: Engine | None = None


def current() -> Engine:
    """This process's engine. Raises: RuntimeError before the server has started it."""
    if _current is None:
        raise RuntimeError("the data plane has not been started in this process")
    return _current


async def start() -> Engine:
    """Make and start this process's engine."""
    global _current
    engine = Engine()
    await engine.start()
    _current = engine
    return engine
