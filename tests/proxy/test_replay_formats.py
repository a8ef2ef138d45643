"""Recorded traffic in three more formats through the live gateway, client and provider speaking the same: bytes, tokens and refusals.

Each recording is asked for once, by a model of its own whose upstream is the recording. What the gateway declares to change:

* answers of Messages and Responses: `cost` and `cost_details` in the usage; of Gemini: nothing. A stream gets the blank line that its
  recording lacks; what an OpenAI-like server sends behind the event that ends a response (`[DONE]`) is left out.
* Messages requests: `model`, and `max_tokens` where it had to be lowered.
* Responses requests: `model`, `max_output_tokens` where it had to be lowered; and since nothing is kept at the provider, `store` is false and
  `include` asks for reasoning in a form that can be carried.
* Gemini requests: the model, which stands in the address (and in the body where a client puts it there too); `maxOutputTokens` where it
  had to be lowered.
"""

import asyncio
import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.db.models import Sum
from django.utils import timezone

from proxy import failures
from proxy.providers.base import read_failure
from tests.conftest import Customer, Gateway, make_customer
from tests.fakes.provider import Case, FakeProvider, oracle, recordings
from tests.fakes.provider.journal import ReceivedRequest
from tests.proxy import costs

CASES = recordings.cases(shape=["messages", "responses", "gemini"])
REFUSED = [case for case in CASES if case.status != 200]
# Answers with a 200 that fail, and what is charged by: an error event in the middle; events of a draft of the protocol, without an end.
BROKEN = {
    "anthropic/messages/stream_error_200_stream_overloaded_midway__quoted": "delivered",
    "openai/responses/image_in_stream__lingua-multimodalRequest-followup": "no_output",
}
KINDS = {"anthropic": "anthropic", "gemini": "google", "vertex": "google", "openai": "openai", "azure": "azure", "xai": "xai"}
STATE = ("conversation", "background", "prompt", "previous_response_id")  # kept or run at the provider: not what the gateway asks for
MOST_OUTPUT = 200_000
EVENT = re.compile(rb".*?(?:\r\n\r\n|\n\n|\r\r|\Z)", re.DOTALL)
TERMINAL = re.compile(rb'"type"\s*:\s*"response\.(?:completed|incomplete|failed)"')

# A prompt that was blocked before it was counted: there is a usage, and nothing in it.
UNCOUNTED = ("vertex/gemini/content_filter__pai-google-model-armor-prompt-template-text-gets-blocked",)
# Where what we bill is not what the judge reads, and why.
OTHERWISE: dict[str, tuple[str, Callable[[Case], tuple[int, int]]]] = {
    "anthropic/messages/compaction": (
        "tokens of the rounds before the last are billed too; the judge reads the top level",
        lambda case: (sum(one["input_tokens"] for one in _rounds(case)), sum(one["output_tokens"] for one in _rounds(case))),
    ),
}

pytestmark = pytest.mark.skipif(not CASES or oracle.file() is None, reason=recordings.SKIP_REASON)


@dataclass
class Served:
    """One recording as the client saw it, and what it had asked."""

    case: Case
    slug: str
    sent: bytes
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def request_id(self) -> str:
        return self.headers["x-request-id"]


GOOD = [case for case in CASES if case.status == 200 and case.id not in BROKEN]
FAILED = [case for case in CASES if case.status == 200 and case not in GOOD]


def _names(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=[case.id for case in cases])


@pytest.fixture(scope="session")
def formats_payer() -> Customer:
    """The one customer of all these replays."""
    return make_customer(usd="1000")


@pytest.fixture(scope="session")
def replayed(gateway: Gateway, provider: FakeProvider, formats_payer: Customer) -> tuple[dict[str, Served], range]:
    """Every recording, asked for once, and the numbers of what the provider got meanwhile (others replay recordings too)."""
    first = provider.requests[-1].number + 1 if provider.requests else 0
    slugs = make_replays(provider.base_url, CASES)
    gateway.sees_catalog()

    async def ask_all() -> dict[str, Served]:
        gate = asyncio.Semaphore(16)
        async with httpx.AsyncClient(base_url=gateway.origin, headers=formats_payer.headers, timeout=30) as client:

            async def ask(case: Case) -> Served:
                slug = slugs[case.id]
                address, sent = request_of(case, slug)
                async with gate:
                    answer = await client.post(address, content=sent, headers={"Content-Type": "application/json"})
                return Served(case, slug, sent, answer.status_code, answer.headers, answer.content)

            return {one.case.id: one for one in await asyncio.gather(*map(ask, CASES))}

    served = asyncio.run(ask_all())
    return served, range(first, provider.requests[-1].number + 1)


@pytest.fixture(scope="session")
def asked(replayed: tuple[dict[str, Served], range]) -> dict[str, Served]:
    """What each recording's client saw."""
    return replayed[0]


@pytest.fixture(scope="session")
def booked(asked: dict[str, Served]) -> dict[str, Any]:
    """The usage record of every replay, by the recording, once the last of them is settled."""
    from billing.models import UsageRecord

    wanted = {one.request_id: name for name, one in asked.items()}
    deadline = time.monotonic() + 60
    while True:
        found = {wanted[str(record.request_id)]: record for record in UsageRecord.objects.filter(request_id__in=list(wanted))}
        if len(found) == len(wanted):
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not settled: {sorted(set(asked) - set(found))}")


@pytest.fixture(scope="session")
def received(replayed: tuple[dict[str, Served], range], provider: FakeProvider) -> dict[str, list[ReceivedRequest]]:
    """What the provider got for each recording."""
    asked, numbers = replayed
    found: dict[str, list[ReceivedRequest]] = {name: [] for name in asked}
    for request in provider.requests:
        name = request.model.removeprefix("replay:")
        if request.number in numbers and request.model.startswith("replay:") and name in found:
            found[name].append(request)
    return found


def make_replays(base_url: str, cases: list[Case]) -> dict[str, str]:
    """One model a recording, called in the recording's own format at a provider row of its own; returns the models' names."""
    from catalog.models import Model, Price, Provider, ProviderKey, Route

    providers, keys, models = [], [], []
    for case in cases:
        provider = Provider(
            slug=f"p-{uuid.uuid4().hex[:16]}", kind=KINDS.get(case.provider, "custom"), base_url=base_url, allow_private=True
        )
        key = ProviderKey(provider=provider)
        key.set_secret(f"sk-fake-{uuid.uuid4().hex}")
        providers.append(provider)
        keys.append(key)
        models.append(Model(slug=f"fake/{uuid.uuid4().hex[:16]}", max_output=MOST_OUTPUT))
    Provider.objects.bulk_create(providers)
    ProviderKey.objects.bulk_create(keys)
    Model.objects.bulk_create(models)
    began = timezone.now() - timedelta(hours=1)
    Price.objects.bulk_create([Price(model=model, input=1_000, output=2_000, effective_from=began) for model in models])
    Route.objects.bulk_create(
        [
            Route(model=model, provider=provider, upstream_model=f"replay:{case.id}", priority=0, format=case.shape)
            for case, model, provider in zip(cases, models, providers, strict=True)
        ]
    )
    return {case.id: model.slug for case, model in zip(cases, models, strict=True)}


def request_of(case: Case, slug: str) -> tuple[str, bytes]:
    """Where to ask, and the recorded request's own bytes with another model name; a small request where none was kept."""
    name = json.dumps(slug).encode()
    body = case.request_bytes if _is_usable(case) else None
    stream = b',"stream":true' if case.stream else b""
    if case.shape == "gemini":
        method = str(case.meta["path"] or "").rpartition(":")[2].partition("?")[0]
        method = method or ("streamGenerateContent" if case.stream else "generateContent")
        query = "?alt=sse" if case.stream else ""
        return f"/v1beta/models/{slug}:{method}{query}", body or b'{"contents":[{"role":"user","parts":[{"text":"Say something."}]}]}'
    if body is not None:
        given = json.dumps(case.request["model"]).encode()
        body = re.sub(rb'("model"\s*:\s*)' + re.escape(given), lambda found: found[1] + name, body, count=1)
        assert json.loads(body)["model"] == slug
    if case.shape == "messages":
        return "/v1/messages", body or (
            b'{"model":' + name + b',"max_tokens":1000,"messages":[{"role":"user","content":"Say something."}]' + stream + b"}"
        )
    return "/v1/responses", body or b'{"model":' + name + b',"input":"Say something."' + stream + b"}"


def _is_usable(case: Case) -> bool:
    request = case.request
    if not isinstance(request, dict) or "provider" in request:  # the gateway's own field, which names its own providers
        return False
    if case.shape == "gemini":
        return "contents" in request
    if bool(request.get("stream")) != case.stream or not isinstance(request.get("model"), str):
        return False
    if case.shape == "messages":
        return bool(request.get("messages")) and "max_tokens" in request
    return "input" in request and not any(request.get(name) for name in STATE)


# What the client gets


@_names(GOOD)
def test_an_answer_is_the_providers_bytes(case: Case, asked: dict[str, Served]) -> None:
    one = asked[case.id]
    assert one.status == 200, one.body
    recorded = case.response_bytes
    assert costs.count(one.body) == max(costs.count(recorded), int(case.shape != "gemini" and counts_tokens(case)))
    body = costs.without(one.body, recorded=recorded)
    assert _digest(body) == _digest(costs.without(expected_answer(case, body), recorded=recorded))


def counts_tokens(case: Case) -> bool:
    """Whether the answer's last word has a usage, into which the cost goes."""
    if not case.stream:
        return bool(json.loads(case.response_bytes).get("usage"))
    ends = [
        event for event in map(re.Match.group, EVENT.finditer(case.response_bytes)) if TERMINAL.search(event) or b'"message_delta"' in event
    ]
    return any(re.search(rb'"usage"\s*:\s*\{', event) for event in ends)


def expected_answer(case: Case, got: bytes) -> bytes:
    """The recorded bytes with the declared splices."""
    recorded = case.response_bytes
    if not case.stream:
        return recorded
    if case.shape == "responses":
        events = [found.group() for found in EVENT.finditer(recorded) if found.group()]
        end = next((place for place, event in enumerate(events) if TERMINAL.search(event)), len(events) - 1)
        recorded = b"".join(events[: end + 1])
    if len(got) > len(recorded):  # the recording may lack the last blank line, or a part of it
        newline = b"\r\n" if b"\r\n\r\n" in recorded else b"\n"
        recorded = recorded.rstrip(b"\r\n") + newline * 2
    return recorded


@_names(FAILED)
def test_a_stream_that_fails_ends_with_the_error_of_its_format(case: Case, asked: dict[str, Served], booked: dict[str, Any]) -> None:
    one = asked[case.id]
    assert one.status == 200
    *before, last = (found.group() for found in EVENT.finditer(one.body) if found.group())
    assert case.response_bytes.startswith(b"".join(before))
    name, _, data = last.partition(b"\ndata: ")
    error = json.loads(data)
    if case.shape == "messages":
        assert (name, error["type"], error["error"]["type"]) == (b"event: error", "error", "api_error")
    else:
        assert (name, error["type"], error["response"]["error"]["code"]) == (b"event: response.failed", "response.failed", "provider_error")
    assert not LEAKS.search(last)
    record = booked[case.id]
    assert (record.status, record.rule, record.error_code) == ("cut", BROKEN[case.id], "provider_error")
    assert (record.cost > 0) == (record.rule == "delivered")
    assert record.cost <= record.hold_amount


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("shape", ["messages", "responses", "gemini"])
def test_the_bytes_are_the_same_however_the_provider_cut_them(
    shape: str, size: int, asked: dict[str, Served], gateway: Gateway, new_models: Callable[..., list[str]], formats_payer: Customer
) -> None:
    """The smallest recorded streams of the format, in pieces of so many bytes."""
    streams = sorted((case for case in GOOD if case.shape == shape and case.stream), key=lambda case: len(case.response_bytes))[:3]
    slugs = new_models([f"replay:{case.id}@{size}" for case in streams], route_format=shape, max_output=MOST_OUTPUT)
    with httpx.Client(base_url=gateway.origin, headers=formats_payer.headers, timeout=30) as client:
        for case, slug in zip(streams, slugs, strict=True):
            address, sent = request_of(case, slug)
            answer = client.post(address, content=sent, headers={"Content-Type": "application/json"})
            recorded = case.response_bytes
            assert costs.without(answer.content, recorded=recorded) == costs.without(asked[case.id].body, recorded=recorded), case.id


# What the provider got


@_names(CASES)
def test_the_provider_receives_the_clients_bytes_but_for_the_declared_splices(
    case: Case, asked: dict[str, Served], received: dict[str, list[ReceivedRequest]]
) -> None:
    one = asked[case.id]
    requests = received[case.id]
    assert len(requests) == 1
    assert requests[0].body == expected_request(case, one)
    if case.shape == "gemini":
        assert ("alt=sse" in requests[0].path) == case.stream
        assert requests[0].header("x-goog-api-key")
    if case.shape == "messages":
        assert requests[0].header("anthropic-version") == "2023-06-01"
    assert requests[0].header("x-request-id") is None
    assert one.slug.encode() not in requests[0].body


def expected_request(case: Case, one: Served) -> bytes:
    """What the client sent with the declared splices."""
    if case.shape == "gemini":
        said = re.compile(rb'("model"\s*:\s*)"[^"]*"')
        return said.sub(rb'\1"replay:' + case.id.encode() + b'"', one.sent, count=1) if "model" in json.loads(one.sent) else one.sent
    sent = one.sent.replace(json.dumps(one.slug).encode(), json.dumps(f"replay:{case.id}").encode(), 1)
    if case.shape == "messages":
        return sent
    fields = json.loads(one.sent)
    if fields.get("store") is False:
        return sent
    added = b""
    if "store" in fields:
        sent, count = re.subn(rb'("store"\s*:\s*)(?:true|null)', rb"\1false", sent, count=1)
        assert count == 1
    else:
        added += b',"store":false'
    include = fields.get("include") or []
    if "reasoning.encrypted_content" not in include:
        value = json.dumps([*include, "reasoning.encrypted_content"], separators=(",", ":")).encode()
        if "include" in fields:
            sent, count = re.subn(rb'("include"\s*:\s*)(?:\[[^\]]*\]|null)', lambda found: found[1] + value, sent, count=1)
            assert count == 1
        else:
            added += b',"include":' + value
    end = sent.rindex(b"}")
    return sent[:end] + added + sent[end:]


@pytest.mark.parametrize(
    ("shape", "body", "expected"),
    [
        (
            "messages",
            b'{ "model" : "%s", "max_tokens" : 9000, "x_unknown": {"max_tokens": 3}, "messages":[{"role":"user","content":"hi"}] }',
            b'{ "model" : "%s", "max_tokens" : 50, "x_unknown": {"max_tokens": 3}, "messages":[{"role":"user","content":"hi"}] }',
        ),
        (
            "responses",
            b'{"model":"%s","input":"hi", "max_output_tokens":\t9000,"x_unknown":[1.0] ,"store":false}',
            b'{"model":"%s","input":"hi", "max_output_tokens":\t50,"x_unknown":[1.0] ,"store":false}',
        ),
        (
            "gemini",
            b'{"contents":"hi","generationConfig": {"maxOutputTokens": 9000, "topK":1 },"x_unknown": 1e2}',
            b'{"contents":"hi","generationConfig": {"maxOutputTokens":50,"topK":1},"x_unknown": 1e2}',
        ),
        (
            "gemini",
            b'{"contents":"hi","generation_config": {"max_output_tokens": 9000}}',
            b'{"contents":"hi","generation_config": {"max_output_tokens":50}}',
        ),
    ],
)
def test_a_limit_above_the_models_is_lowered_and_nothing_else_is_touched(
    shape: str,
    body: bytes,
    expected: bytes,
    gateway: Gateway,
    provider: FakeProvider,
    new_models: Callable[..., list[str]],
    formats_payer: Customer,
) -> None:
    upstream = f"chat:say=hello;prompt_tokens={time.monotonic_ns() % 1000 + 1}"
    (slug,) = new_models([upstream], route_format=shape, max_output=50)
    address = {"messages": "/v1/messages", "responses": "/v1/responses", "gemini": f"/v1beta/models/{slug}:generateContent"}[shape]
    before = provider.requests[-1].number if provider.requests else 0
    answer = httpx.post(
        gateway.origin + address,
        content=body.replace(b"%s", slug.encode()),
        headers={**formats_payer.headers, "Content-Type": "application/json"},
    )
    assert answer.status_code == 200, answer.content
    got = next(request for request in provider.requests if request.number > before and request.model == upstream)
    assert got.body == expected.replace(b"%s", upstream.encode())


# What is billed


@_names(GOOD)
def test_the_tokens_billed_are_those_the_answer_means(case: Case, booked: dict[str, Any]) -> None:
    record = booked[case.id]
    body = case.response_bytes.decode()
    said = oracle.meaning(case.shape, body if case.stream else json.loads(body), case.stream)
    billed = (_input(record), _output(record), record.cached_input_tokens, record.reasoning_tokens)
    if said["inp"] is None or case.id.startswith(UNCOUNTED):
        assert record.usage_source == "estimated"
        return
    assert record.usage_source == "provider"
    exception = next((rule for place, (_, rule) in OTHERWISE.items() if case.id.startswith(place)), None)
    if exception is not None:
        assert billed[:2] == exception(case)
    else:
        assert billed == (said["inp"], said["out"] or 0, said["cached"], min(said["reason_tok"], said["out"] or 0))
    assert record.cost > 0 or sum(billed) == 0
    assert (record.status, record.status_code) == ("ok", 200)


def test_what_was_billed_left_the_wallet_and_nothing_is_held(booked: dict[str, Any], formats_payer: Customer) -> None:
    from billing.models import UsageRecord

    charged = UsageRecord.objects.filter(account=formats_payer.account).aggregate(sum=Sum("cost"))["sum"]
    wallet = formats_payer.fresh_wallet()
    assert charged >= sum(record.cost for record in booked.values()) > 0
    assert wallet.balance == 1000 * 10**9 - charged
    assert wallet.held == 0


# Refusals

# What the provider said -> what the client sees: the first that fits.
OUTCOMES = {
    "anthropic/messages/error_400_credit": (503, "overloaded_error"),  # our account there is out of money
    "anthropic/messages/error_400": (400, "invalid_request_error"),
    "anthropic/messages/error_401": (503, "overloaded_error"),
    "anthropic/messages/error_404": (502, "api_error"),  # a model the provider does not have: the route is wrong, not the client
    "anthropic/messages/error_429": (429, "rate_limit_error"),
    "anthropic/messages/error_529": (502, "api_error"),
    "gemini/gemini/error_400__rubyllm": (503, "UNAVAILABLE"),  # our key is not valid, which Google says with a 400
    "gemini/gemini/error_400": (400, "INVALID_ARGUMENT"),
    "gemini/gemini/error_404": (502, "UNAVAILABLE"),
    "gemini/gemini/error_429": (429, "RESOURCE_EXHAUSTED"),
    "gemini/gemini/error_5": (502, "UNAVAILABLE"),
    "vertex/gemini/error_400": (400, "INVALID_ARGUMENT"),
    "vertex/gemini/error_404": (502, "UNAVAILABLE"),
    "openai/responses/error_400__pai-multimodal": (400, "unsupported_file"),
    "openai/responses/error_400": (502, "provider_error"),  # a model the provider does not have
    "openai/responses/error_401": (503, "no_available_provider"),
    "openai/responses/error_429": (503, "no_available_provider"),  # out of money
    "deepseek/responses/error_400": (400, "invalid_request_error"),
    "xai/responses/error_400": (503, "no_available_provider"),  # our key is not valid
}
LEAKS = re.compile(
    rb"org-|req_REDACTED|https?://|OpenAI|Anthropic|Google|Vertex|DeepSeek|xAI|Azure|fake-project|us-central1|quotaId|x-api-key|sk-fake|req_011",
    re.IGNORECASE,
)


@_names(REFUSED)
def test_a_refusal_is_mapped_into_the_clients_shape_and_nothing_of_the_operators_leaks(
    case: Case, asked: dict[str, Served], booked: dict[str, Any]
) -> None:
    one = asked[case.id]
    expected = next(outcome for place, outcome in OUTCOMES.items() if case.id.startswith(place))
    assert (one.status, code_of(case.shape, one)) == expected
    assert not LEAKS.search(one.body.replace(b"type.googleapis.com/google.rpc.", b"")), one.body
    assert not [line for line in one.headers.items() if LEAKS.search(repr(line).encode()) and line[0] != "x-gateway-provider"]
    if one.status == 429:
        assert 1 <= int(one.headers["retry-after"]) <= 60
    record = booked[case.id]
    assert (record.cost, record.rule, record.status) == (0, "no_output", "error")


@pytest.mark.parametrize(
    "quoted",
    [
        "insufficient_quota",
        "Your credit balance is too low",
        "Incorrect API key provided",
        "API key not valid. Please pass a valid API key.",
    ],
)
def test_what_a_client_makes_a_provider_quote_does_not_condemn_our_key_there(quoted: str) -> None:
    message = f"Invalid value: '{quoted}'. Supported values are: 'system', 'user' and 'assistant'."
    body = json.dumps(
        {"error": {"message": message, "type": "invalid_request_error", "param": "messages[0].role", "code": "invalid_value"}}
    )
    assert isinstance(read_failure(400, {}, body.encode()), failures.RequestRefused)


@pytest.mark.parametrize(
    "error",
    [
        {
            "code": 403,
            "message": 'meta/llama requires moderation on Fake Host. Your input was flagged for "violence". No credits were charged.',
            "metadata": {"reasons": ["violence"], "flagged_input": "insufficient_quota", "provider_name": "Fake Host"},
        },
        "Content violates usage guidelines. Team: 0f1e, API key ID: 9a8b, Model: grok-4, Failed check: SAFETY_CHECK_TYPE_BIO",
    ],
)
def test_a_403_about_what_the_client_said_is_the_clients_and_not_our_keys(error: Any) -> None:
    body = {"code": "The caller does not have permission to execute the specified operation", "error": error}
    refused = read_failure(403, {}, json.dumps(body).encode())
    assert isinstance(refused, failures.RequestRefused)
    assert (refused.status, refused.code) == (400, "content_policy_violation")
    assert refused.message == "The request was refused by the provider's content filter."


def code_of(shape: str, one: Served) -> str:
    """The error's code, once its body has the shape that the format's SDKs read."""
    body = json.loads(one.body)
    error = body["error"]
    assert error["message"]
    if shape == "messages":
        assert body["type"] == "error"
        assert body["request_id"] == one.request_id
        assert error["type"].endswith("_error")
        return str(error["type"])
    if shape == "gemini":
        assert error["code"] == one.status
        return str(error["status"])
    assert error["type"]
    assert error["request_id"] == one.request_id
    return str(error["code"])


def _rounds(case: Case) -> list[dict[str, int]]:
    """What a provider says of each of its rounds, in its last count."""
    text = case.response_bytes.decode()
    usage = [json.loads(line[5:])["usage"] for line in text.splitlines() if line.startswith("data:") and '"message_delta"' in line]
    rounds: list[dict[str, int]] = (usage[-1] if case.stream else json.loads(text)["usage"])["iterations"]
    return rounds


def _digest(data: bytes) -> tuple[str, int, bytes]:
    return hashlib.sha256(data).hexdigest(), len(data), data[-80:]


def _input(record: Any) -> int:
    return int(
        record.input_tokens
        + record.cached_input_tokens
        + record.cache_write_tokens
        + record.cache_write_1h_tokens
        + record.audio_input_tokens
    )


def _output(record: Any) -> int:
    return int(record.output_tokens + record.reasoning_tokens + record.audio_output_tokens)
