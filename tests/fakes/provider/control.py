"""Owns the orders a provider in its own process takes over HTTP, under /_control/; they are not in its list of requests."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes.provider.journal import ReceivedRequest
from tests.fakes.provider.shapes.event import dump
from tests.fakes.provider.wire import CONTROL, Exchange

if TYPE_CHECKING:
    from tests.fakes.provider.server import FakeProvider


async def serve(provider: "FakeProvider", exchange: Exchange) -> None:
    """Obey one order: release, reset, door, accept_only (POST, JSON); requests, state (GET). Answers JSON."""
    parts = urlsplit(exchange.request.path)
    given = json.loads(exchange.request.body or b"{}")
    status, said = 200, dict[str, Any]()
    match parts.path.removeprefix(CONTROL):
        case "release":
            provider.release(given["name"])
        case "reset":
            provider.reset()
        case "door":
            provider.set_door(given["door"])
        case "accept_only":
            provider.accept_only(*given["credentials"])
        case "requests":
            after = int(parse_qs(parts.query).get("after", ["0"])[0])
            said = {"requests": [_summary(request) for request in provider.requests if request.number > after]}
        case "state":
            names = parse_qs(parts.query).get("barrier", [])
            said = {
                "connections": provider.open_connections,
                "canary_hits": provider.canary_hits,
                "mistakes": provider.mistakes,
                "waiting": {name: provider.waiting(name) for name in names},
            }
        case _:
            status, said = 404, {"error": "no such order"}
    await exchange.answer(status, [("Content-Type", "application/json")], dump(said))


def _summary(request: ReceivedRequest) -> dict[str, Any]:
    fields = asdict(request)
    fields["body"] = request.body.decode("utf-8", "replace")
    return fields
