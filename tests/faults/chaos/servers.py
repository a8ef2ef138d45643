"""The servers of a run: PostgreSQL, Valkey, a fake provider, a fake Stripe, the web and Celery; started, killed with SIGKILL, started again."""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from gateway_site.embedded.postgres import Postgres
from gateway_site.embedded.valkey import Valkey
from tests.conftest import ROOT, free_port
from tests.fakes.provider import FakeProvider
from tests.faults.chaos import bugs

SECRET = "whsec_chaos_0123456789abcdef"
# A checkpoint a few seconds ago is a short recovery; fsync stays on, as it is for real data.
POSTGRES_SETTINGS = {"checkpoint_timeout": "30s", "max_wal_size": "128MB"}
WEB_WORKERS = 2
READY_SECONDS = 60.0
OUTAGE_SECONDS = 3.0  # what is finished meanwhile goes to the spool


class Servers:
    """Everything that runs. `environ` is what the product's processes get."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        self.folder = folder
        self.dice = random.Random(seed)
        self.postgres = Postgres(folder, settings=POSTGRES_SETTINGS)
        self.valkey = Valkey(folder)
        self.provider = FakeProvider(keep=100)
        self.port = free_port()
        self.failpoints = folder / "failpoints"
        self.spool = folder / "spool"
        self.web_pid = self.celery_pid = 0
        self.postgres_deaths: list[float] = []
        self._nursery: subprocess.Popen[str] | None = None
        self._bank: subprocess.Popen[str] | None = None
        self._seed = seed
        self.bug = ""
        self.shop: dict[str, Any] = {}

    def start(self) -> None:
        """Start what the product needs, and prepare its database; the product itself is started by `start_web` and `start_celery`."""
        self.postgres.start()
        self.valkey.start()
        self.provider.__enter__()
        for place in (self.failpoints, self.folder / "metrics"):
            place.mkdir()
        webhook = f"http://127.0.0.1:{self.port}/webhooks/stripe"
        self._bank = self._open("tests.faults.chaos.bank", webhook, SECRET, str(self._seed))
        told = json.loads(self._answer(self._bank))
        self.stripe_url, self.stripe_key = told["base_url"], told["api_key"]
        self.environ = {
            **os.environ,
            "DATABASE_URL": self.postgres.url(),
            "REDIS_URL": self.valkey.url(),
            "SPOOL_DIR": str(self.spool),
            "DJANGO_SETTINGS_MODULE": "tests.faults.chaos.settings",
            "BIND": f"127.0.0.1:{self.port}",
            "PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "WEB_CONCURRENCY": str(WEB_WORKERS),
            "PROMETHEUS_MULTIPROC_DIR": str(self.folder / "metrics"),
            "HOLD_LEASE_SECONDS": "2",
            "TOTAL_TIMEOUT_SECONDS": "20",
            "DEFAULT_RPM": "0",
            "LOG_LEVEL": "WARNING",
            "DEBUG": "1",
            "STRIPE_SECRET_KEY": self.stripe_key,
            "STRIPE_WEBHOOK_SECRETS": f"{SECRET},whsec_simulated_before_the_rotation",
            "STRIPE_API_BASE": self.stripe_url,
            "STRIPE_SIMULATED": "yes",
            "CHAOS_FAILPOINTS": str(self.failpoints),
        }
        self._nursery = self._open("tests.faults.chaos.nursery", environ=self.environ)
        self._answer(self._nursery)
        told = self.folder / "shop.json"
        pid = self._fork("prepare", "prepare", str(told), self.provider.base_url)
        self.wait_until(lambda: told.exists() or not _is_alive(pid), "the database is prepared", seconds=300)
        if not told.exists():
            raise RuntimeError(self.logs())
        self.shop = json.loads(told.read_text())
        with self._maintenance() as database:
            database.execute("CREATE DATABASE prepared TEMPLATE tollgate STRATEGY file_copy")
            database.execute("CHECKPOINT")

    def begin_anew(self, *, bug: str = "") -> None:
        """Go back to the prepared database, with nothing running and empty books at Stripe; `bug` is planted in what starts from now on."""
        self.stop_product()
        self.bug = bug
        with self._maintenance() as database:
            database.execute("DROP DATABASE tollgate WITH (FORCE)")
            database.execute("CREATE DATABASE tollgate TEMPLATE prepared STRATEGY file_copy")
        if bug in bugs.IN_SQL:
            with self.sql() as database:
                bugs.plant_in_sql(bug, database)
        self.kill_valkey()
        self._tell_the_bank("forget")
        for leftover in (*self.spool.glob("*"), *self.failpoints.glob("*")):
            leftover.unlink()

    def stop_product(self) -> None:
        """Kill the web and Celery."""
        for pid in (self.web_pid, self.celery_pid):
            self._kill_group(pid)
        self.web_pid = self.celery_pid = 0

    def stop(self) -> None:
        """End everything."""
        self.stop_product()
        for process in (self._nursery, self._bank):
            if process is not None:
                process.kill()
                process.wait()
        self.provider.__exit__(None, None, None)
        self.postgres.stop()
        self.valkey.stop()

    # -- the product's processes

    def start_web(self) -> None:
        """Start gunicorn with its workers, and return when they answer."""
        self.web_pid = self._fork("web", "gunicorn", "-c", "gateway_site/gunicorn_conf.py", "gateway_site.asgi:application")
        self.wait_until(self.is_ready, "the gateway is ready")

    def start_celery(self) -> None:
        """Start a Celery worker with beat; it is not waited for."""
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
        self.celery_pid = self._fork(
            "celery", "celery", "-A", "gateway_site.celery", "worker", "--pool", "solo", "--beat", "--schedule",
            str(self.folder / "beat"), "--loglevel", "WARNING", *quiet,
        )  # fmt: skip

    def kill(self, victim: str) -> None:
        """Kill one of them with SIGKILL, and start it again."""
        VICTIMS[victim](self)

    def mend(self) -> None:
        """Start again what has died by itself of a failpoint, and return when the gateway answers."""
        if not _is_alive(self.celery_pid):
            self._kill_group(self.celery_pid)
            self.start_celery()
        if not _is_alive(self.web_pid):
            self._kill_group(self.web_pid)
            self.start_web()
        self.wait_until(self.is_ready, "the gateway is ready again")

    def kill_web_worker(self) -> None:
        """Kill one worker; gunicorn starts another."""
        children = Path(f"/proc/{self.web_pid}/task/{self.web_pid}/children").read_text().split()
        if children:
            with suppress(ProcessLookupError):
                os.kill(int(self.dice.choice(children)), signal.SIGKILL)

    def kill_web(self) -> None:
        """Kill gunicorn and all its workers."""
        self._kill_group(self.web_pid)
        self.start_web()

    def kill_celery(self) -> None:
        """Kill the worker and beat."""
        self._kill_group(self.celery_pid)
        self.start_celery()

    def kill_postgres(self) -> None:
        """Kill PostgreSQL and all its backends."""
        self._kill_postgres()
        self.postgres.start()

    def kill_postgres_then_web(self) -> None:
        """Kill PostgreSQL, and the web while it holds what PostgreSQL did not take: the spool on disk is all that is left of that."""
        self._kill_postgres()
        time.sleep(OUTAGE_SECONDS)
        self._kill_group(self.web_pid)
        self.postgres.start()
        self.start_web()

    def kill_valkey(self) -> None:
        """Kill Valkey."""
        self.valkey.kill()
        self.valkey.start()

    # -- looking and asking

    def is_ready(self) -> bool:
        """Whether the gateway says that it is."""
        return self.get("/readyz")[0] == 200

    def get(self, path: str) -> tuple[int, bytes]:
        """GET from the gateway; status 0 when nobody answers."""
        return request(self.port, "GET", path)

    def do(self, deed: str, *, seconds: float = READY_SECONDS, **fields: Any) -> Any:
        """Do a deed (`deeds`), asking until it is done. Raises: TimeoutError."""
        answers: list[Any] = []

        def is_done() -> bool:
            status, body = request(self.port, "POST", f"/chaos/{deed}", fields)
            answers.append((status, body))
            return status == 200

        self.wait_until(is_done, f"{deed} {fields}", seconds=seconds, of=answers)
        return json.loads(answers[-1][1])

    def calm_the_bank(self) -> None:
        """End the bank's temper: what it says from now on arrives, once."""
        self._tell_the_bank("calm")

    def wait_until(self, condition: Callable[[], bool], what: str, *, seconds: float = READY_SECONDS, of: Any = None) -> None:
        """Return when `condition` is so. Raises: TimeoutError."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(psycopg.OperationalError):
                if condition():
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so after {seconds} s: {what}: {str(of[-1])[:2000] if of else ''}")
            time.sleep(0.03)

    def sql(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection to the run's database."""
        return psycopg.connect(self.postgres.url(), autocommit=True, connect_timeout=5)

    def logs(self) -> str:
        """The ends of the product's logs."""
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-2500:]}" for log in sorted(self.folder.glob("*.log")))

    # -- inside

    def _kill_postgres(self) -> None:
        self.postgres_deaths.append(time.time())
        self.postgres.kill()

    def _maintenance(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.postgres.url("postgres"), autocommit=True, connect_timeout=5)

    def _tell_the_bank(self, word: str) -> None:
        assert self._bank is not None
        assert self._bank.stdin is not None
        self._bank.stdin.write(f"{word}\n")
        self._bank.stdin.flush()

    def _fork(self, name: str, kind: str, *arguments: str) -> int:
        assert self._nursery is not None
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(json.dumps([str(self.folder / f"{name}.log"), self.bug, kind, *arguments]) + "\n")
        self._nursery.stdin.flush()
        return int(self._answer(self._nursery))

    def _open(self, module: str, *arguments: str, environ: dict[str, str] | None = None) -> subprocess.Popen[str]:
        with (self.folder / f"{module.rpartition('.')[2]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments], cwd=ROOT, env=environ, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _answer(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{process.args!r} has ended:\n{self.logs()}")
        return line

    def _kill_group(self, pid: int) -> None:
        if pid:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            deadline = time.monotonic() + 10
            while _is_alive(pid) and time.monotonic() < deadline:
                time.sleep(0.005)


@contextmanager
def a_folder() -> Iterator[Path]:
    """A folder for a run, in memory where there is such a place.

    A killed process takes nothing with it that it had handed to the kernel, so a disk would prove no more here; it would only be slower.
    """
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tollgate-chaos-", dir=place, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


VICTIMS: dict[str, Callable[[Servers], None]] = {
    "web worker": Servers.kill_web_worker,
    "web": Servers.kill_web,
    "celery": Servers.kill_celery,
    "postgres": Servers.kill_postgres,
    "postgres, then web": Servers.kill_postgres_then_web,
    "valkey": Servers.kill_valkey,
}


def request(port: int, method: str, path: str, fields: Any = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Ask a server on loopback, with JSON; status 0 when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        body = fields if isinstance(fields, str) else json.dumps(fields) if fields is not None else None
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
