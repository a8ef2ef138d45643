"""Splitting event streams: whole events only, whatever the reads were, not one byte lost or changed."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sse import LARGEST_EVENT, EventTooLarge, Splitter

ENDS = ("\n", "\r\n", "\r")
LINES = st.one_of(
    st.sampled_from(["data: [DONE]", "data:", "data", ": comment", "id: 7", "retry: 10", 'data: {"a": "\u2028\u0085\x0b"}', "data: é世🌍"]),
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1, max_size=20),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """A stream whose events all end in the same kind of line end, as every server's do."""
    end = draw(st.sampled_from(ENDS))
    events = draw(st.lists(st.lists(LINES, min_size=1, max_size=4), max_size=6))
    tail = draw(st.sampled_from(["", "data: cut", "data: cut" + end]))
    return ("".join(end.join(event) + end + end for event in events) + tail).encode()


@st.composite
def split(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    data = draw(streams())
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return data, [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(split())
def test_no_byte_is_lost_added_or_moved(case: tuple[bytes, list[bytes]]) -> None:
    data, pieces = case
    splitter = Splitter()
    out = b"".join(splitter.feed(piece) for piece in pieces)
    assert out + splitter.rest == data


@given(split())
def test_what_is_given_out_ends_at_a_boundary_and_nothing_whole_is_kept_back(case: tuple[bytes, list[bytes]]) -> None:
    _, pieces = case
    splitter = Splitter()
    for piece in pieces:
        block = splitter.feed(piece)
        assert not block or block.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
        assert not any(boundary in splitter.rest for boundary in (b"\n\n", b"\r\n\r\n", b"\r\r"))


@given(split())
def test_the_events_are_the_same_however_the_stream_was_cut(case: tuple[bytes, list[bytes]]) -> None:
    data, pieces = case
    whole, cut = Splitter(), Splitter()
    events = list(Splitter.events(whole.feed(data)))
    assert [event for piece in pieces for event in Splitter.events(cut.feed(piece))] == events
    assert b"".join(events) == data[: len(data) - len(whole.rest)]


@given(streams())
def test_one_byte_at_a_time_is_enough(data: bytes) -> None:
    splitter = Splitter()
    assert b"".join(splitter.feed(bytes([byte])) for byte in data) + splitter.rest == data


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\n\n", b"a"),
        (b"data:  a \n\n", b" a "),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\r\ndata: b\r\n\r\n", b"a\nb"),
        (b"data: a\rdata: b\r\r", b"a\nb"),
        (b": comment\n\n", b""),
        (b"event: ping\nid: 1\ndata: {}\nretry: 3\n\n", b"{}"),
        (b"database: a\n\n", b""),
        ("data: a\u2028b\u0085c\n\n".encode(), "a\u2028b\u0085c".encode()),
    ],
)
def test_the_data_of_an_event_is_its_data_lines(event: bytes, data: bytes) -> None:
    assert Splitter.data_of(event) == data


def test_an_event_without_end_is_refused_before_it_fills_the_memory() -> None:
    splitter = Splitter()
    with pytest.raises(EventTooLarge):
        for _ in range(LARGEST_EVENT // 65536 + 2):
            splitter.feed(b"a" * 65536)


def test_many_events_at_once_may_be_larger_than_one_event() -> None:
    data = b"data: a\n\n" * (LARGEST_EVENT // 9 + 1)
    assert len(data) > LARGEST_EVENT
    assert Splitter().feed(data) == data


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_long_event_is_whole_however_its_end_is_cut(end: bytes, size: int) -> None:
    picture = b"data: " + b"A" * 100_000 + end
    stream = picture + b"data: next" + end
    splitter = Splitter()
    out = splitter.feed(stream[:90_000])
    pieces = [splitter.feed(stream[start : start + size]) for start in range(90_000, len(stream), size)]
    assert out + b"".join(pieces) == stream
    assert splitter.rest == b""


def test_a_picture_in_one_event_costs_time_in_proportion() -> None:
    splitter = Splitter()
    piece = b"A" * 16_384
    splitter.feed(b"data: ")
    for _ in range(1500):  # 24 MB: minutes, if each read copied what came before
        assert splitter.feed(piece) == b""
    assert len(splitter.feed(b"\n\n")) == 1500 * 16_384 + 8


def test_separators_inside_json_are_no_line_ends() -> None:
    event = 'data: {"text":"one\u2028two\u2029three\u0085four\u000bfive"}\n\n'.encode()
    assert list(Splitter.events(event)) == [event]
    assert re.search(rb"one.*five", Splitter.data_of(event), re.DOTALL)
