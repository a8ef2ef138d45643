"""The official SDKs of three formats against models of every provider family, streaming and not."""

import anthropic
import openai
import pytest
from google import genai

FAMILIES = ["custom", "anthropic", "google", "openai"]
HELLO = [{"role": "user", "content": "say hello to the world"}]
TOOL = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def upstream_of(family: str) -> dict[str, str]:
    """The route's format for a provider of this family: what the fake provider is then asked in."""
    return {"custom": "chat", "anthropic": "messages", "google": "gemini", "openai": "responses"}


@pytest.fixture(scope="session")
def models(new_models):
    """One model a family, each called in the family's own format."""
    return {family: new_models(["hello"], kind=family, route_format=upstream_of(family)[family])[0] for family in FAMILIES}


@pytest.fixture
def by_openai(gateway, customer):
    with openai.OpenAI(base_url=gateway.base_url, api_key=customer.secret, max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def by_anthropic(gateway, customer):
    with anthropic.Anthropic(base_url=gateway.origin, api_key=customer.secret, max_retries=0) as sdk:
        yield sdk


@pytest.mark.parametrize("family", FAMILIES)
def test_chat_clients_get_an_answer_of_every_family(by_openai, models, family, usage_of, customer):
    raw = by_openai.chat.completions.with_raw_response.create(model=models[family], messages=HELLO, max_tokens=100)
    answer = raw.parse()
    assert "hello" in answer.choices[0].message.content.lower()
    assert answer.choices[0].finish_reason == "stop"
    record = usage_of(raw.headers["x-request-id"])
    assert (record.status, record.usage_source, record.rule) == ("ok", "provider", "metered")
    assert answer.usage.prompt_tokens == record.input_tokens + record.cached_input_tokens
    assert customer.fresh_wallet().held == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_chat_streams_of_every_family_are_accumulated_by_the_sdk(by_openai, models, family):
    with by_openai.chat.completions.stream(
        model=models[family], messages=HELLO, max_tokens=100, stream_options={"include_usage": True}
    ) as stream:
        final = stream.get_final_completion()
    assert "hello" in final.choices[0].message.content.lower()
    assert final.usage.completion_tokens > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_messages_clients_get_an_answer_of_every_family(by_anthropic, models, family):
    message = by_anthropic.messages.create(model=models[family], max_tokens=100, messages=HELLO)
    assert "hello" in message.content[0].text.lower()
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_messages_streams_of_every_family_are_accumulated_by_the_sdk(by_anthropic, models, family):
    with by_anthropic.messages.stream(model=models[family], max_tokens=100, messages=HELLO) as stream:
        final = stream.get_final_message()
    assert "hello" in final.content[0].text.lower()
    assert final.usage.output_tokens > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_responses_clients_get_an_answer_of_every_family(by_openai, models, family):
    answer = by_openai.responses.create(model=models[family], input="say hello to the world", max_output_tokens=100)
    assert "hello" in answer.output_text.lower()
    assert answer.status == "completed"
    assert answer.usage.output_tokens > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_responses_streams_of_every_family_are_accumulated_by_the_sdk(by_openai, models, family):
    with by_openai.responses.stream(model=models[family], input="say hello to the world", max_output_tokens=100) as stream:
        final = stream.get_final_response()
    assert "hello" in final.output_text.lower()
    assert final.usage.output_tokens > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_goes_on_from_the_stored_response(by_openai, models, family):
    first = by_openai.responses.create(model=models[family], input="my name is Alice", max_output_tokens=100)
    second = by_openai.responses.create(model=models[family], input="who am I", previous_response_id=first.id, max_output_tokens=100)
    assert by_openai.responses.retrieve(second.id).id == second.id
    said = [part.text for item in by_openai.responses.input_items.list(second.id).data if item.type == "message" for part in item.content]
    assert any("Alice" in text for text in said)


def test_gemini_clients_get_gemini_models_only(gateway, customer, models):
    client = genai.Client(api_key=customer.secret, http_options={"base_url": gateway.origin})
    answer = client.models.generate_content(model=models["google"], contents="say hello to the world")
    assert "hello" in (answer.text or "").lower()
    chunks = list(client.models.generate_content_stream(model=models["google"], contents="say hello to the world"))
    assert "hello" in "".join(chunk.text or "" for chunk in chunks).lower()
    with pytest.raises(genai.errors.ClientError) as refused:
        client.models.generate_content(model=models["anthropic"], contents="hello")
    assert refused.value.code == 400


@pytest.mark.parametrize("family", FAMILIES)
def test_tools_are_called_through_every_bridge(by_openai, by_anthropic, new_models, family):
    model = new_models(["chat:tools=lookup"], kind=family, route_format=upstream_of(family)[family])[0]
    chat = by_openai.chat.completions.create(
        model=model, messages=HELLO, max_tokens=100, tools=[{"type": "function", "function": {"name": "lookup", "parameters": TOOL}}]
    )
    assert chat.choices[0].finish_reason == "tool_calls"
    assert chat.choices[0].message.tool_calls[0].function.name == "lookup"
    message = by_anthropic.messages.create(model=model, max_tokens=100, messages=HELLO, tools=[{"name": "lookup", "input_schema": TOOL}])
    assert message.stop_reason == "tool_use"
    assert [block.name for block in message.content if block.type == "tool_use"] == ["lookup"]


def test_errors_come_in_the_clients_own_shape(gateway, by_anthropic):
    with pytest.raises(anthropic.NotFoundError) as missing:
        by_anthropic.messages.create(model="no/such", max_tokens=10, messages=HELLO)
    assert missing.value.response.json()["error"]["type"] == "not_found_error"
    stranger = genai.Client(api_key="sk-gw-nonsense", http_options={"base_url": gateway.origin})
    with pytest.raises(genai.errors.ClientError) as refused:
        stranger.models.generate_content(model="x", contents="hello")
    assert refused.value.code == 401
