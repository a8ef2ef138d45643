"""Whole Responses answers, from providers to the hub and from the hub to clients. Pure."""

from collections.abc import Mapping
from typing import Any

from proxy.formats.conversation import Answer, CannotParse, Conversation, Echo, Refusal, ToolCall
from proxy.formats.openai_responses_items import NAME, parse_items, sent_tools, text_of
from proxy.formats.openai_responses_output import read_stop, read_usage, render_output, render_response, render_stop, render_usage


def parse_answer(fields: Mapping[str, Any], conversation: Conversation | None = None) -> Answer:
    """The answer that a response object tells. `conversation`: the request, to call tools by the names that the client gave them.

    Raises: CannotParse.
    """
    output = fields.get("output")
    if not isinstance(output, list):
        raise CannotParse("The answer has no output.", param="output")
    if fields.get("object", "response") != "response":  # a compaction is no answer
        raise CannotParse("The answer is not a response.", param="object")
    items = parse_items(output, strict=False, param="output")
    calls = [item for item in items if isinstance(item, ToolCall)]
    names = sent_tools(conversation)
    for call in calls:
        call.name = names.get(call.name, call.name)
    stop, raw_stop = read_stop(fields, called=bool(calls))
    created = fields.get("created_at")
    return Answer(
        id=text_of(fields.get("id")),
        model=text_of(fields.get("model")),
        items=items,
        stop=stop,
        usage=read_usage(fields.get("usage"), output),
        created=int(created) if isinstance(created, int | float) and 0 <= created < 1e12 else 0,
        raw_stop=raw_stop,
        raw=fields,
        origin=NAME,
    )


def render_answer(answer: Answer, echo: Echo) -> dict[str, Any]:
    """The response object to give to a client."""
    items = answer.items
    if answer.refusal and not any(isinstance(item, Refusal) for item in items):
        items = [*items, Refusal("assistant", text=answer.refusal)]
    return {
        **render_response(echo),
        **render_stop(answer.stop, answer.raw_stop),
        "output": render_output(items, echo),
        "usage": None if answer.usage is None else render_usage(answer.usage),
    }
