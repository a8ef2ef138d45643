"""Embeddings, pure: what a request asks for, what is spliced into it, what an answer used, and numbers as base64."""

import base64
import json
import struct
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.usage import TokenUsage
from proxy.body import parse_body
from proxy.formats import embeddings
from proxy.formats.base import Facts, InvalidRequest, NotAnAnswer
from proxy.formats.embeddings import EmbeddingsWhole
from proxy.formats.fields import TOKENS_PER_TEXT
from tests.fakes.provider import Case, recordings

CASES = recordings.cases(shape="embeddings", statuses=[200])
COSTS: dict[str, Any] = {"estimate": TokenUsage(input_tokens=9), "cost": 2_000_000_000, "upstream_cost": 1_000_000_000}
WITH_COST = {"cost": 2.0, "cost_details": {"upstream_inference_cost": 1.0}}
recorded = pytest.mark.skipif(not CASES, reason=recordings.SKIP_REASON)
each_case = pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])


def request(**fields: Any) -> Facts:
    return embeddings.read_request(parse_body(orjson.dumps({"model": "m", "input": "hi", **fields})))


def spliced(raw: bytes, *, knows_base64: bool = True) -> bytes:
    return embeddings.splice_request(parse_body(raw), upstream_model="up", knows_base64=knows_base64)


def answer(*vectors: Any, **more: Any) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return orjson.dumps({"object": "list", "data": data, "model": "up", "usage": {"prompt_tokens": 3, "total_tokens": 3}, **more})


def decode(text: str) -> list[float]:
    raw = base64.b64decode(text)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


# Requests


@pytest.mark.parametrize(
    ("given", "prompts", "bound", "estimate"),
    [
        ("hello", 1, 5, 2),
        ("héé", 1, 5, 2),
        (["hello", "you"], 2, 8, 2),
        ([1, 2, 3], 1, 3, 3),
        ([[1, 2, 3], [99999]], 2, 4, 4),
        (["hello", [7, 8]], 2, 7, 4),
        ("", 1, 0, 1),
    ],
)
def test_the_input_is_measured_in_every_form_it_may_have(given: Any, prompts: int, bound: int, estimate: int) -> None:
    facts = request(input=given)
    assert facts.prompts == prompts
    assert facts.input_bound == bound + TOKENS_PER_TEXT * prompts
    assert facts.input_estimate == estimate


def test_nothing_comes_out_and_nothing_is_streamed() -> None:
    facts = request(user="alice", dimensions=256, encoding_format="base64")
    assert (facts.output_limit, facts.choices, facts.images, facts.stream, facts.user_tag) == (0, 1, 0, False, "alice")


@given(st.lists(st.one_of(st.text(max_size=40), st.lists(st.integers(0, 200_000), min_size=1, max_size=9)), min_size=1, max_size=20))
def test_the_bound_is_a_token_a_byte_of_text_and_exact_for_tokens(inputs: list[Any]) -> None:
    facts = request(input=inputs)
    exact = sum(len(each.encode()) if isinstance(each, str) else len(each) for each in inputs)
    assert facts.input_bound == exact + TOKENS_PER_TEXT * len(inputs)
    assert 0 < facts.input_estimate <= facts.input_bound


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": {"text": "x"}}, "input"),
        ({"input": ["x", 5]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [1, -1]}, "input"),
        ({"input": [1, True]}, "input"),
        ({"input": [[1.5]]}, "input"),
        ({"input": [{"type": "image_url"}]}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": [[1]] * 2049}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "big"}, "dimensions"),
        ({"dimensions": True}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"encoding_format": ["float"]}, "encoding_format"),
        ({"stream": True}, "stream"),
        ({"model": 5}, "model"),
        ({"model": "m" * 201}, "model"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(**fields)
    assert caught.value.param == param


def test_2048_inputs_and_any_number_of_tokens_are_taken() -> None:
    assert request(input=["x"] * 2048).prompts == 2048
    assert request(input=[7] * 5000).input_bound == 5000 + TOKENS_PER_TEXT


def test_a_missing_model_has_its_own_code() -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(model=None)
    assert caught.value.code == "missing_model"


def test_only_the_model_is_spliced_and_only_when_it_differs() -> None:
    raw = b'{ "input" : ["\xc3\xa9", "model"],  "model": "m", "encoding_format":"base64", "x": 1.50 }'
    assert spliced(raw) == raw.replace(b'"m"', b'"up"')
    same = raw.replace(b'"m"', b'"up"')
    assert spliced(same) is same


def test_a_provider_without_base64_is_asked_for_numbers() -> None:
    raw = b'{"model":"up","input":"base64","encoding_format":"base64"}'
    assert spliced(raw, knows_base64=False) == b'{"model":"up","input":"base64","encoding_format":"float"}'
    for other in (b'{"model":"up","input":"hi"}', b'{"model":"up","input":"hi","encoding_format":"float"}'):
        assert spliced(other, knows_base64=False) == other


# Answers


def test_an_answer_is_charged_for_its_input_and_has_a_reason() -> None:
    whole = EmbeddingsWhole(answer([0.5, 1]), wants_base64=False)
    assert (whole.usage, whole.finish_reason, whole.output_bytes) == (TokenUsage(input_tokens=3), "stop", 0)


def test_only_the_usage_of_an_answer_is_put_in_anew() -> None:
    raw = b'\n\n  {"object":"list", "data":[{"embedding":[1.0,-2e-5],"index":0}],"usage":{"prompt_tokens":3,"total_tokens":3}, "id":"x"}'
    rendered = EmbeddingsWhole(raw, wants_base64=False).render(**COSTS)
    before, _, after = raw.partition(b'{"prompt_tokens":3,"total_tokens":3}')
    assert rendered.startswith(before)
    assert rendered.endswith(after)
    assert json.loads(rendered)["usage"] == {"prompt_tokens": 3, "total_tokens": 3, **WITH_COST}


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": 0, "total_tokens": 0}, {"prompt_tokens": "many"}, "x", {"prompt_tokens": -1}]
)
def test_an_answer_that_tells_no_tokens_shows_our_own_count(usage: Any) -> None:
    whole = EmbeddingsWhole(answer([1.0], usage=usage), wants_base64=False)
    assert whole.usage is None or not whole.usage.is_sane()
    assert json.loads(whole.render(**COSTS))["usage"] == {"prompt_tokens": 9, "total_tokens": 9, **WITH_COST}


def test_what_the_provider_says_it_cost_is_remembered() -> None:
    usage = {"prompt_tokens": 3, "total_tokens": 3, "cost": 6e-8}
    assert EmbeddingsWhole(answer([1.0], usage=usage), wants_base64=False).reported_cost == 60


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"not json",
        b'{"object":"list"}',
        b'{"data":[]}',
        b'{"data":{}}',
        b'{"data":[5]}',
        b'{"data":[{"index":0}]}',
        b'{"data":[{"embedding":[]}]}',
        b'{"data":[{"embedding":[1.0]}],"error":{"message":"no"}}',
    ],
)
def test_what_is_no_answer_is_told_apart(raw: bytes) -> None:
    with pytest.raises(NotAnAnswer):
        EmbeddingsWhole(raw, wants_base64=False)


def test_numbers_are_encoded_where_base64_was_asked_for() -> None:
    raw = answer([0.5, -1, 3e-05], "AAAAPw==", id="e1")
    fields = json.loads(EmbeddingsWhole(raw, wants_base64=True).render(**COSTS))
    assert decode(fields["data"][0]["embedding"]) == [0.5, -1.0, pytest.approx(3e-05)]
    assert fields["data"][1]["embedding"] == "AAAAPw=="
    assert (fields["id"], fields["model"], fields["usage"]["cost"]) == ("e1", "up", 2.0)


def test_base64_passes_through_as_it_came() -> None:
    raw = b'{"data":[{"embedding":"AAAAPw==","index":0} ],"usage":{"prompt_tokens":3,"total_tokens":3}}'
    assert EmbeddingsWhole(raw, wants_base64=True).render(**COSTS).startswith(b'{"data":[{"embedding":"AAAAPw==","index":0} ],')


def test_a_vector_of_anything_else_is_no_answer() -> None:
    for vector in (["a"], [None], [[1.0]]):
        with pytest.raises(NotAnAnswer):
            EmbeddingsWhole(answer(vector), wants_base64=True)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_a_single_precision_vector_survives_its_encoding(numbers: list[float]) -> None:
    assert decode(embeddings.encode_vector(numbers)) == numbers


def test_base64_is_little_endian_single_precision() -> None:
    assert embeddings.encode_vector([0.5]) == base64.b64encode(b"\x00\x00\x00\x3f").decode()
    assert embeddings.encode_vector([1]) == base64.b64encode(b"\x00\x00\x80\x3f").decode()


# Recordings


@recorded
@each_case
def test_a_recorded_answer_comes_out_with_its_tokens_and_its_bytes(case: Case) -> None:
    raw = case.response_bytes
    usage = json.loads(raw)["usage"]
    whole = EmbeddingsWhole(raw, wants_base64=False)
    assert whole.usage == TokenUsage(input_tokens=usage["prompt_tokens"])
    rendered = whole.render(**COSTS)
    expected = {**json.loads(raw), "usage": {**usage, **WITH_COST}}
    assert json.loads(rendered) == expected
    assert rendered[: raw.index(b'"usage"')] == raw[: raw.index(b'"usage"')]


@recorded
@each_case
def test_a_recorded_answer_in_base64_says_the_same(case: Case) -> None:
    fields = json.loads(EmbeddingsWhole(case.response_bytes, wants_base64=True).render(**COSTS))
    for sent, got in zip(json.loads(case.response_bytes)["data"], fields["data"], strict=True):
        vector = sent["embedding"]
        assert decode(got["embedding"]) == (decode(vector) if isinstance(vector, str) else [pytest.approx(x, rel=1e-6) for x in vector])


@recorded
@pytest.mark.parametrize("case", [case for case in CASES if case.request], ids=[case.id for case in CASES if case.request])
def test_a_recorded_request_is_read_and_its_bound_covers_what_was_used(case: Case) -> None:
    body = case.request_bytes
    assert body is not None
    facts = embeddings.read_request(parse_body(body))
    assert facts.input_bound >= json.loads(case.response_bytes)["usage"]["prompt_tokens"]
    given = json.dumps(case.request["model"]).encode()
    assert embeddings.splice_request(parse_body(body), upstream_model="up", knows_base64=True) == body.replace(given, b'"up"', 1)
