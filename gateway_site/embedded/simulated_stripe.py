"""The simulated Stripe beside `make run`: wanted while no key of Stripe's is set, so that a newcomer can click through a top-up.

The simulator is the tests' own fake. An installation without the tests has none, and billing then says that Stripe is not configured.
"""

import secrets
import socket
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

import environ as settings_reader

from gateway_site.embedded import state

MODULE = "tests.fakes.stripe"
WEBHOOK_PATH = "/webhooks/stripe"
_ENTRY = state.PROJECT / "tests" / "fakes" / "stripe" / "__main__.py"


def wanted(environ: MutableMapping[str, str]) -> bool:
    """Say whether it is to run: development mode, nothing said about Stripe, and the simulator is installed."""
    debug = environ.get("DEBUG", "").lower() in settings_reader.Env.BOOLEAN_TRUE_STRINGS
    return debug and not environ.get("STRIPE_SECRET_KEY") and not environ.get("STRIPE_API_BASE") and _ENTRY.exists()


def announce(folder: Path, environ: MutableMapping[str, str]) -> list[str]:
    """Choose its port and secret, write into `environ` what the settings read, and return its command line's arguments.

    `PUBLIC_URL` in `environ` says where its webhooks go. The port is the earlier one when that is free, so that links to receipts stay good.
    """
    port, secret = _port(folder / "simulated-stripe.port"), f"whsec_simulated_{secrets.token_hex(16)}"
    environ["STRIPE_SECRET_KEY"] = "sk_test_simulated_0123456789"  # noqa: S105  opens nothing real
    environ["STRIPE_WEBHOOK_SECRETS"] = secret
    environ["STRIPE_API_BASE"] = f"http://127.0.0.1:{port}"
    environ["STRIPE_SIMULATED"] = "yes"
    kept = folder / "simulated-stripe.json"
    return [MODULE, "--port", str(port), "--state", str(kept), "--deliver-to", f"{environ['PUBLIC_URL']}{WEBHOOK_PATH}", "--secret", secret]


def _port(remembered: Path) -> int:
    tried = [0]
    with suppress(FileNotFoundError, ValueError):
        tried.insert(0, int(remembered.read_text()))
    for port in tried:
        with suppress(OSError, OverflowError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            chosen = int(probe.getsockname()[1])
            remembered.write_text(f"{chosen}\n")
            return chosen
    raise state.EmbeddedError("No port is free on 127.0.0.1 for the simulated Stripe.")
