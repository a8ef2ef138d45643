"""OpenAI's legacy completions: what a request asks for, and what an answer (whole or streamed) used. Pure.

Streams, usage and splices are those of Chat Completions; only the prompt and the place of the text differ. `best_of` answers are made and
billed, however few of them are shown, and with `echo` each answer begins with its prompt, which nobody wrote.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.body import Body
from proxy.formats import fields, openai_chat
from proxy.formats.base import Facts, InvalidRequest

NAME: Final = "completions"
MOST_PROMPTS = 128
MOST_CHOICES = 128
MOST_BEST_OF = 20

_TEXT = re.compile(rb'"(?:text|reasoning|reasoning_content)"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"([a-z_]{1,40})"')
_DONE = b"data: [DONE]\n\n"


def read_request(body: Body) -> Facts:
    """Read and check a request.

    Raises: InvalidRequest.
    """
    asked = body.fields
    model = fields.read_model(asked)
    prompts = fields.read_texts(asked, "prompt", most=MOST_PROMPTS)
    stream = fields.read_flag(asked, "stream")
    answers = max(fields.read_count(asked, "n", most=MOST_CHOICES) or 1, fields.read_count(asked, "best_of", most=MOST_BEST_OF) or 1)
    suffix = asked.get("suffix")
    after = len(suffix.encode()) if isinstance(suffix, str) else 0
    return Facts(
        model=model,
        stream=stream,
        wants_usage=stream and _wants_usage(asked),
        choices=prompts.count * answers,
        output_limit=_read_limit(asked),
        input_bound=prompts.bound + after * prompts.count,
        input_estimate=prompts.estimate + after * prompts.count // 4,
        user_tag=fields.read_user_tag(asked),
        prompts=prompts.count,
    )


def read_echoed_bytes(body: Body) -> int:
    """How much of the answers will be the prompts themselves, in bytes of text."""
    if not fields.read_flag(body.fields, "echo"):
        return 0
    shown = fields.read_count(body.fields, "n", most=MOST_CHOICES) or 1
    return shown * fields.read_texts(body.fields, "prompt", most=MOST_PROMPTS).size


def splice_request(body: Body, request: Facts, *, upstream_model: str, output_limit: int | None, streams_usage: bool) -> bytes:
    """The bytes to send upstream. `output_limit` (tokens) is set only when it had to be clamped."""
    edits: dict[str, bytes] = {}
    if body.fields.get("model") != upstream_model:
        edits["model"] = orjson.dumps(upstream_model)
    if request.stream and streams_usage and not request.wants_usage:
        edits["stream_options"] = orjson.dumps({**(body.fields.get("stream_options") or {}), "include_usage": True})
    if output_limit is not None:
        limit = str(output_limit).encode()
        edits["max_tokens"] = limit
        if body.fields.get("max_completion_tokens") is not None:  # no field of this endpoint, but a provider may take it
            edits["max_completion_tokens"] = limit
    return body.splice(edits) if edits else body.raw


class CompletionsWhole(openai_chat.ChatWhole):
    """A whole answer, passed through: only its `usage` is put in anew, with the cost."""

    __slots__ = ()

    def __init__(self, raw: bytes, *, echoed: int = 0) -> None:
        """Read the answer; `echoed` bytes of its text are the prompts'.

        Raises: NotAnAnswer.
        """
        super().__init__(raw)
        if self.usage is None or not self.usage.is_sane():
            choices = [choice for choice in self._body.fields["choices"] if isinstance(choice, dict)]
            said = sum(len(text.encode()) for choice in choices if isinstance(text := choice.get("text"), str))
            self.output_bytes = max(0, said - echoed)


class CompletionsTap(openai_chat.ChatTap):
    """Watches a stream of legacy chunks go by: as in chats, but for where the text stands."""

    __slots__ = ("_echoed",)

    def __init__(self, *, wants_usage: bool, echoed: int = 0) -> None:
        super().__init__(wants_usage=wants_usage)
        self._echoed = echoed

    def fail(self, error: Mapping[str, Any], *, ran_out: bool) -> bytes:
        """What to send last when the stream failed after it began: the error, never an invented clean end."""
        tail = b""
        if ran_out:
            last = {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}
            tail = b"data: " + orjson.dumps({**self._chunk(), "choices": [last]}) + b"\n\n"
        return tail + b"data: " + orjson.dumps(error) + b"\n\n" + _DONE

    def _watch(self, block: bytes) -> None:
        for text in _TEXT.findall(block):
            size = len(text)
            if self._echoed:
                repeated = min(size, self._echoed)
                self._echoed -= repeated
                size -= repeated
            self.output_bytes += size
        for reason in _FINISH.findall(block):
            self.finish_reason = reason.decode()

    def _chunk(self) -> dict[str, Any]:
        chunk = super()._chunk()
        ident = chunk["id"] if chunk["id"] != "chatcmpl-0" else "cmpl-0"
        return {**chunk, "id": ident, "object": "text_completion"}


def _read_limit(asked: Mapping[str, Any]) -> int | None:
    """The client's limit for one answer. A provider that is given a second limit may take the larger."""
    limit = fields.read_count(asked, "max_tokens", least=0, most=openai_chat.MOST_OUTPUT)
    other = fields.read_count(asked, "max_completion_tokens", least=0, most=openai_chat.MOST_OUTPUT)
    return limit if limit is None or other is None else max(limit, other)


def _wants_usage(asked: Mapping[str, Any]) -> bool:
    options = asked.get("stream_options")
    if options is None:
        return False
    wanted = options.get("include_usage", False) if isinstance(options, dict) else None
    if not isinstance(wanted, bool):
        raise InvalidRequest("The field 'stream_options.include_usage' must be true or false.", param="stream_options")
    return wanted
