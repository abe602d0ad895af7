"""Responses that the accelerator writes, against the Python code; and that it gives memory back.

What it takes, that code must have taken, with the same result; what it leaves alone needs no
comparison, but must not be what it is there for.
"""

import contextlib
import gc
import importlib.util
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import subserve
from subserve.http.h1.framing import Framing
from subserve.http.h1.response import CLOSE, KEEP_ALIVE, ResponseHead
from tests.unit.h1_accelerated import (
    NAMES,
    ORDINARY_NAMES,
    TEXTS,
    VALUES,
    _accelerator,
    parse_head,
    send_now,
    whole_response,
)

DATE = b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
ENDS = {
    ("1.1", True): b"\r\n",
    ("1.1", False): CLOSE + b"\r\n",
    ("1.0", True): KEEP_ALIVE + b"\r\n",
    ("1.0", False): CLOSE + b"\r\n",
}


def compare_responses(headers: Any, body: Any, status: int = 200) -> bool:
    """Compare the two, and return whether the accelerator took it."""
    line = ResponseHead(status, ()).lines
    before = repr((headers, body))
    taken = set()
    for (version, keep_alive), closing in ENDS.items():
        made = whole_response(line, headers, body, DATE, closing, False)
        taken.add(made is not None)
        if made is not None:
            framing = Framing("GET", version, lambda *_: None)
            framing.start(status, headers)
            parts = framing.whole(body, keep_alive=keep_alive, date=DATE)
            assert made == b"".join(parts)
            assert framing.close != keep_alive
    assert whole_response(line, headers, body, DATE, b"\r\n", True) is None
    assert repr((headers, body)) == before
    assert len(taken) == 1
    return taken.pop()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([], b""),
        ((), b"x"),
        ([(b"content-type", b"text/plain")], b"x" * 9),
        ([[b"Content-Type", b""], (b"x" * 300, b"\t\x01\x7f\xff")], b"x" * 10),
        (([b"content-length", b"005"], (b"a", b"b"), (b"Content-Length", b"5")), b"12345"),
        ([(b"Date", b"today"), (b"DATE", b"tomorrow")], b"\r\n\x00"),
        ([(b"date", b"today"), (b"x", b"y")], b""),
        ([(b"set-cookie", b"a=b")] * 128, b"x" * 100_000),
    ],
)
def test_responses_that_it_is_there_for(headers: Any, body: bytes) -> None:
    assert compare_responses(headers, body)
    assert compare_responses(headers, body, status=599)


class Listed(list[Any]):
    """What may do anything when it is iterated over."""


class Bytes(bytes):
    __slots__ = ()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([(b"content-length", b"6")], b"12345"),
        ([(b"content-length", b"")], b""),
        ([(b"content-length", b"+5")], b"12345"),
        ([(b"content-length", b"0" * 19)], b""),
        ([(b"content-length", b"5"), (b"content-length", b"6")], b"12345"),
        ([(b"Transfer-Encoding", b"chunked")], b""),
        ([(b"connection", b"close")], b""),
        ([(b"CONNECTION", b"x")], b""),
        ([(b"Keep-Alive", b"x")], b""),
        ([(b"proxy-Connection", b"x")], b""),
        ([(b"", b"x")], b""),
        ([(b"a b", b"x")], b""),
        ([(b"a:", b"x")], b""),
        ([(b"a\r\nb", b"x")], b""),
        ([(b"a\xe9", b"x")], b""),
        ([(b"a", b"x\r\n")], b""),
        ([(b"date", b"x\x00")], b""),
        ([(b"a", b"12345678\n")], b""),
        ([(b"a", b"x")] * 129, b""),
        (iter([(b"a", b"x")]), b""),
        (Listed([(b"a", b"x")]), b""),
        ({b"ab": b"x"}, b""),
        (None, b""),
        ([b"ab"], b""),
        ([(b"a",)], b""),
        ([(b"a", b"b", b"c")], b""),
        ([Listed([b"a", b"x"])], b""),
        ([("a", b"x")], b""),
        ([(b"a", "x")], b""),
        ([(Bytes(b"a"), b"x")], b""),
        ([(b"a", None)], b""),
        ([], bytearray(b"x")),
        ([], Bytes(b"x")),
        ([], ""),
        ([], None),
    ],
)
def test_responses_that_are_left_alone(headers: Any, body: Any) -> None:
    assert not compare_responses(headers, body)


def test_a_generator_that_is_left_alone_has_not_begun() -> None:
    pairs = (pair for pair in [(b"a", b"b")])
    assert not compare_responses(pairs, b"")
    assert list(pairs) == [(b"a", b"b")]


@pytest.mark.parametrize("filler", [b"", b"x" * 7, b"x" * 8, b"x" * 20])
def test_every_byte_in_names_and_values(filler: bytes) -> None:
    taken = 0
    for value in range(256):
        part = b"%b%c%b" % (filler, value, filler)
        assert compare_responses([(b"a", part)], b"") == (value not in b"\r\n\x00")
        taken += compare_responses([(part, b"a")], b"")
        compare_responses([(b"content-length", part)], b"")
    assert taken == 77  # characters of a token


pairs = st.tuples(
    st.sampled_from([b"content-length", b"Date", b"connection", b"content-type", b"Set-Cookie"])
    | NAMES
    | st.binary(max_size=18),
    st.integers(0, 12).map(lambda number: b"%d" % number) | VALUES,
)


@given(
    st.lists(pairs | pairs.map(list), max_size=8),
    st.binary(max_size=12),
    st.sampled_from([200, 404, 500, 299]),
)
def test_responses_of_any_kind(headers: list[Any], body: bytes, status: int) -> None:
    compare_responses(headers, body, status)
    compare_responses(tuple(headers), body, status)


@given(
    st.lists(st.tuples(ORDINARY_NAMES, TEXTS.map(lambda text: text.encode("latin-1"))), max_size=10)
)
def test_no_unremarkable_response_is_left_alone(headers: list[tuple[bytes, bytes]]) -> None:
    assert compare_responses([*headers, (b"Content-Length", b"3")], b"abc")


@pytest.mark.parametrize("place", [0, 3, 4, 5])
def test_what_is_ours_is_checked_as_well(place: int) -> None:
    arguments: list[Any] = [b"", [], b"", b"", b"", False]
    assert whole_response(*arguments) == b"content-length: 0\r\n"
    arguments[place] = bytearray()
    with pytest.raises(TypeError, match="bodiless"):
        whole_response(*arguments)
    with pytest.raises(TypeError, match="bodiless"):
        whole_response(*arguments[:-1])


def test_one_object_in_several_places() -> None:
    same = b"a"
    assert whole_response(same, [(same, same)], same, same, same, False) == (
        b"aa: a\r\nacontent-length: 1\r\naa"
    )
    dated = whole_response(same, [(b"date", same)], same, same, same, False)
    assert dated == b"adate: a\r\ncontent-length: 1\r\naa"


# ---- sending


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection, which wait by default: it is for the function not to."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_sending_tells_how_much_the_kernel_took(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    assert send_now(ours.fileno(), b"abc") == 3
    assert theirs.recv(10) == b"abc"
    data = bytes(10_000_000)
    assert 0 < send_now(ours.fileno(), data) < len(data)

    def go_on() -> None:
        for _ in range(1000):
            send_now(ours.fileno(), data)

    with pytest.raises(BlockingIOError):
        go_on()


def test_sending_to_nobody_is_an_error_and_no_signal(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    theirs.close()
    with signal_default(signal.SIGPIPE), pytest.raises(BrokenPipeError):
        send_now(ours.fileno(), b"x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        send_now(-1, b"x")


@contextlib.contextmanager
def signal_default(number: int) -> Iterator[None]:
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("arguments", [(), (1,), (1, bytearray()), ("1", b""), (1, b"", 0)])
def test_sending_what_cannot_be_sent(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        send_now(*arguments)


# ---- the module

HEAD = b"POST /a?b HTTP/1.1\r\nHost: a\r\nX-Own: b\r\nContent-Length: 1000\r\n\r\n"


def load() -> ModuleType:
    """Load the module once more, with a state of its own."""
    assert _accelerator.__spec__ is not None
    module = importlib.util.module_from_spec(_accelerator.__spec__)
    assert _accelerator.__spec__.loader is not None
    _accelerator.__spec__.loader.exec_module(module)
    return module


def test_a_function_keeps_what_it_needs() -> None:
    module = load()
    gone = weakref.ref(module)
    read = module.parse_head
    assert read is not parse_head
    del module
    gc.collect()
    assert read(HEAD, 1000, 10) == parse_head(HEAD, 1000, 10)
    del read
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "call",
    [
        load,
        lambda: parse_head(HEAD, 1000, 10),
        lambda: parse_head(HEAD[:-1], 1000, 10),
        lambda: whole_response(b"x", [(b"a", b"b"), [b"date", b"c"]], b"body", DATE, b"y", False),
        lambda: whole_response(b"x", [(b"a", b"b"), (b"c", b"\r")], b"body", DATE, b"y", False),
    ],
    ids=["module", "head", "no head", "response", "no response"],
)
def test_memory_is_given_back(call: Callable[[], object]) -> None:
    call()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(2000):
        call()
    gc.collect()
    assert sys.getallocatedblocks() - before < 500


IN_INTERPRETERS = """
import sys, threading
from concurrent import interpreters

CODE = '''
from subserve.http.h1 import _accelerator as a
head = b"GET /x?y HTTP/1.1\\\\r\\\\nHost: a\\\\r\\\\nX-Own: b\\\\r\\\\n\\\\r\\\\n"
for number in range(20000):
    assert a.parse_head(head, 100, 10)[5] == [(b"host", b"a"), (b"x-own", b"b")]
    assert a.whole_response(b"s", [(b"a", b"b")], b"%d" % number, b"", b"", False)
'''

def run(done):
    for _ in range(3):
        interpreter = interpreters.create()
        interpreter.exec(f"import sys; sys.path[:] = {sys.path!r}")
        interpreter.exec(CODE)
        interpreter.close()
    done.append(True)

done = []
threads = [threading.Thread(target=run, args=(done,)) for _ in range(4)]
for thread in threads:
    thread.start()
exec(CODE)
for thread in threads:
    thread.join(60)
print(len(done))
"""


def test_interpreters_with_their_own_gil_use_it_at_once_and_end() -> None:
    """In a child process: what goes wrong here crashes."""
    root = Path(subserve.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", IN_INTERPRETERS],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")
