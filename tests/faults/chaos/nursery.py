"""A process that has loaded the whole product once and forks servers of it: a killed one is back in a moment, not after seconds of imports.

    python -m tests.faults.chaos.nursery     # a line of JSON in, [log, bug, kind, arguments...]; the new process's id out

What is forked runs as the command line would run it. Nobody of it outlives the nursery, and the nursery not its starter.
"""

import ctypes
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.faults.chaos import bugs

DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def main() -> None:
    """Load, then fork for each line until the input ends."""
    _die_with_parent()
    import celery.bin.worker  # noqa: F401 - all of it is the cost that is paid once
    import stripe  # noqa: F401

    import gateway_site.asgi
    import gateway_site.worker  # noqa: F401
    from gateway_site.celery import app

    app.loader.import_default_modules()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are not kept
    print("ready", flush=True)
    for line in sys.stdin:
        log, bug, kind, *arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(log, bug, kind, arguments)
        print(pid, flush=True)


def _become(log: str, bug: str, kind: str, arguments: list[str]) -> None:
    try:
        os.setsid()
        _die_with_parent()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for standard in (1, 2):
            os.dup2(file, standard)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if bug:
            bugs.plant(bug)
        sys.argv = [kind, *arguments]
        SERVERS[kind]()
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def _gunicorn() -> None:
    from gunicorn.app.wsgiapp import run

    run()


def _celery() -> None:
    from celery.__main__ import main as run

    run()


def _prepare() -> None:
    from tests.faults.chaos import opening

    opening.prepare(Path(sys.argv[1]), sys.argv[2])


SERVERS: dict[str, Callable[[], None]] = {"gunicorn": _gunicorn, "celery": _celery, "prepare": _prepare}


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)


if __name__ == "__main__":
    main()
