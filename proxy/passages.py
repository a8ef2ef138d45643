"""How a request passes to a provider and its answer back: as bytes where both speak the same format, through the hub otherwise. Pure."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from proxy.body import Body
from proxy.formats import completions, embeddings, images, openai_chat
from proxy.formats.base import Facts, FormatName, Tap, Whole
from proxy.providers.base import path_of
from proxy.providers.registry import DECLARATIONS
from proxy.routing import Candidate

# A stream has begun when its first event with data is there.
FIRST_EVENT = re.compile(rb"(?:^|[\r\n])data:.*?(?:\n\n|\r\n\r\n|\r\r)", re.DOTALL)
LARGEST_ANSWER = 32 * 1024 * 1024  # bytes, of an answer in one piece
LARGEST_DATA = 64 * 1024 * 1024  # ten large pictures, or 2,048 vectors of 3,072 numbers in base64


def _nothing() -> None:
    """Nothing is to be done afterwards."""


@dataclass(slots=True)
class Passage:
    """One request made ready for one candidate: the bytes to send, and how to read and show what comes back.

    `dropped` names fields that the provider's format cannot carry and that change nothing much.
    """

    path: str  # behind the provider's base address
    raw: bytes
    make_tap: Callable[[], Tap]
    read_whole: Callable[[bytes], Whole]
    begins: re.Pattern[bytes] = FIRST_EVENT
    headers: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()
    largest: int = LARGEST_ANSWER
    finished: Callable[[], None] = _nothing  # to be called when the answer went well


class Surface(Protocol):
    """A format as clients meet it."""

    name: FormatName
    keep_alive: bytes
    bridges: bool  # whether a provider of another format may answer
    model_kind: str

    def read(self, body: Body) -> Facts:
        """The facts of a request. Raises: InvalidRequest."""
        ...

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """Make the request ready for a provider of the same format; `output_limit` (tokens) is set only when it had to be clamped."""
        ...


class ChatSurface:
    """OpenAI Chat Completions."""

    name: FormatName = "chat"
    keep_alive = b": keep-alive\n\n"
    bridges = True
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
            _no_tap,
            lambda raw: embeddings.EmbeddingsWhole(raw, wants_base64=wants_base64),
            largest=LARGEST_DATA,
        )


class ImagesSurface:
    """OpenAI image generation. Never streams."""

    name: FormatName = "images"
    keep_alive = b""
    bridges = False
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
            _no_tap,
            lambda raw: images.ImagesWhole(raw, most=most),
            largest=LARGEST_DATA,
        )


def _endpoint_path(name: FormatName, candidate: Candidate) -> str:
    prefix = DECLARATIONS[candidate.route.provider.kind].endpoint_prefix
    return prefix + path_of(name, candidate.route.upstream_model, stream=False)


def _no_tap() -> Tap:
    """For what never streams: nothing is fed to it."""
    return openai_chat.ChatTap(wants_usage=False)


SURFACES: dict[str, Surface] = {
    surface.name: surface for surface in (ChatSurface(), CompletionsSurface(), EmbeddingsSurface(), ImagesSurface())
}


def plan(surface: Surface, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
    """Make a request ready for a candidate.

    Raises: CannotRender, when the candidate's format cannot carry what the request asks.
    """
    return surface.pass_through(body, facts, candidate, output_limit=output_limit)
