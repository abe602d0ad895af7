"""start_response, write() and the iterable, seen from the client's side of the adapter."""

import gc
import io
import logging
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from subserve.http.wsgi import FileWrapper, WsgiViolation
from subserve.http.wsgi.files import MIN_BLOCK_BYTES
from tests.unit.wsgi_harness import Connection, http_scope, post_scope, serve

TEXT = ("Content-Type", "text/plain")
LARGE = b"x" * 300_000  # too much to be let go of before it is sent


class Chunks:
    """An iterable that is not a list, and counts what is done to it."""

    def __init__(self, *chunks: Any) -> None:
        self._chunks = iter(chunks)
        self.taken = 0
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.taken += 1
            yield chunk

    def close(self) -> None:
        self.closed += 1


class Sized(Chunks):
    def __init__(self, *chunks: Any, length: int | None = None) -> None:
        super().__init__(*chunks)
        self._length = len(chunks) if length is None else length

    def __len__(self) -> int:
        return self._length


def answering(body: Any, *headers: tuple[str, str], status: str = "200 OK") -> Callable[..., Any]:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response(status, [TEXT, *headers])
        return body

    return app


def writing(*chunks: bytes, then: Any = (), length: int | None = None) -> Callable[..., Any]:
    headers = [TEXT] if length is None else [TEXT, ("Content-Length", str(length))]

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", headers)
        for chunk in chunks:
            write(chunk)
        return then

    return app


def get(body: Any, *headers: tuple[str, str], status: str = "200 OK") -> Connection:
    return serve(answering(body, *headers, status=status))


def head(body: Any, *headers: tuple[str, str]) -> Connection:
    return serve(answering(body, *headers), http_scope(method="HEAD"))


class TestBody:
    @pytest.mark.parametrize("body", [[b"ab", b"c"], (b"abc",), [b"", b"abc", b""]])
    def test_a_sequence_goes_out_in_one_piece_with_its_length(self, body: Any) -> None:
        client = get(body)
        assert client.status == 200
        assert client.headers == [(b"content-type", b"text/plain"), (b"content-length", b"3")]
        assert client.chunks == [b"abc"]
        assert client.complete

    def test_a_large_sequence_goes_out_item_by_item_with_its_length(self) -> None:
        client = get([LARGE, b"", b"end"])
        assert client.header(b"content-length") == b"%d" % (len(LARGE) + 3)
        assert client.chunks == [LARGE, b"end"]
        assert client.complete

    @pytest.mark.parametrize("body", [[], (), [b""], Chunks(), Chunks(b"", b"")])
    def test_nothing_is_a_body_of_length_0(self, body: Any) -> None:
        client = get(body)
        assert client.header(b"content-length") == b"0"
        assert client.chunks == [b""]
        assert client.complete

    def test_a_stream_goes_out_chunk_by_chunk_without_a_length(self) -> None:
        client = get(Chunks(b"", b"a", b"", b"b"))
        assert client.header(b"content-length") is None
        assert client.chunks == [b"a", b"b", b""]
        assert client.complete

    def test_a_stream_with_a_length_ends_with_its_last_byte(self) -> None:
        client = get(Chunks(b"ab", b"c"), ("Content-Length", "3"))
        assert client.header(b"content-length") == b"3"
        assert client.chunks == [b"ab", b"c"]
        assert client.complete

    def test_of_an_iterable_of_one_the_length_is_known(self) -> None:
        client = get(Sized(b"abc"))
        assert client.header(b"content-length") == b"3"
        assert client.chunks == [b"abc"]
        assert client.complete
        assert get(Sized(b"a", b"b")).header(b"content-length") is None

    def test_an_iterable_of_the_old_protocol(self) -> None:
        class Old:
            def __getitem__(self, index: int) -> bytes:
                return [b"a", b"b"][index]

        assert get(Old()).body == b"ab"

    @pytest.mark.parametrize("item", ["text", bytearray(b"a"), 1, None])
    @pytest.mark.parametrize("kind", [Chunks, lambda *items: list(items)])
    def test_what_is_not_bytes_is_refused(self, kind: Callable[..., Any], item: object) -> None:
        with pytest.raises(WsgiViolation, match="must be bytes, not "):
            get(kind(item))

    @pytest.mark.parametrize("body", [None, 1])
    def test_what_is_not_iterable_is_refused(self, body: object) -> None:
        with pytest.raises(WsgiViolation, match="not an iterable"):
            get(body)

    @pytest.mark.parametrize("body", ["text", b"bytes"])
    def test_a_bare_string_is_refused(self, body: object) -> None:
        with pytest.raises(WsgiViolation, match="must be bytes, not "):
            get(body)


class TestContentLength:
    @pytest.mark.parametrize("body", [[b"abcd"], [b"a", b"bcd"], Chunks(b"a", b"bcd"), [LARGE]])
    def test_what_is_too_much_is_cut_off_and_logged(
        self, body: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = get(body, ("Content-Length", "3"))
        assert client.header(b"content-length") == b"3"
        assert len(client.body) == 3
        assert client.complete
        assert [record.getMessage() for record in caplog.records] == [
            "cut off the end of a response: Content-Length is 3 bytes, 3 of them sent"
        ]

    def test_what_comes_after_the_end_is_dropped_and_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        body = Chunks(b"abc", b"", b"d", b"never asked for")
        client = get(body, ("Content-Length", "3"))
        assert client.body == b"abc"
        assert client.complete
        assert body.taken == 3
        assert [record.levelno for record in caplog.records] == [logging.ERROR]

    def test_an_iterable_of_one_that_gives_two_is_cut_off(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = get(Sized(b"a", b"b", length=1))
        assert (client.header(b"content-length"), client.body) == (b"1", b"a")
        assert "promised one item" in caplog.text

    def test_code_behind_the_last_yield_runs_when_the_client_has_all(self) -> None:
        seen = []
        client: list[Connection] = []

        def body() -> Iterator[bytes]:
            yield b"abc"
            seen.append("temporary file removed")

        client.append(get(body(), ("Content-Length", "3")))
        assert seen == ["temporary file removed"]
        assert client[0].complete

    def test_too_little_at_once_is_an_error_before_anything_is_sent(self) -> None:
        connection = failing(answering([b"ab"], ("Content-Length", "3")), match="2 of them sent")
        assert connection.sent == []

    def test_too_little_in_a_stream_breaks_it_off(self) -> None:
        connection = failing(
            answering(Chunks(b"ab"), ("Content-Length", "3")), match="not enough body"
        )
        assert connection.chunks == [b"ab"]
        assert not connection.complete

    def test_nothing_in_a_stream_is_an_error_before_anything_is_sent(self) -> None:
        connection = failing(answering(Chunks(), ("Content-Length", "3")), match="not enough")
        assert connection.sent == []


class TestBodiless:
    @pytest.mark.parametrize("body", [[], (), Chunks()])
    @pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
    def test_204_and_304(self, body: Any, status: str) -> None:
        client = get(body, status=status)
        assert client.status == int(status[:3])
        assert client.header(b"content-length") is None
        assert client.chunks == [b""]
        assert client.complete

    @pytest.mark.parametrize("kind", [Chunks, Sized, lambda *items: list(items)])
    def test_a_body_of_204_is_dropped_with_a_warning(
        self, kind: Callable[..., Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        client = get(kind(b"abc"), status="204 No Content")
        assert client.chunks == [b""]
        assert client.header(b"content-length") is None
        assert client.complete
        assert "a response with status 204 has none" in caplog.text

    def test_304_keeps_its_content_length(self) -> None:
        client = get([], ("Content-Length", "3"), status="304 Not Modified")
        assert client.header(b"content-length") == b"3"
        assert client.complete

    @pytest.mark.parametrize("body", [[], Chunks(), [b"abc"], Chunks(b"abc"), Chunks(b"a", b"bc")])
    def test_head_keeps_content_length_and_drops_the_body(
        self, body: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = head(body, ("Content-Length", "3"))
        assert client.header(b"content-length") == b"3"
        assert client.chunks == [b""]
        assert client.complete
        assert caplog.records == []

    def test_the_length_of_an_empty_answer_to_head_is_unknown(self) -> None:
        assert head([]).header(b"content-length") is None
        assert head(Chunks()).header(b"content-length") is None

    @pytest.mark.parametrize("body", [[b"abc"], Sized(b"abc")])
    def test_the_length_of_a_full_answer_to_head_is_known(self, body: Any) -> None:
        client = head(body)
        assert client.header(b"content-length") == b"3"
        assert client.chunks == [b""]

    def test_head_does_not_run_a_stream_to_its_end(self) -> None:
        body = Chunks(b"a", b"b", b"c")
        client = head(body)
        assert client.complete
        assert (body.taken, body.closed) == (1, 1)

    def test_head_with_write(self, caplog: pytest.LogCaptureFixture) -> None:
        client = serve(writing(b"a", b"b", length=2), http_scope(method="HEAD"))
        assert client.chunks == [b""]
        assert client.complete
        assert caplog.records == []


class TestWrite:
    def test_write_then_iterate(self) -> None:
        client = serve(writing(b"a", b"b", then=[b"c"]))
        assert client.header(b"content-length") is None
        assert client.chunks == [b"a", b"b", b"c", b""]
        assert client.complete

    def test_the_first_write_sends_the_headers(self) -> None:
        client = serve(writing(b""))
        assert client.status == 200
        assert client.header(b"content-length") is None
        assert client.chunks == [b""]
        assert client.complete

    def test_write_with_a_length(self) -> None:
        client = serve(writing(b"ab", b"", b"c", b"", length=3))
        assert client.chunks == [b"ab", b"c"]
        assert client.complete

    @pytest.mark.parametrize("chunks", [(b"abcd",), (b"abc", b"d")])
    def test_write_past_the_end_raises_in_the_app(self, chunks: tuple[bytes, ...]) -> None:
        connection = failing(writing(*chunks, length=3), match=r"write\(\) past the end")
        assert connection.body == b"abc"
        assert connection.complete

    def test_write_takes_nothing_but_bytes(self) -> None:
        failing(writing("text"), match="must be bytes, not str")  # type: ignore[arg-type]


class TestStartResponse:
    def test_never_called(self) -> None:
        failing(lambda environ, start_response: [b""], match="has not called start_response")
        failing(lambda environ, start_response: Chunks(b"a"), match="has not called")
        failing(lambda environ, start_response: Chunks(), match="has not called")

    def test_called_by_the_first_iteration(self) -> None:
        def app(environ: Any, start_response: Callable[..., Any]) -> Iterator[bytes]:
            start_response("201 Created", [TEXT])
            yield b"a"

        client = serve(app)
        assert (client.status, client.body) == (201, b"a")

    def test_called_twice(self) -> None:
        def app(environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
            start_response("200 OK", [TEXT])
            start_response("200 OK", [TEXT])
            return []

        failing(app, match="again without exc_info")

    def test_a_call_that_failed_counts(self) -> None:
        def app(environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
            with pytest.raises(WsgiViolation, match="three digits"):
                start_response("OK", [TEXT])
            start_response("200 OK", [TEXT])
            return []

        failing(app, match="again without exc_info")

    def test_arguments_are_positional(self) -> None:
        def app(environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
            start_response(status="200 OK", headers=[])
            return []

        failing(app, TypeError, match="positional")

    def test_later_changes_of_the_list_change_nothing(self) -> None:
        def app(environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
            headers = [TEXT]
            start_response("200 OK", headers)
            headers.append(("X", "bad\r\n"))
            return []

        assert serve(app).header(b"x") is None

    def test_a_bad_header_is_an_error_while_the_app_runs(self) -> None:
        caught = []

        def app(environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
            try:
                start_response("200 OK", [("Connection", "close")])
            except WsgiViolation as error:
                caught.append(str(error))
                start_response("500 Oops", [TEXT], sys.exc_info())
            return [b"sorry"]

        client = serve(app)
        assert (client.status, client.body) == (500, b"sorry")
        assert "'Connection' is hop-by-hop" in caught[0]


class TestExcInfo:
    def test_replaces_headers_that_were_not_sent(self) -> None:
        def app(environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
            start_response("200 OK", [TEXT, ("X-Old", "1"), ("Content-Length", "99")])
            try:
                raise ValueError("oops")
            except ValueError:
                start_response("500 Oops", [TEXT, ("X-New", "1")], sys.exc_info())
            return [b"sorry"]

        client = serve(app)
        assert (client.status, client.body) == (500, b"sorry")
        assert (client.header(b"x-old"), client.header(b"x-new")) == (None, b"1")
        assert client.header(b"content-length") == b"5"

    def test_an_empty_string_has_not_sent_them(self) -> None:
        def app(environ: Any, start_response: Callable[..., Any]) -> Iterator[bytes]:
            start_response("200 OK", [TEXT])
            yield b""
            try:
                raise ValueError("oops")
            except ValueError:
                start_response("500 Oops", [TEXT], sys.exc_info())
            yield b"sorry"

        assert serve(app).status == 500

    def test_is_raised_again_when_they_were_sent(self) -> None:
        def app(environ: Any, start_response: Callable[..., Any]) -> Iterator[bytes]:
            start_response("200 OK", [TEXT])
            yield b"begun"
            try:
                raise ValueError("oops")
            except ValueError:
                start_response("500 Oops", [TEXT], sys.exc_info())
            yield b"never"

        connection = failing(app, ValueError, match="oops")
        assert connection.status == 200
        assert connection.chunks == [b"begun"]
        assert not connection.complete

    def test_without_an_exception_it_is_an_error_when_they_were_sent(self) -> None:
        def app(environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
            start_response("200 OK", [TEXT])(b"begun")
            start_response("500 Oops", [TEXT], (None, None, None))
            return []

        failing(app, match="after the headers were sent")

    def test_the_exception_is_not_kept_in_a_cycle(self) -> None:
        class OopsError(Exception):
            pass

        references: list[weakref.ref[OopsError]] = []

        def app(environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
            write = start_response("200 OK", [TEXT])
            write(b"begun")
            try:
                raise_oops()
            except OopsError:
                try:
                    start_response("500 Oops", [TEXT], sys.exc_info())
                except OopsError as error:
                    references.append(weakref.ref(error))
            return []

        def raise_oops() -> None:
            raise OopsError

        gc.collect()
        gc.disable()
        try:
            serve(app)
            assert references[0]() is None
        finally:
            gc.enable()


class TestClose:
    def test_once_after_a_complete_response(self) -> None:
        body = Chunks(b"a", b"b")
        get(body)
        assert body.closed == 1

    def test_once_after_a_bad_chunk(self) -> None:
        body = Chunks(b"a", "bad")
        failing(answering(body), match="must be bytes")
        assert body.closed == 1

    def test_when_it_was_never_iterated(self) -> None:
        class Unready(Chunks):
            def __iter__(self) -> Iterator[bytes]:
                raise ValueError("not now")

        body = Unready()
        failing(answering(body), ValueError, match="not now")
        assert body.closed == 1

    def test_when_the_length_was_reached(self) -> None:
        body = Chunks(b"abc", b"d")
        get(body, ("Content-Length", "3"))
        assert body.closed == 1

    def test_what_it_raises_is_reported_though_the_response_is_complete(self) -> None:
        class Stubborn(Chunks):
            def close(self) -> None:
                raise ValueError("close failed")

        connection = failing(answering(Stubborn(b"a")), ValueError, match="close failed")
        assert connection.complete

    def test_what_it_raises_does_not_hide_the_first_error(self) -> None:
        class Broken(Chunks):
            def __iter__(self) -> Iterator[bytes]:
                raise ValueError("first")

            def close(self) -> None:
                raise KeyError("second")

        with pytest.raises(KeyError, match="second") as caught:
            get(Broken())
        assert repr(caught.value.__context__) == "ValueError('first')"


class TestFileWrapper:
    def test_reads_in_blocks_of_64_kib_at_least(self) -> None:
        class File(io.BytesIO):
            sizes: list[int] = []  # noqa: RUF012

            def read(self, size: int | None = -1, /) -> bytes:
                self.sizes.append(size or 0)
                return super().read(size)

        file = File(LARGE)
        client = serve_file(file, 4096)
        assert client.body == LARGE
        assert client.complete
        assert set(file.sizes) == {MIN_BLOCK_BYTES}
        assert file.closed

    def test_takes_a_larger_block_size(self) -> None:
        client = serve_file(io.BytesIO(LARGE), 200_000)
        assert list(map(len, client.chunks)) == [200_000, 100_000, 0]

    def test_stops_at_content_length_without_complaint(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = io.BytesIO(LARGE)
        client = serve_file(file, 4096, ("Content-Length", "70000"))
        assert len(client.body) == 70_000
        assert client.complete
        assert file.closed
        assert caplog.records == []

    def test_a_range_that_ends_with_a_block_reads_no_further(self) -> None:
        file = io.BytesIO(LARGE)
        positions = []

        class Wrapper(FileWrapper):
            def close(self) -> None:
                positions.append(file.tell())
                super().close()

        body = Wrapper(file)
        get(body, ("Content-Length", str(MIN_BLOCK_BYTES)))
        assert positions == [MIN_BLOCK_BYTES]

    def test_a_filelike_without_close(self) -> None:
        class Bare:
            def __init__(self) -> None:
                self.left = [b"a", b"b"]

            def read(self, size: int) -> bytes:
                return self.left.pop(0) if self.left else b""

        assert serve_file(Bare()).body == b"ab"

    def test_a_text_file_is_refused(self) -> None:
        with pytest.raises(WsgiViolation, match="must be bytes, not str"):
            serve_file(io.StringIO("text"))


def serve_file(file: Any, *arguments: Any) -> Connection:
    sizes = [argument for argument in arguments if isinstance(argument, int)]
    headers = [argument for argument in arguments if isinstance(argument, tuple)]

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [TEXT, *headers])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file, *sizes)
        return wrapped

    return serve(app)


def failing(
    app: Callable[..., Any], error: type[BaseException] = WsgiViolation, *, match: str
) -> Connection:
    """Serve a request that must fail; return what the client saw of it."""
    connections: list[Connection] = []
    with pytest.raises(error, match=match):
        serve(app, connections=connections)
    return connections[0]


def test_expected_chunks_arrive_over_post_too() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        yield from iter(lambda: environ["wsgi.input"].read(2), b"")

    assert serve(app, post_scope(), [b"abc", b"de"]).chunks == [b"ab", b"cd", b"e", b""]
