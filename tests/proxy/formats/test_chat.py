"""The chat format and the hub: recorded answers and requests keep their meaning on the way through it, in every combination."""

import json
from typing import Any

import openai
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from catalog.usage import TokenUsage
from proxy.formats import grammar_chat
from proxy.formats import openai_chat_bridge as chat
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

ANSWERS = recordings.cases("chat", statuses=[200], stream=False)
STREAMS = recordings.cases("chat", statuses=[200], stream=True)
needs_recordings = pytest.mark.skipif(not ANSWERS or oracle.file() is None, reason=recordings.SKIP_REASON)

ASKING = Echo("chatcmpl-1", 1_700_000_000, "house/model", {"stream_options": {"include_usage": True}})


def ids(case: recordings.Case) -> str:
    return case.id


def tell(events: list[Event], echo: Echo = ASKING) -> bytes:
    renderer = chat.StreamRenderer(echo)
    return b"".join(renderer.feed(event) for event in events)


def parse_stream(data: bytes, size: int = 0) -> list[Event]:
    parser = chat.StreamParser()
    pieces = [data[at : at + size] for at in range(0, len(data), size)] if size else [data]
    return [event for piece in pieces for event in parser.feed(piece)] + parser.finish()


def through(messages: list[dict[str, Any]], kind: str = "openai", **fields: Any) -> dict[str, Any]:
    return chat.render_request(chat.parse_request({"model": "m", "messages": messages, **fields}), Target("m", 100, kind))


# -- Recorded answers ------------------------------------------------------------------------------------------------------------------
# Where a rendered answer may differ from the recorded one: what providers count beside what contains it elsewhere.
GROK_ON_AZURE = "Grok on Azure counts what was cached beside the prompt, not in it"
GEMINI = "Gemini's OpenAI endpoint has its thoughts only in the total, and its signature in extra_content, which the oracle does not read"
XAI = "xAI counts reasoning beside the completion"
QUIRKS: dict[str, tuple[set[str], str]] = {
    "azure/chat/cached__rubyllm-with-schema-with-azure-grok-4-1-fast-non-reasoning-allows-re-1": ({"inp"}, GROK_ON_AZURE),
    "azure/chat/json_object__rubyllm-with-params-azure-grok-4-1-fast-non-reasoning-supports-respo": ({"inp"}, GROK_ON_AZURE),
    "azure/chat/json_schema__rubyllm-with-schema-with-azure-grok-4-1-fast-non-reasoning-allows-re-0": ({"inp"}, GROK_ON_AZURE),
    "azure/chat/tool__rubyllm-function-calling-azure-grok-4-1-fast-non-reasoning-can-use-t-0": ({"inp"}, GROK_ON_AZURE),
    "azure/chat/tool_result_parallel__rubyllm-function-calling-azure-grok-4-1-fast-non-reasoning-can-handl-1": ({"inp"}, GROK_ON_AZURE),
    "azure/chat/tool_result_stream__rubyllm-function-calling-azure-grok-4-1-fast-non-reasoning-can-use-t-2": ({"inp"}, GROK_ON_AZURE),
    "azure/chat/tool_result_stream__rubyllm-function-calling-azure-grok-4-1-fast-non-reasoning-can-use-t-3": ({"inp"}, GROK_ON_AZURE),
    "gemini/chat/tool__pai-compatible-api-with-tool-calls-without-id-0": ({"out", "reason_tok", "sig"}, GEMINI),
    "gemini/chat/tool_result__pai-compatible-api-with-tool-calls-without-id-1": ({"out", "reason_tok", "sig"}, GEMINI),
    "groq/chat/plain_stream__otllm-chat-streaming-with-events-with-content": ({"inp", "out"}, "the oracle does not read x_groq.usage"),
    "mistral/chat/audio_in__rubyllm-audio-models-mistral-voxtral-small-latest-can-understand-mp3": ({"inp"}, "audio only in the total"),
    "mistral/chat/tool__pai-tool-choice-matrix-required-mistral": ({"cached"}, "the oracle does not read usage.num_cached_tokens"),
    "mistral/chat/tool__pai-tool-choice-matrix-tools-plus-output-mistral-0": (
        {"cached"},
        "the oracle does not read usage.num_cached_tokens",
    ),
    "moonshot/chat/reasoning__vercel-moonshotai-reasoning": ({"cached"}, "the oracle does not read usage.cached_tokens"),
    "xai/chat/tool__vercel-xai-tool-call": ({"out"}, XAI),
    "xai/chat/tool__vercel-xai-tool-call-v2": ({"out"}, XAI),
    "xai/chat/tool_stream__vercel-xai-tool-call": ({"out"}, XAI),
    "xai/chat/tool_stream__vercel-xai-tool-call-v2": ({"out"}, XAI),
}


def echo_of(case: recordings.Case) -> Echo:
    """What the client of the recording asked, and the usage chunk in any case."""
    return Echo("chatcmpl-1", 1_700_000_000, "house/model", {**(case.request or {}), "stream_options": {"include_usage": True}})


def lost(case: recordings.Case, rendered: bytes | dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """What the rendered answer says otherwise than the recorded one, quirks apart."""
    differences = oracle.diff(oracle.meaning("chat", case.response_bytes, case.stream), oracle.meaning("chat", rendered, stream))
    return {key: value for key, value in differences.items() if key not in QUIRKS.get(case.id, (set(), ""))[0]}


def ended(events: list[Event]) -> list[Event]:
    """The events as the relay tells them: a provider that forgets its [DONE] after a reason to stop has ended nevertheless."""
    return events if any(isinstance(event, Ended) for event in events) else [*events, Ended()]


@needs_recordings
@pytest.mark.parametrize("case", ANSWERS, ids=ids)
def test_a_recorded_answer_keeps_its_meaning(case):
    answer = chat.parse_answer(orjson.loads(case.response_bytes))
    echo = echo_of(case)
    assert not lost(case, chat.render_answer(answer, echo), stream=False)
    stream = tell(replay(answer), echo)
    assert not lost(case, stream, stream=True)
    assert not grammar_chat.check(stream, wants_usage=answer.usage is not None)
    again = chat.parse_answer(chat.render_answer(answer, echo))
    assert (again.usage, again.stop) == (answer.usage, answer.stop)


@needs_recordings
@pytest.mark.parametrize("case", STREAMS, ids=ids)
def test_a_recorded_stream_keeps_its_meaning(case):
    events = ended(parse_stream(case.response_bytes))
    echo = echo_of(case)
    if any(isinstance(event, Failed) for event in events):
        recorded, told = (oracle.meaning("chat", data, stream=True) for data in (case.response_bytes, tell(events, echo)))
        assert "stream_error_stream" in case.name
        assert (told["text"], told["reasoning"]) == (recorded["text"], recorded["reasoning"])
        return
    answer = collect(events)
    assert not lost(case, chat.render_answer(answer, echo), stream=False)
    stream = tell(events, echo)
    assert not lost(case, stream, stream=True)
    assert not grammar_chat.check(stream, wants_usage=answer.usage is not None)


def accumulated_by_the_sdk(stream: bytes) -> dict[str, Any]:
    """The message that OpenAI's own SDK makes of a stream."""
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for frame in stream.split(b"\n\n"):
        if frame.startswith(b"data: {"):
            state.handle_chunk(ChatCompletionChunk.model_construct(**_typed(orjson.loads(frame[6:]))))
    message: dict[str, Any] = state.current_completion_snapshot.choices[0].message.to_dict()
    return message


def _typed(chunk: dict[str, Any]) -> dict[str, Any]:
    return dict(ChatCompletionChunk.model_validate(chunk))


@needs_recordings
@pytest.mark.parametrize("case", [*ANSWERS, *STREAMS], ids=ids)
def test_the_official_sdk_adds_a_stream_up_to_the_same_answer(case):
    whole = orjson.loads(case.response_bytes) if not case.stream else {}
    events = ended(parse_stream(case.response_bytes)) if case.stream else replay(chat.parse_answer(whole))
    if any(isinstance(event, Failed) for event in events):
        return
    answer, echo = collect(events), Echo("i", 1, "m", {"stream_options": {"include_usage": True}})
    try:
        message = accumulated_by_the_sdk(tell(events, echo))
    except (openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError):
        return  # so the SDK says that an answer was cut short
    rendered = chat.render_answer(answer, echo)["choices"][0]["message"]
    for name in ("content", "refusal", "reasoning_content"):
        assert (message.get(name) or "") == (rendered.get(name) or "")
    calls = [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or []]
    assert calls == [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in rendered.get("tool_calls") or []]
    seals = [[detail.get("signature"), detail.get("data")] for detail in message.get("reasoning_details") or []]
    assert [seal for pair in seals for seal in pair if seal] == [
        seal for detail in rendered.get("reasoning_details") or [] for seal in (detail.get("signature"), detail.get("data")) if seal
    ]


@needs_recordings
@pytest.mark.parametrize("case", STREAMS, ids=ids)
def test_the_reads_do_not_change_the_events_of_a_recorded_stream(case):
    whole = parse_stream(case.response_bytes)
    assert parse_stream(case.response_bytes, 1009) == whole
    assert parse_stream(case.response_bytes[:6000], 7) == parse_stream(case.response_bytes[:6000])


@needs_recordings
@pytest.mark.parametrize("case", STREAMS, ids=ids)
def test_items_of_a_recorded_stream_do_not_overlap_and_add_up(case):
    open_at: int | None = None
    expected = 0
    said = ""
    for event in parse_stream(case.response_bytes):
        match event:
            case Opened(index=index):
                assert open_at is None and index == expected
                open_at, said = index, ""
            case Delta(index=index, what=what, text=text):
                assert index == open_at
                said += text if what != "signature" else ""
            case Closed(index=index, item=item):
                assert index == open_at
                assert said == getattr(item, "arguments" if isinstance(item, ToolCall) else "text") or isinstance(item, Reasoning)
                open_at, expected = None, expected + 1
            case _:
                pass


# -- Recorded requests -----------------------------------------------------------------------------------------------------------------


def plain_request(request: dict[str, Any], kind: str) -> dict[str, Any]:
    """A request in one way of writing it: what is the default is left out, what has two forms has one."""
    fields = {name: value for name, value in request.items() if value is not None}
    for name in ("model", "stream_options", "max_tokens", "max_completion_tokens"):
        fields.pop(name, None)
    for name, default in (("stream", False), ("n", 1), ("logprobs", False), ("response_format", {"type": "text"})):
        if fields.get(name) == default:
            del fields[name]
    if "functions" in fields:
        fields["tools"] = [{"type": "function", "function": function} for function in fields.pop("functions")]
        fields["tool_choice"] = fields.pop("function_call", None)
        fields["parallel_tool_calls"] = False
    if fields.get("tools"):
        fields["tools"] = [{"type": "function", **tool} for tool in fields["tools"]]  # Mistral does not need the word
    else:
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            fields.pop(name, None)
    if fields.get("tool_choice") is None or fields.get("tool_choice") == "any":
        fields["tool_choice"] = "required" if fields.get("tool_choice") == "any" else None
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    if "json_schema" in fields.get("response_format", {}):
        schema = {name: value for name, value in fields["response_format"]["json_schema"].items() if value is not None}
        fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "response", **schema}}
    fields["messages"] = [plain_message(message, kind) for message in fields["messages"]]
    return fields


def plain_message(message: dict[str, Any], kind: str) -> dict[str, Any]:
    plain = {name: value for name, value in message.items() if value not in (None, [])}
    if plain["role"] == "developer" and kind not in chat.OPENAI_KINDS:
        plain["role"] = "system"
    if plain.get("content", "") == "" and (plain.get("tool_calls") or plain["role"] == "assistant"):
        plain.pop("content", None)
    if plain.get("tool_calls"):
        plain["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"] or "{}")}}
            for call in plain["tool_calls"]
        ]
    return plain


REQUESTS = [case for case in recordings.cases("chat") if isinstance(case.request, dict) and case.request.get("messages")]
OPENAI_REFUSES = "OpenAI and Azure refuse messages with reasoning fields"


@needs_recordings
@pytest.mark.parametrize("case", REQUESTS, ids=ids)
def test_a_recorded_request_keeps_its_meaning(case):
    conversation = chat.parse_request(case.request)
    target = Target("upstream-model", 777, case.provider)
    rendered = chat.render_request(conversation, target)
    assert plain_request(rendered, case.provider) == plain_request(case.request, case.provider)
    assert rendered["model"] == "upstream-model"
    assert rendered["max_completion_tokens" if case.provider in ("openai", "azure", "groq") else "max_tokens"] == 777
    assert not target.dropped
    orjson.dumps(rendered)


def pairs(direction: str) -> list[Any]:
    root = recordings.folder()
    found = sorted((root / "pairs" / direction).glob("*.json")) if root else []
    return [pytest.param(json.loads(place.read_bytes()), id=f"{direction}/{place.stem}") for place in found]


@needs_recordings
@pytest.mark.parametrize("pair", [*pairs("gemini_to_chat"), *pairs("messages_to_chat")])
def test_what_a_provider_accepted_as_a_translation_is_rendered_again_as_it_is(pair):
    accepted = pair["target_request"]
    target = Target("m", 100, "openai")
    rendered = chat.render_request(chat.parse_request(accepted), target)
    assert plain_request(rendered, "openai") == plain_request(accepted, "openai")
    assert not target.dropped


@needs_recordings
@pytest.mark.parametrize("pair", [*pairs("chat_to_gemini"), *pairs("chat_to_messages"), *pairs("chat_to_responses")])
def test_a_request_that_can_be_translated_is_read_whole(pair):
    source = pair["source_request"]
    rendered = chat.render_request(chat.parse_request(source), Target("m", 100, "openai"))
    assert plain_request(rendered, "openai") == plain_request(source, "openai")


# -- Requests: particular cases --------------------------------------------------------------------------------------------------------


def conversation_of(*items: Any, **fields: Any) -> Conversation:
    return Conversation(origin="messages", model="m", items=list(items), **fields)


def render(*items: Any, kind: str = "openai", **fields: Any) -> tuple[dict[str, Any], list[str]]:
    target = Target("m", 100, kind)
    return chat.render_request(conversation_of(*items, **fields), target), target.dropped


def test_legacy_functions_become_tools_and_their_results_find_their_calls():
    body = through(
        [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}},
            {"role": "function", "name": "f", "content": "42"},
        ],
        functions=[{"name": "f", "parameters": {"type": "object"}}],
        function_call={"name": "f"},
    )
    assert body["tools"] == [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert body["messages"][2] == {"role": "tool", "tool_call_id": body["messages"][1]["tool_calls"][0]["id"], "content": "42"}
    assert body["parallel_tool_calls"] is False


def test_results_follow_their_calls_at_once_and_pictures_come_behind_them_all():
    body, _ = render(
        Text("user", "look", new_turn=True),
        ToolCall("assistant", "a", "f", arguments="{}", new_turn=True),
        ToolCall("assistant", "b", "g"),
        Text("user", "meanwhile", new_turn=True),
        ToolResult("user", "a", parts=[Text("user", "seen"), Image("user", "image/png", "AAAA")]),
        ToolResult("user", "b", parts=[Text("user", "one"), Text("user", "two")]),
    )
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "tool", "tool", "user", "user"]
    assert [message.get("tool_call_id") for message in body["messages"][2:4]] == ["a", "b"]
    assert body["messages"][3]["content"] == "one\ntwo"
    assert body["messages"][4]["content"] == "meanwhile"
    assert body["messages"][5]["content"][1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert body["messages"][1]["tool_calls"][1]["function"]["arguments"] == "{}"


def test_what_an_assistant_says_around_its_calls_is_one_message():
    body, _ = render(
        Reasoning("assistant", "hm", seals=[Seal("signature", "s", "messages")], origin="messages", new_turn=True),
        Text("assistant", "first", new_turn=True),
        ToolCall("assistant", "a", "f", new_turn=True),
        Text("assistant", " then", new_turn=True),
        ToolResult("user", "a", parts=[Text("user", "x")], new_turn=True),
    )
    assert [message["role"] for message in body["messages"]] == ["assistant", "tool"]
    assert body["messages"][0]["content"] == "first then"


def test_the_reasoning_of_others_is_never_sent():
    body, dropped = render(
        Text("user", "hi", new_turn=True),
        Reasoning("assistant", "SECRET", seals=[Seal("signature", "s", "messages")], origin="messages", new_turn=True),
        Text("assistant", "ok"),
        Reasoning("assistant", "SECRET", origin="gemini", new_turn=True),
        kind="deepseek",
    )
    assert "SECRET" not in json.dumps(body)
    assert dropped == ["reasoning"]
    assert len(body["messages"]) == 2


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("deepseek", {"reasoning_content": "hm"}),
        ("zai", {"reasoning_content": "hm"}),
        ("groq", {"reasoning": "hm"}),
        ("mistral", {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "ok"}]}),
        ("openai", {}),
    ],
)
def test_reasoning_goes_back_in_the_field_of_the_provider(kind, expected):
    body, _ = render(Reasoning("assistant", "hm", origin="chat", new_turn=True), Text("assistant", "ok"), kind=kind)
    assert body["messages"] == [{"role": "assistant", "content": "ok", **expected}]


def test_deepseek_gets_an_empty_thought_where_a_call_was_thought_of_by_another():
    items = [ToolCall("assistant", "a", "f", origin="messages", new_turn=True), ToolResult("user", "a", parts=[Text("user", "x")])]
    assert render(*items, kind="deepseek")[0]["messages"][0]["reasoning_content"] == ""
    assert "reasoning_content" not in render(*items, kind="deepseek", thinking=Thinking(enabled=False))[0]["messages"][0]
    assert "reasoning_content" not in render(*items, kind="openai")[0]["messages"][0]


def test_reasoning_details_of_openrouter_go_back_unchanged():
    details = [
        {"type": "reasoning.text", "text": "hm", "signature": "sig", "format": "anthropic-claude-v1", "index": 0},
        {"type": "reasoning.encrypted", "data": "xyz", "id": "rs_1", "format": "openai-responses-v1", "index": 1, "more": True},
    ]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [{"role": "assistant", "content": "", "tool_calls": [call], "reasoning_details": details}]
    assert through(messages, "openrouter")["messages"][0]["reasoning_details"] == details


@pytest.mark.parametrize(
    ("model", "format_name"),
    [
        ("anthropic/claude-sonnet-4.5", "anthropic-claude-v1"),
        ("gemini-3-pro-preview", "google-gemini-v1"),
        ("openai/gpt-5", "openai-responses-v1"),
        ("o3", "openai-responses-v1"),
        ("openai/gpt-oss-120b", "unknown"),
        ("deepseek-reasoner", "unknown"),
    ],
)
def test_reasoning_details_say_whose_they_are_where_the_model_tells(model, format_name):
    thought = Reasoning("assistant", "hm", seals=[Seal("signature", "sig", "chat")], origin="chat")
    call = ToolCall("assistant", "c1", "f", arguments="{}", seals=[Seal("signature", "s2", "chat")], origin="chat")
    answer = Answer("i", model, [thought, call], Stop.TOOL, None, origin="chat")
    details = chat.render_answer(answer, ASKING)["choices"][0]["message"]["reasoning_details"]
    assert [detail["format"] for detail in details] == [format_name] * 2
    assert [detail["format"] for detail in accumulate(tell(replay(answer)))["reasoning_details"] if "format" in detail] == [format_name] * 2


def test_the_kind_of_a_provider_says_whose_its_reasoning_is():
    sealed = {"type": "reasoning.text", "text": "hm", "signature": "sig", "index": 0}
    messages = [{"role": "assistant", "content": "", "reasoning_details": [sealed]}]
    conversation = chat.parse_request({"model": "m", "messages": messages})
    thought = conversation.items[0]
    assert isinstance(thought, Reasoning)
    thought.seals = [Seal("signature", "opened", "chat")]
    body = chat.render_request(conversation, Target("m", 100, "anthropic"))
    assert body["messages"][0]["reasoning_details"] == [
        {"type": "reasoning.text", "text": "hm", "signature": "opened", "format": "anthropic-claude-v1", "index": 0}
    ]


def test_seals_that_clients_send_back_reach_the_hub_in_their_places():
    answer = Answer(
        "a",
        "m",
        [
            Reasoning("assistant", "", seals=[Seal("signature", "gw1.only", "messages")], origin="messages"),
            Reasoning("assistant", "", seals=[Seal("redacted", "gw1.red", "messages")], origin="messages"),
            Reasoning(
                "assistant", summary=["one", "two"], seals=[Seal("encrypted", "gw1.enc", "responses")], origin="responses", id="rs_1"
            ),
            Reasoning("assistant", "three", seals=[Seal("signature", "gw1.sig", "messages")], origin="messages"),
            Text("assistant", "said", signature="gw1.text", origin="gemini"),
            ToolCall("assistant", "c1", "f", arguments="{}", seals=[Seal("signature", "gw1.call", "gemini")], origin="gemini"),
        ],
        Stop.TOOL,
        None,
    )
    whole = chat.render_answer(answer, ASKING)["choices"][0]["message"]
    stream = tell(replay(answer))
    assert not grammar_chat.check(stream)
    for message in (whole, accumulate(stream), accumulated_by_the_sdk(stream)):
        again = chat.parse_request({"model": "m", "messages": [message]}).items
        assert [(type(item), [seal.data for seal in getattr(item, "seals", [])]) for item in again] == [
            (Reasoning, ["gw1.only"]),
            (Reasoning, ["gw1.red"]),
            (Reasoning, ["gw1.enc"]),
            (Reasoning, ["gw1.sig"]),
            (Text, []),
            (ToolCall, ["gw1.call"]),
        ]
        assert [getattr(item, "text", None) for item in again] == ["", "", "", "three", "said", None]
        assert [seal.kind for item in again[:4] for seal in getattr(item, "seals", [])] == [
            "signature",
            "redacted",
            "encrypted",
            "signature",
        ]
        assert isinstance(again[4], Text) and again[4].signature == "gw1.text"
        assert isinstance(again[2], Reasoning) and "".join(again[2].summary) == "onetwo"
        assert all(seal.origin == "chat" for item in again for seal in getattr(item, "seals", []))


def accumulate(stream: bytes) -> dict[str, Any]:
    """What a client that keeps every field has at the end of a stream."""
    message: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [], "reasoning_details": []}
    for frame in stream.split(b"\n\n"):
        if not frame.startswith(b"data: {"):
            continue
        for choice in orjson.loads(frame[6:])["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning_details"] += delta.get("reasoning_details", [])
            for call in delta.get("tool_calls", []):
                if call["index"] == len(message["tool_calls"]):
                    message["tool_calls"].append({"id": call["id"], "type": "function", "function": dict(call["function"])})
                else:
                    message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    return message


def test_names_are_made_valid_and_answers_get_the_clients_own_back():
    long = "x" * 80
    tools = [ToolDef(long), ToolDef("f", namespace="ns"), ToolDef("patch", kind="custom")]
    body, _ = render(Text("user", "hi"), tools=tools, tool_choice=ToolChoice("named", long))
    names = [tool["function"]["name"] for tool in body["tools"]]
    assert all(len(name) <= 64 for name in names) and names[1] == "ns__f"
    assert body["tool_choice"]["function"]["name"] == names[0]
    echo = Echo("i", 1, "m", {}, Conversation("chat", "m", [], tools=[ToolDef(long), ToolDef("patch", kind="custom")]))
    calls = [ToolCall("assistant", "1", names[0], arguments="{}"), ToolCall("assistant", "2", "patch", arguments='{"input":"diff"}')]
    answer = Answer("i", "m", list(calls), Stop.TOOL, None)
    rendered = chat.render_answer(answer, echo)["choices"][0]["message"]["tool_calls"]
    assert rendered[0]["function"]["name"] == long
    assert rendered[1]["custom"] == {"name": "patch", "input": "diff"}
    stream = tell(replay(answer), echo)
    assert not grammar_chat.check(stream)
    assert long.encode() in stream and b'{"name":"patch","input":"diff"}' in stream


def test_two_tools_of_one_name_are_refused():
    with pytest.raises(CannotRender):
        render(Text("user", "hi"), tools=[ToolDef("ns__f"), ToolDef("f", namespace="ns")])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [ToolDef("web_search", kind="builtin", origin="messages")]}, "tools"),
        ({"extra": {"mcp_servers": []}}, "mcp_servers"),
    ],
)
def test_what_would_change_the_meaning_is_refused(fields, param):
    with pytest.raises(CannotRender) as refusal:
        render(Text("user", "hi"), **fields)
    assert refusal.value.param == param


@pytest.mark.parametrize(
    "item",
    [
        Image("user", file_id="file_1"),
        File("user", "application/pdf", url="https://example.org/a.pdf"),
        File("user", "video/mp4", "AAAA"),
        Audio("user", "wav"),
    ],
)
def test_media_that_cannot_be_carried_are_refused(item):
    with pytest.raises(CannotRender):
        render(item)


def test_harmless_fields_are_dropped_by_name():
    target = Target("m", 100, "openai", ("reasoning",))
    conversation = conversation_of(
        Text("user", "hi", cache="5m"),
        top_k=5,
        temperature=1.0,
        metadata={"a": "b"},
        service_tier="standard_only",
        extra={"container": "c"},
    )
    body = chat.render_request(conversation, target)
    assert sorted(target.dropped) == ["cache_control", "container", "metadata", "service_tier", "temperature", "top_k"]
    assert body == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 100}


@pytest.mark.parametrize(
    ("kind", "thinking", "expected"),
    [
        ("openai", Thinking(effort="max"), {"reasoning_effort": "high"}),
        ("openai", Thinking(budget=1024), {"reasoning_effort": "low"}),
        ("openai", Thinking(enabled=False), {}),
        ("xai", Thinking(budget=30_000, enabled=True), {"reasoning_effort": "high"}),
        ("openrouter", Thinking(budget=2000, enabled=True), {"reasoning": {"max_tokens": 2000}}),
        ("openrouter", Thinking(enabled=False), {"reasoning": {"enabled": False}}),
        ("deepseek", Thinking(enabled=False), {"thinking": {"type": "disabled"}}),
        ("zai", Thinking(effort="high"), {"thinking": {"type": "enabled"}}),
        ("alibaba", Thinking(budget=512), {"enable_thinking": True, "thinking_budget": 512}),
        ("anthropic", Thinking(budget=2048, enabled=True), {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
    ],
)
def test_thinking_is_asked_for_in_the_words_of_the_provider(kind, thinking, expected):
    body, _ = render(Text("user", "hi"), kind=kind, thinking=thinking)
    limit = "max_completion_tokens" if kind == "openai" else "max_tokens"
    assert body == {"model": "m", "messages": [{"role": "user", "content": "hi"}], limit: 100, **expected}


def test_texts_are_joined_where_a_list_is_not_understood():
    items = [
        Text("system", "a", new_turn=True),
        Text("system", "b"),
        Text("developer", "c", new_turn=True),
        Text("user", "d", new_turn=True),
    ]
    assert render(*items, kind="deepseek")[0]["messages"] == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "system", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    assert [message["role"] for message in render(*items)[0]["messages"]] == ["system", "developer", "user"]


def test_an_unknown_part_and_unknown_fields_survive_within_the_format():
    messages = [{"role": "user", "name": "ann", "content": [{"type": "hologram", "hologram": {"x": 1}}, {"type": "text", "text": "?"}]}]
    body = through(messages, safety_identifier="u", modalities=["text"])
    assert body["messages"] == messages
    assert (body["safety_identifier"], body["modalities"]) == ("u", ["text"])
    assert chat.parse_request({"model": "m", "messages": messages, "store": True}).extra == {"store": True}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [3]}, "messages"),
        ({"messages": [{"role": "robot"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"temperature": True}, "temperature"),
        ({"n": 0}, "n"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"stop": [1]}, "stop"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ],
)
def test_what_is_not_of_the_format_is_refused_by_name(fields, param):
    with pytest.raises(CannotParse) as refusal:
        chat.parse_request({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})
    assert refusal.value.param == param


# -- Streams: particular cases ---------------------------------------------------------------------------------------------------------


def wire(*deltas: dict[str, Any], finish: str | None = "stop", usage: Any = None) -> bytes:
    chunks = [{"id": "x", "created": 5, "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    if finish:
        chunks.append({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    if usage:
        chunks.append({"id": "x", "choices": [], "usage": usage})
    return b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def call(index: int | None, call_id: str = "", name: str = "", arguments: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {"function": {"arguments": arguments}}
    if index is not None:
        found["index"] = index
    if call_id:
        found |= {"id": call_id, "type": "function"}
    if name:
        found["function"]["name"] = name
    return {"tool_calls": [found]}


def calls_of(*deltas: dict[str, Any]) -> list[tuple[str, str, str]]:
    events = parse_stream(wire(*deltas))
    stream = tell(events)
    assert not grammar_chat.check(stream)
    found = [(item.call_id, item.name, item.arguments) for item in collect(events).items if isinstance(item, ToolCall)]
    assert [(name, arguments or "{}") for _, name, arguments in found] == [
        (call["function"]["name"], call["function"]["arguments"]) for call in accumulate(stream)["tool_calls"]
    ]
    return found


def test_interleaved_calls_are_told_one_after_the_other():
    assert calls_of(
        call(0, "a", "f"),
        call(1, "b", "g"),
        call(0, arguments='{"x":'),
        call(1, arguments='{"y":'),
        call(0, arguments="1}"),
        call(1, arguments="2}"),
    ) == [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')]


def test_calls_that_all_have_the_index_0_are_told_apart_by_their_ids():
    assert calls_of(call(0, "a", "f", "{}"), call(0, "b", "f", '{"x":2}')) == [("a", "f", "{}"), ("b", "f", '{"x":2}')]


def test_an_id_and_name_repeated_in_every_delta_are_said_once():
    assert calls_of(call(1, "a", "f", '{"x"'), call(1, "a", "f", ":1}")) == [("a", "f", '{"x":1}')]


def test_calls_without_index_or_id_are_told_apart():
    found = calls_of(call(None, "", "f", '{"x":1}'), call(None, "", "g", "{}"))
    assert [(name, arguments) for _, name, arguments in found] == [("f", '{"x":1}'), ("g", "{}")]
    assert found[0][0] != found[1][0]


def test_a_name_that_comes_after_its_id_is_waited_for():
    assert calls_of(call(0, "a"), call(0, arguments='{"x"'), call(0, "", "f", ":1}")) == [("a", "f", '{"x":1}')]


def test_an_id_that_changes_in_the_middle_of_a_call_is_not_another_call():
    assert calls_of(call(0, "a", "f", '{"x"'), call(0, "b", "", ":1}")) == [("a", "f", '{"x":1}')]


def test_calls_without_arguments_follow_each_other():
    assert calls_of(call(0, "a", "f"), call(1, "b", "g")) == [("a", "f", ""), ("b", "g", "")]


def test_text_behind_a_call_is_told_in_its_place():
    events = parse_stream(wire(call(0, "a", "f", '{"x'), {"content": "mind"}, call(0, arguments='":1}'), {"content": "ed"}))
    assert [type(item) for item in collect(events).items] == [ToolCall, Text]
    assert collect(events).items[0].arguments == '{"x":1}'  # type: ignore[union-attr]
    assert collect(events).items[1].text == "minded"  # type: ignore[union-attr]


def test_details_and_the_plain_field_beside_them_are_one_reasoning():
    events = parse_stream(
        wire(
            {"reasoning": "a", "reasoning_details": [{"type": "reasoning.text", "text": "a", "index": 0, "format": "anthropic-claude-v1"}]},
            {"reasoning": "b", "reasoning_details": [{"type": "reasoning.text", "text": "b", "index": 0}]},
            {"reasoning_details": [{"type": "reasoning.text", "signature": "sig", "index": 0}]},
            {"reasoning_details": [{"type": "reasoning.encrypted", "data": "red", "format": "anthropic-claude-v1", "index": 1}]},
            {"content": "c"},
        )
    )
    first, second, text = collect(events).items
    assert isinstance(first, Reasoning) and (first.text, first.seals) == ("ab", [Seal("signature", "sig", "chat")])
    assert first.raw == {
        "reasoning_details": [{"type": "reasoning.text", "text": "ab", "index": 0, "format": "anthropic-claude-v1", "signature": "sig"}]
    }
    assert isinstance(second, Reasoning) and second.seals == [Seal("redacted", "red", "chat")]
    assert isinstance(text, Text)


def test_mistrals_thinking_parts_are_reasoning_whole_and_streamed():
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "ok"}]
    whole = chat.parse_answer({"choices": [{"message": {"content": parts}, "finish_reason": "stop"}]})
    for answer in (whole, collect(parse_stream(wire({"content": parts[:1]}, {"content": parts[1:]})))):
        assert [(type(item), item.text) for item in answer.items] == [(Reasoning, "hm"), (Text, "ok")]  # type: ignore[union-attr]


def test_thinking_blocks_are_reasoning_with_seals():
    blocks = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "redacted_thinking", "data": "d"}]
    message = {"content": "ok", "thinking_blocks": blocks, "reasoning_content": "hm"}
    answer = chat.parse_answer({"choices": [{"message": message, "finish_reason": "stop"}]})
    assert [item.seals for item in answer.items if isinstance(item, Reasoning)] == [
        [Seal("signature", "s", "chat")],
        [Seal("redacted", "d", "chat")],
    ]
    rendered = through([{"role": "assistant", **message}], "custom")
    assert rendered["messages"][0]["thinking_blocks"] == blocks


def test_usage_and_stop_are_told_last_and_once():
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    events = parse_stream(wire({"content": "a"}, usage=usage))
    assert events[-3:] == [Metered(TokenUsage(input_tokens=3, output_tokens=2)), Stopped(Stop.END, "", "stop"), Ended()]


def test_a_cut_stream_has_no_stop_and_an_error_no_end_of_its_own():
    cut = wire({"content": "a"}, finish=None).removesuffix(b"data: [DONE]\n\n")
    assert not any(isinstance(event, Stopped | Ended | Closed) for event in parse_stream(cut))
    failed = parse_stream(cut + b'data: {"error":{"message":"x"}}\n\ndata: [DONE]\n\n')
    assert failed[-2:] == [Failed({"message": "x"}), Ended()]
    assert isinstance(parse_stream(cut + b"data: {broken\n\n")[-1], Failed)
    assert parse_stream(b": OPENROUTER PROCESSING\n\ndata:\n\n") == [Pinged()]


def test_a_stream_without_its_done_is_whole_when_it_said_why_it_stopped():
    events = parse_stream(wire({"content": "a"}).removesuffix(b"data: [DONE]\n\n").removesuffix(b"\n\n"))
    assert events[-1] == Stopped(Stop.END, "", "stop")


def test_the_usage_chunk_comes_only_where_it_was_asked_for():
    events = parse_stream(wire({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 2}))
    quiet = tell(events, Echo("i", 1, "m"))
    assert not grammar_chat.check(quiet, wants_usage=False) and b"usage" not in quiet
    assert not grammar_chat.check(tell(events), wants_usage=True)


def test_nothing_is_sent_before_something_is_said():
    renderer = chat.StreamRenderer(ASKING)
    assert renderer.feed(Started("i", "m", 1)) == renderer.feed(Opened(0, Text("assistant"))) == b""
    assert b'"role":"assistant"' in renderer.feed(Delta(0, "text", "a"))


def test_failures_are_frames_that_the_sdks_raise():
    renderer = chat.StreamRenderer(ASKING)
    frame = renderer.fail({"error": {"message": "no", "type": "api_error", "param": None, "code": "c"}})
    assert frame == renderer.fail({"message": "no", "type": "api_error", "param": None, "code": "c"})
    assert not grammar_chat.check(frame)
    broken = tell([Started("i", "m", 1), Stopped(Stop.FAULT, raw_stop="MALFORMED_FUNCTION_CALL"), Ended()], Echo("i", 1, "m"))
    assert b"MALFORMED_FUNCTION_CALL" in broken and not grammar_chat.check(broken)


def test_a_legacy_client_gets_function_calls():
    echo = Echo("i", 1, "m", {"functions": [{"name": "f"}]})
    answer = Answer("i", "m", [ToolCall("assistant", "c", "f", arguments='{"a":1}')], Stop.TOOL, None)
    choice = chat.render_answer(answer, echo)["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "f", "arguments": '{"a":1}'}
    stream = tell(replay(answer), echo)
    assert b'"function_call":{"name":"f","arguments":""}' in stream and b"tool_calls" not in stream


def test_pictures_sound_refusals_and_sources_reach_the_client():
    answer = Answer(
        "i",
        "m",
        [
            Text("assistant", "see", [{"type": "url_citation", "url": "https://a.example", "title": "A"}], origin="responses"),
            Image("assistant", "image/png", "AAAA"),
            Audio("assistant", "wav", "BBBB", "hello", "aud_1"),
            Refusal("assistant", "no"),
        ],
        Stop.FILTER,
        None,
    )
    message = chat.render_answer(answer, ASKING)["choices"][0]["message"]
    assert message["annotations"][0]["url_citation"]["url"] == "https://a.example"
    assert message["images"][0]["image_url"]["url"] == "data:image/png;base64,AAAA"
    assert (message["audio"]["transcript"], message["refusal"]) == ("hello", "no")
    stream = tell(replay(answer))
    assert not grammar_chat.check(stream)
    assert all(part in stream for part in (b"https://a.example", b"AAAA", b"BBBB", b'"refusal":"no"'))
    again = collect(parse_stream(stream)).items
    assert [type(item) for item in again] == [Text, Image, Audio, Refusal]


def test_usage_is_rendered_as_it_was_read():
    usage = TokenUsage(
        input_tokens=10,
        cached_input_tokens=20,
        cache_write_tokens=30,
        audio_input_tokens=5,
        output_tokens=7,
        reasoning_tokens=8,
        audio_output_tokens=9,
    )
    assert chat.read_usage(chat.render_usage(usage)) == usage
    nothing: list[Any] = [None, [], "x", {}]
    assert [chat.read_usage(one) for one in nothing] == [None] * 4
    nonsense = [chat.read_usage({"prompt_tokens": count}) for count in ("1", -1, 10**15)]
    assert [one.doubts for one in nonsense if one] == [("usage_not_a_count",), ("usage_negative",), ("usage_too_large",)]


# -- Properties ------------------------------------------------------------------------------------------------------------------------

keys = st.sampled_from(
    "role content type text image_url url tool_calls id function name arguments index reasoning reasoning_content reasoning_details "
    "signature data format choices delta message finish_reason usage prompt_tokens model messages tools custom error audio thinking "
    "refusal annotations images extra_content google thought_signature function_call file file_data x_groq citations".split()
)
words = st.sampled_from(
    ["", "user", "assistant", "tool", "system", "text", "image_url", "function", "custom", "file", "thinking", "reasoning.text", "data:,"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | words | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys | st.text(max_size=4), inner, max_size=6),
    max_leaves=30,
)
objects = st.dictionaries(keys | st.text(max_size=4), json_values, max_size=8)


def shaped(name: str, inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda rest, value: {**rest, name: value}, objects, inner)


def refused(function: Any, value: Any) -> Any:
    try:
        return function(value)
    except CannotParse:
        return None


@settings(max_examples=300, deadline=None)
@given(objects | shaped("messages", st.lists(shaped("role", words), min_size=1, max_size=4)))
def test_any_request_is_read_or_refused(fields):
    conversation = refused(chat.parse_request, fields)
    if conversation is not None:
        for kind in ("openai", "deepseek", "openrouter", "mistral"):
            try:
                chat.render_request(conversation, Target("m", 10, kind))
            except CannotRender:
                pass


@settings(max_examples=300, deadline=None)
@given(objects | shaped("choices", st.lists(shaped("message", objects), max_size=2)))
def test_any_answer_is_read_or_refused(fields):
    answer = refused(chat.parse_answer, fields)
    if answer is not None:
        chat.render_answer(answer, ASKING)


@settings(max_examples=300, deadline=None)
@given(st.lists(objects | shaped("choices", st.lists(shaped("delta", objects), max_size=2)), max_size=6))
def test_any_stream_is_read(chunks):
    data = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    tell(parse_stream(data))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read(data):
    parse_stream(data)
    parse_stream(b"data: " + data + b"\n\n", 3)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
arguments = st.dictionaries(texts, st.integers(0, 9), max_size=2).map(lambda value: orjson.dumps(value).decode())
said = st.builds(lambda text: {"content": text}, texts)
thought = st.builds(lambda text: {"reasoning_content": text}, texts)
signed = st.builds(
    lambda text, index: {"reasoning_details": [{"type": "reasoning.text", "text": text, "signature": f"s{text}", "index": index}]},
    texts,
    st.integers(0, 2),
)


@st.composite
def told_streams(draw):
    """A stream of text, thoughts and calls, the calls' arguments in pieces."""
    deltas = draw(st.lists(said | thought | signed, max_size=5))
    for index in range(draw(st.integers(0, 3))):
        value = draw(arguments)
        cut = draw(st.integers(0, len(value)))
        deltas += [call(index, f"c{index}", f"f{index}", value[:cut]), call(index, arguments=value[cut:])]
    return wire(*deltas, usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})


@settings(max_examples=150, deadline=None)
@given(told_streams(), st.lists(st.integers(1, 40), min_size=1, max_size=20), st.sampled_from([b"\n\n", b"\r\n\r\n"]))
def test_the_reads_never_change_the_events(data, sizes, boundary):
    data = data.replace(b"\n\n", boundary)
    whole = parse_stream(data)
    parser = chat.StreamParser()
    pieces: list[Event] = []
    at, turn = 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        pieces += parser.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    assert pieces + parser.finish() == whole


@settings(max_examples=150, deadline=None)
@given(told_streams())
def test_a_stream_told_again_says_the_same(data):
    events = parse_stream(data)
    stream = tell(events)
    assert not grammar_chat.check(stream, wants_usage=True)
    first, second = collect(events), collect(parse_stream(stream))
    assert (first.stop, first.usage) == (second.stop, second.usage)

    def meaning(answer: Answer) -> Any:
        thoughts = "".join(item.text for item in answer.items if isinstance(item, Reasoning))
        seals = [seal.data for item in answer.items if isinstance(item, Reasoning) for seal in item.seals]
        text = "".join(item.text for item in answer.items if isinstance(item, Text))
        return thoughts, seals, text, [(item.call_id, item.name, item.arguments) for item in answer.items if isinstance(item, ToolCall)]

    assert meaning(first) == meaning(second)


@st.composite
def told_conversations(draw):
    """The messages of a talk with every part that the hub has a word for."""
    image = st.just({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}})
    part = st.builds(lambda text: {"type": "text", "text": text}, texts) | image
    messages: list[dict[str, Any]] = [{"role": draw(st.sampled_from(["system", "developer"])), "content": draw(texts)}]
    for turn in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(texts | st.lists(part, min_size=1, max_size=3))})
        answer: dict[str, Any] = {"role": "assistant", "content": draw(texts)}
        count = draw(st.integers(0, 2))
        if count:
            answer["tool_calls"] = [
                {"id": f"c{turn}_{number}", "type": "function", "function": {"name": "f", "arguments": draw(arguments)}}
                for number in range(count)
            ]
        messages.append(answer)
        messages += [{"role": "tool", "tool_call_id": f"c{turn}_{number}", "content": draw(texts)} for number in range(count)]
    return messages


@settings(max_examples=150, deadline=None)
@given(told_conversations(), st.sampled_from(["openai", "deepseek"]))
def test_a_conversation_keeps_its_meaning(messages, kind):
    body = through(messages, kind)
    assert [plain_message(message, kind) for message in body["messages"]] == [plain_message(message, kind) for message in messages]

    def strip(conversation: Conversation) -> Conversation:
        """The same, as if it had come in another format: without what only this one can read."""
        for item in conversation.items:
            item.raw, item.origin = None, "messages"
        return conversation

    foreign = chat.render_request(strip(chat.parse_request({"model": "m", "messages": messages})), Target("m", 100, "openai"))
    assert [said_in(message) for message in foreign["messages"]] == [said_in(message) for message in messages]


def said_in(message: dict[str, Any]) -> Any:
    content = message.get("content") or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return message["role"], parts, message.get("tool_calls"), message.get("tool_call_id")


def test_output_formats_are_rendered_with_a_name():
    body, _ = render(Text("user", "hi"), output_format=OutputFormat("json_schema", schema={"type": "object"}, strict=True))
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "response", "schema": {"type": "object"}, "strict": True},
    }
