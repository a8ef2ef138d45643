"""Videos: Gemini's `predictLongRunning`, the operation that it answers, and the files that come of it.

A request is accepted at once and takes minutes. It is charged when the provider accepts it, by the second of video that was ordered; when a
poll finds that the operation failed or that videos were filtered, what they cost is paid back before the client is told
(docs/guarantees.md). The same provider and key are asked again, under names of our own (`proxy.operations`).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson
import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection

from billing import undelivered
from catalog import money
from catalog.snapshot import ProviderEntry, RouteEntry
from catalog.usage import TokenUsage
from gateway_site.clients import DatabaseUnavailable
from keys.authentication import KeyGrant
from proxy import admission, failures, operations, relay
from proxy.body import Body, parse_body
from proxy.errors import OperationNotFound
from proxy.formats import fields
from proxy.formats.base import Facts, InvalidRequest, NotAnAnswer
from proxy.gemini_methods import Method, MethodWhole, load
from proxy.operations import File, Operation
from proxy.passages import LARGEST_DATA, Passage
from proxy.providers.base import clean, method_path
from proxy.providers.registry import DECLARATIONS
from proxy.relay import Call, WholeAnswer
from proxy.routing import Candidate
from proxy.streams import OpenStream
from proxy.upstream import Answer

if TYPE_CHECKING:
    from proxy.engine import Engine

log = structlog.get_logger(__name__)

METHOD = "predictLongRunning"
USUAL_SECONDS = 8  # how long Veo's videos are when it is not told
MOST_SECONDS = 60
MOST_VIDEOS = 4
FREE = ("x-gateway-cost-usd", money.usd(0))
# As Google's JSON would read them too: what is priced must be what runs. And buckets are the operator's, not the client's.
_OTHER_SPELLINGS = ("sample_count", "duration_seconds", "storage_uri", "storageUri")
_REFERENCES = frozenset({"gcsUri", "gcs_uri", "uri", "fileUri", "file_uri"})


class MakeVideos(Method):
    """`predictLongRunning`: billed by the second of video. What is filtered, and what fails, is free."""

    model_kind = "video"

    def __init__(self, model: str) -> None:
        super().__init__(METHOD, model)
        self.accepted: tuple[Candidate, str] | None = None  # by whom, and under which name
        self.videos = self.seconds = 0

    def read(self, body: Body) -> Facts:
        """Raises: InvalidRequest."""
        instances = body.fields.get("instances")
        if not isinstance(instances, list) or not instances or not all(isinstance(instance, dict) for instance in instances):
            raise InvalidRequest("The field 'instances' must be a list of at least one object.", param="instances")
        if len(instances) > MOST_VIDEOS:
            raise InvalidRequest(f"The field 'instances' must have at most {MOST_VIDEOS} objects.", param="instances")
        if _refers(instances):
            raise InvalidRequest("Images and videos must be sent as data ('bytesBase64Encoded'), not by reference.", param="instances")
        parameters = body.fields.get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            raise InvalidRequest("The field 'parameters' must be an object.", param="parameters")
        parameters = parameters or {}
        for name in _OTHER_SPELLINGS:
            if name in parameters:
                raise InvalidRequest(f"The parameter {name!r} is not taken here.", param=name)
        self.seconds = fields.read_count(parameters, "durationSeconds", most=MOST_SECONDS) or USUAL_SECONDS
        self.videos = (fields.read_count(parameters, "sampleCount", most=MOST_VIDEOS) or 1) * len(instances)
        return self._facts(pictures=self.videos * self.seconds)

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """The body as it is read."""
        del output_limit
        ordered = facts.images

        def read_accepted(raw: bytes) -> MethodWhole:
            name = load(raw).get("name")
            if not operations.is_operation_name(name):
                raise NotAnAnswer("no operation")
            self.accepted = candidate, str(name)
            return MethodWhole(raw, TokenUsage(images=ordered), "stop")

        return replace(self._passage(body, candidate, read_accepted), booked_first=True)


async def start(engine: "Engine", call: Call, model: str, place: str = "") -> WholeAnswer:
    """Serve `POST …/models/{model}:predictLongRunning`: the operation, under a name of this account's.

    `place` is what stands before `models/` in the names of Vertex AI, whose clients read operations in another shape; empty for Gemini's.

    Raises: what `relay.relay` raises.
    """
    surface = MakeVideos(model)
    call.surface = surface
    answer = await relay.relay(engine, call)
    if not isinstance(answer, WholeAnswer) or surface.accepted is None or call.grant is None:
        raise RuntimeError("an operation is never streamed")
    candidate, name = surface.accepted
    operation = Operation(
        request_id=str(call.request_id),
        model=model,
        provider=candidate.route.provider.slug,
        key=candidate.key.id if candidate.key else None,
        upstream_model=candidate.route.upstream_model,
        name=name,
        videos=surface.videos,
        seconds=surface.seconds,
    )
    own_name = engine.names.name_operation(operation, account_id=call.grant.account_id)
    return WholeAnswer(orjson.dumps({"name": f"{place}models/{model}/operations/{own_name}"}), answer.headers)


def _read_name(call: Call) -> str:
    """The operation that a `fetchPredictOperation` asks for, without what stands before it. Raises: InvalidRequest."""
    name = parse_body(call.raw).fields.get("operationName")
    if not isinstance(name, str) or "/operations/" not in name:
        raise InvalidRequest("The field 'operationName' must be the name of an operation.", param="operationName")
    return name.rpartition("/")[2]


async def poll(engine: "Engine", call: Call, name: str | None, place: str = "") -> WholeAnswer:
    """Serve `GET …/operations/{name}`, and Vertex AI's way to ask: how the operation stands. Free, and counted by the rate limits.

    Without a `name`, it is in the body.

    Raises: OperationNotFound, InvalidRequest; what `relay.authenticate`, `admission.check_key` and `admission.limited` raise;
    UpstreamFailure, RequestRefused; DatabaseUnavailable when what was not delivered could not be paid back.
    """
    grant = await _let_in(engine, call)
    name = _read_name(call) if name is None else name
    operation = engine.names.read_operation(name, account_id=grant.account_id)
    if operation is None:
        raise OperationNotFound
    terms = await engine.plans.terms_of(grant.account_id, clock=call.clock)
    async with admission.limited(engine, call.request_id, grant, terms, now=call.started_at) as reading:
        provider, candidate = _find_again(engine, operation.provider, operation.key, operation.upstream_model)
        found = await _ask(engine, candidate, operation)
        shown: dict[str, Any] = {"name": f"{place}models/{operation.model}/operations/{name}"}
        if found.get("done") is True:
            ending = _read_ending(found, operation.videos, lambda url: _own_address(engine, provider, operation.key, url, grant.account_id))
            if len(ending.videos) < operation.videos:
                await asyncio.to_thread(_pay_back, operation, grant.account_id, len(ending.videos) * operation.seconds)
            shown |= {"done": True, **(ending.as_vertex() if place else ending.as_gemini())}
    return WholeAnswer(orjson.dumps(shown), [*relay.reading_headers(reading), FREE])


async def download(engine: "Engine", call: Call, name: str) -> OpenStream:
    """Serve `GET …/files/{name}:download`: the file, as its provider sends it.

    Raises: OperationNotFound; what `relay.authenticate`, `admission.check_key` and `admission.limited` raise; UpstreamFailure,
    RequestRefused.
    """
    grant = await _let_in(engine, call)
    file = engine.names.read_file(name, account_id=grant.account_id)
    if file is None:
        raise OperationNotFound
    terms = await engine.plans.terms_of(grant.account_id, clock=call.clock)
    async with admission.limited(engine, call.request_id, grant, terms, now=call.started_at) as reading:
        _, candidate = _find_again(engine, file.provider, file.key, "")
        call.watch.begin()
        try:
            answer = await engine.upstream.fetch(candidate, url=file.url, patience=settings.FIRST_BYTE_TIMEOUT_SECONDS)
        except failures.RequestRefused as refusal:
            if refusal.status == 404:
                raise OperationNotFound from refusal
            raise
    headers = [*relay.reading_headers(reading), FREE, ("content-type", _safe_type(answer.headers.get("Content-Type", "")))]
    headers.append(("x-content-type-options", "nosniff"))
    if (length := answer.headers.get("Content-Length", "")).isdecimal():
        headers.append(("content-length", length))  # so that the client knows when it was cut
    stream = OpenStream(headers=headers, keep_alive=b"", deadline=time.monotonic() + settings.TOTAL_TIMEOUT_SECONDS)
    stream.hang_up = stream.abandon = answer.close
    stream.frames = _pieces(answer, stream)
    return stream


async def _let_in(engine: "Engine", call: Call) -> KeyGrant:
    grant = await relay.authenticate(engine, call)
    admission.check_key(call.endpoint, grant)
    return grant


async def _pieces(answer: Answer, stream: OpenStream) -> AsyncGenerator[bytes, None]:
    try:
        while True:
            stream.waiting()
            data = await answer.read_any()
            stream.arrived()
            if not data:
                return
            yield data
    except failures.UpstreamFailure as failure:
        log.info("download_cut", reason=str(stream.reason or failure))
        stream.abort()  # the length that was promised does not come: there is no other way to say it
        await asyncio.sleep(0)  # where the abort arrives
    finally:
        answer.close()


def _find_again(engine: "Engine", slug: str, key_id: str | None, upstream_model: str) -> tuple[ProviderEntry, Candidate]:
    """The provider and key that an operation or file belongs to; another key of the provider when that one is gone.

    Raises: OperationNotFound when the provider is gone, or has no key.
    """
    provider = engine.catalog.current.providers.get(slug)
    if provider is None:
        raise OperationNotFound
    key = next((key for key in provider.keys if key.id == key_id), provider.keys[0] if provider.keys else None)
    if key is None and DECLARATIONS[provider.kind].needs_key:
        raise OperationNotFound
    return provider, Candidate(RouteEntry(-provider.id, provider, upstream_model, 0, 1, ""), key, "gemini")


async def _ask(engine: "Engine", candidate: Candidate, operation: Operation) -> Mapping[str, Any]:
    """How the provider says the operation stands. Raises: OperationNotFound, UpstreamFailure, RequestRefused."""
    patience = settings.WHOLE_ANSWER_TIMEOUT_SECONDS
    try:
        if DECLARATIONS[candidate.route.provider.kind].fetches_operations:
            path, body = method_path(operation.upstream_model, "fetchPredictOperation"), orjson.dumps({"operationName": operation.name})
            answer = await engine.upstream.send(candidate, path=path, body=body, patience=patience)
        else:
            url = f"{candidate.route.provider.base_url}/{operation.name}"
            answer = await engine.upstream.fetch(candidate, url=url, patience=patience)
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
class _Video:
    """One video: where a client fetches it, or its data in base64."""

    url: str | None
    data: str | None
    mime_type: str


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a finished operation ended: its error in words of ours, or the videos that were paid for, and what was filtered."""

    error: dict[str, Any] | None
    videos: list[_Video]
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


def _read_ending(found: Mapping[str, Any], most: int, own_address: Callable[[str], str | None]) -> _Ending:
    """How the provider says it ended, whichever of the two it is. At most `most` videos count: so many were paid for."""
    error = found.get("error")
    if isinstance(error, dict):
        code, message = error.get("code"), error.get("message")
        shown = {"code": code if isinstance(code, int) else 13, "message": clean(message) if isinstance(message, str) else ""}
        return _Ending(shown, [], {})
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
    return _Ending(None, videos[:most], filtered)


def _read_video(video: Mapping[str, Any], own_address: Callable[[str], str | None]) -> _Video | None:
    kind = video.get("encoding", video.get("mimeType"))
    kind = kind if isinstance(kind, str) else "video/mp4"
    data = video.get("encodedVideo", video.get("bytesBase64Encoded"))
    if isinstance(data, str) and data:
        return _Video(None, data, kind)
    url = video.get("uri")
    own = own_address(url) if isinstance(url, str) else None
    return None if own is None else _Video(own, None, kind)


def _own_address(engine: "Engine", provider: ProviderEntry, key_id: str | None, url: str, account_id: int) -> str | None:
    """Where a client fetches a provider's file; None for one that is not at the provider, for our key goes nowhere else."""
    if not is_at(provider, url):
        return None
    name = engine.names.name_file(File(provider.slug, key_id, url), account_id=account_id)
    return f"{settings.PUBLIC_URL}/v1beta/files/{name}:download?alt=media"


def is_at(provider: ProviderEntry, url: str) -> bool:
    """Whether an address is at the provider itself: the same scheme, host and port."""
    try:
        there, base = urlsplit(url), urlsplit(provider.base_url)
        same = (there.scheme, there.hostname, there.port) == (base.scheme, base.hostname, base.port)
    except ValueError:  # a port that is none
        return False
    return same and not there.username and not there.fragment


def _pay_back(operation: Operation, account_id: int, delivered: int) -> None:
    try:
        undelivered.refund(request_id=operations.source_of(operation), account_id=account_id, delivered=delivered, now=datetime.now(UTC))
    except (OperationalError, InterfaceError, undelivered.NotBooked) as error:
        raise DatabaseUnavailable(str(error)) from error
    finally:
        connection.close()  # a thread of the pool: nothing else would close it


def _refers(value: Any) -> bool:
    """Whether media are given by reference anywhere: the provider would fetch them with the operator's rights."""
    if isinstance(value, dict):
        return any(name in _REFERENCES or _refers(inner) for name, inner in value.items())
    return isinstance(value, list) and any(map(_refers, value))


def _safe_type(content_type: str) -> str:
    """The type of a file, if it is a medium's: nothing that a browser would run."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind if kind.startswith(("video/", "image/", "audio/")) and kind != "image/svg+xml" else "application/octet-stream"


def _dicts(value: Any) -> list[Any]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
