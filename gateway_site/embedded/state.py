"""The state folder: where the embedded servers keep data, sockets, logs and the generated secrets, and how to address them.

Read by `settings.py` before anything else, so it imports little, starts nothing, and stays silent where there is no state folder.
"""

import fcntl
import hashlib
import os
import secrets as randomness
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlsplit

import environ

PROJECT = Path(__file__).resolve().parents[2]
DATABASE = "tollgate"
USER = "tollgate"

_SOCKET_PATH_LIMIT = 100  # bytes; the kernel's is 108 on Linux and 104 on macOS
_LONGEST_SOCKET_NAME = ".s.PGSQL.5432"
_SECRETS: dict[str, Callable[[], str]] = {
    "SECRET_KEY": lambda: randomness.token_urlsafe(48),
    "KEY_PEPPERS": lambda: f"1:{randomness.token_hex(32)}",  # version:hex, comma separated; the first is current
    "ENCRYPTION_KEYS": lambda: f"1:{randomness.token_hex(32)}",  # 32 bytes each; the first encrypts
    "POSTGRES_PASSWORD": lambda: randomness.token_urlsafe(24),
}


class EmbeddedError(Exception):
    """Something the reader can mend; the message says how."""


class AlreadyRunning(EmbeddedError):
    """Another process, `pid`, holds the state folder."""

    def __init__(self, folder: Path, pid: int) -> None:
        super().__init__(
            f"{folder} is in use by process {pid}: it is already running. Stop it first, or set GATEWAY_STATE to another folder."
        )
        self.pid = pid


def folder() -> Path:
    """Return the state folder: `GATEWAY_STATE`, else `.gateway` in the project."""
    chosen = os.environ.get("GATEWAY_STATE", "")
    return Path(chosen).expanduser().absolute() if chosen else PROJECT / ".gateway"


def create(folder: Path) -> None:
    """Make the state folder, 0700, unless it is there. What lies inside is private by its own modes too."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def secrets(folder: Path) -> dict[str, str]:
    """Return the installation's secrets, generating and keeping what is missing. A secret once written is never changed.

    Raises: EmbeddedError when the file belongs to somebody else.
    """
    create(folder)
    path = folder / "secrets.env"
    try:
        known = _read_secrets(path)
    except PermissionError as error:
        raise EmbeddedError(f"{path} cannot be read: it belongs to another user. Run as that user, or set GATEWAY_STATE.") from error
    if missing := [name for name in _SECRETS if name not in known]:
        known |= {name: _SECRETS[name]() for name in missing}
        _write_private(path, "".join(f"{name}={value}\n" for name, value in known.items()))
    return known


def load_dotenv() -> None:
    """Put the project's `.env`, where there is one, into `os.environ` where unset: it may name servers, and then none are started."""
    if (PROJECT / ".env").exists():
        environ.Env.read_env(str(PROJECT / ".env"))


def load_environment() -> None:
    """Put the kept secrets, and the embedded servers' URLs, into `os.environ` where unset. Starts nothing; no state folder, no effect."""
    here = folder()
    try:
        known = _read_secrets(here / "secrets.env")
    except PermissionError:  # another user's state is not ours to use; the settings then say what is unset
        return
    if not known:
        return
    urls = {"DATABASE_URL": database_url(here, known["POSTGRES_PASSWORD"]), "REDIS_URL": redis_url(here)}
    for name, value in {**known, **urls}.items():
        if not os.environ.get(name):  # an empty line in `.env` says nothing either
            os.environ[name] = value


def database_url(folder: Path, password: str, database: str = DATABASE) -> str:
    """Return the embedded PostgreSQL's URL.

    The socket folder is a query parameter because that form alone means the same to libpq and to django-environ (which lower-cases a host
    and leaves it percent-encoded).
    """
    return f"postgres://{USER}:{quote(password, safe='')}@/{quote(database, safe='')}?host={quote(str(sockets(folder)), safe='')}"


def redis_url(folder: Path, number: int = 0) -> str:
    """Return the embedded Valkey's URL, for redis-py, of its database `number`."""
    return f"unix://{quote(str(sockets(folder) / 'valkey.sock'))}?db={number}"


def broker_url(redis_url: str) -> str:
    """Return what Celery calls `redis_url`: a unix socket has another scheme there, everything else is the same."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    return f"redis+socket://{parts.path}?{parts.query.replace('db=', 'virtual_host=')}"


def sockets(folder: Path) -> Path:
    """Return where the servers' sockets lie: in the state folder, or in a short folder of its own when that path is too long to bind."""
    inside = folder / "run"
    if len(os.fsencode(inside / _LONGEST_SOCKET_NAME)) <= _SOCKET_PATH_LIMIT:
        return inside
    return Path("/tmp") / f"tollgate-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"  # noqa: S108  its owner and mode are checked


def create_sockets(folder: Path, *, uid: int, gid: int) -> Path:
    """Make the socket folder, 0700, for `uid`; refuse one that somebody else has put there.

    Raises: EmbeddedError.
    """
    path = sockets(folder)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {uid, os.geteuid()} or stat.S_IMODE(found.st_mode) & 0o077:
        raise EmbeddedError(f"{path} must be a folder of yours with mode 0700; it is not. Remove it and start again.")
    if found.st_uid != uid:
        os.chown(path, uid, gid)
    return path


def remove_sockets(folder: Path) -> None:
    """Remove the socket folder when it is empty."""
    with suppress(OSError):
        sockets(folder).rmdir()


def log_path(folder: Path, name: str) -> Path:
    """Return the log file called `name`, its folder made; a file past 10 MB becomes `NAME.log.1` first."""
    logs = folder / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    path = logs / f"{name}.log"
    with suppress(FileNotFoundError):
        if path.stat().st_size > 10_000_000:
            path.replace(logs / f"{name}.log.1")
    path.touch(mode=0o600)
    return path


class Lock:
    """The exclusive right to run servers in a state folder. The kernel drops it when its holder dies, however it dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock; a second call by its holder changes nothing.

        Raises: AlreadyRunning with the holder's pid.
        """
        if self._file is not None:
            return
        create(self._folder)
        file = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 20, 0)
            os.close(file)
            raise AlreadyRunning(self._folder, int(holder or 0)) from None
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        self._file = file

    def release(self) -> None:
        """Give the lock back, if held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def _read_secrets(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name: value for name, equals, value in (line.partition("=") for line in lines) if equals}


def _write_private(path: Path, text: str) -> None:
    """Replace `path` whole, 0600, so that a crash leaves the old content or the new, never half of one."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(file, "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    new.replace(path)
