"""Where HTTP/2 frames begin and end, and which are too much to wait for."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.http.h2.frames import (
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    MAX_CONTINUATIONS,
    MAX_FRAME_BYTES,
    PREFACE,
    PROTOCOL_ERROR,
    Frame,
    FrameError,
    FrameReader,
    goaway,
    known_settings,
)

DATA, HEADERS, SETTINGS, PING, CONTINUATION = 0, 1, 4, 6, 9
END_HEADERS = 0x4


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 1) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def reader(limit: int = 1000) -> FrameReader:
    made = FrameReader(limit)
    made.feed(PREFACE)
    assert made.take_preface()
    return made


def read(made: FrameReader, data: bytes) -> list[Frame]:
    made.feed(data)
    return list(iter(made.next, None))


def code_of(made: FrameReader, data: bytes) -> int:
    with pytest.raises(FrameError) as raised:
        read(made, data)
    return raised.value.code


def test_frames_one_after_the_other() -> None:
    data = frame(PING, b"12345678", stream=0) + frame(DATA, b"abc", 1, 5)
    first, second = read(reader(), data)
    assert first == Frame(PING, 0, 0, 8, data[:17])
    assert second == Frame(DATA, 1, 5, 3, data[17:])


@given(st.lists(st.integers(1, 40), max_size=40))
def test_how_it_was_cut_makes_no_difference(cuts: list[int]) -> None:
    data = PREFACE + frame(HEADERS, b"h" * 20, END_HEADERS) + frame(DATA, b"d" * 60) + frame(PING)
    made, found = FrameReader(1000), []
    for size in [*cuts, len(data)]:
        made.feed(data[:size])
        data = data[size:]
        if made.take_preface():
            found += list(iter(made.next, None))
    assert [(one.kind, one.length) for one in found] == [(HEADERS, 20), (DATA, 60), (PING, 0)]
    assert made.waiting_bytes == 0


def test_the_reserved_bit_is_ignored() -> None:
    (found,) = read(reader(), frame(DATA, b"x", stream=0x8000_0003))
    assert found.stream == 3


def test_what_is_no_preface() -> None:
    made = FrameReader(1000)
    made.feed(PREFACE[:10])
    assert not made.take_preface()
    made.feed(b"nonsense")
    with pytest.raises(FrameError) as raised:
        made.take_preface()
    assert raised.value.code == PROTOCOL_ERROR


def test_a_frame_that_is_too_large_is_found_out_by_its_header() -> None:
    header = (MAX_FRAME_BYTES + 1).to_bytes(3) + bytes(6)
    assert code_of(reader(), header) == FRAME_SIZE_ERROR


def test_a_header_block_may_be_cut_into_frames() -> None:
    data = frame(HEADERS, b"a" * 400) + frame(CONTINUATION, b"b" * 400)
    data += frame(CONTINUATION, b"c" * 200, END_HEADERS) + frame(HEADERS, b"d" * 1000, END_HEADERS)
    assert len(read(reader(1000), data)) == 4


def test_a_header_block_that_is_too_large_is_not_waited_for() -> None:
    assert code_of(reader(1000), frame(HEADERS, b"a" * 1001)[:9]) == ENHANCE_YOUR_CALM
    data = frame(HEADERS, b"a" * 600) + frame(CONTINUATION, b"b" * 401)[:9]
    assert code_of(reader(1000), data) == ENHANCE_YOUR_CALM


def test_a_header_block_in_too_many_frames() -> None:
    data = frame(HEADERS, b"a") + frame(CONTINUATION, b"b") * MAX_CONTINUATIONS
    assert code_of(reader(), data + frame(CONTINUATION, b"b")) == ENHANCE_YOUR_CALM
    assert read(reader(), data[:-10] + frame(CONTINUATION, b"b", END_HEADERS))


@pytest.mark.parametrize("kind", [DATA, HEADERS, PING])
def test_nothing_may_come_into_a_header_block(kind: int) -> None:
    assert code_of(reader(), frame(HEADERS, b"a") + frame(kind)) == PROTOCOL_ERROR


def test_a_continuation_of_nothing() -> None:
    assert code_of(reader(), frame(CONTINUATION, b"a")) == PROTOCOL_ERROR


def test_what_is_waited_for() -> None:
    made = reader()
    assert (made.in_head, made.partial_stream) == (False, 0)
    made.feed(frame(DATA, b"abc", stream=7)[:10])
    assert (made.in_head, made.partial_stream) == (False, 7)
    made = reader()
    made.feed(frame(PING, b"12345678")[:4])
    assert (made.in_head, made.partial_stream) == (True, 0)
    made = reader()
    assert read(made, frame(HEADERS, b"a"))
    assert made.in_head
    assert FrameReader(1000).in_head is False


def test_unknown_settings_are_left_out() -> None:
    pairs = [(4, 100), (256, 1), (8, 1), (5, 20000), (4, 200), (0xFFFF, 2)]
    payload = b"".join(struct.pack(">HL", *pair) for pair in pairs)
    known = struct.pack(">HLHL", 4, 200, 5, 20000)
    assert known_settings(payload) == known
    (found,) = read(reader(), frame(SETTINGS, payload, stream=0))
    assert found.data == frame(SETTINGS, known, stream=0)


def test_settings_that_are_none_are_left_to_the_library() -> None:
    (found,) = read(reader(), frame(SETTINGS, b"abcd", stream=0))
    assert found.data == frame(SETTINGS, b"abcd", stream=0)


def test_goaway() -> None:
    assert goaway(5, 11) == frame(7, b"\0\0\0\5\0\0\0\x0b", stream=0)
