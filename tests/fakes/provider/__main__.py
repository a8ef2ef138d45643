"""Runs a fake provider as a process of its own: prints where it listens as one line of JSON, serves until it is told to end."""

import argparse
import json
import signal
import threading

from tests.fakes.provider.server import FakeProvider


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    options = argparse.ArgumentParser(prog="python -m tests.fakes.provider", description=__doc__)
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=0, help="0 takes a free port")
    options.add_argument("--keep", type=int, default=20_000, help="how many requests to remember")
    chosen = options.parse_args()
    told = threading.Event()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, lambda *_: told.set())
    provider = FakeProvider(host=chosen.host, port=chosen.port, keep=chosen.keep).start()
    print(json.dumps({"port": provider.port, "base_url": provider.base_url, "origin": provider.origin}), flush=True)
    told.wait()
    provider.stop()


main()
