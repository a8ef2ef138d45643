"""The Messages format: recorded answers keep their meaning, requests keep the provider's laws, nothing a stranger sends breaks it."""

import json
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.usage import TokenUsage
from proxy.formats import anthropic_messages as messages
from proxy.formats import grammar_messages
from proxy.formats.base import NotAnAnswer
from proxy.formats.conversation import (
    AnyItem,
    Audio,
    CannotParse,
    CannotRender,
    Closed,
    Conversation,
    Delta,
    Echo,
    Ended,
    Failed,
    File,
    Image,
    Metered,
    Opened,
    Origin,
    OutputFormat,
    Reasoning,
    Refusal,
    Seal,
    ServerTool,
    Started,
    Stop,
    Stopped,
    Target,
    Text,
    Thinking,
    ToolCall,
    ToolChoice,
    ToolDef,
    ToolResult,
    collect,
    replay,
)
from tests.fakes.provider import Case, oracle, recordings

CASES = recordings.cases(shape="messages")
WHOLE = [case for case in CASES if case.status == 200 and not case.stream]
STREAMS = [case for case in CASES if case.stream and "stream_error" not in case.id]
BROKEN = [case for case in CASES if case.stream and "stream_error" in case.id]
REFUSED = [case for case in CASES if case.status != 200]
ASKED = [case for case in CASES if case.request is not None and "messages" in case.request and case.status == 200]
recorded = pytest.mark.skipif(not CASES or oracle.file() is None, reason=recordings.SKIP_REASON)

ECHO = Echo(id="msg_1", created=0, model="m")
SONNET = "claude-sonnet-4-5-20250929"
# Where what we say is not what the judge reads, and why.
EXCEPTIONS = {
    "compaction": (("inp", "out"), "the judge reads the top level, which leaves the compaction out; the sum of iterations is billed"),
    "spliced-message-start": (("reasoning", "tools"), "a made-up stream that begins twice: the judge counts every overwritten block twice"),
}


def allowed(case: Case, found: dict[str, Any]) -> dict[str, Any]:
    excused = {key for name, (keys, _) in EXCEPTIONS.items() if name in case.id for key in keys}
    return {key: value for key, value in found.items() if key not in excused}


def events_of(stream: bytes, step: int = 1 << 30, **options: Any) -> list[Any]:
    parser = messages.StreamParser(**options)
    events: list[Any] = []
    for start in range(0, len(stream), step):
        events += parser.feed(stream[start : start + step])
    return events + parser.finish()


def streamed(events: list[Any]) -> bytes:
    renderer = messages.StreamRenderer(ECHO)
    return b"".join(renderer.feed(event) for event in events)


def conversation(*items: AnyItem, origin: Origin = "chat", **more: Any) -> Conversation:
    return Conversation(origin=origin, model="m", items=list(items), **more)


def rendered(*items: AnyItem, model: str = SONNET, target: Target | None = None, **more: Any) -> dict[str, Any]:
    target = target or Target(model=model, max_output=more.pop("limit", 64_000))
    return messages.render_request(conversation(*(items or (Text("user", text="hi"),)), **more), target)


def said(*items: AnyItem, **more: Any) -> Any:
    return rendered(*items, **more)["messages"]


# Recorded answers


@recorded
@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.id)
def test_a_recorded_answer_keeps_its_meaning(case: Case) -> None:
    fields = json.loads(case.response_bytes)
    before = oracle.meaning("messages", fields)
    answer = messages.parse_answer(fields)
    assert allowed(case, oracle.diff(before, oracle.meaning("messages", messages.render_answer(answer, ECHO)))) == {}
    stream = streamed(replay(answer))
    assert grammar_messages.check(stream) == []
    assert allowed(case, oracle.diff(before, oracle.meaning("messages", stream, stream=True))) == {}


@recorded
@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.id)
def test_a_recorded_stream_keeps_its_meaning(case: Case) -> None:
    before = oracle.meaning("messages", case.response_bytes, stream=True)
    events = events_of(case.response_bytes)
    again = streamed(events)
    assert grammar_messages.check(again) == []
    assert allowed(case, oracle.diff(before, oracle.meaning("messages", again, stream=True))) == {}
    whole = messages.render_answer(collect(events), ECHO)
    assert allowed(case, oracle.diff(before, oracle.meaning("messages", whole))) == {}


@recorded
@pytest.mark.parametrize("case", WHOLE + STREAMS, ids=lambda case: case.id)
def test_the_blocks_of_an_answer_survive_with_their_unknown_fields(case: Case) -> None:
    if case.stream:
        answer = collect(events_of(case.response_bytes))
        wanted = collect(events_of(streamed(events_of(case.response_bytes))))
        assert messages.render_answer(wanted, ECHO)["content"] == messages.render_answer(answer, ECHO)["content"]
        return
    fields = json.loads(case.response_bytes)
    blocks = [block for block in fields["content"] if block.get("text") != ""]
    assert messages.render_answer(messages.parse_answer(json.loads(case.response_bytes)), ECHO)["content"] == blocks


@recorded
@pytest.mark.parametrize("case", STREAMS + BROKEN, ids=lambda case: case.id)
def test_a_stream_told_in_any_pieces_says_the_same(case: Case) -> None:
    stream = case.response_bytes
    wanted = events_of(stream)
    for step in (1, 7, 100):
        assert events_of(stream, step) == wanted
    assert events_of(stream.replace(b"\n", b"\r\n")) == wanted


@recorded
@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.id)
def test_an_error_within_a_stream_is_told(case: Case) -> None:
    events = events_of(case.response_bytes)
    assert any(isinstance(event, Failed) for event in events)
    assert not any(isinstance(event, Ended) for event in events)
    tap = messages.MessagesTap()
    forwarded = tap.feed(case.response_bytes)
    assert tap.error["type"] == "overloaded_error"
    assert b"event: error" not in forwarded
    assert not tap.done
    assert grammar_messages.check(forwarded + tap.fail({"message": "gone", "type": "server_error"}, ran_out=False)) == []


@recorded
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_a_refusal_is_not_an_answer(case: Case) -> None:
    with pytest.raises(CannotParse):
        messages.parse_answer(json.loads(case.response_bytes))
    with pytest.raises(NotAnAnswer):
        messages.read_answer(case.response_bytes)


# Recorded requests


def normal(request: dict[str, Any]) -> dict[str, Any]:
    """What a request means: contents as blocks, without blank text and nulls."""
    request = json.loads(json.dumps(request))

    def blocks(content: Any) -> Any:
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        kept = [block for block in content if block.get("type") != "text" or block["text"].strip()]
        for block in kept:
            if block.get("type") == "tool_result" and "content" in block:
                block["content"] = blocks(block["content"])
            if block.get("type") == "tool_use":
                block.setdefault("input", {})
        return kept

    for message in request["messages"]:
        message["content"] = blocks(message["content"])
    request["messages"] = [message for message in request["messages"] if message["content"]]
    if "system" in request:
        request["system"] = blocks(request["system"])
    if "output_format" in request:
        asked = request.pop("output_format")
        request.setdefault("output_config", {})["format"] = {"type": asked["type"], "schema": asked["schema"]}
    if not request.get("system"):
        request.pop("system", None)
    return {name: value for name, value in request.items() if value not in (None, [], False)}


@recorded
@pytest.mark.parametrize("case", ASKED, ids=lambda case: case.id)
def test_a_recorded_request_means_the_same_when_written_again(case: Case) -> None:
    given = dict(case.request)
    model = given.get("model") or SONNET
    target = Target(model=model, max_output=given["max_tokens"], kind="anthropic")
    again = messages.render_request(messages.parse_request(given), target)
    assert normal(again) == normal({**given, "model": model})
    assert target.dropped == []


PAIRS = recordings.folder()
PAIR_FILES = sorted((PAIRS / "pairs").glob("messages_to_*/*.json")) if PAIRS is not None else []


@recorded
@pytest.mark.parametrize("file", PAIR_FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_requests_of_accepted_pairs_are_read_and_written(file: Any) -> None:
    given = json.loads(file.read_bytes())["source_request"]
    given.setdefault("max_tokens", 1024)
    model = given.setdefault("model", SONNET)
    again = messages.render_request(messages.parse_request(given), Target(model=model, max_output=given["max_tokens"]))
    assert normal(again)["messages"] == normal(given)["messages"]
    assert again.get("tools") == given.get("tools")


TO_US = [*(PAIRS / "pairs").glob("*_to_messages/*.json")] if PAIRS is not None else []


@recorded
@pytest.mark.parametrize("file", sorted(TO_US), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_what_the_provider_accepted_is_read_and_what_it_answered_is_understood(file: Any) -> None:
    pair = json.loads(file.read_bytes())
    target = pair["target_request"]
    if "error" in pair["target_response"]:
        pytest.skip("the provider refused this one: its budget is not below its limit")
    again = messages.render_request(messages.parse_request(target), Target(model=target["model"], max_output=target["max_tokens"]))
    assert normal(again) == normal(target)
    answer = pair["target_response"]
    if isinstance(answer, dict) and answer.get("type") == "message":
        before = oracle.meaning("messages", answer)
        assert oracle.diff(before, oracle.meaning("messages", messages.render_answer(messages.parse_answer(answer), ECHO))) == {}


# What the provider demands of requests


def test_system_messages_go_to_the_front_in_their_order() -> None:
    request = rendered(Text("system", text="a"), Text("user", text="x"), Text("developer", text="b"), Text("user", text="y"))
    assert request["system"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert request["messages"] == [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]}]


def test_newer_models_take_a_system_message_after_a_user_turn() -> None:
    items = (Text("user", text="x"), Text("system", text="b"))
    assert said(*items, model="claude-opus-4-8") == [{"role": "user", "content": "x"}, {"role": "system", "content": "b"}]
    assert said(*items, model="claude-opus-4-7") == [{"role": "user", "content": "x"}]


def test_instructions_alone_become_the_question() -> None:
    assert said(Text("system", text="Say ok.")) == [{"role": "user", "content": "Say ok."}]


def test_the_user_speaks_first_and_the_last_words_have_no_white_space_behind() -> None:
    turns = said(Text("assistant", text="Hello"), Text("user", text="Hi"), Text("assistant", text="I \n"))
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user", "assistant"]
    assert turns[-1]["content"] == "I"


def test_tool_results_come_first_and_together_right_after_the_calls() -> None:
    turns = said(
        Text("user", text="go"),
        ToolCall("assistant", call_id="a", name="f", arguments='{"x":1}'),
        ToolCall("assistant", call_id="b", name="f", arguments=""),
        ToolResult("user", call_id="a", parts=[Text("user", text="one")]),
        Text("assistant", text="meanwhile"),
        Text("user", text="and?"),
        ToolResult("user", call_id="b", parts=[], is_error=True),
    )
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user", "assistant", "user"]
    assert turns[1]["content"] == [
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "b", "name": "f", "input": {}},
    ]
    assert turns[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "a", "content": "one"},
        {"type": "tool_result", "tool_use_id": "b", "is_error": True},
    ]


def test_blank_text_is_left_out() -> None:
    turns = said(
        Text("user", text="go"), Text("assistant", text=" \n"), ToolCall("assistant", call_id="a", name="f"), Text("user", text="")
    )
    assert turns[1]["content"] == [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]
    assert len(turns) == 2
    with pytest.raises(CannotRender):
        rendered(Text("user", text="  "))


def test_tool_ids_are_mapped_alike_in_calls_and_results_and_are_unique() -> None:
    turns = said(
        Text("user", text="go"),
        ToolCall("assistant", call_id="functions.x:0", name="x"),
        ToolResult("user", call_id="functions.x:0", parts=[Text("user", text="1")]),
        ToolCall("assistant", call_id="functions.x:0", name="x"),
        ToolResult("user", call_id="functions.x:0", parts=[Text("user", text="2")]),
    )
    first, second = turns[1]["content"][0]["id"], turns[3]["content"][0]["id"]
    assert first == messages.tool_id("functions.x:0") != second
    assert (turns[2]["content"][0]["tool_use_id"], turns[4]["content"][0]["tool_use_id"]) == (first, second)


@given(st.text(max_size=80))
def test_a_tool_id_always_fits_and_stays_the_same(text: str) -> None:
    mapped = messages.tool_id(text)
    assert mapped
    assert set(mapped) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert messages.tool_id(mapped) == mapped == messages.tool_id(text)


def test_only_our_own_seals_go_back_to_the_provider() -> None:
    turns = said(
        Text("user", text="go"),
        Reasoning("assistant", text="secret", seals=[Seal("encrypted", "E", "responses")]),
        Reasoning("assistant", text="mine", seals=[Seal("signature", "S", "messages")]),
        Reasoning("assistant", seals=[Seal("signature", "S2", "messages")]),
        Reasoning("assistant", seals=[Seal("redacted", "R", "messages")]),
        Reasoning("assistant", text="unsigned"),
        Text("assistant", text="done"),
    )
    assert turns[1]["content"] == [
        {"type": "thinking", "thinking": "mine", "signature": "S"},
        {"type": "thinking", "thinking": "", "signature": "S2"},
        {"type": "redacted_thinking", "data": "R"},
        {"type": "text", "text": "done"},
    ]


@pytest.mark.parametrize(
    ("model", "thinking", "sent", "config"),
    [
        (SONNET, Thinking(effort="minimal"), {"type": "enabled", "budget_tokens": 1024}, None),
        (SONNET, Thinking(effort="high"), {"type": "enabled", "budget_tokens": 16384}, None),
        (SONNET, Thinking(budget=5000), {"type": "enabled", "budget_tokens": 5000}, None),
        (SONNET, Thinking(effort="none"), None, None),
        ("claude-3-5-sonnet-20240620", Thinking(effort="high"), None, None),
        ("claude-opus-4-6", Thinking(effort="xhigh"), {"type": "adaptive", "display": "summarized"}, {"effort": "high"}),
        ("claude-opus-4-6", Thinking(budget=5000), {"type": "enabled", "budget_tokens": 5000}, None),
        ("claude-opus-4-7", Thinking(effort="medium"), {"type": "adaptive", "display": "summarized"}, {"effort": "medium"}),
        ("claude-opus-5", Thinking(effort="max"), {"type": "adaptive", "display": "summarized"}, {"effort": "max"}),
        ("claude-sonnet-5", Thinking(budget=2000), {"type": "adaptive", "display": "summarized"}, {"effort": "low"}),
        ("claude-opus-5", Thinking(enabled=False), {"type": "disabled"}, None),
        ("claude-opus-5-5", Thinking(enabled=False), None, {"effort": "low"}),
        ("anthropic/claude-next", Thinking(effort="low"), {"type": "adaptive", "display": "summarized"}, {"effort": "low"}),
        ("glm-5", Thinking(effort="low"), {"type": "enabled", "budget_tokens": 2048}, None),
    ],
)
def test_thinking_is_asked_for_as_the_model_takes_it(model: str, thinking: Thinking, sent: Any, config: Any) -> None:
    request = rendered(model=model, thinking=thinking)
    assert (request.get("thinking"), request.get("output_config")) == (sent, config)


def test_a_budget_stays_below_the_limit_or_is_not_sent() -> None:
    assert rendered(thinking=Thinking(effort="max"), limit=4096)["thinking"]["budget_tokens"] == 2048
    target = Target(model=SONNET, max_output=1000)
    assert "thinking" not in rendered(thinking=Thinking(effort="low"), target=target)
    assert target.dropped == ["reasoning_effort"]


def test_a_tool_loop_without_its_thinking_goes_on_without_thinking() -> None:
    loop = (Text("user", text="go"), ToolCall("assistant", call_id="a", name="f"), ToolResult("user", call_id="a"))
    assert "thinking" not in rendered(*loop, thinking=Thinking(effort="low"))
    signed = Reasoning("assistant", seals=[Seal("signature", "S", "messages")])
    assert "thinking" in rendered(loop[0], signed, *loop[1:], thinking=Thinking(effort="low"))
    assert "thinking" in rendered(*loop, thinking=Thinking(effort="low"), model="claude-opus-4-8")


TOOL = ToolDef("f", "does", parameters={"type": "object", "properties": {"a": {"type": "string"}}})


@pytest.mark.parametrize(
    ("choice", "parallel", "sent"),
    [
        (None, None, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("auto"), None, {"type": "auto"}),
        (ToolChoice("none"), False, {"type": "none"}),
        (ToolChoice("required"), None, {"type": "any"}),
        (ToolChoice("required", allowed=["f"]), None, {"type": "tool", "name": "f"}),
        (ToolChoice("named", "f"), False, {"type": "tool", "name": "f", "disable_parallel_tool_use": True}),
    ],
)
def test_tool_choices(choice: ToolChoice | None, parallel: bool | None, sent: Any) -> None:
    assert rendered(tools=[TOOL], tool_choice=choice, parallel_tools=parallel).get("tool_choice") == sent
    assert "tool_choice" not in rendered(tool_choice=choice, parallel_tools=parallel)


def test_a_tool_that_must_be_called_is_worth_more_than_thinking() -> None:
    target = Target(model="claude-opus-4-8", max_output=9000)
    request = rendered(tools=[TOOL], tool_choice=ToolChoice("required"), thinking=Thinking(effort="high"), target=target)
    assert "thinking" not in request
    assert (request["tool_choice"], request["output_config"], target.dropped) == ({"type": "any"}, {"effort": "high"}, ["reasoning_effort"])
    newest = Target(model="claude-opus-5-5", max_output=9000)
    assert rendered(tools=[TOOL], tool_choice=ToolChoice("required"), target=newest)["tool_choice"] == {"type": "auto"}
    assert newest.dropped == ["tool_choice"]


def test_namespaced_and_custom_tools_go_out_as_plain_ones_and_come_back() -> None:
    tools = [ToolDef("run", namespace="shell", parameters={}), ToolDef("patch", kind="custom"), ToolDef("y" * 90, parameters={})]
    talk = conversation(
        Text("user", text="go"),
        ToolCall("assistant", call_id="a", name="patch", kind="custom", arguments="*** x"),
        tools=tools,
        origin="responses",
    )
    request = messages.render_request(talk, Target(model=SONNET, max_output=10))
    sent = [tool["name"] for tool in request["tools"]]
    assert sent[:2] == ["shell__run", "patch"]
    assert len(sent[2]) <= 64
    assert request["messages"][1]["content"][0]["input"] == {"input": "*** x"}
    names = messages.tool_names(talk)
    answer = {
        "type": "message",
        "content": [
            {"type": "tool_use", "id": "1", "name": "shell__run", "input": {"a": 1}},
            {"type": "tool_use", "id": "2", "name": "patch", "input": {"input": "*** y"}},
            {"type": "tool_use", "id": "3", "name": sent[2], "input": {}},
        ],
        "stop_reason": "tool_use",
    }
    calls = messages.parse_answer(answer, tools=names).items
    assert [(call.namespace, call.name, call.kind, call.arguments) for call in calls if isinstance(call, ToolCall)] == [
        ("shell", "run", "function", '{"a":1}'),
        ("", "patch", "custom", "*** y"),
        ("", "y" * 90, "function", "{}"),
    ]
    stream = streamed(replay(messages.parse_answer(answer)))
    again = collect(events_of(stream, tools=names)).items
    assert [(call.name, call.kind, call.arguments) for call in again if isinstance(call, ToolCall)] == [
        ("run", "function", '{"a":1}'),
        ("patch", "custom", "*** y"),
        ("y" * 90, "function", "{}"),
    ]


def test_two_tools_that_become_one_name_are_refused() -> None:
    with pytest.raises(CannotRender):
        rendered(tools=[ToolDef("b", namespace="a"), ToolDef("a__b")])


@pytest.mark.parametrize(
    "refused",
    [
        {"n": 2},
        {"logprobs": True},
        {"tools": [ToolDef("web_search", kind="builtin", raw={"type": "web_search"}, origin="responses")]},
        {"stop": ["\n"]},
        {"extra": {"modalities": ["text", "audio"]}},
    ],
)
def test_what_changes_the_meaning_is_refused(refused: dict[str, Any]) -> None:
    with pytest.raises(CannotRender) as caught:
        rendered(**refused)
    assert caught.value.param


@pytest.mark.parametrize(
    "item",
    [Audio("user", format="wav", data="AA"), File("user", media_type="video/mp4", url="https://x/y"), Image("user", file_id="file-1")],
)
def test_media_the_model_cannot_take_are_refused(item: AnyItem) -> None:
    with pytest.raises(CannotRender):
        rendered(item)


def test_what_is_harmless_is_dropped_and_named() -> None:
    target = Target(model=SONNET, max_output=100)
    request = rendered(
        Text("user", text="x"),
        Text("assistant", text="y"),
        ServerTool("assistant", kind="web_search_call", raw={"type": "web_search_call"}, origin="responses"),
        seed=1, presence_penalty=0.5, temperature=1.5, top_p=0.9, user="a@b.c", metadata={"k": "v"}, service_tier="flex",
        extra={"logit_bias": {}, "store": True}, target=target,
    )  # fmt: skip
    assert set(target.dropped) == {
        "web_search_call", "temperature", "top_p", "seed", "presence_penalty", "metadata", "user", "service_tier", "logit_bias", "store",
    }  # fmt: skip
    assert request["temperature"] == 1
    assert "metadata" not in request


def test_a_hashed_user_goes_out_as_user_id() -> None:
    target = Target(model=SONNET, max_output=9)
    assert rendered(extra={"safety_identifier": "h1"}, target=target)["metadata"] == {"user_id": "h1"}
    assert target.dropped == []


def test_sampling_goes_out_under_the_old_version_and_not_at_all_to_newer_models() -> None:
    request = rendered(temperature=0.5, top_k=3)
    assert (request["temperature"], request["top_k"], messages.version_for(request)) == (0.5, 3, "2023-06-01")
    assert messages.version_for(rendered()) == "2026-10-21"
    target = Target(model="claude-opus-5", max_output=10)
    assert "temperature" not in rendered(temperature=0.5, target=target)
    assert target.dropped == ["temperature"]


def test_media() -> None:
    content = said(
        Image("user", media_type="image/png", data="iVBORx"),
        Image("user", url="data:image/jpeg;base64,/9j/x"),
        Image("user", url="https://x/y.png"),
        File("user", data="JVBERi0x", name="a.pdf"),
        File("user", media_type="text/csv", data="YSxi"),
        File("user", text="plain"),
        File("user", url="https://x/y.pdf"),
    )[0]["content"]
    assert [block["source"] for block in content] == [
        {"type": "base64", "media_type": "image/png", "data": "iVBORx"},
        {"type": "base64", "media_type": "image/jpeg", "data": "/9j/x"},
        {"type": "url", "url": "https://x/y.png"},
        {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"},
        {"type": "text", "media_type": "text/plain", "data": "a,b"},
        {"type": "text", "media_type": "text/plain", "data": "plain"},
        {"type": "url", "url": "https://x/y.pdf"},
    ]
    assert content[3]["title"] == "a.pdf"


def test_at_most_four_cache_marks_go_out_and_automatic_caching_needs_a_reason() -> None:
    items = [Text("user", text=str(number), cache="1h" if number == 5 else "5m") for number in range(6)]
    blocks = said(*items)[0]["content"]
    assert ["cache_control" in block for block in blocks] == [False, False, True, True, True, True]
    assert blocks[-1]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    talk = (Text("user", text="a"), Text("assistant", text="b"), Text("user", text="c"))
    assert "cache_control" in rendered(*talk, target=Target(model=SONNET, max_output=9, kind="anthropic"))
    assert "cache_control" not in rendered(*talk[:1], target=Target(model=SONNET, max_output=9, kind="anthropic"))
    assert "cache_control" not in rendered(*talk)


# JSON


SCHEMA = {
    "type": "object",
    "properties": {"minimum": {"type": "integer", "minimum": 0}, "tags": {"type": "array", "items": {"type": "object", "properties": {}}}},
    "required": ["minimum"],
}


def test_a_schema_is_narrowed_and_what_is_lost_is_named() -> None:
    target = Target(model=SONNET, max_output=9)
    config = rendered(output_format=OutputFormat("json_schema", schema=SCHEMA), target=target)["output_config"]
    assert config["format"]["schema"] == {
        "type": "object",
        "properties": {
            "minimum": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "object", "properties": {}, "additionalProperties": False}},
        },
        "required": ["minimum"],
        "additionalProperties": False,
    }
    assert target.dropped == ["json_schema.minimum"]


def test_json_is_asked_for_by_a_tool_and_comes_back_as_text() -> None:
    talk = conversation(Text("user", text="x"), output_format=OutputFormat("json_object"))
    request = messages.render_request(talk, Target(model=SONNET, max_output=9))
    assert request["tool_choice"] == {"type": "tool", "name": "json"}
    assert messages.uses_json_tool(request, talk)
    answer = {
        "type": "message",
        "content": [{"type": "tool_use", "id": "t", "name": "json", "input": {"a": [1, "ü"]}}],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    unwrapped = messages.parse_answer(answer, unwrap_json=True)
    assert (unwrapped.items, unwrapped.stop) == ([Text("assistant", text='{"a":[1,"ü"]}')], Stop.END)
    assert messages.render_answer(unwrapped, ECHO)["stop_reason"] == "end_turn"
    stream = streamed(replay(messages.parse_answer(answer)))
    told = collect(events_of(stream, step=3, unwrap_json=True))
    assert (told.items, told.stop) == (unwrapped.items, Stop.END)
    assert collect(events_of(stream)).stop is Stop.TOOL


def test_json_is_asked_for_in_words_where_no_tool_can_be_forced() -> None:
    asked = OutputFormat("json_object")
    for request in (rendered(output_format=asked, tools=[TOOL]), rendered(output_format=asked, model="claude-opus-5-5")):
        assert "JSON" in request["system"]
        assert request.get("tool_choice") is None


# Requests of clients


def test_the_volatile_system_block_is_left_out() -> None:
    request = {
        "model": "m",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "x-anthropic-billing-header: cc=1;"}, {"type": "text", "text": "S"}],
        "messages": [{"role": "user", "content": "hi"}],
    }
    assert [item.text for item in messages.parse_request(request).items if isinstance(item, Text)] == ["S", "hi"]


def test_a_request_is_read_into_the_hub() -> None:
    talk = messages.parse_request(
        {
            "model": "m", "max_tokens": 5, "stream": True, "temperature": 0.5, "stop_sequences": ["x"], "metadata": {"user_id": "u"},
            "tools": [{"name": "f", "input_schema": {}}, {"type": "web_search_20250305", "name": "web_search"}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            "thinking": {"type": "enabled", "budget_tokens": 2000}, "output_config": {"effort": "low"}, "context_management": {"edits": []},
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "go", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "", "signature": "S"}, {"type": "redacted_thinking", "data": "R"},
                    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "r"}]}]},
            ],
        }
    )  # fmt: skip
    first, signed, redacted, server, call, result = talk.items
    assert (first.cache, first.new_turn, signed.new_turn, redacted.new_turn) == ("1h", True, True, False)
    assert isinstance(signed, Reasoning)
    assert (signed.text, signed.seals) == ("", [Seal("signature", "S", "messages")])
    assert isinstance(redacted, Reasoning)
    assert redacted.seals == [Seal("redacted", "R", "messages")]
    assert isinstance(server, ServerTool)
    assert isinstance(call, ToolCall)
    assert (call.call_id, call.arguments) == ("t", '{"a":1}')
    assert isinstance(result, ToolResult)
    assert [tool.kind for tool in talk.tools] == ["function", "builtin"]
    assert (talk.tool_choice, talk.parallel_tools) == (ToolChoice("required"), False)
    assert talk.thinking == Thinking("low", 2000, enabled=True)
    assert (talk.user, talk.extra["context_management"]) == ("u", {"edits": []})


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"messages": "x"},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
        {"max_tokens": True},
        {"temperature": "hot"},
        {"tools": [{}]},
        {"tool_choice": {"type": "tool"}},
        {"thinking": {"type": "deep"}},
        {"stop_sequences": [1]},
        {"output_config": {"format": {"type": "json_object"}}},
    ],
)
def test_a_wrong_field_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(CannotParse) as caught:
        messages.parse_request({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], **wrong})
    assert caught.value.param in wrong


# Answers to clients


def test_every_seal_goes_to_the_client_and_comes_back() -> None:
    seals = [Seal("encrypted", "gw1.a", "responses"), Seal("signature", "gw1.b", "gemini"), Seal("redacted", "gw1.c", "messages")]
    items: list[AnyItem] = [
        Reasoning("assistant", summary=["one", "two"], seals=seals),
        Reasoning("assistant", seals=[Seal("encrypted", "gw1.d", "responses")]),
        ToolCall("assistant", call_id="a:1", name="f", arguments="{}", seals=[Seal("signature", "gw1.e", "gemini")]),
    ]
    answer = messages.parse_answer({"type": "message", "content": [], "stop_reason": "end_turn"})
    answer.items = items
    content = messages.render_answer(answer, ECHO)["content"]
    stream = streamed(replay(answer))
    assert grammar_messages.check(stream) == []
    for told in (messages.parse_answer({"content": content}).items, collect(events_of(stream)).items):
        back = [seal.data for item in told if isinstance(item, Reasoning) for seal in item.seals]
        assert back == ["gw1.a", "gw1.b", "gw1.c", "gw1.d", "gw1.e"]
        assert next(item.text for item in told if isinstance(item, Reasoning)) == "onetwo"
        assert [item.call_id for item in told if isinstance(item, ToolCall)] == [messages.tool_id("a:1")]


def test_a_refusal_in_words_is_told_by_the_stop_details() -> None:
    answer = messages.parse_answer({"type": "message", "content": [], "stop_reason": None})
    answer.items, answer.stop = [Refusal("assistant", text="No.")], Stop.END
    told = messages.render_answer(answer, ECHO)
    assert (told["stop_reason"], told["stop_details"]["explanation"]) == ("refusal", "No.")
    assert b'"explanation":"No."' in streamed(replay(answer))


def test_calls_are_told_as_the_reason_where_the_provider_said_stop() -> None:
    answer = messages.parse_answer({"type": "message", "content": [], "stop_reason": None})
    answer.items, answer.stop, answer.raw_stop = [ToolCall("assistant", call_id="a", name="f")], Stop.END, "stop"
    assert messages.render_answer(answer, ECHO)["stop_reason"] == "tool_use"
    assert b'"stop_reason":"tool_use"' in streamed(replay(answer))


def test_a_fault_never_ends_cleanly() -> None:
    stream = streamed([Started("x"), Opened(0, Text("assistant")), Delta(0, "text", "a"), Stopped(Stop.FAULT), Ended()])
    assert grammar_messages.check(stream) == []
    assert b"event: error" in stream
    assert b"message_stop" not in stream


def test_usage_that_comes_last_is_in_the_last_frame() -> None:
    usage = TokenUsage(input_tokens=5, cached_input_tokens=2, output_tokens=3, reasoning_tokens=1)
    stream = streamed([Started("x"), Opened(0, Text("assistant")), Delta(0, "text", "a"), Closed(0, Text("assistant", text="a")),
                       Stopped(Stop.LENGTH), Metered(usage), Ended()])  # fmt: skip
    assert grammar_messages.check(stream) == []
    assert collect(events_of(stream)).usage == usage
    assert collect(events_of(stream)).stop is Stop.LENGTH


def test_blank_text_is_not_streamed_but_white_space_within_text_is() -> None:
    events = [Started(), Opened(0, Text("assistant")), Delta(0, "text", "\n\n"), Closed(0, Text("assistant", text="\n\n")),
              Opened(1, Text("assistant")), Delta(1, "text", "\n"), Delta(1, "text", "a"), Delta(1, "text", " "), Closed(1, Text("assistant", text="\na ")),
              Stopped(Stop.END), Ended()]  # fmt: skip
    told = collect(events_of(streamed(events)))
    assert [item.text for item in told.items if isinstance(item, Text)] == ["\na "]


def test_a_custom_tools_text_streams_as_json() -> None:
    call = ToolCall("assistant", call_id="a", name="p", kind="custom", arguments='x"\n\u2028y')
    events = [Started(), Opened(0, ToolCall("assistant", call_id="a", name="p", kind="custom")),
              *(Delta(0, "arguments", letter) for letter in call.arguments), Closed(0, call), Stopped(Stop.TOOL), Ended()]  # fmt: skip
    assert [json.loads(item.arguments) for item in collect(events_of(streamed(events))).items if isinstance(item, ToolCall)] == [
        {"input": call.arguments}
    ]


def test_a_block_without_a_kind_is_not_told() -> None:
    events = events_of(b'data: {"type":"content_block_start","index":0,"content_block":{"text":"x"}}\n\n')
    assert events == []
    assert messages.render_answer(messages.parse_answer({"content": [{"type": "", "x": 1}]}), ECHO)["content"] == []


def test_only_the_input_of_tools_streams() -> None:
    blocks = [{"type": "novelty", "input": {"a": 1}}, {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": "x"}}]
    stream = streamed(replay(messages.parse_answer({"content": blocks, "stop_reason": "end_turn"})))
    assert grammar_messages.check(stream) == []
    assert stream.count(b"input_json_delta") == 1
    assert messages.render_answer(collect(events_of(stream)), ECHO)["content"] == blocks


def test_overlapping_blocks_are_told_one_after_the_other() -> None:
    def frame(fields: dict[str, Any]) -> bytes:
        return b"data: " + orjson.dumps(fields) + b"\n\n"

    def start(index: int) -> bytes:
        return frame(
            {
                "type": "content_block_start",
                "index": index,
                "content_block": {"type": "tool_use", "id": f"t{index}", "name": "f", "input": {}},
            }
        )

    def more(index: int, text: str) -> bytes:
        return frame({"type": "content_block_delta", "index": index, "delta": {"type": "input_json_delta", "partial_json": text}})

    def stop(index: int) -> bytes:
        return frame({"type": "content_block_stop", "index": index})

    stream = (
        start(0)
        + more(0, '{"a":')
        + start(1)
        + more(1, '{"b":')
        + more(0, "1}")
        + stop(0)
        + more(1, "2}")
        + frame({"type": "message_stop"})
    )
    events = events_of(stream)
    assert [event.index for event in events if isinstance(event, Opened | Closed)] == [0, 0, 1, 1]
    assert [item.arguments for item in collect(events).items if isinstance(item, ToolCall)] == ['{"a":1}', '{"b":2}']


# Usage


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, None),
        ({}, None),
        ({"output_tokens": 7}, TokenUsage(output_tokens=7)),
        (
            {
                "input_tokens": 3, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 9, "output_tokens": 8,
                "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 5}, "output_tokens_details": {"thinking_tokens": 6},
            },
            TokenUsage(
                input_tokens=3, cached_input_tokens=20, cache_write_tokens=4, cache_write_1h_tokens=5, output_tokens=2, reasoning_tokens=6
            ),
        ),
        ({"input_tokens": 1, "cache_creation_input_tokens": 9, "output_tokens": 0}, TokenUsage(input_tokens=1, cache_write_tokens=9)),
        (
            {"input_tokens": 10, "output_tokens": 5, "iterations": [{"input_tokens": 100, "output_tokens": 50}, {"input_tokens": 10, "output_tokens": 5}]},
            TokenUsage(input_tokens=110, output_tokens=55),
        ),
        ({"input_tokens": 10, "output_tokens": 5, "iterations": [{"input_tokens": 1, "output_tokens": 1}]}, TokenUsage(input_tokens=10, output_tokens=5)),
    ],
)  # fmt: skip
def test_usage_is_read_into_disjoint_buckets(usage: Any, expected: TokenUsage | None) -> None:
    assert messages.read_usage(usage) == expected


@pytest.mark.parametrize("count", ["5", -5, True, 10**12])
def test_a_usage_that_is_not_made_of_counts_is_not_believed(count: Any) -> None:
    usage = messages.read_usage({"input_tokens": count, "output_tokens": 1})
    assert usage is not None
    assert not usage.is_sane()


counts = st.integers(0, 10**6)


@given(st.builds(TokenUsage, counts, counts, counts, counts, st.just(0), counts, counts))
def test_a_written_usage_reads_the_same(usage: TokenUsage) -> None:
    assert messages.read_usage(messages.render_usage(usage)) == usage


# Errors


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (402, "billing_error"), (403, "permission_error"), (404, "not_found_error"),
     (418, "invalid_request_error"), (429, "rate_limit_error"), (500, "api_error"), (502, "api_error"), (503, "overloaded_error"), (504, "timeout_error")],
)  # fmt: skip
def test_an_error_has_the_class_of_its_status_and_the_gateways_code(status: int, kind: str) -> None:
    error = {"success": False, "code": "X", "error": {"message": "m", "type": "t", "param": None, "code": "some_code", "request_id": "r"}}
    assert messages.render_error(error, status, "req_1") == {
        "type": "error",
        "error": {"type": kind, "message": "m", "details": {"error_code": "some_code"}},
        "request_id": "req_1",
    }


def test_an_error_frame_names_itself() -> None:
    frame = messages.StreamRenderer(ECHO).fail(
        {"error": {"message": "m", "type": "insufficient_quota", "code": "insufficient_quota", "request_id": "r"}}
    )
    assert frame.startswith(b"event: error\ndata: ")
    assert grammar_messages.check(frame) == []
    assert b'"billing_error"' in frame
    assert b'"request_id":"r"' in frame


# Passing through


@recorded
@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.id)
def test_a_stream_passes_through_byte_by_byte_and_is_counted(case: Case) -> None:
    stream = case.response_bytes.rstrip(b"\n") + b"\n\n"
    for step in (1, 50, 1 << 30):
        tap = messages.MessagesTap()
        out = b"".join(tap.feed(stream[start : start + step]) for start in range(0, len(stream), step)) + tap.flush()
        out += tap.finish(estimate=TokenUsage(), cost=5, upstream_cost=1)
        assert out == stream
        assert tap.done
        assert tap.error is None
        answer = collect(events_of(stream))
        assert (tap.usage, tap.finish_reason) == (answer.usage, answer.raw_stop)
        assert tap.has_output


@recorded
@pytest.mark.parametrize(
    "case", [case for case in STREAMS if "plain" in case.kinds or "tool_stream" in case.kinds], ids=lambda case: case.id
)
def test_the_cost_is_put_in_only_when_asked_for(case: Case) -> None:
    stream = case.response_bytes
    tap = messages.MessagesTap(adds_cost=True)
    out = tap.feed(stream) + tap.flush() + tap.finish(estimate=TokenUsage(), cost=2_000_000_000, upstream_cost=10**9)
    assert b'"cost":2.0' in out
    assert grammar_messages.check(out) == []
    assert oracle.diff(oracle.meaning("messages", stream, stream=True), oracle.meaning("messages", out, stream=True)) == {}


@recorded
@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.id)
def test_a_whole_answer_passes_through_as_it_came(case: Case) -> None:
    whole = messages.read_answer(case.response_bytes)
    assert whole.render(estimate=TokenUsage(), cost=1, upstream_cost=1) == case.response_bytes
    assert whole.usage == messages.parse_answer(json.loads(case.response_bytes)).usage
    assert whole.finish_reason
    priced = json.loads(
        messages.read_answer(case.response_bytes, adds_cost=True).render(estimate=TokenUsage(), cost=10**9, upstream_cost=0)
    )
    assert priced["usage"]["cost"] == 1


def test_an_aborted_stream_has_no_final_usage() -> None:
    tap = messages.MessagesTap()
    tap.feed(b'data: {"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}\n\n')
    tap.feed(
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"abc\\u00fc"}}\n\n'
    )
    assert (tap.usage, tap.input_usage, tap.output_bytes) == (None, TokenUsage(input_tokens=9, output_tokens=1), 9)


# Strangers

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    "type role content text input id name tool_use_id source data url media_type thinking signature stop_reason stop_details usage message index "
    "delta content_block partial_json citation citations messages system tools tool_choice max_tokens output_config format schema effort "
    "metadata user_id title cache_control input_tokens output_tokens iterations cache_creation error".split()
)
KINDS = st.sampled_from(
    "text image document thinking redacted_thinking tool_use tool_result server_tool_use web_search_tool_result search_result custom auto any "
    "tool enabled adaptive base64 content json_schema message_start content_block_start content_block_delta content_block_stop message_delta "
    "message_stop text_delta input_json_delta thinking_delta signature_delta citations_delta compaction_delta user assistant system ping error".split()
)
near = st.recursive(
    json_values | KINDS | st.integers(0, 3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES, inner, max_size=6)
        | st.fixed_dictionaries(
            {"type": KINDS},
            optional=dict.fromkeys(("content", "source", "input", "message", "delta", "content_block", "usage", "text", "index"), inner),
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(near)
def test_no_json_makes_a_parser_raise_anything_else(value: Any) -> None:
    messages.read_usage(value)
    for parse in (messages.parse_request, messages.parse_answer):
        try:
            parse(value)
        except CannotParse:
            pass
    for fields in (
        {"messages": value},
        {"messages": [{"role": "user", "content": value}]},
        {"messages": [{"role": "user", "content": "x"}], "tools": value},
    ):
        try:
            talk = messages.parse_request({"model": "m", **fields})
            messages.render_request(talk, Target(model=SONNET, max_output=5))
        except (CannotParse, CannotRender):
            pass
    try:
        answer = messages.parse_answer({"content": value})
    except CannotParse:
        return
    messages.render_answer(answer, ECHO)
    streamed(replay(answer))


@settings(max_examples=300, deadline=None)
@given(st.lists(near, max_size=8))
def test_no_stream_makes_the_parser_or_the_tap_raise(values: list[Any]) -> None:
    stream = b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)
    events = events_of(stream)
    rendered_once = streamed([Started(), *(event for event in events if not isinstance(event, Ended)), Ended()])
    assert grammar_messages.check(rendered_once) == []
    assert events == events_of(stream, 5)
    tap = messages.MessagesTap()
    tap.feed(stream)
    tap.flush()
    tap.finish(estimate=TokenUsage(), cost=0, upstream_cost=0)


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)
assistant_items = st.one_of(
    st.builds(Text, st.just("assistant"), text=words),
    st.builds(lambda text, data: Reasoning("assistant", text=text, seals=[Seal("signature", data, "messages")]), words, words),
    st.builds(
        lambda name, value: ToolCall("assistant", call_id="", name=name, arguments=json.dumps(value)),
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
        st.dictionaries(st.text(max_size=4), st.integers(-9, 9), max_size=2),
    ),
)


@settings(deadline=None)
@given(st.lists(st.tuples(words, st.lists(assistant_items, min_size=1, max_size=4)), min_size=1, max_size=4))
def test_a_conversation_means_the_same_when_read_again(turns: list[tuple[str, list[AnyItem]]]) -> None:
    items: list[AnyItem] = []
    for number, (question, answers) in enumerate(turns):
        items.append(Text("user", text=question))
        calls = [item for item in answers if isinstance(item, ToolCall)]
        for position, call in enumerate(calls):
            call.call_id = f"call.{number}.{position}"
        items += answers
        items += [ToolResult("user", call_id=call.call_id, parts=[Text("user", text="done")]) for call in calls]
    items.append(Text("user", text="end"))
    request = rendered(*items)
    roles = [message["role"] for message in request["messages"]]
    assert all(left != right for left, right in pairwise(roles))
    again = messages.parse_request(json.loads(json.dumps(request)))

    def essence(found: list[AnyItem]) -> list[Any]:
        told: list[Any] = []
        for item in found:
            match item:
                case Text():
                    told.append((item.role, item.text))
                case Reasoning():
                    told.append((item.text, [seal.data for seal in item.seals]))
                case ToolCall():
                    told.append((messages.tool_id(item.call_id), item.name, json.loads(item.arguments)))
                case ToolResult():
                    told.append((messages.tool_id(item.call_id), [part.text for part in item.parts if isinstance(part, Text)]))
        return told

    assert essence(again.items) == essence(items)
    assert normal(messages.render_request(again, Target(model=SONNET, max_output=64_000))) == normal(request)
