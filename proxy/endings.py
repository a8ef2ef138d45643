"""How an operation stands at its provider, and how it ended: asked again under the key that began it, and read the same way for a client that
polls as for the gateway's own look (`proxy.open_operations`). What was not delivered is paid back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import orjson

from billing import undelivered
from billing.models import Transfer
from catalog.snapshot import ProviderEntry, RouteEntry
from proxy import failures, operations
from proxy.errors import OperationNotFound
from proxy.operations import Operation
from proxy.passages import LARGEST_DATA
from proxy.providers.base import clean, method_path
from proxy.providers.registry import DECLARATIONS
from proxy.routing import Candidate
from proxy.upstream import Upstream


def find_again(
    providers: Mapping[str, ProviderEntry], slug: str, key_id: str | None, upstream_model: str
) -> tuple[ProviderEntry, Candidate]:
    """The provider and key that an operation or file belongs to; another key of the provider when that one is gone.

    Raises: OperationNotFound when the provider is gone, or has no key.
    """
    provider = providers.get(slug)
    if provider is None:
        raise OperationNotFound
    key = next((key for key in provider.keys if key.id == key_id), provider.keys[0] if provider.keys else None)
    if key is None and DECLARATIONS[provider.kind].needs_key:
        raise OperationNotFound
    return provider, Candidate(RouteEntry(-provider.id, provider, upstream_model, 0, 1, ""), key, "gemini")


async def ask(upstream: Upstream, candidate: Candidate, operation: Operation, *, patience: float) -> Mapping[str, Any]:
    """How the provider says the operation stands; it may take `patience` seconds until its first byte.

    Raises: OperationNotFound when the provider does not know it; UpstreamFailure, RequestRefused.
    """
    try:
        if DECLARATIONS[candidate.route.provider.kind].fetches_operations:
            path, body = method_path(operation.upstream_model, "fetchPredictOperation"), orjson.dumps({"operationName": operation.name})
            answer = await upstream.send(candidate, path=path, body=body, patience=patience)
        else:
            url = f"{candidate.route.provider.base_url}/{operation.name}"
            answer = await upstream.fetch(candidate, url=url, patience=patience)
    except failures.RequestRefused as refusal:
        if refusal.status == 404:
            raise OperationNotFound from refusal
        raise
    try:
        found = orjson.loads(await answer.read_all(LARGEST_DATA))
    except orjson.JSONDecodeError as error:
        raise failures.BrokenAnswer("not JSON") from error
    finally:
        answer.close()
    if not isinstance(found, dict) or found.get("name") != operation.name:
        raise failures.BrokenAnswer("not the operation that was asked for")
    return found


@dataclass(frozen=True, slots=True)
class Video:
    """One video: where a client fetches it, or its data in base64."""

    url: str | None
    data: str | None
    mime_type: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How a finished operation ended: its error in words of ours, or the videos that were paid for, and what was filtered."""

    error: dict[str, Any] | None
    videos: list[Video]
    filtered: dict[str, Any]

    def as_gemini(self) -> dict[str, Any]:
        """As Gemini's API says it."""
        if self.error is not None:
            return {"error": self.error}
        samples = [
            {"video": {"encoding": video.mime_type, **({"uri": video.url} if video.url else {"encodedVideo": video.data})}}
            for video in self.videos
        ]
        kind = "type.googleapis.com/google.ai.generativelanguage.v1beta.PredictLongRunningResponse"
        made = {**self.filtered, **({"generatedSamples": samples} if samples else {})}
        return {"response": {"@type": kind, "generateVideoResponse": made}}

    def as_vertex(self) -> dict[str, Any]:
        """As Vertex AI says it."""
        if self.error is not None:
            return {"error": self.error}
        videos = [
            {"mimeType": video.mime_type, **({"gcsUri": video.url} if video.url else {"bytesBase64Encoded": video.data})}
            for video in self.videos
        ]
        kind = "type.googleapis.com/cloud.ai.large_models.vision.GenerateVideoResponse"
        return {"response": {"@type": kind, **self.filtered, **({"videos": videos} if videos else {})}}


def read_ending(found: Mapping[str, Any], most: int, own_address: Callable[[str], str | None]) -> Ending:
    """How the provider says it ended, whichever of the two it is. At most `most` videos count: so many were paid for."""
    error = found.get("error")
    if isinstance(error, dict):
        code, message = error.get("code"), error.get("message")
        shown = {"code": code if isinstance(code, int) else 13, "message": clean(message) if isinstance(message, str) else ""}
        return Ending(shown, [], {})
    response = found.get("response")
    response = response if isinstance(response, dict) else {}
    made = response.get("generateVideoResponse")
    made = made if isinstance(made, dict) else response
    given = [sample.get("video") for sample in _dicts(made.get("generatedSamples"))] or _dicts(made.get("videos"))
    videos = [video for each in given if isinstance(each, dict) and (video := _read_video(each, own_address)) is not None]
    filtered: dict[str, Any] = {}
    if isinstance(count := made.get("raiMediaFilteredCount"), int):
        filtered["raiMediaFilteredCount"] = count
    if isinstance(reasons := made.get("raiMediaFilteredReasons"), list):
        filtered["raiMediaFilteredReasons"] = [clean(reason) for reason in reasons if isinstance(reason, str)]
    return Ending(None, videos[:most], filtered)


def pay_back(operation: Operation, *, account_id: int, delivered: int, now: datetime) -> Transfer | None:
    """Give back what was charged beyond `delivered` videos, once for each operation however often; None when nothing is to be given back.

    Raises: NotBooked; django.db.Error.
    """
    if delivered >= operation.videos:
        return None
    return undelivered.refund(
        request_id=operations.source_of(operation), account_id=account_id, delivered=delivered * operation.seconds, now=now
    )


def _read_video(video: Mapping[str, Any], own_address: Callable[[str], str | None]) -> Video | None:
    kind = video.get("encoding", video.get("mimeType"))
    kind = kind if isinstance(kind, str) else "video/mp4"
    data = video.get("encodedVideo", video.get("bytesBase64Encoded"))
    if isinstance(data, str) and data:
        return Video(None, data, kind)
    url = video.get("uri")
    own = own_address(url) if isinstance(url, str) else None
    return None if own is None else Video(own, None, kind)


def is_at(provider: ProviderEntry, url: str) -> bool:
    """Whether an address is at the provider itself: the same scheme, host and port."""
    try:
        there, base = urlsplit(url), urlsplit(provider.base_url)
        same = (there.scheme, there.hostname, there.port) == (base.scheme, base.hostname, base.port)
    except ValueError:  # a port that is none
        return False
    return same and not there.username and not there.fragment


def _dicts(value: Any) -> list[Any]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
