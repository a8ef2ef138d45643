"""From drafts to an answer: stop sequences, limits and usage, then the shape of chat completions or of the legacy ones, whole or streamed."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from proxy.providers.demo import models, reading, refusals, script

CONTEXT_TOKENS: Final = 128_000  # these two are what the catalog says of the demo models
MAX_OUTPUT_TOKENS: Final = 4_096
CACHED_TOKENS: Final = 1_024
SLOW_GAP: Final = 1 / 40  # of the first pause, between the words that follow


@dataclass(frozen=True, slots=True)
class _Choice:
    """A draft after `stop` and the limit have done their work."""

    text: str | None
    reasoning: str
    calls: tuple[models.Call, ...]
    finish: str
    tokens: int
    reasoning_tokens: int
    first_seconds: float


def _finish(draft: models.Draft, ask: reading.Ask) -> _Choice:
    left = MAX_OUTPUT_TOKENS if ask.limit is None else ask.limit
    reasoning, reasoning_tokens, cut = _cut(draft.reasoning, left)
    tokens = reasoning_tokens
    text = draft.text
    if text is not None:
        text = text[: min((place for stop in ask.stop if (place := text.find(stop)) >= 0), default=len(text))]
        text, used, text_cut = _cut(text, left - tokens)
        tokens += used
        cut = cut or text_cut
    calls: list[models.Call] = []
    for call in draft.calls:
        used = script.count_tokens(call.name)
        if cut or (tokens + used > left and calls):
            cut = True
            break
        tokens = min(tokens + used, left)  # the first name is given whole: a call without a name is none
        arguments, used, cut = _cut(call.arguments, left - tokens)
        tokens += used
        calls.append(models.Call(call.id, call.name, arguments))
    finish = "length" if cut else "tool_calls" if calls else "stop"
    return _Choice(text, reasoning, tuple(calls), finish, tokens, reasoning_tokens, draft.first_seconds)


def _cut(text: str, limit: int) -> tuple[str, int, bool]:
    """Cut `text` to `limit` tokens between two characters: the text, its tokens, whether anything is gone."""
    data = script.utf8(text)
    if len(data) <= limit * 4:
        return text, -(-len(data) // 4), False
    kept = data[: limit * 4].decode("utf-8", "ignore")
    return kept, script.count_tokens(kept), True


def generate(model: str, body: Mapping[str, Any], endpoint: script.Endpoint, ident: str, created: int) -> script.DemoAnswer:
    """Answer with text, in the shape of chat completions or of the legacy completions."""
    prompts = [reading.read_messages(body)] if endpoint == "chat" else [(message,) for message in reading.read_prompts(body)]
    count = reading.number(body, "n", 1, reading.MAX_CHOICES, whole=True) or 1
    limits = [reading.number(body, name, 1, whole=True) for name in ("max_completion_tokens", "max_tokens")]
    limit = next((each for each in limits if each is not None), None)
    for name, low, high in (("temperature", 0, 2), ("top_p", 0, 1), ("presence_penalty", -2, 2), ("frequency_penalty", -2, 2)):
        reading.number(body, name, low, high)
    asks = [
        reading.Ask(
            messages=messages,
            body=body if endpoint == "chat" else {},  # tools, response formats and efforts belong to chats
            ident=ident,
            limit=None if limit is None else min(limit, MAX_OUTPUT_TOKENS),
            stop=reading.read_stops(body),
            seed=reading.number(body, "seed", -(2**63), 2**63 - 1, whole=True),
        )
        for messages in prompts
    ]
    stream, include_usage = reading.read_streaming(body)
    asked = [message.tokens for ask in asks for message in ask.messages]
    longest = max(sum(message.tokens for message in ask.messages) for ask in asks)
    if longest > CONTEXT_TOKENS:
        message = (
            f"This model's maximum context length is {CONTEXT_TOKENS} tokens. However, your messages resulted in {longest} tokens. "
            "Please reduce the length of the messages."
        )
        raise refusals.Refused(message, "messages" if endpoint == "chat" else "prompt", "context_length_exceeded")
    choices = [_finish(models.MODELS[model](ask, choice), ask) for ask in asks for choice in range(count)]
    usage = _usage(asked, choices, cached=body.get("prompt_cache_key") is not None)
    shape = _CHAT if endpoint == "chat" else _COMPLETIONS
    frame = {"id": f"{shape.prefix}{ident}", "created": created, "model": model, "system_fingerprint": "fp_demo"}
    breaks = model == "drop-midstream"
    if stream:
        pieces = _stream(shape, frame, choices, usage, include_usage=include_usage, breaks=breaks)
        return script.DemoAnswer(200, script.headers_of(ident, "text/event-stream; charset=utf-8"), pieces, breaks)
    whole = {
        "object": shape.whole_object,
        **frame,
        "choices": [shape.whole(index, choice) for index, choice in enumerate(choices)],
        "usage": usage,
    }
    finished = script.whole(200, whole, ident, after_seconds=sum(_pauses(shape, choices)))
    if breaks:  # content-length still promises all of it, as it would on a real wire
        halves = tuple(script.Piece(piece.after_seconds, piece.data[: len(piece.data) // 2]) for piece in finished.pieces)
        return script.DemoAnswer(200, finished.headers, halves, breaks)
    return finished


def _usage(asked: list[int], choices: list[_Choice], *, cached: bool) -> dict[str, Any]:
    prompt = sum(asked)
    completion = sum(choice.tokens for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": CACHED_TOKENS * sum(tokens > CACHED_TOKENS for tokens in asked) if cached else 0,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": sum(choice.reasoning_tokens for choice in choices),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+", text)


def _chat_whole(index: int, choice: _Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in choice.calls
        ]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish}


def _chat_deltas(index: int, choice: _Choice) -> Iterator[dict[str, Any]]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    yield chunk({"role": "assistant", "content": None if choice.text is None else "", "refusal": None})
    for word in _words(choice.reasoning):
        yield chunk({"reasoning_content": word})
    for word in _words(choice.text or ""):
        yield chunk({"content": word})
    for place, call in enumerate(choice.calls):
        opening = {"index": place, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        yield chunk({"tool_calls": [opening]})
        for start in range(0, len(call.arguments), 16):
            yield chunk({"tool_calls": [{"index": place, "function": {"arguments": call.arguments[start : start + 16]}}]})
    yield chunk({}, choice.finish)


def _completion(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}


def _completion_whole(index: int, choice: _Choice) -> dict[str, Any]:
    return _completion(index, choice.text or "", choice.finish)


def _completion_deltas(index: int, choice: _Choice) -> Iterator[dict[str, Any]]:
    for word in _words(choice.text or ""):
        yield _completion(index, word, None)
    yield _completion(index, "", choice.finish)


@dataclass(frozen=True, slots=True)
class _Shape:
    prefix: str
    whole_object: str
    chunk_object: str
    whole: Callable[[int, _Choice], dict[str, Any]]
    deltas: Callable[[int, _Choice], Iterator[dict[str, Any]]]


_CHAT: Final = _Shape("chatcmpl-demo", "chat.completion", "chat.completion.chunk", _chat_whole, _chat_deltas)
_COMPLETIONS: Final = _Shape("cmpl-demo", "text_completion", "text_completion", _completion_whole, _completion_deltas)


def _rounds(shape: _Shape, choices: list[_Choice]) -> Iterator[list[dict[str, Any]]]:
    """Give the chunks of all choices as they would come: one of each choice in turn."""
    for chunks in itertools.zip_longest(*(shape.deltas(index, choice) for index, choice in enumerate(choices))):
        yield [chunk for chunk in chunks if chunk is not None]


def _pauses(shape: _Shape, choices: list[_Choice]) -> Iterator[float]:
    """Give the pause before each round, in seconds: without streaming, the answer takes as long as the stream would."""
    first = max(choice.first_seconds for choice in choices)
    if first:
        yield first
        yield from (first * SLOW_GAP for _ in itertools.islice(_rounds(shape, choices), 1, None))


_CHUNKS_BEFORE_BREAK: Final = 4


def _stream(
    shape: _Shape,
    frame: dict[str, Any],
    choices: list[_Choice],
    usage: dict[str, Any],
    *,
    include_usage: bool,
    breaks: bool,
) -> Iterator[script.Piece]:
    base = {"object": shape.chunk_object, **frame}
    unused = {"usage": None} if include_usage else {}  # as OpenAI does: every chunk then has the field, one of them the value
    pauses = _pauses(shape, choices)
    sent = 0
    for chunks in _rounds(shape, choices):
        pause = next(pauses, 0.0)
        for chunk in chunks:
            if breaks and (sent == _CHUNKS_BEFORE_BREAK or chunk["finish_reason"]):
                return
            sent += 1
            yield script.Piece(pause, script.event({**base, "choices": [chunk], **unused}))
            pause = 0.0
    if include_usage:
        yield script.Piece(0.0, script.event({**base, "choices": [], "usage": usage}))
    yield script.Piece(0.0, b"data: [DONE]\n\n")
