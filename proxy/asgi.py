"""The lean ASGI handler in front of Django: runs the data plane's views without middleware, request signals or body spooling.

The body guard comes first: a body larger than allowed is refused at its declared size, or as soon as it has grown too large. Stock Django
would spool all of it to disk before looking at the key.
"""

import asyncio
import io
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from django.http.response import HttpResponseBase

from gateway_site import metrics
from gateway_site.identifiers import uuid7
from proxy import engine, error_shapes, errors
from proxy.content import Content
from proxy.streams import OpenStream

log = structlog.get_logger(__name__)

BODY_SECONDS = 30.0
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


class View(Protocol):
    """A view of the data plane: an async Django view that may also answer with an open stream."""

    __name__: str

    async def __call__(self, request: ASGIRequest) -> "HttpResponseBase | StreamedResponse": ...


class StreamedResponse(HttpResponse):
    """The head of an answer whose body is an open stream; the handler pumps it."""

    def __init__(self, stream: OpenStream, *, is_sse: bool = True) -> None:
        super().__init__(content_type="text/event-stream; charset=utf-8" if is_sse else "application/json; charset=UTF-8")
        self.stream = stream
        self.headers["Cache-Control"] = "no-store"
        self.headers["X-Accel-Buffering"] = "no"
        for name, value in stream.headers:
            self.headers[name] = value


class ClientGone(Exception):
    """The client hung up before its request was complete."""


class Watch:
    """A request's client: cancels the request's task when it hangs up, from `begin` on. `send` is the way to it, which may be listened to."""

    __slots__ = ("_receive", "_request", "_watcher", "client_is_gone", "send")

    def __init__(self, receive: Receive, send: Send, request: "asyncio.Task[Any] | None") -> None:
        self.send = send
        self._receive = receive
        self._request = request
        self._watcher: asyncio.Task[None] | None = None
        self.client_is_gone = False

    def begin(self) -> None:
        """Watch from now on."""
        self._watcher = asyncio.create_task(self._wait())

    def record(self, content: Content) -> None:
        """Let `content` hear what is sent from now on, and know when the request has ended, however it does."""
        self.send = content.listen(self.send)
        if self._request is not None:
            self._request.add_done_callback(lambda _: content.end())

    def end(self) -> None:
        """Watch no longer."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.client_is_gone = True
        if self._request is not None:
            self._request.cancel()


class DataPlane:
    """The ASGI application: what `find_view` knows is served here, everything else by Django."""

    def __init__(self, find_view: Callable[[str, str], View | None], django: App) -> None:
        self._find_view = find_view
        self._django = django

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            view = self._find_view(scope["method"], scope["path"])
            if view is not None:
                await self._serve(view, scope, receive, send)
            else:
                await self._django(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._django(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            running = await engine.start()
        except Exception as error:
            log.exception("data_plane_not_started")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await running.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, view: View, scope: Scope, receive: Receive, send: Send) -> None:
        clock = time.monotonic()
        request_id = uuid7(time.time_ns() // 1_000_000)
        watch = Watch(receive, send, asyncio.current_task())
        shown: list[tuple[str, str]] = []  # headers that the answer has even if it is an error
        try:
            body = await _read_body(scope, receive)
            scope["tollgate.shown"] = shown
            scope["tollgate"] = (request_id, clock, body, watch)
            request = ASGIRequest(scope, io.BytesIO(b""))
            response = await view(request)
        except ClientGone:
            return
        except asyncio.CancelledError:
            if not watch.client_is_gone:
                raise  # not the client's doing: the server itself is being stopped
            return
        except Exception as error:
            problem = errors.describe(error)
            if problem.status == errors.INTERNAL.status:
                log.exception("internal_error", request_id=str(request_id), path=scope["path"])
            response = HttpResponse(
                error_shapes.render(problem, str(request_id), scope["path"]), status=problem.status, content_type="application/json"
            )
            for name, value in (*shown, *problem.headers):
                response.headers[name] = value
        try:
            await _send_response(response, request_id, watch.send)
        except asyncio.CancelledError:
            if not watch.client_is_gone:
                raise
        finally:
            watch.end()
            metrics.REQUESTS.add(1, view.__name__, response.status_code)
            metrics.SECONDS.add(time.monotonic() - clock, view.__name__)


async def _send_response(response: "HttpResponseBase | StreamedResponse", request_id: uuid.UUID, send: Send) -> None:
    ident = str(request_id).encode()
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.items()]
    headers += [(b"x-request-id", ident), (b"request-id", ident)]
    if not isinstance(response, StreamedResponse):
        content = response.content  # type: ignore[attr-defined] # the data plane's other answers are whole
        headers.append((b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": False})
        return
    stream = response.stream
    task = asyncio.current_task()
    if task is not None:
        stream.abort = lambda: _cancel(task)
    streams = engine.current().streams
    streams.add(stream)
    try:
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await stream.pump(send)
    finally:
        streams.discard(stream)
        # Closing runs the relay's own `finally`, which settles without awaiting anything.
        await stream.frames.aclose()
        stream.abandon()


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    """Read a bounded body.

    Raises: BodyTooLarge, BodyTooSlow, NotJson, ClientGone.
    """
    limit = settings.MAX_BODY_BYTES
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise errors.BodyTooLarge(limit)
        if name == b"content-type" and b"json" not in value.lower():
            raise errors.NotJson
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit:
            raise errors.BodyTooLarge(limit)
        return body
    pieces, size = [body], len(body)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while message.get("more_body", False):
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
                if size > limit:
                    raise errors.BodyTooLarge(limit)
    except TimeoutError as error:
        raise errors.BodyTooSlow from error
    return b"".join(pieces)


def _cancel(task: "asyncio.Task[Any]") -> None:
    task.cancel()
