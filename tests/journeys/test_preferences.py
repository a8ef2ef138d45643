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
    assert (answered.status_code, answered.headers["x-should-retry"]) == (502, "false")  # several were tried: an SDK need not try again
    assert "x-should-retry" not in call(gateway, customer, model=broken).headers
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
    Route.objects.create(model=Route.objects.get(provider__slug=first).model, provider=second, upstream_model="hello", priority=9)
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


# -- Models with free requests -----------------------------------------------------------------------------------------------------------


FREE: dict[str, Any] = {"input_usd": "0", "output_usd": "0", "free_daily_requests": 1}  # one of each account, then it is used up


def test_the_next_model_answers_when_the_free_requests_of_the_first_are_used_up(
    gateway: Gateway, customer: Customer, new_models: Callable[..., list[str]], usage_of: Callable[..., Any]
) -> None:
    (free,) = new_models(["hello"], **FREE)
    (paid,) = new_models(["hello"])
    records = [usage_of(call(gateway, customer, models=[free, paid]).headers["x-request-id"]) for _ in range(2)]
    assert [(record.model, record.rule) for record in records] == [(free, "free"), (paid, "metered")]
    refused = call(gateway, customer, model=free)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "free_limit_reached")


def test_a_free_model_answers_whom_the_first_costs_too_much(
    gateway: Gateway, new_customer: Callable[..., Customer], new_models: Callable[..., list[str]], usage_of: Callable[..., Any]
) -> None:
    poor = new_customer(usd="0")
    (paid,) = new_models(["hello"])
    (free,) = new_models(["hello"], **FREE)
    record = usage_of(call(gateway, poor, models=[paid, free]).headers["x-request-id"])
    assert (record.model, record.rule, record.cost) == (free, "free", 0)


@pytest.mark.parametrize("stream", [False, True])
def test_turning_to_a_free_model_charges_nothing_and_gives_the_hold_back(
    gateway: Gateway, customer: Customer, new_models: Callable[..., list[str]], usage_of: Callable[..., Any], stream: bool
) -> None:
    (broken,) = new_models(["fault:status-500"])
    (free,) = new_models(["hello"], **FREE)
    answered = call(gateway, customer, models=[broken, free], stream=stream)
    assert (answered.status_code, answered.headers["x-gateway-attempts"]) == (200, "2")
    record = usage_of(answered.headers["x-request-id"])
    assert (record.model, record.rule, record.cost) == (free, "free", 0)
    wallet = customer.fresh_wallet()
    assert (wallet.held, wallet.balance) == (0, 5 * USD)


def test_a_used_up_free_model_is_passed_over_on_the_way_to_the_next(
    gateway: Gateway, customer: Customer, new_models: Callable[..., list[str]], usage_of: Callable[..., Any]
) -> None:
    broken, good = new_models(["fault:status-500", "hello"])
    (free,) = new_models(["hello"], **FREE)
    assert usage_of(call(gateway, customer, model=free).headers["x-request-id"]).rule == "free"
    record = usage_of(call(gateway, customer, models=[broken, free, good]).headers["x-request-id"])
    assert (record.model, record.rule) == (good, "metered")
    assert customer.fresh_wallet().held == 0
