"""`RequestBody` reads as `io.BytesIO` does, however the body is cut into chunks."""

import io
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.http.wsgi.body import RequestBody

# Few letters and many newlines, so that lines end inside of chunks, at their ends and across them.
chunk_lists = st.lists(st.text("ab\n", min_size=1, max_size=9).map(str.encode), max_size=8)
sizes = st.one_of(st.none(), st.integers(-2, 12))
calls = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["read", "readline", "readlines"]), sizes),
        st.tuples(st.sampled_from(["read", "readline", "readlines", "next", "list"])),
    ),
    max_size=12,
)


def body_of(*chunks: bytes) -> RequestBody:
    return RequestBody(puller(list(chunks)))


def puller(chunks: list[bytes]) -> Callable[[], bytes]:
    """Return a `pull` that fails when it is called again after the end."""

    def pull() -> Iterator[bytes]:
        yield from chunks
        yield b""

    return pull().__next__


def perform(stream: RequestBody | io.BytesIO, call: tuple[object, ...]) -> object:
    match call:
        case ("next",):
            return next(iter(stream), None)
        case ("list",):
            return list(stream)
        case (str(name), *arguments):
            return getattr(stream, name)(*arguments)
    raise AssertionError(call)


@given(chunk_lists, calls)
def test_any_calls_on_any_chunks_equal_bytesio(
    chunks: list[bytes], calls: list[tuple[object, ...]]
) -> None:
    body, model = body_of(*chunks), io.BytesIO(b"".join(chunks))
    for call in calls:
        assert perform(body, call) == perform(model, call)
    assert body.read() == model.read()


@pytest.mark.parametrize("method", ["read", "readline"])
def test_the_end_stays_the_end(method: str) -> None:
    body = body_of(b"ab")
    assert [getattr(body, method)(9) for _ in range(3)] == [b"ab", b"", b""]


def test_a_chunk_read_whole_is_not_copied() -> None:
    chunk = b"x" * 100_000
    assert body_of(chunk).read() is chunk


def test_reading_a_part_pulls_no_more_than_it_needs() -> None:
    pulled = []

    def pull() -> bytes:
        pulled.append(1)
        return b"abc\n"

    body = RequestBody(pull)
    assert body.read(2) == b"ab"
    assert body.readline() == b"c\n"
    assert body.read(0) == b""
    assert len(pulled) == 1


def test_an_error_of_the_source_reaches_the_reader_each_time() -> None:
    def pull() -> bytes:
        raise ConnectionResetError("gone")

    body = RequestBody(pull)
    for read in (body.read, body.readline, body.readlines, lambda: next(body)):
        with pytest.raises(ConnectionResetError, match="gone"):
            read()
