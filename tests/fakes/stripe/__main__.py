"""Runs a fake Stripe as a process of its own: prints where it listens as one line of JSON, serves until it is told to end."""

import argparse
import json
import signal
import threading
from pathlib import Path

from tests.fakes.stripe.server import FakeStripe


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    options = argparse.ArgumentParser(prog="python -m tests.fakes.stripe", description=__doc__)
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=0, help="0 takes a free port")
    options.add_argument("--state", type=Path, help="the file in which everything is kept across restarts")
    options.add_argument("--deliver-to", action="append", default=[], help="a webhook URL; may be given several times")
    options.add_argument("--secret", default="whsec_simulated_0123456789abcdef", help="what deliveries are signed with")
    chosen = options.parse_args()
    told = threading.Event()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, lambda *_: told.set())
    fake = FakeStripe(
        host=chosen.host, port=chosen.port, deliver_to=chosen.deliver_to, secret=chosen.secret, automatic=True, file=chosen.state
    )
    fake.knobs.retries, fake.knobs.retry_seconds = 12, 0.5  # patient while the gateway restarts
    fake.start()
    print(json.dumps({"port": fake.port, "base_url": fake.base_url}), flush=True)
    told.wait()
    fake.stop()


if __name__ == "__main__":
    main()
