"""The chat format, pure: what a request asks for, what is spliced into it, what usage means, and the tap that watches a stream go by."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from catalog.usage import BUCKETS, TokenUsage
from proxy.body import parse_body
from proxy.formats import openai_chat
from proxy.formats.base import Facts, InvalidRequest, NotAnAnswer
from proxy.formats.openai_chat import ChatTap
from proxy.sse import EventTooLarge

DONE = b"data: [DONE]\n\n"


def request(**fields: Any) -> Facts:
    return openai_chat.read_request(parse_body(orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})))


def chunk(content: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    return {"id": "c1", "created": 5, "model": "up", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def event(value: Any, end: str = "\n") -> bytes:
    return b"data: " + orjson.dumps(value) + (end * 2).encode()


USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
COSTS: dict[str, Any] = {"estimate": TokenUsage(input_tokens=2, output_tokens=1), "cost": 2_000_000_000, "upstream_cost": 1_000_000_000}
WITH_COST = {"cost": 2.0, "cost_details": {"upstream_inference_cost": 1.0}}
OUR_COUNT = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3, **WITH_COST}
USAGE_CHUNK = {"id": "c1", "created": 5, "model": "up", "choices": [], "usage": USAGE}


# Requests


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_output_limit_is_read_from_either_field(field: str) -> None:
    assert request(**{field: 7}).output_limit == 7


def test_of_two_limits_the_larger_may_be_used() -> None:
    assert request(max_tokens=5, max_completion_tokens=9).output_limit == 9


def test_null_is_as_good_as_not_said() -> None:
    nothing = request(max_tokens=None, n=None, stream=None, stream_options=None, user=None)
    assert (nothing.output_limit, nothing.choices, nothing.stream, nothing.wants_usage, nothing.user_tag) == (None, 1, False, False, "")


def test_usage_is_wanted_only_of_a_stream() -> None:
    assert request(stream=True, stream_options={"include_usage": True}).wants_usage
    assert not request(stream_options={"include_usage": True}).wants_usage
    assert not request(stream=True).wants_usage


def test_a_request_of_the_responses_api_is_sent_to_its_own_address() -> None:
    with pytest.raises(InvalidRequest, match="/v1/responses") as refused:
        request(messages=None, input=[{"role": "user", "content": "hi"}])
    assert refused.value.param == "messages"


def test_a_missing_model_has_its_own_code() -> None:
    body = parse_body(b'{"messages":[{"role":"user","content":"hi"}]}')
    with pytest.raises(InvalidRequest) as caught:
        openai_chat.read_request(body)
    assert caught.value.code == "missing_model"


def test_the_user_tag_is_short_and_printable() -> None:
    assert request(user="a\x00b\nc" + "x" * 200).user_tag == "abc" + "x" * 95
    assert request(user=5).user_tag == ""


@given(st.text(max_size=300), st.lists(st.text(max_size=50), max_size=5))
def test_the_input_bound_is_never_below_a_token_a_byte(text: str, more: list[str]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": content} for content in [text, *more]]}
    raw = json.dumps(body).encode()
    read = openai_chat.read_request(parse_body(raw)) if not any("\ud800" <= letter <= "\udfff" for letter in text + "".join(more)) else None
    if read is not None:
        assert len(raw) <= read.input_bound
        assert 0 < read.input_estimate <= read.input_bound


def test_what_is_given_by_reference_counts_for_more_than_its_bytes() -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}
    assert request(messages=[image]).input_bound - request().input_bound >= openai_chat.TOKENS_PER_MEDIUM


# Splices


def splice(raw: bytes, *, limit: int | None = None, field: str = "max_tokens", streams_usage: bool = True) -> bytes:
    body = parse_body(raw)
    return openai_chat.splice_request(
        body, openai_chat.read_request(body), upstream_model="up", output_limit=limit, limit_field=field, streams_usage=streams_usage
    )


def body_of(rest: bytes) -> bytes:
    return b'{ "model":"m",  "messages":[{"role":"user","content":"hi"}]' + rest


@pytest.mark.parametrize(
    ("rest", "expected", "options"),
    [
        (b"}", b"}", {}),
        (b',"top_p":0.10}', b',"top_p":0.10}', {}),
        (b',"stream":true}', b',"stream":true,"stream_options":{"include_usage":true}}', {}),
        (b',"stream":true,"stream_options":{"include_usage":true}}', b',"stream":true,"stream_options":{"include_usage":true}}', {}),
        (b',"stream":true,"stream_options":{"a":1}}', b',"stream":true,"stream_options":{"a":1,"include_usage":true}}', {}),
        (b',"stream":true,"stream_options":null}', b',"stream":true,"stream_options":{"include_usage":true}}', {}),
        (b',"stream":true}', b',"stream":true}', {"streams_usage": False}),
        (b"}", b',"max_tokens":9}', {"limit": 9}),
        (b"}", b',"max_completion_tokens":9}', {"limit": 9, "field": "max_completion_tokens"}),
        (b',"max_tokens":50}', b',"max_tokens":9}', {"limit": 9, "field": "max_completion_tokens"}),
        (b',"max_tokens":50,"max_completion_tokens":60}', b',"max_tokens":9,"max_completion_tokens":9}', {"limit": 9}),
        (b',"max_tokens":null}', b',"max_tokens":9}', {"limit": 9}),
    ],
)
def test_only_the_declared_splices_are_made(rest: bytes, expected: bytes, options: dict[str, Any]) -> None:
    assert splice(body_of(rest), **options) == body_of(expected).replace(b'"m"', b'"up"')


def test_a_request_that_needs_no_splice_is_sent_as_it_came() -> None:
    raw = b'{"model":"up","messages":[{}]}'
    assert splice(raw) is raw


# Usage


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (USAGE, TokenUsage(input_tokens=3, output_tokens=4)),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 10, "audio_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 3},
            },
            TokenUsage(
                input_tokens=45,
                cached_input_tokens=40,
                cache_write_tokens=10,
                audio_input_tokens=5,
                output_tokens=27,
                reasoning_tokens=20,
                audio_output_tokens=3,
            ),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 4},
            TokenUsage(input_tokens=5, cached_input_tokens=4, output_tokens=1),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 1, "cached_tokens": 4},
            TokenUsage(input_tokens=5, cached_input_tokens=4, output_tokens=1),
        ),
        (
            {"prompt_tokens": 70, "completion_tokens": 12, "total_tokens": 82, "num_cached_tokens": 69},
            TokenUsage(input_tokens=1, cached_input_tokens=69, output_tokens=12),
        ),
        ({"prompt_tokens": 9}, TokenUsage(input_tokens=9)),
        ({"prompt_tokens": 9, "completion_tokens": None, "prompt_tokens_details": None}, TokenUsage(input_tokens=9)),
        ({"prompt_tokens": 9.0, "completion_tokens": 2.0}, TokenUsage(input_tokens=9, output_tokens=2)),
    ],
)
def test_usage_falls_into_disjoint_buckets(usage: dict[str, Any], expected: TokenUsage) -> None:
    assert openai_chat.read_usage(usage) == expected


def test_reasoning_outside_the_completion_is_added() -> None:
    xai = {"prompt_tokens": 307, "completion_tokens": 26, "total_tokens": 588, "completion_tokens_details": {"reasoning_tokens": 255}}
    assert openai_chat.read_usage(xai) == TokenUsage(input_tokens=307, output_tokens=26, reasoning_tokens=255)


def test_reasoning_above_the_completion_never_makes_a_count_negative() -> None:
    strange = {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15, "completion_tokens_details": {"reasoning_tokens": 12}}
    assert openai_chat.read_usage(strange) == TokenUsage(input_tokens=5, reasoning_tokens=10)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
        {"input_tokens": 5, "output_tokens": 5},
    ],
)
def test_what_has_no_counts_is_no_usage(usage: Any) -> None:
    assert openai_chat.read_usage(usage) is None


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5, "completion_tokens": 1},
        {"prompt_tokens": "5", "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": 1.5, "completion_tokens": 1},
        {"prompt_tokens": float("nan"), "completion_tokens": 1},
        {"prompt_tokens": float("inf"), "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": -1}},
        {"prompt_tokens": [1], "completion_tokens": 1},
    ],
)
def test_what_is_not_a_count_is_not_believed(usage: Any) -> None:
    read = openai_chat.read_usage(usage)
    assert read is not None
    assert not read.is_sane()


COUNT = st.one_of(st.none(), st.integers(-10, 10**7), st.floats(), st.text(max_size=3), st.booleans())
DETAILS = st.one_of(
    st.none(),
    st.text(max_size=2),
    st.dictionaries(st.sampled_from(["cached_tokens", "cache_write_tokens", "audio_tokens", "reasoning_tokens"]), COUNT),
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens": COUNT,
            "completion_tokens": COUNT,
            "total_tokens": COUNT,
            "cached_tokens": COUNT,
            "prompt_cache_hit_tokens": COUNT,
            "prompt_tokens_details": DETAILS,
            "completion_tokens_details": DETAILS,
        },
    )
)
def test_whatever_a_provider_says_no_bucket_is_negative_and_none_is_lost(usage: dict[str, Any]) -> None:
    read = openai_chat.read_usage(usage)
    if read is None or not read.is_sane():
        return
    assert all(getattr(read, bucket) >= 0 for bucket in BUCKETS)
    assert read.total_input_tokens >= (usage.get("prompt_tokens") or 0)
    assert read.total_output_tokens >= (usage.get("completion_tokens") or 0)


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        ({"cost": 0.001156}, 1_156_000),
        ({"cost": 0}, 0),
        ({"cost_in_usd_ticks": 1777000}, 177_700),
        ({"cost_in_usd_ticks": 1}, 1),
        ({"cost": {"total_cost": 0.005}}, None),
        ({"cost": "1"}, None),
        ({"cost": -1}, None),
        ({"cost": float("nan")}, None),
        ({"cost": True}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_cost_a_provider_reports_is_kept_for_audit(usage: Any, nano: int | None) -> None:
    assert openai_chat.read_reported_cost(usage) == nano


# Whole answers


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b"<html>", b"{}", b'{"choices":{}}', b'{"choices":[],"error":{"message":"x"}}', DONE]
)
def test_what_is_no_completion_is_told_apart(raw: bytes) -> None:
    with pytest.raises(NotAnAnswer):
        openai_chat.ChatWhole(raw)


def test_an_answer_tells_its_end_and_its_size() -> None:
    message = {"content": "four", "reasoning_content": "six66!", "tool_calls": [{"function": {"name": "ab", "arguments": '{"q":1}'}}]}
    whole = openai_chat.ChatWhole(orjson.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": None}))
    assert (whole.finish_reason, whole.usage) == ("tool_calls", None)
    assert whole.output_bytes == len("four") + len("six66!") + len("ab") + len('{\\"q\\":1}')


# The tap


def tap_all(pieces: list[bytes], *, wants_usage: bool = False) -> tuple[bytes, ChatTap]:
    tap = ChatTap(wants_usage=wants_usage)
    out = b""
    for piece in pieces:
        out += tap.feed(piece)
        if tap.done or tap.error is not None:
            break
    else:
        out += tap.flush()
    return out, tap


CONTENT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
EVENTS = st.one_of(
    CONTENT.map(lambda text: event(chunk(text))),
    CONTENT.map(lambda text: event(chunk(text, usage=None))),
    CONTENT.map(lambda text: event(chunk(text, usage=USAGE))),
    st.sampled_from(
        [
            event(USAGE_CHUNK),
            event(chunk(finish="stop")),
            event({"choices": [], "prompt_filter_results": []}),
            event(chunk('"usage": {"error": {"data: [DONE]')),
            b": keep-alive\n\n",
            b"data: {broken\n\n",
            b"data:\n\n",
            b"event: x\nid: 1\ndata: {}\n\n",
        ]
    ),
)


@given(st.lists(EVENTS, max_size=8), st.sampled_from([b"", DONE]), st.sampled_from(["\n", "\r\n", "\r"]), st.data(), st.booleans())
@example([event(USAGE_CHUNK)], b"", "\r", None, True)
def test_any_splitting_gives_the_same_bytes_and_the_same_count(
    events: list[bytes], end: bytes, line: str, data: st.DataObject | None, wants: bool
) -> None:
    whole = (b"".join(events) + end).replace(b"\n", line.encode())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=10))) if data is not None else [1, 2, len(whole) - 1]
    pieces = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    one, left = tap_all([whole], wants_usage=wants)
    other, right = tap_all(pieces, wants_usage=wants)
    assert one == other
    assert (left.usage, left.finish_reason, left.done, left.error) == (right.usage, right.finish_reason, right.done, right.error)
    assert left.output_bytes == right.output_bytes
    assert left.finish(**COSTS) == right.finish(**COSTS)


@given(st.lists(EVENTS, max_size=8))
def test_what_is_forwarded_is_what_came_but_for_the_usage_chunk(events: list[bytes]) -> None:
    out, _ = tap_all([*events, DONE])
    assert out == b"".join(one for one in events if one != event(USAGE_CHUNK))


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_arbitrary_bytes_break_nothing(pieces: list[bytes]) -> None:
    out, tap = tap_all(pieces)
    assert len(out) <= sum(map(len, pieces)) + 2
    assert tap.output_bytes >= 0


def test_the_usage_chunk_is_hidden_unless_asked_for_and_then_carries_the_cost() -> None:
    stream = [event(chunk("hi")), event(chunk(finish="stop")), event(USAGE_CHUNK), DONE]
    out, tap = tap_all(stream)
    assert out == stream[0] + stream[1]
    assert (tap.raw_usage, tap.done, tap.finish_reason, tap.output_bytes) == (USAGE, True, "stop", 2)
    assert tap.finish(**COSTS) == DONE
    _, tap = tap_all(stream, wants_usage=True)
    assert tap.finish(**COSTS) == event({**USAGE_CHUNK, "usage": {**USAGE, **WITH_COST}}) + DONE


def test_a_usage_chunk_is_made_where_the_provider_sent_none() -> None:
    _, tap = tap_all([event(chunk("hi", finish="stop")), DONE], wants_usage=True)
    last, done = tap.finish(**COSTS).split(b"\n\n")[:2]
    made = orjson.loads(last.removeprefix(b"data: "))
    assert done + b"\n\n" == DONE
    assert made == {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "up", "choices": [], "usage": OUR_COUNT}


def test_usage_that_stands_with_choices_passes_and_is_read() -> None:
    stream = event(chunk("hi", usage=USAGE))
    out, tap = tap_all([stream])
    assert (out, tap.raw_usage) == (stream, USAGE)


def test_usage_of_groq_is_found_in_its_own_place() -> None:
    _, tap = tap_all([event(chunk(finish="stop", x_groq={"id": "r", "usage": USAGE}))])
    assert tap.raw_usage == USAGE


@pytest.mark.parametrize("error", [{"message": "boom"}, "boom"])
def test_an_error_event_stops_the_stream_and_is_not_forwarded(error: Any) -> None:
    out, tap = tap_all([event(chunk("hi")), event({"error": error}), event(chunk("more"))])
    assert (out, tap.error) == (event(chunk("hi")), error)


def test_text_that_looks_like_an_error_or_an_end_is_text() -> None:
    text = chunk('{"error": {"message": 1}} data: [DONE] "usage": {"prompt_tokens": 1}')
    out, tap = tap_all([event(text)])
    assert (out, tap.error, tap.done, tap.usage) == (event(text), None, False, None)


def test_the_last_event_may_lack_its_last_line_end() -> None:
    for tail in (b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n"):
        _, tap = tap_all([event(chunk("hi", finish="stop")), tail])
        assert tap.done
    out, tap = tap_all([event(chunk("hi")), event(USAGE_CHUNK).rstrip()])
    assert tap.raw_usage == USAGE
    assert out == event(chunk("hi"))


def test_half_an_event_at_the_end_is_not_forwarded() -> None:
    out, tap = tap_all([event(chunk("hi")), event(chunk("there"))[:-20]])
    assert (out, tap.done, tap.output_bytes) == (event(chunk("hi")), False, 2)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "12345678"},
        {"reasoning_content": "12345678"},
        {"reasoning": "12345678"},
        {"refusal": "12345678"},
        {"tool_calls": [{"index": 0, "function": {"name": "1234", "arguments": "5678"}}]},
    ],
)
def test_everything_a_model_says_is_counted(delta: dict[str, Any]) -> None:
    _, tap = tap_all([event({"choices": [{"index": 0, "delta": delta}]})])
    assert tap.output_bytes == 8


def test_a_failure_ends_with_an_error_and_the_terminator() -> None:
    _, tap = tap_all([event(chunk("hi"))])
    assert tap.fail({"error": {"code": "x"}}, ran_out=False) == event({"error": {"code": "x"}}) + DONE
    first, *rest = tap.fail({"error": {"code": "x"}}, ran_out=True).split(b"\n\n")
    assert orjson.loads(first.removeprefix(b"data: "))["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert b"\n\n".join(rest) == event({"error": {"code": "x"}}) + DONE


def test_an_endless_event_is_refused() -> None:
    tap = ChatTap(wants_usage=False)
    with pytest.raises(EventTooLarge):
        for _ in range(34):
            tap.feed(b"a" * 1_000_000)


@pytest.mark.parametrize("reason", ["stop", "STOP", "eos", "stop-sequence", "max tokens"])
def test_a_finish_reason_of_any_spelling_is_one(reason: str) -> None:
    _, tap = tap_all([event(chunk(finish=reason))])
    assert tap.finish_reason == reason


def test_a_made_chunk_has_the_identity_of_the_stream_behind_comments_and_nameless_events() -> None:
    azure = {"id": "", "model": "", "choices": [], "prompt_filter_results": []}
    _, tap = tap_all(
        [b": OPENROUTER PROCESSING\n\n", event(azure), event(chunk("x" * 8000)), event(chunk(finish="stop")), DONE], wants_usage=True
    )
    made = orjson.loads(tap.finish(**COSTS).split(b"\n\n")[0].removeprefix(b"data: "))
    assert (made["id"], made["created"], made["model"]) == ("c1", 5, "up")
