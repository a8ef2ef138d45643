"""Both embedded servers as one thing: whichever of them the operator has given no URL for."""

import fcntl
import os
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway_site.embedded import state
from gateway_site.embedded.postgres import Postgres
from gateway_site.embedded.state import AlreadyRunning
from gateway_site.embedded.valkey import Valkey

_BORROW_SECONDS = 60


class Servers:
    """PostgreSQL and Valkey in one state folder (the installation's own by default), under its lock while they run."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or state.folder()
        self.lock = state.Lock(self.folder)
        self.postgres = Postgres(self.folder)
        self.valkey = Valkey(self.folder)
        self._started: list[Postgres | Valkey] = []

    def start(self, environ: MutableMapping[str, str]) -> None:
        """Start each server whose URL (`DATABASE_URL`, `REDIS_URL`) `environ` lacks, return when both are ready, and write the URLs there.

        Raises: AlreadyRunning; EmbeddedError.
        """
        self.lock.acquire()
        try:
            for server in self._wanted(environ):
                self._started.append(server)
                server.launch()
            for server in self._started:
                server.wait()
        except BaseException:
            self.stop()
            raise
        if self.postgres in self._started:
            environ["DATABASE_URL"] = self.postgres.url()
        if self.valkey in self._started:
            environ["REDIS_URL"] = self.valkey.url()

    def restart_ended(self) -> list[str]:
        """Start again what has ended by itself, and return the names.

        Raises: EmbeddedError.
        """
        ended = [server for server in self._started if server.pid is None]
        for server in ended:
            server.start()
        return [type(server).__name__ for server in ended]

    def stop(self) -> None:
        """Stop what was started, PostgreSQL first, and give the lock back."""
        for server in self._started:
            server.stop()
        if self._started:
            state.remove_sockets(self.folder)
        self._started = []
        self.lock.release()

    def ready(self, environ: MutableMapping[str, str]) -> bool:
        """Say whether every server that `environ` has no URL for is running, started by whomever."""
        return all(server.ready() for server in self._wanted(environ))

    def _wanted(self, environ: MutableMapping[str, str]) -> list[Postgres | Valkey]:
        postgres = [] if environ.get("DATABASE_URL") else [self.postgres]
        return [*postgres, *([] if environ.get("REDIS_URL") else [self.valkey])]

    def __enter__(self) -> Self:
        self.start(os.environ)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def running(folder: Path) -> bool:
    """Say whether both embedded servers of `folder` take connections."""
    return Servers(folder).ready({})


@contextmanager
def borrow() -> Iterator[None]:
    """Lend the servers to one command: use them when they run, else start them and stop them after the last command that uses them.

    Raises: EmbeddedError.
    """
    state.load_dotenv()
    if os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL"):
        yield
        return
    servers = Servers()
    state.create(servers.folder)
    # Every borrower holds this file shared; the one that started the servers waits for the others before it stops them.
    path = servers.folder / "borrowers"
    path.touch(mode=0o600)
    with path.open("r+b") as borrowers:
        fcntl.flock(borrowers, fcntl.LOCK_SH)
        started = _start_or_join(servers)
        state.load_environment()
        try:
            yield
        finally:
            if started:
                fcntl.flock(borrowers, fcntl.LOCK_EX)
                servers.stop()


def _start_or_join(servers: Servers) -> bool:
    """Return True when this process has started the servers, False when another one's are ready to use."""
    deadline = time.monotonic() + _BORROW_SECONDS
    while not servers.ready(os.environ):
        try:
            servers.start(os.environ)
        except AlreadyRunning:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)  # whoever holds the lock is starting or stopping them
        else:
            return True
    return False
