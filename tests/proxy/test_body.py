"""Reading request bodies from strangers: one strict parse, one kind of refusal, and splices that leave every other byte alone."""

import json
import resource
import time
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.body import DEPTH, READ_NAMES, InvalidJson, parse_body

NAMES = st.one_of(
    st.sampled_from(READ_NAMES), st.text(max_size=8).filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text))
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), TEXTS, NAMES),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS | NAMES, inner, max_size=4)),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=6)
WRITERS = st.sampled_from(
    [
        lambda value: json.dumps(value).encode(),
        lambda value: json.dumps(value, ensure_ascii=False).encode(),
        lambda value: json.dumps(value, indent=2).encode() + b"\n",
        lambda value: json.dumps(value, separators=(" ,\t", "\r\n: ")).encode(),
        orjson.dumps,
    ]
)


@given(st.binary(max_size=300))
@example(b"")
@example(b"{")
@example(b'{"a":')
@example(b"\xef\xbb\xbf{}")
@example(b'{"a":"\\ud800"}')
@example(b'{"\\u0000":1}')
@example(b"[" * 1000)
@example(b'{"' + b"\\" * 101 + b'"}')
def test_arbitrary_bytes_are_an_object_or_invalid_json(raw: bytes) -> None:
    try:
        body = parse_body(raw)
    except InvalidJson:
        return
    assert isinstance(body.fields, dict)


@given(st.text(alphabet='{}[]",:\\u0041 truefalsn1e+-.', max_size=200))
def test_almost_json_is_an_object_or_invalid_json(text: str) -> None:
    try:
        body = parse_body(text.encode())
    except InvalidJson:
        return
    assert isinstance(body.fields, dict)


@given(OBJECTS, WRITERS)
def test_the_spans_are_those_of_the_values(fields: dict[str, Any], write: Any) -> None:
    body = parse_body(write(fields))
    assert {name: orjson.loads(body.raw[start:stop]) for name, (start, stop) in body.spans.items()} == body.fields
    assert list(body.spans) == list(body.fields)


@given(OBJECTS, WRITERS, st.dictionaries(NAMES, VALUES, max_size=3))
def test_a_splice_changes_what_it_names_and_no_other_byte(fields: dict[str, Any], write: Any, edits: dict[str, Any]) -> None:
    body = parse_body(write(fields))
    spliced = body.splice({name: orjson.dumps(value) for name, value in edits.items()})
    assert orjson.loads(spliced) == orjson.loads(orjson.dumps({**fields, **edits}))
    kept = [body.raw[start:stop] for name, (start, stop) in body.spans.items() if name not in edits]
    position = 0
    for piece in kept:  # every value that was not named stands there as it was written, in order
        position = spliced.index(piece, position)
    outside = bytearray(body.raw)
    for name, (start, stop) in sorted(body.spans.items(), key=lambda item: -item[1][0]):
        if name in edits:
            outside[start:stop] = orjson.dumps(edits[name])
    if all(name in fields for name in edits):
        assert spliced == bytes(outside)


def test_a_splice_of_nothing_is_the_body_itself() -> None:
    raw = b'{ "model" : "a" , "x":1.50 }'
    assert parse_body(raw).splice({}) == raw


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"{}", b'{"model":"b"}'),
        (b"{ }", b'{ "model":"b"}'),
        (b'{"x":1}', b'{"x":1,"model":"b"}'),
        (b'{"model":"a"}\n', b'{"model":"b"}\n'),
        (b'{"model" :\n"a"}', b'{"model" :\n"b"}'),
        (b'{"model":null,"x":{"model":"c"}}', b'{"model":"b","x":{"model":"c"}}'),
        (b'{"x":"\\"model\\":\\"c\\"","model":"a"}', b'{"x":"\\"model\\":\\"c\\"","model":"b"}'),
        (b'{"x":"model","model":"a"}', b'{"x":"model","model":"b"}'),
        (b'{"mod\\u0065l":"a"}', b'{"mod\\u0065l":"b"}'),
        (b'{"model":{"a":[1,"}"]}}', b'{"model":"b"}'),
    ],
)
def test_a_value_is_put_where_the_old_one_stood(raw: bytes, expected: bytes) -> None:
    assert parse_body(raw).splice({"model": b'"b"'}) == expected


@pytest.mark.parametrize("name", READ_NAMES)
def test_a_name_the_gateway_reads_cannot_be_given_twice(name: str) -> None:
    with pytest.raises(InvalidJson, match="twice"):
        parse_body(f'{{"{name}":1,"x":2,"{name}":1}}'.encode())
    escaped = f"\\u{ord(name[0]):04x}{name[1:]}"
    with pytest.raises(InvalidJson, match="twice"):
        parse_body(f'{{"{name}":1,"{escaped}":2}}'.encode())


def test_names_of_deeper_objects_may_repeat_those_above() -> None:
    assert parse_body(b'{"model":"a","metadata":{"model":"b","stream":true},"messages":[{"model":"c"}]}').fields["model"] == "a"


def test_depth_is_bounded() -> None:
    fits = b'{"a":' + b"[" * (DEPTH - 1) + b"]" * (DEPTH - 1) + b"}"
    assert parse_body(fits).fields
    with pytest.raises(InvalidJson, match="deep"):
        parse_body(b'{"a":' + b"[" * DEPTH + b"]" * DEPTH + b"}")
    assert parse_body(b'{"a":"' + b"[{" * 500 + b'"}').fields  # inside a string they open nothing
    assert parse_body(b'{"a":[' + b"[]," * 500 + b"1]}").fields


def test_a_long_string_costs_neither_time_nor_memory() -> None:
    """A pattern that remembers where it could give a character back takes a hundred times the body."""
    plain = b'{"a":"' + b"x" * 8_000_000 + b'","model":"m","b":"\\u0041"}'
    escaped = b'{"a":"' + b"\\n" * 4_000_000 + b'","model":"m","b":"\\u0041"}'
    for raw in (plain, escaped):
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        assert parse_body(raw).splice({"model": b'"n"'}).count(b'"n"') == 1
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "raw", [b"null", b"[]", b"1", b'"a"', b"true", b"{}{}", b"{} x", b'{"a":NaN}', b'{"a":1e400}', b'{"a":01}', b"{'a':1}"]
)
def test_what_is_not_one_strict_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidJson):
        parse_body(raw)
