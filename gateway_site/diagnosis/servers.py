"""The servers beside the web processes: Valkey, PostgreSQL and its clock, and Celery, whose tasks have to run and end well."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote

import psycopg
import redis
from django.conf import settings

from billing import task_runs
from billing.models import HoldOwner, TaskRun
from gateway_site.diagnosis.findings import Finding, error, first_line, note, warning
from gateway_site.embedded import state

OLDEST_POSTGRESQL = 15
OLDEST_VALKEY = 7
CONNECT_SECONDS = 5
SKEW_SECONDS = 2.0
AUDIT_LATE_AFTER = timedelta(minutes=20)  # it runs every five
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")


def check_embedded() -> Iterator[Finding]:
    """Whether the servers are those that `make run` starts."""
    here = str(state.sockets(state.folder()))
    found = [name for name, url in (("PostgreSQL", settings.DATABASE_URL), ("Valkey", settings.REDIS_URL)) if here in unquote(url)]
    if found:
        yield note(
            "servers",
            f"The embedded {' and '.join(found)} {'is' if len(found) == 1 else 'are'} in use: good for trying, not for production.",
            "Set DATABASE_URL and REDIS_URL to servers that are backed up and watched (docs/operations.md).",
        )


def check_valkey() -> Iterator[Finding]:
    """Valkey answers, is new enough, and never throws away what it was given."""
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=CONNECT_SECONDS, socket_connect_timeout=CONNECT_SECONDS) as client:
            info = client.info()
    except (redis.RedisError, ValueError) as problem:
        yield error(
            "valkey",
            f"Valkey cannot be reached: {first_line(problem)}.",
            "Start it, or mend REDIS_URL. Meanwhile rate limits are each process's own, and Celery stands still.",
        )
        return
    version = str(info.get("valkey_version") or info["redis_version"])
    if int(version.partition(".")[0]) < OLDEST_VALKEY:
        yield error("valkey", f"The version behind REDIS_URL is {version}.", f"Use Valkey, or Redis {OLDEST_VALKEY} or newer.")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield error(
            "valkey",
            f"maxmemory-policy is {policy}: when memory runs short, rate limits and queued tasks are thrown away silently.",
            "Set `maxmemory-policy noeviction` in its configuration, or use a server of the gateway's own.",
        )
    if not info.get("aof_enabled"):
        yield note(
            "valkey",
            "Valkey's append-only file is off: when it crashes, rate limits begin anew and waiting tasks are lost. No money is there.",
            "Nothing needs to be done; `appendonly yes` keeps them.",
        )


def check_postgresql() -> list[Finding]:
    """PostgreSQL is new enough, keeps what it has confirmed, and tells the same time.

    Raises: psycopg.Error when it cannot be reached.
    """
    with psycopg.connect(settings.DATABASE_URL, connect_timeout=CONNECT_SECONDS, autocommit=True) as session:
        version = session.info.server_version
        configured: dict[str, str] = dict(
            session.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(DURABLE)]).fetchall()
        )
        skew, uncertain = measure_skew(session)
    found = list(judge_skew(skew, uncertain))
    if version < OLDEST_POSTGRESQL * 10_000:
        found.append(
            error("postgresql", f"PostgreSQL's version is {version // 10_000}.", f"Upgrade it to PostgreSQL {OLDEST_POSTGRESQL} or newer.")
        )
    found += [
        warning(
            "postgresql",
            f"{name} is off: a crash of the machine loses money that was confirmed, or the whole database.",
            f"Set `{name} = on` in postgresql.conf.",
        )
        for name in DURABLE
        if configured.get(name) == "off"
    ]
    return found


def measure_skew(session: "psycopg.Connection[tuple[Any, ...]]") -> tuple[float, float]:
    """How far PostgreSQL's clock is ahead of this host's, and how uncertain that is; seconds."""
    before, began = time.time(), time.monotonic()
    row = session.execute("SELECT clock_timestamp()").fetchone()
    took = time.monotonic() - began
    return (row[0].timestamp() - (before + took / 2) if row else 0.0), took / 2


def judge_skew(skew: float, uncertain: float) -> Iterator[Finding]:
    """Say so when the clocks differ by more than `SKEW_SECONDS`, whatever the network's delay (`uncertain`) adds; seconds."""
    if abs(skew) - uncertain > SKEW_SECONDS:
        yield error(
            "clock",
            f"PostgreSQL's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this host's: leases, windows and rate limits go wrong.",
            "Run a time service (chrony, systemd-timesyncd) on both.",
        )


def check_tasks(*, now: datetime) -> Iterator[Finding]:
    """Celery's tasks run, and end well."""
    alive = HoldOwner.objects.filter(lease_until__gt=now).order_by("started_at").first()
    if alive is None:
        yield note("web", "No web process is running.", "Start the gateway (`make run`, or gunicorn with gateway_site/gunicorn_conf.py).")
    elif task_runs.is_late(now=now, running_for=now - alive.started_at):
        run = TaskRun.objects.filter(name=task_runs.SWEEP).first()
        when = "yet" if run is None or run.last_finished_at is None else f"since {run.last_finished_at:%Y-%m-%d %H:%M:%S} UTC"
        yield error(
            "celery",
            f"No sweep of holds has ended well {when}: what requests of dead processes hold stays held, and nothing is audited.",
            "Start Celery's worker and beat (`celery -A gateway_site.celery worker`, `… beat`), and see their logs.",
        )
    for run in TaskRun.objects.exclude(last_error="").order_by("name"):
        yield warning("celery", f"The last run of {run.name} failed: {run.last_error.splitlines()[0]}.", "See the log of Celery's worker.")
    audit = TaskRun.objects.filter(name=task_runs.AUDIT, last_finished_at__lt=now - AUDIT_LATE_AFTER).first()
    if alive is not None and audit is not None:
        yield warning(
            "celery", f"The audit last ended well on {audit.last_finished_at:%Y-%m-%d %H:%M} UTC.", "See the log of Celery's worker."
        )
