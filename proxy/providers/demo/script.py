"""The script of a demo answer, its bytes, and the rule by which its tokens are counted."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

Endpoint = Literal["chat", "completions", "embeddings", "images"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of the body, sent when `after_seconds` have passed since the piece before."""

    after_seconds: float
    data: bytes


@dataclass(frozen=True, slots=True)
class DemoAnswer:
    """The script of one response. `pieces` of a stream are made as they are asked for and can be read once.

    With `breaks`, the connection is torn after the last piece instead of ending the body.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    pieces: Iterable[Piece]
    breaks: bool = False


def count_tokens(text: str) -> int:
    """Count the tokens of `text` by the demo's rule: one for every four bytes, rounded up."""
    return -(-len(utf8(text)) // 4)


compact: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def utf8(text: str) -> bytes:
    """Encode a text as JSON may have spelt it."""
    return text.encode("utf-8", "replace")  # JSON can spell half a surrogate pair, which UTF-8 cannot


def _dump(value: Any) -> bytes:
    return utf8(compact(value))


def event(value: Any) -> bytes:
    """Make one event of a stream."""
    return b"data: " + _dump(value) + b"\n\n"


def headers_of(ident: str, content_type: str) -> tuple[tuple[str, str], ...]:
    """Give the headers that every answer has."""
    return ("content-type", content_type), ("x-request-id", f"req_demo{ident}")


def whole(
    status: int,
    body: dict[str, Any],
    ident: str,
    headers: tuple[tuple[str, str], ...] = (),
    after_seconds: float = 0.0,
) -> DemoAnswer:
    """Make an answer that is sent at once, `after_seconds` from its request."""
    data = _dump(body)
    described = (*headers_of(ident, "application/json"), ("content-length", str(len(data))), *headers)
    return DemoAnswer(status, described, (Piece(after_seconds, data),))
