"""The chaos harness: real servers under load, killed with SIGKILL again and again, and afterwards every cent must be where it belongs.

    python -m tests.faults.chaos --rounds 1000 --seed 7      # the long form (`make chaos ROUNDS=1000`)

A round kills one of: a web worker, the whole web server, the Celery worker, PostgreSQL, Valkey; and delivers some settlements twice. A seed
fixes the order of victims and moments. `--bug NAME` breaks a function in the harness's own database first: the run must then fail, which
shows that it could.
"""

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
from psycopg.types.json import Json

from gateway_site.embedded.postgres import Postgres
from gateway_site.embedded.valkey import Valkey

ROOT = Path(__file__).resolve().parent.parent.parent
VICTIMS = (*("web worker", "web", "celery", "postgres", "valkey") * 3, "postgres, then web")
OUTAGE_SECONDS = 3.0  # what is finished meanwhile goes to the spool
CLIENTS = 16
CALM_SECONDS = 60
# What the fake provider is asked to be: quick answers, streams that are often cut by a kill, and one that never says what it used.
UPSTREAM_MODELS = (
    "chat:text=40",
    "chat:text=120;gap_ms=10",
    "chat:text=60;delay_ms=30",
    "fault:no-usage",
    "fault:drop-midstream",
)

# Each is (file, what is there, what the bug makes of it).
BUGS: dict[str, tuple[str, str, str]] = {
    "charges a redelivered settlement again": (
        "settle",
        "            outcome := 'duplicate'; RETURN NEXT; CONTINUE;\n        END IF;\n\n        charged :=",
        "            sum_charged := sum_charged + r.cost; outcome := 'duplicate'; RETURN NEXT; CONTINUE;\n        END IF;\n\n        charged :=",
    ),
    "admits without looking at what is free": (
        "place",
        "IF granted > 0 AND granted > free THEN",
        "IF granted > 0 AND granted > free + 900000000000 THEN",
    ),
    "keeps what a settled request held": ("settle", "            sum_released := sum_released + r.hold_amount;\n", ""),
    "sweeps holds without settling them": (
        "sweep",
        "    IF records IS NULL THEN",
        (
            "    DELETE FROM billing_hold WHERE request_id IN (SELECT (x ->> 'id')::uuid FROM jsonb_array_elements(records) x);\n    records := NULL;\n"
            "    IF records IS NULL THEN"
        ),
    ),
    "books less in the ledger than it took from the wallet": (
        "settle",
        "'wallet:' || wallet, 'revenue', charged, 'batch',",
        "'wallet:' || wallet, 'revenue', GREATEST(1, charged - 1), 'batch',",
    ),
    "forgets the windows": ("settle", "s SET spent = s.spent + counted.cost,", "s SET spent = s.spent,"),
    "forgets the slots": ("settle", "        PERFORM billing_count_in_slots(booked, 1);\n", ""),
}


@dataclass
class Tally:
    """What the clients saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    complete: list[str] = field(default_factory=list)  # request ids of answers that arrived whole


@dataclass
class Verdict:
    """What was wrong at the end; empty when nothing was."""

    problems: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


class Chaos:
    """One run: servers, customers, load, kills, and the verdict."""

    def __init__(self, folder: Path, *, seed: int, bug: str | None = None) -> None:
        self.folder = folder
        self.dice = random.Random(seed)
        self.bug = bug
        self.postgres = Postgres(folder)
        self.valkey = Valkey(folder)
        self.web: subprocess.Popen[bytes] | None = None
        self.celery: subprocess.Popen[bytes] | None = None
        self.kills: Counter[str] = Counter()
        self.tally = Tally()
        self.secrets: list[str] = []
        self.models: list[str] = []

    def run(self, victims: Sequence[str]) -> Verdict:
        """Everything, in order: a round for each of `victims`."""
        with self._servers():
            self._prepare()
            try:
                self._start_web()
                self._start_celery()
                self._rounds(victims)
                self._calm_down()
                return self._judge()
            finally:
                self._stop()

    @contextmanager
    def _servers(self) -> Iterator[None]:
        from tests.fakes.provider import FakeProvider

        self.postgres.start()
        self.valkey.start()
        from tests.conftest import free_port

        self.port = free_port()
        self.environ = {
            **os.environ,
            "DATABASE_URL": self.postgres.url(),
            "REDIS_URL": self.valkey.url(),
            "SPOOL_DIR": str(self.folder / "spool"),
            "DJANGO_SETTINGS_MODULE": "gateway_site.settings",
            "BIND": f"127.0.0.1:{self.port}",
            "WEB_CONCURRENCY": "2",
            "HOLD_LEASE_SECONDS": "2",
            "TOTAL_TIMEOUT_SECONDS": "20",
            "DEFAULT_RPM": "0",
            "LOG_LEVEL": "WARNING",
            "DEBUG": "1",
        }
        try:
            with FakeProvider(keep=100) as self.provider:
                yield
        finally:
            self.postgres.stop()
            self.valkey.stop()

    def _prepare(self) -> None:
        """Migrate, break what is to be broken, and open accounts: some rich, some soon spent, some with a budget."""
        self._manage("migrate", "--verbosity", "0")
        if self.bug is not None:
            from billing import sql

            name, right, wrong = BUGS[self.bug]
            text = sql.read(name)
            if text.count(right) != 1:
                raise RuntimeError(f"the bug {self.bug!r} no longer fits {name}.sql")
            with self._sql() as database:
                database.execute("ALTER TABLE billing_hold DROP CONSTRAINT hold_fitted")
                database.execute(text.replace(right, wrong).encode())
        made = self._manage("shell", "-v", "0", "-c", _SEED.format(base_url=self.provider.base_url, upstream_models=UPSTREAM_MODELS))
        lines = made.splitlines()
        self.secrets = lines[0].split()
        self.models = lines[1].split()

    def _rounds(self, victims: Sequence[str]) -> None:
        """Load from a thread of its own; kills from this one, because a server dies with the thread that started it."""
        stop = threading.Event()
        load = threading.Thread(target=lambda: asyncio.run(self._load(stop)))
        load.start()
        try:
            for victim in victims:
                time.sleep(self.dice.uniform(0.1, 0.5))
                self._kill(victim)
                self._redeliver()
            time.sleep(0.3)
        finally:
            stop.set()
            load.join()

    async def _load(self, stop: threading.Event) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=25)) as session:
            await asyncio.gather(*(self._client(session, random.Random(number), stop) for number in range(CLIENTS)))

    async def _client(self, session: aiohttp.ClientSession, dice: random.Random, stop: threading.Event) -> None:
        """Ask for completions until told to stop; sometimes hang up in the middle of an answer."""
        while not stop.is_set():
            stream = dice.random() < 0.5
            hang_up = stream and dice.random() < 0.15
            body = {
                "model": dice.choice(self.models),
                "stream": stream,
                "max_tokens": 400,
                "messages": [{"role": "user", "content": "go on"}],
            }
            try:
                async with session.post(
                    f"http://127.0.0.1:{self.port}/v1/chat/completions",
                    json=body,
                    headers={"Authorization": f"Bearer {dice.choice(self.secrets)}"},
                ) as response:
                    if hang_up:
                        await response.content.readany()
                        self.tally.statuses["hung up"] += 1
                        continue
                    data = await response.read()
                    self.tally.statuses[str(response.status)] += 1
                    if response.status == 200 and b'"error"' not in data and (not stream or b"[DONE]" in data):
                        self.tally.complete.append(response.headers["x-request-id"])
                    elif response.status >= 500:
                        await asyncio.sleep(0.02)
            except (aiohttp.ClientError, TimeoutError, OSError):
                self.tally.statuses["cut"] += 1
                await asyncio.sleep(0.02)

    def _kill(self, victim: str) -> None:
        """Kill one process with SIGKILL and see that the service comes back."""
        self.kills[victim] += 1
        if victim == "web worker" and self.web is not None:
            for pid in self.dice.sample(children := _children(self.web.pid), k=min(1, len(children))):
                os.kill(pid, signal.SIGKILL)
        elif victim == "web" and self.web is not None:
            _kill_group(self.web)
            self._start_web()
        elif victim == "celery" and self.celery is not None:
            _kill_group(self.celery)
            self._start_celery()
        elif victim == "postgres":
            self.postgres.kill()
            self.postgres.start()
        elif victim == "postgres, then web" and self.web is not None:
            self.postgres.kill()
            time.sleep(OUTAGE_SECONDS)
            _kill_group(self.web)
            self.postgres.start()
            self._start_web()
        elif victim == "valkey":
            self.valkey.kill()
            self.valkey.start()
        self._wait_until(self._is_ready, "the gateway is ready again")

    def _redeliver(self) -> None:
        """Settle a few requests once more, as a process does that never heard whether PostgreSQL committed."""
        try:
            with self._sql() as database:
                rows = database.execute(
                    "SELECT jsonb_agg(to_jsonb(u) || jsonb_build_object('id', request_id, 'account', account_id, 'key', key_id, 'price', price_id,"
                    " 'started', started_at, 'ended', ended_at)) FROM (SELECT * FROM billing_usagerecord WHERE status <> 'swept' AND cost > 0"
                    " ORDER BY request_id DESC LIMIT 3) u"
                ).fetchone()
                if rows is not None and rows[0] is not None:
                    database.execute("SELECT * FROM billing_settle(%s::jsonb, %s, now())", [Json(rows[0]), uuid.uuid4()])
        except psycopg.OperationalError:
            pass  # PostgreSQL is just coming back

    def _calm_down(self) -> None:
        """Wait until nothing is held any more: every request has been settled, or swept because its process died."""

        def nothing_held() -> bool:
            with self._sql() as database:
                row = database.execute("SELECT COUNT(*) FROM billing_hold").fetchone()
            return row is not None and row[0] == 0 and not list((self.folder / "spool").glob("settle-*"))

        try:
            self._wait_until(nothing_held, "every hold is settled or swept", seconds=CALM_SECONDS)
        except TimeoutError as error:
            with self._sql() as database:
                holds = database.execute(
                    "SELECT h.request_id, h.started_at, h.expires_at, o.lease_until, now() FROM billing_hold h"
                    " LEFT JOIN billing_holdowner o ON o.boot_id = h.owner_id LIMIT 3"
                ).fetchall()
            self.stuck: str | None = f"{error}; such as {holds}, and in the spool {list((self.folder / 'spool').glob('*'))}"
        else:
            self.stuck = None

    def _judge(self) -> Verdict:
        verdict = Verdict()
        if self.stuck is not None:
            verdict.problems.append(self.stuck)
        audit = subprocess.run(
            [sys.executable, "manage.py", "billing_audit"], cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False
        )
        if audit.returncode != 0:
            verdict.problems.append(f"billing_audit: {audit.stdout[-2000:]}{audit.stderr[-500:]}")
        with self._sql() as database:

            def one(query: str, *parameters: Any) -> Any:
                row = database.execute(query.encode(), parameters).fetchone()
                return row[0] if row is not None else None

            booked = {str(row[0]) for row in database.execute("SELECT request_id FROM billing_usagerecord").fetchall()}
            lost = [request_id for request_id in self.tally.complete if request_id not in booked]
            if lost:
                verdict.problems.append(f"{len(lost)} answered requests were never booked, such as {lost[:3]}")
            if one("SELECT COUNT(*) FROM billing_wallet WHERE balance < 0 OR balance - held < 0"):
                verdict.problems.append("a wallet is below zero")
            # Only a hold that died with PostgreSQL's unflushed log may leave the operator with a loss: its record says `overrun`.
            if written_off := one("SELECT COALESCE(SUM(written_off), 0) FROM billing_usagerecord WHERE rule <> 'overrun'"):
                verdict.problems.append(f"{written_off} nano-USD were written off, although no answer cost more than its hold")
            if above := one(
                "SELECT to_jsonb(u) FROM billing_usagerecord u WHERE list_cost > hold_amount AND rule NOT IN ('overrun', 'no_output') LIMIT 1"
            ):
                verdict.problems.append(f"a request cost more than its hold: {above}")
            verdict.figures = {
                "kills": dict(self.kills),
                "clients saw": dict(self.tally.statuses),
                "requests booked": len(booked),
                "answers complete": len(self.tally.complete),
                "charged nano-USD": int(one("SELECT COALESCE(SUM(cost), 0) FROM billing_usagerecord")),
                "swept, delivered part charged": one("SELECT COUNT(*) FROM billing_usagerecord WHERE rule = 'swept_partial'"),
                "swept, given back": one("SELECT COUNT(*) FROM billing_usagerecord WHERE rule = 'swept_void'"),
                "written off, their holds lost in a crash, nano-USD": int(
                    one("SELECT COALESCE(SUM(written_off), 0) FROM billing_usagerecord")
                ),
                "booked without a hold": one("SELECT COUNT(*) FROM billing_usagerecord WHERE rule = 'overrun'"),
            }
        return verdict

    def _start_web(self) -> None:
        self.web = self._spawn("web", "-m", "gunicorn", "-c", "gateway_site/gunicorn_conf.py", "gateway_site.asgi:application")
        self._wait_until(self._is_ready, "the gateway is ready")

    def _start_celery(self) -> None:
        self.celery = self._spawn(
            "celery", "-m", "celery", "-A", "gateway_site.celery", "worker", "--pool", "solo", "--beat", "--schedule",
            str(self.folder / "beat"), "--loglevel", "WARNING",
        )  # fmt: skip

    def _spawn(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=self.environ, stdout=log, stderr=log, start_new_session=True
            )

    def _stop(self) -> None:
        for process in (self.web, self.celery):
            if process is not None:
                _kill_group(process)

    def _is_ready(self) -> bool:
        import urllib.error
        import urllib.request

        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _wait_until(self, condition: Callable[[], bool], what: str, *, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except psycopg.OperationalError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so after {seconds} s: {what}")
            time.sleep(0.05)

    def _manage(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments], cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-3000:])
        return done.stdout

    def _sql(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.postgres.url(), autocommit=True, connect_timeout=5)


_SEED = """
from datetime import timedelta
from django.utils import timezone
from tests import conftest
secrets = [conftest.make_customer(usd=usd, **fields).secret for usd, fields in (
    ("50", {{}}), ("50", {{"budget_nano": 20_000_000}}), ("0.02", {{}}), ("0.002", {{}}), ("50", {{"budget_nano": 10**12, "budget_window": "day"}}))]
models = [conftest.make_model({base_url!r}, name) for name in {upstream_models!r}]
print(*secrets)
print(*models)
"""


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def main() -> int:
    """Run from the command line; exit code 1 when money is not where it belongs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--bug", choices=sorted(BUGS))
    options = parser.parse_args()
    for name in ("SECRET_KEY",):
        os.environ.setdefault(name, uuid.uuid4().hex)
    os.environ.setdefault("KEY_PEPPERS", f"1:{uuid.uuid4().hex}")
    os.environ.setdefault("ENCRYPTION_KEYS", f"1:{uuid.uuid4().hex}{uuid.uuid4().hex}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tollgate-chaos-") as folder:
        victims = random.Random(options.seed).choices(VICTIMS, k=options.rounds)
        verdict = Chaos(Path(folder), seed=options.seed, bug=options.bug).run(victims)
        if verdict.problems:
            for log in sorted(Path(folder).glob("*.log")):
                print(f"--- the end of {log.name}\n{log.read_text(errors='replace')[-2000:]}")
    print(f"{options.rounds} rounds in {time.monotonic() - began:.0f} s, seed {options.seed}")
    for name, value in verdict.figures.items():
        print(f"  {name}: {value}")
    for problem in verdict.problems:
        print(f"PROBLEM: {problem}")
    print("0 lost, 0 doubled, 0 overspent; billing_audit is clean" if not verdict.problems else "money is not where it belongs")
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
