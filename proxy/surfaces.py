"""Three more formats as clients meet them: Anthropic Messages, OpenAI Responses and Gemini's own. What each request asks, and how it passes
through to a provider of the same format.
"""

import re
from typing import Any

import orjson

from catalog.usage import TokenUsage
from proxy.body import Body
from proxy.formats import anthropic_messages, gemini, openai_responses, searches
from proxy.formats.base import BYTES_PER_TOKEN, Facts, FormatName, InvalidRequest
from proxy.formats.fields import read_count, read_flag, read_messages, read_model, read_user_tag
from proxy.formats.sizes import TOKENS_PER_MEDIUM, TOKENS_PER_MESSAGE, measure
from proxy.passages import FIRST_EVENT, Passage
from proxy.providers.base import path_of
from proxy.routing import Candidate

MOST_OUTPUT = 10_000_000
FORWARDED_TO_ANTHROPIC = (b"anthropic-version", b"anthropic-beta")


class MessagesSurface:
    """Anthropic Messages."""

    name: FormatName = "messages"
    keep_alive = anthropic_messages.StreamRenderer.keep_alive
    bridges = True
    is_conversation = True
    model_kind = "text"

    def read(self, body: Body) -> Facts:
        """Raises: InvalidRequest."""
        fields = body.fields
        messages = read_messages(fields)
        limit = read_count(fields, "max_tokens", most=MOST_OUTPUT)
        if limit is None:
            raise InvalidRequest("The field 'max_tokens' is required.", param="max_tokens")
        metadata = fields.get("metadata")  # what it is is for the provider to check
        return _facts(
            body,
            model=read_model(fields),
            stream=read_flag(fields, "stream"),
            output_limit=limit,
            parts=(messages, fields.get("system"), fields.get("tools")),
            messages=len(messages),
            user_tag=read_user_tag(metadata, "user_id") if isinstance(metadata, dict) else "",
            web_searches=searches.asked(fields.get("tools")),
        )

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """The bytes with the declared splices; the client's version and betas go along."""
        upstream_model = candidate.route.upstream_model
        edits = {"model": orjson.dumps(upstream_model)} if facts.model != upstream_model else {}
        if output_limit is not None:
            edits["max_tokens"] = str(output_limit).encode()
        headers = [(name.decode(), value.decode("latin-1")) for name, value in facts.client_headers if name in FORWARDED_TO_ANTHROPIC]
        if not any(name == "anthropic-version" for name, _ in headers):
            headers.append(("anthropic-version", anthropic_messages.OLD_VERSION))
        return Passage(
            path_of("messages", upstream_model, stream=facts.stream),
            body.splice(edits) if edits else body.raw,
            lambda: anthropic_messages.MessagesTap(adds_cost=True),
            lambda raw: anthropic_messages.read_answer(raw, adds_cost=True),
            headers=tuple(headers),
        )


class ResponsesSurface:
    """OpenAI Responses. State is the gateway's own, so what goes upstream is never stored there."""

    name: FormatName = "responses"
    keep_alive = openai_responses.KEEP_ALIVE
    bridges = True
    is_conversation = True
    model_kind = "text"

    def read(self, body: Body) -> Facts:
        """Raises: InvalidRequest."""
        fields = body.fields
        given = fields.get("input")
        if not isinstance(given, str | list) or (isinstance(given, list) and not all(isinstance(item, dict) for item in given)):
            raise InvalidRequest("The field 'input' must be text or a list of items.", param="input")
        return _facts(
            body,
            model=read_model(fields),
            stream=read_flag(fields, "stream"),
            output_limit=read_count(fields, "max_output_tokens", most=MOST_OUTPUT),
            parts=(given, fields.get("instructions"), fields.get("tools")),
            messages=len(given) if isinstance(given, list) else 1,
            user_tag=read_user_tag(fields),
            web_searches=searches.asked(fields.get("tools"), limit=fields.get("max_tool_calls")),
        )

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """The bytes with the declared splices: model, limit, `store` off, and reasoning asked for in a form that can be carried."""
        upstream_model = candidate.route.upstream_model
        edits = {"model": orjson.dumps(upstream_model)} if facts.model != upstream_model else {}
        if output_limit is not None:
            edits["max_output_tokens"] = str(output_limit).encode()
        if body.fields.get("store") is not False:
            edits["store"] = b"false"
            include = body.fields.get("include")
            wanted = [name for name in include if isinstance(name, str)] if isinstance(include, list) else []
            if "reasoning.encrypted_content" not in wanted:
                edits["include"] = orjson.dumps([*wanted, "reasoning.encrypted_content"])
        return Passage(
            path_of("responses", upstream_model, stream=facts.stream),
            body.splice(edits) if edits else body.raw,
            openai_responses.ResponsesTap,
            openai_responses.read_answer,
        )


class GeminiSurface:
    """Gemini's generateContent: one to one, model and streaming in the address."""

    name: FormatName = "gemini"
    keep_alive = b""
    bridges = False
    is_conversation = True
    model_kind = "text"
    array_begins = re.compile(rb"\S")

    def read(self, body: Body) -> Facts:
        """The address was put into the body's fields by the view. Raises: InvalidRequest."""
        fields = body.fields
        contents = fields.get("contents")
        if not isinstance(contents, list | dict | str):
            raise InvalidRequest("The field 'contents' is required.", param="contents")
        config = fields.get("generationConfig", fields.get("generation_config"))
        config = config if isinstance(config, dict) else {}
        limit = read_count(config, "maxOutputTokens", most=MOST_OUTPUT)
        if limit is None:
            limit = read_count(config, "max_output_tokens", most=MOST_OUTPUT)
        choices = read_count(config, "candidateCount", most=8) or 1
        facts = _facts(
            body,
            model="",
            stream=False,
            output_limit=limit,
            parts=(contents, fields.get("systemInstruction"), fields.get("tools")),
            messages=len(contents) if isinstance(contents, list) else 1,
            user_tag="",
            web_searches=searches.asked_of_gemini(fields.get("tools")),
        )
        facts.choices = choices
        return facts

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """The bytes as they are; a clamped limit is put into `generationConfig`, and a model that the body names too is the one that is paid."""
        upstream_model = candidate.route.upstream_model
        edits = {"model": orjson.dumps(upstream_model)} if "model" in body.fields else {}
        if output_limit is not None:
            name = "generation_config" if "generation_config" in body.fields else "generationConfig"
            config = body.fields.get(name)
            limit = {"max_output_tokens" if name == "generation_config" else "maxOutputTokens": output_limit}
            edits[name] = orjson.dumps({**(config if isinstance(config, dict) else {}), **limit})
        raw = body.splice(edits) if edits else body.raw
        path = path_of("gemini", upstream_model, stream=facts.stream)
        if facts.stream and not facts.wants_sse:
            path = path.removesuffix("?alt=sse")
        return Passage(path, raw, gemini.GeminiTap, _GeminiWhole, begins=FIRST_EVENT if facts.wants_sse else self.array_begins)


class _GeminiWhole:
    """A whole answer that passes through byte for byte."""

    __slots__ = ("_raw", "finish_reason", "output_bytes", "reported_cost", "usage", "web_searches")

    def __init__(self, raw: bytes) -> None:
        answer = gemini.read_answer(raw)
        self._raw = raw
        self.usage: TokenUsage | None = answer.usage
        self.reported_cost: int | None = None
        self.finish_reason = answer.finish_reason
        self.output_bytes = answer.output_bytes
        self.web_searches = answer.web_searches

    def render(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:
        """The bytes as received: the format has no place for a cost that its SDKs survive."""
        del estimate, cost, upstream_cost
        return self._raw


def _facts(
    body: Body,
    *,
    model: str,
    stream: bool,
    output_limit: int | None,
    parts: tuple[Any, ...],
    messages: int,
    user_tag: str,
    web_searches: int,
) -> Facts:
    text, media = measure(*parts)
    overhead = TOKENS_PER_MESSAGE * (messages + 1) + TOKENS_PER_MEDIUM * media
    return Facts(
        model=model,
        stream=stream,
        wants_usage=True,
        choices=1,
        output_limit=output_limit,
        input_bound=len(body.raw) + overhead,
        input_estimate=-(-text // BYTES_PER_TOKEN) + overhead,
        user_tag=user_tag,
        web_searches=web_searches,
    )
