"""The simulated Stripe beside `make run`: only where nothing is said about Stripe, and then it listens where the settings look."""

import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from gateway_site.embedded import simulated_stripe
from gateway_site.embedded.supervisor import Child


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"DEBUG": "1"}, True),
        ({"DEBUG": "true", "STRIPE_SECRET_KEY": ""}, True),
        ({}, False),
        ({"DEBUG": "0"}, False),
        ({"DEBUG": "1", "STRIPE_SECRET_KEY": "sk_test_own"}, False),
        ({"DEBUG": "1", "STRIPE_API_BASE": "http://127.0.0.1:9"}, False),
    ],
)
def test_it_runs_in_development_while_nothing_is_said_about_stripe(environ: dict[str, str], *, wanted: bool) -> None:
    assert simulated_stripe.wanted(environ) is wanted


def test_without_the_tests_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(simulated_stripe, "_ENTRY", tmp_path / "nothing")
    assert not simulated_stripe.wanted({"DEBUG": "1"})


def test_it_listens_where_the_settings_are_told_and_keeps_its_port(tmp_path: Path) -> None:
    environ = {"PUBLIC_URL": "http://127.0.0.1:1"}
    arguments = simulated_stripe.announce(tmp_path, environ)
    assert environ["STRIPE_SIMULATED"] == "yes"
    assert arguments[arguments.index("--deliver-to") + 1] == "http://127.0.0.1:1/webhooks/stripe"
    assert arguments[arguments.index("--secret") + 1] == environ["STRIPE_WEBHOOK_SECRETS"]
    child = Child("stripe", [sys.executable, "-m", *arguments], tmp_path)
    child.start()
    try:
        asked = Request(f"{environ['STRIPE_API_BASE']}/v1/customers", headers={"Authorization": f"Bearer {environ['STRIPE_SECRET_KEY']}"})  # noqa: S310  our own
        deadline = time.monotonic() + 30
        while True:
            try:
                with urlopen(asked, timeout=5) as answer:  # noqa: S310  our own
                    assert answer.status == 200
                break
            except OSError:
                assert not child.ended, child.cause()
                assert time.monotonic() < deadline
                time.sleep(0.02)  # a poll, not a guess
    finally:
        child.ask_to_stop()
        child.kill()
    again: dict[str, str] = {"PUBLIC_URL": "http://127.0.0.1:1"}
    simulated_stripe.announce(tmp_path, again)
    assert again["STRIPE_API_BASE"] == environ["STRIPE_API_BASE"]
    assert again["STRIPE_WEBHOOK_SECRETS"] != environ["STRIPE_WEBHOOK_SECRETS"]
