"""The official OpenAI SDK, as it comes, against the live gateway: embeddings, images, legacy completions, and `/api/v1`."""

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import openai
import pytest
from django.utils import timezone

from catalog.models import CatalogVersion, Model, Price, Provider, ProviderKey, Route
from tests.conftest import USD, Customer, Gateway, make_model
from tests.fakes.provider import FakeProvider, recordings
from tests.proxy.test_embeddings import decode

PICTURE = USD // 100  # what one costs here, in nano-USD
Sell = Callable[..., str]


@pytest.fixture
def client(gateway: Gateway, customer: Customer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base_url, api_key=customer.secret, max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def sell(gateway: Gateway, provider: FakeProvider) -> Sell:
    """Put a model on sale: at the demo provider, or at the fake one as the kind of provider named. Rates are nano-USD per million."""

    def make(upstream_model: str, kind: str, *, at: str = "demo", context: int = 8192, **rates: int) -> str:
        company = Provider.objects.create(slug=f"p-{uuid.uuid4().hex[:16]}", kind=at, base_url=provider.base_url, allow_private=True)
        if at != "demo":
            key = ProviderKey(provider=company)
            key.set_secret(f"sk-fake-{uuid.uuid4().hex}")
            key.save()
        model = Model.objects.create(slug=f"sold/{uuid.uuid4().hex[:16]}", kind=kind, context=context)
        Price.objects.create(model=model, effective_from=timezone.now() - timedelta(hours=1), **rates)
        Route.objects.create(model=model, provider=company, upstream_model=upstream_model)
        gateway.sees_catalog()
        return model.slug

    return make


@pytest.fixture
def embedding(sell: Sell) -> str:
    """Vectors at a dollar for a million tokens."""
    return sell("embedding", "embedding", input=USD)


@pytest.fixture
def image(sell: Sell) -> str:
    """Pictures at a cent each."""
    return sell("image", "image", image=PICTURE * 1_000_000)


@pytest.fixture
def echo(sell: Sell) -> str:
    """A model that repeats its prompt."""
    return sell("echo", "text", input=USD, output=2 * USD)


# Embeddings


def test_an_embedding_is_answered_and_charged_for_its_input(
    client: openai.OpenAI, customer: Customer, embedding: str, usage_of: Callable[..., Any]
) -> None:
    answer = client.embeddings.with_raw_response.create(model=embedding, input="a text of some words")
    parsed: Any = answer.parse()
    assert len(parsed.data[0].embedding) == 256
    assert (parsed.usage.prompt_tokens, parsed.usage.total_tokens) == (5, 5)
    record = usage_of(answer.headers["x-request-id"])
    assert (record.endpoint, record.rule, record.usage_source, record.status) == ("embeddings", "metered", "provider", "ok")
    assert (record.input_tokens, record.output_tokens, record.cost, record.finish_reason) == (5, 0, 5_000, "stop")
    assert parsed.usage.cost == float(answer.headers["x-gateway-cost-usd"]) == pytest.approx(5e-6)
    wallet = customer.fresh_wallet()
    assert (wallet.balance, wallet.held) == (5 * USD - 5_000, 0)


def test_numbers_and_base64_say_the_same_in_a_batch_of_any_form(client: openai.OpenAI, embedding: str) -> None:
    for given in (["one", "two", "three"], [[1, 2, 3], [4]], [1, 2, 3]):
        numbers = client.embeddings.create(model=embedding, input=given, encoding_format="float", dimensions=64)
        encoded: Any = client.embeddings.with_raw_response.create(
            model=embedding, input=given, encoding_format="base64", dimensions=64
        ).parse()
        unasked = client.embeddings.create(model=embedding, input=given, dimensions=64)
        assert [len(item.embedding) for item in numbers.data] == [64] * len(numbers.data)
        assert [decode(item.embedding) for item in encoded.data] == [item.embedding for item in numbers.data]
        assert [item.embedding for item in unasked.data] == [item.embedding for item in numbers.data]
        assert [item.index for item in numbers.data] == list(range(len(numbers.data)))


def test_tokens_given_as_numbers_are_charged_one_by_one(client: openai.OpenAI, embedding: str, usage_of: Callable[..., Any]) -> None:
    answer = client.embeddings.with_raw_response.create(model=embedding, input=[[1, 2, 3], [100_000]])
    assert usage_of(answer.headers["x-request-id"]).input_tokens == 4


@pytest.mark.parametrize(("at", "received_as", "path"), [
    ("custom", "base64", "/v1/embeddings"),
    ("mistral", "float", "/v1/embeddings"),
    ("google", "float", "/v1/openai/embeddings"),
])  # fmt: skip
def test_a_provider_that_sends_numbers_serves_a_client_who_wants_base64(
    at: str, received_as: str, path: str, client: openai.OpenAI, provider: FakeProvider, sell: Sell
) -> None:
    upstream = f"chat:text=1;model={uuid.uuid4().hex}"
    model = sell(upstream, "embedding", at=at, input=USD)
    raw: Any = client.embeddings.with_raw_response.create(model=model, input=["one", "two"], encoding_format="base64")
    vectors = [item["embedding"] for item in json.loads(raw.content)["data"]]
    assert all(isinstance(vector, str) for vector in vectors)
    numbers = client.embeddings.create(model=model, input=["one", "two"], encoding_format="float")
    assert [decode(vector) for vector in vectors] == [pytest.approx(item.embedding, abs=1e-6) for item in numbers.data]
    received = provider.wait_for(lambda request: request.model == upstream)
    assert (received.json()["encoding_format"], received.path) == (received_as, path)
    assert (received.header("authorization") or "").startswith("Bearer sk-fake-")
    assert received.header("x-goog-api-key") is None


def test_a_provider_that_tells_no_tokens_is_charged_by_our_count(client: openai.OpenAI, sell: Sell, usage_of: Callable[..., Any]) -> None:
    model = sell("chat:text=1;usage=none", "embedding", at="custom", input=USD)
    answer = client.embeddings.with_raw_response.create(model=model, input="x" * 40)
    parsed: Any = answer.parse()
    record = usage_of(answer.headers["x-request-id"])
    assert (record.rule, record.usage_source, record.input_tokens, record.cost) == ("estimated", "estimated", 10, 10_000)
    assert (parsed.usage.prompt_tokens, parsed.usage.cost) == (10, pytest.approx(1e-5))


def test_a_batch_may_hold_more_than_one_context(client: openai.OpenAI, sell: Sell, usage_of: Callable[..., Any]) -> None:
    """The context bounds each text of a batch, and the hold covers them all."""
    model = sell("embedding", "embedding", context=100, input=USD)
    answer = client.embeddings.with_raw_response.create(model=model, input=["x" * 360] * 20)
    record = usage_of(answer.headers["x-request-id"])
    assert (record.input_tokens, record.rule, record.cost) == (1800, "metered", 1_800_000)


def test_an_embedding_nobody_can_pay_is_refused_before_it_is_asked_for(
    gateway: Gateway, embedding: str, new_customer: Callable[..., Customer]
) -> None:
    with openai.OpenAI(base_url=gateway.base_url, api_key=new_customer(usd="0.00001").secret, max_retries=0) as sdk:
        with pytest.raises(openai.APIStatusError) as caught:
            sdk.embeddings.create(model=embedding, input="x" * 1000)
        assert (caught.value.status_code, caught.value.code) == (402, "insufficient_quota")
        assert sdk.embeddings.create(model=embedding, input="x").data


def test_too_many_inputs_are_refused(client: openai.OpenAI, embedding: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=embedding, input=["x"] * 2049)
    assert caught.value.param == "input"
    assert len(client.embeddings.create(model=embedding, input=["x"] * 2048, dimensions=2).data) == 2048


def test_a_failed_embedding_is_free(client: openai.OpenAI, customer: Customer, sell: Sell) -> None:
    for fault in ("fault:status-500", "fault:connect-close"):
        with pytest.raises(openai.InternalServerError):
            client.embeddings.create(model=sell(fault, "embedding", at="custom", input=USD), input="x")
    assert customer.fresh_wallet().balance == 5 * USD


@pytest.mark.skipif(recordings.folder() is None, reason=recordings.SKIP_REASON)
def test_recorded_embeddings_come_through_with_their_tokens(client: openai.OpenAI, sell: Sell, usage_of: Callable[..., Any]) -> None:
    for case in recordings.cases(shape="embeddings", statuses=[200]):
        model = sell(f"replay:{case.id}", "embedding", at=case.provider, input=USD)
        recorded = json.loads(case.response_bytes)
        encoded = isinstance(recorded["data"][0]["embedding"], str)
        answer = client.embeddings.with_raw_response.create(model=model, input="x", encoding_format="base64" if encoded else "float")
        shown = json.loads(answer.content)
        assert {**shown, "usage": None} == {**recorded, "usage": None}, case.id
        assert usage_of(answer.headers["x-request-id"]).input_tokens == recorded["usage"]["prompt_tokens"], case.id


# Images


@pytest.mark.parametrize("count", [1, 3])
def test_pictures_are_billed_one_by_one(
    count: int, client: openai.OpenAI, customer: Customer, image: str, usage_of: Callable[..., Any]
) -> None:
    answer = client.images.with_raw_response.generate(model=image, prompt="a cat", n=count, size="64x64")
    parsed: Any = answer.parse()
    assert [base64.b64decode(item.b64_json)[:4] for item in parsed.data] == [b"\x89PNG"] * count
    record = usage_of(answer.headers["x-request-id"])
    assert (record.endpoint, record.images, record.cost, record.rule) == ("images", count, count * PICTURE, "metered")
    assert parsed.usage.cost == float(answer.headers["x-gateway-cost-usd"]) == pytest.approx(0.01 * count)
    wallet = customer.fresh_wallet()
    assert (wallet.balance, wallet.held) == (5 * USD - count * PICTURE, 0)


def test_a_picture_may_come_as_an_address(client: openai.OpenAI, image: str) -> None:
    answer: Any = client.images.generate(model=image, prompt="a cat", response_format="url", size="64x64")
    assert answer.data[0].url.startswith("data:image/png;base64,")
    assert answer.data[0].b64_json is None


def test_tokens_of_a_picture_are_billed_at_their_own_prices(client: openai.OpenAI, sell: Sell, usage_of: Callable[..., Any]) -> None:
    model = sell("image", "image", input=5 * USD, output=40 * USD)
    answer = client.images.with_raw_response.generate(model=model, prompt="a cat", size="64x64", n=2)
    record = usage_of(answer.headers["x-request-id"])
    assert (record.images, record.input_tokens, record.output_tokens) == (2, 2, 512)
    assert record.cost == 2 * 5_000 + 512 * 40_000


def test_an_answer_without_usage_keeps_its_bytes_and_is_billed(client: openai.OpenAI, sell: Sell, usage_of: Callable[..., Any]) -> None:
    model = sell("hello", "image", at="custom", image=PICTURE * 1_000_000)
    answer = client.images.with_raw_response.generate(model=model, prompt="a cat", n=2)
    assert "usage" not in json.loads(answer.content)
    assert float(answer.headers["x-gateway-cost-usd"]) == pytest.approx(0.02)
    assert usage_of(answer.headers["x-request-id"]).images == 2


def test_all_the_pictures_that_may_come_are_held_for_beforehand(
    gateway: Gateway, image: str, new_customer: Callable[..., Customer], usage_of: Callable[..., Any]
) -> None:
    poor = new_customer(usd="0.025")
    with openai.OpenAI(base_url=gateway.base_url, api_key=poor.secret, max_retries=0) as sdk:
        with pytest.raises(openai.APIStatusError) as caught:
            sdk.images.generate(model=image, prompt="a cat", n=3, size="64x64")
        assert (caught.value.status_code, caught.value.code) == (402, "insufficient_quota")
        with pytest.raises(openai.BadRequestError) as dear:
            sdk.images.generate(model=image, prompt="a cat", size="64x64", extra_headers={"x-max-cost": "0.009"})
        assert dear.value.code == "cost_above_maximum"
        answer = sdk.images.with_raw_response.generate(model=image, prompt="a cat", n=2, size="64x64")
    assert usage_of(answer.headers["x-request-id"]).images == 2
    assert poor.fresh_wallet().balance == USD // 200


def test_a_picture_by_tokens_is_held_for_whole_or_not_made(gateway: Gateway, sell: Sell, new_customer: Callable[..., Customer]) -> None:
    """No provider can be told to draw a shorter picture, so a part of the worst case is not enough."""
    model = sell("image", "image", output=40 * USD)  # the worst is the model's 4,096 tokens: 16.4 cents
    with (
        openai.OpenAI(base_url=gateway.base_url, api_key=new_customer(usd="0.1").secret, max_retries=0) as sdk,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        sdk.images.generate(model=model, prompt="a cat", size="64x64")
    assert caught.value.status_code == 402


@pytest.mark.parametrize("fault", ["fault:status-500", "fault:status-400"])
def test_a_failed_picture_is_free(fault: str, client: openai.OpenAI, customer: Customer, sell: Sell, usage_of: Callable[..., Any]) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.images.generate(model=sell(fault, "image", at="custom", image=PICTURE * 1_000_000), prompt="a cat")
    record = usage_of(caught.value.request_id)
    assert (record.images, record.cost, record.rule, record.status) == (0, 0, "no_output", "error")
    wallet = customer.fresh_wallet()
    assert (wallet.balance, wallet.held) == (5 * USD, 0)


def test_pictures_are_not_streamed_and_not_more_than_ten(client: openai.OpenAI, image: str) -> None:
    for fields, param in (({"stream": True}, "stream"), ({"n": 11}, "n")):
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.generate(model=image, prompt="a cat", extra_body=fields)
        assert caught.value.param == param


@pytest.mark.skipif(recordings.folder() is None, reason=recordings.SKIP_REASON)
def test_recorded_pictures_come_through(client: openai.OpenAI, sell: Sell, usage_of: Callable[..., Any]) -> None:
    for case in recordings.cases(shape="images", statuses=[200]):
        model = sell(f"replay:{case.id}", "image", at=case.provider, image=PICTURE * 1_000_000)
        recorded = json.loads(case.response_bytes)
        answer = client.images.with_raw_response.generate(model=model, prompt="a cat", n=len(recorded["data"]))
        shown = json.loads(answer.content)
        assert shown["data"] == recorded["data"], case.id
        record = usage_of(answer.headers["x-request-id"])
        assert (record.images, record.cost) == (len(recorded["data"]), len(recorded["data"]) * PICTURE), case.id
        if case.provider == "xai":
            assert record.reported_cost == 20_000_000


# Legacy completions


def test_a_completion_of_a_prompt_is_answered_and_charged(client: openai.OpenAI, echo: str, usage_of: Callable[..., Any]) -> None:
    answer = client.completions.with_raw_response.create(model=echo, prompt="say this again", max_tokens=50)
    parsed: Any = answer.parse()
    assert (parsed.choices[0].text, parsed.choices[0].finish_reason) == ("say this again", "stop")
    assert (parsed.usage.prompt_tokens, parsed.usage.completion_tokens) == (4, 4)
    assert parsed.usage.cost == float(answer.headers["x-gateway-cost-usd"]) == pytest.approx(12e-6)
    record = usage_of(answer.headers["x-request-id"])
    assert (record.endpoint, record.rule, record.cost, record.input_tokens, record.output_tokens) == (
        "completions",
        "metered",
        12_000,
        4,
        4,
    )


def test_a_streamed_completion_says_the_same(client: openai.OpenAI, customer: Customer, echo: str) -> None:
    hidden = list(client.completions.create(model=echo, prompt="say this again", stream=True))
    assert "".join(chunk.choices[0].text for chunk in hidden) == "say this again"
    assert hidden[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in hidden)
    shown: list[Any] = list(
        client.completions.create(model=echo, prompt="say this again", stream=True, stream_options={"include_usage": True})
    )
    assert (shown[-1].choices, shown[-1].object) == ([], "text_completion")
    assert (shown[-1].usage.prompt_tokens, shown[-1].usage.completion_tokens) == (4, 4)
    assert shown[-1].usage.cost == pytest.approx(12e-6)


def test_a_stream_is_charged_as_the_whole_answer_is(gateway: Gateway, customer: Customer, echo: str, usage_of: Callable[..., Any]) -> None:
    with httpx.stream(
        "POST",
        f"{gateway.base_url}/completions",
        json={"model": echo, "prompt": "say this again", "stream": True},
        headers=customer.headers,
    ) as answer:
        raw = answer.read()
    assert raw.endswith(b"data: [DONE]\n\n")
    record = usage_of(answer.headers["x-request-id"])
    assert (record.streamed, record.cost, record.rule) == (True, 12_000, "metered")
    assert customer.fresh_wallet().held == 0


def test_several_prompts_and_choices_are_answered_and_paid_for(client: openai.OpenAI, echo: str, usage_of: Callable[..., Any]) -> None:
    answer = client.completions.with_raw_response.create(model=echo, prompt=["one", "two"], n=2, max_tokens=9)
    assert [choice.text for choice in answer.parse().choices] == ["one", "one", "two", "two"]
    record = usage_of(answer.headers["x-request-id"])
    assert (record.input_tokens, record.output_tokens) == (2, 4)


def test_a_completion_reaches_the_provider_as_it_was_sent(client: openai.OpenAI, provider: FakeProvider, sell: Sell) -> None:
    upstream = f"chat:text=1;model={uuid.uuid4().hex}"
    model = sell(upstream, "text", at="custom", input=USD, output=USD)
    client.completions.create(model=model, prompt="hi", suffix="!", logit_bias={"50256": -100}, best_of=2, extra_body={"x": [1, None]})
    received = provider.wait_for(lambda request: request.model == upstream)
    assert received.path == "/v1/completions"
    assert received.json() == {
        "model": upstream, "prompt": "hi", "suffix": "!", "logit_bias": {"50256": -100}, "best_of": 2, "x": [1, None]
    }  # fmt: skip


def test_a_wallet_too_small_for_the_limit_shortens_the_answer(gateway: Gateway, sell: Sell, new_customer: Callable[..., Customer]) -> None:
    model = sell("lorem", "text", output=USD)
    with openai.OpenAI(base_url=gateway.base_url, api_key=new_customer(usd="0.00005").secret, max_retries=0) as sdk:
        answer = sdk.completions.create(model=model, prompt="x", max_tokens=4000)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 50


def test_a_completion_that_breaks_raises_behind_what_was_said(client: openai.OpenAI, customer: Customer, sell: Sell) -> None:
    model = sell("drop-midstream", "text", input=USD, output=USD)
    said = ""
    with pytest.raises(openai.APIError) as caught:
        for chunk in client.completions.create(model=model, prompt="hi", stream=True):
            said += chunk.choices[0].text
    assert said.startswith("This answer")
    assert caught.value.code == "provider_error"


# Kinds, scopes and addresses


def test_each_endpoint_takes_its_own_kind_of_model(client: openai.OpenAI, embedding: str, image: str, echo: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: client.embeddings.create(model=echo, input="x"),
        lambda: client.images.generate(model=embedding, prompt="x"),
        lambda: client.completions.create(model=image, prompt="x"),
        lambda: client.chat.completions.create(model=embedding, messages=[{"role": "user", "content": "x"}]),
    ]
    for call in calls:
        with pytest.raises(openai.BadRequestError) as caught:
            call()
        assert (caught.value.code, caught.value.param) == ("wrong_endpoint", "model")


@pytest.mark.parametrize("at", ["anthropic", "deepseek", "groq", "mistral"])
def test_a_provider_without_the_endpoint_is_not_asked(at: str, client: openai.OpenAI, sell: Sell) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=sell("hello", "text", at=at, output=USD), prompt="x")
    assert caught.value.code == "wrong_endpoint"


def test_a_chat_model_asked_for_a_completion_does_not_spoil_its_route(client: openai.OpenAI, sell: Sell) -> None:
    """OpenAI answers 404 then; were that the route's fault, one client could shut a model for all."""
    model = sell("image", "text", output=USD)  # the demo provider refuses in the same words
    for _ in range(8):
        with pytest.raises(openai.APIStatusError) as caught:
            client.completions.create(model=model, prompt="x")
        assert caught.value.status_code == 404


def test_the_scope_of_a_key_names_the_endpoints(
    gateway: Gateway, embedding: str, image: str, echo: str, new_customer: Callable[..., Customer]
) -> None:
    def calls(sdk: openai.OpenAI) -> dict[str, Callable[[], Any]]:
        return {
            "chat": lambda: sdk.chat.completions.create(model=echo, messages=[{"role": "user", "content": "x"}]),
            "completions": lambda: sdk.completions.create(model=echo, prompt="x"),
            "embeddings": lambda: sdk.embeddings.create(model=embedding, input="x"),
            "images": lambda: sdk.images.generate(model=image, prompt="x", size="64x64"),
        }

    for allowed in ("chat", "completions", "embeddings", "images"):
        scoped = new_customer(allowed_endpoints=[allowed])
        with openai.OpenAI(base_url=gateway.base_url, api_key=scoped.secret, max_retries=0) as sdk:
            for name, call in calls(sdk).items():
                if name == allowed:
                    assert call()
                    continue
                with pytest.raises(openai.PermissionDeniedError) as caught:
                    call()
                assert caught.value.code == "endpoint_not_allowed"


def test_a_test_key_draws_and_embeds_for_nothing(
    gateway: Gateway, embedding: str, image: str, new_customer: Callable[..., Customer], usage_of: Callable[..., Any]
) -> None:
    tester = new_customer(kind="test", usd="0")
    with openai.OpenAI(base_url=gateway.base_url, api_key=tester.secret, max_retries=0) as sdk:
        assert sdk.embeddings.create(model=embedding, input="x").data
        answer = sdk.images.with_raw_response.generate(model=image, prompt="a cat", size="64x64")
    record = usage_of(answer.headers["x-request-id"])
    assert (record.images, record.cost, record.list_cost, record.rule) == (1, 0, PICTURE, "test_key")


def test_the_addresses_under_api_v1_answer_alike(gateway: Gateway, customer: Customer, embedding: str, image: str, echo: str) -> None:
    with openai.OpenAI(base_url=f"{gateway.origin}/api/v1", api_key=customer.secret, max_retries=0) as sdk:
        assert sdk.embeddings.create(model=embedding, input="x").data
        assert sdk.images.generate(model=image, prompt="a cat", size="64x64").data
        assert sdk.completions.create(model=echo, prompt="hello").choices[0].text == "hello"
        assert (
            sdk.chat.completions.create(model=echo, messages=[{"role": "user", "content": "hello"}]).choices[0].message.content == "hello"
        )


def test_a_chat_without_a_model_is_for_the_default_one(
    gateway: Gateway, customer: Customer, provider: FakeProvider, usage_of: Callable[..., Any]
) -> None:
    upstream = f"chat:say=by default;model={uuid.uuid4().hex}"
    chosen = make_model(provider.base_url, upstream)
    head = CatalogVersion.objects.get(pk=1)
    before = head.default_model
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
    try:
        CatalogVersion.objects.filter(pk=1).update(default_model=Model.objects.get(slug=chosen))
        gateway.sees_catalog()
        for path in ("/api/v1/chat", "/api/v1/chat/completions"):
            for said in ({}, {"model": None}, {"model": ""}):
                answer = httpx.post(f"{gateway.origin}{path}", json={**body, **said}, headers=customer.headers)
                assert answer.json()["choices"][0]["message"]["content"] == "by default"
                assert usage_of(answer.headers["x-request-id"]).model == chosen
        streamed = httpx.post(f"{gateway.origin}/api/v1/chat", json={**body, "stream": True}, headers=customer.headers)
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert (
            httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers=customer.headers).json()["error"]["code"]
            == "missing_model"
        )
        received = provider.wait_for(lambda request: request.model == upstream)
        assert received.json() == {**body, "model": upstream}  # temperature and limits are the provider's own defaults
    finally:
        CatalogVersion.objects.filter(pk=1).update(default_model=before)
        gateway.sees_catalog()


def test_without_a_default_a_chat_must_name_its_model(gateway: Gateway, customer: Customer) -> None:
    before = CatalogVersion.objects.get(pk=1).default_model
    body = {"messages": [{"role": "user", "content": "hi"}]}
    try:
        CatalogVersion.objects.filter(pk=1).update(default_model=None)
        gateway.sees_catalog()
        answer = httpx.post(f"{gateway.origin}/api/v1/chat", json=body, headers=customer.headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "missing_model")
    finally:
        CatalogVersion.objects.filter(pk=1).update(default_model=before)
        gateway.sees_catalog()
