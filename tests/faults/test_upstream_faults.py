"""The fault matrix upstream: for every fault of the fake provider, streamed or not, what the client sees and what the customer pays.

All faults are asked for at once, each by a customer and a model of its own, on a gateway whose patience is short. A fault that is added to
the fake provider fails here until somebody says what is to come of it.
"""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.conftest import Customer, Gateway, free_port, make_customer, make_model
from tests.fakes.provider import FakeProvider
from tests.fakes.provider.faults import FAULTS

PATIENCE = {
    "FIRST_BYTE_TIMEOUT_SECONDS": "2",
    "IDLE_TIMEOUT_SECONDS": "2",
    "TOTAL_TIMEOUT_SECONDS": "8",
    "KEEPALIVE_SECONDS": "0.5",
}
USD = 0.02  # ten thousand tokens out: an endless answer ends soon
START = 20_000_000
# Faults whose usual size is for other tests, made just large enough to pass every limit, or to stay well within it on a busy machine.
SIZED = {
    "huge-body": "huge-body;mb=40",
    "huge-line": "huge-line;mb=40",
    "many-100-continue": "many-100-continue;count=20000",
    "slow-first-byte": "slow-first-byte;ms=200",
}
FLOODS = {"huge-line", "huge-body", "endless-stream", "many-100-continue"}  # asked for behind all others: they would keep them waiting


@dataclass(frozen=True)
class Fate:
    """What becomes of a request. `status` and `code` are the client's view (of a stream that began: 200 and the code of its error frame)."""

    status: int
    code: str
    booked: str  # the record's status
    rule: str
    source: str

    @property
    def is_paid(self) -> bool:
        return self.rule in ("metered", "estimated", "delivered")


GOOD = Fate(200, "", "ok", "metered", "provider")
GUESSED = Fate(200, "", "ok", "estimated", "estimated")
BAD_GATEWAY = Fate(502, "provider_error", "error", "no_output", "none")
TIMED_OUT = Fate(504, "upstream_timeout", "error", "no_output", "none")
NO_PROVIDER = Fate(503, "no_available_provider", "error", "no_output", "none")
BUSY = Fate(429, "rate_limit_exceeded", "error", "no_output", "none")
CUT = Fate(200, "provider_error", "cut", "delivered", "estimated")
STALLED = Fate(200, "upstream_timeout", "cut", "delivered", "estimated")
NEVER_BEGAN = Fate(200, "upstream_timeout", "cut", "no_output", "none")
NO_EVENT = Fate(200, "provider_error", "cut", "no_output", "none")
TOO_MUCH = Fate(200, "insufficient_quota", "stopped", "delivered", "estimated")


def refused(status: int, code: str = "invalid_request_error") -> Fate:
    return Fate(status, code, "error", "no_output", "none")


# fault: (not streamed, streamed)
MATRIX: dict[str, tuple[Fate, Fate]] = {
    # the connection
    "connect-close": (BAD_GATEWAY, BAD_GATEWAY),
    "reset": (BAD_GATEWAY, BAD_GATEWAY),
    "silence": (TIMED_OUT, TIMED_OUT),
    "slow-first-byte": (GOOD, GOOD),
    "truncated-chunked": (BAD_GATEWAY, CUT),
    "content-length-short": (BAD_GATEWAY, GOOD),  # a stream has said all it had to say
    "duplicate-content-length": (BAD_GATEWAY, BAD_GATEWAY),
    "length-and-chunked": (BAD_GATEWAY, BAD_GATEWAY),
    "glued-response": (GOOD, GOOD),
    "non-http-banner": (BAD_GATEWAY, BAD_GATEWAY),
    "switching-101": (BAD_GATEWAY, BAD_GATEWAY),
    # refusals
    "status-400": (refused(400, "invalid_value"), refused(400, "invalid_value")),
    "status-401": (NO_PROVIDER, NO_PROVIDER),
    "status-402": (NO_PROVIDER, NO_PROVIDER),
    "status-403": (NO_PROVIDER, NO_PROVIDER),
    "status-404": (BAD_GATEWAY, BAD_GATEWAY),  # a model the provider does not have: the route is wrong, not the client
    "status-408": (BAD_GATEWAY, BAD_GATEWAY),
    "status-409": (BAD_GATEWAY, BAD_GATEWAY),
    "status-413": (refused(413, "request_too_large"), refused(413, "request_too_large")),
    "status-422": (refused(422), refused(422)),
    "status-429": (BUSY, BUSY),
    "status-500": (BAD_GATEWAY, BAD_GATEWAY),
    "status-502": (BAD_GATEWAY, BAD_GATEWAY),
    "status-503": (BAD_GATEWAY, BAD_GATEWAY),
    "status-529": (BAD_GATEWAY, BAD_GATEWAY),
    "insufficient-quota-429": (NO_PROVIDER, NO_PROVIDER),
    "anthropic-credit-400": (NO_PROVIDER, NO_PROVIDER),
    "xai-403-credits": (NO_PROVIDER, NO_PROVIDER),
    "zai-429-1113": (NO_PROVIDER, NO_PROVIDER),
    "redirect-307": (BAD_GATEWAY, BAD_GATEWAY),
    "leaks-secrets": (NO_PROVIDER, NO_PROVIDER),
    # wrong content
    "ok-with-error-body": (BAD_GATEWAY, BAD_GATEWAY),
    "ok-html": (BAD_GATEWAY, BAD_GATEWAY),
    "bad-json": (BAD_GATEWAY, GOOD),  # in a stream one event of many is broken: passed as received
    "empty-body": (BAD_GATEWAY, BAD_GATEWAY),
    "other-mode": (BAD_GATEWAY, BAD_GATEWAY),
    "gzip-encoded": (BAD_GATEWAY, BAD_GATEWAY),
    "unknown-events": (GOOD, GOOD),
    "no-usage": (GUESSED, GUESSED),
    "negative-usage": (GUESSED, GUESSED),
    "huge-usage": (GUESSED, GUESSED),
    "float-usage": (GUESSED, GUESSED),
    "nan-usage": (BAD_GATEWAY, GUESSED),  # NaN is not JSON, so the whole answer is not
    "text-usage": (GUESSED, GUESSED),
    "null-usage": (GUESSED, GUESSED),
    "usage-more-than-hold": (GOOD, GOOD),
    # streams that go wrong
    "stall-midstream": (TIMED_OUT, STALLED),
    "drop-midstream": (BAD_GATEWAY, CUT),
    "no-done": (GUESSED, CUT),
    "finish-no-done": (GUESSED, GUESSED),
    "error-event-midstream": (BAD_GATEWAY, CUT),
    "error-event-first": (BAD_GATEWAY, BAD_GATEWAY),
    "crlf-events": (GOOD, GOOD),
    "trickle": (GOOD, GOOD),
    "split-utf8": (GOOD, GOOD),
    # too much
    "huge-line": (BAD_GATEWAY, NO_EVENT),
    "huge-body": (BAD_GATEWAY, TOO_MUCH),
    "endless-comments": (TIMED_OUT, NEVER_BEGAN),
    "endless-stream": (TIMED_OUT, TOO_MUCH),
    "many-100-continue": (GOOD, GOOD),
    "huge-headers": (GOOD, BAD_GATEWAY),  # streamed, the fake answers as if not asked for a stream
}
CASES = [(fault, stream) for fault in sorted(FAULTS) for stream in (False, True)]
NAMES = [f"{fault}-{'stream' if stream else 'whole'}" for fault, stream in CASES]
PRIVATE = ("org-abc123", "sk-fake", "openai", "platform.", "STALE", "CANARY", "fault:", "Traceback")


@dataclass
class Seen:
    """One request as the client saw it and as it was booked."""

    status: int
    headers: httpx.Headers
    body: bytes
    customer: Customer
    record: Any

    @property
    def events(self) -> list[str]:
        return [event.removeprefix("data: ") for event in self.body.decode().split("\n\n") if event.startswith("data: ")]

    @property
    def code(self) -> str:
        if self.headers["content-type"].startswith("application/json"):
            return str(json.loads(self.body).get("error", {}).get("code", ""))
        return next((json.loads(event)["error"]["code"] for event in self.events if event.startswith('{"success":false')), "")


@dataclass
class Matrix:
    """What came of every fault alone, and of every fault with a good route behind it."""

    alone: dict[tuple[str, bool], Seen]
    with_another_route: dict[tuple[str, bool], Seen]


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that waits for providers a few seconds only."""
    running = Gateway(tmp_path_factory.mktemp("impatient") / "gateway.log", PATIENCE).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def matrix(impatient: Gateway, provider: FakeProvider) -> Matrix:
    """Every fault, asked for once in each mode, alone and before a good route."""
    rich = make_customer()
    plan = [
        (case, customer, make_model(provider.base_url, *routes))
        for case in CASES
        for customer, routes in (
            (make_customer(usd=str(USD)), [_upstream(case[0])]),
            (rich, [_upstream(case[0]), "chat:say=from another route"]),
        )
        if customer is not rich or case[0] not in FLOODS
    ]
    impatient.sees_catalog()
    answers: dict[str, httpx.Response] = {}

    async def ask(client: httpx.AsyncClient, case: tuple[str, bool], customer: Customer, model: str) -> None:
        body = {"model": model, "stream": case[1], "messages": [{"role": "user", "content": "one two three four five six seven"}]}
        answers[model] = await client.post("/chat/completions", json=body, headers=customer.headers)

    async def ask_all() -> None:
        async with httpx.AsyncClient(base_url=impatient.base_url, timeout=30, limits=httpx.Limits(max_connections=300)) as client:
            await asyncio.gather(*(ask(client, *one) for one in plan if one[0][0] not in FLOODS))
            await asyncio.gather(*(ask(client, *one) for one in plan if one[0][0] in FLOODS))

    asyncio.run(ask_all())
    found = Matrix({}, {})
    for case, customer, model in plan:
        answer = answers[model]
        seen = Seen(answer.status_code, answer.headers, answer.content, customer, _record(answer.headers["x-request-id"]))
        (found.with_another_route if case in found.alone else found.alone)[case] = seen
    return found


def _upstream(fault: str) -> str:
    return f"fault:{SIZED.get(fault, fault)}"


def _record(request_id: str) -> Any:
    from billing.models import UsageRecord

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        record = UsageRecord.objects.filter(request_id=request_id).first()
        if record is not None:
            return record
    raise TimeoutError(f"{request_id} was never settled")


def test_every_fault_has_an_expectation() -> None:
    assert set(MATRIX) == set(FAULTS)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_fault_alone_is_seen_and_booked_as_the_matrix_says(case: tuple[str, bool], matrix: Matrix) -> None:
    seen, record = matrix.alone[case], matrix.alone[case].record
    assert Fate(seen.status, seen.code, record.status, record.rule, record.usage_source) == MATRIX[case[0]][case[1]]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_fault_costs_at_most_what_was_held_and_leaves_nothing_held(case: tuple[str, bool], matrix: Matrix) -> None:
    seen, fate = matrix.alone[case], MATRIX[case[0]][case[1]]
    record, wallet = seen.record, seen.customer.fresh_wallet()
    assert wallet.held == 0
    assert wallet.balance == START - record.cost >= 0
    assert (record.cost > 0) == fate.is_paid
    if case[0] == "usage-more-than-hold":  # stated by the provider: charged as far as the money goes, the rest is written off
        assert record.hold_amount < record.cost == START < record.list_cost
    else:
        assert record.cost <= record.hold_amount


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_nothing_of_the_providers_side_leaks(case: tuple[str, bool], matrix: Matrix) -> None:
    seen = matrix.alone[case]
    text = seen.body.decode() + repr([line for line in seen.headers.items() if line[0] != "x-gateway-provider"])
    if seen.status == 200 and seen.code == "":
        text = text.replace(f'"model":"{_upstream(case[0])}"', "")  # the provider's own answer, passed on as it is
    assert not [private for private in PRIVATE if private in text and not (private == "fault:" and seen.status == 200)]


@pytest.mark.parametrize("case", [case for case in CASES if case[1]], ids=[name for name in NAMES if name.endswith("stream")])
def test_a_stream_that_began_always_ends_in_order(case: tuple[str, bool], matrix: Matrix) -> None:
    seen = matrix.alone[case]
    if seen.status != 200:
        assert seen.headers["content-type"] == "application/json"
        return
    assert seen.body.endswith(b"data: [DONE]\n\n")
    assert seen.body.count(b"data: [DONE]") == 1
    if seen.code:
        assert json.loads(seen.events[-2])["error"]["request_id"] == seen.headers["x-request-id"]


@pytest.mark.parametrize(
    "case", [case for case in CASES if case[0] not in FLOODS], ids=[name for name in NAMES if name.rpartition("-")[0] not in FLOODS]
)
def test_another_route_mends_what_failed_before_the_first_byte_and_nothing_else(case: tuple[str, bool], matrix: Matrix) -> None:
    fate, seen = MATRIX[case[0]][case[1]], matrix.with_another_route[case]
    results = [attempt["result"] for attempt in seen.record.attempts]
    if fate.status == 200:
        assert (seen.status, seen.code, seen.headers["x-gateway-attempts"], results) == (200, fate.code, "1", ["ok"])
    elif fate.booked == "error" and fate.status in (400, 413, 422):
        assert (seen.status, seen.code, results) == (fate.status, fate.code, [f"refused_{fate.status}"])
    elif case == ("endless-comments", False):  # never silent and never whole: the total deadline is used up
        assert (seen.status, seen.code, results) == (504, "upstream_timeout", ["upstream_timeout"])
    else:
        assert (seen.status, seen.code, seen.headers["x-gateway-attempts"]) == (200, "", "2")
        assert len(results) == 2
        assert results[0] not in ("ok", "abandoned")
        assert b"from another route" in seen.body or b'"from "' in seen.body
        assert seen.record.rule == "metered"
    assert seen.customer.fresh_wallet().held == 0


def test_the_canary_behind_a_redirect_is_never_visited(matrix: Matrix, provider: FakeProvider) -> None:
    assert matrix.alone["redirect-307", False].status == 502
    assert provider.canary_hits == 0


# Before any byte of a request


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["refused", "unresolvable", "plain-port", "black-hole", "door-close", "door-reset", "door-silent"])
def test_a_provider_that_cannot_be_reached_costs_nothing_and_another_route_answers(
    fault: str, stream: bool, impatient: Gateway, provider: FakeProvider, usage_of: Any
) -> None:
    from catalog.models import Model, Provider, ProviderKey, Route

    with _unreachable(fault, provider) as base_url:
        customer = make_customer(usd=str(USD))
        alone = make_model(base_url, "gone")
        mended = make_model(base_url, "gone")
        row = Provider.objects.create(slug=f"p-{mended[5:]}", kind="custom", base_url=provider.base_url, allow_private=True)
        key = ProviderKey(provider=row)
        key.set_secret("sk-fake-other")
        key.save()
        Route.objects.create(model=Model.objects.get(slug=mended), provider=row, upstream_model="hello", priority=1)
        impatient.sees_catalog()
        body = {"stream": stream, "messages": [{"role": "user", "content": "hi"}]}
        with httpx.Client(base_url=impatient.base_url, headers=customer.headers, timeout=30) as client:
            bad = client.post("/chat/completions", json={**body, "model": alone})
            good = client.post("/chat/completions", json={**body, "model": mended})
    silent = fault == "door-silent"  # the connection stands: it is the answer that does not come
    assert (bad.status_code, bad.json()["error"]["code"]) == ((504, "upstream_timeout") if silent else (502, "provider_error"))
    assert usage_of(bad.headers["x-request-id"]).cost == 0
    assert (good.status_code, good.headers["x-gateway-attempts"]) == (200, "2")
    assert usage_of(good.headers["x-request-id"]).cost > 0
    assert customer.fresh_wallet().held == 0


@contextmanager
def _unreachable(fault: str, provider: FakeProvider) -> Iterator[str]:
    if fault == "unresolvable":
        yield "http://nobody.invalid/v1"
    elif fault == "plain-port":
        yield provider.base_url.replace("http://", "https://")
    elif fault.startswith("door-"):
        with FakeProvider() as other:
            other.set_door(fault.removeprefix("door-"))
            yield other.base_url
    elif fault == "refused":
        yield f"http://127.0.0.1:{free_port()}/v1"
    else:
        # A listener nobody accepts from, its queue full: the kernel drops what else knocks.
        with socket.socket() as deaf, ExitStack() as queue:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            for _ in range(4):
                knocking = queue.enter_context(socket.socket())
                knocking.setblocking(False)
                knocking.connect_ex(deaf.getsockname())
            yield f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"


def test_the_next_request_on_a_desynchronised_connection_gets_its_own_answer(impatient: Gateway, provider: FakeProvider) -> None:
    customer = make_customer()
    glued, clean = make_model(provider.base_url, "fault:glued-response"), make_model(provider.base_url, "hello")
    impatient.sees_catalog()
    with httpx.Client(base_url=impatient.base_url, headers=customer.headers, timeout=30) as client:
        for turn in range(5):
            for model in (glued, clean):
                answer = client.post(
                    "/chat/completions", json={"model": model, "messages": [{"role": "user", "content": f"turn {turn} {model}"}]}
                )
                assert answer.json()["choices"][0]["message"]["content"] == f"You said: turn {turn} {model}"


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [("seconds", 1, 2), ("date", 1, 2), ("huge", 50, 60), ("-5", 1, 1), ("NaN", 1, 1), ("soon", 1, 1)],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_the_provider_asks_for_is_kept_and_told(
    asked: str, least: int, most: int, status: int, impatient: Gateway, provider: FakeProvider
) -> None:
    customer, upstream = make_customer(), f"fault:status-{status};retry={asked}"
    model = make_model(provider.base_url, upstream)
    impatient.sees_catalog()
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    with httpx.Client(base_url=impatient.base_url, headers=customer.headers, timeout=30) as client:
        busy = client.post("/chat/completions", json=body)
        again = client.post("/chat/completions", json=body)
    assert busy.status_code == (429 if status == 429 else 502)
    assert least <= int(busy.headers["retry-after"])
    assert least <= int(again.headers["retry-after"]) <= most
    received = len([request for request in provider.requests if request.model == upstream])
    if most > 1:
        assert (again.status_code, again.json()["error"]["code"], received) == (429, "rate_limit_exceeded", 1)
    else:
        assert (again.status_code, received) == (busy.status_code, 2)  # nothing usable was asked: the only route is tried again


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("knobs", ["status=400", "status=422", "status=500", "midstream=1", "status=429"])
def test_secrets_in_a_providers_error_text_reach_nobody(knobs: str, stream: bool, impatient: Gateway, provider: FakeProvider) -> None:
    customer, model = make_customer(), make_model(provider.base_url, f"fault:leaks-secrets;{knobs}")
    impatient.sees_catalog()
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    answer = httpx.post(f"{impatient.base_url}/chat/completions", json=body, headers=customer.headers, timeout=30)
    text = answer.text + repr([line for line in answer.headers.items() if line[0] != "x-gateway-provider"])
    assert not [private for private in PRIVATE if private in text and private != "fault:"]
    assert "set-cookie" not in answer.headers


def test_a_connection_is_used_again_after_every_answer_that_came_whole(impatient: Gateway) -> None:
    customer = make_customer()
    with FakeProvider() as other:
        model = make_model(other.base_url, "hello")
        impatient.sees_catalog()
        with httpx.Client(base_url=impatient.base_url, headers=customer.headers, timeout=30) as client:
            for stream in (False, True, True, False, True, False):
                body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
                assert client.post("/chat/completions", json=body).status_code == 200
        assert len({request.connection for request in other.requests}) <= 2  # the last bytes of a stream may come behind its [DONE]
