"""Facts about the settings of payments: nothing gives credit for no money by mistake, and a live key goes to Stripe alone."""

import os
import subprocess
import sys

import pytest
from django.utils import timezone

from gateway_site import diagnosis
from tests.conftest import ROOT

LOCAL = "http://127.0.0.1:9"


def starts(**environ: str) -> str:
    """What importing the settings says; nothing when it is well."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import gateway_site.settings"],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"STRIPE_API_BASE": LOCAL}, "STRIPE_API_BASE"),
        ({"STRIPE_API_BASE": LOCAL, "STRIPE_SIMULATED": "maybe"}, "STRIPE_SIMULATED"),
        ({"STRIPE_API_BASE": LOCAL, "STRIPE_SIMULATED": "yes", "DEBUG": "false"}, "yes-without-money"),
        ({"STRIPE_API_BASE": LOCAL, "STRIPE_SIMULATED": "yes", "STRIPE_SECRET_KEY": "sk_live_1"}, "live key"),
        ({"STRIPE_API_BASE": LOCAL, "STRIPE_SIMULATED": "yes", "DEBUG": "true"}, ""),
        ({"STRIPE_API_BASE": LOCAL, "STRIPE_SIMULATED": "yes-without-money", "DEBUG": "false"}, ""),
    ],
    ids=str,
)
def test_played_payments_have_to_be_meant(environ: dict[str, str], said: str) -> None:
    answer = starts(**environ)
    assert said in answer
    assert bool(said) == bool(answer)


def found(settings: object, **values: object) -> str:
    for name, value in {
        "STRIPE_SECRET_KEY": "sk_test_1",
        "STRIPE_WEBHOOK_SECRETS": ["whsec_0123456789"],
        "STRIPE_SIMULATED": "",
        **values,
    }.items():
        setattr(settings, name, value)
    return " ".join(f"{finding.severity} {finding.problem}" for finding in diagnosis.money.check_stripe())


def test_the_doctor_says_how_people_can_pay(settings: object) -> None:
    assert "nobody can top up" in found(settings, STRIPE_SECRET_KEY="")
    assert "test mode" in found(settings)
    assert found(settings, STRIPE_SECRET_KEY="rk_live_1") == ""
    assert "error STRIPE_WEBHOOK_SECRETS is not set" in found(settings, STRIPE_WEBHOOK_SECRETS=[])
    assert "no signing secret" in found(settings, STRIPE_WEBHOOK_SECRETS=["abc"])
    assert "note Payments are played" in found(settings, STRIPE_SIMULATED="yes", DEBUG=True)
    assert "warning Payments are played" in found(settings, STRIPE_SIMULATED="yes-without-money", DEBUG=False)


def test_the_doctor_reads_the_inbox() -> None:
    assert isinstance(list(diagnosis.money.check_payments(now=timezone.now())), list)
