"""Videos: Gemini's `predictLongRunning`, the operation that it answers, and the files that come of it.

A request is accepted at once and takes minutes. It is charged when the provider accepts it, by the second of video that was ordered; when a
poll finds that the operation failed or that videos were filtered, what they cost is paid back before the client is told, and when nobody
polls, by the gateway's own look (`proxy.open_operations`, docs/guarantees.md). The same provider and key are asked again, under names of our
own (`proxy.operations`).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection

from billing import undelivered
from catalog import money
from catalog.snapshot import ProviderEntry
from catalog.usage import TokenUsage
from gateway_site.clients import DatabaseUnavailable
from keys.authentication import KeyGrant
from proxy import admission, endings, failures, operations, relay
from proxy.body import Body, parse_body
from proxy.errors import OperationNotFound
from proxy.formats import fields
from proxy.formats.base import Facts, InvalidRequest, NotAnAnswer
from proxy.gemini_methods import Method, MethodWhole, load
from proxy.operations import File, Operation
from proxy.passages import Passage
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
        self.own_name = ""  # what the client comes back with
        self.write_down: Callable[[], Awaitable[None]] | None = None

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

        return replace(self._passage(body, candidate, read_accepted), booked_first=True, write_down=self.write_down)


async def start(engine: "Engine", call: Call, model: str, place: str = "") -> WholeAnswer:
    """Serve `POST …/models/{model}:predictLongRunning`: the operation, under a name of this account's.

    `place` is what stands before `models/` in the names of Vertex AI, whose clients read operations in another shape; empty for Gemini's.

    Raises: what `relay.relay` raises.
    """
    surface = MakeVideos(model)
    surface.write_down = partial(_write_down, engine, call, surface, model)
    call.surface = surface
    answer = await relay.relay(engine, call)
    if not isinstance(answer, WholeAnswer) or not surface.own_name:
        raise RuntimeError("an operation is never streamed")
    return WholeAnswer(orjson.dumps({"name": f"{place}models/{model}/operations/{surface.own_name}"}), answer.headers)


async def _write_down(engine: "Engine", call: Call, surface: MakeVideos, model: str) -> None:
    """Name an operation that was accepted, and write down that it is open: before it is charged, so that none is paid for and forgotten."""
    if surface.accepted is None or call.grant is None:
        raise RuntimeError("nothing was accepted")
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
    surface.own_name = engine.names.name_operation(operation, account_id=call.grant.account_id)
    await engine.open_operations.note(call.request_id, surface.own_name, account_id=call.grant.account_id, now=datetime.now(UTC))


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
        providers = engine.catalog.current.providers
        provider, candidate = endings.find_again(providers, operation.provider, operation.key, operation.upstream_model)
        found = await endings.ask(engine.upstream, candidate, operation, patience=settings.WHOLE_ANSWER_TIMEOUT_SECONDS)
        shown: dict[str, Any] = {"name": f"{place}models/{operation.model}/operations/{name}"}
        if found.get("done") is True:
            own_address = partial(_own_address, engine, provider, operation.key, account_id=grant.account_id)
            ending = endings.read_ending(found, operation.videos, own_address)
            if len(ending.videos) < operation.videos:
                await asyncio.to_thread(_pay_back, operation, grant.account_id, len(ending.videos))
            await engine.open_operations.forget(operations.source_of(operation))
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
        _, candidate = endings.find_again(engine.catalog.current.providers, file.provider, file.key, "")
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


def _own_address(engine: "Engine", provider: ProviderEntry, key_id: str | None, url: str, *, account_id: int) -> str | None:
    """Where a client fetches a provider's file; None for one that is not at the provider, for our key goes nowhere else."""
    if not endings.is_at(provider, url):
        return None
    name = engine.names.name_file(File(provider.slug, key_id, url), account_id=account_id)
    return f"{settings.PUBLIC_URL}/v1beta/files/{name}:download?alt=media"


def _pay_back(operation: Operation, account_id: int, delivered: int) -> None:
    try:
        endings.pay_back(operation, account_id=account_id, delivered=delivered, now=datetime.now(UTC))
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
