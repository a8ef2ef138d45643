"""Reads request bodies from strangers: one strict parse, and the places of the top-level values, so that a value can be replaced in the
original bytes without encoding the rest again.
"""

import re
from collections.abc import Set as AbstractSet
from typing import Any

import orjson

DEPTH = 64
# Possessive: a string that may give characters back costs a hundred bytes of memory for each of them.
_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],]', re.DOTALL)
_AFTER_NAME = re.compile(rb'\s*:\s*("[^"\\]*+(?:\\.[^"\\]*+)*+"|[{\[]|[^\s"{}\[\],]+)', re.DOTALL)
# What the gateway itself reads: given twice, it would price one value while the provider might run the other.
READ_NAMES = (
    "model models provider messages input prompt stream stream_options max_tokens max_completion_tokens max_output_tokens n tools modalities "
    "service_tier reasoning_effort best_of suffix echo encoding_format"
).split()
_READ = tuple((name, b'"' + name.encode() + b'"') for name in READ_NAMES)


class InvalidJson(Exception):
    """The body is not a JSON object this gateway takes; the message says what is wrong with it."""


class Body:
    """A JSON object as parsed (`fields`) and as received (`raw`), with the span of each top-level value."""

    __slots__ = ("_spans", "fields", "raw")

    def __init__(self, raw: bytes, fields: dict[str, Any]) -> None:
        self.raw = raw
        self.fields = fields
        self._spans: dict[str, tuple[int, int]] | None = None

    @property
    def spans(self) -> dict[str, tuple[int, int]]:
        """Where each top-level value stands in `raw`."""
        if self._spans is None:
            self._spans = _locate(self.raw)
        return self._spans

    def _span_of(self, name: str) -> tuple[int, int] | None:
        if name not in self.fields:
            return None
        quoted = b'"' + name.encode() + b'"'
        if self.raw.count(quoted) == 1 and b"\\u" not in self.raw:  # the only occurrence is the top-level one: no need to read the rest
            found = _AFTER_NAME.match(self.raw, self.raw.index(quoted) + len(quoted))
            if found is not None:
                start, stop = found.span(1)
                return start, _end_of_container(self.raw, start) if found[1] in (b"{", b"[") else stop
        return self.spans[name]

    def splice(self, replacements: dict[str, bytes]) -> bytes:
        """The raw body with these top-level values (JSON bytes) put in, replaced where present, else added at the end."""
        edits: list[tuple[int, int, bytes]] = []
        added = b""
        for name, value in replacements.items():
            span = self._span_of(name)
            if span is not None:
                edits.append((*span, value))
            else:
                added += b"," + orjson.dumps(name) + b":" + value
        if added:
            end = self.raw.rindex(b"}")
            edits.append((end, end, added if self.fields else added[1:]))
        pieces: list[bytes] = []
        position = 0
        for start, stop, value in sorted(edits):
            pieces += (self.raw[position:start], value)
            position = stop
        pieces.append(self.raw[position:])
        return b"".join(pieces)

    def without(self, names: AbstractSet[str]) -> "Body":
        """The body without these top-level values; what stays keeps its bytes."""
        fields = {name: value for name, value in self.fields.items() if name not in names}
        if len(fields) == len(self.fields):
            return self
        spans = self.spans
        kept = (orjson.dumps(name) + b":" + self.raw[slice(*spans[name])] for name in fields)
        return Body(b"{" + b",".join(kept) + b"}", fields)


def fill_in(body: Body, name: str, value: str | None) -> Body:
    """The body with a value put in where it has none (or nothing is in it); as it is without a value to put in."""
    if value is None or body.fields.get(name) not in (None, ""):
        return body
    return Body(body.splice({name: orjson.dumps(value)}), {**body.fields, name: value})


def parse_body(raw: bytes) -> Body:
    """Parse a request body strictly.

    Refused: anything but an object, more than 64 levels, numbers that are not finite, lone surrogates, and a name the gateway reads given
    twice.

    Raises: InvalidJson.
    """
    if raw.count(b"[") + raw.count(b"{") > DEPTH:
        _check_depth(raw)
    try:
        fields = orjson.loads(raw)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise InvalidJson(f"The body is not valid JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise InvalidJson("The body must be a JSON object.")
    body = Body(raw, fields)
    if b"\\u" in raw or any(name in fields and raw.count(quoted) > 1 for name, quoted in _READ):
        _ = body.spans  # reads the whole body once more and refuses a name given twice
    return body


def _check_depth(raw: bytes) -> None:
    depth = 0
    for match in _TOKENS.finditer(raw):
        token = match.group()
        if token in (b"{", b"["):
            depth += 1
            if depth > DEPTH:
                raise InvalidJson(f"The body is nested more than {DEPTH} levels deep.")
        elif token in (b"}", b"]"):
            depth -= 1


def _end_of_container(raw: bytes, start: int) -> int:
    depth = 0
    for match in _TOKENS.finditer(raw, start):
        first = match.group()[0]
        if first in b"{[":
            depth += 1
        elif first in b"}]":
            depth -= 1
            if depth == 0:
                return match.end()
    raise InvalidJson("The body is not valid JSON: a value has no end.")


def _locate(raw: bytes) -> dict[str, tuple[int, int]]:
    """Find the top-level values of a valid JSON object. Raises: InvalidJson for a name given twice."""
    spans: dict[str, tuple[int, int]] = {}
    depth = 0
    name: bytes | None = None
    start = 0
    for match in _TOKENS.finditer(raw):
        token = match.group()
        first = token[0]
        if first == 0x22:  # a string
            if depth == 1 and name is None:
                name = token
                start = raw.index(b":", match.end()) + 1
        elif first in b"{[":
            depth += 1
        elif first in b"}]":
            depth -= 1
            if depth == 0 and name is not None:
                _record(spans, raw, name, start, match.start())
        elif depth == 1 and name is not None:  # a comma between two top-level values
            _record(spans, raw, name, start, match.start())
            name = None
    return spans


def _record(spans: dict[str, tuple[int, int]], raw: bytes, name: bytes, start: int, stop: int) -> None:
    while raw[start] in b" \t\r\n":
        start += 1
    while raw[stop - 1] in b" \t\r\n":
        stop -= 1
    text = orjson.loads(name)
    if text in spans:
        raise InvalidJson(f"The name {text!r} is given twice.")
    spans[text] = (start, stop)
