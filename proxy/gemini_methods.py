"""Gemini's other methods as clients meet them: counting, embeddings and Imagen's pictures. The model and the method stand in the address.

They pass one to one to providers that speak Gemini's own format. A body is written anew from what was read of it, with the model's name there
in place of ours: nothing that is given twice can be priced one way and run another.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from catalog.usage import TokenUsage
from proxy.body import Body
from proxy.formats import embeddings, fields, gemini
from proxy.formats.base import Facts, FormatName, InvalidRequest, NotAnAnswer, Whole
from proxy.formats.sizes import TOKENS_PER_MEDIUM, measure
from proxy.passages import LARGEST_DATA, Passage, no_tap
from proxy.providers.base import method_path
from proxy.routing import Candidate

USUAL_PICTURES = 4  # how many Imagen draws when it is not told
MOST_PICTURES = 8
_WRAPPED_REQUESTS = ("generateContentRequest", "generate_content_request")


class Method:
    """What the methods have in common. One is made for each request, with the model of its address."""

    name: FormatName = "gemini"
    keep_alive = b""
    bridges = False
    is_conversation = False

    def __init__(self, method: str, model: str) -> None:
        self._method = method
        self._model = model

    def _facts(self, *, bound: int = 0, estimate: int = 0, prompts: int = 1, pictures: int = 0) -> Facts:
        return Facts(
            model=self._model,
            stream=False,
            wants_usage=False,
            choices=1,
            output_limit=0,
            input_bound=bound,
            input_estimate=estimate,
            prompts=prompts,
            images=pictures,
        )

    def _passage(self, body: Body, candidate: Candidate, read_whole: Callable[[bytes], Whole]) -> Passage:
        upstream_model = candidate.route.upstream_model
        return Passage(
            method_path(upstream_model, self._method),
            orjson.dumps(_renamed(body.fields, f"models/{upstream_model}")),
            no_tap,
            read_whole,
            largest=LARGEST_DATA,
        )


class CountTokens(Method):
    """`countTokens`, of what generateContent or the embedding methods would read. Free, so there is nothing to bound."""

    def __init__(self, model: str, *, model_kind: str) -> None:
        super().__init__("countTokens", model)
        self.model_kind = model_kind

    def read(self, body: Body) -> Facts:
        """What is counted is the provider's to check."""
        del body
        return self._facts()

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """The body, with the provider's name of the model."""
        del facts, output_limit
        return self._passage(body, candidate, _read_count)


class EmbedContents(Method):
    """`embedContent` and `batchEmbedContents`: billed by the tokens read, as the provider counts them or, where it does not, as we do."""

    model_kind = "embedding"

    def read(self, body: Body) -> Facts:
        """Raises: InvalidRequest."""
        asked = body.fields
        if self._method == "embedContent":
            requests: list[Any] = [asked]
        else:
            requests = asked["requests"] if isinstance(asked.get("requests"), list) else []
            if not requests or len(requests) > embeddings.MOST_INPUTS:
                raise InvalidRequest(f"The field 'requests' must be a list of 1 to {embeddings.MOST_INPUTS} objects.", param="requests")
        if not all(isinstance(request, dict) and isinstance(request.get("content"), dict) for request in requests):
            raise InvalidRequest("Each request must have a 'content' object.", param="content")
        media = measure(asked)[1]
        return self._facts(
            bound=len(body.raw) + TOKENS_PER_MEDIUM * media + fields.TOKENS_PER_TEXT * len(requests),
            estimate=gemini.read_method_usage(self._method, asked, {}).usage.input_tokens,
            prompts=len(requests),
        )

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """The body, with the provider's name of the model wherever it is named."""
        del facts, output_limit
        return self._passage(body, candidate, lambda raw: _read_vectors(raw, self._method, body.fields))


class Predict(Method):
    """`predict`, as Imagen has it: billed by the picture that was delivered. What was filtered, and what failed, is free."""

    model_kind = "image"

    def __init__(self, model: str) -> None:
        super().__init__("predict", model)

    def read(self, body: Body) -> Facts:
        """Raises: InvalidRequest."""
        instances = body.fields.get("instances")
        if not isinstance(instances, list) or not instances or not all(isinstance(instance, dict) for instance in instances):
            raise InvalidRequest("The field 'instances' must be a list of at least one object.", param="instances")
        parameters = body.fields.get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            raise InvalidRequest("The field 'parameters' must be an object.", param="parameters")
        each = fields.read_count(parameters or {}, "sampleCount", most=MOST_PICTURES) or USUAL_PICTURES
        return self._facts(pictures=each * len(instances))

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """The body as it is read."""
        del output_limit
        most = facts.images
        return self._passage(body, candidate, lambda raw: _read_pictures(raw, body.fields, most=most))


Billed = EmbedContents | Predict
BILLED: Mapping[str, Callable[[str], Billed]] = {
    "embedContent": lambda model: EmbedContents("embedContent", model),
    "batchEmbedContents": lambda model: EmbedContents("batchEmbedContents", model),
    "predict": Predict,
    "generate": Predict,  # another name for it that clients of image gateways use; Google has only `predict`
}


class MethodWhole:
    """An answer that passes through byte for byte: Google's have no place for a cost."""

    __slots__ = ("_raw", "finish_reason", "output_bytes", "reported_cost", "usage")
    web_searches = 0

    def __init__(self, raw: bytes, usage: TokenUsage | None, finish_reason: str) -> None:
        self._raw = raw
        self.usage = usage
        self.finish_reason = finish_reason
        self.output_bytes = 0
        self.reported_cost: int | None = None

    def render(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:
        """The bytes as received."""
        del estimate, cost, upstream_cost
        return self._raw


def _read_count(raw: bytes) -> MethodWhole:
    """Raises: NotAnAnswer."""
    if type(load(raw).get("totalTokens")) is not int:
        raise NotAnAnswer("no count")
    return MethodWhole(raw, TokenUsage(), "stop")


def _read_vectors(raw: bytes, method: str, asked: Mapping[str, Any]) -> MethodWhole:
    """Raises: NotAnAnswer."""
    answer = load(raw)
    vectors = answer.get("embeddings") if method == "batchEmbedContents" else [answer.get("embedding")]
    if not isinstance(vectors, list) or not vectors or not all(isinstance(vector, dict) and vector.get("values") for vector in vectors):
        raise NotAnAnswer("no embeddings")
    used = gemini.read_method_usage(method, asked, answer)
    return MethodWhole(raw, None if used.estimated else used.usage, "stop")


def _read_pictures(raw: bytes, asked: Mapping[str, Any], *, most: int) -> MethodWhole:
    """Pictures that were all filtered are an answer too, and free. Raises: NotAnAnswer."""
    pictures = min(gemini.read_method_usage("predict", asked, load(raw)).usage.images, most)
    return MethodWhole(raw, TokenUsage(images=pictures), "stop" if pictures else "")


def load(raw: bytes) -> dict[str, Any]:
    """A JSON object that tells of no error. Raises: NotAnAnswer."""
    try:
        answer = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise NotAnAnswer("not JSON") from error
    if not isinstance(answer, dict) or answer.get("error"):
        raise NotAnAnswer("not an answer")
    return answer


def _renamed(asked: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields of a request with the model's name put in wherever they name it."""
    renamed = {**asked, "model": name} if "model" in asked else dict(asked)
    for wrapped in _WRAPPED_REQUESTS:
        if isinstance(asked.get(wrapped), dict):
            renamed[wrapped] = {**asked[wrapped], "model": name}
    if isinstance(asked.get("requests"), list):
        renamed["requests"] = [{**request, "model": name} if isinstance(request, dict) else request for request in asked["requests"]]
    return renamed
