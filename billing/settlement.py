"""Settles finished requests for one process: in batches, and through a spool on disk when PostgreSQL is away.

`submit` never blocks and needs no await, so it is safe in a `finally` that is being cancelled. A batch that PostgreSQL did not take is written
to an fsynced file at once (waiting in memory would lose it with the process), which is replayed every second and by whoever starts next;
replaying is harmless because a request that has a usage record is charged nothing again.
"""

import asyncio
import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import orjson
import psycopg
import structlog

from gateway_site import metrics
from gateway_site.batches import Batcher
from gateway_site.clients import DatabaseUnavailable, Lane

log = structlog.get_logger(__name__)

SETTLE = "SELECT ord, outcome, charged, written_off FROM billing_settle(%s::jsonb, %s, %s)"
REPLAY_SECONDS = 1.0
REPLAY_BATCH = 100
UNFINISHED_SECONDS = 600


@dataclass(slots=True)
class Settled:
    """What became of a record: `charged` and `written_off` in nano-USD; `outcome` settled, released, duplicate, overrun, spooled or refused."""

    outcome: str
    charged: int
    written_off: int


class Settlement:
    """One process's way to settle. `spool` is a folder; each process appends to a file of its own there."""

    def __init__(self, lane: Lane, *, spool: Path) -> None:
        self._lane = lane
        self._batches: Batcher[dict[str, Any], Settled] = Batcher(self._settle)
        self._spool = Spool(spool)

    def submit(self, record: dict[str, Any]) -> "asyncio.Future[Settled]":
        """Book a finished request (the fields of `billing_settle`); returns at once."""
        return self._batches.submit(record)

    def release(self, request_id: uuid.UUID, account_id: int) -> None:
        """Give a hold back of which nothing was used, if it exists."""
        self._batches.submit({"id": request_id, "account": account_id, "release": True})

    async def idle(self) -> None:
        """Return when everything submitted is settled or spooled."""
        await self._batches.idle()

    async def keep_replaying(self) -> None:
        """Replay what lies in the spool, of this process and of dead ones, until cancelled."""
        while True:
            try:
                await self.replay()
            except DatabaseUnavailable:
                pass  # the next turn tries again
            except (psycopg.Error, OSError) as error:
                log.error("spool_not_replayed", error=str(error))
            await asyncio.sleep(REPLAY_SECONDS)

    async def replay(self) -> int:
        """Settle every record in the spool and remove what is settled; returns how many there were.

        Raises: DatabaseUnavailable.
        """
        count = 0
        self._spool.drop_unfinished()
        with contextlib.closing(self._spool.claim()) as files:
            for claimed in files:
                records = claimed.records()
                for start in range(0, len(records), REPLAY_BATCH):
                    await self._book_or_set_aside(records[start : start + REPLAY_BATCH])
                claimed.remove()
                count += len(records)
                log.info("spool_replayed", file=claimed.path.name, records=len(records))
        return count

    async def _settle(self, batch: Sequence[dict[str, Any]]) -> list[Settled | Exception]:
        try:
            return list(await self._book_or_set_aside(batch))
        except (DatabaseUnavailable, psycopg.OperationalError) as error:
            self._spool.append(batch)
            log.error("settlement_spooled", records=len(batch), error=str(error))
            return [Settled("spooled", 0, 0)] * len(batch)

    async def _book_or_set_aside(self, batch: Sequence[dict[str, Any]]) -> list[Settled]:
        """Book a batch. A record PostgreSQL refuses must not keep the others from being charged: it is set aside and shouted about.

        Raises: DatabaseUnavailable, psycopg.OperationalError.
        """
        try:
            return await self._book(batch)
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            if len(batch) > 1:
                return [answer for record in batch for answer in await self._book_or_set_aside([record])]
            log.critical("settlement_refused", record=orjson.dumps(batch[0], default=str).decode(), error=str(error))
            self._spool.set_aside(batch, str(error))
            metrics.SETTLEMENTS.add(1, "refused")
            return [Settled("refused", 0, 0)]

    async def _book(self, batch: Sequence[dict[str, Any]]) -> list[Settled]:
        rows = await self._lane.fetch(SETTLE, [orjson.dumps(batch).decode(), uuid.uuid4(), datetime.now(UTC)])
        answers = [Settled("refused", 0, 0)] * len(batch)
        for position, outcome, charged, written_off in rows:
            answers[position - 1] = Settled(outcome, charged, written_off)
            metrics.SETTLEMENTS.add(1, outcome)
            if charged:
                metrics.CHARGED.add(charged, batch[position - 1]["model"])
        return answers


class Spool:
    """A folder of files of records, one JSON object a line, written with fsync. A file is locked by the process that works with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def append(self, records: Sequence[dict[str, Any]]) -> None:
        """Write records durably into a new file: it is complete on disk when this returns."""
        self._write("settle", b"".join(orjson.dumps(record) + b"\n" for record in records))

    def set_aside(self, records: Sequence[dict[str, Any]], reason: str) -> None:
        """Keep records that PostgreSQL refuses, with the reason, for a person to look at."""
        self._write("refused", b"".join(orjson.dumps({"reason": reason, "record": record}) + b"\n" for record in records))

    def files(self, kind: str) -> list[Path]:
        """The complete files of records that wait for PostgreSQL ("settle") or for a person ("refused")."""
        return sorted(self.folder.glob(f"{kind}-*.jsonl"))

    def claim(self) -> Generator["ClaimedFile", None, None]:
        """Every complete file that no other process is working on, locked one at a time: a lock stays with whoever forgets to give it back."""
        for path in self.files("settle"):
            try:
                claimed = ClaimedFile(path)
            except (BlockingIOError, FileNotFoundError):
                continue
            with claimed:
                yield claimed

    def drop_unfinished(self) -> None:
        """Remove what a killed process had only begun to write: it was never complete, and its hold has been swept."""
        for path in self.folder.glob(".*.jsonl"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > UNFINISHED_SECONDS:
                    path.unlink()

    def _write(self, kind: str, data: bytes) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{kind}-{time.time_ns()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        unfinished = self.folder / f".{name}"
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self.folder / name)
        directory = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class ClaimedFile:
    """One file of the spool under an exclusive lock. Raises BlockingIOError when another process has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise

    def records(self) -> list[dict[str, Any]]:
        """The records, oldest first."""
        return [orjson.loads(line) for line in self.path.read_bytes().splitlines() if line] if self.path.exists() else []

    def remove(self) -> None:
        """Delete the file: everything in it is settled."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
