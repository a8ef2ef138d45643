"""The folder in which the processes of one gunicorn share their figures: chosen and emptied before any of them counts.

prometheus_client looks for PROMETHEUS_MULTIPROC_DIR when it is imported, so this runs in gunicorn's configuration and does not import it.
"""

import fcntl
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from gateway_site.embedded import state

_PREFIX = "tollgate-metrics-"


@cache  # gunicorn reads its configuration again on SIGHUP, when the folder is in use
def prepare() -> Path:
    """Name the folder in PROMETHEUS_MULTIPROC_DIR and return it: the one given there, else a new one, without old figures.

    A process holds its folder locked, and so does everything it forks. A given folder that others use keeps its figures: they are the
    gunicorn that this one takes over from. New folders of processes which are gone are removed.
    """
    given = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")
    folder = _given(Path(given)) if given else _new(_place())
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    return folder


def _given(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)  # open until the process ends
    if _take(lock):
        for file in folder.glob("*.db"):
            file.unlink(missing_ok=True)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return folder


def _new(place: Path) -> Path:
    for old in place.glob(f"{_PREFIX}*"):
        _remove_if_unused(old)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        try:
            fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)
        except FileNotFoundError:
            continue
        if folder.exists():  # else somebody who starts at the same time took it for unused before it was locked
            return folder


def _place() -> Path:
    here = state.folder()
    return here if os.access(here, os.W_OK) else Path(tempfile.gettempdir())


def _remove_if_unused(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # gone meanwhile, or somebody else's
        return
    try:
        if os.fstat(lock).st_uid == os.geteuid() and _take(lock):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
