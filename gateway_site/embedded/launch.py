"""Become another program, under another identity if asked, that is told to end when its starter dies.

Run as a script by itself (`python -I -S launch.py PARENT SIGNAL IDENTITY COMMAND...`), never imported: a child that changes its identity
after a fork but before an exec is only safe in a process without threads, and this one has none. It costs about 10 ms.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION = 0x20080522
_REFUSED = 126


def main(parent: str, last_signal: str, identity: str, *command: str) -> None:
    """Take `identity` ("own", "namespace:UID:GID" or "user:UID:GID"), ask for `last_signal` at the parent's death, and run `command`."""
    kind, _, ids = identity.partition(":")
    if kind != "own":
        uid, gid = (int(part) for part in ids.split(":"))
        _enter_namespace(uid, gid) if kind == "namespace" else _become(uid, gid)
    if sys.platform == "linux":
        # After the change of identity, which clears it. Elsewhere the next start stops what a killed starter left.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(last_signal), 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit("the starter has died")
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these two, and an exec would pass that on
        signal.signal(ignored, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606  no shell is wanted


def _enter_namespace(uid: int, gid: int) -> None:
    """Look like `uid` to oneself while files stay root's. PostgreSQL refuses uid 0; this needs no other account and no chown."""
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "a user namespace is forbidden here")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {outer_uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {outer_gid} 1")


def _become(uid: int, gid: int) -> None:
    """Become `uid` for good, keeping root's passage through private folders where the kernel grants it (containers as root in /root)."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc:
        libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if libc:
        kept = 1 << _CAP_DAC_OVERRIDE
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
        sets = (ctypes.c_uint32 * 6)(kept, kept, kept, 0, 0, 0)  # effective, permitted, inheritable; then the upper halves
        if libc.capset(header, sets) == 0:
            libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.stderr.write(f"cannot start {sys.argv[4]}: {error}\n")
        sys.exit(_REFUSED)
