"""Facts about the routing that a client may ask for (`models`, `provider`), on the live gateway with real providers that fail."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from catalog.models import Provider, Route
from tests.conftest import USD, Customer, Gateway
from tests.fakes.provider import FakeProvider

HELLO = [{"role": "user", "content": "Hello!"}]


def call(gateway: Gateway, customer: Customer, **body: Any) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}/chat/completions", json={"messages": HELLO, **body}, headers=customer.headers, timeout=30)


def provider_of(model: str) -> str:
    return Provider.objects.get(routes__model__slug=model).slug


@pytest.mark.parametrize("stream", [False, True])
def test_the_next_model_answers_when_no_provider_of_the_first_does(
    gateway: Gateway, customer: Customer, new_models: Callable[..., list[str]], usage_of: Callable[..., Any], stream: bool
) -> None:
    broken, good = new_models(["fault:status-500", "hello"])
    answered = call(gateway, customer, models=["no/such", broken, good], stream=stream)
    assert answered.status_code == 200, answered.text
    assert answered.headers["x-gateway-attempts"] == "2"
    record = usage_of(answered.headers["x-request-id"])
    assert (record.model, record.status, [attempt["result"] for attempt in record.attempts]) == (good, "ok", ["status_500", "ok"])
    wallet = customer.fresh_wallet()
    assert wallet.held == 0
    assert int(wallet.credits) - int(wallet.balance) == record.cost > 0


def test_the_last_failure_is_told_when_no_model_answers(
    gateway: Gateway, customer: Customer, new_models: Callable[..., list[str]], usage_of: Callable[..., Any]
) -> None:
    broken, broken_too = new_models(["fault:status-500", "fault:status-503"])
    answered = call(gateway, customer, model=broken, models=[broken_too])
    assert answered.status_code == 502
    record = usage_of(answered.headers["x-request-id"])
    assert (record.cost, record.status, len(record.attempts)) == (0, "error", 2)
    assert customer.fresh_wallet().balance == 5 * USD


def test_a_dearer_second_model_holds_more_or_is_left_out(
    gateway: Gateway, new_customer: Callable[..., Customer], new_models: Callable[..., list[str]], usage_of: Callable[..., Any]
) -> None:
    poor = new_customer(usd="0.01")
    (broken,) = new_models(["fault:status-500"])
    (dear,) = new_models(["hello"], output_usd="100000")
    (good,) = new_models(["hello"])
    answered = call(gateway, poor, models=[broken, dear, good], max_tokens=100)
    assert (answered.status_code, answered.headers["x-gateway-attempts"]) == (200, "2")
    assert usage_of(answered.headers["x-request-id"]).model == good
    assert poor.fresh_wallet().held == 0


def test_the_fields_do_not_reach_the_provider(
    gateway: Gateway, customer: Customer, provider: FakeProvider, new_model: Callable[..., str]
) -> None:
    good = new_model("hello")
    assert call(gateway, customer, models=[good], provider={"allow_fallbacks": True}, x_unknown=1).status_code == 200
    sent = provider.requests[-1].json()
    assert sent["x_unknown"] == 1
    assert "models" not in sent
    assert "provider" not in sent


def test_the_client_chooses_among_the_providers_of_a_model(
    gateway: Gateway, customer: Customer, provider: FakeProvider, new_model: Callable[..., str]
) -> None:
    model = new_model("hello")
    first = provider_of(model)
    second = Provider.objects.create(slug=f"{first}-b", kind="custom", base_url=provider.base_url, allow_private=True)
    key = second.keys.model(provider=second)
    key.set_secret("sk-other")
    key.save()
    Route.objects.create(
        model=second and Route.objects.get(provider__slug=first).model, provider=second, upstream_model="hello", priority=9
    )
    gateway.sees_catalog()
    assert call(gateway, customer, model=model).headers["x-gateway-provider"] == first
    for wish in ({"order": [second.slug]}, {"only": [second.slug]}, {"ignore": [first]}):
        assert call(gateway, customer, model=model, provider=wish).headers["x-gateway-provider"] == second.slug
    nobody = call(gateway, customer, model=model, provider={"only": ["nobody"]})
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (503, "no_available_provider")


def test_a_price_above_the_clients_maximum_is_refused_and_the_next_model_taken(
    gateway: Gateway, customer: Customer, new_models: Callable[..., list[str]], usage_of: Callable[..., Any]
) -> None:
    (dear,) = new_models(["hello"], input_usd="50")
    (cheap,) = new_models(["hello"])
    refused = call(gateway, customer, model=dear, provider={"max_price": {"prompt": 2}})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "price_above_maximum")
    taken = call(gateway, customer, model=dear, models=[cheap], provider={"max_price": {"prompt": 2}})
    assert usage_of(taken.headers["x-request-id"]).model == cheap
