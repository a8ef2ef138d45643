"""How gunicorn serves the application: uvicorn workers that drain their streams before they go."""

import ctypes
import gc
import os
import signal
import sys
from typing import Any

from gateway_site import metrics_folder
from gateway_site.embedded import state


def share_arenas() -> None:
    """Have all threads take memory from the same few arenas.

    A page is rendered in a thread of its own, and the C library gives each new thread an arena, up to eight for each core: what is freed in one is
    of no use in the others, and a process grows for hours. Threads that wait for each other anyway gain nothing by it. (M_ARENA_MAX, mallopt(3).)
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # another C library has none, or one that does nothing
        m_arena_max = -8
        mallopt(m_arena_max, int(os.environ.get("MALLOC_ARENA_MAX", "2")))


state.load_dotenv()
metrics_folder.prepare()
share_arenas()

bind = os.environ.get("BIND", "127.0.0.1:8000")
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = "gateway_site.worker.Worker"
preload_app = True
keepalive = 75
backlog = 2048
accesslog = None
# Both planes see the client's address and scheme as uvicorn gives them: the proxy's word where the proxy is trusted, else the connection's.
forwarded_allow_ips = os.environ.get("TRUSTED_PROXIES", "")
control_socket_disable = True  # it would open a socket in the home folder
# The worker ends its streams itself within DRAIN_SECONDS; the rest is for settling.
graceful_timeout = int(float(os.environ.get("DRAIN_SECONDS", "20"))) + 10
timeout = 60


def when_ready(_server: Any) -> None:
    """Load what the first request would, and set all that is loaded aside, before there are workers.

    They share it: what no collection walks through is not written to, and so not copied. Collections are short then, too.
    """
    from django.urls import get_resolver  # not above: gunicorn reads this file before the application has set Django up

    _ = get_resolver().url_patterns
    gc.collect()
    gc.freeze()


def post_fork(_server: Any, _worker: Any) -> None:
    """End a worker whose master was killed: it would go on accepting with nobody to restart it."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def child_exit(_server: Any, worker: Any) -> None:
    """Forget the state of a worker that has ended; what it counted stays counted."""
    from prometheus_client import multiprocess  # not above: it looks for its folder when it is imported

    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
