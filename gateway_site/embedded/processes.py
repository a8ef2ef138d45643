"""Child processes: starting one in a session of its own, recognising one again by its pid, and ending one in growing earnest."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LAUNCH = Path(__file__).with_name("launch.py")


@dataclass(frozen=True)
class Identity:
    """Under whom a child runs; `kind` is "own", "namespace" (root, seen from inside as `uid`) or "user" (root becomes `uid`)."""

    kind: str
    uid: int
    gid: int

    @property
    def owner(self) -> tuple[int, int]:
        """Return the uid and gid that must own its files, as everybody else sees them."""
        return (self.uid, self.gid) if self.kind == "user" else (os.geteuid(), os.getegid())


def own_identity() -> Identity:
    """Return the identity of this process."""
    return Identity("own", os.geteuid(), os.getegid())


def launched(command: Sequence[str | Path], *, identity: Identity | None = None, last_signal: int = signal.SIGTERM) -> list[str]:
    """Return `command` wrapped so that it runs as `identity` and gets `last_signal` when this process dies (on Linux)."""
    who = identity or own_identity()
    prefix = [sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), str(int(last_signal)), f"{who.kind}:{who.uid}:{who.gid}"]
    return [*prefix, *map(str, command)]


def start(
    command: Sequence[str | Path],
    *,
    log: Path,
    environ: Mapping[str, str],
    identity: Identity | None = None,
    last_signal: int = signal.SIGTERM,
    umask: int = -1,
    cwd: str | Path = "/",
) -> "subprocess.Popen[bytes]":
    """Start `command` with its output in `log`, in a session of its own: the terminal's Ctrl-C does not reach it.

    Call this from a thread that lives on: Linux counts the end of the starting thread as the starter's death.
    """
    with log.open("ab") as out:
        return subprocess.Popen(
            launched(command, identity=identity, last_signal=last_signal),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environ,
            cwd=cwd,
            start_new_session=True,
            umask=umask,
        )


def end(process: "subprocess.Popen[bytes]", *steps: tuple[int, float]) -> None:
    """Send each signal and wait its seconds for the end; then kill the child and its whole session group."""
    for number, seconds in steps:
        if process.poll() is not None:
            break
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    kill_group(process)


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill the child and what it has forked (which may outlive it), and wait for the child."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def recognise(pid: int, *words: str) -> bool:
    """Say whether `pid` lives and was started with every one of `words` among its arguments: a number alone may long be somebody else's."""
    import psutil  # only wanted after a crash, here and below

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and all(any(word in part for part in process.cmdline()) for word in words)
    except psutil.Error:
        return False


def end_stranger(pid: int, number: int, seconds: float) -> None:
    """End a process that is not our child: signal it, wait, then kill it."""
    for signalled, patience in ((number, seconds), (signal.SIGKILL, 10.0)):
        with suppress(ProcessLookupError):
            os.kill(pid, signalled)
        if wait_until_gone([pid], patience):
            return


def family(pid: int) -> list[int]:
    """Return the pids of everything `pid` has started, near and far."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


def wait_until_gone(pids: Sequence[int], seconds: float) -> bool:
    """Wait until none of `pids` runs any more (one that only waits to be reaped does not); False when time is up first."""
    deadline = time.monotonic() + seconds
    while any(_runs(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def tail(log: Path, since: int = 0, lines: int = 8) -> str:
    """Return the last lines that `log` got after byte `since`."""
    with log.open("rb") as file:
        file.seek(since)
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


def _runs(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
