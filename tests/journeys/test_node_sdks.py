"""The official Node SDKs as clients of bridged models: their accumulators, tools, errors and retries. All in one run of node."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Customer, Gateway
from tests.fakes.provider import FakeProvider

FOLDER = Path(__file__).parent / "node"
FORMATS = {"custom": "chat", "anthropic": "messages", "google": "gemini", "openai": "responses"}
CLIENTS = ("chat", "responses", "messages")
JOURNEYS = [
    f"{client}, {what}, {family}" for family in FORMATS for client in CLIENTS for what in ("whole", "stream", "tools", "cut stream")
] + [
    "chat, unknown key",
    "chat, unknown model",
    "messages, unknown model",
    "chat, a provider that is down is a server error in the end",
    "chat, a busy provider is asked again",
    "messages, a busy provider is asked again",
]

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not here: the journeys of its SDKs need version 20 or newer"),
    pytest.mark.skipif(not (FOLDER / "node_modules").is_dir(), reason="the Node SDKs are not installed (make node-sdks)"),
]


def test_the_node_sdks_make_every_journey(
    gateway: Gateway, provider: FakeProvider, customer: Customer, new_models: Callable[..., list[str]]
) -> None:
    models, broken = {}, {}
    for family, name in FORMATS.items():
        hello, tools, cut = new_models(
            ["hello", "chat:text=3;tools=look,book", "fault:drop-midstream;chunks=3;text=20"], kind=family, route_format=name
        )
        models[family], broken[family] = {"hello": hello, "tools": tools}, cut
    down = f"flaky:{uuid.uuid4().hex};fail=9;status=503"
    busy = [f"flaky:{uuid.uuid4().hex};fail=1;status=429;retry=1" for _ in range(2)]
    (slug_down,) = new_models([down])
    flaky = dict(zip(("chat", "messages"), new_models(busy), strict=True)) | {"down": slug_down}
    asked = {
        "origin": gateway.origin,
        "secret": customer.secret,
        "models": models,
        "broken": broken,
        "flaky": flaky,
        "missing": f"nobody/{uuid.uuid4().hex}",
    }
    ran = subprocess.run(
        ["node", "journeys.mjs"],
        cwd=FOLDER,
        env={"PATH": os.environ["PATH"], "HOME": str(FOLDER), "JOURNEYS": json.dumps(asked)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    outcome: dict[str, str] = json.loads(ran.stdout)
    assert {journey: trouble for journey, trouble in outcome.items() if trouble} == {}
    assert set(outcome) == set(JOURNEYS)
    assert sum(request.model == down for request in provider.requests) == 3  # once for each of the SDK's tries
