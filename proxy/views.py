"""The HTTP edge of the data plane: takes a request apart for the relay and puts its answer together."""

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse

from proxy import engine, errors
from proxy.asgi import StreamedResponse
from proxy.relay import Call, WholeAnswer, relay


async def chat_completions(request: ASGIRequest) -> HttpResponse:
    """POST /v1/chat/completions."""
    running = engine.current()
    if running.streams.draining:
        raise errors.ServerRestarting
    answer = await relay(running, _call(request, "chat"))
    if isinstance(answer, WholeAnswer):
        response = HttpResponse(answer.raw, content_type="application/json")
        for name, value in answer.headers:
            response.headers[name] = value
        return response
    return StreamedResponse(answer)


def _call(request: ASGIRequest, endpoint: str) -> Call:
    scope = request.scope
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
    )
