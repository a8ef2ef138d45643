"""Owns the connections of the fake provider: HTTP/1.1 written by hand, so that an answer may break any rule of it."""

import asyncio
import socket
import struct
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from itertools import count
from typing import cast

from tests.fakes.provider.journal import Journal, ReceivedRequest
from tests.fakes.provider.reading import BadRequest, Request, RequestReader

Headers = Iterable[tuple[str, str]]
CONTROL = "/_control/"  # the path under which orders come: they are no requests to a provider
YIELD_EVERY = 16  # pieces: a long stream written without a pause must not keep the others from the loop
_numbers = count(1)


class Exchange:
    """One request and the answer being written to it; `request` is updated as the answer goes."""

    def __init__(self, connection: "Connection", read: Request, journal: Journal) -> None:
        self._connection = connection
        self._journal = journal
        self._keeps = not read.closes
        self._old = read.version == "HTTP/1.0"
        self._chunked = False
        self._unsent = b""
        self._pieces = 0
        self.request: ReceivedRequest = journal.add(
            connection=connection.number,
            method=read.method,
            path=read.target,
            headers=read.headers,
            body=read.body,
            listed=not read.target.startswith(CONTROL),
        )

    def head(self, status: int, headers: Headers = (), *, length: int | None = None) -> None:
        """Begin an answer; its head leaves with the first piece of the body or with `flush`. No `length` means chunked."""
        self._chunked = length is None and not self._old
        lines = [f"HTTP/1.1 {status} {reason(status)}", *(f"{name}: {value}" for name, value in headers)]
        if length is not None:
            lines.append(f"Content-Length: {length}")
        elif self._chunked:
            lines.append("Transfer-Encoding: chunked")
        else:
            self._keeps = False
        if not self._keeps:
            lines.append("Connection: close")
        self._unsent += ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        self.request.status = status

    async def flush(self) -> None:
        """Send the head when it has not left yet."""
        if self._unsent:
            await self.raw(b"")

    async def send(self, piece: bytes) -> None:
        """Send one piece of the body (one chunk where the answer is chunked) and wait until the kernel has taken it."""
        if piece:
            await self.raw(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)

    async def raw(self, data: bytes) -> None:
        """Send bytes outside any framing and wait until the kernel has taken them."""
        data, self._unsent = self._unsent + data, b""
        self._connection.write(data)
        with self._journal.change():
            self.request.bytes_sent += len(data)
            if self.request.first_byte_at is None:
                self.request.first_byte_at = time.monotonic()
        await self._connection.drain()
        self._pieces += 1
        if self._pieces % YIELD_EVERY == 0:
            await asyncio.sleep(0)

    async def finish(self, last: bytes = b"") -> None:
        """Send the last piece and end the answer as HTTP wants it; the connection stays open when the client agrees."""
        if self._chunked:
            await self.raw(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last) if last else b"0\r\n\r\n")
        elif last or self._unsent:
            await self.raw(last)
        self._done()
        if not self._keeps:
            self._connection.close()

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer with its length."""
        self.head(status, headers, length=len(body))
        await self.finish(body)

    def finished_by_hand(self) -> None:
        """Say that the answer is whole although it was written with `raw`; the connection goes on to the next request."""
        self._done()

    def close(self) -> None:
        """Close the connection (FIN) with the answer unfinished."""
        self._cut()
        self._connection.close()

    def reset(self) -> None:
        """Reset the connection (RST) with the answer unfinished."""
        self._cut()
        self._connection.reset()

    async def until_client_leaves(self) -> None:
        """Never return: the exchange is cancelled when the client leaves or the provider stops."""
        await asyncio.get_running_loop().create_future()

    def client_left(self, moment: float) -> None:
        """Say when the client left, unless the answer was over by then."""
        if not self.request.ended:
            with self._journal.change():
                self.request.client_gone_at = moment

    def _done(self) -> None:
        with self._journal.change():
            self.request.response_finished = True
            self.request.finished_at = time.monotonic()

    def _cut(self) -> None:
        if not self.request.ended:
            with self._journal.change():
                self.request.cut_at = time.monotonic()


class Connection(asyncio.Protocol):
    """One accepted connection: reads requests one after the other and has each answered."""

    def __init__(
        self, serve: Callable[[Exchange], Awaitable[None]], journal: Journal, door: Callable[[], str], all_open: "set[Connection]"
    ) -> None:
        self.number = next(_numbers)
        self._serve = serve
        self._journal = journal
        self._door = door
        self._all_open = all_open
        self._reader = RequestReader()
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._deaf = False
        self._left_at: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # A limit of nothing: `drain` returns only when the kernel holds every byte, so `bytes_sent` is what really left.
        self._transport.set_write_buffer_limits(high=0)
        self._all_open.add(self)
        match self._door():
            case "close":
                self._transport.close()
            case "reset":
                self.reset()
            case "silent":
                self._deaf = True
                self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._advance()

    def _advance(self) -> None:
        if self._exchange is not None or self._deaf:
            return
        try:
            read = self._reader.next()
        except BadRequest as error:
            self._journal.blame(f"connection {self.number}: {error}")
            self.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self._deaf = True
            self.close()
            return
        if read is None:
            if self._reader.continue_due:
                self._reader.continue_due = False
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        self._exchange = Exchange(self, read, self._journal)
        self._task = asyncio.get_running_loop().create_task(self._run(self._exchange))

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._serve(exchange)
        except Exception:
            # A defect of the fake itself: cut the answer and keep the reason where every test that looks for mistakes finds it.
            self._journal.blame(traceback.format_exc())
        finally:
            self._exchange = None
            # Told only now, so that whoever hears of it finds the answer truly ended.
            if self._left_at is not None:
                exchange.client_left(self._left_at)
        if not exchange.request.ended:
            self._journal.blame(f"the answer to {exchange.request.model!r} was left unfinished")
            exchange.reset()
        if not self._is_closing():
            self._advance()

    def write(self, data: bytes) -> None:
        if self._transport is not None and data:
            self._transport.write(data)

    async def drain(self) -> None:
        if self._writable is not None:
            await self._writable

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        if self._transport is not None:
            taken: socket.socket | None = self._transport.get_extra_info("socket")
            if taken is not None:
                # Lingering for zero seconds makes the close a reset.
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def stop(self) -> None:
        """Reset the connection because the provider ends; a running answer counts as cut, not as abandoned."""
        if self._exchange is not None:
            self._exchange.reset()
        else:
            self.reset()

    def _is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def eof_received(self) -> bool:
        self._left()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._all_open.discard(self)
        self._left()

    def _left(self) -> None:
        if self._left_at is None:
            self._left_at = time.monotonic()
            if self._task is not None and self._exchange is not None and not self._exchange.request.response_finished:
                self._task.cancel()


def reason(status: int) -> str:
    """Return the usual words for a status, or some for one that has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unusual"
