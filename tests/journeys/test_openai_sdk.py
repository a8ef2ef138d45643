"""The official OpenAI SDK against the live gateway."""

import openai
import pytest


@pytest.fixture
def client(gateway, customer):
    with openai.OpenAI(base_url=gateway.base_url, api_key=customer.secret, max_retries=0) as sdk:
        yield sdk


def test_a_completion_is_answered_and_charged(client, customer, new_model, usage_of):
    model = new_model("hello")
    answer = client.chat.completions.with_raw_response.create(model=model, messages=[{"role": "user", "content": "hi"}])
    record = usage_of(answer.headers["x-request-id"])
    assert answer.parse().choices[0].message.content
    assert record.cost > 0
    assert customer.fresh_wallet().balance == 5_000_000_000 - record.cost
    assert customer.wallet.held == 0
