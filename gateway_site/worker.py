"""The gunicorn worker: uvicorn's, with streams drained in order when it is told to stop.

uvicorn cuts what is still open when its grace period ends, and neither CancelledError nor `finally` runs in the application then. So the
application ends its streams itself, earlier: it learns of the signal here.
"""

import os
import signal
from typing import Any

from django.conf import settings
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker
from uvicorn_worker import _workers as uvicorn_workers


class DrainingServer(Server):
    """uvicorn's server, telling the engine when it is asked to stop."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to drain, then let uvicorn stop accepting and wait for what is open."""
        from proxy import engine  # not above: gunicorn reads this file before the application has set Django up

        try:
            engine.current().streams.drain(0.0 if sig == signal.SIGINT and self.should_exit else settings.DRAIN_SECONDS)
        except RuntimeError:
            pass  # not started yet: nothing to drain
        super().handle_exit(sig, frame)


class Worker(UvicornWorker):  # type: ignore[misc] # the package has no types
    """uvicorn with uvloop and httptools, without access log or server header."""

    CONFIG_KWARGS = {
        "loop": "uvloop",
        "http": "httptools",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "proxy_headers": bool(os.environ.get("TRUSTED_PROXIES")),
    }


uvicorn_workers.Server = DrainingServer  # UvicornWorker names the class it makes; it has no hook for another
