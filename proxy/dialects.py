"""The formats that a request can be translated between: one table of what each module offers to the hub."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.bridges import Renderer
from proxy.formats import anthropic_messages, gemini, openai_chat_bridge, openai_responses
from proxy.formats.base import FormatName, StreamParser
from proxy.formats.conversation import Answer, Conversation, Echo, Target


@dataclass(frozen=True, slots=True)
class Reader:
    """How to read what a provider answers to one request: a translated request may have renamed its tools or forced a tool for JSON."""

    parse_answer: Callable[[Mapping[str, Any]], Answer]
    make_parser: Callable[[], StreamParser]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One format, towards providers (`render_request`, `read`) and towards clients (the rest)."""

    render_request: Callable[[Conversation, Target], dict[str, Any]]
    read: Callable[[Conversation, dict[str, Any]], Reader]
    parse_request: Callable[[Mapping[str, Any]], Conversation]
    render_answer: Callable[[Answer, Echo], dict[str, Any]]
    make_renderer: Callable[[Echo], Renderer]
    id_prefix: str


def _read_chat(conversation: Conversation, rendered: dict[str, Any]) -> Reader:
    del conversation, rendered
    return Reader(openai_chat_bridge.parse_answer, openai_chat_bridge.StreamParser)


def _read_responses(conversation: Conversation, rendered: dict[str, Any]) -> Reader:
    del rendered
    return Reader(lambda fields: openai_responses.parse_answer(fields, conversation), lambda: openai_responses.StreamParser(conversation))


def _read_messages(conversation: Conversation, rendered: dict[str, Any]) -> Reader:
    unwrap_json = anthropic_messages.uses_json_tool(rendered, conversation)
    tools = anthropic_messages.tool_names(conversation)
    return Reader(
        lambda fields: anthropic_messages.parse_answer(fields, unwrap_json=unwrap_json, tools=tools),
        lambda: anthropic_messages.StreamParser(unwrap_json=unwrap_json, tools=tools),
    )


def _read_gemini(conversation: Conversation, rendered: dict[str, Any]) -> Reader:
    del conversation, rendered
    return Reader(gemini.parse_answer, gemini.StreamParser)


DIALECTS: dict[FormatName, Dialect] = {
    "chat": Dialect(
        openai_chat_bridge.render_request,
        _read_chat,
        openai_chat_bridge.parse_request,
        openai_chat_bridge.render_answer,
        openai_chat_bridge.StreamRenderer,
        "chatcmpl-",
    ),
    "responses": Dialect(
        openai_responses.render_request,
        _read_responses,
        openai_responses.parse_request,
        openai_responses.render_answer,
        openai_responses.StreamRenderer,
        "resp_",
    ),
    "messages": Dialect(
        anthropic_messages.render_request,
        _read_messages,
        anthropic_messages.parse_request,
        anthropic_messages.render_answer,
        anthropic_messages.StreamRenderer,
        "msg_",
    ),
    "gemini": Dialect(gemini.render_request, _read_gemini, gemini.parse_request, gemini.render_answer, gemini.StreamRenderer, ""),
}
