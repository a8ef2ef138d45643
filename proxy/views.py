"""The HTTP edge of the data plane: takes a request apart for the relay and puts its answer together."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, QueryDict

from proxy import counting, engine, errors, estimates, gemini_methods, idempotency, videos
from proxy.asgi import StreamedResponse
from proxy.body import parse_body
from proxy.idempotency import Kept
from proxy.relay import Call, WholeAnswer, authenticate, relay
from proxy.response_store import ResponseNotStored
from proxy.streams import OpenStream
from proxy.translation import SURFACES


async def chat_completions(request: ASGIRequest) -> HttpResponse:
    """POST /v1/chat/completions."""
    return await _serve(request, "chat")


async def chat_with_default(request: ASGIRequest) -> HttpResponse:
    """POST /api/v1/chat, also as /api/v1/chat/completions: a request that names no model is for the catalog's default."""
    return await _serve(request, "chat", model_is_optional=True)


async def completions(request: ASGIRequest) -> HttpResponse:
    """POST /v1/completions."""
    return await _serve(request, "completions")


async def embeddings(request: ASGIRequest) -> HttpResponse:
    """POST /v1/embeddings."""
    return await _serve(request, "embeddings")


async def images(request: ASGIRequest) -> HttpResponse:
    """POST /v1/images/generations."""
    return await _serve(request, "images")


async def messages(request: ASGIRequest) -> HttpResponse:
    """POST /v1/messages."""
    return await _serve(request, "messages")


async def count_message_tokens(request: ASGIRequest) -> HttpResponse:
    """POST /v1/messages/count_tokens: free of charge."""
    return _whole(await counting.count_message(engine.current(), _call(request, "messages", model_is_optional=False)))


async def estimate(request: ASGIRequest) -> HttpResponse:
    """POST /v1/estimate: what a request would cost; `?endpoint=` says whose it is, chat without. Free of charge."""
    endpoint = QueryDict(request.scope["query_string"]).get("endpoint") or "chat"
    return _whole(await estimates.estimate(engine.current(), _call(request, endpoint, model_is_optional=True)))


async def responses(request: ASGIRequest) -> HttpResponse:
    """POST /v1/responses."""
    return await _serve(request, "responses")


async def gemini_method(request: ASGIRequest, **_address: str) -> HttpResponse:
    """POST /v1beta/models/{model}:{method} (also under /v1/models, and under /v1beta1/publishers/google/models, as at Vertex AI)."""
    model, method = split_address(request.scope["path"])
    place = "publishers/google/" if "/publishers/google/models/" in request.scope["path"] else ""
    call = _call(request, "gemini", model_is_optional=False)
    if method == "countTokens":
        return _whole(await counting.count_gemini(engine.current(), call, model))
    if method == videos.METHOD:
        _refuse_when_draining()
        return _shown(await _once(request, call, lambda: videos.start(engine.current(), call, model, place)), call)
    if method == "fetchPredictOperation":
        return _whole(await videos.poll(engine.current(), call, None, place))
    if method in gemini_methods.BILLED:
        call.surface = gemini_methods.BILLED[method](model)
        return await _answer(request, call)
    if method not in ("generateContent", "streamGenerateContent"):
        raise errors.NoSuchRoute
    streams = method == "streamGenerateContent"
    facts = SURFACES["gemini"].read(parse_body(call.raw))
    call.facts = replace(facts, model=model, stream=streams, wants_sse=not streams or b"alt=sse" in request.scope["query_string"])
    return await _answer(request, call)


async def gemini_operation(request: ASGIRequest, **_address: str) -> HttpResponse:
    """GET /v1beta/models/{model}/operations/{operation}, also /v1beta/operations/{operation} (and under /v1)."""
    call = _call(request, "gemini", model_is_optional=False)
    return _whole(await videos.poll(engine.current(), call, request.scope["path"].rpartition("/operations/")[2]))


async def gemini_file(request: ASGIRequest, **_address: str) -> HttpResponse:
    """GET /v1beta/files/{file}:download (and under /v1)."""
    _refuse_when_draining()
    name = request.scope["path"].rpartition("/files/")[2].removesuffix(":download")
    return StreamedResponse(await videos.download(engine.current(), _call(request, "gemini", model_is_optional=False), name))


def split_address(path: str) -> tuple[str, str]:
    """The model and the method in a Gemini address."""
    model, _, method = path.partition("/models/")[2].rpartition(":")
    return model, method


async def _serve(request: ASGIRequest, endpoint: str, *, model_is_optional: bool = False) -> HttpResponse:
    return await _answer(request, _call(request, endpoint, model_is_optional=model_is_optional))


async def _answer(request: ASGIRequest, call: Call) -> HttpResponse:
    _refuse_when_draining()
    return _shown(await _once(request, call, lambda: relay(engine.current(), call)), call)


async def _once(request: ASGIRequest, call: Call, serve: Callable[[], Awaitable[WholeAnswer | OpenStream]]) -> WholeAnswer | OpenStream:
    """Serve a request; of those with the same Idempotency-Key one, the others getting its answer.

    Raises: what `serve` and `idempotency.Idempotency.claim` raise; InvalidRequest.
    """
    key = idempotency.read_key(call.headers)
    if key is None:
        return await serve()
    running = engine.current()
    grant = await authenticate(running, call)
    address = f"{request.scope['path']}?{request.scope['query_string'].decode('latin-1')}"
    claim = await running.idempotency.claim(
        key,
        account_id=grant.account_id,
        fingerprint=idempotency.fingerprint(key_id=grant.id, address=address, body=call.raw),
        request_id=str(call.request_id),
        now=call.started_at,
    )
    if isinstance(claim, Kept):
        return WholeAnswer(claim.raw, claim.headers)
    try:
        answer = await serve()
    except asyncio.CancelledError:  # who hangs up before the first byte pays nothing
        running.spawn(claim.give_back())
        raise
    except Exception as error:
        await (claim.mark_used() if _may_be_charged(error) else claim.give_back())
        raise
    if isinstance(answer, WholeAnswer):
        await claim.keep(answer.raw, answer.headers, now=call.started_at)
        return answer
    try:
        await claim.mark_used()
    except BaseException:  # the client left: nobody else would end the stream
        answer.abandon()
        raise
    return answer


def _may_be_charged(error: Exception) -> bool:
    """Whether a request that ended so may have cost something."""
    return isinstance(error, ResponseNotStored) or errors.describe(error).status == errors.INTERNAL.status


def _shown(answer: WholeAnswer | OpenStream, call: Call) -> HttpResponse:
    if isinstance(answer, WholeAnswer):
        return _whole(answer)
    return StreamedResponse(answer, is_sse=call.facts is None or call.facts.wants_sse)


def _refuse_when_draining() -> None:
    if engine.current().streams.draining:
        raise errors.ServerRestarting


def _whole(answer: WholeAnswer) -> HttpResponse:
    response = HttpResponse(answer.raw, content_type="application/json")
    for name, value in answer.headers:
        response.headers[name] = value
    return response


def _call(request: ASGIRequest, endpoint: str, *, model_is_optional: bool) -> Call:
    scope = request.scope
    if "tollgate" not in scope:  # Django's own handler: it has the address in its table, but the method is another
        raise errors.NoSuchRoute
    request_id, clock, body, watch = scope["tollgate"]
    client = scope.get("client")
    return Call(
        request_id=request_id,
        headers=scope["headers"],
        client_address=client[0] if client else "",
        raw=body,
        endpoint=endpoint,
        clock=clock,
        watch=watch,
        model_is_optional=model_is_optional,
        shown=scope["tollgate.shown"],
    )
