"""Facts about free models: who may use them, how often, at what cost, over the gateway as real processes."""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from billing.models import UsageRecord
from catalog.models import Model, Provider, Route
from tests.conftest import Customer, Gateway, make_customer, make_model
from tests.fakes.provider import FakeProvider

FREE: dict[str, Any] = {"input_usd": "0", "output_usd": "0"}


@pytest.fixture(scope="module")
def twins(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    """Two web processes beside each other."""
    other = Gateway(tmp_path_factory.mktemp("twin") / "gateway.log").start()
    yield [gateway, other]
    other.stop()


def ask(gateway: Gateway, customer: Customer, model: str, **fields: Any) -> httpx.Response:
    headers = {**customer.headers, **fields.pop("headers", {})}
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50, **fields}
    return httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers=headers, timeout=20)


def code_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


def until_midnight() -> float:
    now = datetime.now(UTC)
    return (datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=1) - now).total_seconds()


@pytest.fixture(autouse=True)
def _not_over_midnight() -> None:
    """In the last half minute of a day, wait for the next one: these tests count what is used on one day."""
    while until_midnight() < 30:
        time.sleep(0.1)


def test_a_free_model_is_used_at_zero_balance_and_costs_nothing(
    gateway: Gateway, new_model: Callable[..., str], usage_of: Callable[..., Any]
) -> None:
    poor, model = make_customer(usd="0"), new_model("echo", free_daily_requests=50, **FREE)
    for stream in (False, True):
        answer = ask(gateway, poor, model, stream=stream)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-ratelimit-limit-requests"] == "5"  # a tenth of the model's
        assert answer.headers["x-ratelimit-remaining-requests"] == ("3" if stream else "4")
        assert float(answer.headers["x-ratelimit-reset-requests"].rstrip("s")) == pytest.approx(until_midnight(), abs=30)
        record = usage_of(answer.headers["x-request-id"])
        assert (record.rule, record.cost, record.hold_amount, record.status) == ("free", 0, 0, "ok")
        assert record.output_tokens > 0
    wallet = poor.fresh_wallet()
    assert (wallet.held, wallet.debits, wallet.version) == (0, 0, 0)


def test_an_account_gets_its_share_and_is_told_when_there_is_more(gateway: Gateway, new_model: Callable[..., str]) -> None:
    poor, other = make_customer(usd="0"), make_customer(usd="0")
    model = new_model("echo", free_daily_requests=20, **FREE)
    assert [ask(gateway, poor, model).status_code for _ in range(2)] == [200, 200]
    refused = ask(gateway, poor, model)
    assert (refused.status_code, code_of(refused)) == (429, "free_limit_reached")
    tomorrow = (datetime.now(UTC) + timedelta(seconds=until_midnight() + 1)).date()
    assert f"{tomorrow}T00:00:00Z" in refused.json()["error"]["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert int(refused.headers["retry-after"]) == pytest.approx(until_midnight(), abs=30)
    assert (refused.headers["x-ratelimit-limit-requests"], refused.headers["x-ratelimit-remaining-requests"]) == ("2", "0")
    assert ask(gateway, other, model).status_code == 200


def test_every_account_gets_at_least_one_request(gateway: Gateway, new_model: Callable[..., str]) -> None:
    model = new_model("echo", free_daily_requests=3, **FREE)
    poor = make_customer(usd="0")
    assert [ask(gateway, poor, model).status_code for _ in range(2)] == [200, 429]


def test_a_paid_model_goes_on_when_the_free_one_is_used_up(gateway: Gateway, customer: Customer, new_model: Callable[..., str]) -> None:
    free, paid = new_model("echo", free_daily_requests=1, **FREE), new_model("echo")
    assert [ask(gateway, customer, model).status_code for model in (free, free, paid)] == [200, 429, 200]


def test_a_model_with_a_price_is_paid_once_its_free_requests_are_used_up(
    gateway: Gateway, customer: Customer, new_model: Callable[..., str], usage_of: Callable[..., Any]
) -> None:
    model = new_model("echo", free_daily_requests=1)
    records = [usage_of(ask(gateway, customer, model).headers["x-request-id"]) for _ in range(2)]
    assert [record.rule for record in records] == ["free", "metered"]
    assert records[0].cost == 0 < records[0].list_cost == records[1].cost


def test_without_money_the_price_is_not_asked_for_but_the_limit_is_named(gateway: Gateway, new_model: Callable[..., str]) -> None:
    poor, model = make_customer(usd="0"), new_model("echo", free_daily_requests=1)
    assert ask(gateway, poor, model).status_code == 200
    refused = ask(gateway, poor, model)
    assert (refused.status_code, code_of(refused)) == (429, "free_limit_reached")
    assert "Top up" in refused.json()["error"]["message"]


def test_a_client_that_will_not_pay_is_not_made_to(gateway: Gateway, customer: Customer, new_model: Callable[..., str]) -> None:
    model = new_model("echo", free_daily_requests=1)
    free_only = {"x-max-cost": "0.000000001"}
    answers = [ask(gateway, customer, model, headers=free_only) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert code_of(answers[1]) == "free_limit_reached"


def test_a_request_that_fails_before_output_is_given_back(gateway: Gateway, new_model: Callable[..., str]) -> None:
    poor, model = make_customer(usd="0"), new_model("fault:status-500", free_daily_requests=10, **FREE)
    answers = [ask(gateway, poor, model) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [502, 502, 502]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["0", "0", "0"]  # an error shows its limits too


def test_a_test_key_uses_no_free_request(gateway: Gateway, new_model: Callable[..., str]) -> None:
    tester = make_customer(usd="0", kind="test", budget_nano=5)
    model = new_model("echo", free_daily_requests=1, **FREE)
    demo = Provider.objects.create(slug=f"p-{uuid.uuid4().hex[:16]}", kind="demo")
    Route.objects.create(model=Model.objects.get(slug=model), provider=demo, upstream_model="echo")
    gateway.sees_catalog()
    assert [ask(gateway, tester, model).status_code for _ in range(3)] == [200, 200, 200]


def test_a_spent_key_budget_stops_free_requests_too(gateway: Gateway, new_model: Callable[..., str]) -> None:
    closed = make_customer(usd="0", budget_nano=0)
    refused = ask(gateway, closed, new_model("echo", free_daily_requests=10, **FREE))
    assert (refused.status_code, code_of(refused)) == (402, "key_budget_exceeded")


def test_two_processes_together_serve_the_cap_and_not_one_more(twins: list[Gateway], provider: FakeProvider) -> None:
    model = make_model(provider.base_url, "echo", free_daily_requests=20, **FREE)
    for gateway in twins:
        gateway.sees_catalog()
    people = [make_customer(usd="0") for _ in range(14)]  # two each: more than the cap together
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: ask(twins[n % 2], people[n // 2 % 14], model), range(56)))
    assert sum(answer.status_code == 200 for answer in answers) == 20
    assert {code_of(answer) for answer in answers if answer.status_code != 200} == {"free_limit_reached"}
    deadline = time.monotonic() + 60
    while (records := UsageRecord.objects.filter(model=model)).count() < 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert set(records.values_list("rule", "cost")) == {("free", 0)}
    by_account = Counter(records.values_list("account_id", flat=True))
    assert (by_account.total(), max(by_account.values())) == (20, 2)
