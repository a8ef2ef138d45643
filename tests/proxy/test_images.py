"""Image generation, pure: what a request asks for, what is spliced into it, and what an answer is billed for."""

import json
from typing import Any

import orjson
import pytest

from catalog.usage import TokenUsage
from proxy.body import parse_body
from proxy.formats import images
from proxy.formats.base import Facts, InvalidRequest, NotAnAnswer
from proxy.formats.images import ImagesWhole
from tests.fakes.provider import Case, recordings

CASES = recordings.cases(shape="images", statuses=[200])
COSTS: dict[str, Any] = {"estimate": TokenUsage(), "cost": 2_000_000_000, "upstream_cost": 1_000_000_000}
WITH_COST = {"cost": 2.0, "cost_details": {"upstream_inference_cost": 1.0}}
recorded = pytest.mark.skipif(not CASES, reason=recordings.SKIP_REASON)


def request(**fields: Any) -> Facts:
    return images.read_request(parse_body(orjson.dumps({"model": "m", "prompt": "a cat", **fields})))


def answer(count: int = 1, **more: Any) -> bytes:
    return orjson.dumps({"created": 1, "data": [{"b64_json": "iVBORw0KGgo="}] * count, **more})


# Requests


@pytest.mark.parametrize(("fields", "count"), [({}, 1), ({"n": None}, 1), ({"n": 1}, 1), ({"n": 10}, 10)])
def test_the_number_of_pictures_is_read(fields: dict[str, Any], count: int) -> None:
    facts = request(**fields)
    assert (facts.images, facts.choices, facts.output_limit, facts.stream) == (count, count, None, False)


def test_the_prompt_bounds_the_input() -> None:
    facts = request(prompt="é" * 100, user="alice")
    assert facts.input_bound >= 200
    assert (facts.input_estimate, facts.user_tag) == (25, "alice")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"n": "2"}, "n"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"stream": True}, "stream"),
        ({"stream": "yes"}, "stream"),
        ({"model": ""}, "model"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(**fields)
    assert caught.value.param == param


def test_only_the_model_is_spliced_and_only_when_it_differs() -> None:
    raw = b'{ "model":"m", "prompt":"a \\"model\\"", "quality": "hd", "n": 2 }'
    assert images.splice_request(parse_body(raw), upstream_model="up") == raw.replace(b'"m"', b'"up"')
    assert images.splice_request(parse_body(raw), upstream_model="m") == raw


# Answers


def test_each_picture_is_billed_whether_it_came_as_data_or_as_an_address() -> None:
    raw = orjson.dumps({"data": [{"b64_json": "aaaa"}, {"url": "https://x/y.png"}]})
    whole = ImagesWhole(raw, most=2)
    assert (whole.usage, whole.finish_reason) == (TokenUsage(images=2), "stop")
    assert whole.render(**COSTS) == raw


def test_an_item_without_a_picture_is_free_and_so_is_one_nobody_asked_for() -> None:
    data = [{"b64_json": "aaaa"}, {"revised_prompt": "x"}, {"b64_json": None, "url": None}, None]
    assert ImagesWhole(orjson.dumps({"data": data}), most=4).usage == TokenUsage(images=1)
    assert ImagesWhole(answer(5), most=3).usage == TokenUsage(images=3)


def test_tokens_are_billed_where_the_provider_tells_them() -> None:
    usage = {
        "input_tokens": 50,
        "input_tokens_details": {"text_tokens": 10, "image_tokens": 40, "cached_tokens": 8},
        "output_tokens": 4160,
        "output_tokens_details": {"image_tokens": 4000, "text_tokens": 160},
        "total_tokens": 4210,
    }
    whole = ImagesWhole(answer(1, usage=usage), most=1)
    assert whole.usage == TokenUsage(input_tokens=42, cached_input_tokens=8, output_tokens=4160, images=1)
    assert json.loads(whole.render(**COSTS))["usage"] == {**usage, **WITH_COST}


def test_tokens_named_as_in_chats_are_read_as_well() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 1290, "total_tokens": 1295}
    assert ImagesWhole(answer(1, usage=usage), most=1).usage == TokenUsage(input_tokens=5, output_tokens=1290, images=1)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        "x",
        {"cost_in_usd_ticks": 5},
        {"input_tokens": "many"},
        {"input_tokens": -5, "output_tokens": 1},
        {"input_tokens": 10**12, "output_tokens": 1},
    ],
)
def test_a_usage_that_tells_no_tokens_leaves_the_pictures(usage: Any) -> None:
    assert ImagesWhole(answer(2, usage=usage), most=2).usage == TokenUsage(images=2)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"{",
        b'{"data":[]}',
        b'{"data":"x"}',
        b'{"data":[{"revised_prompt":"x"}]}',
        b'{"data":[{"url":"u"}],"error":{"message":"no"}}',
    ],
)
def test_an_answer_without_a_picture_is_none_and_therefore_free(raw: bytes) -> None:
    with pytest.raises(NotAnAnswer):
        ImagesWhole(raw, most=1)


# Recordings


@recorded
@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_recorded_answer_is_billed_by_its_pictures_and_comes_out_as_it_was(case: Case) -> None:
    raw = case.response_bytes
    fields = json.loads(raw)
    whole = ImagesWhole(raw, most=10)
    assert whole.usage is not None
    assert whole.usage.images == len(fields["data"])
    if "usage" in fields:
        assert json.loads(whole.render(**COSTS)) == {**fields, "usage": {**fields["usage"], **WITH_COST}}
    else:
        assert whole.render(**COSTS) == raw


@pytest.mark.skipif(recordings.folder() is None, reason=recordings.SKIP_REASON)
def test_what_xai_says_a_picture_cost_is_remembered() -> None:
    (case,) = recordings.cases(shape="images", providers="xai")
    assert ImagesWhole(case.response_bytes, most=1).reported_cost == 20_000_000


@recorded
@pytest.mark.parametrize("case", [case for case in CASES if case.request], ids=[case.id for case in CASES if case.request])
def test_a_recorded_request_is_read_and_passed_on_but_for_its_model(case: Case) -> None:
    body = case.request_bytes
    assert body is not None
    assert images.read_request(parse_body(body)).images == case.request.get("n", 1)
    given = json.dumps(case.request["model"]).encode()
    assert images.splice_request(parse_body(body), upstream_model="up") == body.replace(given, b'"up"', 1)
