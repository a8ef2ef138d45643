"""One run: a baseline of a gateway that is warm, load, quiet, and what is not as it was."""

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from django.db import connection
from django.utils import timezone

from billing.models import Hold, UsageRecord
from billing.reconciliation import audit
from tests.conftest import Gateway
from tests.fakes.provider import FakeProvider
from tests.faults.soak.gauges import Process, lasting_keys, slope_of, spool_files, valkey_figures
from tests.faults.soak.load import Load
from tests.faults.soak.market import Market

QUIET_SECONDS = 60.0
# A pool may have opened one more connection or thread than in the warm-up, and keeps it; a leak is of every so many requests.
POOLS = 12
# What a deed may leave behind in memory, on average: caches fill, and templates are read at first use. Measured: 50 to 200 bytes and up to 12
# objects in the first thousands of deeds, and less than one afterwards.
BYTES_EACH = 1500
OBJECTS_EACH = 40
AUDITED_AT_ONCE = 5000
MOST_CONNECTIONS = 20  # to PostgreSQL: a few of each process and ours


@dataclass
class Inside:
    """The web process when nothing is under way."""

    tasks: Counter[str]
    streams: int
    calls: int
    objects: int
    bytes: int | None
    descriptors: int
    threads: int
    resident: float


@dataclass
class Watch:
    """A gateway and those who use it; `problems` are what is wrong so far."""

    gateway: Gateway
    provider: FakeProvider
    market: Market
    load: Load
    began: float = field(default_factory=time.monotonic)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.gateway.process is None:
            raise RuntimeError("the gateway does not run")
        (worker,) = psutil.Process(self.gateway.process.pid).children()
        self.worker = Process("web worker", worker.pid)

    # -- Looking

    def ask(self, *, memory: bool = False) -> dict[str, Any]:
        """What the web process tells of itself."""
        told: dict[str, Any] = httpx.get(f"{self.gateway.origin}/soak/inside", params={"memory": "1"} if memory else None).json()
        return told

    def look(self) -> Inside:
        """Everything about the web process that is judged."""
        told, seen = self.ask(memory=True), self.worker.read(since=self.began)
        return Inside(
            Counter(told["tasks"]), told["streams"], told["calls"], told["objects"], told["bytes"], seen.descriptors, seen.threads, seen.resident
        )  # fmt: skip

    # -- Waiting

    def settle_down(self, baseline: Inside | None = None, *, seconds: float = QUIET_SECONDS) -> Inside:
        """Have the provider hang up all idle connections, wait until the gateway is as it was, and look; what is not is a problem."""
        self.provider.stop()
        self.provider.start()
        deadline = time.monotonic() + seconds
        while (left := self._left_of(self.look(), baseline)) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.problems += left
        return self.look()

    def _left_of(self, now: Inside, baseline: Inside | None) -> list[str]:
        left = []
        if held := Hold.objects.filter(wallet__account__in=self.market.accounts).count():
            left.append(f"{held} holds are open")
        if now.streams:
            left.append(f"{now.streams} streams are open")
        if now.calls:
            left.append(f"{now.calls} upstream connections were not given back")
        if baseline is None:
            return left
        if more := now.tasks - baseline.tasks:
            left.append(f"tasks are left: {dict(more)}")
        for what, new, old in (("descriptors", now.descriptors, baseline.descriptors), ("threads", now.threads, baseline.threads)):
            if new > old + POOLS:
                left.append(f"{new} {what}, not {old}")
        return left

    # -- Judging

    def judge_memory(self, before: Inside, after: Inside, *, deeds: int) -> dict[str, float]:
        """What so many deeds have left in use; more than they may is a problem."""
        figures = {"objects a deed": (after.objects - before.objects) / deeds}
        if figures["objects a deed"] > OBJECTS_EACH:
            self.problems.append(f"each deed leaves {figures['objects a deed']:.1f} objects in memory")
        if after.bytes is not None and before.bytes is not None:
            figures["bytes a deed"] = (after.bytes - before.bytes) / deeds
            if figures["bytes a deed"] > BYTES_EACH:
                self.problems.append(f"each deed leaves {figures['bytes a deed']:.0f} bytes in memory")
        return figures

    def judge_answers(self) -> int:
        """Every honest request was answered, and each answer is charged; returns how many."""
        books = self.load.books
        self.problems += books.surprises[:20]
        charged = 0
        for start in range(0, len(books.complete), AUDITED_AT_ONCE):
            some = books.complete[start : start + AUDITED_AT_ONCE]
            charged += UsageRecord.objects.filter(request_id__in=some, status="ok", cost__gt=0).count()
        if charged != len(books.complete):
            self.problems.append(f"{len(books.complete)} honest requests were answered, {charged} of them are charged")
        return charged

    def judge_books(self) -> None:
        """The audit of everybody who took part."""
        self.problems += [str(drift) for drift in audit(now=timezone.now(), accounts=self.market.accounts)]

    def judge_growth(self, process: Process, *, most: float, noise: float) -> None:
        """Resident memory by the hour, in MiB, during the load."""
        hours = (process.readings[-1].at - process.readings[0].at) / 3600
        slope = slope_of(process.readings)
        if slope * hours > most * hours + noise:
            self.problems.append(f"{process.name} grows by {slope:.1f} MiB an hour")

    def judge_stores(self, figures: dict[str, Any]) -> None:
        """What Valkey keeps for ever, what lies on disk, and who is connected to PostgreSQL."""
        if keys := lasting_keys(os.environ["REDIS_URL"]):
            self.problems.append(f"{len(keys)} keys in Valkey never expire, such as {keys[:5]}")
        if files := spool_files(Path(os.environ["SPOOL_DIR"])):
            self.problems.append(f"records lie on disk: {files[:5]}")
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
            (figures["connections to PostgreSQL"],) = cursor.fetchone()
        if figures["connections to PostgreSQL"] > MOST_CONNECTIONS:
            self.problems.append(f"{figures['connections to PostgreSQL']} connections to PostgreSQL are open")
        figures["Valkey"] = valkey_figures(os.environ["REDIS_URL"])

    def judge_logs(self, folder: Path) -> None:
        """No process has met a defect of ours."""
        for log in folder.glob("*.log"):
            lines = [line for line in log.read_text(errors="replace").splitlines() if "internal_error" in line or "Traceback" in line]
            if lines:
                self.problems.append(f"{log.name} tells of {len(lines)} defects, such as {lines[0][:300]}")
