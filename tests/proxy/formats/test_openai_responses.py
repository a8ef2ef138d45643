"""The Responses format: recorded exchanges keep their meaning through the hub, emitted streams keep the grammar, no input breaks a parser."""

import copy
import itertools
import json
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import omit
from openai._models import construct_type_unchecked
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent

from catalog.usage import TokenUsage
from proxy.formats import grammar_responses as grammar
from proxy.formats import openai_responses as responses
from proxy.formats.base import NotAnAnswer
from proxy.formats.conversation import (
    Answer,
    Audio,
    CannotParse,
    CannotRender,
    Closed,
    Conversation,
    Delta,
    Echo,
    Ended,
    Event,
    Failed,
    File,
    Image,
    Metered,
    Opened,
    OutputFormat,
    Pinged,
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
from tests.fakes.provider import oracle, recordings
from tests.fakes.provider.recordings import Case
from tests.proxy import costs

ECHO = Echo("resp_0123456789abcdef", 1_700_000_000, "our-model")
KEYS = ("text", "reasoning", "tools", "stop", "inp", "out", "cached", "reason_tok", "sig", "refusal", "ids")
RECORDED = recordings.cases("responses", statuses=[200])
REQUESTS = [case for case in recordings.cases("responses") if case.request is not None]
NOT_ANSWERS = {
    "openai/responses/compaction__pai-openai-responses-compact-messages-2": "an answer of /responses/compact",
    "openai/responses/previous_response_id__pai-openai-responses-compact-with-auto-previous-response-id-1": "an answer of /responses/compact",
    "openai/responses/image_in_stream__lingua-multimodalRequest-followup": "events of a draft of the protocol, without types",
}
UNFINISHED = {
    "openai/responses/background__pai-background-mode-reasoning-vcr-0": "queued: there is no stream that ends as queued",
    "openai/responses/background__pai-background-mode-with-tool-vcr-0": "queued: there is no stream that ends as queued",
}
needs_recordings = pytest.mark.skipif(not RECORDED or oracle.file() is None, reason=recordings.SKIP_REASON)
each_answer = pytest.mark.parametrize("case", [case for case in RECORDED if case.id not in NOT_ANSWERS], ids=lambda case: case.id)


def parse_stream(stream: bytes, *, size: int = 1 << 20) -> list[Event]:
    parser = responses.StreamParser()
    events: list[Event] = []
    for start in range(0, len(stream), size):
        events += parser.feed(stream[start : start + size])
    return events + parser.finish()


def render_stream(events: list[Event], echo: Echo = ECHO) -> bytes:
    renderer = responses.StreamRenderer(echo)
    return b"".join(renderer.feed(event) for event in events)


def last_response(stream: bytes) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(stream.rsplit(b"data: ", 1)[1])["response"]
    return found


def events_of(stream: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(block.split(b"data: ", 1)[1]) for block in stream.split(b"\n\n") if block.startswith(b"event: ")]


def ask(**fields: Any) -> Conversation:
    return responses.parse_request({"model": "m", "input": "Hi", **fields})


def send(conversation: Conversation, *, kind: str = "openai", capabilities: tuple[str, ...] = ()) -> dict[str, Any]:
    return responses.render_request(conversation, Target("up", 1000, kind, capabilities))


def from_chat(*items: Any, **fields: Any) -> Conversation:
    return Conversation(origin="chat", model="m", items=list(items), **fields)


# -- Recorded answers ------------------------------------------------------------------------------------------------------------------


@needs_recordings
@each_answer
def test_a_recorded_answer_keeps_its_meaning(case: Case):
    said = oracle.meaning("responses", case.response_bytes, case.stream)
    if case.stream:
        events = parse_stream(case.response_bytes)
        streamed, whole = render_stream(events), responses.render_answer(collect(events), ECHO)
    else:
        answer = responses.parse_answer(case_json(case))
        streamed, whole = render_stream(replay(answer)), responses.render_answer(answer, ECHO)
    assert oracle.diff(said, oracle.meaning("responses", whole), KEYS) == {}
    if case.id not in UNFINISHED:
        assert oracle.diff(said, oracle.meaning("responses", streamed, stream=True), KEYS) == {}
        assert last_response(streamed) == whole
    assert grammar.check(streamed) == []


def case_json(case: Case) -> Any:
    return json.loads(case.response_bytes)


@needs_recordings
@each_answer
def test_the_official_accumulator_takes_every_emitted_stream(case: Case):
    events = parse_stream(case.response_bytes) if case.stream else replay(responses.parse_answer(case_json(case)))
    stream = render_stream(events)
    state: Any = ResponseStreamState(input_tools=[], text_format=omit)
    for event in events_of(stream):
        state.handle_event(construct_type_unchecked(value=event, type_=cast("Any", ResponseStreamEvent)))
    ended = last_response(stream)
    if ended["status"] == "completed":
        assert [item.type for item in state._completed_response.output] == [item["type"] for item in ended["output"]]
    Response.model_validate({**ended, "output": []})


@needs_recordings
@pytest.mark.parametrize("case", [case for case in RECORDED if case.stream and case.id not in NOT_ANSWERS], ids=lambda case: case.id)
@pytest.mark.parametrize("size", [1, 61, 1 << 20])
def test_passing_through_forwards_every_event_as_received(case: Case, size: int):
    tap = responses.ResponsesTap()
    raw = case.response_bytes
    sent = b"".join(tap.feed(raw[start : start + size]) for start in range(0, len(raw), size)) + tap.flush()
    assert tap.done
    assert tap.error is None
    assert b"response.completed" not in sent
    sent += tap.finish(estimate=TokenUsage(), cost=0, upstream_cost=0)
    assert costs.count(sent) == 1
    passed, received = costs.without(sent, recorded=raw).rstrip(), costs.without(raw, recorded=raw)
    assert received.startswith(passed)
    assert received[len(passed) :].strip() in (b"", b"data: [DONE]")
    said = oracle.meaning("responses", raw, stream=True)
    assert tap.usage is not None
    assert (tap.usage.total_input_tokens, tap.usage.total_output_tokens) == (said["inp"], said["out"])
    assert tap.finish_reason in ("completed", "max_output_tokens")
    assert tap.output_bytes >= len((said["text"] or said["reasoning"]).encode()) * 0.9


@needs_recordings
@pytest.mark.parametrize("case", [case for case in RECORDED if not case.stream and case.id not in NOT_ANSWERS], ids=lambda case: case.id)
def test_a_whole_answer_passes_through_byte_for_byte(case: Case):
    answer = responses.read_answer(case.response_bytes)
    told = answer.render(estimate=TokenUsage(), cost=0, upstream_cost=0)
    raw = case.response_bytes
    assert costs.count(told) == int(bool(json.loads(raw).get("usage")))
    assert costs.without(told, recorded=raw) == costs.without(raw, recorded=raw)
    said = oracle.meaning("responses", case.response_bytes)
    assert (answer.usage.total_output_tokens if answer.usage else None) == said["out"]
    assert answer.output_bytes >= len(said["text"].encode())


# -- Recorded requests -----------------------------------------------------------------------------------------------------------------


def normal(request: dict[str, Any]) -> dict[str, Any]:
    """What a request means: without what the gateway decides (storing, limits, ids), its shorthands written out."""
    fields = {
        name: value for name, value in copy.deepcopy(request).items() if name not in ("store", "include", "stream", "max_output_tokens")
    }
    given = fields.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given or []
    fields["input"] = [item for item in map(_normal_item, items) if item is not None]
    text = fields.get("text") or {}
    if (text.get("format") or {}).get("type") == "text":
        text.pop("format")
    return {name: value for name, value in fields.items() if value not in (None, {}, [], "")}


def _normal_item(item: dict[str, Any]) -> dict[str, Any] | None:
    item = {name: value for name, value in item.items() if value is not None and name not in ("id", "status")}
    if "role" in item:
        item["type"] = "message"
    if isinstance(item.get("content"), str):
        kind = "output_text" if item["role"] == "assistant" else "input_text"
        item["content"] = [{"type": kind, "text": item["content"]}]
    for part in item.get("content") or []:
        if part.get("annotations") == []:
            part.pop("annotations")
    if item["type"] == "reasoning":
        if not item.get("content"):
            item.pop("content", None)
            if not item.get("encrypted_content"):
                return None  # known only to the provider that stored it
        item.setdefault("summary", [])
    return item


@needs_recordings
@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.id)
def test_a_recorded_request_goes_out_as_it_came_in(case: Case):
    conversation = responses.parse_request(case.request)
    target = Target(case.request["model"], 4096, "openai" if case.provider in ("openai", "azure") else case.provider)
    held = [name for name in responses.STATE_FIELDS if case.request.get(name)]
    if held:
        with pytest.raises(CannotRender) as refusal:
            responses.render_request(conversation, target)
        assert refusal.value.param in held
        return
    sent = responses.render_request(conversation, target)
    assert normal(sent) == normal(case.request)
    assert target.dropped == []
    assert sent["store"] is False
    assert (sent.get("stream") or False) == (case.request.get("stream") or False)
    assert set(case.request.get("include") or []) <= set(sent.get("include") or [])


def _pairs() -> list[Any]:
    root = recordings.folder()
    found = sorted((root / "pairs").glob("*responses*/*.json")) if root is not None else []
    return [pytest.param(place, id=f"{place.parent.name}/{place.stem}") for place in found]


@needs_recordings
@pytest.mark.parametrize("place", _pairs())
def test_a_request_that_a_real_provider_accepted_survives(place: Any):
    pair = json.loads(place.read_bytes())
    side = "source" if pair["source_shape"] == "responses" else "target"
    request = pair[f"{side}_request"]
    sent = responses.render_request(responses.parse_request(request), Target(request["model"], 4096, "openai"))
    assert normal(sent) == normal(request)
    answer = pair["target_response"]
    if side == "target" and answer.get("object") == "response":  # the source's is not a real provider's
        rendered = responses.render_answer(responses.parse_answer(answer), ECHO)
        assert oracle.diff(oracle.meaning("responses", answer), oracle.meaning("responses", rendered), KEYS) == {}


# -- Requests --------------------------------------------------------------------------------------------------------------------------


def test_nothing_refers_to_what_the_provider_would_have_stored():
    conversation = ask(
        input=[
            {"type": "message", "id": "msg_1", "role": "user", "content": "Hi"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "sealed"},
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}", "status": "completed"},
            {"type": "function_call_output", "id": "fo_1", "call_id": "c1", "output": "ok"},
        ],
        store=True,
    )
    sent = send(conversation)
    assert "id" not in {name for item in sent["input"] for name in item}
    assert sent["store"] is False
    assert sent["include"] == ["reasoning.encrypted_content"]
    assert sent["input"][1]["encrypted_content"] == "sealed"


def test_thinking_sealed_by_another_provider_is_left_out():
    foreign = Reasoning("assistant", text="thoughts", seals=[Seal("signature", "x", "messages")], origin="messages")
    sent = send(from_chat(Text("user", text="Hi"), foreign, Text("assistant", text="Hello"), Text("user", text="And?")))
    assert [item["type"] for item in sent["input"]] == ["message"] * 3
    assert "thoughts" not in json.dumps(sent)


def test_openai_gets_no_thinking_that_nothing_follows():
    conversation = ask(input=[{"type": "reasoning", "summary": [], "encrypted_content": "s"}, {"role": "user", "content": "Go on"}])
    assert [item["type"] for item in send(conversation)["input"]] == ["message"]
    assert [item["type"] for item in send(conversation, kind="xai")["input"]] == ["reasoning", "message"]


def test_open_models_get_their_visible_thinking_back():
    thought = {"type": "reasoning", "id": "x", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    conversation = ask(input=[thought, {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}])
    assert send(conversation, kind="deepseek")["input"][0] == {name: value for name, value in thought.items() if name != "id"}
    assert send(conversation)["input"][0]["type"] == "function_call"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": ["END"]}, "stop"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [ToolDef("web_search", kind="builtin", origin="messages", raw={})]}, "tools"),
        ({"extra": {"web_search_options": {}}}, "web_search_options"),
    ],
)
def test_what_changes_the_meaning_is_refused(fields: dict[str, Any], param: str):
    with pytest.raises(CannotRender) as refusal:
        send(from_chat(Text("user", text="Hi"), **fields))
    assert refusal.value.param == param


@pytest.mark.parametrize("name", ["previous_response_id", "conversation", "background", "prompt"])
def test_state_that_was_not_resolved_is_refused(name: str):
    value = {"previous_response_id": "resp_1", "conversation": "conv_1", "background": True, "prompt": {"id": "p"}}[name]
    with pytest.raises(CannotRender):
        send(ask(**{name: value}))


@pytest.mark.parametrize("item", [Audio("user", data="AA==", format="wav"), File("user", media_type="video/mp4", data="AA==")])
def test_sound_and_moving_pictures_are_refused(item: Any):
    with pytest.raises(CannotRender):
        send(from_chat(item))


def test_harmless_losses_are_named():
    target = Target("up", 1, "openai")
    sent = responses.render_request(
        from_chat(Text("user", text="Hi", cache="5m"), seed=1, top_k=3, metadata={"a": 1}, extra={"logit_bias": {}}), target
    )
    assert sorted(target.dropped) == ["cache_control", "logit_bias", "metadata", "seed", "top_k"]
    assert sent["max_output_tokens"] == 16


def test_a_chat_becomes_items():
    sent = send(
        from_chat(
            Text("system", text="Be brief."),
            Text("user", text="Look:"),
            Image("user", media_type="image/png", data="QUJD", detail="low"),
            File("user", media_type="text/plain", data="QUJD"),
            Text("assistant", text="Calling."),
            ToolCall("assistant", call_id="x" * 80, name="f", arguments=""),
            ToolResult("user", call_id="x" * 80, parts=[Text("user", text="a"), Text("user", text="b")], is_error=True),
            Text("user", text="one", new_turn=True),
            Text("user", text="two", new_turn=True),
            tools=[ToolDef("f", description="d", parameters={"type": "object"})],
            tool_choice=ToolChoice("named", name="f"),
            output_format=OutputFormat("json_schema", schema={"type": "object"}, strict=True),
            thinking=Thinking(budget=2000),
            parallel_tools=False,
        )
    )
    call, result = sent["input"][3:5]
    assert len(call["call_id"]) <= 64
    assert call == {"type": "function_call", "call_id": result["call_id"], "name": "f", "arguments": "{}"}
    assert result["output"] == "a\nb"
    assert [item.get("content") for item in sent["input"]] == [
        "Be brief.",
        [
            {"type": "input_text", "text": "Look:"},
            {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "low"},
            {"type": "input_file", "filename": "document.txt", "file_data": "data:text/plain;base64,QUJD"},
        ],
        [{"type": "output_text", "text": "Calling.", "annotations": []}],
        None,
        None,
        "one",
        "two",
    ]
    assert sent["tools"] == [{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": False}]
    assert sent["tool_choice"] == {"type": "function", "name": "f"}
    assert sent["text"]["format"] == {"type": "json_schema", "name": "response", "schema": {"type": "object"}, "strict": True}
    assert sent["reasoning"] == {"effort": "low"}
    assert sent["parallel_tool_calls"] is False


def test_developer_becomes_system_where_only_openai_knows_it():
    conversation = from_chat(Text("developer", text="Rules"), Text("user", text="Hi"))
    assert send(conversation)["input"][0]["role"] == "developer"
    assert send(conversation, kind="xai")["input"][0]["role"] == "system"


def test_names_that_the_provider_refuses_are_changed_and_changed_back():
    conversation = from_chat(Text("user", text="Hi"), tools=[ToolDef("a.b"), ToolDef("c")])
    conversation.origin = "gemini"
    sent = send(conversation)
    name = sent["tools"][0]["name"]
    assert name != "a.b"
    answer = {"output": [{"type": "function_call", "call_id": "1", "name": name, "arguments": "{}"}], "status": "completed"}
    (call,) = responses.parse_answer(answer, conversation).items
    assert isinstance(call, ToolCall)
    assert call.name == "a.b"


NAMESPACED = [
    {
        "type": "namespace",
        "name": "crm",
        "description": "Customers",
        "tools": [{"type": "function", "name": "find", "parameters": {"type": "object"}, "defer_loading": True}],
    },
    {"type": "custom", "name": "sql", "description": "Run SQL", "format": {"type": "text"}},
    {"type": "web_search", "search_context_size": "low"},
]


def test_namespaced_custom_and_built_in_tools_are_read_and_written_back():
    conversation = ask(tools=NAMESPACED)
    assert [(tool.kind, tool.namespace, tool.name) for tool in conversation.tools] == [
        ("function", "crm", "find"),
        ("custom", "", "sql"),
        ("builtin", "", "web_search"),
    ]
    assert send(conversation)["tools"] == NAMESPACED


@pytest.mark.parametrize("streamed", [False, True])
def test_calls_of_tools_that_another_format_renamed_come_back_as_defined(streamed: bool):
    echo = Echo("resp_1", 1, "m", conversation=ask(tools=NAMESPACED))
    answer = Answer(
        "x",
        "m",
        [
            ToolCall("assistant", call_id="1", name="crm__find", arguments='{"q":1}', origin="chat"),
            ToolCall("assistant", call_id="2", name="sql", arguments='{"input":"SELECT 1"}', origin="chat"),
        ],
        Stop.TOOL,
        TokenUsage(),
    )
    stream = render_stream(replay(answer), echo)
    assert grammar.check(stream) == []
    output = (last_response(stream) if streamed else responses.render_answer(answer, echo))["output"]
    assert [{name: value for name, value in item.items() if name != "id"} for item in output] == [
        {"type": "function_call", "status": "completed", "arguments": '{"q":1}', "call_id": "1", "name": "find", "namespace": "crm"},
        {"type": "custom_tool_call", "status": "completed", "input": "SELECT 1", "call_id": "2", "name": "sql"},
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"input": 5},
        {"input": None},
        {"input": [5]},
        {"input": [{"role": "king", "content": "x"}]},
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
        {"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]},
        {"input": [{"type": "function_call_output", "call_id": "c", "output": 5}]},
        {"max_output_tokens": True},
        {"max_output_tokens": 0},
        {"temperature": "hot"},
        {"stream": "yes"},
        {"tools": [{"type": "function"}]},
        {"tools": {}},
        {"tool_choice": 7},
        {"text": {"format": {"type": "xml"}}},
        {"text": {"format": {"type": "json_schema", "schema": "x"}}},
        {"reasoning": []},
        {"include": "all"},
        {"store": "no"},
        {"instructions": ["x"]},
        {"metadata": "x"},
    ],
)
def test_what_is_not_of_the_format_is_refused(fields: dict[str, Any]):
    with pytest.raises(CannotParse):
        ask(**fields)


def test_instructions_are_told_apart_and_go_back_to_their_field():
    conversation = ask(instructions="Be brief.", input=[{"role": "user", "content": "Hi"}])
    assert responses.is_instructions(conversation.items[0])
    assert conversation.items[0].role == "system"
    sent = send(conversation)
    assert sent["instructions"] == "Be brief."
    assert sent["input"] == [{"type": "message", "role": "user", "content": "Hi"}]


# -- Answers ---------------------------------------------------------------------------------------------------------------------------


def test_an_answer_shows_what_was_asked():
    request = {
        "model": "our-model",
        "instructions": "Be brief.",
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "tool_choice": "required",
        "temperature": 0.5,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_object"}},
        "metadata": {"a": "b"},
        "store": False,
    }
    answer = responses.render_answer(
        Answer("x", "up", [Text("assistant", text="Hi")], Stop.END, None), Echo("resp_1", 5, "our-model", request)
    )
    assert answer["tools"] == [{"type": "function", "name": "f", "parameters": {}, "description": None, "strict": True}]
    assert answer["reasoning"] == {"effort": "low", "summary": None}
    assert answer["text"] == {"format": {"type": "json_object"}, "verbosity": "medium"}
    for name in ("model", "instructions", "tool_choice", "temperature", "metadata", "store"):
        assert answer[name] == request[name]
    assert answer["output"][0]["id"].startswith("msg_1")
    Response.model_validate(answer)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("stop", "status", "reason"),
    [
        (Stop.END, "completed", None),
        (Stop.TOOL, "completed", None),
        (Stop.PAUSE, "completed", None),
        (Stop.LENGTH, "incomplete", "max_output_tokens"),
        (Stop.FILTER, "incomplete", "content_filter"),
        (Stop.FAULT, "failed", None),
    ],
)
def test_an_answer_says_why_it_ended(stop: Stop, status: str, reason: str | None, streamed: bool):
    answer = Answer("x", "m", [Text("assistant", text="Hi", new_turn=True)], stop, TokenUsage(input_tokens=1))
    stream = render_stream(replay(answer))
    assert grammar.check(stream) == []
    said = last_response(stream) if streamed else responses.render_answer(answer, ECHO)
    assert said["status"] == status
    assert (said["incomplete_details"] or {}).get("reason") == reason


@pytest.mark.parametrize("streamed", [False, True])
def test_every_seal_reaches_the_client_whatever_its_origin(streamed: bool):
    answer = Answer(
        "x",
        "m",
        [
            Reasoning("assistant", text="hm", seals=[Seal("signature", "s1", "messages"), Seal("redacted", "s2", "messages")]),
            Reasoning("assistant", seals=[Seal("redacted", "s3", "messages")]),
            Text("assistant", text="Hi", signature="s4", origin="gemini"),
            ToolCall("assistant", call_id="1", name="f", seals=[Seal("signature", "s5", "gemini")], origin="gemini"),
        ],
        Stop.TOOL,
        None,
    )
    stream = render_stream(replay(answer))
    assert grammar.check(stream) == []
    output = (last_response(stream) if streamed else responses.render_answer(answer, ECHO))["output"]
    assert [item.get("encrypted_content") or item["type"] for item in output] == ["s1", "s2", "s3", "message", "s4", "s5", "function_call"]
    assert output[0]["summary"] == [{"type": "summary_text", "text": "hm"}]


def test_a_stream_that_overlaps_is_told_in_order():
    def event(kind: str, index: int, **fields: Any) -> bytes:
        return b"data: " + orjson.dumps({"type": f"response.{kind}", "output_index": index, "item_id": f"i{index}", **fields}) + b"\n\n"

    def call(index: int, arguments: str) -> dict[str, Any]:
        return {"type": "function_call", "id": f"i{index}", "call_id": f"c{index}", "name": "f", "arguments": arguments}

    stream = (
        event("output_item.added", 0, item=call(0, ""))
        + event("output_item.added", 1, item=call(1, ""))
        + event("function_call_arguments.delta", 1, delta='{"b":')
        + event("function_call_arguments.delta", 0, delta='{"a":1}')
        + event("function_call_arguments.delta", 1, delta="2}")
        + event("output_item.done", 1, item=call(1, '{"b":2}'))
        + event("output_item.done", 0, item=call(0, '{"a":1}'))
        + b'data: {"type":"response.completed","response":{"output":[]}}\n\n'
    )
    events = parse_stream(stream)
    assert [item.arguments for item in collect(events).items if isinstance(item, ToolCall)] == ['{"a":1}', '{"b":2}']
    assert grammar.check(render_stream(events)) == []


def test_items_that_were_not_streamed_are_taken_from_the_end():
    output = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}]
    events = parse_stream(b"data: " + orjson.dumps({"type": "response.completed", "response": {"output": output}}) + b"\n\n")
    assert [item.text for item in collect(events).items if isinstance(item, Text)] == ["Hi"]


def test_items_that_the_end_leaves_out_are_kept():
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
    done = orjson.dumps({"type": "response.output_item.done", "output_index": 0, "item": item})
    stream = b"data: " + done + b'\n\ndata: {"type":"response.completed","response":{"output":[]}}\n\n'
    answer = collect(parse_stream(stream))
    assert [item.text for item in answer.items if isinstance(item, Text)] == ["Hi"]
    assert answer.stop is Stop.END


@pytest.mark.parametrize(
    ("data", "raw"),
    [
        ({"type": "error", "code": "x", "message": "m", "sequence_number": 3}, {"type": "error", "code": "x", "message": "m"}),
        ({"type": "error", "error": {"message": "m"}}, {"message": "m"}),
        ({"error": {"message": "m"}}, {"message": "m"}),
        ({"type": "response.failed", "response": {"error": {"code": "server_error"}}}, {"code": "server_error"}),
    ],
)
def test_an_error_in_the_stream_is_told(data: dict[str, Any], raw: Any):
    stream = b"data: " + orjson.dumps(data) + b"\n\n"
    assert [event.raw for event in parse_stream(stream) if isinstance(event, Failed)] == [raw]
    tap = responses.ResponsesTap()
    assert tap.feed(stream) == b""
    assert tap.error == raw
    assert not tap.done
    assert not tap.has_output


def test_a_stream_cut_off_has_no_end():
    events = parse_stream(b'data: {"type":"response.created","response":{"id":"r"}}\n\ndata: {"type":"response.out')
    assert [type(event) for event in events] == [Started]


@pytest.mark.parametrize("ran_out", [False, True])
def test_a_stream_that_fails_ends_with_a_failed_response(ran_out: bool):
    error = {"error": {"message": "No more.", "type": "server_error", "param": None, "code": "upstream_error"}}
    renderer = responses.StreamRenderer(ECHO)
    text = Text("assistant", text="")
    stream = renderer.feed(Started()) + renderer.feed(Opened(0, text)) + renderer.feed(Delta(0, "text", "Hal"))
    stream += renderer.fail(error, ran_out=ran_out)
    assert grammar.check(stream) == []
    assert last_response(stream)["error"] == {"code": "upstream_error", "message": "No more."}
    assert grammar.check(responses.StreamRenderer(ECHO).fail(error)) == []
    tap = responses.ResponsesTap()
    sent = tap.feed(stream[: stream.index(b"event: response.failed")])
    sent += tap.fail(error, ran_out=ran_out)
    assert grammar.check(sent) == []
    assert last_response(sent)["id"] == ECHO.id


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"output":[],"error":{"message":"x"}}', b"<html>"])
def test_what_is_no_answer_is_not_read_as_one(raw: bytes):
    with pytest.raises(NotAnAnswer):
        responses.read_answer(raw)


# -- Usage -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, None),
        ({}, None),
        ("x", None),
        (
            {
                "input_tokens": 10,
                "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3, "cache_write_tokens_details": {"ttl_12h_tokens": 1}},
                "output_tokens": 7,
                "output_tokens_details": {"reasoning_tokens": 5},
                "total_tokens": 17,
            },
            TokenUsage(
                input_tokens=3, cached_input_tokens=4, cache_write_tokens=2, cache_write_1h_tokens=1, output_tokens=2, reasoning_tokens=5
            ),
        ),
        (
            {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 9}, "output_tokens": 1},
            TokenUsage(input_tokens=3, cached_input_tokens=9, output_tokens=1),
        ),
        (
            {"input_tokens": 3, "output_tokens": 1, "output_tokens_details": {"reasoning_tokens": 6}, "total_tokens": 10},
            TokenUsage(input_tokens=3, output_tokens=1, reasoning_tokens=6),
        ),
    ],
)
def test_usage_is_read_into_disjoint_buckets(usage: Any, expected: TokenUsage | None):
    assert responses.read_usage(usage) == expected


@pytest.mark.parametrize("count", ["5", -5, True, 10**11, float("nan")])
def test_a_usage_that_is_not_made_of_counts_is_not_believed(count: Any):
    usage = responses.read_usage({"input_tokens": count, "output_tokens": 1})
    assert usage is not None
    assert not usage.is_sane()


@given(st.builds(TokenUsage, *[st.integers(0, 10**6)] * 3, st.just(0), st.just(0), *[st.integers(0, 10**6)] * 2))
def test_usage_comes_back_as_it_was_shown(usage: TokenUsage):
    shown = responses.render_usage(usage)
    assert grammar.check_usage(shown) == []
    assert responses.read_usage(shown) == usage


# -- Anything at all -------------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
NAMES = (
    "type role content text id call_id name arguments input output summary encrypted_content tools tool_choice reasoning effort format schema "
    "status incomplete_details reason usage input_tokens output_tokens total_tokens input_tokens_details cached_tokens output_index item part "
    "content_index summary_index delta response error annotations annotation refusal model stream image_url file_data namespace include store "
    "instructions created_at object metadata temperature max_output_tokens mode message"
).split()
TYPES = (
    "message reasoning function_call function_call_output custom_tool_call custom_tool_call_output web_search_call compaction item_reference "
    "input_text output_text input_image input_file input_audio refusal function custom namespace allowed_tools json_schema json_object user "
    "assistant completed incomplete failed error response.created response.completed response.incomplete response.failed "
    "response.output_item.added response.output_item.done response.content_part.added response.content_part.done response.output_text.delta "
    "response.output_text.annotation.added response.refusal.delta response.reasoning_text.delta response.reasoning_summary_text.delta "
    "response.function_call_arguments.delta response.custom_tool_call_input.delta"
).split()
NEAR_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5) | st.sampled_from(TYPES),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=25,
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES), NEAR_JSON | JSON, max_size=8)


@settings(max_examples=400, deadline=None)
@given(OBJECTS)
def test_no_json_breaks_a_parser(fields: dict[str, Any]):
    for kind in ("openai", "xai"):
        try:
            conversation = responses.parse_request(fields)
        except CannotParse:
            break
        try:
            orjson.dumps(responses.render_request(conversation, Target("m", 5, kind)), option=orjson.OPT_NON_STR_KEYS)
        except CannotRender:
            pass
    try:
        answer = responses.parse_answer(fields)
    except CannotParse:
        pass
    else:
        whole = responses.render_answer(answer, ECHO)
        streamed = last_response(render_stream(replay(answer)))
        assert [item["type"] for item in streamed["output"]] == [item["type"] for item in whole["output"]]
    responses.read_usage(fields)
    responses.read_usage(fields.get("usage"))


@settings(max_examples=400, deadline=None)
@given(st.lists(OBJECTS, max_size=8))
def test_no_stream_breaks_the_parser_or_the_tap(objects: list[dict[str, Any]]):
    stream = b"".join(b"data: " + orjson.dumps(fields) + b"\n\n" for fields in objects)
    events = parse_stream(stream)
    told_in_order(events)
    render_stream(events)
    tap = responses.ResponsesTap()
    tap.feed(stream)
    tap.flush()
    tap.finish(estimate=TokenUsage(), cost=0, upstream_cost=0)
    tap.fail({"error": {"message": "x"}}, ran_out=False)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(data: bytes):
    parse_stream(data)
    responses.ResponsesTap().feed(data)


def told_in_order(events: list[Event]) -> None:
    """Items do not overlap, count from 0, and are what their deltas told."""
    open_at, count, told = None, 0, ""
    for event in events:
        match event:
            case Opened():
                assert open_at is None
                assert event.index == count
                open_at, count, told = event.index, count + 1, ""
            case Delta():
                assert event.index == open_at
                told += event.text
            case Closed():
                assert event.index == open_at
                if isinstance(event.item, Text | Refusal):
                    assert event.item.text == told
                elif isinstance(event.item, ToolCall):
                    assert event.item.arguments == told
                open_at = None
            case _:
                pass


INDEXES = st.integers(0, 2)
ITEMS = st.sampled_from(
    [
        {"type": "message", "role": "assistant", "content": []},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "abab"}, {"type": "refusal", "refusal": "no"}],
        },
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "ab"}], "encrypted_content": "seal"},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "abab"}], "summary": []},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "abab"},
        {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "ab"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    ]
)
EVENTS = st.one_of(
    st.builds(
        lambda kind, index, item: {"type": f"response.output_item.{kind}", "output_index": index, "item": item},
        st.sampled_from(["added", "done"]),
        INDEXES,
        ITEMS,
    ),
    st.builds(
        lambda kind, index, part, delta: {
            "type": f"response.{kind}.delta",
            "output_index": index,
            "content_index": part,
            "summary_index": part,
            "delta": delta,
        },
        st.sampled_from(
            ["output_text", "refusal", "reasoning_text", "reasoning_summary_text", "function_call_arguments", "custom_tool_call_input"]
        ),
        INDEXES,
        INDEXES,
        st.sampled_from(["a", "b", "ab", ""]),
    ),
    st.builds(
        lambda kind, index, part, text: {
            "type": f"response.content_part.{kind}",
            "output_index": index,
            "content_index": part,
            "part": {"type": "output_text", "text": text, "annotations": [{"type": "url_citation", "url": "u"}]},
        },
        st.sampled_from(["added", "done"]),
        INDEXES,
        INDEXES,
        st.sampled_from(["", "a", "ab"]),
    ),
    st.builds(
        lambda index: {"type": "response.output_text.annotation.added", "output_index": index, "annotation": {"type": "file_citation"}},
        INDEXES,
    ),
)


@settings(max_examples=600, deadline=None)
@given(st.lists(EVENTS, max_size=14), st.lists(ITEMS, max_size=3))
def test_a_disorderly_stream_becomes_an_orderly_one(disorder: list[dict[str, Any]], output: list[dict[str, Any]]):
    ended = {"type": "response.completed", "response": {"status": "completed", "output": output}}
    stream = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in [*disorder, ended])
    events = parse_stream(stream)
    told_in_order(events)
    assert isinstance(events[-1], Ended)
    rendered = render_stream(events)
    assert set(grammar.check(rendered)) <= {"two items have one id"}  # the provider's own, of a built-in tool
    assert whole_thoughts(last_response(rendered)) == whole_thoughts(responses.render_answer(collect(events), ECHO))


def whole_thoughts(response: dict[str, Any]) -> list[dict[str, Any]]:
    """The output, its thinking without the borders between its parts: what went to and fro between summary and text has more of them."""
    for item in response["output"]:
        if item["type"] == "reasoning":
            for name in ("summary", "content"):
                item[name] = "".join(part["text"] for part in item.get(name, ()))
    return list(response["output"])


SPLITTABLE = render_stream(
    replay(
        Answer(
            "x",
            "m",
            [
                Reasoning("assistant", summary=["eins", "zwei"], seals=[Seal("encrypted", "s", "responses")], origin="responses"),
                Text("assistant", text="Grüße \u2028 🙂", new_turn=True),
                Refusal("assistant", text="no"),
                ToolCall("assistant", call_id="c", name="f", arguments='{"a": "ü"}'),
            ],
            Stop.TOOL,
            TokenUsage(input_tokens=3, output_tokens=4),
        )
    )
)


@given(st.lists(st.integers(0, len(SPLITTABLE)), max_size=12), st.sampled_from([b"\n", b"\r\n"]))
def test_events_are_the_same_however_the_bytes_are_split(cuts: list[int], ending: bytes):
    stream = SPLITTABLE.replace(b"\n", ending)
    places = sorted({0, len(stream), *cuts})
    parser = responses.StreamParser()
    events: list[Event] = []
    for start, end in itertools.pairwise(places):
        events += parser.feed(stream[start:end])
    assert events + parser.finish() == parse_stream(SPLITTABLE)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
NAME = st.from_regex(r"[a-z_]{1,10}", fullmatch=True)
SPOKEN = st.one_of(
    st.builds(Text, st.sampled_from(["system", "developer", "user", "assistant"]), text=WORDS, new_turn=st.booleans()),
    st.builds(Image, st.just("user"), media_type=st.just("image/png"), data=st.just("QUJD"), detail=st.sampled_from(["", "low"])),
    st.builds(Image, st.just("user"), url=st.just("https://example.com/a.png")),
    st.builds(File, st.just("user"), media_type=st.just("application/pdf"), data=st.just("QUJD"), name=NAME),
    st.builds(Refusal, st.just("assistant"), text=WORDS),
    st.builds(ToolCall, st.just("assistant"), call_id=NAME, name=NAME, arguments=st.just('{"a":1}')),
    st.builds(ToolCall, st.just("assistant"), call_id=NAME, name=NAME, kind=st.just("custom"), arguments=WORDS),
    st.builds(
        ToolResult, st.just("user"), call_id=NAME, parts=st.lists(st.builds(Text, st.just("user"), text=WORDS), min_size=1, max_size=1)
    ),
)


def said(items: list[Any]) -> list[Any]:
    """What the items say, without where they came from."""
    found: list[Any] = []
    for item in items:
        match item:
            case Text() | Refusal():
                found.append((type(item), item.role, item.text))
            case Image() | File():
                found.append((type(item), item.role, item.media_type, item.data, item.url))
            case ToolCall():
                found.append((item.kind, item.call_id, item.name, item.arguments))
            case ToolResult():
                found.append((item.call_id, said(item.parts)))
            case Reasoning():
                found.append((item.text, item.summary, [seal.data for seal in item.seals]))
            case _:
                found.append(type(item))
    return found


@settings(deadline=None)
@given(
    st.lists(SPOKEN, min_size=1, max_size=8),
    st.builds(
        dict,
        temperature=st.none() | st.floats(0, 2),
        parallel_tools=st.none() | st.booleans(),
        verbosity=st.sampled_from(["", "low"]),
        thinking=st.none() | st.builds(Thinking, effort=st.sampled_from(["low", "high"]), summary=st.sampled_from(["", "auto"])),
        tool_choice=st.none()
        | st.builds(ToolChoice, st.sampled_from(["auto", "required"]), allowed=st.lists(NAME, max_size=2))
        | st.builds(ToolChoice, st.just("named"), name=NAME),
        output_format=st.none() | st.builds(OutputFormat, st.just("json_schema"), name=NAME, schema=st.just({}), strict=st.booleans()),
        metadata=st.dictionaries(NAME, WORDS, max_size=2),
    ),
)
def test_a_conversation_survives_being_sent_and_read(items: list[Any], fields: dict[str, Any]):
    conversation = from_chat(*items, tools=[ToolDef("f", parameters={"type": "object"}, strict=True)], **fields)
    again = responses.parse_request(send(conversation))
    assert said(again.items) == said(items)
    for name in fields:
        assert getattr(again, name) == getattr(conversation, name)
    assert [(tool.name, tool.parameters, tool.strict) for tool in again.tools] == [("f", {"type": "object"}, True)]
    assert send(again) == send(conversation)


ANSWERED = st.one_of(
    st.builds(Text, st.just("assistant"), text=WORDS, new_turn=st.booleans(), origin=st.sampled_from([None, "chat", "messages"])),
    st.builds(Refusal, st.just("assistant"), text=WORDS),
    st.builds(
        Reasoning,
        st.just("assistant"),
        summary=st.lists(WORDS, max_size=2),
        seals=st.lists(st.builds(Seal, st.just("encrypted"), NAME, st.just("responses")), max_size=1),
    ),
    st.builds(ToolCall, st.just("assistant"), call_id=NAME, name=NAME, arguments=st.just('{"a":1}')),
    st.builds(ServerTool, st.just("assistant"), raw=st.just({"type": "web_search_call", "id": "ws"}), origin=st.just("responses")),
    st.builds(ServerTool, st.just("assistant"), raw=st.just({"type": "server_tool_use"}), origin=st.just("messages")),
)


@settings(deadline=None)
@given(st.lists(ANSWERED, max_size=6), st.sampled_from([Stop.END, Stop.LENGTH, Stop.FILTER]))
def test_an_answer_survives_being_given_and_read(items: list[Any], stop: Stop):
    usage = TokenUsage(input_tokens=3, cached_input_tokens=1, output_tokens=2, reasoning_tokens=1)
    answer = Answer("x", "m", items, stop, usage)
    whole = responses.render_answer(answer, ECHO)
    again = responses.parse_answer(whole)
    kept = [item for item in items if item.origin != "messages" or not isinstance(item, ServerTool)]
    assert said(again.items) == said(kept)
    searched = sum(isinstance(item, ServerTool) for item in kept)
    assert again.usage == replace(usage, web_searches=searched)
    expected = Stop.TOOL if stop is Stop.END and any(isinstance(item, ToolCall) for item in items) else stop
    assert again.stop is expected
    stream = render_stream(replay(answer))
    assert set(grammar.check(stream)) <= {"two items have one id"}
    streamed = collect(parse_stream(stream))
    assert said(streamed.items) == said(again.items)
    assert (streamed.usage, streamed.stop, streamed.id) == (again.usage, again.stop, ECHO.id)


def test_comments_are_pings_and_pings_are_comments():
    assert parse_stream(b": OPENROUTER PROCESSING\n\n") == [Pinged()]
    assert responses.StreamRenderer(ECHO).feed(Pinged()) == responses.StreamRenderer.keep_alive


def test_usage_said_first_is_shown_last():
    renderer = responses.StreamRenderer(ECHO)
    stream = renderer.feed(Started(usage=TokenUsage(input_tokens=9)))
    stream += (
        renderer.feed(Metered(TokenUsage(input_tokens=9, output_tokens=1))) + renderer.feed(Stopped(Stop.END)) + renderer.feed(Ended())
    )
    assert grammar.check(stream) == []
    assert last_response(stream)["usage"]["total_tokens"] == 10
