"""The accelerator of the WebSocket lane, against the Python code that it stands in for."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.http.ws import frames
from subserve.interpreter import Interpreter
from tests.unit.ws_harness import BINARY, CONTINUATION, MASK, PING, TEXT, events, frame, reader
from tools.hatch_build import CannotCompile, find_tools

try:
    from subserve.http.ws import _accelerator
except ImportError:
    try:
        find_tools()
    except CannotCompile as reason:
        pytest.skip(f"there is no accelerator: {reason}", allow_module_level=True)
    raise

LIMIT = 70_000


def compare(data: bytes, at: int = 0) -> bool:
    """Compare the two, and return whether the accelerator took it."""
    found = _accelerator.take_message(data, at, LIMIT)
    if found is None:
        return False
    message, end = found
    made = reader(max_bytes=LIMIT)
    made.feed(data[at:])
    assert made.next_event() == message
    assert made.unread_bytes == len(data) - end
    return True


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 125, 126, 127, 65535, 65536, LIMIT])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_what_it_is_there_for(opcode: int, size: int) -> None:
    for letter in ("x", "ü", "\u20ac", "\U0001d11e"):
        payload = (letter * size).encode()[: size - size % len(letter.encode())]
        data = b"before" + frame(opcode, payload) + b"behind"
        assert compare(data, 6)


@given(st.binary(max_size=300), st.sampled_from((TEXT, BINARY)), st.binary(min_size=4, max_size=4))
def test_any_payload(payload: bytes, opcode: int, mask: bytes) -> None:
    taken = compare(frame(opcode, payload, mask=mask))
    try:
        payload.decode()
    except UnicodeDecodeError:
        assert taken is (opcode == BINARY)
    else:
        assert taken


@given(st.text(max_size=60), st.integers(0, 1 << 16), st.integers(1, 255))
def test_damaged_frames(text: str, at: int, change: int) -> None:
    data = bytearray(frame(TEXT, text.encode()))
    data[at % len(data)] ^= change
    compare(bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"x" * (LIMIT + 1)),
        frame(TEXT, b"x", fin=False),
        frame(TEXT, b"x", rsv=4),
        frame(CONTINUATION, b"x"),
        frame(PING, b"x"),
        frame(TEXT, b"\xff"),
        b"\x81\x02hi" + bytes(9),
        b"\x81\xfe\x00\x7d" + MASK + bytes(125),
        b"\x82\xff" + bytes(6) + b"\xff\xff" + MASK + bytes(65535),
        b"\x82\xff" + b"\xff" * 8 + MASK + bytes(99),
    ],
)
def test_what_is_left_alone(data: bytes) -> None:
    assert _accelerator.take_message(data, 0, LIMIT) is None


def test_cve_2026_49854() -> None:
    """Each of the beginnings of a frame, from a place of memory that ends there."""
    for size in (5, 126, 65536):
        data = frame(BINARY, bytes(size))
        for end in {*range(min(20, len(data))), len(data) - 1}:
            assert _accelerator.take_message(data[:end], 0, LIMIT) is None
    for at in (1, 2, 99):
        assert _accelerator.take_message(b"\x82", at, LIMIT) is None


@given(st.binary(max_size=90), st.binary(min_size=4, max_size=4), st.data())
def test_masks(data: bytes, mask: bytes, draw: st.DataObject) -> None:
    start = draw.draw(st.integers(0, len(data)))
    end = draw.draw(st.integers(start, len(data)))
    assert _accelerator.unmask(data, start, end, mask) == frames.unmask(data, start, end, mask)


@pytest.mark.parametrize(
    "arguments",
    [
        (b"abcd", -1, 2, MASK),
        (b"abcd", 3, 2, MASK),
        (b"abcd", 0, 5, MASK),
        (b"abcd", 0, 4, MASK[:3]),
    ],
)
def test_places_that_are_none(arguments: tuple[bytes, int, int, bytes]) -> None:
    with pytest.raises(ValueError, match="a place outside of the data"):
        _accelerator.unmask(*arguments)


@pytest.mark.parametrize("name", ["take_message", "unmask"])
def test_wrong_arguments(name: str) -> None:
    function = getattr(_accelerator, name)
    for arguments in ((), ("a", 0, 1), (b"a", "b", 1), (b"a", 0, 1, "abcd"), (b"a", 0, b"c", MASK)):
        with pytest.raises(TypeError):
            function(*arguments)


def test_several_interpreters_use_it_at_once() -> None:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from subserve.http.ws import _accelerator as a\n"
        "data = b'\\x81\\x85' + bytes(4) + b'hello'\n"
        "for _ in range(20_000):\n"
        "    assert a.take_message(data, 0, 99) == ('hello', 11)\n"
        "    assert a.unmask(data, 6, 11, bytes(4)) == b'hello'\n"
    )
    with ThreadPoolExecutor(3) as executor:
        made = [Interpreter() for _ in range(3)]
        for done in [executor.submit(one.run, code) for one in made]:
            done.result(60)  # raises what it raised there
    for one in made:
        one.close()


def test_the_whole_reader_with_it() -> None:
    assert events(reader("c"), frame(TEXT, b"a") + frame(BINARY, b"b")) == ["a", b"b"]
