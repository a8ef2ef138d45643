"""The only provider I/O: opens a call to one provider and hands its answer over, bounded in size and time.

aiohttp, not httpx (docs/decisions/0001): an eighth of the CPU, and a pool that survives clients who hang up. Identity encoding (a gzip bomb
is 200 MiB from 200 KiB), no redirects, no proxies from the environment, no cookies.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

import aiohttp
import orjson
from aiohttp.client_proto import ResponseHandler
from django.conf import settings
from yarl import URL

from catalog import service_accounts
from catalog.snapshot import ProviderEntry
from proxy import egress, failures
from proxy.google_sign_in import AccessTokens
from proxy.providers import demo
from proxy.providers.base import Headers, bearer, deployment_path, read_failure
from proxy.providers.registry import DECLARATIONS
from proxy.routing import Candidate

LARGEST_ERROR = 64 * 1024
READ_BUFFER = 256 * 1024
COMMON_HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Accept-Encoding": "identity"}
READING_HEADERS: Mapping[str, str] = {"Accept": "*/*", "Accept-Encoding": "identity"}
MOST_REDIRECTS = 3
TOKEN_SECONDS = 10.0  # how long a token server may take
DEMO_ENDPOINTS: dict[str, demo.Endpoint] = {
    "/chat/completions": "chat",
    "/completions": "completions",
    "/embeddings": "embeddings",
    "/images/generations": "images",
}


class Answer(Protocol):
    """An open answer with status 200."""

    headers: Mapping[str, str]

    async def read_any(self) -> bytes:
        """What has arrived, waiting for something; empty at the end. Raises: UpstreamFailure."""
        ...

    async def read_all(self, limit: int) -> bytes:
        """The whole body. Raises: UpstreamFailure."""
        ...

    def close(self) -> None:
        """Hang up (or give the connection back when the answer is complete)."""
        ...


class Upstream:
    """The connections of one process to all providers."""

    def __init__(self) -> None:
        self._guarded: aiohttp.ClientSession | None = None
        self._open: aiohttp.ClientSession | None = None
        self._tokens = AccessTokens()

    async def start(self) -> None:
        """Make the pools (they belong to the running loop)."""
        self._guarded = self._session(egress.GuardedResolver())
        self._open = self._session(None)

    async def close(self) -> None:
        """Close every connection."""
        for session in (self._guarded, self._open):
            if session is not None:
                await session.close()

    async def send(
        self, candidate: Candidate, *, path: str, body: bytes, headers: Sequence[tuple[str, str]] = (), patience: float
    ) -> Answer:
        """Send a request to one provider and return its answer, once its status says that there is one.

        `path` follows the provider's base address; `headers` come on top of those that every call has. `patience` is how many seconds the
        provider may take until its first byte.
        Raises: UpstreamFailure; RequestRefused.
        """
        provider = candidate.route.provider
        if provider.kind == "demo":
            return await _open_demo(candidate.route.upstream_model, path, body)
        declaration = DECLARATIONS[provider.kind]
        if provider.api_version and declaration.has_deployments:
            path = deployment_path(path, candidate.route.upstream_model, api_version=provider.api_version)
        sent = {**COMMON_HEADERS, **dict(headers)}
        sent.update(await self._sign_in(candidate))
        answer = await self._call("POST", provider.base_url + path, provider, body=body, headers=sent, patience=patience)
        return await self._checked(answer, candidate)

    async def fetch(self, candidate: Candidate, *, url: str, patience: float) -> Answer:
        """Get what a provider keeps at `url`, which is at the provider itself; it may send us on, but our key goes nowhere else.

        Raises: UpstreamFailure; RequestRefused.
        """
        provider = candidate.route.provider
        headers: Mapping[str, str] = {**READING_HEADERS, **dict(await self._sign_in(candidate))}
        for _ in range(MOST_REDIRECTS + 1):
            answer = await self._call("GET", url, provider, body=None, headers=headers, patience=patience)
            if answer.status not in (301, 302, 303, 307, 308):
                return await self._checked(answer, candidate)
            answer.close()
            onward = urljoin(url, answer.headers.get("Location", ""))
            if urlsplit(onward)[:2] != urlsplit(url)[:2]:
                headers = READING_HEADERS
            url = onward
        raise failures.BrokenAnswer("sent on too often")

    async def _sign_in(self, candidate: Candidate) -> Headers:
        """The headers that sign in to a provider. Raises: UpstreamFailure."""
        key, provider = candidate.key, candidate.route.provider
        if key is None:
            return ()
        declaration = DECLARATIONS[provider.kind]
        if not (declaration.takes_service_accounts and service_accounts.looks_like_one(key.secret)):
            return declaration.sign_for(candidate.format, key.secret)

        async def exchange(url: str, form: bytes) -> bytes:
            headers = {**READING_HEADERS, "Content-Type": "application/x-www-form-urlencoded"}
            answer = await self._call("POST", url, provider, body=form, headers=headers, patience=TOKEN_SECONDS)
            return await (await self._checked(answer)).read_all(LARGEST_ERROR)

        return bearer(await self._tokens.token_for(key.secret, exchange))

    async def _call(
        self, method: str, url: str, provider: ProviderEntry, *, body: bytes | None, headers: Mapping[str, str], patience: float
    ) -> "_HttpAnswer":
        """One HTTP request, until the head of its answer. Raises: UpstreamFailure."""
        try:
            egress.check_base_url(url.partition("?")[0], allow_private=provider.allow_private)
        except egress.AddressForbidden as error:
            raise failures.CannotConnect(str(error)) from error
        session = self._open if provider.allow_private else self._guarded
        if session is None:
            raise failures.CannotConnect("the pools are not open")
        try:
            async with asyncio.timeout(patience):
                return _HttpAnswer(await session.request(method, URL(url, encoded=True), data=body, headers=headers, allow_redirects=False))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectionResetError) as error:
            raise failures.CannotConnect(type(error).__name__) from error
        except TimeoutError as error:
            raise failures.TimedOut("no answer within the first-byte deadline") from error
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise failures.BrokenAnswer(type(error).__name__) from error

    async def _checked(self, answer: "_HttpAnswer", candidate: Candidate | None = None) -> Answer:
        """The answer, if its status says that it is one. Raises: UpstreamFailure; RequestRefused."""
        if answer.status == 200 and answer.headers.get("Content-Encoding", "identity").lower() == "identity":
            return answer
        if answer.status == 200:
            answer.close()
            raise failures.BrokenAnswer("a compressed answer nobody asked for")
        try:
            error_body = await answer.read_all(LARGEST_ERROR)
        except failures.UpstreamFailure:
            error_body = b""
        finally:
            answer.close()
        if answer.status == 401 and candidate is not None and candidate.key is not None:
            self._tokens.forget(candidate.key.secret)
        raise read_failure(answer.status, {name.lower(): value for name, value in answer.headers.items()}, error_body)

    def _session(self, resolver: egress.GuardedResolver | None) -> aiohttp.ClientSession:
        connector = _Connector(
            limit=settings.UPSTREAM_CONNECTIONS, keepalive_timeout=30, ttl_dns_cache=30, resolver=resolver, enable_cleanup_closed=False
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.CONNECT_TIMEOUT_SECONDS, connect=None),
            read_bufsize=READ_BUFFER,
            skip_auto_headers=("User-Agent",),
            headers={"User-Agent": "Tollgate"},
        )


class _Reader(ResponseHandler):
    """aiohttp's reader of answers, resumed only when it was paused: of itself it resumes, and so parses nothing, after every chunk of a burst."""

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - as aiohttp has it
        if self._reading_paused:
            super().resume_reading(resume_parser)


class _Connector(aiohttp.TCPConnector):
    """aiohttp's pool, of such readers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        reader: type[ResponseHandler] = _Reader
        self._factory = partial(reader, loop=asyncio.get_running_loop())


class _HttpAnswer:
    __slots__ = ("_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.headers: Mapping[str, str] = response.headers
        self.status = response.status

    async def read_any(self) -> bytes:
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise failures.BrokenAnswer(type(error).__name__) from error

    async def read_all(self, limit: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(settings.IDLE_TIMEOUT_SECONDS) as silence:
                while data := await self.read_any():
                    size += len(data)
                    if size > limit:
                        raise failures.BrokenAnswer(f"an answer of more than {limit} bytes")
                    pieces.append(data)
                    silence.reschedule(loop.time() + settings.IDLE_TIMEOUT_SECONDS)
        except TimeoutError as error:
            raise failures.TimedOut("the provider stopped in the middle of its answer") from error
        return b"".join(pieces)

    def close(self) -> None:
        # Gives the connection back to the pool if the body was read to its end, and closes it otherwise.
        if self._response.content.is_eof() and not self._response.closed:
            self._response.release()
        else:
            self._response.close()


async def _open_demo(upstream_model: str, path: str, body: bytes) -> Answer:
    script = demo.answer(upstream_model, orjson.loads(body), endpoint=DEMO_ENDPOINTS[path], created=int(datetime.now(UTC).timestamp()))
    answer = _DemoAnswer(script)
    if script.status != 200:
        raise read_failure(script.status, dict(script.headers), await answer.read_all(LARGEST_ERROR))
    return answer


class _DemoAnswer:
    """Plays the script of the demo provider as if it came over a wire."""

    def __init__(self, script: demo.DemoAnswer) -> None:
        self.headers: Mapping[str, str] = dict(script.headers)
        self._pieces: Iterator[demo.Piece] = iter(script.pieces)
        self._next: demo.Piece | None = None
        self._breaks = script.breaks
        self._closed = False

    async def read_any(self) -> bytes:
        if self._next is None:
            self._next = next(self._pieces, None)
        piece = self._next
        if piece is None or self._closed:
            if self._breaks and not self._closed:
                raise failures.BrokenAnswer("the demo provider hung up, as asked")
            return b""
        if piece.after_seconds:
            await asyncio.sleep(piece.after_seconds)
        self._next = None  # only now: a wait that is given up must not lose the piece
        return piece.data

    async def read_all(self, limit: int) -> bytes:
        pieces = [piece async for piece in self._rest()]
        data = b"".join(pieces)
        if len(data) > limit:
            raise failures.BrokenAnswer("too large")
        return data

    async def _rest(self) -> AsyncIterator[bytes]:
        while data := await self.read_any():
            yield data

    def close(self) -> None:
        self._closed = True
