"""OpenAI embeddings: what a request asks for, and what an answer used. Pure.

Requests and answers pass through as bytes. The request's declared splices are the model name and, for a provider that has no base64, the
encoding; the answer's are `usage` (which gains `cost`) and, where the client asked for base64 and the provider sent numbers, the vectors.
"""

import array
import base64
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from catalog.usage import TokenUsage
from proxy.body import Body
from proxy.formats import fields, openai_chat
from proxy.formats.base import Facts, NotAnAnswer

NAME: Final = "embeddings"
MOST_INPUTS = 2048
MOST_DIMENSIONS = 65_536
ENCODINGS = ("float", "base64")


def read_request(body: Body) -> Facts:
    """Read and check a request.

    Raises: InvalidRequest.
    """
    asked = body.fields
    model = fields.read_model(asked)
    inputs = fields.read_texts(asked, "input", most=MOST_INPUTS)
    fields.read_count(asked, "dimensions", most=MOST_DIMENSIONS)
    fields.read_choice(asked, "encoding_format", ENCODINGS)
    fields.refuse_stream(asked)
    return Facts(
        model=model,
        stream=False,
        wants_usage=False,
        choices=1,
        output_limit=0,
        input_bound=inputs.bound,
        input_estimate=inputs.estimate,
        user_tag=fields.read_user_tag(asked),
        prompts=inputs.count,
    )


def wants_base64(body: Body) -> bool:
    """Whether the client asked for vectors in base64 (OpenAI's SDKs do, unasked)."""
    return body.fields.get("encoding_format") == "base64"


def splice_request(body: Body, *, upstream_model: str, knows_base64: bool) -> bytes:
    """The bytes to send upstream; a provider that has no base64 is asked for numbers."""
    edits: dict[str, bytes] = {}
    if body.fields.get("model") != upstream_model:
        edits["model"] = orjson.dumps(upstream_model)
    if wants_base64(body) and not knows_base64:
        edits["encoding_format"] = b'"float"'
    return body.splice(edits) if edits else body.raw


def read_usage(usage: Mapping[str, Any] | None) -> TokenUsage | None:
    """The tokens that were read; None when the provider does not say, or says none at all (Google's endpoint)."""
    read = openai_chat.read_usage(usage)
    if read is None or (read.total_input_tokens == 0 and read.is_sane()):
        return None
    return TokenUsage(input_tokens=read.total_input_tokens, doubts=read.doubts)


def encode_vector(numbers: Iterable[float]) -> str:
    """A vector as OpenAI writes it in base64: little-endian single precision. Raises: TypeError."""
    vector = array.array("f", numbers)
    if sys.byteorder == "big":
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode()


class EmbeddingsWhole:
    """An answer, passed through: only its `usage` is put in anew, with the cost, and vectors are encoded where that was asked for."""

    __slots__ = ("_body", "_usage", "finish_reason", "output_bytes", "reported_cost", "usage")
    web_searches = 0

    def __init__(self, raw: bytes, *, wants_base64: bool) -> None:
        """Read the answer.

        Raises: NotAnAnswer.
        """
        try:
            answer = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise NotAnAnswer("not JSON") from error
        if not isinstance(answer, dict) or answer.get("error"):
            raise NotAnAnswer("no embeddings")
        data = answer.get("data")
        if not isinstance(data, list) or not data or not all(isinstance(item, dict) and item.get("embedding") for item in data):
            raise NotAnAnswer("no embeddings")
        if wants_base64 and _encode(data):
            raw = orjson.dumps(answer)
        usage = answer.get("usage")
        self._body = Body(raw, answer)
        self._usage: Mapping[str, Any] = usage if isinstance(usage, dict) else {}
        self.usage = read_usage(self._usage)
        self.reported_cost = openai_chat.read_reported_cost(self._usage)
        self.finish_reason = "stop"  # nothing is said, and yet it is an answer: its input is charged
        self.output_bytes = 0

    def render(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:
        """The answer as received but for its usage."""
        usage = self._usage
        if self.usage is None or not self.usage.is_sane():
            usage = {**usage, "prompt_tokens": estimate.total_input_tokens, "total_tokens": estimate.total_input_tokens}
        return self._body.splice({"usage": openai_chat.with_cost(usage, cost=cost, upstream_cost=upstream_cost)})


def _encode(data: list[dict[str, Any]]) -> bool:
    """Encode in place the vectors that came as numbers; whether there were any. Raises: NotAnAnswer."""
    lists = [item for item in data if isinstance(item["embedding"], list)]
    for item in lists:
        try:
            item["embedding"] = encode_vector(item["embedding"])
        except TypeError as error:
            raise NotAnAnswer("a vector that is not made of numbers") from error
    return bool(lists)
