"""What is read of processes and servers during a run, and the figures made of it."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis

MIB = 1024 * 1024
# Keys that stay by design: Celery's queues, and one hash with a field for each process whose breakers are open.
LASTING_KEYS = (b"celery", b"_kombu.", b"unacked", b"tollgate:breakers")


@dataclass(frozen=True, slots=True)
class Reading:
    """One process at one moment: seconds of the run, resident memory and what of it is shared with nobody (MiB), descriptors, threads."""

    at: float
    resident: float
    own: float
    descriptors: int
    threads: int


@dataclass
class Process:
    """A process that is watched, and what was read of it under load."""

    name: str
    pid: int
    readings: list[Reading] = field(default_factory=list)

    def read(self, *, since: float) -> Reading:
        """Look at it now."""
        process = psutil.Process(self.pid)
        memory = process.memory_full_info()
        return Reading(time.monotonic() - since, memory.rss / MIB, memory.uss / MIB, process.num_fds(), process.num_threads())

    def sample(self, *, since: float) -> Reading:
        """Look at it now, and remember."""
        self.readings.append(self.read(since=since))
        return self.readings[-1]


def slope_of(readings: Sequence[Reading]) -> float:
    """Growth of resident memory in MiB an hour, by least squares."""
    if len({reading.at for reading in readings}) < 2:
        return 0.0
    return statistics.linear_regression([one.at / 3600 for one in readings], [one.resident for one in readings]).slope


def lasting_keys(url: str) -> list[str]:
    """Keys in Valkey that will never expire, and are none of those that shall not."""
    with redis.Redis.from_url(url) as valkey:
        keys = [key for key in valkey.scan_iter(count=1000) if not key.startswith(LASTING_KEYS)]
        pipeline: Any = valkey.pipeline(transaction=False)
        for key in keys:
            pipeline.ttl(key)
        return [key.decode(errors="replace") for key, seconds in zip(keys, pipeline.execute(), strict=True) if seconds == -1]


def valkey_figures(url: str) -> dict[str, float]:
    """Keys and memory of Valkey."""
    with redis.Redis.from_url(url) as valkey:
        told: dict[str, Any] = valkey.info("memory")
        return {"keys": valkey.dbsize(), "MiB": round(told["used_memory"] / MIB, 1)}


def spool_files(folder: Path) -> list[str]:
    """Files of records that nobody has booked."""
    return sorted(path.name for path in folder.glob("*.jsonl"))
