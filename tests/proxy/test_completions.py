"""Legacy completions, pure: what a request asks for, what is spliced into it, and the tap on a stream of text."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.usage import TokenUsage
from proxy import failures
from proxy.body import parse_body
from proxy.formats import completions
from proxy.formats.base import Facts, InvalidRequest, NotAnAnswer
from proxy.formats.completions import CompletionsTap, CompletionsWhole
from proxy.formats.fields import TOKENS_PER_TEXT
from proxy.providers import demo
from proxy.providers.base import read_failure

DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
COSTS: dict[str, Any] = {"estimate": TokenUsage(input_tokens=2, output_tokens=1), "cost": 2_000_000_000, "upstream_cost": 1_000_000_000}
WITH_COST = {"cost": 2.0, "cost_details": {"upstream_inference_cost": 1.0}}


def request(**fields: Any) -> Facts:
    return completions.read_request(parse_body(orjson.dumps({"model": "m", "prompt": "hi", **fields})))


def spliced(raw: bytes, *, output_limit: int | None = None, streams_usage: bool = True) -> Any:
    body = parse_body(raw)
    facts = completions.read_request(body)
    return json.loads(completions.splice_request(body, facts, upstream_model="up", output_limit=output_limit, streams_usage=streams_usage))


def chunk(text: str, finish: str | None = None, **more: Any) -> bytes:
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
    fields = {"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "up", "choices": [choice], **more}
    return b"data: " + orjson.dumps(fields) + b"\n\n"


USAGE_CHUNK = b"data: " + orjson.dumps({"id": "cmpl-1", "created": 5, "model": "up", "choices": [], "usage": USAGE}) + b"\n\n"


# Requests


@pytest.mark.parametrize(
    ("fields", "prompts", "choices"),
    [
        ({}, 1, 1),
        ({"n": 3}, 1, 3),
        ({"n": 2, "best_of": 5}, 1, 5),
        ({"prompt": ["a", "b"]}, 2, 2),
        ({"prompt": ["a", "b"], "n": 3}, 2, 6),
        ({"prompt": [[1, 2], [3]]}, 2, 2),
        ({"prompt": [1, 2, 3]}, 1, 1),
    ],
)
def test_every_answer_that_is_made_is_counted(fields: dict[str, Any], prompts: int, choices: int) -> None:
    facts = request(**fields)
    assert (facts.prompts, facts.choices) == (prompts, choices)


def test_prompts_and_suffix_bound_the_input() -> None:
    assert request(prompt="hello").input_bound == 5 + TOKENS_PER_TEXT
    assert request(prompt=["hello", [1, 2]], suffix="end").input_bound == 7 + 6 + 2 * TOKENS_PER_TEXT


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 0, "echo": True}, 0),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_completion_tokens": 9}, None),  # a provider may well pass it over
    ],
)
def test_the_limit_is_the_one_no_provider_exceeds(fields: dict[str, Any], limit: int | None) -> None:
    assert request(**fields).output_limit == limit


def test_usage_is_wanted_only_of_a_stream() -> None:
    assert request(stream=True, stream_options={"include_usage": True}).wants_usage
    assert not request(stream=True).wants_usage
    assert not request(stream_options={"include_usage": True}).wants_usage


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [{"text": "x"}]}, "prompt"),
        ({"prompt": ["x"] * 129}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"best_of": 21}, "best_of"),
        ({"best_of": "5"}, "best_of"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**8}, "max_tokens"),
        ({"stream": 1}, "stream"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options"),
        ({"model": None}, "model"),
    ],
)
def test_what_cannot_be_completed_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(**fields)
    assert caught.value.param == param


def test_a_stream_asks_for_its_usage_and_the_rest_passes() -> None:
    raw = b'{"model":"m","prompt":"hi","stream":true,"logit_bias":{"50256":-100},"stream_options":{"x":1}}'
    fields = spliced(raw)
    assert fields == {**json.loads(raw), "model": "up", "stream_options": {"x": 1, "include_usage": True}}
    assert spliced(raw, streams_usage=False) == {**json.loads(raw), "model": "up"}


def test_a_clamped_limit_is_put_in_under_every_name_that_may_count() -> None:
    assert spliced(b'{"model":"m","prompt":"hi"}', output_limit=5)["max_tokens"] == 5
    both = spliced(b'{"model":"m","prompt":"hi","max_tokens":9,"max_completion_tokens":9}', output_limit=5)
    assert (both["max_tokens"], both["max_completion_tokens"]) == (5, 5)


def test_echoed_prompts_are_no_output() -> None:
    def echoed(**fields: Any) -> int:
        return completions.read_echoed_bytes(parse_body(orjson.dumps({"model": "m", "prompt": ["hello", "you"], **fields})))

    assert (echoed(), echoed(echo=True), echoed(echo=True, n=2)) == (0, 8, 16)


# Whole answers


@pytest.mark.parametrize(
    "message",
    [
        "This is a chat model and not supported in the v1/completions endpoint. Did you mean to use v1/chat/completions?",
        "This is not a chat model and thus not supported in the v1/chat/completions endpoint. Did you mean to use v1/completions?",
        "This model is only supported in v1/responses and not in v1/chat/completions.",
        "The model `image` is not supported by the completions endpoint.",
    ],
)
def test_a_model_asked_for_at_the_wrong_endpoint_is_the_clients_mistake(message: str) -> None:
    failure = read_failure(404, {}, orjson.dumps({"error": {"message": message, "type": "invalid_request_error", "param": "model"}}))
    assert isinstance(failure, failures.RequestRefused)
    assert failure.status == 404


def test_a_model_the_provider_does_not_have_is_our_mistake() -> None:
    error = {"message": "The model `x` does not exist or you do not have access to it.", "code": "model_not_found"}
    assert isinstance(read_failure(404, {}, orjson.dumps({"error": error})), failures.ProviderFault)


def test_a_whole_answer_keeps_its_bytes_but_for_its_usage() -> None:
    raw = b'{"id":"c", "choices":[{"text":"abcd","index":0,"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4} }'
    whole = CompletionsWhole(raw)
    assert (whole.usage, whole.finish_reason) == (TokenUsage(input_tokens=3, output_tokens=4), "stop")
    rendered = whole.render(**COSTS)
    assert rendered.startswith(raw[: raw.index(b'{"prompt')])
    assert json.loads(rendered)["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, **WITH_COST}


def test_without_usage_the_text_is_counted_less_the_echo() -> None:
    raw = orjson.dumps({"choices": [{"text": "hellométal", "finish_reason": "length"}, {"text": None}, 5]})
    assert CompletionsWhole(raw).output_bytes == 11
    assert CompletionsWhole(raw, echoed=5).output_bytes == 6
    assert CompletionsWhole(raw, echoed=500).output_bytes == 0


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"error":{"message":"x"}}', b'{"choices":{}}', b'{"choices":[],"error":{"message":"x"}}'])
def test_what_is_no_answer_is_told_apart(raw: bytes) -> None:
    with pytest.raises(NotAnAnswer):
        CompletionsWhole(raw)


# Streams


def test_text_and_reason_are_watched_and_the_bytes_pass() -> None:
    tap = CompletionsTap(wants_usage=False)
    sent = chunk("Hello") + chunk(" world") + chunk("", "stop")
    assert tap.feed(sent) == sent
    assert (tap.output_bytes, tap.finish_reason, tap.has_output) == (11, "stop", True)
    assert tap.feed(USAGE_CHUNK + DONE) == b""
    assert (tap.usage, tap.done) == (TokenUsage(input_tokens=3, output_tokens=4), True)
    assert tap.finish(**COSTS) == DONE


def test_offsets_and_tokens_of_logprobs_are_no_text() -> None:
    tap = CompletionsTap(wants_usage=False)
    tap.feed(b'data: {"choices":[{"text":"ab","logprobs":{"tokens":["ab"],"text_offset":[0],"top_logprobs":[{"text":-0.1}]}}]}\n\n')
    assert tap.output_bytes == 2


def test_the_usage_chunk_is_shown_with_the_cost_when_it_was_asked_for() -> None:
    tap = CompletionsTap(wants_usage=True)
    tap.feed(chunk("Hello", "stop") + USAGE_CHUNK + DONE)
    event, _, rest = tap.finish(**COSTS).partition(b"\n\n")
    assert json.loads(event.removeprefix(b"data: "))["usage"] == {**USAGE, **WITH_COST}
    assert rest == DONE


def test_a_provider_without_usage_gets_a_chunk_of_the_streams_own_kind() -> None:
    tap = CompletionsTap(wants_usage=True)
    tap.feed(chunk("Hello", "stop") + DONE)
    last = json.loads(tap.finish(**COSTS).partition(b"\n\n")[0].removeprefix(b"data: "))
    assert (last["id"], last["object"], last["choices"]) == ("cmpl-1", "text_completion", [])
    assert last["usage"] == {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3, **WITH_COST}


def test_the_echo_is_taken_off_the_count() -> None:
    tap = CompletionsTap(wants_usage=False, echoed=7)
    tap.feed(chunk("hello") + chunk("youand"))
    assert tap.output_bytes == 4


def test_a_failure_ends_in_an_error_and_for_money_in_a_length_before_it() -> None:
    tap = CompletionsTap(wants_usage=False)
    tap.feed(chunk("Hello"))
    assert tap.fail({"error": {"code": "x"}}, ran_out=False) == b'data: {"error":{"code":"x"}}\n\n' + DONE
    first, _, rest = tap.fail({"error": {"code": "x"}}, ran_out=True).partition(b"\n\n")
    (choice,) = json.loads(first.removeprefix(b"data: "))["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "length")
    assert rest == b'data: {"error":{"code":"x"}}\n\n' + DONE


def test_a_failure_before_anything_has_a_chunk_of_its_own() -> None:
    first = CompletionsTap(wants_usage=False).fail({"error": {}}, ran_out=True).partition(b"\n\n")[0]
    assert json.loads(first.removeprefix(b"data: "))["id"] == "cmpl-0"


def test_an_error_in_the_stream_is_seen_and_held_back() -> None:
    tap = CompletionsTap(wants_usage=False)
    assert tap.feed(chunk("Hello") + b'data: {"error":{"message":"boom"}}\n\n') == chunk("Hello")
    assert tap.error == {"message": "boom"}


@given(st.data())
def test_the_demo_providers_stream_is_the_same_however_it_was_cut(data: st.DataObject) -> None:
    asked = {"model": "echo", "prompt": ["one two", "drei vier"], "stream": True, "n": 2, "stream_options": {"include_usage": True}}
    stream = b"".join(piece.data for piece in demo.answer("echo", asked, endpoint="completions", created=1).pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    tap, got = CompletionsTap(wants_usage=False), b""
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += tap.feed(stream[start:stop])
    assert got + DONE == b"".join(event + b"\n\n" for event in stream.split(b"\n\n")[:-1] if b'"choices":[]' not in event)
    assert tap.usage == TokenUsage(input_tokens=5, output_tokens=10)
    assert tap.output_bytes == 2 * len("one twodrei vier")
