"""Owns what a received request asks for, read from its path and body alike for every shape."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

SHAPES_BY_ENDING = (
    ("/chat/completions", "chat"),
    ("/responses", "responses"),
    ("/messages", "messages"),
    ("/messages/count_tokens", "count_tokens"),
    ("/embeddings", "embeddings"),
    ("/images/generations", "images"),
    ("/models", "models"),
)
GEMINI_SHAPES = {
    "generateContent": "gemini",
    "streamGenerateContent": "gemini",
    "countTokens": "gemini_countTokens",
    "embedContent": "gemini_embedContent",
    "batchEmbedContents": "gemini_batchEmbedContents",
    "predict": "gemini_predict",
    "predictLongRunning": "gemini_predictLongRunning",
}
TEXT_FIELDS = ("text", "content", "parts", "output", "arguments")


@dataclass(frozen=True)
class Ask:
    """The parts of a request an answer depends on. `prompt_words` counts every word of every text in the conversation."""

    shape: str
    model: str = ""
    stream: bool = False
    sse: bool = True
    include_usage: bool = False
    max_tokens: int | None = None
    last_user_text: str = ""
    prompt_words: int = 0
    tool_names: tuple[str, ...] = ()
    choices: int = 1
    inputs: tuple[str, ...] = ()
    dimensions: int | None = None


def read(path: str, body: bytes) -> Ask:
    """Read a request; a body that is not a JSON object asks for nothing."""
    parts = urlsplit(path)
    place = unquote(parts.path)
    in_path = re.search(r"/models/(?P<model>.+):(?P<method>[A-Za-z]+)$", place)
    if in_path and in_path["method"] in GEMINI_SHAPES:
        shape, model, streams = GEMINI_SHAPES[in_path["method"]], in_path["model"], in_path["method"].startswith("stream")
    else:
        deployment = re.search(r"/(?:deployments|models)/(?P<model>.+?)(?:/chat/completions|/embeddings|/images/generations|$)", place)
        shape, model, streams = _shape(place), deployment["model"] if deployment else "", False
    asked = _object(body)
    generation = _dict(asked.get("generationConfig"))
    conversation = _conversation(asked)
    texts = [*_texts(asked.get("system")), *_texts(asked.get("instructions")), *_texts(asked.get("systemInstruction"))]
    texts += [text for _, text in conversation]
    inputs = tuple(_inputs(asked))
    return Ask(
        shape=shape,
        model=str(asked.get("model") or model),
        stream=asked.get("stream") is True or streams,
        sse=shape != "gemini" or parse_qs(parts.query).get("alt") == ["sse"],
        include_usage=_dict(asked.get("stream_options")).get("include_usage") is True,
        max_tokens=_limit(asked, generation),
        last_user_text=next((text for role, text in reversed(conversation) if role == "user"), ""),
        prompt_words=sum(len(text.split()) for text in (*texts, *inputs)),
        tool_names=tuple(_tool_names(asked.get("tools"))),
        choices=_whole(asked.get("n")) or _whole(generation.get("candidateCount")) or 1,
        inputs=inputs,
        dimensions=_whole(asked.get("dimensions")),
    )


def _shape(place: str) -> str:
    return next((shape for ending, shape in SHAPES_BY_ENDING if place.endswith(ending)), "other")


def _object(body: bytes) -> dict[str, Any]:
    try:
        return _dict(json.loads(body)) if body else {}
    except (ValueError, RecursionError):
        return {}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _limit(asked: dict[str, Any], generation: dict[str, Any]) -> int | None:
    named = (asked.get(key) for key in ("max_completion_tokens", "max_tokens", "max_output_tokens"))
    return next((limit for limit in (*map(_whole, named), _whole(generation.get("maxOutputTokens"))) if limit is not None), None)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for key in TEXT_FIELDS:
            yield from _texts(value.get(key))


def _conversation(asked: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (role, text) of every turn, oldest first; a bare prompt is a turn of the user."""
    turns: Any = next((asked[key] for key in ("messages", "input", "contents", "prompt") if asked.get(key) is not None), [])
    if isinstance(turns, str):
        return [("user", turns)]
    if not isinstance(turns, list):
        return []
    return [(str(_dict(turn).get("role") or "user"), " ".join(_texts(turn))) for turn in turns]


def _inputs(asked: dict[str, Any]) -> Iterator[str]:
    """Yield what an embeddings request wants embedded."""
    given = asked.get("input")
    if asked.get("messages") or asked.get("contents"):
        return
    if isinstance(given, list) and all(isinstance(item, str) for item in given):
        yield from given
    elif isinstance(given, list) and given and all(isinstance(item, int) for item in given):
        yield " ".join(map(str, given))
    elif "requests" in asked:
        yield from (" ".join(_texts(_dict(one).get("content"))) for one in asked["requests"])


def _tool_names(tools: Any) -> Iterator[str]:
    for tool in tools if isinstance(tools, list) else []:
        described = _dict(tool)
        for declared in described.get("functionDeclarations") or described.get("function_declarations") or []:
            yield str(_dict(declared).get("name"))
        name = _dict(described.get("function")).get("name") or described.get("name")
        if name:
            yield str(name)
