"""The mix: every kind of thing that clients do, good and bad, and what each of them must be answered.

An honest request is answered in full, whatever the provider's first route did. Everything else has statuses that it may get; what a client
sees that it should not is a surprise, and one surprise fails the run.
"""

import asyncio
import json
import random
import socket
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
from django.db import connection
from django.db.models import F
from django.utils import timezone

from catalog.models import Model
from gateway_site import changes
from keys import issuing, secret
from tests.conftest import Customer
from tests.faults.soak.market import Market

BACKPRESSURE_BYTES = 4096  # the receive buffer of a client that reads slowly
PATIENCE_SECONDS = 60.0
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
GONE_WRONG = {200, 429, 502, 503, 504}  # of a provider that fails: 200 is a stream that had begun
PAGES = (
    "",
    "/usage",
    "/usage?by=model",
    "/requests",
    "/keys",
    "/billing",
    "/members",
    "/audit-log",
    "/settings",
    "/webhooks",
    "/playground",
)
READS = ("models", "usage", "credits", "key")
PUBLIC = ("/", "/models", "/status", "/docs", "/docs/errors", "/openapi.json", "/healthz", "/readyz", "/metrics")
NONSENSE: tuple[tuple[bytes, Collection[int]], ...] = (
    (b"", {400}),
    (b"{", {400}),
    (b"[]", {400}),
    (b'{"model": 7, "messages": "no"}', {400}),
    (b'{"model": "\xff"}', {400}),
    (b"[" * 50_000, {400}),
    (b'{"a": "' + b"x" * (3 * 1024 * 1024) + b'"}', {413}),
)


@dataclass
class Books:
    """What the clients did and saw."""

    done: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    complete: list[str] = field(default_factory=list)  # the request ids of honest answers, which must be charged
    surprises: list[str] = field(default_factory=list)


@dataclass
class Visit:
    """One client's dice, connection and books; what it does next is a method of its own."""

    origin: str
    market: Market
    session: aiohttp.ClientSession
    dice: random.Random
    books: Books
    doing: str = ""

    # -- Requests

    async def ask(self, path: str, body: Any, *, key: str | None = None, headers: dict[str, str] | None = None) -> tuple[int, str, bytes]:
        """POST as JSON (bytes as they are); returns the status, the request's id and the answer."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", "x-api-key": key or self.customer().secret, **(headers or {})}
        async with self.session.post(f"{self.origin}{path}", data=raw, headers=sent) as response:
            answer = response.status, response.headers.get("x-request-id", ""), await response.read()
        self.books.statuses[answer[0]] += 1
        return answer

    async def honest(self, path: str, body: Any, *, end: bytes, key: str | None = None, headers: dict[str, str] | None = None) -> bytes:
        """A request that must be answered to its end, and charged."""
        status, ident, data = await self.ask(path, body, key=key, headers=headers)
        if status != 200 or end not in data or b'"error":{' in data:
            self.surprise(f"{status}, without {end!r}: {data[-300:]!r}")
        else:
            self.books.complete.append(ident)
        return data

    async def other(self, expected: Collection[int], path: str, body: Any, *, key: str | None = None) -> None:
        """A request that must be answered with one of these statuses."""
        status, _, data = await self.ask(path, body, key=key)
        if status not in expected:
            self.surprise(f"{status}, not of {sorted(expected)}: {data[:300]!r}")

    async def look(self, path: str, *, headers: dict[str, str] | None = None) -> None:
        """GET what must be there."""
        async with self.session.get(f"{self.origin}{path}", headers=headers, allow_redirects=False) as response:
            data = await response.read()
            self.books.statuses[response.status] += 1
        if response.status != 200:
            self.surprise(f"GET {path}: {response.status}: {data[:300]!r}")

    def surprise(self, what: str) -> None:
        self.books.surprises.append(f"{self.doing}: {what}")

    def customer(self) -> Customer:
        return self.dice.choice(self.market.customers)

    def chat(self, name: str = "chat", *, stream: bool = False, **more: Any) -> dict[str, Any]:
        """A chat request with a user of its own."""
        words = f"hello {self.dice.random()}"
        asked = {"messages": [{"role": "user", "content": words}], "max_tokens": 4000, "user": f"user-{uuid.uuid4().hex}"}
        return {"model": self.market.models.get(name, name), "stream": stream, **asked, **more}

    async def begin(self, body: dict[str, Any], *, receive_buffer: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request by a connection of its own, to leave and stall as no library lets one."""
        end = socket.socket()
        end.setblocking(False)
        if receive_buffer is not None:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        port = int(self.origin.rpartition(":")[2])
        await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=end, limit=BACKPRESSURE_BYTES)
        raw = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.customer().secret}\r\nContent-Length: {len(raw)}\r\n\r\n"
        )
        writer.write(head.encode() + raw)
        return reader, writer


# -- Honest clients ------------------------------------------------------------------------------------------------------------------


async def chat_whole(visit: Visit) -> None:
    await visit.honest("/v1/chat/completions", visit.chat(), end=b'"finish_reason"')


async def chat_stream(visit: Visit) -> None:
    await visit.honest("/v1/chat/completions", visit.chat("paced", stream=True), end=b"[DONE]")


async def messages_stream(visit: Visit) -> None:
    """Anthropic's format, at a provider of each format."""
    model = visit.market.models[visit.dice.choice(("messages", "paced", "gemini", "responses"))]
    body = {"model": model, "max_tokens": 100, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    await visit.honest("/v1/messages", {**body, "metadata": {"user_id": uuid.uuid4().hex}}, end=b"message_stop")


async def gemini_stream(visit: Visit) -> None:
    model, method = visit.market.models["gemini"], visit.dice.choice(("streamGenerateContent?alt=sse", "generateContent"))
    body = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
    await visit.honest(f"/v1beta/models/{model}:{method}", body, end=b'"finishReason"')


async def bridged_chat(visit: Visit) -> None:
    name, stream = visit.dice.choice(("messages", "gemini", "responses")), visit.dice.random() < 0.5
    await visit.honest("/v1/chat/completions", visit.chat(name, stream=stream), end=b"[DONE]" if stream else b'"finish_reason"')


async def stored_responses(visit: Visit) -> None:
    """A conversation whose first answer is kept, and referred to by the second request."""
    who = visit.customer().secret
    body = {"model": visit.market.models[visit.dice.choice(("chat", "responses", "messages"))], "input": "hello"}
    first = await visit.honest("/v1/responses", body, end=b'"completed"', key=who)
    with suppress(ValueError):
        previous = json.loads(first).get("id")
        await visit.honest("/v1/responses", {**body, "previous_response_id": previous, "stream": True}, end=b"response.completed", key=who)


async def tool_loop(visit: Visit) -> None:
    """A call of a tool and its result, by a client that drops the reasoning, which the gateway carries over."""
    who = visit.customer().secret
    first = await visit.honest("/v1/chat/completions", visit.chat("tools", tools=TOOLS), end=b'"tool_calls"', key=who)
    with suppress(ValueError, LookupError):
        message = json.loads(first)["choices"][0]["message"]
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "seen"} for call in message["tool_calls"]]
        asked = {"role": "user", "content": "look"}
        turn = {"role": "assistant", "content": message.get("content"), "tool_calls": message["tool_calls"]}
        body = visit.chat("tools", tools=TOOLS, messages=[asked, turn, *results])
        await visit.honest("/v1/chat/completions", body, end=b'"finish_reason"', key=who)


async def fails_over(visit: Visit) -> None:
    name, stream = visit.dice.choice(("refused first", "reset first", "truncated first", "error first")), visit.dice.random() < 0.5
    if name == "error first":
        stream = True
    await visit.honest("/v1/chat/completions", visit.chat(name, stream=stream), end=b"[DONE]" if stream else b'"finish_reason"')


async def idempotent(visit: Visit) -> None:
    """Asks again under the same key: the answer is repeated, and not charged twice."""
    who, headers, body = visit.customer().secret, {"Idempotency-Key": uuid.uuid4().hex}, visit.chat()
    await visit.honest("/v1/chat/completions", body, end=b'"finish_reason"', key=who, headers=headers)
    status, _, _ = await visit.ask("/v1/chat/completions", body, key=who, headers=headers)
    if status not in (200, 409):  # 409: the first is not quite over
        visit.surprise(f"{status} to the same request")


async def reads_slowly(visit: Visit) -> None:
    reader, writer = await visit.begin(visit.chat("long", stream=True), receive_buffer=BACKPRESSURE_BYTES)
    data = b""
    while more := await reader.read(64 * 1024):
        data += more
        await asyncio.sleep(0)
    writer.close()
    if b"[DONE]" not in data:
        visit.surprise(f"ended by {data[-300:]!r}")


# -- Clients who leave ---------------------------------------------------------------------------------------------------------------


async def leaves_before_the_first_byte(visit: Visit) -> None:
    _, writer = await visit.begin(visit.chat("late", stream=visit.dice.random() < 0.7))
    await writer.drain()
    await asyncio.sleep(visit.dice.choice((0, 0.02, 0.1)))
    writer.transport.abort()


async def leaves_in_the_middle(visit: Visit) -> None:
    reader, writer = await visit.begin(visit.chat("paced", stream=True))
    with suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        await reader.readuntil(b"data: ")
    writer.transport.abort() if visit.dice.random() < 0.5 else writer.close()


async def stops_reading(visit: Visit) -> None:
    reader, writer = await visit.begin(visit.chat("long", stream=True), receive_buffer=BACKPRESSURE_BYTES)
    await reader.read(100)
    await asyncio.sleep(0.2)
    writer.transport.abort()


async def leaves_in_the_middle_of_its_body(visit: Visit) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", int(visit.origin.rpartition(":")[2]))
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {visit.customer().secret}\r\n"
        'Content-Length: 100000\r\n\r\n{"model":'.encode()
    )
    await writer.drain()
    writer.close()


# -- Clients who are refused ---------------------------------------------------------------------------------------------------------


async def sends_nonsense(visit: Visit) -> None:
    raw, expected = visit.dice.choice(NONSENSE)
    await visit.other(expected, "/v1/chat/completions", raw)


async def has_no_key(visit: Visit) -> None:
    await visit.other({401}, "/v1/chat/completions", visit.chat(), key=visit.dice.choice((secret.generate(), "sk-gw-typo")))


async def names_no_model(visit: Visit) -> None:
    await visit.other({404}, "/v1/chat/completions", visit.chat(f"nobody/{uuid.uuid4().hex}"))


async def has_no_money(visit: Visit) -> None:
    await visit.other({402}, "/v1/chat/completions", visit.chat(), key=visit.market.poor.secret)


async def asks_too_often(visit: Visit) -> None:
    await visit.other({200, 429}, "/v1/chat/completions", visit.chat(), key=visit.market.limited.secret)


async def may_not(visit: Visit) -> None:
    await visit.other({403}, "/v1/chat/completions", visit.chat("paced"), key=visit.market.narrow.secret)


async def errs_in_the_address(visit: Visit) -> None:
    await visit.other({403, 404, 405}, f"/v1/{uuid.uuid4().hex}", visit.chat())


# -- Providers who fail --------------------------------------------------------------------------------------------------------------


async def meets_a_fault(visit: Visit) -> None:
    await visit.other(
        GONE_WRONG, "/v1/chat/completions", visit.chat(visit.dice.choice(visit.market.faults), stream=visit.dice.random() < 0.6)
    )


async def meets_silence(visit: Visit) -> None:
    await visit.other(GONE_WRONG, "/v1/chat/completions", visit.chat(visit.dice.choice(visit.market.silences), stream=True))


# -- People, and changes -------------------------------------------------------------------------------------------------------------


async def looks_at_a_page(visit: Visit) -> None:
    slug, cookie = visit.dice.choice(visit.market.pages)
    await visit.look(f"/a/{slug}{visit.dice.choice(PAGES) or '/'}", headers={"Cookie": cookie})


async def reads_its_usage(visit: Visit) -> None:
    await visit.look(f"/v1/{visit.dice.choice(READS)}", headers={"Authorization": f"Bearer {visit.customer().secret}"})


async def reads_the_public_pages(visit: Visit) -> None:
    await visit.look(visit.dice.choice(PUBLIC))


async def uses_a_key_for_its_whole_life(visit: Visit) -> None:
    """A key is made, used and revoked, and is refused at once."""
    key, made = await _in_thread(lambda: issuing.issue(account=visit.customer().account, name="soak", now=timezone.now(), rpm=1000))
    await visit.honest("/v1/chat/completions", visit.chat(), end=b'"finish_reason"', key=made)
    await _in_thread(lambda: issuing.revoke(key=key, now=timezone.now()))
    await visit.other({401}, "/v1/chat/completions", visit.chat(), key=made)


async def changes_the_catalog(visit: Visit) -> None:
    """A model comes or goes, and every process reads the catalog again."""

    def change() -> None:
        Model.objects.filter(slug=visit.dice.choice(visit.market.idle_models)).update(is_enabled=~F("is_enabled"))
        changes.publish("catalog")

    await _in_thread(change)


T = TypeVar("T")


async def _in_thread(rule: Callable[[], T]) -> T:
    def call() -> T:
        try:
            return rule()
        finally:
            connection.close()

    return await asyncio.to_thread(call)


Kind = Callable[[Visit], Awaitable[None]]
# How often each is drawn.
MIX: dict[Kind, int] = {
    **dict.fromkeys((chat_whole, chat_stream, messages_stream, bridged_chat), 100),
    **dict.fromkeys((gemini_stream, stored_responses, tool_loop, fails_over, idempotent), 50),
    **dict.fromkeys((leaves_before_the_first_byte, leaves_in_the_middle, meets_a_fault), 60),
    **dict.fromkeys((sends_nonsense, has_no_key, names_no_model, has_no_money, asks_too_often, may_not, errs_in_the_address), 20),
    **dict.fromkeys((leaves_in_the_middle_of_its_body, looks_at_a_page, reads_its_usage, reads_the_public_pages), 20),
    **dict.fromkeys((reads_slowly, stops_reading, uses_a_key_for_its_whole_life), 10),
    **dict.fromkeys((meets_silence, changes_the_catalog), 3),
}
# To warm up: what is seldom, as often as what is not. Silence only costs time.
EVERYTHING: dict[Kind, int] = dict.fromkeys((kind for kind in MIX if kind is not meets_silence), 1)
# Hardly anybody stays for the answer.
STORM: dict[Kind, int] = {
    **dict.fromkeys((leaves_before_the_first_byte, leaves_in_the_middle), 45),
    **dict.fromkeys((stops_reading, leaves_in_the_middle_of_its_body), 1),
    **dict.fromkeys((chat_whole, chat_stream), 4),
}
