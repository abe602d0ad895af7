"""`WsgiApp` as a whole: the ASGI interface, errors of the app, requests beside each other."""

import asyncio
import concurrent.futures
import contextvars
import gc
import io
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from wsgiref.validate import validator

import pytest
from werkzeug.middleware.lint import LintMiddleware

from subserve.errors import SubserveError, WorkerError
from subserve.http.wsgi import AppAborted, WsgiApp
from tests.unit.wsgi_harness import (
    DEADLINE,
    Connection,
    Headers,
    http_scope,
    post_scope,
    serve,
)

TEXT = ("Content-Type", "text/plain")

type App = Callable[[dict[str, Any], Callable[..., Any]], Any]


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [TEXT])
    return [environ["wsgi.input"].read(1_000_000)]


def stream_lines(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    environ["wsgi.errors"].write("one line\n")
    environ["wsgi.errors"].flush()
    yield b""
    yield from environ["wsgi.input"]


def write_then_return(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> tuple[bytes, ...]:
    write = start_response("200 OK", [TEXT])
    write(environ["wsgi.input"].read(3))
    return (environ["wsgi.input"].read(100), b"")


def return_a_file(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](io.BytesIO(environ["wsgi.input"].read(-1)), 8192)


class TestConformance:
    """The validators raise or warn, and a warning is an error here."""

    apps = pytest.mark.parametrize("app", [echo, stream_lines, write_then_return, return_a_file])
    scopes = pytest.mark.parametrize(
        "scope",
        [
            post_scope(),
            post_scope(http_version="2", scheme="https", headers=[(b"host", b"h")]),
            post_scope(server=None, client=None, root_path="/root", path="/root"),
            post_scope(path="*", raw_path=b"*"),
            post_scope(method="HEAD"),
        ],
    )

    @apps
    @scopes
    def test_wsgiref_validate(self, app: App, scope: dict[str, Any]) -> None:
        client = serve(validator(app), scope, [b"ab\nc", b"d\n"])
        assert client.complete
        assert client.body == (b"" if scope["method"] == "HEAD" else b"ab\ncd\n")

    @apps
    @scopes
    def test_werkzeug_lint(self, app: App, scope: dict[str, Any]) -> None:
        client = serve(LintMiddleware(app), scope, [b"ab\nc", b"d\n"])
        assert client.complete

    @pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_without_content(self, status: str, method: str) -> None:
        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            start_response(status, [])
            return []

        assert serve(validator(app), http_scope(method=method)).complete

    def test_errors_go_to_standard_error(self, capfd: pytest.CaptureFixture[str]) -> None:
        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            environ["wsgi.errors"].write("a\n")
            environ["wsgi.errors"].writelines(["b\n", "c\n"])
            environ["wsgi.errors"].flush()
            start_response("200 OK", [TEXT])
            return []

        serve(app)
        assert capfd.readouterr().err == "a\nb\nc\n"


class TestOtherScopes:
    def test_a_websocket_is_refused(self) -> None:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        with ThreadPoolExecutor(1) as pool:
            asyncio.run(WsgiApp(echo, pool)({"type": "websocket", "path": "/"}, receive, send))
        assert sent == [{"type": "websocket.close"}]

    def test_lifespan_is_an_error(self) -> None:
        with pytest.raises(SubserveError, match="no use for an ASGI scope of type 'lifespan'"):
            serve(echo, {"type": "lifespan"})


class TestErrors:
    def test_an_exception_leaves_as_it_is_with_the_traceback_of_the_app(self) -> None:
        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            raise ValueError("the app's own")

        connections: list[Connection] = []
        with pytest.raises(ValueError, match="the app's own") as caught:
            serve(app, connections=connections)
        assert connections[0].sent == []
        assert caught.traceback[-1].name == "app"

    @pytest.mark.parametrize(
        "error",
        [
            SystemExit(3),
            KeyboardInterrupt(),
            GeneratorExit(),
            asyncio.CancelledError(),
            BaseException("base"),
            StopIteration("stop"),
        ],
    )
    def test_one_that_would_end_more_than_the_request_is_wrapped(
        self, error: BaseException
    ) -> None:
        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            raise error

        with pytest.raises(AppAborted, match=f"the app raised {type(error).__name__}") as caught:
            serve(app)
        assert caught.value.__cause__ is error

    @pytest.mark.parametrize(
        "error", [ValueError(), StopAsyncIteration(), concurrent.futures.CancelledError()]
    )
    def test_others_are_not(self, error: Exception) -> None:
        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            raise error

        with pytest.raises(type(error)) as caught:
            serve(app)
        assert caught.value is error

    def test_the_pool_and_the_loop_survive(self) -> None:
        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            if environ["PATH_INFO"] == "/exit":
                sys.exit(3)
            start_response("200 OK", [TEXT])
            return [b"alive"]

        async def main() -> None:
            adapter = WsgiApp(app, pool)
            for _ in range(3):
                connection = Connection()
                with pytest.raises(AppAborted):
                    await adapter(
                        http_scope(path="/exit", raw_path=b"/exit"),
                        connection.receive,
                        connection.send,
                    )
            connection = Connection()
            await adapter(http_scope(), connection.receive, connection.send)
            assert connection.body == b"alive"

        with ThreadPoolExecutor(1) as pool:
            asyncio.run(main())

    def test_after_the_headers_the_response_breaks_off(self) -> None:
        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
            start_response("200 OK", [TEXT])
            yield b"begun"
            sys.exit("enough")

        connections: list[Connection] = []
        with pytest.raises(AppAborted, match="SystemExit: enough"):
            serve(app, connections=connections)
        assert connections[0].chunks == [b"begun"]
        assert not connections[0].complete

    @pytest.mark.parametrize("body", [[b"whole"], iter([b"part"])])
    def test_an_error_of_the_server_is_not_lost(self, body: Any) -> None:
        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            start_response("200 OK", [TEXT])
            return body

        async def main() -> None:
            async def send(message: dict[str, Any]) -> None:
                raise ValueError("the server's own")

            with pytest.raises(ValueError, match="the server's own"):
                await WsgiApp(app, pool)(http_scope(), Connection().receive, send)

        with ThreadPoolExecutor(1) as pool:
            asyncio.run(main())

    def test_an_error_of_the_server_while_reading_is_not_lost(self) -> None:
        async def main() -> None:
            async def receive() -> dict[str, Any]:
                raise ValueError("the server's own")

            with pytest.raises(ValueError, match="the server's own"):
                await WsgiApp(echo, pool)(post_scope(), receive, Connection().send)

        with ThreadPoolExecutor(1) as pool:
            asyncio.run(main())

    def test_both_errors_are_told_if_the_app_fails_too(self) -> None:
        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            write = start_response("200 OK", [TEXT])
            try:
                write(b"a")
            except OSError:
                raise KeyError("the app's own") from None
            return []

        async def main() -> None:
            async def send(message: dict[str, Any]) -> None:
                raise ValueError("the server's own")

            with pytest.raises(KeyError, match="the app's own") as caught:
                await WsgiApp(app, pool)(http_scope(), Connection().receive, send)
            assert "the server's own" in caught.value.__notes__[0]

        with ThreadPoolExecutor(1) as pool:
            asyncio.run(main())

    def test_a_pool_that_is_shut_down(self) -> None:
        pool = ThreadPoolExecutor(1)
        pool.shutdown()
        connection = Connection.__new__(Connection)

        async def main() -> None:
            with pytest.raises(WorkerError, match="takes no more requests"):
                await WsgiApp(echo, pool)(http_scope(), connection.receive, connection.send)

        asyncio.run(main())

    def test_a_pool_that_is_shut_down_while_the_request_waits(self) -> None:
        class Stuck(ThreadPoolExecutor):
            def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
                return futures[0]

        async def main() -> None:
            futures.append(Future())
            connection = Connection()
            call = asyncio.create_task(
                WsgiApp(echo, Stuck(1))(http_scope(), connection.receive, connection.send)
            )
            await asyncio.sleep(0)
            futures[0].cancel()  # what shutdown(cancel_futures=True) does
            with pytest.raises(WorkerError, match="shut down before the request's turn came"):
                await asyncio.wait_for(call, DEADLINE)

        futures: list[Future[Any]] = []
        asyncio.run(main())


class TestIsolation:
    def test_each_request_has_a_context_of_its_own(self) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
        seen = []

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
            seen.append(variable.get())
            variable.set("leaked")
            start_response("200 OK", [TEXT])
            yield b"a"
            seen.append(variable.get())

        async def main() -> None:
            variable.set("server's")
            for _ in range(3):
                connection = Connection()
                await WsgiApp(app, pool)(http_scope(), connection.receive, connection.send)
            assert variable.get() == "server's"

        with ThreadPoolExecutor(1) as pool:
            asyncio.run(main())
        assert seen == ["server's", "leaked"] * 3

    def test_fifty_requests_on_four_threads(self) -> None:
        count, threads = 50, 4
        busy = 0
        most = 0
        lock = threading.Lock()
        together = threading.Barrier(threads)

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
            nonlocal busy, most
            with lock:
                busy += 1
                most = max(most, busy)
            # The last two of fifty have no one to meet.
            if int(environ["QUERY_STRING"]) < count - count % threads:
                together.wait(DEADLINE)
            start_response("200 OK", [TEXT])
            yield from environ["wsgi.input"]
            with lock:
                busy -= 1

        bodies = [[os.urandom(5_000) + b"\n" for _ in range(9)] for _ in range(count)]

        async def main() -> list[Connection]:
            adapter = WsgiApp(app, pool)
            connections = [Connection(body) for body in bodies]
            async with asyncio.timeout(6 * DEADLINE), asyncio.TaskGroup() as group:
                for number, connection in enumerate(connections):
                    scope = post_scope(query_string=b"%d" % number)
                    group.create_task(adapter(scope, connection.receive, connection.send))
            return connections

        with ThreadPoolExecutor(threads) as pool:
            connections = asyncio.run(main())
        assert most == threads
        assert [connection.body for connection in connections] == list(map(b"".join, bodies))
        assert all(connection.complete for connection in connections)


class TestHandOvers:
    """What costs is the hand-overs from thread to loop: a finished response takes one."""

    def count(self, app: App, scope: dict[str, Any] | None = None, *chunks: bytes) -> int:
        calls = 0

        async def main() -> None:
            nonlocal calls
            loop = asyncio.get_running_loop()
            original = loop.call_soon_threadsafe

            def counting(*arguments: Any, **options: Any) -> asyncio.Handle:
                nonlocal calls
                calls += 1
                return original(*arguments, **options)

            loop.call_soon_threadsafe = counting  # type: ignore[method-assign]
            connection = Connection(chunks)
            await WsgiApp(app, pool)(scope or http_scope(), connection.receive, connection.send)
            assert connection.complete

        with ThreadPoolExecutor(1) as pool:
            asyncio.run(main())
        return calls

    def test_a_finished_response_takes_one(self) -> None:
        assert self.count(lambda e, s: s("200 OK", [TEXT]) and [b"a", b"b"]) == 1

    def test_a_small_body_takes_none(self) -> None:
        assert self.count(echo, post_scope(), b"a", b"b") == 1

    def test_an_iterable_of_known_length_takes_two(self) -> None:
        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
            start_response("200 OK", [TEXT, ("Content-Length", "1")])
            yield b"a"

        assert self.count(app) == 2


class Token:
    """Something that a weak reference can watch."""


class TestNothingIsKept:
    @pytest.mark.parametrize("path", ["/list", "/stream", "/error", "/exit", "/late"])
    def test_a_request_is_freed_without_the_garbage_collector(self, path: str) -> None:
        references: list[weakref.ref[Token]] = []

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            token = environ["test.token"] = Token()
            references.append(weakref.ref(token))
            if path == "/error":
                raise ValueError("oops")
            if path == "/exit":
                sys.exit(1)
            start_response("200 OK", [TEXT])
            return [b"a"] if path == "/list" else stream(environ)

        def stream(environ: dict[str, Any]) -> Iterator[bytes]:
            yield environ["wsgi.input"].read()
            if path == "/late":
                raise ValueError("oops")

        async def main() -> None:
            connection = Connection([b"abc"])
            try:
                await WsgiApp(app, pool)(post_scope(), connection.receive, connection.send)
            except ValueError, AppAborted:
                assert path in {"/error", "/exit", "/late"}

        gc.collect()
        gc.disable()
        try:
            with ThreadPoolExecutor(1) as pool:
                asyncio.run(main())
            assert [reference() for reference in references] == [None]
        finally:
            gc.enable()


def test_a_body_is_not_looked_for_where_there_cannot_be_one() -> None:
    """Reading must not wait for a server that has nothing to say."""
    connections: list[Connection] = []
    client = serve(echo, http_scope(), connections=connections)
    assert client.body == b""
    assert client.received == 0


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"0")]])
def test_an_unread_body_is_no_trouble(headers: Headers, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "subserve")

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [TEXT])
        return [b"ok"]

    client = serve(app, http_scope(method="POST", http_version="2", headers=headers), [b"x"] * 99)
    assert client.complete
    assert caplog.records == []
