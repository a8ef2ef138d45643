"""The state of the Responses API as clients live with it: what is kept, for whom, for how long, and from which moment. Through every bridge."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import Customer, Gateway
from tests.fakes.provider import FakeProvider

KIND_OF = {"messages": "anthropic", "gemini": "google", "responses": "openai", "chat": "custom"}


def sdk(gateway: Gateway, customer: Customer) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.base_url, api_key=customer.secret, max_retries=0)


@pytest.fixture(scope="session")
def echoing(new_models: Callable[..., list[str]]) -> dict[str, str]:
    """A model of each family that repeats what it was told."""
    return {family: new_models([f"echo-{family}"], kind=kind, route_format=family)[0] for family, kind in KIND_OF.items()}


@pytest.fixture(params=list(KIND_OF))
def model(request: pytest.FixtureRequest, echoing: dict[str, str]) -> str:
    return echoing[request.param]


def said_in(request: Any) -> str:
    return json.dumps(request.json())


def test_a_response_is_kept_unless_the_client_says_no(gateway: Gateway, customer: Customer, model: str) -> None:
    client = sdk(gateway, customer)
    kept = client.responses.create(model=model, input="remember this")
    found = client.responses.retrieve(kept.id)
    assert (found.id, found.output_text, found.store) == (kept.id, kept.output_text, True)  # type: ignore[attr-defined]
    passing = client.responses.create(model=model, input="forget this", store=False)
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.retrieve(passing.id)
    assert missing.value.code == "response_not_found"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model=model, input="go on", previous_response_id=passing.id)
    assert (unknown.value.code, unknown.value.param) == ("previous_response_not_found", "previous_response_id")


def test_the_whole_conversation_reaches_the_provider_and_nothing_of_it_is_stored_there(
    gateway: Gateway, provider: FakeProvider, customer: Customer, echoing: dict[str, str]
) -> None:
    client = sdk(gateway, customer)
    marks = [uuid.uuid4().hex for _ in range(3)]
    for family, slug in echoing.items():
        previous = None
        for mark in marks:
            previous = (
                client.responses.create(model=slug, input=f"mark {mark}", previous_response_id=previous).id
                if previous
                else (client.responses.create(model=slug, input=f"mark {mark}").id)
            )
        got = [request for request in provider.requests if request.model == f"echo-{family}" and marks[2] in said_in(request)][-1]
        places = [said_in(got).index(mark) for mark in marks]
        assert places == sorted(places)
        assert said_in(got).count(f"You said: mark {marks[0]}") == 1
        assert "previous_response_id" not in got.json()
        if family == "responses":
            assert got.json()["store"] is False
            assert got.json()["include"] == ["reasoning.encrypted_content"]


def test_a_conversation_may_name_the_items_that_were_answered(
    gateway: Gateway, provider: FakeProvider, customer: Customer, stranger: Customer, model: str
) -> None:
    """What the AI SDK for JavaScript does: it sends what the user said, and references to what was answered."""
    mark = uuid.uuid4().hex
    first = sdk(gateway, customer).responses.create(model=model, input=f"mark {mark}")
    conversation: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": f"mark {mark}"}]},
        {"type": "item_reference", "id": first.output[0].id},
        {"role": "user", "content": [{"type": "input_text", "text": "and then?"}]},
    ]
    second = sdk(gateway, customer).responses.create(model=model, input=conversation)
    got = [request for request in provider.requests if mark.encode() in request.body][-1]
    assert said_in(got).count(f"You said: mark {mark}") == 1
    assert said_in(got).index(f"You said: mark {mark}") < said_in(got).index("and then?")
    assert "item_reference" not in said_in(got)
    kept = sdk(gateway, customer).responses.input_items.list(second.id, order="asc").data
    assert [item.type for item in kept] == ["message", "message", "message"]
    headers = {"authorization": f"Bearer {customer.secret}"}
    with httpx.Client(base_url=gateway.base_url, headers=headers) as api:
        asks = ({"model": model, "input": asked} for asked in (conversation, conversation[::2]))
        whole, without = (api.post("/responses/input_tokens", json=ask).json()["input_tokens"] for ask in asks)
    assert whole > without
    with pytest.raises(openai.BadRequestError) as refused:
        sdk(gateway, stranger).responses.create(model=model, input=conversation)
    assert refused.value.param == "input[1]"


def test_another_accounts_response_is_not_there(gateway: Gateway, customer: Customer, stranger: Customer, model: str) -> None:
    mine = sdk(gateway, customer).responses.create(model=model, input="my secret")
    theirs = sdk(gateway, stranger)
    for ask in (
        lambda: theirs.responses.retrieve(mine.id),
        lambda: theirs.responses.delete(mine.id),
        lambda: theirs.responses.input_items.list(mine.id),
        lambda: theirs.responses.create(model=model, input="what was it?", previous_response_id=mine.id),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    wallet = stranger.fresh_wallet()
    assert (wallet.balance, wallet.held) == (5 * 10**9, 0)
    assert sdk(gateway, customer).responses.retrieve(mine.id).id == mine.id


def test_deleting_a_response_breaks_the_chain_behind_it(gateway: Gateway, provider: FakeProvider, customer: Customer, model: str) -> None:
    client = sdk(gateway, customer)
    first = client.responses.create(model=model, input="one")
    second = client.responses.create(model=model, input="two", previous_response_id=first.id)
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    assert client.responses.retrieve(second.id).id == second.id
    before = len(provider.requests)
    for broken in (first, second):
        with pytest.raises(openai.NotFoundError) as gone:
            client.responses.create(model=model, input="three", previous_response_id=broken.id)
        assert gone.value.code == "previous_response_not_found"
    assert len(provider.requests) == before
    assert customer.fresh_wallet().held == 0


def test_a_streamed_response_is_kept_before_the_client_is_told_that_it_is_complete(
    gateway: Gateway, customer: Customer, model: str
) -> None:
    client = sdk(gateway, customer)
    with client.responses.create(model=model, input="remember this", stream=True) as stream:
        for event in stream:
            if event.type == "response.completed":
                found = client.responses.retrieve(event.response.id)
                break
        else:
            pytest.fail("never completed")
    assert found.status == "completed"
    assert found.output_text == event.response.output_text == "You said: remember this"


@pytest.mark.parametrize("family", list(KIND_OF))
def test_a_stream_that_failed_is_not_kept(family: str, gateway: Gateway, customer: Customer, new_models: Callable[..., list[str]]) -> None:
    (broken,) = new_models(["fault:drop-midstream;chunks=6;text=50"], kind=KIND_OF[family], route_format=family)
    client = sdk(gateway, customer)
    events = list(client.responses.create(model=broken, input="remember this", stream=True))
    assert events[-1].type == "response.failed"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(events[-1].response.id)


def test_a_request_that_nothing_is_kept_of_reads_what_was_kept(
    gateway: Gateway, provider: FakeProvider, customer: Customer, model: str
) -> None:
    client = sdk(gateway, customer)
    mark = uuid.uuid4().hex
    first = client.responses.create(model=model, input=f"mark {mark}")
    second = client.responses.create(model=model, input="and now?", previous_response_id=first.id, store=False)
    assert mark in said_in(provider.requests[-1])
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)


@pytest.mark.parametrize("field", ["conversation", "background", "prompt"])
def test_what_would_be_kept_at_the_provider_is_refused_and_costs_nothing(
    field: str, gateway: Gateway, provider: FakeProvider, customer: Customer, model: str
) -> None:
    before = len(provider.requests)
    value = {"conversation": "conv_1", "background": True, "prompt": {"id": "pmpt_1"}}[field]
    answer = httpx.post(f"{gateway.base_url}/responses", json={"model": model, "input": "hi", field: value}, headers=customer.headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert len(provider.requests) == before
    assert customer.fresh_wallet().balance == 5 * 10**9
