"""Facts about `POST /v1/estimate` on the live gateway."""

import uuid
from datetime import timedelta
from decimal import Decimal

import httpx
import pytest
from django.utils import timezone

from billing.models import UsageRecord
from catalog.models import Model, Price, Provider, Route
from tests.conftest import USD, Customer, Gateway, make_model

MESSAGES = [{"role": "user", "content": "Hello there!"}]


@pytest.fixture(scope="module")
def echo(gateway: Gateway) -> str:
    model = make_model("", "echo", kind="demo")
    gateway.sees_catalog()
    return model


def ask(gateway: Gateway, customer: Customer, body: object, **query: str) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}/estimate", json=body, params=query, headers=customer.headers, timeout=30)


def test_an_estimate_bounds_what_the_request_then_costs_and_is_free(gateway: Gateway, customer: Customer, echo: str) -> None:
    body = {"model": echo, "messages": MESSAGES, "max_tokens": 50}
    said = ask(gateway, customer, body).json()
    assert said["object"] == "estimate"
    assert said["model"] == echo
    assert not UsageRecord.objects.filter(account=customer.account).exists()
    assert customer.fresh_wallet().held == 0
    answered = httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers=customer.headers, timeout=30)
    cost = Decimal(answered.headers["x-gateway-cost-usd"])
    assert 0 < cost <= Decimal(said["cost_usd"]["at_most"]) == Decimal(said["held_usd"])
    assert answered.json()["usage"]["prompt_tokens"] <= said["tokens"]["input_at_most"]
    assert said["tokens"]["output_at_most"] == 50


def test_a_stream_holds_less_at_first_than_it_may_cost(gateway: Gateway, customer: Customer, echo: str) -> None:
    said = ask(gateway, customer, {"model": echo, "messages": MESSAGES, "stream": True}).json()
    assert Decimal(said["held_usd"]) < Decimal(said["cost_usd"]["at_most"])


def test_other_endpoints_are_estimated_by_their_own_rules(gateway: Gateway, customer: Customer, echo: str) -> None:
    pictures = Model.objects.create(slug=f"fake/{uuid.uuid4().hex[:16]}", kind="image")
    four_cents = Price(model=pictures, input=USD, output=USD, image=40_000 * USD, effective_from=timezone.now() - timedelta(hours=1))
    four_cents.save()
    demo = Provider.objects.create(slug=f"p-{uuid.uuid4().hex[:16]}", kind="demo")
    Route.objects.create(model=pictures, provider=demo, upstream_model="image")
    gateway.sees_catalog()
    images = ask(gateway, customer, {"model": pictures.slug, "prompt": "a cat", "n": 3}, endpoint="images").json()
    assert images["endpoint"] == "images"
    assert images["tokens"]["output_at_most"] == 0
    assert Decimal("0.12") <= Decimal(images["cost_usd"]["at_most"]) < Decimal("0.13")
    without = ask(gateway, customer, {"model": echo, "messages": MESSAGES}, endpoint="messages")
    assert (without.status_code, without.json()["error"]["param"]) == (400, "max_tokens")


def test_an_unknown_endpoint_and_an_unknown_model_are_refused(gateway: Gateway, customer: Customer, echo: str) -> None:
    unknown = ask(gateway, customer, {"model": echo, "messages": MESSAGES}, endpoint="telepathy")
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "endpoint")
    assert ask(gateway, customer, {"model": "no/such", "messages": MESSAGES}).status_code == 404
