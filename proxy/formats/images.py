"""OpenAI image generation: what a request asks for, and what an answer used. Pure.

Requests and answers pass through as bytes. The request's declared splice is the model name; the answer's is `usage`, where there is one: it
gains `cost`. Billed is each picture that was delivered, and the tokens where the provider tells them (the gpt-image models).
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from catalog.usage import TokenUsage
from proxy.body import Body
from proxy.formats import fields, openai_chat
from proxy.formats.base import BYTES_PER_TOKEN, Facts, InvalidRequest, NotAnAnswer

NAME: Final = "images"
MOST_IMAGES = 10
TOKENS_OF_FRAME = 32  # what a model puts around the prompt


def read_request(body: Body) -> Facts:
    """Read and check a request.

    Raises: InvalidRequest.
    """
    asked = body.fields
    model = fields.read_model(asked)
    prompt = asked.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise InvalidRequest("The field 'prompt' must be a text, and not be empty.", param="prompt")
    count = fields.read_count(asked, "n", most=MOST_IMAGES) or 1
    fields.refuse_stream(asked)
    return Facts(
        model=model,
        stream=False,
        wants_usage=False,
        choices=count,
        output_limit=None,
        input_bound=len(body.raw) + TOKENS_OF_FRAME,
        input_estimate=-(-len(prompt) // BYTES_PER_TOKEN),
        user_tag=fields.read_user_tag(asked),
        images=count,
    )


def splice_request(body: Body, *, upstream_model: str) -> bytes:
    """The bytes to send upstream."""
    if body.fields.get("model") == upstream_model:
        return body.raw
    return body.splice({"model": orjson.dumps(upstream_model)})


def read_tokens(usage: Mapping[str, Any] | None, *, images: int) -> TokenUsage:
    """What was used: so many pictures, and the tokens of the provider's `usage` (`input_tokens` and `output_tokens`, or as in chats).

    A provider that counts in money alone (xAI), or says what no request can hold, used pictures and nothing else.
    """
    if usage and ("input_tokens" in usage or "output_tokens" in usage):
        details = usage.get("input_tokens_details")
        usage = {
            "prompt_tokens": usage.get("input_tokens"),
            "completion_tokens": usage.get("output_tokens"),
            "total_tokens": usage.get("total_tokens"),
            "prompt_tokens_details": {"cached_tokens": details.get("cached_tokens") if isinstance(details, dict) else None},
        }
    read = openai_chat.read_usage(usage)
    if read is None:
        return TokenUsage(images=images)
    if not read.is_sane():
        return TokenUsage(images=images, doubts=("usage_tokens_unreadable",))
    return TokenUsage(
        input_tokens=read.input_tokens,
        cached_input_tokens=read.cached_input_tokens,
        output_tokens=read.output_tokens,
        reasoning_tokens=read.reasoning_tokens,
        images=images,
        doubts=read.doubts,
    )


class ImagesWhole:
    """An answer, passed through: a `usage` in it is put in anew, with the cost. At most as many pictures are billed as were asked for."""

    __slots__ = ("_body", "_usage", "finish_reason", "output_bytes", "reported_cost", "usage")
    web_searches = 0

    def __init__(self, raw: bytes, *, most: int) -> None:
        """Read the answer.

        Raises: NotAnAnswer: also when there is no picture in it, which is a failure and free.
        """
        try:
            answer = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise NotAnAnswer("not JSON") from error
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), list) or answer.get("error"):
            raise NotAnAnswer("no pictures")
        count = sum(1 for item in answer["data"] if isinstance(item, dict) and (item.get("b64_json") or item.get("url")))
        if not count:
            raise NotAnAnswer("no pictures")
        usage = answer.get("usage")
        self._body = Body(raw, answer)
        self._usage = usage if isinstance(usage, dict) else None
        self.usage: TokenUsage | None = read_tokens(self._usage, images=min(count, most))
        self.reported_cost = openai_chat.read_reported_cost(self._usage)
        self.finish_reason = "stop"
        self.output_bytes = 0

    def render(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:
        """The answer as received but for its usage; without one, the cost is in the headers alone."""
        del estimate
        if self._usage is None:
            return self._body.raw
        return self._body.splice({"usage": openai_chat.with_cost(self._usage, cost=cost, upstream_cost=upstream_cost)})
