"""The demo provider answers as an OpenAI-compatible server would: the same bytes every time, counted by the rule it states."""

import base64
import json
import math
import re
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion, CreateEmbeddingResponse, ImagesResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.providers import demo
from proxy.providers.demo import generation, models, pictures, reading, vectors

CREATED = 1_790_000_000
TEXT_MODELS = ("echo", "lorem", "reasoning", "tools", "json", "slow")
SAID = "Wie heißt die Stadt?\n  Grüße 🙂  "
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}


def chat(text: Any = SAID, **more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": text}], **more}


def ask(model: str, body: dict[str, Any], endpoint: demo.Endpoint = "chat") -> demo.DemoAnswer:
    return demo.answer(model, body, endpoint=endpoint, created=CREATED)


def whole(model: str, body: dict[str, Any], endpoint: demo.Endpoint = "chat", status: int = 200) -> dict[str, Any]:
    answer = ask(model, body, endpoint)
    data = b"".join(piece.data for piece in answer.pieces)
    assert answer.status == status, data
    headers = dict(answer.headers)
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(data))
    assert not answer.breaks
    parsed: dict[str, Any] = json.loads(data)
    return parsed


def events(answer: demo.DemoAnswer) -> list[Any]:
    """Read a stream that has come to its proper end."""
    assert answer.status == 200
    assert dict(answer.headers)["content-type"].startswith("text/event-stream")
    frames = [piece.data.decode() for piece in answer.pieces]
    assert all(frame.startswith("data: ") and frame.endswith("\n\n") for frame in frames)
    assert frames[-1] == "data: [DONE]\n\n"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-1]]


def streamed(model: str, body: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Put the choices of a stream together again, as a client does, and read the usage."""
    chunks = events(ask(model, {**body, "stream": True, "stream_options": {"include_usage": True}}))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks[:-1]:
        assert chunk["usage"] is None
        for part in chunk["choices"]:
            choice = choices.setdefault(part["index"], {"index": part["index"], "message": {}, "finish_reason": None})
            assert choice["finish_reason"] is None
            choice["finish_reason"] = part["finish_reason"]
            join(choice["message"], part["delta"])
    assert chunks[-1]["choices"] == []
    return [choices[index] for index in sorted(choices)], chunks[-1]["usage"]


def join(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        if key == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for part in value:
                if part["index"] == len(calls):
                    calls.append({"id": part["id"], "type": part["type"], "function": dict(part["function"])})
                else:
                    assert part.keys() == {"index", "function"}
                    assert part["function"].keys() == {"arguments"}
                    calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
        elif key in {"content", "reasoning_content"} and isinstance(message.get(key), str):
            message[key] += value
        else:
            message[key] = value


def text(body: dict[str, Any]) -> Any:
    return body["choices"][0]["message"]["content"]


def finish(body: dict[str, Any]) -> Any:
    return body["choices"][0]["finish_reason"]


def error(model: str, body: dict[str, Any], endpoint: demo.Endpoint = "chat", status: int = 400) -> dict[str, Any]:
    answered = whole(model, body, endpoint, status)
    assert answered.keys() == {"error"}
    assert answered["error"].keys() == {"message", "type", "param", "code"}
    found: dict[str, Any] = answered["error"]
    return found


BODIES = [
    chat(),
    chat(n=3, seed=5),
    chat(max_tokens=7),
    chat(max_completion_tokens=1),
    chat(stop=["e", "zz"]),
    chat(tools=[WEATHER, CLOCK]),
    chat(tools=[WEATHER, CLOCK], max_tokens=6, n=2),
    chat(""),
    chat("   \n"),
    chat("half a pair \ud83d, and no more"),
    chat("a long one " * 900, prompt_cache_key="k"),
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("model", TEXT_MODELS)
def test_a_stream_says_and_counts_what_the_whole_answer_does(model: str, body: dict[str, Any]) -> None:
    answered = whole(model, body)
    ChatCompletion.model_validate(answered)
    choices, usage = streamed(model, body)
    for choice in answered["choices"]:
        del choice["logprobs"]
    assert choices == answered["choices"]
    assert usage == answered["usage"]


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_the_same_body_gives_the_same_bytes(model: str) -> None:
    for body in (chat(tools=[WEATHER]), chat(tools=[WEATHER], stream=True)):
        assert list(ask(model, body).pieces) == list(ask(model, body).pieces)


def test_the_id_belongs_to_the_request_and_not_to_the_way_it_is_sent() -> None:
    body = chat()
    ident = whole("echo", body)["id"]
    assert re.fullmatch(r"chatcmpl-demo[0-9a-f]{24}", ident)
    assert {chunk["id"] for chunk in events(ask("echo", {**body, "stream": True}))} == {ident}
    assert whole("echo", chat("another"))["id"] != ident
    assert whole("echo", body)["created"] == CREATED


@pytest.mark.parametrize("model", [model for model in TEXT_MODELS if model != "slow"])
def test_ordinary_models_never_wait(model: str) -> None:
    for body in (chat(), chat(stream=True)):
        assert all(piece.after_seconds == 0 for piece in ask(model, body).pieces)


def test_a_stream_opens_with_the_role_and_has_a_chunk_for_each_word() -> None:
    chunks = events(ask("echo", chat("one two  three", stream=True)))
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "one"},
        {"content": " two"},
        {"content": "  three"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["stop"]
    assert not any("usage" in chunk for chunk in chunks)


# ---- counting ---------------------------------------------------------------------------------------------------------------------


def test_tokens_are_a_quarter_of_the_bytes_and_four_for_each_message() -> None:
    messages = [{"role": "system", "content": "abcd"}, {"role": "user", "content": "äbcd"}]
    usage = whole("echo", {"messages": messages})["usage"]
    assert usage["prompt_tokens"] == (4 + 1) + (4 + 2)
    assert usage["completion_tokens"] == 2
    assert usage["total_tokens"] == 13
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 0


def test_long_messages_are_cached_only_with_a_cache_key() -> None:
    messages = [{"role": "system", "content": "x" * 5000}, {"role": "user", "content": "x" * 100}, {"role": "user", "content": "y" * 9000}]
    cached = [
        whole("echo", {"messages": messages, **more})["usage"]["prompt_tokens_details"]["cached_tokens"]
        for more in ({}, {"prompt_cache_key": "k"})
    ]
    assert cached == [0, 2048]


def test_every_choice_is_counted_and_the_prompt_once() -> None:
    one, three = whole("lorem", chat())["usage"], whole("lorem", chat(n=3))["usage"]
    assert three["prompt_tokens"] == one["prompt_tokens"]
    assert three["completion_tokens"] > 2 * one["completion_tokens"]


@given(said=st.text(max_size=80), limit=st.integers(1, 30), model=st.sampled_from(TEXT_MODELS))
def test_no_answer_is_longer_than_its_limit(said: str, limit: int, model: str) -> None:
    answered = whole(model, chat(said, max_tokens=limit))
    message = answered["choices"][0]["message"]
    counted = demo.count_tokens(message["content"]) + demo.count_tokens(message.get("reasoning_content", ""))
    assert answered["usage"]["completion_tokens"] == counted <= limit


@given(limit=st.integers(1, 40))
def test_tool_calls_are_cut_at_the_limit_too(limit: int) -> None:
    answered = whole("tools", chat(tools=[WEATHER, CLOCK], max_tokens=limit))
    calls = [call["function"] for call in answered["choices"][0]["message"]["tool_calls"]]
    complete = demo.count_tokens("get_weather") + demo.count_tokens("get_time")
    assert answered["usage"]["completion_tokens"] <= limit
    assert calls[0]["name"] == "get_weather"
    if limit >= demo.count_tokens("get_weather"):
        counted = sum(demo.count_tokens(call["name"]) + demo.count_tokens(call["arguments"]) for call in calls)
        assert answered["usage"]["completion_tokens"] == counted
    if finish(answered) == "tool_calls":
        assert limit >= complete
        assert [json.loads(call["arguments"])["city"] for call in calls] == ["Paris", "Paris"]


# ---- each model -------------------------------------------------------------------------------------------------------------------


def test_echo_repeats_the_last_user_message() -> None:
    messages = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "between"},
        {"role": "user", "content": SAID},
        {"role": "assistant", "content": "after"},
    ]
    answered = whole("echo", {"messages": messages})
    assert (text(answered), finish(answered)) == (SAID, "stop")


def test_echo_describes_what_is_no_text() -> None:
    parts = [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJDRA=="}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "input_audio", "input_audio": {"format": "wav", "data": "QUJD"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"}},
    ]
    answered = whole("echo", chat(parts))
    assert text(answered).splitlines() == [
        "Look:",
        "[image: image/png, 4 bytes]",
        "[image: https://example.com/a.png]",
        "[audio: wav, 3 bytes]",
        "[file: a.pdf]",
    ]
    assert answered["usage"]["prompt_tokens"] == 4 + 2 + 4 * reading.MEDIA_TOKENS


def test_echo_is_cut_between_characters() -> None:
    answered = whole("echo", chat("aä🙂🙂", max_tokens=1))
    assert (text(answered), finish(answered)) == ("aä", "length")


def test_echo_ends_before_the_first_stop() -> None:
    answered = whole("echo", chat("one two three", stop=["three", " two"]))
    assert (text(answered), finish(answered)) == ("one", "stop")
    assert text(whole("echo", chat("one two", stop="x"))) == "one two"


def test_lorem_is_as_long_as_asked() -> None:
    usual, short, long = (whole("lorem", chat(**more)) for more in ({}, {"max_tokens": 5}, {"max_tokens": 900}))
    assert 100 <= usual["usage"]["completion_tokens"] <= 130
    assert finish(usual) == "stop"
    assert text(usual).startswith("Lorem ipsum dolor sit amet")
    for answered, tokens in ((short, 5), (long, 900)):
        assert answered["usage"]["completion_tokens"] == tokens
        assert finish(answered) == "length"
    most = whole("lorem", chat(max_tokens=10**9))["usage"]["completion_tokens"]
    assert most == generation.MAX_OUTPUT_TOKENS


def test_lorem_differs_by_seed_and_choice() -> None:
    first, second = (whole("lorem", chat(seed=seed, n=2))["choices"] for seed in (1, 2))
    assert len({choice["message"]["content"] for choice in [*first, *second]}) == 4
    assert whole("lorem", chat(seed=1, n=2))["choices"] == first


def test_reasoning_comes_first_and_is_counted() -> None:
    chunks = events(ask("reasoning", chat("Why?", stream=True)))
    kinds = [key for chunk in chunks for key in chunk["choices"][0]["delta"] if key in {"reasoning_content", "content"}][1:]
    assert kinds == sorted(kinds, reverse=True)
    answered = whole("reasoning", chat("Why?"))
    message, usage = answered["choices"][0]["message"], answered["usage"]
    thought = usage["completion_tokens_details"]["reasoning_tokens"]
    assert thought == demo.count_tokens(message["reasoning_content"]) > 0
    assert usage["completion_tokens"] == thought + demo.count_tokens(message["content"])


def test_more_effort_means_more_reasoning() -> None:
    lengths = [
        whole("reasoning", chat(reasoning_effort=effort))["usage"]["completion_tokens_details"]["reasoning_tokens"]
        for effort in ("none", "minimal", "low", "medium", "high", "xhigh")
    ]
    assert lengths[0] == 0
    assert lengths == sorted(set(lengths))
    assert error("reasoning", chat(reasoning_effort="huge"))["param"] == "reasoning_effort"


def called(body: dict[str, Any]) -> dict[str, Any]:
    answered = whole("tools", body)
    assert finish(answered) == "tool_calls"
    assert text(answered) is None
    calls = answered["choices"][0]["message"]["tool_calls"]
    assert len({call["id"] for call in calls}) == len(calls)
    return {call["function"]["name"]: json.loads(call["function"]["arguments"]) for call in calls}


def test_tools_calls_the_tool_that_is_offered() -> None:
    assert called(chat(tools=[WEATHER])) == {"get_weather": {"city": "Paris", "unit": "celsius", "days": 1}}
    assert called(chat(tools=[{"type": "function", "function": {"name": "now"}}])) == {"now": {}}


def test_tools_calls_two_at_once_unless_told_otherwise() -> None:
    offered = [WEATHER, CLOCK, {"type": "function", "function": {"name": "third"}}]
    assert called(chat(tools=offered)).keys() == {"get_weather", "get_time"}
    assert called(chat(tools=offered, parallel_tool_calls=False)).keys() == {"get_weather"}


def test_tools_obeys_the_choice() -> None:
    offered = [WEATHER, CLOCK]
    named = {"type": "function", "function": {"name": "get_time"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named]}}
    assert called(chat(tools=offered, tool_choice=named)).keys() == {"get_time"}
    assert called(chat(tools=offered, tool_choice=allowed)).keys() == {"get_time"}
    assert finish(whole("tools", chat(tools=offered, tool_choice="none"))) == "stop"
    unknown = {"type": "function", "function": {"name": "other"}}
    assert error("tools", chat(tools=offered, tool_choice=unknown))["param"] == "tool_choice"


def test_tools_speaks_when_the_tools_have_answered() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "noon"}]},
    ]
    answered = whole("tools", {"messages": messages, "tools": [WEATHER]})
    assert (text(answered), finish(answered)) == ("The tool answered: 18 degrees / noon", "stop")


def test_json_is_json_however_it_is_asked() -> None:
    for more in ({}, {"response_format": {"type": "json_object"}}, {"response_format": {"type": "text"}}):
        assert json.loads(text(whole("json", chat("hi", **more)))) == {"answer": "hi"}


def test_slow_takes_two_seconds_or_what_the_user_says() -> None:
    for said, seconds in (("hello", 2.0), ("please wait 0.2 s", 0.2), ("WAIT 3", 3.0), ("wait 999999", models.MAX_SLOW_SECONDS)):
        pauses = [piece.after_seconds for piece in ask("slow", chat(said, stream=True)).pieces]
        assert pauses[0] == seconds
        assert set(pauses[1:-1]) == {seconds * generation.SLOW_GAP}
        (only,) = ask("slow", chat(said)).pieces
        assert only.after_seconds == pytest.approx(sum(pauses))
    two = ask("slow", chat("wait 3", n=2, stream=True)).pieces
    assert sum(piece.after_seconds for piece in two) == pytest.approx(
        sum(piece.after_seconds for piece in ask("slow", chat("wait 3")).pieces)
    )


def test_error_429_tells_when_to_come_back() -> None:
    for endpoint, body in (("chat", chat()), ("chat", chat(stream=True)), ("embeddings", {}), ("images", {})):
        answer = ask("error-429", body, endpoint)  # type: ignore[arg-type]
        assert dict(answer.headers)["retry-after"] == "1"
        failed = error("error-429", body, endpoint, status=429)  # type: ignore[arg-type]
        assert (failed["type"], failed["code"]) == ("requests", "rate_limit_exceeded")


def test_error_500_is_a_server_error() -> None:
    assert error("error-500", chat(stream=True), status=500)["type"] == "server_error"


@pytest.mark.parametrize("more", [{}, {"max_tokens": 1}, {"n": 3}], ids=["usual", "short", "choices"])
def test_drop_midstream_breaks_before_the_end(more: dict[str, Any]) -> None:
    answer = ask("drop-midstream", chat(stream=True, stream_options={"include_usage": True}, **more))
    chunks = [json.loads(piece.data.removeprefix(b"data: ")) for piece in answer.pieces]
    assert answer.breaks
    assert answer.status == 200
    assert 1 < len(chunks) <= 4
    assert not any(part["finish_reason"] for chunk in chunks for part in chunk["choices"])


def test_drop_midstream_breaks_a_whole_answer_in_its_half() -> None:
    answer = ask("drop-midstream", chat())
    (only,) = answer.pieces
    assert answer.breaks
    assert len(only.data) == int(dict(answer.headers)["content-length"]) // 2
    assert only.data.startswith(b'{"object":"chat.completion"')


# ---- the other endpoints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["one two", ["one two"], ["one", "two"], [1, 2, 3], [[1, 2], [3]]], ids=str)
def test_legacy_completions_stream_what_they_say(prompt: Any) -> None:
    body = {"prompt": prompt, "n": 2}
    answered = whole("echo", body, "completions")
    Completion.model_validate(answered)
    chunks = events(ask("echo", {**body, "stream": True, "stream_options": {"include_usage": True}}, "completions"))
    said: dict[int, str] = {}
    for chunk in chunks[:-1]:
        Completion.model_validate({**chunk, "choices": [{**part, "finish_reason": "stop"} for part in chunk["choices"]]})
        for part in chunk["choices"]:
            said[part["index"]] = said.get(part["index"], "") + part["text"]
    assert said == {choice["index"]: choice["text"] for choice in answered["choices"]}
    assert chunks[-1]["usage"] == answered["usage"]


def test_legacy_completions_answer_each_prompt_n_times() -> None:
    answered = whole("echo", {"prompt": ["a", "b"], "n": 2}, "completions")
    assert [choice["text"] for choice in answered["choices"]] == ["a", "a", "b", "b"]
    assert answered["usage"]["prompt_tokens"] == 2
    assert whole("tools", {"prompt": "a", "tools": [WEATHER]}, "completions")["choices"][0]["finish_reason"] == "stop"


def embedded(**body: Any) -> dict[str, Any]:
    answered = whole("embedding", body, "embeddings")
    CreateEmbeddingResponse.model_validate(answered)
    return answered


@given(said=st.text(min_size=1, max_size=40), dimensions=st.integers(1, 300))
def test_embeddings_are_unit_vectors_in_both_encodings(said: str, dimensions: int) -> None:
    (item,) = embedded(input=said, dimensions=dimensions)["data"]
    vector = item["embedding"]
    assert len(vector) == dimensions
    assert math.isclose(math.hypot(*vector), 1, abs_tol=1e-5)
    (packed,) = whole("embedding", {"input": said, "dimensions": dimensions, "encoding_format": "base64"}, "embeddings")["data"]
    assert list(struct.unpack(f"<{dimensions}f", base64.b64decode(packed["embedding"]))) == vector


def test_equal_texts_have_equal_vectors_and_others_do_not() -> None:
    one, other, again = embedded(input=["one", "other", "one"])["data"]
    assert one["embedding"] == again["embedding"] != other["embedding"]
    assert [one["index"], other["index"], again["index"]] == [0, 1, 2]
    assert len(one["embedding"]) == vectors.EMBEDDING_DIMENSIONS


@pytest.mark.parametrize(
    ("given_input", "tokens"),
    [("abcde", 2), (["abcde", "a"], 3), ([5, 6, 7], 3), ([[5, 6], [7]], 3)],
    ids=["text", "texts", "tokens", "lists"],
)
def test_embeddings_count_their_input(given_input: Any, tokens: int) -> None:
    assert embedded(input=given_input)["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def pixels(png: bytes) -> tuple[int, int, bytes]:
    """Read a PNG as its specification says, checksums included: width, height, rows with their filter bytes."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks: dict[bytes, bytes] = {}
    place = 8
    while place < len(png):
        length, name = struct.unpack(">I4s", png[place : place + 8])
        chunks[name] = png[place + 8 : place + 8 + length]
        assert struct.unpack(">I", png[place + 8 + length : place + 12 + length]) == (zlib.crc32(name + chunks[name]),)
        place += 12 + length
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    return width, height, zlib.decompress(chunks[b"IDAT"])


@pytest.mark.parametrize(("size", "sides"), [(None, (256, 256)), ("auto", (256, 256)), ("1024x1536", (1024, 1536)), ("17x33", (17, 33))])
def test_images_are_real_png_files_of_the_asked_size(size: str | None, sides: tuple[int, int]) -> None:
    answered = whole("image", {"prompt": "a cat", "size": size}, "images")
    ImagesResponse.model_validate(answered)
    width, height, rows = pixels(base64.b64decode(answered["data"][0]["b64_json"]))
    assert (width, height) == sides
    assert len(rows) == height * (1 + -(-width // 8))


def test_images_come_as_many_as_asked_and_all_differ() -> None:
    answered = whole("image", {"prompt": "a cat", "n": 4, "response_format": "url"}, "images")
    urls = [item["url"] for item in answered["data"]]
    assert len(set(urls)) == 4
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    assert answered["usage"] == {
        "input_tokens": 2,
        "input_tokens_details": {"text_tokens": 2, "image_tokens": 0},
        "output_tokens": 4 * pictures.IMAGE_TOKENS,
        "total_tokens": 2 + 4 * pictures.IMAGE_TOKENS,
    }
    assert whole("image", {"prompt": "a cat", "n": 4, "response_format": "url"}, "images") == answered


# ---- refusals ---------------------------------------------------------------------------------------------------------------------


def spoken(**message: Any) -> dict[str, Any]:
    return {"messages": [message]}


REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    ({}, "messages", "missing_required_parameter"),
    ({"messages": None}, "messages", "missing_required_parameter"),
    ({"messages": "hi"}, "messages", "invalid_type"),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
    (spoken(content="hi"), "messages[0].role", "missing_required_parameter"),
    (spoken(role="king", content="hi"), "messages[0].role", "invalid_value"),
    (spoken(role=["user"], content="hi"), "messages[0].role", "invalid_value"),
    (spoken(role="user"), "messages[0].content", "invalid_type"),
    (spoken(role="user", content=5), "messages[0].content", "invalid_type"),
    (spoken(role="user", content=[{"type": "smell"}]), "messages[0].content[0].type", "invalid_value"),
    (spoken(role="user", content=[{"type": "text"}]), "messages[0].content[0].text", "missing_required_parameter"),
    (spoken(role="tool", content="x"), "messages[0].tool_call_id", "missing_required_parameter"),
    (chat(n=0), "n", "integer_below_min_value"),
    (chat(n=10_000), "n", "integer_above_max_value"),
    (chat(n="2"), "n", "invalid_type"),
    (chat(n=True), "n", "invalid_type"),
    (chat(max_tokens=0), "max_tokens", "integer_below_min_value"),
    (chat(max_tokens=1.5), "max_tokens", "invalid_type"),
    (chat(temperature=3), "temperature", "decimal_above_max_value"),
    (chat(top_p=-1), "top_p", "decimal_below_min_value"),
    (chat(stop=5), "stop", "invalid_type"),
    (chat(stop=["a"] * 5), "stop", "array_above_max_length"),
    (chat(stream="yes"), "stream", "invalid_type"),
    (chat(stream_options={"include_usage": True}), "stream_options", "invalid_value"),
    (chat(stream=True, stream_options={"include_usage": 1}), "stream_options.include_usage", "invalid_type"),
    (chat("x" * 600_000), "messages", "context_length_exceeded"),
]


@pytest.mark.parametrize(("body", "param", "code"), REFUSED, ids=[f"{param}-{code}" for _, param, code in REFUSED])
def test_a_bad_body_is_refused_in_the_words_of_a_provider(body: dict[str, Any], param: str, code: str) -> None:
    refused = error("echo", body)
    assert (refused["type"], refused["param"], refused["code"]) == ("invalid_request_error", param, code)
    assert refused["message"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": ""},
        {"input": []},
        {"input": [""]},
        {"input": [1, "a"]},
        {"input": {}},
        {"input": "a", "dimensions": 0},
        {"input": "a", "encoding_format": "hex"},
        {"input": ["a"] * 2049},
        {"input": ["a"] * 1025},
    ],
    ids=range(10),
)
def test_bad_embedding_inputs_are_refused(body: dict[str, Any]) -> None:
    assert error("embedding", body, "embeddings")["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "more",
    [{"prompt": None}, {"prompt": 5}, {"prompt": ""}, {"n": 0}, {"n": 11}, {"size": "huge"}, {"size": "9999x1"}, {"stream": True}],
    ids=str,
)
def test_bad_image_requests_are_refused(more: dict[str, Any]) -> None:
    assert error("image", {"prompt": "a cat", **more}, "images")["type"] == "invalid_request_error"


@pytest.mark.parametrize("tool", [{}, {"type": "custom"}, {"type": "function"}, {"type": "function", "function": {}}], ids=str)
def test_bad_tools_are_refused(tool: dict[str, Any]) -> None:
    assert error("tools", chat(tools=[tool]))["type"] == "invalid_request_error"


def test_a_model_is_not_found_where_it_does_not_work() -> None:
    assert error("no-such", chat(), status=404)["code"] == "model_not_found"
    assert error("embedding", chat(), status=404)["param"] == "model"
    assert error("echo", {"input": "a"}, "embeddings", status=404)["param"] == "model"
    assert error("embedding", {"prompt": "a"}, "images", status=404)["param"] == "model"


def test_a_body_too_deep_to_read_is_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert "deeply" in error("echo", chat(metadata=deep))["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS: tuple[str, ...] = (
    "messages",
    "n",
    "max_tokens",
    "stop",
    "tools",
    "tool_choice",
    "response_format",
    "stream",
    "stream_options",
    "seed",
    "prompt",
)
FIELDS += ("input", "dimensions", "size", "reasoning_effort", "parallel_tool_calls", "role", "content")


@given(
    body=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6),
    message=st.dictionaries(st.sampled_from(("content", "tool_calls", "type", "text")), JSON, max_size=3),
    model=st.sampled_from([*TEXT_MODELS, "drop-midstream"]),
)
def test_whatever_is_sent_is_answered(body: dict[str, Any], message: dict[str, Any], model: str) -> None:
    bodies = [body, {"messages": [{"role": "user", **message}], **body}, {**body, **chat("hi")}]
    for each in bodies:
        answer = ask(model, each)
        assert answer.status in {200, 400}
        assert list(answer.pieces)
    for other, endpoint in (("embedding", "embeddings"), ("image", "images"), ("echo", "completions")):
        assert ask(other, body, endpoint).status in {200, 400}  # type: ignore[arg-type]


# ---- schemas ----------------------------------------------------------------------------------------------------------------------


def answered_with(schema: Any) -> Any:
    wanted = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}
    return json.loads(text(whole("json", chat("hi", response_format=wanted))))


def satisfies(value: Any, schema: Any) -> bool:
    """Judge by the words of the specification, for the keywords that the strategy below writes."""
    if isinstance(schema, bool):
        return schema
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    number = isinstance(value, int | float) and not isinstance(value, bool)

    def is_a(kind: str) -> bool:
        if kind in {"number", "integer"}:
            return number and (kind == "number" or float(value).is_integer())
        return isinstance(value, types[kind])

    checks = [
        not kinds or any(is_a(kind) for kind in kinds),
        "enum" not in schema or value in schema["enum"],
        "const" not in schema or value == schema["const"],
        "anyOf" not in schema or any(satisfies(value, option) for option in schema["anyOf"]),
        all(satisfies(value, part) for part in schema.get("allOf", [])),
    ]
    if number:
        step = schema.get("multipleOf")
        checks += [
            schema.get("minimum", value) <= value <= schema.get("maximum", value),
            "exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"],
            "exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"],
            step is None or math.isclose(value / step, round(value / step), abs_tol=1e-9),
        ]
    elif isinstance(value, str):
        checks.append(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)))
    elif isinstance(value, list):
        first = schema.get("prefixItems", [])
        checks += [schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))]
        checks += [satisfies(item, first[at] if at < len(first) else schema.get("items", True)) for at, item in enumerate(value)]
        spelled = {json.dumps(item, sort_keys=True) for item in value}
        checks.append(not schema.get("uniqueItems") or len(spelled) == len(value))
    elif isinstance(value, dict):
        known = schema.get("properties", {})
        checks += [key in value for key in schema.get("required", [])]
        checks += [satisfies(item, known.get(key, schema.get("additionalProperties", True))) for key, item in value.items()]
        checks.append(schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)))
    return all(checks)


@st.composite
def ranges(draw: st.DrawFn, low: str, high: str, most: int, room: int = 0) -> dict[str, int]:
    """Bounds of which the upper one is at least `room` above the lower one; either may be missing."""
    least = draw(st.integers(0, most))
    bounds = {low: least, high: draw(st.integers(least + room, most + 20))}
    return {key: bounds[key] for key in draw(st.sets(st.sampled_from([low, high])))}


@st.composite
def numbers(draw: st.DrawFn) -> dict[str, Any]:
    low, high = draw(st.sampled_from(["minimum", "exclusiveMinimum"])), draw(st.sampled_from(["maximum", "exclusiveMaximum"]))
    bounds = draw(ranges(low, high, 50, room=8))
    if draw(st.booleans()):  # below zero, with the lower bound still the lower one
        bounds = {key: bound - 100 for key, bound in bounds.items()}
    step: dict[str, Any] = draw(st.sampled_from([{}, {"multipleOf": 3}, {"multipleOf": 0.5}, {"multipleOf": 0.1}]))
    return {"type": draw(st.sampled_from(["integer", "number"])), **bounds, **step}


NAMES = st.sampled_from(["city", "query", "a", "b/c", "d~e", "unit", "größe"])
SCALARS = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.just({"type": ["string", "null"]}),
    ranges("minLength", "maxLength", 30).map(lambda bounds: {"type": "string", **bounds}),
    numbers(),
    st.lists(JSON, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    JSON.map(lambda value: {"const": value}),
    st.sampled_from([{"type": "string", "format": "date-time"}, {"type": "string", "format": "email"}, {}, True]),
)


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, inner, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    if draw(st.booleans()):
        schema["additionalProperties"] = False
    else:
        schema["additionalProperties"] = draw(inner)
        schema["minProperties"] = draw(st.integers(0, 6))
    if draw(st.booleans()):
        schema["maxProperties"] = max(len(required), schema.get("minProperties", 0)) + draw(st.integers(0, 2))
    return schema


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": draw(inner), **draw(ranges("minItems", "maxItems", 4))}
    if draw(st.booleans()):
        schema["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=3))
    return schema


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    any_of = st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": [False, *options]})
    return st.one_of(objects(inner), arrays(inner), any_of, inner.map(lambda part: {"allOf": [part, True]}))


SCHEMAS = st.recursive(SCALARS, combined, max_leaves=10)


@given(schema=SCHEMAS)
def test_a_json_answer_satisfies_its_schema(schema: Any) -> None:
    assert satisfies(answered_with(schema), schema)


@given(schema=objects(SCHEMAS))
def test_the_arguments_of_a_call_satisfy_their_schema(schema: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert satisfies(called(chat(tools=[tool]))["f"], schema)


@pytest.mark.parametrize(
    "items",
    [
        {"type": "integer"},
        {"type": "string", "maxLength": 1},
        {"enum": list("abcdef")},
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        {"type": "string", "format": "uuid"},
    ],
    ids=str,
)
def test_unique_items_are_unique(items: dict[str, Any]) -> None:
    schema = {"type": "array", "items": items, "minItems": 5, "uniqueItems": True}
    assert satisfies(answered_with(schema), schema)


def test_references_are_followed_and_a_schema_in_itself_comes_to_an_end() -> None:
    node = {
        "type": "object",
        "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/a~1node"}, {"type": "null"}]}},
        "required": ["value", "next"],
        "additionalProperties": False,
    }
    value = answered_with({"$ref": "#/$defs/a~1node", "$defs": {"a/node": node}})
    length = 0
    while value is not None:
        assert value.keys() == {"value", "next"}
        value, length = value["next"], length + 1
    assert 1 < length < 10
    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}, "required": ["children"]}
    assert answered_with(tree)["children"]


def test_parts_of_all_of_hold_together() -> None:
    schema = {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "number", "minimum": 3}}, "required": ["a"]},
            {"properties": {"a": {"maximum": 4, "type": "integer", "exclusiveMinimum": 3}, "b": {"enum": [1, 2]}}, "required": ["b"]},
        ]
    }
    assert answered_with(schema) == {"a": 4, "b": 1}
    both = {"anyOf": [{"minimum": 5}], "allOf": [{"anyOf": [{"type": "integer", "maximum": 5}]}]}
    assert answered_with(both) == 5
    assert answered_with({"enum": [1, 2, 3], "allOf": [{"enum": [3, 2, {}]}, {"const": 2}]}) == 2


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        ({"type": "integer", "exclusiveMaximum": -5}, -6),
        ({"type": "integer", "exclusiveMinimum": 5}, 6),
        ({"type": "integer", "minimum": 5, "exclusiveMinimum": True}, 6),
        ({"type": "integer", "minimum": 6.5, "multipleOf": 3}, 9),
        ({"type": "integer", "multipleOf": 1.5, "minimum": 1}, 3),
        ({"type": "number", "multipleOf": 0.1, "minimum": 0.3}, 0.3),
        ({"type": "number", "maximum": -0.5}, -1.5),
        ({"type": "number", "minimum": 2, "maximum": 2}, 2),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"type": "integer"}, 1),
    ],
    ids=str,
)
def test_numbers_keep_within_their_bounds(schema: dict[str, Any], found: float) -> None:
    assert answered_with(schema) == found


@pytest.mark.parametrize(
    "schema",
    [
        5,
        {"type": "wish"},
        {"type": "array", "minItems": 10**9},
        {"type": "string", "minLength": 10**12},
        {"type": "object", "minProperties": 10**9},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "object", "required": ["a"], "properties": {"a": False}},
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#"},
        {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}},
        {"type": "object", "required": ["a", "b"], "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}},
        {"anyOf": []},
        {"enum": []},
        {"type": "array", "minItems": 3, "uniqueItems": True, "items": {"type": "boolean"}},
        {"type": "array", "items": {"type": "array", "minItems": 99, "items": {"type": "array", "minItems": 99}}, "minItems": 99},
        {"properties": []},
        {"type": "array", "minItems": 3000, "items": {"enum": list(range(20_000))}},
    ],
    ids=range(18),
)
def test_a_schema_that_cannot_be_satisfied_is_refused(schema: Any) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}
    refused = error("json", chat(response_format=wanted))
    assert (refused["param"], refused["code"]) == ("response_format", "invalid_schema")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": schema}, "required": ["x"]}}}
    if "$ref" not in json.dumps(schema):
        assert error("tools", chat(tools=[tool]))["param"] == "tools"


def test_a_pattern_is_answered_from_its_example_and_never_run() -> None:
    schema = {"type": "object", "properties": {"code": {"type": "string", "pattern": "^(a+)+$", "examples": ["aaa"]}}, "required": ["code"]}
    assert answered_with(schema) == {"code": "aaa"}
