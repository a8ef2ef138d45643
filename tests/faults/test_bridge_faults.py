"""Streams that go wrong on their way through a bridge: every client format against providers of every family.

Whatever happens, the client is told in the words of its own format, what was delivered is charged and nothing more, and nothing stays held.
"""

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from proxy.formats import grammar_chat, grammar_gemini, grammar_messages, grammar_responses
from tests.conftest import Customer, Gateway, make_customer, make_model
from tests.fakes.provider import FakeProvider
from tests.faults.test_client_faults import RawClient, latest_record
from tests.faults.test_upstream_faults import (
    BAD_GATEWAY,
    CUT,
    GOOD,
    PATIENCE,
    PRIVATE,
    STALLED,
    START,
    TOO_MUCH,
    USD,
    Fate,
    _record,
)

KIND_OF = {"messages": "anthropic", "gemini": "google", "responses": "openai", "chat": "custom"}
CONTENT = "one two three four five six seven"
# Gemini's clients are served by Gemini's providers only, as they are.
PAIRS = [(client, family) for client in ("chat", "messages", "responses") for family in KIND_OF if client != family] + [
    ("gemini", "gemini")
]

FATES: dict[str, Fate] = {
    "drop-midstream;chunks=6": CUT,
    "truncated-chunked;chunks=6": CUT,
    "error-event-midstream;chunks=6": CUT,
    "no-done": CUT,
    "stall-midstream;chunks=6": STALLED,
    "error-event-first": BAD_GATEWAY,
    "connect-close": BAD_GATEWAY,
    "ok-html": BAD_GATEWAY,
    "leaks-secrets;midstream=1": CUT,
    "split-utf8": GOOD,
    "trickle": GOOD,
    "usage-more-than-hold": GOOD,
    "endless-stream": TOO_MUCH,
}
CASES = [(fault, client, family) for fault in FATES for client, family in PAIRS]
each = pytest.mark.parametrize(
    "case", CASES, ids=["-".join((fault.partition(";")[0], client, "of", family)) for fault, client, family in CASES]
)


def body_of(client: str, model: str) -> tuple[str, dict[str, Any]]:
    """Where a client of a format asks for a stream, and with what."""
    said = [{"role": "user", "content": CONTENT}]
    if client == "messages":
        return "/v1/messages", {"model": model, "max_tokens": 4000, "messages": said, "stream": True}
    if client == "responses":
        return "/v1/responses", {"model": model, "input": CONTENT, "stream": True}
    if client == "gemini":
        return f"/v1beta/models/{model}:streamGenerateContent?alt=sse", {"contents": [{"role": "user", "parts": [{"text": CONTENT}]}]}
    return "/v1/chat/completions", {"model": model, "messages": said, "stream": True}


def events_of(body: bytes) -> list[dict[str, Any]]:
    """What a stream says, event by event."""
    lines = body.decode().replace("\r\n", "\n").split("\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def text_of(client: str, body: bytes) -> str:
    """The text that a client was given."""
    events = events_of(body)
    if client == "messages":
        return "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
    if client == "responses":
        return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    if client == "gemini":
        parts = [part for event in events for one in event.get("candidates", ()) for part in one["content"].get("parts", ())]
        return "".join(part.get("text", "") for part in parts)
    return "".join(one["delta"].get("content") or "" for event in events for one in event.get("choices", ()))


def code_of(client: str, status: int, body: bytes) -> str:
    """The gateway's code of the error in the place where the format's SDKs look for it; "" where there is none."""
    last = json.loads(body) if status != 200 else events_of(body)[-1]
    if client == "messages":
        return str(last["error"]["details"]["error_code"]) if last.get("type") == "error" else ""
    if client == "responses" and status == 200:
        return str((last["response"]["error"] or {}).get("code", "")) if last.get("type") == "response.failed" else ""
    if client == "gemini":
        reasons = [detail["reason"] for detail in last.get("error", {}).get("details", ()) if "reason" in detail]
        return reasons[0].lower() if reasons else ""
    return str(last["error"]["code"]) if "error" in last else ""


def grammar_of(client: str, body: bytes) -> list[str]:
    """What a strict client of the format finds wrong with a stream."""
    if client == "messages":
        return grammar_messages.check(body)
    if client == "responses":
        return grammar_responses.check(body)
    if client == "gemini":
        return grammar_gemini.check(body)
    return grammar_chat.check(body)


@dataclass
class Seen:
    """One request as the client saw it and as it was booked."""

    status: int
    headers: httpx.Headers
    body: bytes
    customer: Customer
    record: Any


@pytest.fixture(scope="module")
def short_of_patience(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that waits for providers a few seconds only."""
    running = Gateway(tmp_path_factory.mktemp("short") / "gateway.log", PATIENCE).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def bridged(short_of_patience: Gateway, provider: FakeProvider) -> dict[tuple[str, str, str], Seen]:
    """Every fault on every bridge, asked for once."""
    plan = [
        (
            case,
            make_customer(usd=str(USD)),
            make_model(provider.base_url, f"fault:{case[0]}", kind=KIND_OF[case[2]], route_format=case[2], max_output=200_000),
        )
        for case in CASES
    ]
    short_of_patience.sees_catalog()

    async def ask_all() -> dict[tuple[str, str, str], httpx.Response]:
        gate = asyncio.Semaphore(40)
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=short_of_patience.origin, timeout=30, limits=limits) as http:

            async def ask(case: tuple[str, str, str], customer: Customer, model: str) -> tuple[tuple[str, str, str], httpx.Response]:
                address, body = body_of(case[1], model)
                async with gate:
                    return case, await http.post(address, json=body, headers=customer.headers)

            return dict(await asyncio.gather(*(ask(*one) for one in plan)))

    answers = asyncio.run(ask_all())
    return {
        case: Seen(
            answers[case].status_code,
            answers[case].headers,
            answers[case].content,
            customer,
            _record(answers[case].headers["x-request-id"]),
        )
        for case, customer, _ in plan
    }


@each
def test_a_fault_behind_a_bridge_is_seen_and_booked_like_any(case: tuple[str, str, str], bridged: dict[tuple[str, str, str], Seen]) -> None:
    seen = bridged[case]
    record = seen.record
    code = code_of(case[1], seen.status, seen.body)
    assert Fate(seen.status, code, record.status, record.rule, record.usage_source) == FATES[case[0]]


@each
def test_the_stream_keeps_to_its_format_to_the_end(case: tuple[str, str, str], bridged: dict[tuple[str, str, str], Seen]) -> None:
    seen = bridged[case]
    if seen.status != 200:
        assert seen.headers["content-type"] == "application/json"
        return
    assert grammar_of(case[1], seen.body) == []
    assert seen.headers["content-type"].startswith("text/event-stream")


@each
def test_what_was_delivered_is_charged_and_nothing_stays_held(
    case: tuple[str, str, str], bridged: dict[tuple[str, str, str], Seen]
) -> None:
    seen, fate = bridged[case], FATES[case[0]]
    record, wallet = seen.record, seen.customer.fresh_wallet()
    assert wallet.held == 0
    assert wallet.balance == START - record.cost >= 0
    assert (record.cost > 0) == fate.is_paid
    if case[0] != "usage-more-than-hold":
        assert record.cost <= record.hold_amount
    if fate.rule == "delivered":
        assert record.output_tokens == -(-len(text_of(case[1], seen.body).encode()) // 4) > 0


@each
def test_nothing_of_the_providers_side_leaks_through_a_bridge(
    case: tuple[str, str, str], bridged: dict[tuple[str, str, str], Seen]
) -> None:
    seen = bridged[case]
    text = seen.body.decode() + repr([line for line in seen.headers.items() if line[0] != "x-gateway-provider"])
    if case[1] == case[2]:
        text = text.replace(f"fault:{case[0]}", "")  # the provider's own answer, passed on as it is
    assert not [private for private in PRIVATE if private in text]


# Clients who leave

# How many words the fake provider has said with its fourth content event.
WORDS = {"chat": 4, "gemini": 4, "messages": 3, "responses": 2}


@pytest.mark.parametrize(("client", "family"), PAIRS)
def test_leaving_in_the_middle_of_a_bridged_stream_is_charged_for_what_was_delivered(
    client: str, family: str, gateway: Gateway, provider: FakeProvider, new_models: Callable[..., list[str]], customer: Customer
) -> None:
    name = uuid.uuid4().hex
    upstream = f"gate:{name};chunks=4;text=50"
    (model,) = new_models([upstream], kind=KIND_OF[family], route_format=family)
    address, body = body_of(client, model)
    raw = json.dumps(body).encode()
    with RawClient(gateway) as leaving:
        leaving.send_head(customer, f"Content-Length: {len(raw)}", path=address)
        leaving.socket.sendall(raw)
        leaving.read_until(f"word{WORDS[family]}".encode())
    gone = provider.wait_for(lambda request: request.model == upstream and request.client_gone_at is not None)
    assert not gone.response_finished
    record = latest_record(customer)
    assert (record.status, record.rule, record.usage_source, record.error_code) == ("aborted", "delivered", "estimated", "client_gone")
    said = "".join(f"word{number} " for number in range(1, WORDS[family] + 1))
    assert record.output_tokens == -(-len(said) // 4)
    assert 0 < record.cost <= record.hold_amount
    wallet = customer.fresh_wallet()
    assert (wallet.held, wallet.balance) == (0, 5 * 10**9 - record.cost)
