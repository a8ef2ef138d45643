"""Owns the reading of HTTP/1.1 requests: bytes in, whole requests out, no I/O."""

from dataclasses import dataclass

HEAD_LIMIT = 256 * 1024
BODY_LIMIT = 256 * 1024 * 1024


class BadRequest(Exception):
    """The bytes received are no HTTP/1.1 request this server reads."""


@dataclass(frozen=True)
class Request:
    """One whole request; header names keep their case and their order, duplicates included."""

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether the client wants the connection closed after the answer."""
        wish = ",".join(value.lower() for name, value in self.headers if name.lower() == "connection")
        return "close" in wish or (self.version == "HTTP/1.0" and "keep-alive" not in wish)


class RequestReader:
    """Turns received bytes into requests, however they were cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: tuple[str, str, str, list[tuple[str, str]]] | None = None
        self._length: int | None = 0
        self._body = bytearray()
        self.continue_due = False

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Request | None:
        """Return the next whole request, or None when more bytes are needed.

        `continue_due` is set while a client with `Expect: 100-continue` waits to be told to send its body. Raises: BadRequest.
        """
        if self._head is None and not self._read_head():
            return None
        if not self._read_body():
            return None
        assert self._head is not None
        method, target, version, headers = self._head
        request = Request(method, target, version, headers, bytes(self._body))
        self._head = None
        self._body = bytearray()
        return request

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise BadRequest("the head is too long")
            return False
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise BadRequest(f"not a request line: {lines[0][:80]!r}")
        headers: list[tuple[str, str]] = []
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise BadRequest(f"not a header: {line[:80]!r}")
            headers.append((name, value.strip()))
        named = {name.lower(): value for name, value in headers}
        try:
            self._length = None if "chunked" in named.get("transfer-encoding", "").lower() else int(named.get("content-length", "0"))
        except ValueError:
            raise BadRequest("the content-length is not a number") from None
        self.continue_due = named.get("expect", "").lower() == "100-continue"
        self._head = (words[0], words[1], words[2], headers)
        return True

    def _read_body(self) -> bool:
        if self._length is None:
            return self._read_chunks()
        if self._length > BODY_LIMIT:
            raise BadRequest("the body is too long")
        if len(self._buffer) < self._length:
            return False
        self._body += self._buffer[: self._length]
        del self._buffer[: self._length]
        return True

    def _read_chunks(self) -> bool:
        while (end := self._buffer.find(b"\r\n")) >= 0:
            try:
                size = int(bytes(self._buffer[:end]).partition(b";")[0], 16)
            except ValueError:
                raise BadRequest("the size of a chunk is not a number") from None
            if len(self._buffer) < end + 2 + size + 2:
                return False
            self._body += self._buffer[end + 2 : end + 2 + size]
            del self._buffer[: end + 2 + size + 2]
            if size == 0:
                return True
            if len(self._body) > BODY_LIMIT:
                raise BadRequest("the body is too long")
        return False
