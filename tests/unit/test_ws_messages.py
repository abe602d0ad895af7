"""Messages: every split, limits, and against wsproto."""

import time
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import events as theirs
from wsproto.connection import Connection, ConnectionType
from wsproto.extensions import PerMessageDeflate
from wsproto.utilities import RemoteProtocolError

from subserve.http.ws.frames import Violation
from subserve.http.ws.messages import Close, Event, Ping, Pong
from tests.unit.ws_harness import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    agreement,
    close_frame,
    events,
    frame,
    read,
    reader,
)

PARSERS = ["python", "auto"]
COMPRESSED = 4


def deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


HELLO = deflated("grüße".encode() * 9)

CONVERSATIONS: dict[str, tuple[bytes, list[Event]]] = {
    "short": (frame(TEXT, b"hello") + frame(BINARY, b"\0\xff"), ["hello", b"\0\xff"]),
    "empty": (frame(TEXT) + frame(BINARY), ["", b""]),
    "two bytes of length": (frame(TEXT, b"x" * 126), ["x" * 126]),
    "not ASCII": (frame(TEXT, "grüße, 𝄞".encode()), ["grüße, 𝄞"]),
    "fragments": (
        frame(TEXT, b"gr\xc3", fin=False)
        + frame(PING, b"in between")
        + frame(CONTINUATION, b"\xbc\xc3", fin=False)
        + frame(CONTINUATION, fin=False)
        + frame(CONTINUATION, b"\x9fe"),
        [Ping(b"in between"), "grüße"],
    ),
    "empty fragments": (frame(BINARY, fin=False) + frame(CONTINUATION), [b""]),
    "control": (
        frame(PING) + frame(PONG, b"p" * 125) + frame(CLOSE),
        [Ping(b""), Pong(b"p" * 125), Close(1005, "")],
    ),
    "close": (close_frame(4001, b"genug"), [Close(4001, "genug")]),
    "compressed": (
        frame(TEXT, HELLO, rsv=COMPRESSED) + frame(TEXT, b"not"),
        ["grüße" * 9, "not"],
    ),
    "compressed in fragments": (
        frame(BINARY, HELLO[:3], fin=False, rsv=COMPRESSED)
        + frame(CONTINUATION, HELLO[3:5], fin=False)
        + frame(PING)
        + frame(CONTINUATION, HELLO[5:], fin=False)
        + frame(CONTINUATION),
        [Ping(b""), "grüße".encode() * 9],
    ),
}


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_however_it_is_split(name: str, parser: str) -> None:
    data, expected = CONVERSATIONS[name]
    for first in range(len(data)):
        for second in {first + 1, len(data)}:
            made = reader(parser, compressed=agreement())
            assert events(made, data[:first], data[first:second], data[second:]) == expected
    assert events(reader(parser, compressed=agreement()), *(bytes((b,)) for b in data)) == expected


@pytest.mark.parametrize("parser", PARSERS)
def test_a_length_of_eight_bytes(parser: str) -> None:
    data = frame(BINARY, bytes(range(256)) * 300)
    for at in (1, 2, 9, 10, 13, 14, 15, 40_001, len(data) - 1):
        assert events(reader(parser), data[:at], data[at:]) == [bytes(range(256)) * 300]


VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "not masked": (b"\x81\x02hi", 1002),
    "control not masked": (b"\x89\x00", 1002),
    "reserved opcode": (frame(3), 1002),
    "reserved control opcode": (frame(11), 1002),
    "reserved bit": (frame(TEXT, rsv=1), 1002),
    "other reserved bit": (frame(TEXT, rsv=2), 1002),
    "compressed without agreement": (frame(TEXT, rsv=4), 1002),
    "reserved bit of a control frame": (frame(PING, rsv=4), 1002),
    "reserved bit of a continuation": (
        frame(TEXT, fin=False) + frame(CONTINUATION, rsv=4),
        1002,
    ),
    "a ping in fragments": (frame(PING, fin=False), 1002),
    "a ping that is too long": (frame(PING, b"x" * 126), 1002),
    "a continuation of nothing": (frame(CONTINUATION), 1002),
    "a message in another": (frame(TEXT, fin=False) + frame(TEXT), 1002),
    "two bytes for a short length": (b"\x81\xfe\x00\x7d" + MASK + b"x" * 125, 1002),
    "eight bytes for a short length": (b"\x82\xff" + bytes(6) + b"\xff\xff" + MASK, 1002),
    "a length of 2 to the 63": (b"\x82\xff\x80" + bytes(7) + MASK, 1002),
    "a length of 2 to the 60": (b"\x82\xff\x10" + bytes(7) + MASK, 1009),
    "not UTF-8": (frame(TEXT, b"\xff"), 1007),
    "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "cut in a character": (frame(TEXT, b"\xc3"), 1007),
    "cut in a character, in fragments": (
        frame(TEXT, b"a\xc3", fin=False) + frame(CONTINUATION),
        1007,
    ),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close with a reason that is not UTF-8": (close_frame(1000, b"\xff"), 1007),
}


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("name", VIOLATIONS)
def test_what_breaks_the_rules(name: str, parser: str) -> None:
    data, code = VIOLATIONS[name]
    for pieces in [(data,), tuple(bytes((b,)) for b in data)]:
        with pytest.raises(Violation) as violation:
            events(reader(parser), *pieces)
        assert violation.value.code == code


@pytest.mark.parametrize("parser", PARSERS)
def test_text_that_is_not_utf_8_is_found_at_once(parser: str) -> None:
    """Not when the last of many megabytes has come."""
    for data in (
        frame(TEXT, b"a" * 1000 + b"\xff", fin=False),
        frame(TEXT, b"a" * 1000 + b"\xff" + b"a" * 1000)[:1300],
    ):
        with pytest.raises(Violation) as violation:
            events(reader(parser), data)
        assert violation.value.code == 1007


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("kind", ["one frame", "fragments", "compressed"])
@pytest.mark.parametrize("size", [1000, 1001])
def test_the_limit(kind: str, size: int, parser: str) -> None:
    """CVE-2026-44545: neither a frame nor a message was limited."""
    message = b"x" * size
    data = {
        "one frame": frame(BINARY, message),
        "fragments": frame(BINARY, message[:600], fin=False) + frame(CONTINUATION, message[600:]),
        "compressed": frame(BINARY, deflated(message), rsv=COMPRESSED),
    }[kind]
    made = reader(parser, 1000, agreement())
    if size == 1000:
        # The next one is counted anew.
        assert events(made, data, frame(TEXT, b"y" * 1000)) == [message, "y" * 1000]
        return
    with pytest.raises(Violation) as violation:
        events(made, data)
    assert violation.value.code == 1009


def test_a_frame_that_is_too_long_is_refused_by_its_header() -> None:
    made = reader(max_bytes=1000)
    with pytest.raises(Violation) as violation:
        events(made, frame(BINARY, b"x" * 1001)[:8])
    assert violation.value.code == 1009


def test_compressed_data_that_comes_to_nothing_has_an_end() -> None:
    made = reader(max_bytes=100_000, compressed=agreement())
    nothing = b"\0\0\0\xff\xff" * 4000
    first = frame(BINARY, nothing, fin=False, rsv=COMPRESSED)
    with pytest.raises(Violation) as violation:
        events(made, first, *[frame(CONTINUATION, nothing, fin=False)] * 10)
    assert violation.value.code == 1009


def test_cve_2026_48779() -> None:
    """A million fragments of one byte: memory for what they hold, and time for each."""
    made = reader("auto")
    piece = frame(CONTINUATION, b"x", fin=False) * 1000
    made.feed(frame(TEXT, b"x", fin=False))
    tracemalloc.start()
    events(made, *[piece] * 200)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
    begin = time.process_time()
    [message] = events(made, *[piece] * 800, frame(CONTINUATION))
    assert isinstance(message, str)
    assert len(message) == 1_000_001
    assert time.process_time() - begin < 20


# ---- against wsproto


def their_events(data: bytes, *, compressed: bool) -> tuple[list[Event], bool]:
    """Return what wsproto makes of `data`, and whether it finds a violation."""
    extension = PerMessageDeflate()
    extension._enabled = True
    connection = Connection(ConnectionType.SERVER, [extension] if compressed else [])
    found: list[Event] = []
    message: Any = None
    connection.receive_data(data)
    try:
        for event in connection.events():
            match event:
                case theirs.Message():
                    message = event.data if message is None else message + event.data
                    if event.message_finished:
                        found.append(message if isinstance(message, str) else bytes(message))
                        message = None
                case theirs.Ping():
                    found.append(Ping(bytes(event.payload)))
                case theirs.Pong():
                    found.append(Pong(bytes(event.payload)))
                case theirs.CloseConnection():
                    found.append(Close(event.code, event.reason or ""))
                    return found, False
    except RemoteProtocolError:
        return found, True
    return found, False


def our_events(parser: str, pieces: list[bytes], *, compressed: bool) -> tuple[list[Event], bool]:
    made = reader(parser, compressed=agreement() if compressed else None)
    found: list[Event] = []
    try:
        for event in read(made, *pieces):
            found.append(event)
            if isinstance(event, Close):
                return found, False
    except Violation:
        return found, True
    return found, False


MASKS = st.binary(min_size=4, max_size=4)
PAYLOADS = st.binary(max_size=140) | st.text(max_size=80).map(str.encode)


@st.composite
def conversations(draw: st.DrawFn, *, compressed: bool) -> bytes:
    """Messages in fragments, with control frames in between; then perhaps a close."""
    data = b""
    for _ in range(draw(st.integers(0, 4))):
        payload = draw(PAYLOADS)
        opcode = draw(st.sampled_from((TEXT, BINARY)))
        if opcode == TEXT:
            payload = payload.decode("utf-8", "replace").encode()
        rsv = draw(st.sampled_from((0, COMPRESSED))) if compressed else 0
        if rsv:
            payload = deflated(payload)
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        for begin, end in zip([0, *cuts], [*cuts, len(payload)], strict=True):
            last = end == len(payload) and begin == (cuts[-1] if cuts else 0)
            data += frame(opcode, payload[begin:end], fin=last, rsv=rsv, mask=draw(MASKS))
            if last:
                break
            opcode, rsv = CONTINUATION, 0
            # wsproto 1.3 takes what follows a ping in a compressed message as not compressed.
            if not compressed and draw(st.booleans()):
                control = draw(st.sampled_from((PING, PONG)))
                data += frame(control, draw(st.binary(max_size=125)), mask=draw(MASKS))
    if draw(st.booleans()):
        reason = draw(st.text(max_size=30)).encode()
        data += close_frame(draw(st.sampled_from((1000, 1001, 1011, 3000, 4999))), reason)
    return data


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


PLACES = st.lists(st.integers(0, 1 << 16), max_size=6)


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("compressed", [False, True])
@given(st.data(), PLACES)
def test_what_is_valid_is_the_same_to_wsproto(
    parser: str, compressed: bool, draw: st.DataObject, places: list[int]
) -> None:
    data = draw.draw(conversations(compressed=compressed))
    found, broken = our_events(parser, cut(data, places), compressed=compressed)
    assert not broken
    assert (found, broken) == their_events(data, compressed=compressed)


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("length", [b"\x7e\0\x7d", b"\x7f\x80" + bytes(7), b"\x7f" + bytes(8)])
def test_a_length_is_checked_before_the_mask_has_come(parser: str, length: bytes) -> None:
    head = bytes((0x81, length[0] | 0x80)) + length[1:]
    assert our_events(parser, [head], compressed=False)[1]
    assert not our_events(parser, [head[:-1]], compressed=False)[1]


@pytest.mark.parametrize("parser", PARSERS)
@given(st.data(), PLACES, st.integers(0, 1 << 16), st.integers(1, 255))
def test_what_is_damaged_we_refuse_where_wsproto_does(
    parser: str, draw: st.DataObject, places: list[int], at: int, change: int
) -> None:
    data = bytearray(draw.draw(conversations(compressed=False)))
    if not data:
        return
    data[at % len(data)] ^= change
    whole = our_events(parser, [bytes(data)], compressed=False)
    assert our_events(parser, cut(bytes(data), places), compressed=False) == whole
    found, broken = their_events(bytes(data), compressed=False)
    if broken:
        assert whole[1], "we take what wsproto refuses"
    elif not whole[1]:
        assert whole[0] == found
