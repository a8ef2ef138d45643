"""OpenAI's formats as clients meet them: chat, legacy completions, embeddings and images (Responses is in `proxy.surfaces`). What each
request asks, and how it passes through to a provider of the same format.
"""

from proxy.body import Body
from proxy.formats import completions, embeddings, images, openai_chat
from proxy.formats.base import Facts, FormatName
from proxy.passages import LARGEST_DATA, Passage, no_tap
from proxy.providers.base import path_of
from proxy.providers.registry import DECLARATIONS
from proxy.routing import Candidate


class ChatSurface:
    """OpenAI Chat Completions."""

    name: FormatName = "chat"
    keep_alive = b": keep-alive\n\n"
    bridges = True
    is_conversation = True
    model_kind = "text"

    def read(self, body: Body) -> Facts:
        """Raises: InvalidRequest."""
        return openai_chat.read_request(body)

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """The bytes with the declared splices."""
        declaration = DECLARATIONS[candidate.route.provider.kind]
        raw = openai_chat.splice_request(
            body,
            facts,
            upstream_model=candidate.route.upstream_model,
            output_limit=output_limit,
            limit_field=declaration.output_limit_field,
            streams_usage=declaration.streams_usage,
        )
        return Passage(
            path_of("chat", candidate.route.upstream_model, stream=facts.stream),
            raw,
            lambda: openai_chat.ChatTap(wants_usage=facts.wants_usage),
            openai_chat.ChatWhole,
        )


class CompletionsSurface:
    """OpenAI's legacy completions."""

    name: FormatName = "completions"
    keep_alive = b": keep-alive\n\n"
    bridges = False
    is_conversation = False
    model_kind = "text"

    def read(self, body: Body) -> Facts:
        """Raises: InvalidRequest."""
        return completions.read_request(body)

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """The bytes with the declared splices."""
        upstream_model = candidate.route.upstream_model
        streams_usage = DECLARATIONS[candidate.route.provider.kind].streams_usage
        echoed = completions.read_echoed_bytes(body)
        return Passage(
            _endpoint_path(self.name, candidate),
            completions.splice_request(body, facts, upstream_model=upstream_model, output_limit=output_limit, streams_usage=streams_usage),
            lambda: completions.CompletionsTap(wants_usage=facts.wants_usage, echoed=echoed),
            lambda raw: completions.CompletionsWhole(raw, echoed=echoed),
        )


class EmbeddingsSurface:
    """OpenAI embeddings. Never streams."""

    name: FormatName = "embeddings"
    keep_alive = b""
    bridges = False
    is_conversation = False
    model_kind = "embedding"

    def read(self, body: Body) -> Facts:
        """Raises: InvalidRequest."""
        return embeddings.read_request(body)

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """The bytes with the declared splices."""
        del facts, output_limit
        knows_base64 = DECLARATIONS[candidate.route.provider.kind].embeds_base64
        wants_base64 = embeddings.wants_base64(body)
        return Passage(
            _endpoint_path(self.name, candidate),
            embeddings.splice_request(body, upstream_model=candidate.route.upstream_model, knows_base64=knows_base64),
            no_tap,
            lambda raw: embeddings.EmbeddingsWhole(raw, wants_base64=wants_base64),
            largest=LARGEST_DATA,
        )


class ImagesSurface:
    """OpenAI image generation. Never streams."""

    name: FormatName = "images"
    keep_alive = b""
    bridges = False
    is_conversation = False
    model_kind = "image"

    def read(self, body: Body) -> Facts:
        """Raises: InvalidRequest."""
        return images.read_request(body)

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """The bytes with the declared splice."""
        del output_limit
        most = facts.images
        return Passage(
            _endpoint_path(self.name, candidate),
            images.splice_request(body, upstream_model=candidate.route.upstream_model),
            no_tap,
            lambda raw: images.ImagesWhole(raw, most=most),
            largest=LARGEST_DATA,
        )


def _endpoint_path(name: FormatName, candidate: Candidate) -> str:
    prefix = DECLARATIONS[candidate.route.provider.kind].endpoint_prefix
    return prefix + path_of(name, candidate.route.upstream_model, stream=False)
