"""Tools keep their names for the client: whatever a provider had to call them, their calls come back under the client's own name."""

import re
from itertools import permutations
from typing import Any

import orjson
import pytest

from catalog.usage import TokenUsage
from proxy.bridges import BridgeTap, BridgeWhole
from proxy.dialects import DIALECTS
from proxy.formats import tool_names
from proxy.formats.base import FormatName
from proxy.formats.conversation import Answer, AnyItem, Conversation, Echo, Stop, Target, ToolCall, ToolDef, collect, replay

PAIRS = list(permutations(DIALECTS, 2))
MODELS = {"chat": "gpt-4.1", "responses": "gpt-5", "messages": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash"}
NAMES = ("plain", "long_" * 20, "get weather/now", "a.b:c", "1st", "-x", "größe")
ESTIMATE = TokenUsage(input_tokens=1, output_tokens=1)
SCHEMA = {"type": "object", "properties": {}}


def asked(client: str) -> dict[str, Any]:
    """A request that declares every tool, in the client's format."""
    match client:
        case "chat":
            tools: list[dict[str, Any]] = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in NAMES]
            return {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "tools": tools}
        case "responses":
            tools = [{"type": "function", "name": name, "parameters": SCHEMA} for name in NAMES]
            tools.append({"type": "namespace", "name": "crm", "description": "Customers", "tools": [tools[0], tools[1], tools[2]]})
            return {"model": "m", "input": "Hi", "tools": tools}
        case "messages":
            tools = [{"name": name, "input_schema": SCHEMA} for name in NAMES]
            return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "tools": tools}
    declarations = [{"name": name, "parametersJsonSchema": SCHEMA} for name in NAMES]
    return {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}], "tools": [{"functionDeclarations": declarations}]}


def sent_names(provider: str, request: dict[str, Any]) -> list[str]:
    """What the provider was told the tools are called."""
    match provider:
        case "chat":
            return [tool["function"]["name"] for tool in request["tools"]]
        case "gemini":
            return [tool["name"] for tool in request["tools"][0]["functionDeclarations"]]
    return [tool["name"] for tool in request["tools"]]


def called(items: list[AnyItem]) -> list[tuple[str, str]]:
    return [(item.namespace, item.name) for item in items if isinstance(item, ToolCall)]


@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_every_tool_comes_back_under_its_own_name(client: FormatName, provider: FormatName) -> None:
    fields = asked(client)
    conversation = DIALECTS[client].parse_request(fields)
    declared = [(tool.namespace, tool.name) for tool in conversation.tools]
    request = DIALECTS[provider].render_request(conversation, Target(MODELS[provider], 100, "custom"))
    names = sent_names(provider, request)
    legal = tool_names.GOOGLE if provider == "gemini" else tool_names.PLAIN
    assert all(legal.fullmatch(name) for name in names)
    assert len(set(names)) == len(declared)

    calls: list[AnyItem] = [ToolCall("assistant", call_id=f"call_{at}", name=name, arguments='{"x":1}') for at, name in enumerate(names)]
    answer = Answer("a", "m", calls, Stop.TOOL, None)
    theirs = Echo(id="a", created=1, model="m", request={}, conversation=None)
    reader = DIALECTS[provider].read(conversation, request)
    echo = Echo(id="x1", created=1, model="m", request=fields, conversation=conversation)
    own = DIALECTS[client].read(Conversation(origin=client, model="m", items=[]), {})  # type: ignore[arg-type]

    said = orjson.dumps(DIALECTS[provider].render_answer(answer, theirs))
    whole = BridgeWhole(said, parse=reader.parse_answer, render=DIALECTS[client].render_answer, echo=echo, wrap=lambda one: one)
    told = whole.render(estimate=ESTIMATE, cost=0, upstream_cost=0)
    assert called(own.parse_answer(orjson.loads(told)).items) == declared

    renderer = DIALECTS[provider].make_renderer(theirs)
    stream = b"".join(renderer.feed(event) for event in replay(answer))
    tap = BridgeTap(reader.make_parser(), DIALECTS[client].make_renderer(echo), wrap=lambda one: one)
    out = tap.feed(stream) + tap.flush() + tap.finish(estimate=ESTIMATE, cost=0, upstream_cost=0)
    parser = own.make_parser()
    assert called(collect([*parser.feed(out), *parser.finish()]).items) == declared


@pytest.mark.parametrize("name", ["plain", "snake_case-2", "x" * 64])
def test_a_name_that_is_legal_everywhere_stays_as_it_is(name: str) -> None:
    assert tool_names.wire_name(name) == tool_names.wire_name(name, legal=tool_names.GOOGLE) == name


@pytest.mark.parametrize("name", ["x" * 65, "get weather", "", "größe", "\ud800"])
def test_a_name_that_is_legal_nowhere_is_the_same_text_everywhere(name: str) -> None:
    plain, google = tool_names.wire_name(name), tool_names.wire_name(name, legal=tool_names.GOOGLE)
    assert plain == google
    assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}", plain)
    assert tool_names.wire_name(name + "!") != plain


def test_a_tool_of_the_name_of_another_ones_replacement_keeps_its_calls() -> None:
    taken = tool_names.wire_name("get weather")
    tools = [ToolDef("get weather"), ToolDef(taken)]
    renamed = tool_names.renamed_tools(Conversation("chat", "m", [], tools=tools))
    assert tool_names.client_name(ToolCall("assistant", name=taken), renamed) == taken
