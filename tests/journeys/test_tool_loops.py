"""Tool loops of two turns with the official SDKs against models of other families: calls, results, and what providers seal and want back.

Turn one is real traffic or the fake provider's: thinking and calls. Turn two sends it back with the tools' results, as a client of its kind
does, and the test looks at what the provider was sent: its own signature, to the letter, and never one of the gateway's envelopes.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest

from tests.conftest import Customer, Gateway
from tests.fakes.provider import FakeProvider, recordings
from tests.fakes.provider.journal import ReceivedRequest
from tests.fakes.provider.shapes.messages import SIGNATURE

QUESTION = "What is it like there?"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
KIND_OF = {"messages": "anthropic", "gemini": "google", "responses": "openai", "chat": "custom"}


@dataclass(frozen=True)
class Source:
    """Where a first turn comes from: the upstream model, its provider's format, the tools it calls."""

    upstream: str
    format: str
    tools: tuple[str, ...]
    streamed: bool = False

    @property
    def recording(self) -> str:
        return self.upstream.removeprefix("replay:") if self.upstream.startswith("replay:") else ""


SOURCES = {
    "anthropic-parallel": Source("chat:think=6;text=3;tools=look,book", "messages", ("look", "book")),
    "anthropic-parallel-stream": Source("chat:think=6;text=4;tools=look,book", "messages", ("look", "book"), streamed=True),
    "anthropic-recorded-stream": Source(
        "replay:anthropic/messages/reasoning_signed_stream__llm-anthropic-fixed-version-tool-chain-with-thinking-display-regression-0",
        "messages",
        ("fixed_version",),
        streamed=True,
    ),
    "gemini-recorded-parallel": Source(
        "replay:gemini/gemini/parallel_tools__rubyllm-function-calling-gemini-gemini-2-5-flash-can-use-parallel-to-0",
        "gemini",
        ("weather", "best_language_to_learn"),
    ),
    "gemini-recorded-stream": Source(
        "replay:gemini/gemini/reasoning_signed_stream__lingua-toolChoiceRequiredParam", "gemini", ("get_weather",), streamed=True
    ),
    "openai-recorded": Source(
        "replay:openai/responses/reasoning_signed__pai-tool-choice-matrix-required-openai-responses", "responses", ("get_weather",)
    ),
    "openai-recorded-stream": Source(
        "replay:openai/responses/reasoning_signed_stream__pai-openai-responses-phase-streamed-on-part-start-0",
        "responses",
        ("get_capital",),
        streamed=True,
    ),
    "xai-recorded-parallel": Source(
        "replay:xai/responses/parallel_tools__rubyllm-function-calling-xai-grok-4-1-fast-non-reasoning-can-handle--0",
        "responses",
        ("dice_roll",),
    ),
}
CLIENTS = ("chat", "responses", "messages")


def _loop(name: str, client: str, *more: str) -> Any:
    source = SOURCES[name]
    marks = [pytest.mark.skipif(recordings.folder() is None, reason=recordings.SKIP_REASON)] if source.recording else []
    return pytest.param(source, client, *more, id="-".join((client, "client-of", name, *more)), marks=marks)


PAIRS = [(name, client) for name, source in SOURCES.items() for client in CLIENTS if client != source.format]
LOOPS = [_loop(name, client) for name, client in PAIRS]
CHAT_LOOPS = [_loop(name, "chat") for name in SOURCES]
STORED_LOOPS = [_loop(name, client) for name, client in PAIRS if client == "responses"]
DETOURS = [_loop(name, client, target) for name, client in PAIRS for target in KIND_OF if target != SOURCES[name].format]


@dataclass
class Turn:
    """The first turn as a client keeps it: the history to send, the calls (id, name), and the answer's own text."""

    history: list[Any]
    calls: list[tuple[str, str]]
    response_id: str = ""


# Clients. Each asks, and goes on with what it was answered, in the way its SDK's documentation shows.


class ChatClient:
    def __init__(self, gateway: Gateway, customer: Customer) -> None:
        self.sdk = openai.OpenAI(base_url=gateway.base_url, api_key=customer.secret, max_retries=0)

    def _options(self, model: str, tools: tuple[str, ...]) -> dict[str, Any]:
        declared = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in tools]
        return {"model": model, "tools": declared, "max_tokens": 3000, "reasoning_effort": "low"}

    def first(self, model: str, tools: tuple[str, ...], *, stream: bool) -> Turn:
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        options = self._options(model, tools)
        if stream:
            with self.sdk.chat.completions.stream(messages=messages, **options) as events:
                message: Any = events.get_final_completion().choices[0].message
        else:
            message = self.sdk.chat.completions.create(messages=messages, **options).choices[0].message
        calls = [(call.id, call.function.name) for call in message.tool_calls]
        said = message.model_dump(exclude_none=True)
        said.pop("parsed", None)
        for call in said["tool_calls"]:
            call.pop("index", None)
            call["function"].pop("parsed_arguments", None)
        return Turn([*messages, said], calls)

    def forget(self, turn: Turn) -> Turn:
        """What most chat clients keep: text and calls."""
        said = {name: turn.history[-1][name] for name in ("role", "content", "tool_calls") if name in turn.history[-1]}
        return Turn([*turn.history[:-1], said], turn.calls)

    def second(self, model: str, tools: tuple[str, ...], turn: Turn, *, stream: bool) -> None:
        results = [{"role": "tool", "tool_call_id": call_id, "content": f"result {name}"} for call_id, name in turn.calls]
        messages: list[Any] = [*turn.history, *results]
        answer: Any = self.sdk.chat.completions.create(messages=messages, stream=stream, **self._options(model, tools))
        if stream:
            list(answer)


class MessagesClient:
    def __init__(self, gateway: Gateway, customer: Customer) -> None:
        self.sdk = anthropic.Anthropic(base_url=gateway.origin, api_key=customer.secret, max_retries=0)

    def _options(self, model: str, tools: tuple[str, ...]) -> dict[str, Any]:
        declared = [{"name": name, "input_schema": SCHEMA} for name in tools]
        return {"model": model, "tools": declared, "max_tokens": 3000, "thinking": {"type": "enabled", "budget_tokens": 1024}}

    def first(self, model: str, tools: tuple[str, ...], *, stream: bool) -> Turn:
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        options = self._options(model, tools)
        if stream:
            with self.sdk.messages.stream(messages=messages, **options) as events:
                message = events.get_final_message()
        else:
            message = self.sdk.messages.create(messages=messages, **options)
        calls = [(block.id, block.name) for block in message.content if block.type == "tool_use"]
        return Turn([*messages, {"role": "assistant", "content": message.content}], calls)

    def second(self, model: str, tools: tuple[str, ...], turn: Turn, *, stream: bool) -> None:
        results = [{"type": "tool_result", "tool_use_id": call_id, "content": f"result {name}"} for call_id, name in turn.calls]
        messages: list[Any] = [*turn.history, {"role": "user", "content": results}]
        answer: Any = self.sdk.messages.create(messages=messages, stream=stream, **self._options(model, tools))
        if stream:
            list(answer)


class ResponsesClient:
    def __init__(self, gateway: Gateway, customer: Customer) -> None:
        self.sdk = openai.OpenAI(base_url=gateway.base_url, api_key=customer.secret, max_retries=0)

    def _options(self, model: str, tools: tuple[str, ...]) -> dict[str, Any]:
        declared = [{"type": "function", "name": name, "parameters": SCHEMA, "strict": False} for name in tools]
        return {"model": model, "tools": declared, "max_output_tokens": 3000, "reasoning": {"effort": "low"}}

    def first(self, model: str, tools: tuple[str, ...], *, stream: bool, store: bool = False) -> Turn:
        asked: list[Any] = [{"role": "user", "content": QUESTION}]
        options: dict[str, Any] = {**self._options(model, tools), "store": store, "include": ["reasoning.encrypted_content"]}
        if stream:
            with self.sdk.responses.stream(input=asked, **options) as events:
                answer: Any = events.get_final_response()
        else:
            answer = self.sdk.responses.create(input=asked, **options)
        calls = [(item.call_id, item.name) for item in answer.output if item.type == "function_call"]
        items = [item.model_dump(exclude_none=True) for item in answer.output]
        for item in items:
            item.pop("parsed_arguments", None)
        return Turn([*asked, *items], calls, answer.id)

    def results(self, turn: Turn) -> list[Any]:
        return [{"type": "function_call_output", "call_id": call_id, "output": f"result {name}"} for call_id, name in turn.calls]

    def second(self, model: str, tools: tuple[str, ...], turn: Turn, *, stream: bool) -> None:
        self._ask(model, tools, stream, input=[*turn.history, *self.results(turn)], store=False)

    def go_on(self, model: str, tools: tuple[str, ...], turn: Turn, *, stream: bool) -> None:
        """Go on from the stored response, with nothing but the results."""
        self._ask(model, tools, stream, input=self.results(turn), previous_response_id=turn.response_id)

    def _ask(self, model: str, tools: tuple[str, ...], stream: bool, **more: Any) -> None:
        answer: Any = self.sdk.responses.create(stream=stream, **more, **self._options(model, tools))
        if stream:
            list(answer)


MAKERS: dict[str, Any] = {"chat": ChatClient, "messages": MessagesClient, "responses": ResponsesClient}


@pytest.fixture(scope="session")
def model_of(new_models: Callable[..., list[str]]) -> Callable[[Source], str]:
    """The model whose first turn comes from a source."""
    made: dict[Source, str] = {}

    def find(source: Source) -> str:
        if source not in made:
            made[source] = new_models([source.upstream], kind=KIND_OF[source.format], route_format=source.format, lasting=True)[0]
        return made[source]

    return find


# Seals


def sealed_by(source: Source) -> list[str]:
    """The signatures of a first turn, read from the recording itself."""
    if not source.recording:
        return [SIGNATURE]
    case = recordings.find(source.recording)
    text = case.response_bytes.decode()
    chunks = [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:")] if case.stream else [json.loads(text)]
    if source.format == "messages":
        found = [chunk["delta"]["signature"] for chunk in chunks if chunk.get("delta", {}).get("type") == "signature_delta"]
    elif source.format == "gemini":
        parts = [part for chunk in chunks for part in chunk["candidates"][0]["content"].get("parts", [])]
        found = [part["thoughtSignature"] for part in parts if "thoughtSignature" in part and "functionCall" in part]
    else:
        # A stream's last event seals the same thoughts once more, in other letters: what counts is the item when it was done.
        items = [chunk["item"] for chunk in chunks if chunk["type"] == "response.output_item.done"] if case.stream else chunks[0]["output"]
        found = [item["encrypted_content"] for item in items if item["type"] == "reasoning"]
    assert found
    return found


def seals_in(request: ReceivedRequest, format_name: str) -> list[str]:
    """The signatures that a request brings to its provider, each where the provider wants it."""
    fields = request.json()
    found: list[str] = []
    if format_name == "messages":
        blocks = [block for message in fields["messages"] if message["role"] == "assistant" for block in message["content"]]
        kinds = [block["type"] for block in blocks]
        assert "thinking" not in kinds or kinds.index("thinking") < kinds.index("tool_use")
        found = [block["signature"] for block in blocks if block["type"] == "thinking"]
    elif format_name == "gemini":
        parts = [part for content in fields["contents"] if content["role"] == "model" for part in content["parts"]]
        found = [part["thoughtSignature"] for part in parts if "thoughtSignature" in part and "functionCall" in part]
    elif format_name == "responses":
        items = fields["input"]
        for place, item in enumerate(items):
            if item.get("type") == "reasoning":
                assert "id" not in item or item["id"] == ""
                assert any(behind.get("type") in ("function_call", "message", "reasoning") for behind in items[place + 1 :])
                found.append(item["encrypted_content"])
    return found


def results_in(request: ReceivedRequest, format_name: str) -> list[tuple[str, str]]:
    """Each tool result that a request brings to its provider: the name of the call it answers, and its text."""
    fields = request.json()
    if format_name == "messages":
        blocks = [block for message in fields["messages"] if isinstance(message["content"], list) for block in message["content"]]
        names = {block["id"]: block["name"] for block in blocks if block["type"] == "tool_use"}
        return [(names[block["tool_use_id"]], _text(block["content"])) for block in blocks if block["type"] == "tool_result"]
    if format_name == "gemini":
        parts = [part["functionResponse"] for content in fields["contents"] for part in content["parts"] if "functionResponse" in part]
        return [(part["name"], json.dumps(part["response"])) for part in parts]
    if format_name == "responses":
        names = {item["call_id"]: item["name"] for item in fields["input"] if item.get("type") == "function_call"}
        return [(names[item["call_id"]], _text(item["output"])) for item in fields["input"] if item.get("type") == "function_call_output"]
    names = {call["id"]: call["function"]["name"] for message in fields["messages"] for call in message.get("tool_calls") or []}
    return [(names[message["tool_call_id"]], _text(message["content"])) for message in fields["messages"] if message["role"] == "tool"]


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content)


@pytest.fixture
def last_request(provider: FakeProvider) -> Iterator[Callable[[Source], ReceivedRequest]]:
    """What the provider of a source was asked last; nothing that it was asked may ever hold an envelope."""
    before = provider.requests[-1].number if provider.requests else 0
    yield lambda source: [request for request in provider.requests if request.model == source.upstream][-1]
    asked = [request for request in provider.requests if request.number > before]
    assert asked
    assert not [request for request in asked if b"gw1." in request.body or b"Z3cxL" in request.body]


# Loops


@pytest.mark.parametrize(("source", "client"), LOOPS)
def test_what_a_client_echoes_comes_back_to_the_provider_as_it_sealed_it(
    source: Source,
    client: str,
    gateway: Gateway,
    customer: Customer,
    model_of: Callable[[Source], str],
    last_request: Callable[[Source], ReceivedRequest],
) -> None:
    asks = MAKERS[client](gateway, customer)
    model = model_of(source)
    turn = asks.first(model, source.tools, stream=source.streamed)
    assert {name for _, name in turn.calls} == set(source.tools)
    asks.second(model, source.tools, turn, stream=source.streamed)
    got = last_request(source)
    assert seals_in(got, source.format) == sealed_by(source)
    results = results_in(got, source.format)
    assert [name for name, _ in results] == [name for _, name in turn.calls]
    assert all(f"result {name}" in text for name, text in results)


@pytest.mark.parametrize(("source", "client"), CHAT_LOOPS)
def test_what_a_chat_client_forgets_comes_back_to_the_provider_all_the_same(
    source: Source,
    client: str,
    gateway: Gateway,
    customer: Customer,
    model_of: Callable[[Source], str],
    last_request: Callable[[Source], ReceivedRequest],
) -> None:
    asks = MAKERS[client](gateway, customer)
    model = model_of(source)
    turn = asks.forget(asks.first(model, source.tools, stream=source.streamed))
    # What was sealed is written to the cache behind the answer, so the first question may come before it.
    deadline = time.monotonic() + 60
    while True:
        asks.second(model, source.tools, turn, stream=source.streamed)
        found = seals_in(last_request(source), source.format)
        if found == sealed_by(source) or time.monotonic() > deadline:
            break
    assert found == sealed_by(source)


@pytest.mark.parametrize(("source", "client"), STORED_LOOPS)
def test_a_stored_response_keeps_what_its_provider_sealed(
    source: Source,
    client: str,
    gateway: Gateway,
    customer: Customer,
    model_of: Callable[[Source], str],
    last_request: Callable[[Source], ReceivedRequest],
) -> None:
    asks = MAKERS[client](gateway, customer)
    model = model_of(source)
    turn = asks.first(model, source.tools, stream=source.streamed, store=True)
    asks.go_on(model, source.tools, turn, stream=source.streamed)
    assert seals_in(last_request(source), source.format) == sealed_by(source)


@pytest.mark.parametrize(("source", "client"), LOOPS)
def test_another_account_that_sends_the_envelope_gives_the_provider_nothing_sealed(
    source: Source,
    client: str,
    gateway: Gateway,
    customer: Customer,
    stranger: Customer,
    model_of: Callable[[Source], str],
    last_request: Callable[[Source], ReceivedRequest],
) -> None:
    model = model_of(source)
    turn = MAKERS[client](gateway, customer).first(model, source.tools, stream=source.streamed)
    MAKERS[client](gateway, stranger).second(model, source.tools, turn, stream=source.streamed)
    got = last_request(source)
    assert not [seal for seal in sealed_by(source) if seal.encode() in got.body]
    assert [name for name, _ in results_in(got, source.format)] == [name for _, name in turn.calls]


@pytest.mark.parametrize(("source", "client", "target"), DETOURS)
def test_another_family_that_goes_on_is_sent_nothing_sealed(
    source: Source,
    client: str,
    target: str,
    gateway: Gateway,
    customer: Customer,
    model_of: Callable[[Source], str],
    last_request: Callable[[Source], ReceivedRequest],
) -> None:
    """Also where it speaks the client's own format, and the request would otherwise pass as it is."""
    other = Source("chat:say=done", target, ())
    asks = MAKERS[client](gateway, customer)
    turn = asks.first(model_of(source), source.tools, stream=source.streamed)
    asks.second(model_of(other), source.tools, turn, stream=source.streamed)
    got = last_request(other)
    assert not [seal for seal in sealed_by(source) if seal.encode() in got.body]
    assert [name for name, _ in results_in(got, target)] == [name for _, name in turn.calls]


@pytest.mark.parametrize("client", ["responses", "messages"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_parallel_calls_of_a_chat_provider_keep_their_ids_and_order(
    client: str,
    stream: bool,
    gateway: Gateway,
    customer: Customer,
    model_of: Callable[[Source], str],
    last_request: Callable[[Source], ReceivedRequest],
) -> None:
    source = Source("chat:text=3;tools=look,book,look", "chat", ("look", "book"))
    asks = MAKERS[client](gateway, customer)
    turn = asks.first(model_of(source), source.tools, stream=stream)
    assert [name for _, name in turn.calls] == ["look", "book", "look"]
    asks.second(model_of(source), source.tools, turn, stream=stream)
    got = last_request(source)
    assert results_in(got, "chat") == [(name, f"result {name}") for name in ("look", "book", "look")]
    said = next(message for message in got.json()["messages"] if message["role"] == "assistant")
    assert said["content"] == "word1 word2 word3"
    assert len({call["id"] for call in said["tool_calls"]}) == 3
