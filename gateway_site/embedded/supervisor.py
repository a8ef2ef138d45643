"""The supervisor behind `make run`: from nothing to a working gateway, and from Ctrl-C to nothing left behind.

Web comes up first and the reader gets the banner; worker and beat follow. Each child has a session of its own, so the terminal's Ctrl-C
reaches this process alone, which stops everything in order. Children are told to end by the kernel should this process be killed.
"""

import errno
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from gateway_site.embedded import processes, simulated_stripe, state
from gateway_site.embedded.servers import Servers
from gateway_site.embedded.state import EmbeddedError

_WEB_STOP_SECONDS = 30.0
_WORKER_STOP_SECONDS = 15.0
_BEAT_STOP_SECONDS = 5.0
_STRIPE_STOP_SECONDS = 5.0
_READY_SECONDS = 60.0
_STEADY_SECONDS = 60.0  # a child that has run this long has recovered: its next crash is its first
_LONGEST_PAUSE_SECONDS = 30.0
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TROUBLE = re.compile(r'\[(error|critical)\s*\]|"level": ?"(error|critical)"|\[(ERROR|CRITICAL)\]|: (ERROR|CRITICAL)/|^Traceback ')
_NEW_RECORD = re.compile(r"^(\d{4}-\d\d-\d\d|\{|\[\d{4}-|INFO|DEBUG|WARNING)")


class Interrupted(BaseException):
    """The person at the terminal wants to stop while things are still starting. Like KeyboardInterrupt, no `except Exception` keeps it."""


class Address:
    """Where the web listens: `HOST` (127.0.0.1) and `PORT` (8000; 0 chooses a free one)."""

    def __init__(self, host: str, port: str) -> None:
        if not port.isdigit() or int(port) > 65535:
            raise EmbeddedError(f"PORT={port} is not a port number. Use one from 1 to 65535, for example: PORT=8001 make run")
        self.host = host
        self.port = int(port)

    def check(self) -> None:
        """Make sure that nobody listens there, and settle on a port when any will do.

        Raises: EmbeddedError with the remedy.
        """
        try:
            family, _, _, _, where = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
                self.port = int(probe.getsockname()[1])
        except PermissionError:
            raise EmbeddedError(
                f"Port {self.port} needs more rights than you have. Choose one above 1023, for example: PORT=8000 make run"
            ) from None
        except socket.gaierror:
            raise EmbeddedError(
                f"HOST={self.host} is not an address. Leave it unset for 127.0.0.1, or use 0.0.0.0 for every interface."
            ) from None
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise EmbeddedError(f"HOST={self.host} is not an address of this machine. Leave it unset for 127.0.0.1.") from None
            raise EmbeddedError(
                f"Cannot listen on {self.bind}: {(error.strerror or str(error)).lower()}. "
                f"Stop whoever listens there, or choose another port, for example: PORT={self.port + 1} make run"
            ) from None

    @property
    def bind(self) -> str:
        """Return the address as gunicorn wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable(self) -> str:
        """Return the host under which this machine reaches it."""
        return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  compared, not bound

    @property
    def url(self) -> str:
        """Return the base URL, without a slash at its end."""
        return f"http://[{self.reachable}]:{self.port}" if ":" in self.reachable else f"http://{self.reachable}:{self.port}"


class Child:
    """One supervised process: its command, its log, and when to start it again."""

    def __init__(self, name: str, command: list[str], folder: Path, extra: dict[str, str] | None = None) -> None:
        self.name = name
        self.log = state.log_path(folder, name)
        self._command = command
        self._extra = extra or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._crashes = 0
        self._start_at = 0.0
        self._read = self.log.stat().st_size
        self._in_trouble = False
        self._log_start = 0

    @property
    def ended(self) -> bool:
        """Say whether it is not running (any more)."""
        return self._process is None or self._process.poll() is not None

    def start(self) -> None:
        """Start it."""
        self._started_at = time.monotonic()
        self._log_start = self.log.stat().st_size
        environ = {**os.environ, **self._extra}
        self._process = processes.start(self._command, log=self.log, environ=environ, umask=0o077, cwd=state.PROJECT)

    def tend(self) -> str:
        """Start it again, after a pause that grows with each crash, when it has ended by itself; return what to tell the reader."""
        if self._process is not None:
            if not self.ended:
                return ""
            status = self._process.returncode
            processes.kill_group(self._process)  # what it had forked would keep its port
            self._process = None
            self._crashes = 1 if time.monotonic() - self._started_at > _STEADY_SECONDS else self._crashes + 1
            pause = min(_LONGEST_PAUSE_SECONDS, 0.5 * 2 ** min(self._crashes - 1, 10))
            self._start_at = time.monotonic() + pause
            return f"{self.name} ended by itself (status {status}); it starts again in {pause:g} s. Its log: {self.log}"
        if time.monotonic() >= self._start_at:
            self.start()
        return ""

    def cause(self) -> str:
        """Return what it wrote when it failed to start: the first traceback's end, or else its last lines."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read(1_000_000).decode(errors="replace").splitlines()
        traced = next((number for number, line in enumerate(lines) if line.startswith("Traceback ")), len(lines))
        raised = next((number for number, line in enumerate(lines) if number > traced and not line.startswith(" ")), len(lines))
        return "\n".join(lines[: raised + 1][-15:])

    def trouble(self) -> list[str]:
        """Return the log's new lines that tell of an error, with what belongs to them."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        lines = []
        for line in whole.decode(errors="replace").splitlines():
            self._in_trouble = bool(_TROUBLE.search(line)) or (self._in_trouble and not _NEW_RECORD.match(line))
            if self._in_trouble:
                lines.append(f"{self.name} | {line}")
        return lines

    def ask_to_stop(self) -> None:
        """Ask it to finish what it is doing and end."""
        if self._process is not None and not self.ended:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and what it has forked, now."""
        if self._process is not None:
            processes.kill_group(self._process)
            self._process = None


class Supervisor:
    """Runs the whole gateway on one machine from one terminal."""

    def __init__(self, folder: Path | None = None) -> None:
        self._servers = Servers(folder)
        self._folder = self._servers.folder
        self._signals = 0
        self._starting = True
        self._wake, self._woken = socket.socketpair()
        self._web: Child | None = None
        self._others: list[Child] = []
        self._servers_checked_at = 0.0

    def run(self) -> int:
        """Start everything, watch it until SIGINT or SIGTERM, stop everything; return the exit status."""
        began = time.monotonic()
        self._listen_to_signals()
        try:
            try:
                self._start(began)
                self._watch()
            finally:
                self._starting = False
                self._stop()
                for number in _STOP_SIGNALS:  # one Ctrl-C too many must not turn the exit status into a failure
                    signal.signal(number, signal.SIG_IGN)
        except Interrupted:
            return 0
        except EmbeddedError as error:
            _say(f"\n{error}", to_stderr=True)
            return 1
        return 0

    def _start(self, began: float) -> None:
        state.load_dotenv()
        os.environ.setdefault("DEBUG", "1")
        os.environ["DJANGO_SETTINGS_MODULE"] = "gateway_site.settings"
        os.environ["GATEWAY_STATE"] = str(self._folder)
        address = Address(os.environ.get("HOST") or "127.0.0.1", os.environ.get("PORT") or "8000")
        self._servers.lock.acquire()
        address.check()
        os.environ.setdefault("PUBLIC_URL", address.url)
        state.secrets(self._folder)
        self._servers.start(os.environ)
        state.load_environment()
        stripe = simulated_stripe.announce(self._folder, os.environ) if simulated_stripe.wanted(os.environ) else None
        self._check_interrupted()
        credentials = self._prepare(address.url)
        self._check_interrupted()
        web = _python("gunicorn", "-c", "gateway_site/gunicorn_conf.py", "gateway_site.asgi:application")
        self._web = Child("web", web, self._folder, {"BIND": address.bind})
        self._web.start()
        self._wait_for_web(self._web, address)
        _say(_banner(address.url, credentials, self._folder, time.monotonic() - began))
        self._others = [
            # One process each: the solo pool runs tasks in the worker itself, which is enough for one machine and leaves no grandchildren.
            Child("worker", _python(*_CELERY, "worker", "--pool=solo", "--loglevel=INFO", *_ALONE), self._folder),
            Child(
                "beat",
                _python(*_CELERY, "beat", "--loglevel=INFO", f"--schedule={self._folder / 'beat-schedule'}", "--pidfile="),
                self._folder,
            ),
        ]
        if stripe:
            self._others.append(Child("stripe", _python(*stripe), self._folder))
        for child in self._others:
            child.start()

    def _prepare(self, base_url: str) -> dict[str, str]:
        """Bring the database up to date and seed it on the first run; return the quickstart's credentials."""
        sys.path[:0] = [] if str(state.PROJECT) in sys.path else [str(state.PROJECT)]
        # Django can be imported only now that the environment names its settings and the servers run.
        import django
        from django.core.management import call_command
        from django.db import connections
        from django.db.migrations.executor import MigrationExecutor

        django.setup()
        executor = MigrationExecutor(connections["default"])
        if plan := executor.migration_plan(executor.loader.graph.leaf_nodes()):
            _say(f"Preparing the database ({len(plan)} migrations) ...")
            call_command("migrate", verbosity=0, interactive=False)
        self._check_interrupted()
        from gateway_site import quickstart

        credentials = quickstart.prepare(base_url)
        connections.close_all()
        return credentials

    def _wait_for_web(self, web: Child, address: Address) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not _healthy(address):
            if web.ended:
                raise EmbeddedError(f"The web process did not start. From {web.log}:\n{web.cause()}")
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{address.url}/healthz did not answer 200 within {_READY_SECONDS:g} s. See {web.log}.")
            self._pause(0.03)
            self._check_interrupted()

    def _watch(self) -> None:
        children = [child for child in (self._web, *self._others) if child]
        while not self._signals:
            self._pause(0.5)
            for child in children:
                for line in child.trouble():
                    _say(line, to_stderr=True)
                if not self._signals and (news := child.tend()):
                    _say(news, to_stderr=True)
            self._tend_servers()

    def _tend_servers(self) -> None:
        if self._signals or time.monotonic() < self._servers_checked_at:
            return
        try:
            for name in self._servers.restart_ended():
                _say(f"{name} had ended by itself and runs again. Its log is in {self._folder / 'logs'}", to_stderr=True)
        except EmbeddedError as error:
            self._servers_checked_at = time.monotonic() + 5
            _say(str(error), to_stderr=True)

    def _stop(self) -> None:
        if self._web:
            _say("\nStopping (Ctrl-C again to hasten) ...")
            self._stop_children([self._web], _WEB_STOP_SECONDS)
        self._stop_children([child for child in self._others if child.name == "beat"], _BEAT_STOP_SECONDS)
        self._stop_children([child for child in self._others if child.name == "worker"], _WORKER_STOP_SECONDS)
        self._stop_children([child for child in self._others if child.name == "stripe"], _STRIPE_STOP_SECONDS)
        self._servers.stop()
        if self._web:
            _say("Stopped. Nothing is left running.")

    def _stop_children(self, children: list[Child], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for child in children:
            child.ask_to_stop()
        while time.monotonic() < deadline and self._signals < 2 and not all(child.ended for child in children):
            self._pause(0.05)
        for child in children:
            child.kill()

    def _listen_to_signals(self) -> None:
        for end in (self._wake, self._woken):
            end.setblocking(False)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes `_pause`

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._starting and self._signals > 1:  # the first waits for the step under way; who insists need not
            raise Interrupted

    def _check_interrupted(self) -> None:
        if self._signals:
            raise Interrupted

    def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until the next signal."""
        select.select([self._wake], [], [], seconds)
        with suppress(BlockingIOError):
            self._wake.recv(64)


_CELERY = ("celery", "-A", "gateway_site.celery")
_ALONE = ("--without-gossip", "--without-mingle", "--without-heartbeat")  # nobody to talk to: mingling alone costs a second


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _healthy(address: Address) -> bool:
    connection = http.client.HTTPConnection(address.reachable, address.port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _banner(url: str, credentials: dict[str, str], folder: Path, seconds: float) -> str:
    from django.conf import settings  # set up by now

    body = json.dumps({"model": "demo/echo", "stream": True, "messages": [{"role": "user", "content": "Hello"}]})
    shown = {
        "Admin": (f"{url}/{settings.ADMIN_PATH}/", credentials.get("admin_email"), credentials.get("admin_password")),
        "Customer": (f"{url}/", credentials.get("customer_email"), credentials.get("customer_password")),
    }
    lines = [f"\nTollgate is running at {url} (ready in {seconds:.1f} s)\n"]
    lines += [f"  {name:<10}{where}   {email} / {password}" for name, (where, email, password) in shown.items() if email and password]
    if key := credentials.get("api_key"):
        lines += [f"  {'API key':<10}{key}\n", "Try it:\n", f"  curl -N {url}/v1/chat/completions \\"]
        lines += [f'    -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\', f"    -d '{body}'\n"]
    if settings.STRIPE_SIMULATED:
        lines += [f"  {'Payments':<10}simulated, no money moves: {settings.STRIPE_API_BASE}/simulator\n"]
    lines += [f"Credentials: {folder / 'quickstart.json'}   Logs: {folder / 'logs'}", "Ctrl-C stops everything.\n"]
    return "\n".join(lines)


def _say(text: str, *, to_stderr: bool = False) -> None:
    with suppress(OSError):  # the terminal may be gone; stopping in order matters more
        print(text, file=sys.stderr if to_stderr else sys.stdout, flush=True)
