"""The official OpenAI SDK, as it comes, against the live gateway: answers, streams, tools, errors and their retries, prices, names."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import Customer, Gateway, make_customer, make_model
from tests.fakes.provider import FakeProvider

HELLO: list[Any] = [{"role": "user", "content": "hi there"}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string"}},
                "required": ["query"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("search", "fetch")
]


@pytest.fixture
def client(gateway: Gateway, customer: Customer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base_url, api_key=customer.secret, max_retries=0) as sdk:
        yield sdk


@pytest.fixture
async def async_client(gateway: Gateway, customer: Customer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=customer.secret, max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def echo(new_model: Callable[..., str]) -> str:
    """A model that repeats what it is told; a fixture, for an async test must not touch the database."""
    return new_model("echo")


@pytest.fixture
def token() -> str:
    """A word that no other test uses."""
    return uuid.uuid4().hex


# Answers


def test_a_completion_is_answered_and_charged(
    client: openai.OpenAI, customer: Customer, new_model: Callable[..., str], usage_of: Callable[..., Any]
) -> None:
    model = new_model("hello")
    answer = client.chat.completions.with_raw_response.create(model=model, messages=HELLO)
    record = usage_of(answer.headers["x-request-id"])
    assert answer.parse().choices[0].message.content == "You said: hi there"
    assert record.cost > 0
    assert customer.fresh_wallet().balance == 5_000_000_000 - record.cost
    assert customer.wallet.held == 0


def test_the_usage_shows_what_was_charged(client: openai.OpenAI, new_model: Callable[..., str], usage_of: Callable[..., Any]) -> None:
    model = new_model("chat:text=20;prompt_tokens=1000;completion_tokens=300;cached=200;reasoning=100")
    answer = client.chat.completions.with_raw_response.create(model=model, messages=HELLO)
    usage: Any = answer.parse().usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (1000, 300, 1300)
    assert usage.prompt_tokens_details.cached_tokens == 200
    assert usage.completion_tokens_details.reasoning_tokens == 100
    assert usage.cost == float(answer.headers["x-gateway-cost-usd"]) == pytest.approx(0.0016)
    assert usage.cost_details["upstream_inference_cost"] == pytest.approx(0.0016)
    record = usage_of(answer.headers["x-request-id"])
    assert record.cost == 1_600_000
    assert (record.input_tokens, record.cached_input_tokens, record.output_tokens, record.reasoning_tokens) == (800, 200, 200, 100)


def test_a_stream_says_the_same_as_a_whole_answer(client: openai.OpenAI, new_model: Callable[..., str]) -> None:
    model = new_model("chat:text=40")
    whole = client.chat.completions.create(model=model, messages=HELLO)
    streamed = "".join(
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(model=model, messages=HELLO, stream=True)
        if chunk.choices
    )
    assert streamed == whole.choices[0].message.content


async def test_the_async_client_is_answered_alike(async_client: openai.AsyncOpenAI, echo: str) -> None:
    whole = await async_client.chat.completions.create(model=echo, messages=HELLO)
    streamed = [chunk async for chunk in await async_client.chat.completions.create(model=echo, messages=HELLO, stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices) == whole.choices[0].message.content
    assert streamed[-1].choices[0].finish_reason == "stop"


async def test_many_async_streams_at_once_keep_apart(async_client: openai.AsyncOpenAI, echo: str) -> None:
    async def ask(number: int) -> str:
        stream = await async_client.chat.completions.create(
            model=echo, messages=[{"role": "user", "content": f"number {number}"}], stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    assert await asyncio.gather(*map(ask, range(30))) == [f"You said: number {number}" for number in range(30)]


def test_the_stream_helper_accepts_every_event(client: openai.OpenAI, new_model: Callable[..., str]) -> None:
    with client.chat.completions.stream(
        model=new_model("chat:text=12;think=3"), messages=HELLO, stream_options={"include_usage": True}
    ) as stream:
        kinds = {event.type for event in stream}
        final: Any = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == " ".join(f"word{number}" for number in range(1, 13))
    assert final.choices[0].finish_reason == "stop"
    assert final.usage.cost > 0


def test_include_usage_decides_whether_a_stream_shows_its_usage(
    client: openai.OpenAI, provider: FakeProvider, new_model: Callable[..., str], usage_of: Callable[..., Any], token: str
) -> None:
    upstream = f"chat:text=9;model={token}"
    model = new_model(upstream)
    hidden = list(client.chat.completions.create(model=model, messages=HELLO, stream=True))
    off = list(client.chat.completions.create(model=model, messages=HELLO, stream=True, stream_options={"include_usage": False}))
    shown: list[Any] = list(
        client.chat.completions.create(model=model, messages=HELLO, stream=True, stream_options={"include_usage": True})
    )
    for chunks in (hidden, off):
        assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert not shown[-1].choices
    assert (shown[-1].usage.completion_tokens, shown[-1].usage.cost) == (9, pytest.approx((2 * 1 + 9 * 2) / 1e6))
    assert len(shown) == len(hidden) + 1
    asked = [request.json()["stream_options"] for request in provider.requests if request.model == upstream]
    assert asked == [{"include_usage": True}] * 3  # the gateway needs it whatever the client shows


def test_tools_are_called_and_answered(client: openai.OpenAI, provider: FakeProvider, new_model: Callable[..., str], token: str) -> None:
    upstream = f"chat:tools=2;model={token}"
    model = new_model(upstream)
    answer = client.chat.completions.create(model=model, messages=HELLO, tools=TOOLS, tool_choice="auto", parallel_tool_calls=True)
    calls: Any = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("search", {"query": "item 0"}),
        ("fetch", {"query": "item 1"}),
    ]
    results = [{"role": "tool", "tool_call_id": call.id, "content": f"result of {call.id}"} for call in calls]
    follow: list[Any] = [*HELLO, answer.choices[0].message.model_dump(exclude_none=True), *results]
    client.chat.completions.create(model=model, messages=follow, tools=TOOLS)
    first, second = [request.json() for request in provider.requests if request.model == upstream]
    assert first["tools"] == second["tools"] == TOOLS
    assert second["messages"] == follow
    with client.chat.completions.stream(model=model, messages=HELLO, tools=TOOLS) as stream:
        for _ in stream:
            pass
        streamed: Any = stream.get_final_completion().choices[0].message.tool_calls
    assert [(call.function.name, call.function.arguments) for call in streamed] == [
        (call.function.name, call.function.arguments) for call in calls
    ]


def test_every_choice_of_n_arrives(client: openai.OpenAI, new_model: Callable[..., str], usage_of: Callable[..., Any]) -> None:
    model = new_model("chat:text=4")
    answer = client.chat.completions.with_raw_response.create(model=model, messages=HELLO, n=3)
    assert [choice.message.content for choice in answer.parse().choices] == ["word1 word2 word3 word4"] * 3
    assert usage_of(answer.headers["x-request-id"]).output_tokens == 12
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(model=model, messages=HELLO, n=3, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["word1 word2 word3 word4"] * 3


def test_fields_nobody_knows_reach_the_provider_and_the_clients_headers_do_not(
    client: openai.OpenAI, customer: Customer, provider: FakeProvider, new_model: Callable[..., str], token: str
) -> None:
    upstream = f"chat:text=1;model={token}"
    more = {"x_vendor": {"a": [1, 2.50, None]}, "reasoning": {"effort": "high"}, "logit_bias": {"50256": -100}}
    client.chat.completions.create(
        model=new_model(upstream),
        messages=HELLO,
        temperature=0.3,
        user="alice",
        extra_body=more,
        extra_headers={"x-private": "mine", "cookie": "session=1"},
    )
    received = provider.wait_for(lambda request: request.model == upstream)
    body = received.json()
    assert {name: body[name] for name in more} == more
    assert (body["temperature"], body["user"]) == (0.3, "alice")
    assert received.header("x-private") is None
    assert received.header("cookie") is None
    assert customer.secret not in repr(received.headers)
    assert (received.header("authorization") or "").startswith("Bearer sk-fake-")


# Errors, and what the SDK makes of them


def test_a_request_without_a_model_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="", messages=HELLO)
    assert (caught.value.code, caught.value.param, caught.value.type) == ("missing_model", "model", "invalid_request_error")
    assert caught.value.request_id


def test_an_unknown_key_is_an_authentication_error(gateway: Gateway) -> None:
    with (
        openai.OpenAI(base_url=gateway.base_url, api_key="sk-gw-wrong", max_retries=2) as sdk,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        sdk.chat.completions.create(model="any", messages=HELLO)
    assert caught.value.code == "invalid_api_key"


def test_no_money_is_a_402_that_is_not_retried(
    gateway: Gateway, new_model: Callable[..., str], new_customer: Callable[..., Customer]
) -> None:
    model = new_model("hello")
    with openai.OpenAI(base_url=gateway.base_url, api_key=new_customer(usd="0").secret, max_retries=2) as sdk:
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError) as caught:
                sdk.chat.completions.create(model=model, messages=HELLO, stream=stream)
            assert (caught.value.status_code, caught.value.code) == (402, "insufficient_quota")
            assert caught.value.response.headers["x-should-retry"] == "false"


def test_a_model_outside_the_keys_scope_is_a_permission_error(
    gateway: Gateway, new_model: Callable[..., str], new_customer: Callable[..., Customer]
) -> None:
    scoped = new_customer(allowed_models=["other/*"])
    with (
        openai.OpenAI(base_url=gateway.base_url, api_key=scoped.secret, max_retries=2) as sdk,
        pytest.raises(openai.PermissionDeniedError) as caught,
    ):
        sdk.chat.completions.create(model=new_model("hello"), messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_allowed", "model")


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody/nothing", messages=HELLO)
    assert caught.value.code == "model_not_found"


def test_too_large_a_body_is_a_413(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="any", messages=[{"role": "user", "content": "x" * 2_100_000}])
    assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")


def test_too_many_requests_are_a_rate_limit_error_with_the_wait(
    gateway: Gateway, new_model: Callable[..., str], new_customer: Callable[..., Customer]
) -> None:
    model = new_model("hello")
    with openai.OpenAI(base_url=gateway.base_url, api_key=new_customer(rpm=2).secret, max_retries=0) as sdk:
        first = sdk.chat.completions.with_raw_response.create(model=model, messages=HELLO)
        assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
        sdk.chat.completions.create(model=model, messages=HELLO)
        with pytest.raises(openai.RateLimitError) as caught:
            sdk.chat.completions.create(model=model, messages=HELLO)
    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


def test_a_busy_provider_is_retried_by_the_sdk_after_the_wait_it_asked_for(
    gateway: Gateway, customer: Customer, provider: FakeProvider, new_model: Callable[..., str], token: str
) -> None:
    upstream = f"flaky:{token};fail=2;status=429;retry_ms=100"
    with openai.OpenAI(base_url=gateway.base_url, api_key=customer.secret, max_retries=2) as sdk:
        assert sdk.chat.completions.create(model=new_model(upstream), messages=HELLO).choices[0].message.content == "You said: hi there"
    first, second, third = [request.arrived_at for request in provider.requests if request.model == upstream]
    assert second - first >= 0.1
    assert third - second >= 0.1


@pytest.mark.parametrize(
    ("upstream", "status", "code"),
    [
        ("fault:status-500", 502, "provider_error"),
        ("fault:connect-close", 502, "provider_error"),
        ("fault:status-401", 503, "no_available_provider"),
        ("fault:insufficient-quota-429", 503, "no_available_provider"),
        ("fault:silence", 504, "upstream_timeout"),
    ],
)
def test_a_failing_provider_is_an_internal_server_error_of_ours(
    upstream: str, status: int, code: str, client: openai.OpenAI, new_model: Callable[..., str]
) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=new_model(upstream), messages=HELLO)
    assert (caught.value.status_code, caught.value.code, caught.value.type) == (status, code, "server_error")


def test_a_model_with_nobody_to_serve_it_is_unavailable(gateway: Gateway, client: openai.OpenAI) -> None:
    from catalog.models import ProviderKey

    orphan = make_model("http://127.0.0.1:9", "hello")
    ProviderKey.objects.filter(provider__routes__model__slug=orphan).update(is_enabled=False)
    gateway.sees_catalog()
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=orphan, messages=HELLO)
    assert (caught.value.status_code, caught.value.code) == (503, "no_available_provider")
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_a_provider_that_refuses_the_operators_key_is_not_asked_again(
    gateway: Gateway, customer: Customer, provider: FakeProvider, new_model: Callable[..., str]
) -> None:
    upstream = f"fault:status-401;message={uuid.uuid4().hex}"
    with openai.OpenAI(base_url=gateway.base_url, api_key=customer.secret, max_retries=2) as sdk, pytest.raises(openai.InternalServerError):
        sdk.chat.completions.create(model=new_model(upstream), messages=HELLO)
    assert len([request for request in provider.requests if request.model == upstream]) == 1


@pytest.mark.parametrize("upstream", ["fault:error-event-midstream", "fault:drop-midstream", "fault:no-done"])
def test_a_stream_that_breaks_raises_behind_what_was_said(upstream: str, client: openai.OpenAI, new_model: Callable[..., str]) -> None:
    said = ""
    with pytest.raises(openai.APIError) as caught:
        for chunk in client.chat.completions.create(model=new_model(upstream), messages=HELLO, stream=True):
            said += chunk.choices[0].delta.content or ""
    assert said.startswith("You said: ")
    assert caught.value.code == "provider_error"


def test_a_wallet_that_runs_dry_raises_behind_a_finish_reason(
    gateway: Gateway, new_model: Callable[..., str], new_customer: Callable[..., Customer]
) -> None:
    reasons = []
    with openai.OpenAI(base_url=gateway.base_url, api_key=new_customer(usd="0.001").secret, max_retries=0) as sdk:
        stream = sdk.chat.completions.create(model=new_model("chat:text=5000", usual_output=64), messages=HELLO, stream=True)
        with pytest.raises(openai.APIError) as caught:
            reasons += [chunk.choices[0].finish_reason for chunk in stream]
            pytest.fail("the stream ended as if all were well")
    assert caught.value.code == "insufficient_quota"


# Keys


def test_a_test_key_reaches_the_demo_provider_and_is_never_billed(
    gateway: Gateway, new_model: Callable[..., str], new_customer: Callable[..., Customer], usage_of: Callable[..., Any]
) -> None:
    tester = new_customer(kind="test")
    real = new_model("hello")
    demo = make_model("", "echo", kind="demo")
    gateway.sees_catalog()
    assert tester.secret.startswith("sk-gw-test-")
    with openai.OpenAI(base_url=gateway.base_url, api_key=tester.secret, max_retries=0) as sdk:
        answer = sdk.chat.completions.with_raw_response.create(model=demo, messages=HELLO)
        assert "hi there" in (answer.parse().choices[0].message.content or "")
        streamed = list(sdk.chat.completions.create(model=demo, messages=HELLO, stream=True))
        assert "hi there" in "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
        with pytest.raises(openai.PermissionDeniedError) as caught:
            sdk.chat.completions.create(model=real, messages=HELLO)
    assert caught.value.code == "model_not_allowed"
    record = usage_of(answer.headers["x-request-id"])
    assert (record.cost, record.rule) == (0, "test_key")
    assert record.list_cost > 0
    assert float(answer.headers["x-gateway-cost-usd"]) == 0
    wallet = tester.fresh_wallet()
    assert (wallet.balance, wallet.held) == (5 * 10**9, 0)


def test_a_test_key_works_without_money(gateway: Gateway, new_customer: Callable[..., Customer]) -> None:
    demo = make_model("", "lorem", kind="demo")
    gateway.sees_catalog()
    with openai.OpenAI(base_url=gateway.base_url, api_key=new_customer(usd="0", kind="test").secret, max_retries=0) as sdk:
        assert sdk.chat.completions.create(model=demo, messages=HELLO).choices[0].message.content
        assert list(sdk.chat.completions.create(model=demo, messages=HELLO, stream=True))


def test_the_demo_provider_is_billed_for_a_live_key(
    gateway: Gateway, client: openai.OpenAI, customer: Customer, usage_of: Callable[..., Any]
) -> None:
    demo = make_model("", "echo", kind="demo")
    gateway.sees_catalog()
    answer = client.chat.completions.with_raw_response.create(model=demo, messages=HELLO)
    record = usage_of(answer.headers["x-request-id"])
    assert record.rule == "metered"
    assert customer.fresh_wallet().balance == 5 * 10**9 - record.cost < 5 * 10**9


def test_a_management_key_cannot_infer(gateway: Gateway, new_model: Callable[..., str], new_customer: Callable[..., Customer]) -> None:
    with (
        openai.OpenAI(base_url=gateway.base_url, api_key=new_customer(kind="management").secret, max_retries=0) as sdk,
        pytest.raises(openai.PermissionDeniedError) as caught,
    ):
        sdk.chat.completions.create(model=new_model("hello"), messages=HELLO)
    assert caught.value.code == "wrong_key_kind"


@pytest.mark.parametrize("header", ["X-API-Key", "x-goog-api-key", "Authorization"])
def test_the_key_is_taken_from_each_header_it_may_come_in(
    header: str, gateway: Gateway, customer: Customer, new_model: Callable[..., str]
) -> None:
    value = f"bearer {customer.secret}" if header == "Authorization" else customer.secret
    answer = httpx.post(
        f"{gateway.base_url}/chat/completions", json={"model": new_model("hello"), "messages": HELLO}, headers={header: value}
    )
    assert answer.status_code == 200


def test_two_different_keys_are_refused_and_the_same_twice_is_not(
    gateway: Gateway, customer: Customer, stranger: Customer, new_model: Callable[..., str]
) -> None:
    model = new_model("hello")
    with openai.OpenAI(
        base_url=gateway.base_url, api_key=customer.secret, max_retries=0, default_headers={"X-API-Key": stranger.secret}
    ) as sdk:
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.chat.completions.create(model=model, messages=HELLO)
        assert caught.value.code == "two_keys"
    with openai.OpenAI(
        base_url=gateway.base_url, api_key=customer.secret, max_retries=0, default_headers={"X-API-Key": customer.secret}
    ) as sdk:
        assert sdk.chat.completions.create(model=model, messages=HELLO).choices


# What a request may cost


def test_x_max_cost_refuses_what_might_cost_more(
    client: openai.OpenAI, provider: FakeProvider, new_model: Callable[..., str], token: str
) -> None:
    upstream = f"chat:text=3;model={token}"
    model = new_model(upstream)
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model=model, messages=HELLO, stream=stream, max_tokens=1000, extra_headers={"x-max-cost": "0.001"}
            )
        assert caught.value.code == "cost_above_maximum"
    for nonsense in ("abc", "-1", "0", "NaN", "1e99", ""):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=model, messages=HELLO, extra_headers={"x-max-cost": nonsense})
        assert caught.value.param == "x-max-cost"
    assert not [request for request in provider.requests if request.model == upstream]
    assert client.chat.completions.create(model=model, messages=HELLO, max_tokens=1000, extra_headers={"x-max-cost": "0.01"}).choices


# Names


def test_a_model_answers_to_its_alias_and_to_its_bare_name(
    gateway: Gateway, client: openai.OpenAI, provider: FakeProvider, token: str
) -> None:
    from catalog.models import Alias, Model

    for full, bare in ((f"openai/gpt-{token}", f"gpt-{token}"), (f"deepseek/deepseek-{token}", f"deepseek-{token}")):
        Model.objects.filter(slug=make_model(provider.base_url, f"chat:say={bare}")).update(slug=full)
        Alias.objects.create(name=f"my-{bare}", model=Model.objects.get(slug=full))
        gateway.sees_catalog()
        for name in (full, bare, f"my-{bare}"):
            assert client.chat.completions.create(model=name, messages=HELLO).choices[0].message.content == bare


def test_a_switched_off_or_unpriced_model_is_not_found(gateway: Gateway, client: openai.OpenAI, provider: FakeProvider) -> None:
    from catalog.models import Model

    off, unpriced = make_model(provider.base_url, "hello"), f"fake/{uuid.uuid4().hex}"
    Model.objects.filter(slug=off).update(is_enabled=False)
    Model.objects.create(slug=unpriced)
    gateway.sees_catalog()
    for name in (off, unpriced):
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model=name, messages=HELLO)


def test_an_embedding_model_says_that_this_is_the_wrong_endpoint(gateway: Gateway, client: openai.OpenAI, provider: FakeProvider) -> None:
    from catalog.models import Model

    model = make_model(provider.base_url, "hello")
    Model.objects.filter(slug=model).update(kind="embedding")
    gateway.sees_catalog()
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=HELLO)
    assert caught.value.code == "wrong_endpoint"


def test_a_strangers_money_is_never_touched(
    gateway: Gateway, customer: Customer, stranger: Customer, new_model: Callable[..., str]
) -> None:
    with openai.OpenAI(base_url=gateway.base_url, api_key=customer.secret) as sdk:
        sdk.chat.completions.create(model=new_model("hello"), messages=HELLO)
    assert stranger.fresh_wallet().balance == 5 * 10**9
    assert make_customer(usd="1").fresh_wallet().balance == 10**9
