"""Gemini's methods besides generateContent: what is read of a request, what is sent, what is billed, and what is refused."""

import uuid
from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest
from django.utils import timezone

from billing.models import UsageRecord
from catalog.models import Model, Price, Provider, ProviderKey, Route
from catalog.snapshot import ProviderEntry, RouteEntry
from catalog.usage import TokenUsage
from proxy.body import parse_body
from proxy.formats.base import InvalidRequest, NotAnAnswer
from proxy.gemini_methods import BILLED, CountTokens
from proxy.routing import Candidate
from tests.fakes.provider import recordings

USD = 1_000_000_000
COSTS: dict[str, Any] = {"estimate": TokenUsage(), "cost": 1, "upstream_cost": 1}
CANDIDATE = Candidate(RouteEntry(1, ProviderEntry(1, "g", "google", "https://x", False, ()), "up/stream", 0, 1, ""), None, "gemini")
needs_recordings = pytest.mark.skipif(not recordings.cases(), reason="the recorded traffic is not here")


def body(**fields: Any) -> Any:
    return parse_body(orjson.dumps(fields))


def content(text: str) -> dict[str, Any]:
    return {"parts": [{"text": text}]}


def pass_through(method: str, **fields: Any) -> Any:
    surface, asked = BILLED[method]("ours"), body(**fields)
    return surface.pass_through(asked, surface.read(asked), CANDIDATE, output_limit=None)


# -- Requests --------------------------------------------------------------------------------------------------------------------------


def test_the_model_of_the_address_is_the_one_that_is_meant() -> None:
    assert BILLED["embedContent"]("ours").read(body(content=content("hi"), model="models/another")).model == "ours"


def test_the_model_is_renamed_wherever_the_body_names_it() -> None:
    single = pass_through("embedContent", content=content("hi"), model="models/dearer", taskType="RETRIEVAL_QUERY")
    assert single.path == "/models/up%2Fstream:embedContent"
    assert orjson.loads(single.raw) == {"content": content("hi"), "model": "models/up/stream", "taskType": "RETRIEVAL_QUERY"}
    batch = pass_through("batchEmbedContents", requests=[{"content": content("a"), "model": "models/dearer"}, {"content": content("b")}])
    assert [request["model"] for request in orjson.loads(batch.raw)["requests"]] == ["models/up/stream"] * 2
    counted = CountTokens("ours", model_kind="text")
    for name in ("generateContentRequest", "generate_content_request"):
        asked = body(**{name: {"contents": [content("hi")], "model": "models/dearer"}})
        sent = counted.pass_through(asked, counted.read(asked), CANDIDATE, output_limit=None)
        assert sent.path == "/models/up%2Fstream:countTokens"
        assert orjson.loads(sent.raw)[name] == {"contents": [content("hi")], "model": "models/up/stream"}


def test_what_is_given_twice_is_sent_as_it_was_priced() -> None:
    one, many = orjson.dumps([{"content": content("a")}]), orjson.dumps([{"content": content("b")}] * 50)
    asked = parse_body(b'{"requests":' + many + b',"requests":' + one + b"}")
    surface = BILLED["batchEmbedContents"]("ours")
    facts = surface.read(asked)
    sent = orjson.loads(surface.pass_through(asked, facts, CANDIDATE, output_limit=None).raw)
    assert (facts.prompts, len(sent["requests"])) == (1, 1)


@pytest.mark.parametrize(
    ("method", "fields", "param"),
    [
        ("embedContent", {}, "content"),
        ("embedContent", {"content": "hi"}, "content"),
        ("batchEmbedContents", {}, "requests"),
        ("batchEmbedContents", {"requests": []}, "requests"),
        ("batchEmbedContents", {"requests": [{"content": content("a")}, {}]}, "content"),
        ("batchEmbedContents", {"requests": ["a"]}, "content"),
        ("batchEmbedContents", {"requests": [{"content": {}}] * 2049}, "requests"),
        ("predict", {}, "instances"),
        ("predict", {"instances": []}, "instances"),
        ("predict", {"instances": ["a cat"]}, "instances"),
        ("predict", {"instances": [{}], "parameters": []}, "parameters"),
        ("predict", {"instances": [{}], "parameters": {"sampleCount": 0}}, "sampleCount"),
        ("predict", {"instances": [{}], "parameters": {"sampleCount": 9}}, "sampleCount"),
        ("predict", {"instances": [{}], "parameters": {"sampleCount": "4"}}, "sampleCount"),
    ],
)
def test_what_cannot_be_bounded_is_refused_by_name(method: str, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        BILLED[method]("ours").read(body(**fields))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "pictures"),
    [
        ({"instances": [{"prompt": "a cat"}]}, 4),
        ({"instances": [{"prompt": "a cat"}], "parameters": {"sampleCount": 1}}, 1),
        ({"instances": [{"prompt": "a cat"}, {"prompt": "a dog"}], "parameters": {"sampleCount": 3}}, 6),
    ],
)
def test_as_many_pictures_as_may_come_are_expected(fields: dict[str, Any], pictures: int) -> None:
    for method in ("predict", "generate"):
        facts = BILLED[method]("ours").read(body(**fields))
        assert (facts.images, facts.output_limit, facts.stream) == (pictures, 0, False)
        assert pass_through(method, **fields).path.endswith(":predict")


def test_media_given_by_reference_are_within_the_bound() -> None:
    surface = BILLED["embedContent"]("ours")
    text = surface.read(body(content={"parts": [{"text": "four"}]}))
    media = surface.read(body(content={"parts": [{"text": "four"}, {"fileData": {"fileUri": "https://x/y.png"}}]}))
    assert text.input_estimate == media.input_estimate == 1
    assert media.input_bound > text.input_bound + 1000


# -- Answers ---------------------------------------------------------------------------------------------------------------------------


def test_vectors_are_billed_by_the_providers_count_or_else_by_ours() -> None:
    passage = pass_through("batchEmbedContents", requests=[{"content": content("hello")}])
    counted = orjson.dumps({"embeddings": [{"values": [0.5]}], "usageMetadata": {"promptTokenCount": 7}})
    assert passage.read_whole(counted).usage == TokenUsage(input_tokens=7)
    silent = orjson.dumps({"embeddings": [{"values": [0.5]}]})
    whole = passage.read_whole(silent)
    assert (whole.usage, whole.finish_reason, whole.render(**COSTS)) == (None, "stop", silent)


def test_each_picture_delivered_is_billed_and_no_more_than_were_asked_for() -> None:
    passage = pass_through("predict", instances=[{"prompt": "a cat"}], parameters={"sampleCount": 2})
    picture = {"bytesBase64Encoded": "aaaa", "mimeType": "image/png"}
    for given, billed in ((1, 1), (2, 2), (5, 2)):
        assert passage.read_whole(orjson.dumps({"predictions": [picture] * given})).usage == TokenUsage(images=billed)
    for filtered in ({}, {"predictions": [{"raiFilteredReason": "no"}]}):
        whole = passage.read_whole(orjson.dumps(filtered))
        assert (whole.usage, whole.finish_reason) == (TokenUsage(), "")


@pytest.mark.parametrize("raw", [b"<html>", b"[]", b'{"error":{"code":500}}', b"{}", b'{"embeddings":[]}', b'{"embeddings":[{}]}'])
def test_what_holds_no_vectors_is_no_answer(raw: bytes) -> None:
    passage = pass_through("batchEmbedContents", requests=[{"content": content("hello")}])
    with pytest.raises(NotAnAnswer):
        passage.read_whole(raw)


# -- Through the gateway ---------------------------------------------------------------------------------------------------------------


def sell(provider: Any, upstream_model: str, *, kind: str = "text", company: str = "google", **rates: int) -> str:
    """Put a model at the fake provider on sale; returns its slug."""
    model = Model.objects.create(slug=f"gm-{uuid.uuid4().hex[:16]}", kind=kind)
    Price.objects.create(model=model, effective_from=timezone.now() - timedelta(hours=1), **rates)
    row = Provider.objects.create(slug=f"p-{uuid.uuid4().hex[:16]}", kind=company, base_url=provider.base_url, allow_private=True)
    key = ProviderKey(provider=row)
    key.set_secret(f"sk-fake-{uuid.uuid4().hex}")
    key.save()
    Route.objects.create(model=model, provider=row, upstream_model=upstream_model)
    return model.slug


@pytest.fixture
def ask(gateway: Any, customer: Any) -> Any:
    gateway.sees_catalog()

    def post(address: str, sent: Any, prefix: str = "v1beta", **headers: str) -> httpx.Response:
        return httpx.post(
            f"{gateway.origin}/{prefix}/models/{address}", json=sent, headers={"x-goog-api-key": customer.secret, **headers}, timeout=30
        )

    return post


def test_counting_is_free_and_reaches_the_provider(provider: Any, gateway: Any, customer: Any, ask: Any, usage_of: Any) -> None:
    upstream_model = f"count-{uuid.uuid4().hex}"
    slug = sell(provider, upstream_model, input=USD, output=USD, request=USD * 10**6)
    gateway.sees_catalog()
    answer = ask(f"{slug}:countTokens", {"contents": [content("one two three")]})
    assert (answer.status_code, answer.json()) == (200, {"totalTokens": 3})
    assert (answer.headers["x-gateway-cost-usd"], answer.headers["x-gateway-attempts"]) == ("0.00", "1")
    (seen,) = provider.wait_for_count(1, lambda request: upstream_model in request.path)
    assert seen.path == f"/v1/models/{upstream_model}:countTokens"
    echo = sell(provider, "hello", input=USD, output=USD)
    gateway.sees_catalog()
    usage_of(ask(f"{echo}:generateContent", {"contents": [content("hi")]}).headers["x-request-id"])  # settled behind whatever counting left
    assert not UsageRecord.objects.filter(request_id=answer.headers["x-request-id"]).exists()
    wallet = customer.fresh_wallet()
    assert (wallet.held, wallet.balance > 4 * USD) == (0, True)


def test_counting_needs_no_money_but_obeys_scopes_and_rate_limits(provider: Any, gateway: Any, new_customer: Any) -> None:
    slug = sell(provider, "hello", input=USD, output=USD)
    gateway.sees_catalog()
    asked = {"contents": [content("hi")]}

    def status(customer: Any) -> int:
        headers = {"x-goog-api-key": customer.secret}
        return httpx.post(f"{gateway.origin}/v1/models/{slug}:countTokens", json=asked, headers=headers, timeout=30).status_code

    assert status(new_customer(usd="0")) == 200
    assert status(new_customer(allowed_models=["another"])) == 403
    assert status(new_customer(allowed_endpoints=["chat"])) == 403
    assert status(new_customer(kind="test")) == 403
    slow = new_customer(rpm=1)
    assert (status(slow), status(slow)) == (200, 429)


def test_an_envelope_in_a_free_request_does_not_turn_it_into_another(provider: Any, gateway: Any, ask: Any) -> None:
    upstream_model = f"count-{uuid.uuid4().hex}"
    slug = sell(provider, upstream_model, input=USD, output=USD)
    gateway.sees_catalog()
    answer = ask(f"{slug}:countTokens", {"contents": [{"role": "model", "parts": [{"text": "a", "thoughtSignature": "gw1.AAAA"}]}]})
    assert answer.status_code == 200
    (seen,) = provider.wait_for_count(1, lambda request: upstream_model in request.path)
    assert seen.path.endswith(":countTokens")


@pytest.mark.parametrize("prefix", ["v1", "v1beta"])
def test_embeddings_are_billed_by_the_token(provider: Any, gateway: Any, ask: Any, usage_of: Any, prefix: str) -> None:
    slug = sell(provider, "embedder", kind="embedding", input=USD)
    gateway.sees_catalog()
    answer = ask(f"{slug}:embedContent", {"content": content("hello world!")}, prefix)
    assert len(answer.json()["embedding"]["values"]) > 1
    record = usage_of(answer.headers["x-request-id"])
    assert (record.endpoint, record.input_tokens, record.usage_source, record.cost) == ("gemini", 3, "estimated", 3_000)
    batch = ask(f"{slug}:batchEmbedContents", {"requests": [{"content": content("hello")}, {"content": content("world")}]}, prefix)
    assert len(batch.json()["embeddings"]) == 2
    assert usage_of(batch.headers["x-request-id"]).cost == 3_000


@needs_recordings
def test_a_recorded_answer_passes_byte_for_byte(provider: Any, gateway: Any, ask: Any, usage_of: Any) -> None:
    case = next(case for case in recordings.cases(["gemini_batchEmbedContents"], statuses=[200]) if "llm-gemini" in case.name)
    slug = sell(provider, f"replay:{case.id}", kind="embedding", input=USD)
    gateway.sees_catalog()
    answer = ask(f"{slug}:batchEmbedContents", case.request)
    assert answer.content == case.response_bytes
    assert usage_of(answer.headers["x-request-id"]).cost > 0


@pytest.mark.parametrize("method", ["predict", "generate"])
def test_pictures_are_billed_one_by_one(provider: Any, gateway: Any, ask: Any, usage_of: Any, method: str) -> None:
    slug = sell(provider, "chat:n=2", kind="image", image=USD * 10_000)
    gateway.sees_catalog()
    answer = ask(f"{slug}:{method}", {"instances": [{"prompt": "a cat"}], "parameters": {"sampleCount": 2}})
    assert [one["mimeType"] for one in answer.json()["predictions"]] == ["image/png"] * 2
    record = usage_of(answer.headers["x-request-id"])
    assert (record.images, record.rule, record.cost) == (2, "metered", 20_000_000)
    assert answer.headers["x-gateway-cost-usd"] == "0.02"


@pytest.mark.parametrize("fault", ["fault:status-500", "fault:ok-html", "fault:ok-with-error-body", "fault:empty-body", "fault:reset"])
def test_pictures_that_fail_are_free(provider: Any, gateway: Any, customer: Any, ask: Any, usage_of: Any, fault: str) -> None:
    slug = sell(provider, fault, kind="image", image=USD * 10**6)
    gateway.sees_catalog()
    answer = ask(f"{slug}:predict", {"instances": [{"prompt": "a cat"}]})
    assert (answer.status_code, answer.json()["error"]["status"]) == (502, "UNAVAILABLE")
    record = usage_of(answer.headers["x-request-id"])
    assert (record.status, record.cost, customer.fresh_wallet().held) == ("error", 0, 0)


def test_an_empty_wallet_buys_no_pictures(provider: Any, gateway: Any, new_customer: Any) -> None:
    slug = sell(provider, "hello", kind="image", image=USD * 10**6)
    gateway.sees_catalog()
    answer = httpx.post(
        f"{gateway.origin}/v1beta/models/{slug}:predict",
        json={"instances": [{"prompt": "a cat"}]},
        headers={"x-goog-api-key": new_customer(usd="0").secret},
        timeout=30,
    )
    assert answer.status_code == 402


def test_what_does_not_fit_is_refused_in_googles_shape(provider: Any, gateway: Any, ask: Any, customer: Any) -> None:
    text, other = sell(provider, "hello", input=USD, output=USD), sell(provider, "hello", company="openai", input=USD, output=USD)
    embedder = sell(provider, "hello", company="openai", kind="embedding", input=USD)
    gateway.sees_catalog()
    for address, sent, status in (
        (f"{text}:predictLongRunning", {"instances": [{"prompt": "a cat"}]}, 400),
        (f"{text}:frobnicate", {}, 404),
        ("no-such-model:countTokens", {}, 404),
        ("no-such-model:embedContent", {"content": content("hi")}, 404),
        (f"{text}:embedContent", {"content": content("hi")}, 400),
        (f"{text}:predict", {"instances": [{"prompt": "a cat"}]}, 400),
        (f"{other}:countTokens", {"contents": []}, 400),
        (f"{embedder}:embedContent", {"content": content("hi")}, 400),
    ):
        answer = ask(address, sent)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (status, status), address
        assert error["status"] == {404: "NOT_FOUND", 400: "INVALID_ARGUMENT"}[status]
        assert error["details"][0]["@type"].endswith("google.rpc.ErrorInfo")
    assert "is not served at this endpoint" in ask(f"{other}:countTokens", {}).json()["error"]["message"]


# -- Anthropic's count -----------------------------------------------------------------------------------------------------------------


def count(gateway: Any, customer: Any, slug: str, **headers: str) -> httpx.Response:
    asked = {"model": slug, "messages": [{"role": "user", "content": "one two three"}]}
    return httpx.post(f"{gateway.origin}/v1/messages/count_tokens", json=asked, headers={**customer.headers, **headers}, timeout=30)


def test_a_provider_that_speaks_anthropics_format_counts_messages_itself(provider: Any, gateway: Any, customer: Any) -> None:
    upstream_model = f"count-{uuid.uuid4().hex}"
    slug = sell(provider, upstream_model, company="anthropic", input=USD, output=USD)
    gateway.sees_catalog()
    answer = count(gateway, customer, slug, **{"anthropic-version": "2023-06-01", "anthropic-beta": "token-counting-2024-11-01"})
    assert (answer.status_code, answer.json(), answer.headers["x-gateway-cost-usd"]) == (200, {"input_tokens": 3}, "0.00")
    seen = provider.wait_for(lambda request: upstream_model.encode() in request.body)
    assert seen.path == "/v1/messages/count_tokens"
    headers = {name.lower(): value for name, value in dict(seen.headers).items()}
    assert (headers["anthropic-version"], headers["anthropic-beta"]) == ("2023-06-01", "token-counting-2024-11-01")
    assert orjson.loads(seen.body) == {"model": upstream_model, "messages": [{"role": "user", "content": "one two three"}]}
    assert not UsageRecord.objects.filter(request_id=answer.headers["x-request-id"]).exists()


@pytest.mark.parametrize(
    ("company", "upstream_model"), [("openai", "hello"), ("anthropic", "fault:status-500"), ("anthropic", "fault:status-404")]
)
def test_otherwise_the_count_is_our_estimate(provider: Any, gateway: Any, customer: Any, company: str, upstream_model: str) -> None:
    slug = sell(provider, upstream_model, company=company, input=USD, output=USD)
    gateway.sees_catalog()
    answer = count(gateway, customer, slug)
    assert answer.status_code == 200
    assert answer.json()["input_tokens"] > 3
    assert "x-gateway-provider" not in answer.headers


def test_a_count_that_the_provider_refuses_is_refused(provider: Any, gateway: Any, customer: Any) -> None:
    slug = sell(provider, "fault:status-400", company="anthropic", input=USD, output=USD)
    gateway.sees_catalog()
    answer = count(gateway, customer, slug)
    assert (answer.status_code, answer.json()["type"]) == (400, "error")


def test_text_that_looks_like_an_envelope_is_embedded_like_any_other(provider: Any, gateway: Any, customer: Any) -> None:
    slug = sell(provider, "embedder", company="openai", kind="embedding", input=USD)
    gateway.sees_catalog()
    answer = httpx.post(
        f"{gateway.origin}/v1/embeddings", json={"model": slug, "input": ["gw1.AAAA"]}, headers=customer.headers, timeout=30
    )
    assert answer.status_code == 200
