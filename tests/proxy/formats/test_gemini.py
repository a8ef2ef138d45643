"""The Gemini format and the hub: recorded answers and requests keep their meaning on the way through it, and streams pass to the byte."""

import base64
import copy
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.usage import LARGEST_COUNT, TokenUsage
from proxy.formats import gemini, gemini_frames, grammar_gemini
from proxy.formats.base import NotAnAnswer, Tap
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
    Unknown,
    collect,
    replay,
)
from proxy.sse import EventTooLarge
from tests.fakes.provider import oracle, recordings

WHOLE = recordings.cases("gemini", statuses=[200], stream=False)
STREAMS = recordings.cases("gemini", statuses=[200], stream=True)
FAILED = [case for case in recordings.cases("gemini") if case.status != 200]
REQUESTS = [case for case in recordings.cases("gemini") if case.request is not None]
needs_recordings = pytest.mark.skipif(not WHOLE or oracle.file() is None, reason=recordings.SKIP_REASON)

ECHO = Echo("answer-1", 1_700_000_000, "house/model")
NOTHING = TokenUsage()
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

# Arguments in pieces, which the judge of meaning does not put together: what they really say is told below.
IN_PIECES = "the judge counts every piece of a call's arguments as a call"
EXCEPTIONS = {
    "gemini/gemini/parallel_tools_stream__vercel-google-stream-tool-call-arguments": IN_PIECES,
    "gemini/gemini/parallel_tools_stream__vercel-google-stream-tool-call-array-arguments-missing-terminal-fun": IN_PIECES,
    "gemini/gemini/parallel_tools_stream__vercel-google-vertex-stream-tool-call-arguments-nested-1": IN_PIECES,
}
# The provider counted nothing; the judge reads an empty usage as zero tokens, the hub as none told.
UNCOUNTED = {"vertex/gemini/content_filter__pai-google-model-armor-prompt-template-text-gets-blocked-1"}


def ids(case: recordings.Case) -> str:
    return case.id


def parse_stream(data: bytes, cuts: list[int] | None = None) -> list[Event]:
    parser = gemini.StreamParser()
    return [event for piece in pieces_of(data, cuts) for event in parser.feed(piece)] + parser.finish()


def pieces_of(data: bytes, cuts: list[int] | None) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts or []), len(data)]
    return [data[start:stop] for start, stop in pairwise(places)]


def tell(events: list[Event], echo: Echo = ECHO) -> bytes:
    renderer = gemini.StreamRenderer(echo)
    return b"".join(renderer.feed(event) for event in events)


def as_array(stream: bytes, between: bytes = b",\r\n", end: bytes = b"\n]\n") -> bytes:
    chunks = [event.removeprefix(b"data: ") for event in re.split(rb"\r\n\r\n|\n\n", stream) if event.strip()]
    return b"[" + between.join(chunks) + end


def same(case: recordings.Case, rendered: Any, *, stream: bool) -> dict[str, Any]:
    wanted = oracle.meaning("gemini", case.response_bytes, case.stream)
    keys = ["text", "reasoning", "tools", "stop", "inp", "out", "cached", "reason_tok", "sig"]
    if case.id in EXCEPTIONS:
        keys.remove("tools")
    if case.id in UNCOUNTED:
        keys = [key for key in keys if key not in ("inp", "out")]
    return oracle.diff(wanted, oracle.meaning("gemini", rendered, stream), keys)


def through(conversation: Conversation, model: str = "gemini-3.5-flash", **fields: Any) -> dict[str, Any]:
    return gemini.render_request(conversation, Target(model, 1000, "google", **fields))


def talk(*items: Any, origin: Any = "chat", **fields: Any) -> Conversation:
    return Conversation(origin, "m", list(items), **fields)


# -- Recorded answers ------------------------------------------------------------------------------------------------------------------


@needs_recordings
@pytest.mark.parametrize("case", WHOLE, ids=ids)
def test_a_recorded_answer_keeps_its_meaning(case):
    answer = gemini.parse_answer(orjson.loads(case.response_bytes))
    assert same(case, orjson.dumps(gemini.render_answer(answer, ECHO)), stream=False) == {}


@needs_recordings
@pytest.mark.parametrize("case", WHOLE, ids=ids)
def test_a_recorded_answer_told_as_a_stream_keeps_its_meaning(case):
    told = tell(replay(gemini.parse_answer(orjson.loads(case.response_bytes))))
    assert same(case, told, stream=True) == {}
    if case.id not in UNCOUNTED:
        assert grammar_gemini.check(told) == []


@needs_recordings
@pytest.mark.parametrize("case", STREAMS, ids=ids)
def test_a_recorded_stream_keeps_its_meaning(case):
    events = parse_stream(case.response_bytes)
    assert same(case, orjson.dumps(gemini.render_answer(collect(events), ECHO)), stream=False) == {}
    told = tell(events)
    assert same(case, told, stream=True) == {}
    assert grammar_gemini.check(told) == []


@needs_recordings
@pytest.mark.parametrize("case", STREAMS, ids=ids)
def test_a_recorded_stream_as_a_json_array_says_the_same(case):
    assert parse_stream(as_array(case.response_bytes)) == parse_stream(case.response_bytes)
    chunks = orjson.loads(as_array(case.response_bytes))
    answer = gemini.parse_answer(chunks)
    assert same(case, orjson.dumps(gemini.render_answer(answer, ECHO)), stream=False) == {}


@needs_recordings
@pytest.mark.parametrize("case", STREAMS, ids=ids)
def test_the_events_of_a_recorded_stream_are_in_order(case):
    open_index, seen = None, -1
    events = parse_stream(case.response_bytes)
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Ended)
    assert isinstance(events[-2], Stopped)
    assert any(isinstance(event, Metered) for event in events)
    for event in events:
        match event:
            case Opened():
                assert open_index is None
                assert event.index == seen + 1
                open_index = seen = event.index
            case Delta():
                assert event.index == open_index
            case Closed():
                assert event.index == open_index
                open_index = None
    assert open_index is None


def test_every_exception_is_a_recording():
    if WHOLE:
        assert set(EXCEPTIONS) | UNCOUNTED <= {case.id for case in WHOLE + STREAMS}


@needs_recordings
def test_arguments_in_pieces_are_put_together():
    def calls(name: str) -> list[tuple[str, Any]]:
        answer = collect(parse_stream(recordings.find("gemini/gemini/parallel_tools_stream__vercel-google-" + name).response_bytes))
        return [(item.name, json.loads(item.arguments)) for item in answer.items if isinstance(item, ToolCall)]

    assert calls("stream-tool-call-arguments") == [("getWeather", {"location": "Boston"}), ("getWeather", {"location": "San Francisco"})]
    assert calls("stream-tool-call-array-arguments-missing-terminal-fun") == [
        (
            "writeItems",
            {
                "operations": [
                    {"action": "add", "description": "Fresh red apple", "itemid": "apple_001", "price": 0.5},
                    {"action": "add", "description": "Ripe yellow banana", "itemid": "banana_001", "price": 0.3},
                ]
            },
        )
    ]
    [(name, recipe)] = calls("vertex-stream-tool-call-arguments-nested-1")
    assert name == "cookRecipe"
    assert recipe["recipe"]["name"] == "Lasagna"
    assert recipe["recipe"]["ingredients"][9] == {"amount": "1/2 tsp", "name": "Pepper"}
    assert recipe["recipe"]["steps"][4] == "In a 9x13 baking dish, spread a thin layer of meat sauce."


@needs_recordings
@pytest.mark.parametrize("case", FAILED, ids=ids)
def test_a_recorded_error_is_no_answer(case):
    with pytest.raises(CannotParse):
        gemini.parse_answer(orjson.loads(case.response_bytes))
    with pytest.raises(NotAnAnswer):
        gemini.read_answer(case.response_bytes)


@needs_recordings
@pytest.mark.parametrize("case", WHOLE, ids=ids)
def test_fields_nobody_knows_survive_in_an_answer(case):
    given_answer = orjson.loads(case.response_bytes)
    first = given_answer[0] if isinstance(given_answer, list) else given_answer
    rendered = gemini.render_answer(gemini.parse_answer(given_answer), Echo("", 0, ""))
    rendered = {**rendered, "modelVersion": first.get("modelVersion"), "responseId": first.get("responseId")}
    assert rendered.keys() == first.keys()
    assert rendered["usageMetadata"] == first["usageMetadata"]
    for had, has in zip(first.get("candidates", []), rendered.get("candidates", []), strict=True):
        assert {**had, "index": 0, "content": None} == {**has, "content": None}
        parts = [part for part in had.get("content", {}).get("parts", []) if part != {"text": ""}]
        assert has["content"].get("parts", []) == parts


# -- Recorded requests -----------------------------------------------------------------------------------------------------------------


def plain(request: dict[str, Any]) -> dict[str, Any]:
    """A request in one spelling: camel case, one list of tools, no nulls where null says nothing, no defaults."""

    def camel(value: Any, *, deep: bool = True) -> Any:
        if isinstance(value, list):
            return [camel(one) for one in value]
        if not isinstance(value, dict):
            return value
        said = {}
        for key, one in value.items():
            name = re.sub(r"_([a-z])", lambda match: match[1].upper(), key)
            opaque = name in ("args", "response", "parameters", "parametersJsonSchema", "responseSchema", "responseJsonSchema")
            if one is not None:
                said[name] = one if opaque or not deep else camel(one)
        return said

    said: dict[str, Any] = camel(request)
    for name in ("model", "stream"):
        said.pop(name, None)
    said.setdefault("generationConfig", {})
    for content in said["contents"]:
        content.setdefault("role", "user")
    if "systemInstruction" in said:
        said["systemInstruction"].pop("role", None)
    tools = said.pop("tools", [])
    said["declarations"] = [
        {key: value for key, value in one.items() if value != ""} for tool in tools for one in tool.get("functionDeclarations", [])
    ]
    said["builtin"] = [{key: value} for tool in tools for key, value in tool.items() if key != "functionDeclarations"]
    return said


@needs_recordings
@pytest.mark.parametrize("case", REQUESTS, ids=ids)
def test_a_recorded_request_says_the_same_again(case):
    before = copy.deepcopy(case.request)
    if any(content.get("role") == "invalid_role" for content in case.request["contents"]):
        with pytest.raises(CannotParse, match="valid role"):
            gemini.parse_request(case.request)
        return
    conversation = gemini.parse_request(case.request, model=case.model or "gemini-2.5-flash")
    target = Target(conversation.model, conversation.max_output or 4096, "google")
    rendered = plain(gemini.render_request(conversation, target))
    assert case.request == before
    assert target.dropped == []
    if conversation.max_output is None:
        assert rendered["generationConfig"].pop("maxOutputTokens") == 4096
    assert rendered == plain(case.request)


def pairs(*folders: str) -> list[tuple[str, dict[str, Any]]]:
    place = recordings.folder()
    found = []
    for folder in folders if place is not None else ():
        for file in sorted(Path(place or "", "pairs", folder).glob("*.json")):
            found += [(f"{folder}/{file.stem}", json.loads(file.read_bytes()))]
    return found


TO_US = pairs("chat_to_gemini", "messages_to_gemini", "responses_to_gemini")
FROM_US = pairs("gemini_to_chat", "gemini_to_messages", "gemini_to_responses")


@needs_recordings
@pytest.mark.parametrize("pair", [pair for _, pair in TO_US], ids=[name for name, _ in TO_US])
def test_a_request_that_google_accepted_says_the_same_again(pair):
    request = pair["target_request"]
    conversation = gemini.parse_request(request)
    assert conversation.model == request["model"]
    rendered = plain(gemini.render_request(conversation, Target(conversation.model, conversation.max_output or 4096)))
    if conversation.max_output is None:
        del rendered["generationConfig"]["maxOutputTokens"]
    wanted = plain(request)
    if wanted["generationConfig"].get("responseMimeType") == "text/plain":
        assert conversation.output_format is None
    if rendered != wanted:  # our own sentinel on a call that was sent without: nothing else may differ
        calls = [part for content in wanted["contents"] for part in content["parts"] if "functionCall" in part]
        assert calls
        for content in wanted["contents"]:
            first = next((part for part in content["parts"] if "functionCall" in part), None)
            if first is not None:
                first.setdefault("thoughtSignature", gemini.UNSIGNED)
    assert rendered == wanted


@needs_recordings
@pytest.mark.parametrize("pair", [pair for _, pair in TO_US], ids=[name for name, _ in TO_US])
def test_what_google_answered_to_a_translated_request_can_be_read(pair):
    answer = pair["target_response"]
    for one in answer if isinstance(answer, list) else [answer]:
        if "error" in one:
            with pytest.raises(CannotParse):
                gemini.parse_answer(one)
            continue
        usage = gemini.parse_answer(one).usage
        assert usage is None or usage.total_input_tokens + usage.total_output_tokens == one["usageMetadata"]["totalTokenCount"]


@needs_recordings
@pytest.mark.parametrize("pair", [pair for _, pair in FROM_US], ids=[name for name, _ in FROM_US])
def test_a_request_that_was_translated_elsewhere_can_be_read(pair):
    conversation = gemini.parse_request(pair["source_request"], model="gemini-2.5-flash")
    target = pair["target_request"]
    assert conversation.items
    names = [tool.get("name") or tool.get("function", {}).get("name") for tool in target.get("tools") or []]
    assert [tool.name for tool in conversation.tools if tool.kind == "function"] == [
        name for name in names if name in {tool.name for tool in conversation.tools}
    ]
    for field in ("temperature", "top_p", "top_k", "seed"):
        if field in target and getattr(conversation, field) is not None:
            assert getattr(conversation, field) == target[field]


# -- Requests from other formats -------------------------------------------------------------------------------------------------------


def test_turns_of_one_role_become_one_and_system_texts_go_together():
    body = through(
        talk(
            Text("system", text="Be brief."),
            Text("user", text="Hello"),
            Text("user", text="there", new_turn=True),
            Text("assistant", text="Hi."),
            Text("developer", text="In French."),
            Text("user", text=""),
            Text("user", text="Go on"),
        )
    )
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}, {"text": "In French."}]}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "Hello"}, {"text": "there"}]},
        {"role": "model", "parts": [{"text": "Hi."}]},
        {"role": "user", "parts": [{"text": "Go on"}]},
    ]
    assert body["generationConfig"] == {"maxOutputTokens": 1000}


def test_a_conversation_of_system_texts_alone_is_asked_as_the_user():
    assert through(talk(Text("system", text="Say hi.")))["contents"] == [{"role": "user", "parts": [{"text": "Say hi."}]}]
    with pytest.raises(CannotRender):
        through(talk())


def test_results_stand_together_in_the_order_of_their_calls():
    items = (
        Text("user", text="Weather?"),
        ToolCall("assistant", call_id="a", name="get", arguments='{"city":"Oslo"}'),
        ToolCall("assistant", call_id="b", name="get", arguments="not json"),
        Text("user", text="Be quick."),
        ToolResult("user", call_id="b", parts=[Text("user", text="rain")], is_error=True),
        ToolResult("user", call_id="a", parts=[Text("user", text="sun")]),
    )
    _, model, results, rest = through(talk(*items))["contents"]
    assert model["parts"] == [
        {"functionCall": {"name": "get", "args": {"city": "Oslo"}, "id": "a"}, "thoughtSignature": gemini.UNSIGNED},
        {"functionCall": {"name": "get", "args": {}, "id": "b"}},
    ]
    assert results["parts"] == [
        {"functionResponse": {"name": "get", "response": {"output": "sun"}, "id": "a"}},
        {"functionResponse": {"name": "get", "response": {"error": "rain"}, "id": "b"}},
    ]
    assert rest == {"role": "user", "parts": [{"text": "Be quick."}]}
    _, model, results, _ = through(talk(*items), "gemini-2.5-flash")["contents"]
    assert model["parts"][0] == {"functionCall": {"name": "get", "args": {"city": "Oslo"}}}
    assert [part["functionResponse"] for part in results["parts"]] == [
        {"name": "get", "response": {"output": "sun"}},
        {"name": "get", "response": {"error": "rain"}},
    ]


def test_pictures_in_results_go_where_the_model_reads_them():
    items = (
        Text("user", text="Look"),
        ToolCall("assistant", call_id="a", name="shot"),
        ToolResult("user", call_id="a", parts=[Text("user", text="Here:"), Image("user", media_type="image/png", data=PICTURE)]),
    )
    picture = {"inlineData": {"mimeType": "image/png", "data": PICTURE}}
    new = through(talk(*items))["contents"]
    assert new[2]["parts"][0]["functionResponse"]["parts"] == [picture]
    assert len(new) == 3
    old = through(talk(*items), "gemini-2.5-flash")["contents"]
    assert "parts" not in old[2]["parts"][0]["functionResponse"]
    assert old[3] == {"role": "user", "parts": [picture]}


def test_a_sealed_signature_returns_to_its_part():
    def seal(data: str, origin: Any = "gemini") -> Seal:
        return Seal("signature", data, origin)

    body = through(
        talk(
            Text("user", text="Hi"),
            Reasoning("assistant", text="foreign thoughts", seals=[seal("not-ours", "messages")]),
            Text("assistant", text="Let me look."),
            Reasoning("assistant", seals=[seal("of-the-text")]),
            Reasoning("assistant", seals=[seal("of-the-call")]),
            ToolCall("assistant", call_id="a", name="get"),
            ToolCall("assistant", call_id="b", name="get"),
        )
    )
    assert body["contents"][1]["parts"] == [
        {"text": "Let me look.", "thoughtSignature": "of-the-text"},
        {"functionCall": {"name": "get", "args": {}, "id": "a"}, "thoughtSignature": "of-the-call"},
        {"functionCall": {"name": "get", "args": {}, "id": "b"}},
    ]
    own = through(
        talk(
            Text("user", text="Hi"),
            Text("assistant", text="Yes", signature="mine"),
            ToolCall("assistant", call_id="a", name="get", seals=[seal("other", "chat"), seal("called")]),
        )
    )
    assert own["contents"][1]["parts"][0] == {"text": "Yes", "thoughtSignature": "mine"}
    assert own["contents"][1]["parts"][1]["thoughtSignature"] == "called"
    before = through(talk(Text("user", text="Hi"), Reasoning("assistant", seals=[seal("s")]), Text("assistant", text="Yes")))
    assert before["contents"][1]["parts"] == [{"text": "Yes", "thoughtSignature": "s"}]
    alone = through(talk(Text("user", text="Hi"), Reasoning("assistant", seals=[seal("s")]), Text("user", text="?")))
    assert alone["contents"][1]["parts"] == [{"text": "", "thoughtSignature": "s"}]


def test_a_foreign_call_is_excused_only_where_signatures_are_demanded():
    items = (Text("user", text="Hi"), ToolCall("assistant", call_id="a", name="get"), ToolResult("user", call_id="a"))
    for model, excused in (
        ("gemini-3.5-flash", True),
        ("models/gemini-3.1-pro-preview", True),
        ("gemini-flash-latest", True),
        ("gemini-2.5-pro", False),
        ("gemini-2.0-flash", False),
        ("gemini-3-pro-image-preview", False),
    ):
        part = through(talk(*items), model)["contents"][1]["parts"][0]
        assert (part.get("thoughtSignature") == gemini.UNSIGNED) is excused


def test_media_are_sent_as_data_or_as_what_google_keeps():
    wav = Audio("user", format="wav", data="AAAA")
    notes = File("user", text="Größe", name="a.txt")
    clip = File("user", url="https://youtu.be/x")
    kept = Image("user", url="https://generativelanguage.googleapis.com/v1beta/files/x", media_type="image/png")
    parts = through(talk(wav, notes, clip, kept, File("user", data="JVBE", name="a.pdf"), Image("user", data="x", media_type="image/webp")))
    assert parts["contents"][0]["parts"] == [
        {"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}},
        {"inlineData": {"mimeType": "text/plain", "data": base64.b64encode("Größe".encode()).decode()}},
        {"fileData": {"fileUri": "https://youtu.be/x", "mimeType": "video/mp4"}},
        {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/x", "mimeType": "image/png"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBE"}},
        {"inlineData": {"mimeType": "image/webp", "data": "x"}},
    ]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (Image("user", url="https://example.com/cat.png"), "image from its URL"),
        (Image("user", url="https://example.com/?x=https://youtu.be/cat"), "image from its URL"),
        (File("user", url="http://localhost/secret.pdf"), "file from its URL"),
        (File("user", file_id="file-123"), "file's id"),
        (Audio("user", audio_id="audio_1"), "audio"),
    ],
)
def test_what_google_cannot_fetch_is_refused_in_clear_words(item, said):
    with pytest.raises(CannotRender, match=said) as refused:
        through(talk(item))
    assert refused.value.param == "messages"


def test_tools_go_as_json_schema_in_googles_words():
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "const": {"const": "yes"},
            "count": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
            "list": {"type": "array", "items": {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"$ref": "#/$defs/x"}]}},
        },
        "$defs": {"x": {"type": "null"}},
        "additionalProperties": False,
    }
    before = copy.deepcopy(schema)
    tools = [
        ToolDef("plain", description="Does it", parameters=schema, strict=True),
        ToolDef("free", kind="custom"),
        ToolDef("spaced", namespace="mcp"),
        ToolDef("no parameters"),
    ]
    body = through(talk(Text("user", text="Hi"), tools=tools, tool_choice=ToolChoice("required")))
    assert schema == before
    [declared] = body["tools"]
    plain_tool, free, spaced, odd = declared["functionDeclarations"]
    assert plain_tool == {
        "name": "plain",
        "description": "Does it",
        "parametersJsonSchema": {
            "type": "object",
            "properties": {
                "const": {"enum": ["yes"], "type": "string"},
                "count": {"type": "integer", "minimum": 1, "maximum": 9},
                "list": {"type": "array", "items": {"anyOf": [{"type": "number", "minimum": 0}, {"$ref": "#/$defs/x"}]}},
            },
            "$defs": {"x": {"type": "null"}},
            "additionalProperties": False,
        },
    }
    assert free["parametersJsonSchema"]["properties"] == {"input": {"type": "string"}}
    assert spaced == {"name": "mcp__spaced"}
    assert re.fullmatch(r"no_parameters_[0-9a-f]{8}", odd["name"])
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}


@pytest.mark.parametrize(
    ("choice", "mode", "allowed"),
    [
        (ToolChoice("auto"), "AUTO", None),
        (ToolChoice("none"), "NONE", None),
        (ToolChoice("required"), "ANY", None),
        (ToolChoice("required", allowed=["a"]), "ANY", ["a"]),
        (ToolChoice("named", name="b"), "ANY", ["b"]),
        (ToolChoice("auto", allowed=["a"]), "VALIDATED", ["a"]),
    ],
)
def test_tool_choice_becomes_a_mode(choice, mode, allowed):
    body = through(talk(Text("user", text="Hi"), tools=[ToolDef("a"), ToolDef("b")], tool_choice=choice))
    calling = body["toolConfig"]["functionCallingConfig"]
    assert (calling["mode"], calling.get("allowedFunctionNames")) == (mode, allowed)
    again = gemini.parse_request(body).tool_choice
    assert again is not None
    assert (again.mode, again.name or again.allowed) == (
        ("named", "a") if allowed == ["a"] and mode == "ANY" else (choice.mode, choice.name or choice.allowed)
    )


def test_validated_stays_validated_among_geminis():
    request = {
        "contents": [{"parts": [{"text": "Hi"}]}],
        "tools": [{"functionDeclarations": [{"name": "a"}]}, {"googleSearch": {}}],
        "toolConfig": {"functionCallingConfig": {"mode": "VALIDATED"}, "includeServerSideToolInvocations": True},
    }
    conversation = gemini.parse_request(request)
    assert conversation.tool_choice == ToolChoice("auto")
    assert [tool.kind for tool in conversation.tools] == ["function", "builtin"]
    assert through(conversation)["toolConfig"] == request["toolConfig"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": list("abcdef")}, "stop"),
        ({"extra": {"logit_bias": {"1": 2}}}, "logit_bias"),
        ({"extra": {"modalities": ["text", "audio"]}}, "modalities"),
        ({"tools": [ToolDef("web_search", kind="builtin", raw={"type": "web_search"}, origin="responses")]}, "tools"),
        ({"tools": [ToolDef("a"), ToolDef("a")]}, "tools"),
        ({"tools": [ToolDef("a")], "tool_choice": ToolChoice("named", name="b")}, "tool_choice"),
        ({"tool_choice": ToolChoice("required")}, "tool_choice"),
    ],
)
def test_what_changes_the_meaning_is_refused(fields, param):
    with pytest.raises(CannotRender) as refused:
        through(talk(Text("user", text="Hi"), **fields))
    assert refused.value.param == param


def test_tools_and_json_together_are_refused_before_the_third_generation():
    fields: dict[str, Any] = {"tools": [ToolDef("a")], "output_format": OutputFormat("json_object")}
    assert through(talk(Text("user", text="Hi"), **fields))["generationConfig"]["responseMimeType"] == "application/json"
    with pytest.raises(CannotRender) as refused:
        through(talk(Text("user", text="Hi"), **fields), "gemini-2.5-flash")
    assert refused.value.param == "response_format"


def test_what_is_harmless_is_dropped_and_named():
    target = Target("gemini-2.5-flash", 1000)
    gemini.render_request(
        talk(
            Text("user", text="Hi", cache="5m"),
            Image("user", data="x", media_type="image/png", detail="high"),
            ServerTool("assistant", kind="web_search_call", raw={}, origin="responses"),
            Text("user", text="And?"),
            presence_penalty=1.0,
            frequency_penalty=0,
            parallel_tools=False,
            tools=[ToolDef("a")],
            user="u",
            metadata={"a": "b"},
            cache_key="k",
            verbosity="low",
            service_tier="priority",
            seed=2**40,
            extra={"store": False, "prediction": {}},
        ),
        target,
    )
    assert sorted(target.dropped) == sorted(
        "store prediction cache_control detail server_tool presence_penalty parallel_tool_calls user metadata prompt_cache_key verbosity "
        "service_tier seed".split()
    )


def test_settings_have_their_places():
    body = through(
        talk(
            Text("user", text="Hi"),
            temperature=3.0,
            top_p=0.5,
            top_k=40,
            stop=["x"],
            seed=7,
            output_format=OutputFormat("json_schema", name="n", schema={"type": "object"}, description="A thing"),
        )
    )
    assert body["generationConfig"] == {
        "maxOutputTokens": 1000,
        "temperature": 2,
        "topP": 0.5,
        "topK": 40,
        "stopSequences": ["x"],
        "seed": 7,
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object", "description": "A thing"},
    }


@pytest.mark.parametrize(
    ("model", "thinking", "config"),
    [
        ("gemini-3.5-flash", Thinking(effort="minimal"), {"includeThoughts": True, "thinkingLevel": "MINIMAL"}),
        ("gemini-3.5-flash", Thinking(effort="max"), {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        ("gemini-3.5-flash", Thinking(effort="none"), {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.5-flash", Thinking(enabled=False), {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.5-flash", Thinking(adaptive=True, enabled=True), {"includeThoughts": True}),
        ("gemini-3.5-flash", Thinking(budget=8000, enabled=True), {"includeThoughts": True, "thinkingLevel": "MEDIUM"}),
        ("gemini-3.1-pro-preview", Thinking(effort="minimal"), {"includeThoughts": True, "thinkingLevel": "LOW"}),
        ("gemini-3.1-pro-preview", Thinking(effort="medium"), {"includeThoughts": True, "thinkingLevel": "MEDIUM"}),
        ("gemini-3-pro-preview", Thinking(effort="medium"), {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        ("gemini-flash-latest", Thinking(effort="low"), {"includeThoughts": True, "thinkingLevel": "LOW"}),
        ("gemini-9-ultra", Thinking(effort="high"), {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        ("gemini-2.5-flash", Thinking(effort="high"), {"includeThoughts": True, "thinkingBudget": 24_576}),
        ("gemini-2.5-flash", Thinking(effort="none"), {"thinkingBudget": 0}),
        ("gemini-2.5-flash", Thinking(budget=90_000), {"includeThoughts": True, "thinkingBudget": 24_576}),
        ("gemini-2.5-flash-lite", Thinking(budget=100), {"includeThoughts": True, "thinkingBudget": 512}),
        ("gemini-2.5-pro", Thinking(enabled=False), {"thinkingBudget": 128}),
        ("gemini-2.5-pro", Thinking(enabled=True, adaptive=True), {"includeThoughts": True, "thinkingBudget": -1}),
        ("gemini-2.0-flash", Thinking(enabled=False), None),
    ],
)
def test_thinking_is_asked_for_as_the_generation_takes_it(model, thinking, config):
    target = Target(model, 65_536)
    body = gemini.render_request(talk(Text("user", text="Hi"), thinking=thinking), target)
    assert body["generationConfig"].get("thinkingConfig") == config
    assert target.dropped == []


def test_thoughts_leave_room_for_the_answer():
    body = gemini.render_request(talk(Text("user", text="Hi"), thinking=Thinking(effort="high")), Target("gemini-2.5-flash", 4000))
    assert body["generationConfig"]["thinkingConfig"]["thinkingBudget"] == 2000


def test_a_model_that_does_not_think_drops_the_wish_by_the_clients_name_for_it():
    target = Target("gemini-2.0-flash", 10)
    gemini.render_request(talk(Text("user", text="Hi"), thinking=Thinking(effort="high"), origin="responses"), target)
    assert target.dropped == ["reasoning"]


# -- Requests from Gemini's own clients ------------------------------------------------------------------------------------------------


def test_a_request_in_snake_case_is_the_same_request():
    snake = {
        "system_instruction": {"parts": [{"text": "s"}]},
        "contents": [{"role": "user", "parts": [{"inline_data": {"mime_type": "image/png", "data": "x"}}]}],
        "generation_config": {"max_output_tokens": 5, "thinking_config": {"thinking_budget": 0}},
        "tool_config": {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["a_b"]}},
        "tools": [{"function_declarations": [{"name": "a_b", "parameters_json_schema": {"type": "object", "snake_key": 1}}]}],
    }
    conversation = gemini.parse_request(snake)
    assert conversation.max_output == 5
    assert conversation.thinking == Thinking(enabled=False)
    assert conversation.tool_choice == ToolChoice("named", name="a_b")
    assert conversation.tools[0].parameters == {"type": "object", "snake_key": 1}
    picture = conversation.items[1]
    assert isinstance(picture, Image)
    assert picture.data == "x"


def test_calls_without_ids_get_the_same_ones_every_time_and_results_find_them():
    request = {
        "contents": [
            {
                "role": "model",
                "parts": [{"functionCall": {"name": "a"}}, {"functionCall": {"name": "a"}}, {"functionCall": {"name": "b", "id": "x"}}],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "b", "response": {"result": {"n": 1}}}},
                    {"functionResponse": {"name": "a", "response": {"error": "no"}}},
                    {"functionResponse": {"name": "a", "response": {"output": "yes", "more": 1}}},
                ],
            },
        ]
    }
    first, second = gemini.parse_request(request).items, gemini.parse_request(request).items
    assert first == second
    a1, a2, b, result_b, result_1, result_2 = first
    assert isinstance(a1, ToolCall)
    assert isinstance(a2, ToolCall)
    assert isinstance(b, ToolCall)
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", a1.call_id)
    assert len({a1.call_id, a2.call_id, b.call_id}) == 3
    assert [one.call_id for one in (result_b, result_1, result_2) if isinstance(one, ToolResult)] == ["x", a1.call_id, a2.call_id]
    assert isinstance(result_1, ToolResult)
    assert isinstance(result_2, ToolResult)
    assert result_1.is_error
    assert [part.text for part in result_1.parts if isinstance(part, Text)] == ["no"]
    assert [part.text for part in result_2.parts if isinstance(part, Text)] == ['{"output":"yes","more":1}']


def test_googles_schemas_become_json_schema():
    request = {
        "contents": [],
        "tools": [
            {
                "functionDeclarations": [
                    {
                        "name": "a",
                        "parameters": {
                            "type": "OBJECT",
                            "properties": {
                                "type": {"type": "STRING", "nullable": True, "minLength": "1"},
                                "list": {"type": "ARRAY", "items": {"type": "NUMBER"}},
                            },
                            "propertyOrdering": ["type"],
                        },
                    }
                ]
            }
        ],
        "generationConfig": {"responseMimeType": "application/json", "responseSchema": {"type": "INTEGER"}},
    }
    conversation = gemini.parse_request(request)
    assert conversation.tools[0].parameters == {
        "type": "object",
        "properties": {"type": {"type": ["string", "null"], "minLength": 1}, "list": {"type": "array", "items": {"type": "number"}}},
    }
    assert conversation.output_format == OutputFormat("json_schema", schema={"type": "integer"})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "contents"),
        ({"contents": "Hi"}, "contents"),
        ({"contents": [{"role": "system", "parts": []}]}, "contents[0].role"),
        ({"contents": [{"parts": ["Hi"]}]}, "contents[0].parts"),
        ({"contents": [], "generationConfig": {"temperature": True}}, "generationConfig.temperature"),
        ({"contents": [], "generationConfig": {"maxOutputTokens": 1.5}}, "generationConfig.maxOutputTokens"),
        ({"contents": [], "generationConfig": {"stopSequences": "x"}}, "generationConfig.stopSequences"),
        ({"contents": [], "toolConfig": {"functionCallingConfig": {"mode": "MAYBE"}}}, "toolConfig.functionCallingConfig.mode"),
        ({"contents": [], "systemInstruction": 1}, "systemInstruction"),
        ({"contents": [], "tools": [{"functionDeclarations": [{"name": 1}]}]}, "tools[0].functionDeclarations[0].name"),
    ],
)
def test_a_request_that_is_none_names_the_field(fields, param):
    with pytest.raises(CannotParse) as refused:
        gemini.parse_request(fields)
    assert refused.value.param == param


# -- Answers ---------------------------------------------------------------------------------------------------------------------------


def chunk(*parts: dict[str, Any], usage: Any = None, **candidate: Any) -> dict[str, Any]:
    said: dict[str, Any] = {"candidates": [{"content": {"parts": list(parts), "role": "model"}, "index": 0, **candidate}]}
    return {**said, **({"usageMetadata": usage} if usage else {}), "modelVersion": "gemini-x", "responseId": "r1"}


def sse(*chunks: dict[str, Any], end: bytes = b"\r\n\r\n") -> bytes:
    return b"".join(b"data: " + orjson.dumps(one) + end for one in chunks)


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("STOP", Stop.TOOL),
        ("MAX_TOKENS", Stop.LENGTH),
        ("SAFETY", Stop.FILTER),
        ("RECITATION", Stop.FILTER),
        ("SPII", Stop.FILTER),
        ("MALFORMED_FUNCTION_CALL", Stop.FAULT),
        ("A_REASON_OF_TOMORROW", Stop.FAULT),
        (2, Stop.LENGTH),
    ],
)
def test_calls_hide_no_other_reason_to_stop(reason, stop):
    call = {"functionCall": {"name": "a", "args": {"x": 1}}}
    assert gemini.parse_answer(chunk(call, finishReason=reason)).stop is stop
    assert collect(parse_stream(sse(chunk(call), chunk({"text": ""}, finishReason=reason)))).stop is stop


def test_a_call_and_the_stop_may_come_in_two_chunks():
    events = parse_stream(sse(chunk({"functionCall": {"name": "a"}, "thoughtSignature": "s"}), chunk({"text": ""}, finishReason="STOP")))
    answer = collect(events)
    [call] = answer.items
    assert isinstance(call, ToolCall)
    assert call.seals == [Seal("signature", "s", "gemini")]
    assert answer.stop is Stop.TOOL
    kinds = [event.what for event in events if isinstance(event, Delta)]
    assert kinds == ["signature"]  # before the arguments, of which there are none


def test_a_blocked_prompt_is_a_filtered_answer():
    blocked = {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT", "blockReasonMessage": "No."},
        "usageMetadata": {"promptTokenCount": 5},
    }
    answer = gemini.parse_answer(blocked)
    assert (answer.stop, answer.raw_stop, answer.refusal, answer.items) == (Stop.FILTER, "PROHIBITED_CONTENT", "No.", [])
    streamed = collect(parse_stream(sse(blocked)))
    assert (streamed.stop, streamed.refusal, streamed.usage) == (Stop.FILTER, "No.", TokenUsage(input_tokens=5))


def test_media_code_and_grounding_have_their_items():
    parts: list[dict[str, Any]] = [
        {"executableCode": {"language": "PYTHON", "code": "1"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK"}},
        {"inlineData": {"mimeType": "image/png", "data": "x"}, "thoughtSignature": "s"},
        {"inlineData": {"mimeType": "audio/L16;codec=pcm;rate=24000", "data": "y"}},
        {"text": "Done", "futureField": 1},
        {"futurePart": {}},
    ]
    grounding = {"groundingChunks": [{"web": {"uri": "https://example.com"}}]}
    whole = gemini.parse_answer(chunk(*parts, finishReason="STOP", groundingMetadata=grounding))
    events = parse_stream(sse(*(chunk(part) for part in parts[:-1]), chunk(finishReason="STOP", groundingMetadata=grounding)))
    for answer in (whole, collect(events)):
        code, result, image, audio, text = answer.items[:5]
        assert isinstance(code, ServerTool)
        assert isinstance(result, ServerTool)
        assert (code.kind, result.kind) == ("executableCode", "codeExecutionResult")
        assert isinstance(image, Image)
        assert isinstance(audio, Audio)
        assert (audio.format, audio.data) == ("pcm16", "y")
        assert isinstance(text, Text)
        assert text.citations == [{"groundingMetadata": grounding}]
        assert gemini.render_answer(answer, ECHO)["candidates"][0]["groundingMetadata"] == grounding
    assert isinstance(whole.items[5], Unknown)
    assert gemini.render_answer(whole, ECHO)["candidates"][0]["content"]["parts"] == parts
    assert b"groundingChunks" in tell(events)


def test_usage_is_replaced_never_added():
    first = {"promptTokenCount": 10, "thoughtsTokenCount": 100, "totalTokenCount": 110}
    last = {
        "promptTokenCount": 10,
        "toolUsePromptTokenCount": 5,
        "cachedContentTokenCount": 4,
        "candidatesTokenCount": 7,
        "thoughtsTokenCount": 100,
        "totalTokenCount": 122,
    }
    events = parse_stream(sse(chunk({"text": "a"}, usage=first), chunk({"text": "b"}, usage=first), chunk(usage=last, finishReason="STOP")))
    assert [event.usage for event in events if isinstance(event, Metered)] == [
        TokenUsage(input_tokens=10, reasoning_tokens=100),
        TokenUsage(input_tokens=11, cached_input_tokens=4, output_tokens=7, reasoning_tokens=100),
    ]


@pytest.mark.parametrize("usage", [None, [], {}, {"trafficType": "ON_DEMAND"}])
def test_a_usage_without_counts_is_none(usage):
    assert gemini.read_usage(usage) is None


@pytest.mark.parametrize(
    "usage",
    [
        {"promptTokenCount": "5"},
        {"promptTokenCount": -1},
        {"promptTokenCount": True},
        {"promptTokenCount": 1.5},
        {"promptTokenCount": float("nan")},
        {"promptTokenCount": LARGEST_COUNT + 1},
        {"promptTokenCount": 1, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": "x"}]},
    ],
)
def test_a_usage_that_is_not_made_of_counts_is_not_believed(usage):
    read = gemini.read_usage(usage)
    assert read is not None
    assert not read.is_sane()


def test_audio_has_its_own_buckets_and_nothing_is_negative():
    heard = {"promptTokenCount": 10, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 8}, {"modality": "TEXT", "tokenCount": 2}]}
    assert gemini.read_usage(heard) == TokenUsage(input_tokens=2, audio_input_tokens=8)
    reused = {**heard, "cachedContentTokenCount": 6, "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 6}]}
    assert gemini.read_usage(reused) == TokenUsage(input_tokens=2, cached_input_tokens=6, audio_input_tokens=2)
    spoken = {"candidatesTokenCount": 5, "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 9}]}
    assert gemini.read_usage(spoken) == TokenUsage(audio_output_tokens=5)
    beyond = {"promptTokenCount": 3, "cachedContentTokenCount": 5}
    assert gemini.read_usage(beyond) == TokenUsage(input_tokens=3, cached_input_tokens=5)


COUNTS = st.integers(0, 10_000)


@given(
    usage=st.builds(
        TokenUsage,
        input_tokens=COUNTS,
        cached_input_tokens=COUNTS,
        audio_input_tokens=COUNTS,
        output_tokens=COUNTS,
        reasoning_tokens=COUNTS,
        audio_output_tokens=COUNTS,
    )
)
def test_usage_rendered_and_read_is_the_same(usage):
    assert gemini.read_usage(gemini.render_usage(usage)) == usage


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            "promptTokenCount toolUsePromptTokenCount cachedContentTokenCount candidatesTokenCount thoughtsTokenCount".split(), COUNTS
        ),
    )
)
def test_usage_never_bills_more_or_less_than_was_counted(counts):
    usage = gemini.read_usage(counts)
    if usage is None:
        return
    assert usage.is_sane()
    assert usage.total_output_tokens == counts.get("candidatesTokenCount", 0) + counts.get("thoughtsTokenCount", 0)
    read = counts.get("promptTokenCount", 0) + counts.get("toolUsePromptTokenCount", 0)
    cached = counts.get("cachedContentTokenCount", 0)
    assert usage.total_input_tokens == (read if cached <= read else read + cached)


def test_every_seal_reaches_a_client_of_gemini_whatever_its_origin():
    items: list[Any] = [
        Reasoning("assistant", text="hm", seals=[Seal("signature", "gw1.a", "messages"), Seal("redacted", "gw1.b", "messages")]),
        Reasoning("assistant", seals=[Seal("encrypted", "gw1.c", "responses")]),
        Text("assistant", text="Yes", signature="gw1.d"),
        ToolCall("assistant", call_id="x", name="t", seals=[Seal("signature", "gw1.e", "gemini"), Seal("encrypted", "gw1.f", "responses")]),
    ]
    answer = Answer("a", "m", items, Stop.TOOL, TokenUsage(input_tokens=1))
    rendered = gemini.render_answer(answer, ECHO)
    told = [part.get("thoughtSignature") for part in rendered["candidates"][0]["content"]["parts"]]
    assert sorted(filter(None, told)) == [f"gw1.{name}" for name in "abcdef"]
    stream = tell(replay(answer))
    assert grammar_gemini.check(stream) == []
    assert sorted(re.findall(r'"thoughtSignature":"([^"]*)"', stream.decode())) == [f"gw1.{name}" for name in "abcdef"]
    again = gemini.parse_request({"contents": [rendered["candidates"][0]["content"]]}).items
    found = [seal.data for item in again if isinstance(item, Reasoning | ToolCall) for seal in item.seals]
    found += [item.signature for item in again if isinstance(item, Text) and item.signature]
    assert sorted(found) == [f"gw1.{name}" for name in "abcdef"]


def test_a_foreign_answer_is_told_in_googles_words():
    items: list[Any] = [
        Reasoning("assistant", summary=["one", "two"]),
        Text("assistant", text="Hi"),
        ToolCall("assistant", call_id="c", name="t", arguments='{"a":1}'),
        Refusal("assistant", text="No."),
    ]
    answer = Answer("a", "m", items, Stop.FILTER, TokenUsage(input_tokens=3, cached_input_tokens=2, output_tokens=4, reasoning_tokens=5))
    rendered = gemini.render_answer(answer, ECHO)
    assert rendered == {
        "candidates": [
            {
                "content": {
                    "parts": [
                        {"text": "one\n\ntwo", "thought": True},
                        {"text": "Hi"},
                        {"functionCall": {"name": "t", "args": {"a": 1}, "id": "c"}},
                        {"text": "No."},
                    ],
                    "role": "model",
                },
                "finishReason": "SAFETY",
                "index": 0,
            }
        ],
        "usageMetadata": {
            "promptTokenCount": 5,
            "candidatesTokenCount": 4,
            "totalTokenCount": 14,
            "cachedContentTokenCount": 2,
            "thoughtsTokenCount": 5,
        },
        "modelVersion": "house/model",
        "responseId": "answer-1",
    }
    assert grammar_gemini.check(tell(replay(answer))) == []


def test_usage_that_comes_after_the_stop_is_told():
    events: list[Event] = [Started("a", "m"), Stopped(Stop.END), Metered(TokenUsage(output_tokens=9)), Ended()]
    told = tell(events)
    assert grammar_gemini.check(told) == []
    assert b'"candidatesTokenCount":9' in told


def test_a_stream_that_fails_ends_with_the_error_and_nothing_else():
    renderer = gemini.StreamRenderer(ECHO)
    told = renderer.feed(Started()) + renderer.feed(Opened(0, Text("assistant"))) + renderer.feed(Delta(0, "text", "Hi"))
    told += renderer.fail({"error": {"message": "Busy.", "type": "rate_limit_error", "code": "rate_limited", "param": None}})
    assert grammar_gemini.check(told) == []
    last = orjson.loads(told.split(b"\r\n\r\n")[-2][6:])["error"]
    assert (last["code"], last["status"], last["message"]) == (429, "RESOURCE_EXHAUSTED", "Busy.")
    assert gemini.StreamRenderer.keep_alive == b""


def test_an_error_in_the_stream_is_told_as_failed():
    error = {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}
    for stream in (sse(chunk({"text": "a"}), {"error": error}), orjson.dumps([chunk({"text": "a"}), {"error": error}])):
        events = parse_stream(stream)
        assert events[-1] == Failed(error)
        assert not any(isinstance(event, Stopped | Ended) for event in events)
    assert parse_stream(orjson.dumps({"error": error})) == [Failed(error)]


def test_a_stream_that_breaks_off_has_no_end():
    assert not any(isinstance(event, Ended) for event in parse_stream(sse(chunk({"text": "a"}))))


def test_the_last_event_may_lack_its_boundary():
    whole = sse(chunk({"text": "a"}), chunk(finishReason="STOP"))
    assert parse_stream(whole[:-4]) == parse_stream(whole)


def test_an_error_is_googles():
    error = {"error": {"message": "No.", "type": "invalid_request_error", "param": "contents", "code": "bad_thing"}}
    assert gemini.render_error(error, 400, "req-1") == {
        "error": {
            "code": 400,
            "message": "No.",
            "status": "INVALID_ARGUMENT",
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "BAD_THING",
                    "domain": "gateway",
                    "metadata": {"param": "contents"},
                },
                {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": "req-1"},
            ],
        }
    }
    assert gemini.render_error({}, 402, "")["error"]["status"] == "FAILED_PRECONDITION"
    assert gemini.render_error({}, 418, "")["error"]["status"] == "INVALID_ARGUMENT"
    assert gemini.render_error({}, 599, "")["error"]["status"] == "INTERNAL"


# -- Pass-through ----------------------------------------------------------------------------------------------------------------------


def pass_through(data: bytes, cuts: list[int] | None = None) -> tuple[bytes, gemini.GeminiTap]:
    tap = gemini.GeminiTap()
    sent = b"".join(tap.feed(piece) for piece in pieces_of(data, cuts)) + tap.flush()
    return sent + tap.finish(estimate=NOTHING, cost=0, upstream_cost=0), tap


def test_the_tap_is_one():
    tap: Tap = gemini.GeminiTap()
    assert tap.reported_cost is None


@needs_recordings
@pytest.mark.parametrize("array", [False, True], ids=["sse", "array"])
@pytest.mark.parametrize("case", STREAMS, ids=ids)
def test_a_recorded_stream_passes_to_the_byte(case, array):
    data = as_array(case.response_bytes) if array else case.response_bytes
    wanted = oracle.meaning("gemini", case.response_bytes, stream=True)
    for cuts in (None, [1], list(range(0, len(data), 97)), list(range(0, len(data), 1460))):
        sent, tap = pass_through(data, cuts)
        assert sent == data
        assert tap.done
        assert tap.error is None
        assert tap.has_output
        assert tap.usage is not None
        assert tap.usage_json is not None
        assert (tap.usage.total_input_tokens, tap.usage.total_output_tokens) == (wanted["inp"], wanted["out"])
        assert tap.usage.cached_input_tokens == wanted["cached"]
        assert tap.output_bytes >= len((wanted["text"] + wanted["reasoning"]).encode())
        assert tap.finish_reason in ("STOP", "MAX_TOKENS")


@needs_recordings
@pytest.mark.parametrize("case", WHOLE, ids=ids)
def test_a_recorded_answer_shows_what_it_used(case):
    answer = gemini.read_answer(case.response_bytes)
    wanted = oracle.meaning("gemini", case.response_bytes)
    if case.id not in UNCOUNTED:
        assert answer.usage is not None
        assert (answer.usage.total_input_tokens, answer.usage.total_output_tokens) == (wanted["inp"], wanted["out"])
        assert answer.usage == gemini.parse_answer(orjson.loads(case.response_bytes)).usage
    assert answer.finish_reason
    assert answer.output_bytes >= len(wanted["text"].encode())


def test_an_error_in_the_middle_is_kept_from_the_client():
    error = {"error": {"code": 500, "message": "secret", "status": "INTERNAL"}}
    before = sse(chunk({"text": "Hi"}))
    sent, tap = pass_through(before + sse(error))
    assert sent == before
    assert tap.error == error["error"]
    assert not tap.done
    told = sent + tap.fail({"error": {"message": "Sorry.", "type": "server_error", "code": "upstream_error"}}, ran_out=False)
    assert grammar_gemini.check(told) == []
    assert b"secret" not in told
    cut = sent + tap.fail({"error": {"message": "Sorry.", "type": "insufficient_quota"}}, ran_out=True)
    assert grammar_gemini.check(cut) == []
    assert b'"finishReason":"MAX_TOKENS"' in cut


@pytest.mark.parametrize("before", [0, 1, 2])
def test_an_array_that_fails_is_still_an_array(before):
    data = (
        as_array(sse(*[chunk({"text": "Hi"})] * before), end=b"")[: None if before else 0]
        + (b",\n" if before else b"[")
        + b'{"error":{"code":500}}]'
    )
    tap = gemini.GeminiTap()
    sent = tap.feed(data)
    assert tap.error == {"code": 500}
    whole = orjson.loads(sent + tap.fail({"error": {"message": "Sorry.", "type": "server_error"}}, ran_out=False))
    assert len(whole) == before + 1
    assert whole[-1]["error"]["message"] == "Sorry."


def test_half_an_event_is_not_forwarded():
    whole = sse(chunk({"text": "a"}), chunk({"text": "b"}, finishReason="STOP"))
    sent, tap = pass_through(whole[:-30])
    assert sent == sse(chunk({"text": "a"}))
    assert not tap.done
    sent, tap = pass_through(whole[:-4])
    assert sent == whole
    assert tap.done


def test_a_picture_counts_as_output_but_not_by_its_bytes():
    picture = sse(chunk({"inlineData": {"mimeType": "image/png", "data": "A" * 3_000_000}}))
    sent, tap = pass_through(picture, list(range(0, len(picture), 16_384)))
    assert sent == picture
    assert tap.has_output
    assert tap.output_bytes < 10_000


def test_an_event_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(gemini_frames, "LARGEST_FRAME", 1000)
    for start in (b"data: {", b"[{"):
        tap = gemini.GeminiTap()
        with pytest.raises(EventTooLarge):
            for _ in range(100):
                tap.feed(start + b'"' + b"x" * 100)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"[1]", b"null", b"{}", b'{"candidates": 1}', b'{"error": {"code": 400}}', b"<html>", b'[{"error": {}}]']
)
def test_what_is_no_answer_is_refused(body):
    with pytest.raises(NotAnAnswer):
        gemini.read_answer(body)


# -- Other methods ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "request_body", "answer", "usage", "estimated"),
    [
        ("countTokens", {"contents": []}, {"totalTokens": 12}, TokenUsage(), False),
        ("embedContent", {}, {"embedding": {"values": [0.1]}, "usageMetadata": {"promptTokenCount": 7}}, TokenUsage(input_tokens=7), False),
        ("embedContent", {"content": {"parts": [{"text": "x" * 9}]}}, {"embedding": {"values": []}}, TokenUsage(input_tokens=3), True),
        (
            "batchEmbedContents",
            {},
            {"embeddings": [{"statistics": {"tokenCount": 4}}, {"statistics": {"token_count": 5}}]},
            TokenUsage(input_tokens=9),
            False,
        ),
        (
            "batchEmbedContents",
            {"requests": [{"content": {"parts": [{"text": "abcd"}, {"inlineData": {"data": "A" * 999}}]}}]},
            {"embeddings": [{"values": []}]},
            TokenUsage(input_tokens=1),
            True,
        ),
        (
            "predict",
            {"instances": [{"content": "abcd"}]},
            {"predictions": [{"embeddings": {"statistics": {"token_count": 6}, "values": []}}]},
            TokenUsage(input_tokens=6),
            False,
        ),
        (
            "predict",
            {"instances": [{"prompt": "a cat"}]},
            {"predictions": [{"bytesBase64Encoded": "x", "mimeType": "image/png"}, {"gcsUri": "gs://b/o"}, {"raiFilteredReason": "no"}]},
            TokenUsage(images=2),
            False,
        ),
        ("predict", {"instances": [{"prompt": "a cat"}]}, {"predictions": [{"raiFilteredReason": "no"}]}, TokenUsage(), False),
        ("predict", {"instances": [{"prompt": "a cat"}]}, {}, TokenUsage(), False),
        ("generateImages", {"prompt": "a cat"}, {"generatedImages": [{"image": {}}]}, TokenUsage(images=1), False),
        (
            "generateContent",
            {},
            {"usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2}},
            TokenUsage(1, output_tokens=2),
            False,
        ),
    ],
)
def test_other_methods_show_what_they_used(method, request_body, answer, usage, estimated):
    assert gemini.read_method_usage(method, request_body, answer) == gemini.MethodUsage(usage, estimated)


@needs_recordings
@pytest.mark.parametrize("case", recordings.cases(["gemini_batchEmbedContents", "gemini_countTokens"], statuses=[200]), ids=ids)
def test_recorded_calls_of_other_methods_show_what_they_used(case):
    method = case.meta["path"].rsplit(":", 1)[-1]
    answer = orjson.loads(case.response_bytes)
    used = gemini.read_method_usage(method, case.request, answer)
    counted = answer.get("usageMetadata", {}).get("promptTokenCount")
    assert used.usage.output_tokens == 0
    if counted is not None:
        assert used == gemini.MethodUsage(TokenUsage(input_tokens=counted))
    else:
        assert used.estimated is (method != "countTokens")
        assert (used.usage.input_tokens > 0) is (method != "countTokens")


# -- Hypothesis ------------------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["STOP", "AUDIO", "OBJECT", "ANY", "model"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    (
        "contents parts role text thought thoughtSignature functionCall functionResponse name args id response inlineData mimeType data fileData "
        "fileUri systemInstruction tools functionDeclarations parameters parametersJsonSchema toolConfig functionCallingConfig mode "
        "allowedFunctionNames generationConfig temperature maxOutputTokens thinkingConfig thinkingBudget thinkingLevel responseSchema "
        "responseMimeType candidates content finishReason index usageMetadata promptTokenCount candidatesTokenCount promptTokensDetails "
        "modality tokenCount promptFeedback blockReason groundingMetadata error partialArgs jsonPath stringValue numberValue willContinue "
        "executableCode toolCall createTime responseId modelVersion type properties items nullable enum _ function_call inline_data"
    ).split()
)
SHAPED = st.recursive(JSON, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=25)
REQUEST_LIKE = st.fixed_dictionaries(
    {"contents": st.lists(st.fixed_dictionaries({"parts": st.lists(st.dictionaries(NAMES, SHAPED, max_size=3), max_size=3)}), max_size=3)},
    optional={
        "generationConfig": st.dictionaries(NAMES, SHAPED, max_size=3),
        "tools": st.lists(st.dictionaries(NAMES, SHAPED, max_size=2), max_size=2),
        "toolConfig": SHAPED,
    },
)
ANSWER_LIKE = st.fixed_dictionaries(
    {
        "candidates": st.lists(
            st.fixed_dictionaries(
                {"content": st.fixed_dictionaries({"parts": st.lists(st.dictionaries(NAMES, SHAPED, max_size=3), max_size=3)})},
                optional={"finishReason": SHAPED, "groundingMetadata": SHAPED},
            ),
            max_size=2,
        )
    },
    optional={"usageMetadata": SHAPED, "promptFeedback": SHAPED, "error": SHAPED, "createTime": SHAPED, "responseId": SHAPED},
)


@settings(max_examples=300, deadline=None)
@given(SHAPED | REQUEST_LIKE)
def test_no_request_raises_anything_but_the_two_refusals(value):
    try:
        conversation = gemini.parse_request(value)
        for model in ("gemini-3.5-flash", "gemini-2.5-flash"):
            gemini.render_request(conversation, Target(model, 100))
            conversation.origin = "chat"
    except (CannotParse, CannotRender):
        pass


@settings(max_examples=300, deadline=None)
@given(SHAPED | ANSWER_LIKE)
def test_no_answer_raises_anything_but_the_refusal(value):
    gemini.read_usage(value)
    gemini.read_method_usage("embedContent", value, value)
    try:
        answer = gemini.parse_answer(value)
    except CannotParse:
        return
    gemini.render_answer(answer, ECHO)
    tell(replay(answer))


@settings(max_examples=300, deadline=None)
@given(st.lists(SHAPED | ANSWER_LIKE, max_size=4), st.booleans())
def test_no_stream_raises_anything(chunks, array):
    bodies = [json.dumps(one).encode() for one in chunks]
    data = b"[" + b",".join(bodies) + b"]" if array else b"".join(b"data: " + body + b"\n\n" for body in bodies)
    tell(parse_stream(data))
    pass_through(data)
    try:
        gemini.read_answer(data if array else data[6:])
    except NotAnAnswer:
        pass


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_no_bytes_raise_anything(data, cuts):
    for start in (b"", b"data: ", b"[", b'{"a":"'):
        parse_stream(start + data, cuts)
        pass_through(start + data, cuts)


TRICKY = sse(
    chunk({"text": 'quote " brace } bracket ] backslash \\ and \\" both \u2028 \u0085 é 😀'}, usage={"promptTokenCount": 3}),
    chunk({"text": "thinking\r\n\r\n", "thought": True}),
    chunk({"functionCall": {"name": "a", "args": {"x": ['"', "\\", "{[", "\n\n"]}}, "thoughtSignature": "s"}),
    chunk({"text": ""}, finishReason="STOP", usage={"promptTokenCount": 3, "candidatesTokenCount": 4, "totalTokenCount": 7}),
)


@settings(max_examples=300, deadline=None)
@given(cuts=st.lists(st.integers(0, 5000), max_size=12), array=st.booleans(), end=st.sampled_from([b"\r\n\r\n", b"\n\n", b"\r\r"]))
def test_any_splitting_gives_the_same_events_and_bytes(cuts, array, end):
    data = as_array(TRICKY) if array else TRICKY.replace(b"\r\n\r\n", end)
    assert parse_stream(data, cuts) == parse_stream(TRICKY)
    sent, tap = pass_through(data, cuts)
    assert sent == data
    assert tap.usage == TokenUsage(input_tokens=3, output_tokens=4)
    assert tap.done


WORDS = st.text(min_size=1, max_size=12)
SIGNATURES = st.just("") | st.text("abcXYZ019+/=", min_size=4, max_size=12)
TOOL_NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,20}", fullmatch=True)
ARGUMENTS = st.dictionaries(WORDS, st.integers(-(2**53), 2**53) | WORDS | st.none() | st.lists(st.booleans(), max_size=2), max_size=3)
PARTS = st.one_of(
    st.builds(lambda text, mark: {"text": text, **({"thoughtSignature": mark} if mark else {})}, WORDS, SIGNATURES),
    st.builds(lambda text: {"text": text, "thought": True}, WORDS),
    st.builds(
        lambda name, args, mark: {"functionCall": {"name": name, "args": args}, **({"thoughtSignature": mark} if mark else {})},
        TOOL_NAMES,
        ARGUMENTS,
        SIGNATURES,
    ),
    st.builds(lambda code: {"executableCode": {"language": "PYTHON", "code": code}}, WORDS),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=6))
def test_a_generated_answer_keeps_its_parts_whole_and_streamed(parts):
    given_answer = chunk(*parts, finishReason="STOP", usage={"promptTokenCount": 1, "candidatesTokenCount": 2, "totalTokenCount": 3})
    answer = gemini.parse_answer(given_answer)
    assert gemini.render_answer(answer, Echo("", 0, "")) == given_answer
    events = parse_stream(sse(*(chunk(part) for part in parts), chunk(finishReason="STOP", usage=given_answer["usageMetadata"])))
    again = collect(parse_stream(tell(events)))
    once = collect(events)

    def said(one: Answer) -> list[Any]:
        return [
            (type(item).__name__, getattr(item, "text", ""), getattr(item, "arguments", ""), getattr(item, "name", ""))
            for item in one.items
            if getattr(item, "text", "?")
        ]

    assert said(again) == said(once)
    assert again.usage == once.usage == answer.usage
    assert again.stop == once.stop == answer.stop
    assert grammar_gemini.check(tell(events)) == []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds(lambda text: [Text("user", text=text)], WORDS),
            st.builds(lambda text: [Text("assistant", text=text)], WORDS),
            st.builds(
                lambda name, args, text, failed, number: [
                    ToolCall("assistant", call_id=f"call-{number}", name=name, arguments=json.dumps(args) if args else ""),
                    ToolResult("user", call_id=f"call-{number}", name=name, parts=[Text("user", text=text)], is_error=failed),
                ],
                TOOL_NAMES,
                ARGUMENTS,
                WORDS,
                st.booleans(),
                st.uuids(),
            ),
            st.builds(lambda data: [Image("user", media_type="image/png", data=data)], st.from_regex(r"[A-Za-z0-9]{4,8}", fullmatch=True)),
        ),
        min_size=1,
        max_size=6,
    ),
    st.none() | st.integers(0, 20).map(lambda tenth: tenth / 10),
    st.lists(WORDS, max_size=5),
)
def test_a_generated_conversation_keeps_its_meaning(groups, temperature, stop):
    items: list[Any] = [item for group in groups for item in group]
    body = through(talk(*items, temperature=temperature, stop=stop))
    again = gemini.parse_request(orjson.loads(orjson.dumps(body)))

    def said(item: Any) -> Any:
        match item:
            case Text():
                return (item.role, item.text)
            case ToolCall():
                return (item.call_id, item.name, json.loads(item.arguments or "{}"))
            case ToolResult():
                return (item.call_id, item.name, [part.text for part in item.parts if isinstance(part, Text)], item.is_error)
            case _:
                return (item.media_type, item.data)

    assert sorted(map(repr, map(said, again.items))) == sorted(map(repr, map(said, items)))
    assert again.temperature == temperature
    assert again.stop == stop
    assert again.max_output == 1000


# -- The grammar -----------------------------------------------------------------------------------------------------------------------


@needs_recordings
@pytest.mark.parametrize("case", STREAMS, ids=ids)
def test_google_itself_keeps_to_the_grammar(case):
    """But for arguments in pieces and chunks without an index, which we never send."""
    problems = grammar_gemini.check(re.sub(rb"(?<!\r)\n\n", b"\r\n\r\n", case.response_bytes))
    left = [one for one in problems if "index is not 0" not in one and "no parts" not in one]
    if case.id in EXCEPTIONS:
        left = [one for one in left if "no name or no arguments" not in one]
    assert left == []


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (b"", "no end"),
        (b": keep-alive\r\n\r\n", "not one data line"),
        (b"event: x\r\ndata: {}\r\n\r\n", "not one data line"),
        (b"data: [DONE]\r\n\r\n", "not JSON"),
        (sse(chunk({"text": "a"})), "no end"),
        (sse(chunk({"text": "a"}, finishReason="STOP")), "no usage"),
        (sse(chunk({"text": "a"}, finishReason="STOP"), chunk({"text": "a"})), "after the end"),
        (sse(chunk({"functionCall": {"name": "a"}})), "no arguments"),
        (sse(chunk({"thought": True})), "says nothing"),
        (sse(chunk({"text": "a"}), end=b"\n\n"), "not closed"),
        (sse(chunk(usage={"promptTokenCount": 1, "totalTokenCount": 5}, finishReason="STOP")), "not the sum"),
        (sse({"error": "x"}), "not an object"),
    ],
)
def test_the_grammar_finds_what_is_wrong(stream, problem):
    assert any(problem in one for one in grammar_gemini.check(stream))
