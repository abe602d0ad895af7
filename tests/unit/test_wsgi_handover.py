"""Between pool thread and loop: back-pressure, clients that leave, requests that are cancelled.

Each test waits for the event it needs, so none of them depends on how fast a thread is.
"""

import asyncio
import io
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subserve.http.wsgi import ClientDisconnected, WsgiApp, handover
from subserve.http.wsgi.errors import is_disconnect
from subserve.http.wsgi.handover import MAX_READ_AHEAD, Handover
from tests.unit.wsgi_harness import (
    DEADLINE,
    Connection,
    happens,
    http_scope,
    post_scope,
    serve,
    settle,
)

TEXT = ("Content-Type", "text/plain")
LARGE = b"x" * 100_000


class Scene:
    """A request in progress, and how its app's thread ended."""

    def __init__(self, connection: Connection, pool: ThreadPoolExecutor) -> None:
        self.connection = connection
        self.pool = pool
        self.entered = threading.Event()
        self.proceed = threading.Event()
        self.closed = threading.Event()
        self.errors: list[BaseException] = []
        self.call: asyncio.Task[None]

    def begin(self, app: Callable[..., Any], scope: dict[str, Any]) -> None:
        def observed(environ: dict[str, Any], start_response: Callable[..., Any]) -> Observed:
            try:
                return Observed(app(environ, start_response), self)
            except BaseException as error:
                self.errors.append(error)
                self.closed.set()
                raise

        adapter = WsgiApp(observed, self.pool)
        self.call = asyncio.create_task(
            adapter(scope, self.connection.receive, self.connection.send)
        )

    async def end(self) -> None:
        """Wait for the call and for the thread; raises what the call raises."""
        async with asyncio.timeout(DEADLINE):
            try:
                await self.call
            finally:
                await happens(self.closed)


class Observed:
    """What an app has returned; notes that it was closed, and what its iteration raised."""

    def __init__(self, iterable: Any, scene: Scene) -> None:
        self._iterable = iterable
        self._scene = scene

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._iterable
        except GeneratorExit:
            raise  # closed early, which is no error
        except BaseException as error:
            self._scene.errors.append(error)
            raise

    def close(self) -> None:
        self._scene.closed.set()


def act(play: Callable[[Scene], Any], connection: Callable[[], Connection] = Connection) -> None:
    async def main() -> None:
        scene = Scene(connection(), pool)
        try:
            await play(scene)
        finally:
            scene.proceed.set()

    # One thread, so that what is submitted next runs when the app's thread is done with all.
    with ThreadPoolExecutor(1) as pool:
        asyncio.run(main())


def streaming(scene: Scene, *chunks: bytes) -> Callable[..., Any]:
    """Return an app that streams `chunks`, and notes that it has begun."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        scene.entered.set()
        yield from chunks

    return app


def reading(scene: Scene) -> Callable[..., Any]:
    """Return an app that reads its body to the end, and notes that it has begun."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        scene.entered.set()
        body = environ["wsgi.input"].read()
        start_response("200 OK", [TEXT])
        return [body]

    return app


def waiting(scene: Scene, then: Callable[..., Any]) -> Callable[..., Any]:
    """Return `then`, run as soon as the scene lets it proceed."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        scene.entered.set()
        assert scene.proceed.wait(DEADLINE)
        return then(environ, start_response)

    return app


def ok(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [TEXT])
    return [b"ok"]


def endless() -> Connection:
    """Return a connection whose client sends a byte and then nothing more, and stays."""
    return Connection([b"x"], open_ended=True)


class TestBody:
    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.binary(max_size=5), max_size=12), st.integers(1, 7))
    def test_all_of_it_arrives_however_it_is_cut(self, chunks: list[bytes], size: int) -> None:
        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
            start_response("200 OK", [TEXT])
            yield from iter(lambda: environ["wsgi.input"].read(size), b"")

        model = io.BytesIO(b"".join(chunks))
        expected = list(iter(lambda: model.read(size), b""))
        assert serve(app, post_scope(), chunks).chunks == [*expected, b""]

    def test_no_more_than_a_few_chunks_wait_for_the_app(self) -> None:
        async def play(scene: Scene) -> None:
            scene.begin(waiting(scene, reading(scene)), post_scope())
            await happens(scene.entered)
            await settle()
            assert scene.connection.received == MAX_READ_AHEAD
            scene.proceed.set()
            await scene.end()
            assert scene.connection.body == b"x" * 100
            assert scene.connection.received == 101

        act(play, lambda: Connection([b"x"] * 100))

    def test_none_of_it_is_taken_before_there_is_room(self) -> None:
        async def play(scene: Scene) -> None:
            step = threading.Semaphore(0)
            taken = threading.Semaphore(0)

            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
                for _ in range(20):
                    assert step.acquire(timeout=DEADLINE)
                    assert environ["wsgi.input"].read(1) == b"x"
                    taken.release()
                assert scene.proceed.wait(DEADLINE)  # answering is what ends the waiting
                return ok(environ, start_response)

            scene.begin(app, post_scope())
            for count in range(1, 21):
                step.release()
                assert await asyncio.to_thread(taken.acquire, timeout=DEADLINE)
                await settle()
                assert scene.connection.received <= count + MAX_READ_AHEAD
            scene.proceed.set()
            await scene.end()

        act(play, lambda: Connection([b"x"] * 100))


class TestBackPressure:
    def test_the_thread_waits_until_a_chunk_is_sent(self) -> None:
        async def play(scene: Scene) -> None:
            asked = []

            def chunks() -> Iterator[bytes]:
                for number in range(3):
                    asked.append(number)
                    yield b"x"

            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
                start_response("200 OK", [TEXT])
                return chunks()

            scene.connection.taking.clear()
            scene.begin(app, http_scope())
            await scene.connection.send_entered.wait()
            await settle()
            assert asked == [0]
            scene.connection.taking.set()
            await scene.end()
            assert asked == [0, 1, 2]

        act(play)

    @pytest.mark.parametrize("kind", [list, iter])
    def test_a_large_last_chunk_holds_the_thread(self, kind: Callable[..., Any]) -> None:
        async def play(scene: Scene) -> None:
            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
                start_response("200 OK", [TEXT, ("Content-Length", str(len(LARGE)))])
                return kind([LARGE])

            scene.connection.taking.clear()
            scene.begin(app, http_scope())
            await scene.connection.send_entered.wait()
            assert not scene.closed.is_set()
            scene.connection.taking.set()
            await scene.end()
            assert scene.connection.body == LARGE

        act(play)

    def test_a_small_last_chunk_does_not(self) -> None:
        async def play(scene: Scene) -> None:
            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
                start_response("200 OK", [TEXT, ("Content-Length", "1")])
                return iter([b"x"])

            scene.connection.taking.clear()
            scene.begin(app, http_scope())
            await scene.connection.send_entered.wait()
            await happens(scene.closed)
            await settle()
            assert not scene.call.done()  # the response is still on its way
            scene.connection.taking.set()
            await scene.end()
            assert scene.connection.complete

        act(play)

    def test_the_call_lasts_as_long_as_the_app(self) -> None:
        async def play(scene: Scene) -> None:
            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
                start_response("200 OK", [TEXT, ("Content-Length", "1")])
                yield b"x"
                scene.entered.set()
                assert scene.proceed.wait(DEADLINE)

            scene.begin(app, http_scope())
            await happens(scene.entered)
            await settle()
            assert scene.connection.complete
            assert not scene.call.done()
            scene.proceed.set()
            await scene.end()

        act(play)


class TestClientLeaves:
    @pytest.fixture(autouse=True)
    def _nothing_above_debug(self, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        caplog.set_level(logging.DEBUG, "subserve")
        yield
        assert {record.levelno for record in caplog.get_records("call")} <= {logging.DEBUG}

    def test_while_the_app_reads(self, caplog: pytest.LogCaptureFixture) -> None:
        async def play(scene: Scene) -> None:
            scene.begin(reading(scene), post_scope())
            await happens(scene.entered)
            scene.connection.leave()
            await scene.end()
            assert scene.connection.sent == []
            assert isinstance(scene.errors[0], ClientDisconnected)
            assert isinstance(scene.errors[0], OSError)

        act(play, endless)
        assert "the client has disconnected" in caplog.text

    def test_and_the_app_reads_what_came_before(self) -> None:
        async def play(scene: Scene) -> None:
            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
                assert environ["wsgi.input"].read(1) == b"x"
                for _ in range(2):
                    with pytest.raises(ClientDisconnected):
                        environ["wsgi.input"].read(1)
                return ok(environ, start_response)

            scene.connection.leave()
            scene.begin(app, post_scope())
            await scene.end()
            assert scene.errors == []

        act(play, endless)

    def test_between_two_chunks(self) -> None:
        async def play(scene: Scene) -> None:
            left = threading.Event()

            def chunks() -> Iterator[bytes]:
                yield b"first"
                scene.entered.set()
                assert left.wait(DEADLINE)
                yield b"second"
                pytest.fail("nobody wants a third")

            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
                start_response("200 OK", [TEXT])
                return chunks()

            scene.begin(app, http_scope())
            await happens(scene.entered)
            scene.connection.leave()
            await settle()
            left.set()
            await scene.end()
            assert scene.connection.chunks == [b"first"]

        act(play)

    def test_while_a_chunk_is_being_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The thread does not wait for a `send` that the server has forgotten."""
        monkeypatch.setattr(handover, "ABORT_GRACE", 0.01)

        async def play(scene: Scene) -> None:
            scene.connection.taking.clear()
            scene.begin(streaming(scene, b"first", b"second"), http_scope())
            await scene.connection.send_entered.wait()
            scene.connection.leave()
            await scene.end()
            assert scene.connection.sent == []

        act(play)

    def test_while_the_last_large_chunk_is_being_sent(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(handover, "ABORT_GRACE", 0.01)

        async def play(scene: Scene) -> None:
            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
                environ["wsgi.input"].read()
                start_response("200 OK", [TEXT])
                return [LARGE]

            scene.connection.taking.clear()
            scene.begin(app, post_scope())
            await scene.connection.send_entered.wait()
            scene.connection.leave()
            await scene.end()
            assert scene.connection.sent == []

        act(play, lambda: Connection([b"x"]))

    def test_the_disconnect_that_ends_a_response_is_none(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A server may say that the stream is closed before its last `send` returns."""

        async def play(scene: Scene) -> None:
            connection = scene.connection
            original = connection.send

            async def send(message: dict[str, Any]) -> None:
                await original(message)
                if not message.get("more_body", True):
                    connection.leave()
                    await settle()

            connection.send = send  # type: ignore[method-assign]
            scene.begin(streaming(scene, b"a", LARGE), http_scope())
            await scene.end()
            assert connection.complete
            assert scene.errors == []

        act(play)
        assert caplog.records == []

    @pytest.mark.parametrize("error", [BrokenPipeError, TimeoutError])
    def test_and_send_raises(self, error: type[OSError]) -> None:
        async def play(scene: Scene) -> None:
            async def send(message: dict[str, Any]) -> None:
                raise error

            scene.connection.send = send  # type: ignore[method-assign]
            scene.begin(streaming(scene, b"first", b"second"), http_scope())
            await scene.end()

        act(play)

    def test_and_receive_raises(self) -> None:
        async def play(scene: Scene) -> None:
            async def receive() -> dict[str, Any]:
                raise ConnectionResetError

            scene.connection.receive = receive  # type: ignore[method-assign]
            scene.begin(reading(scene), post_scope())
            await scene.end()
            assert isinstance(scene.errors[0], ClientDisconnected)

        act(play)

    def test_and_the_framework_translates_it(self) -> None:
        async def play(scene: Scene) -> None:
            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
                try:
                    environ["wsgi.input"].read()
                except OSError as error:
                    raise ValueError("unreadable post") from error
                return ok(environ, start_response)

            scene.connection.leave()
            scene.begin(app, post_scope())
            await scene.end()

        act(play, endless)

    def test_and_the_app_answers_all_the_same(self) -> None:
        async def play(scene: Scene) -> None:
            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
                with pytest.raises(OSError, match="disconnected"):
                    environ["wsgi.input"].read()
                return ok(environ, start_response)

            scene.connection.leave()
            scene.begin(app, post_scope())
            await scene.end()
            assert scene.connection.sent == []

        act(play, endless)

    def test_and_the_app_has_finished_a_response(self) -> None:
        async def play(scene: Scene) -> None:
            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
                assert environ["wsgi.input"].read() == b"x"
                scene.entered.set()
                assert scene.proceed.wait(DEADLINE)
                return ok(environ, start_response)

            connection = scene.connection
            call = WsgiApp(app, scene.pool)(post_scope(), connection.receive, connection.send)
            task = asyncio.create_task(call)
            await happens(scene.entered)
            connection.leave()
            await settle()
            scene.proceed.set()
            await asyncio.wait_for(task, DEADLINE)
            assert connection.sent == []

        act(play, lambda: Connection([b"x"]))

    def test_an_error_of_the_app_is_one_even_then(self) -> None:
        async def play(scene: Scene) -> None:
            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
                try:
                    environ["wsgi.input"].read()
                except OSError:
                    raise ValueError("a bug") from None
                return ok(environ, start_response)

            scene.connection.leave()
            scene.begin(app, post_scope())
            with pytest.raises(ValueError, match="a bug"):
                await scene.end()

        act(play, endless)


class TestCancellation:
    def test_while_the_app_reads(self) -> None:
        async def play(scene: Scene) -> None:
            scene.begin(reading(scene), post_scope())
            await happens(scene.entered)
            await self.cancel(scene)
            await happens(scene.closed)
            assert isinstance(scene.errors[0], ClientDisconnected)

        act(play, endless)

    @pytest.mark.parametrize("chunk", [b"small", LARGE])
    def test_while_a_chunk_is_being_sent(self, chunk: bytes) -> None:
        async def play(scene: Scene) -> None:
            scene.connection.taking.clear()
            scene.begin(streaming(scene, chunk, chunk), http_scope())
            await scene.connection.send_entered.wait()
            await self.cancel(scene)
            await happens(scene.closed)
            assert scene.connection.sent == []

        act(play)

    @pytest.mark.parametrize("kind", ["sequence", "write"])
    def test_while_a_large_response_is_being_sent(self, kind: str) -> None:
        async def play(scene: Scene) -> None:
            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
                write = start_response("200 OK", [TEXT])
                if kind == "sequence":
                    return [LARGE]
                write(LARGE)
                return []

            connection = scene.connection
            connection.taking.clear()
            call = asyncio.create_task(
                WsgiApp(app, scene.pool)(http_scope(), connection.receive, connection.send)
            )
            await connection.send_entered.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.wait_for(asyncio.wrap_future(scene.pool.submit(int)), DEADLINE)
            assert connection.sent == []

        act(play)

    def test_while_the_app_computes(self) -> None:
        """The call ends at once; the thread finds out when it sends."""

        async def play(scene: Scene) -> None:
            scene.begin(waiting(scene, streaming(scene, b"first", b"second")), http_scope())
            await happens(scene.entered)
            await self.cancel(scene)
            assert not scene.closed.is_set()
            scene.proceed.set()
            await happens(scene.closed)
            assert scene.connection.sent == []

        act(play)

    def test_while_it_waits_for_a_thread(self) -> None:
        async def play(scene: Scene) -> None:
            scene.pool.submit(scene.proceed.wait, DEADLINE)
            scene.begin(streaming(scene, b"never"), http_scope())
            await settle()
            await self.cancel(scene)
            scene.proceed.set()
            await asyncio.wrap_future(scene.pool.submit(int))
            assert not scene.entered.is_set()

        act(play)

    def test_an_error_that_nobody_waits_for_is_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def play(scene: Scene) -> None:
            def failing(environ: dict[str, Any], start_response: Callable[..., Any]) -> None:
                raise ValueError("too late")

            scene.begin(waiting(scene, failing), http_scope())
            await happens(scene.entered)
            await self.cancel(scene)
            scene.proceed.set()
            await happens(scene.closed)
            await asyncio.wrap_future(scene.pool.submit(int))
            await settle()

        act(play)
        assert "the app failed after its request was given up" in caplog.text
        assert "ValueError: too late" in caplog.text

    def test_nor_is_one_lost_that_was_not_reported_yet(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def play(scene: Scene) -> None:
            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
                start_response("200 OK", [TEXT, ("Content-Length", "1")])
                yield b"x"  # the last: the thread goes on while it is sent
                raise ValueError("behind the end")

            scene.connection.taking.clear()
            scene.begin(app, http_scope())
            await scene.connection.send_entered.wait()
            await happens(scene.closed)
            await asyncio.wrap_future(scene.pool.submit(int))
            await settle()
            await self.cancel(scene)

        act(play)
        assert "ValueError: behind the end" in caplog.text

    async def cancel(self, scene: Scene) -> None:
        scene.call.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(DEADLINE):
                await scene.call


class TestUnreadBody:
    """A server with a full queue can neither close a stream nor say that it was closed."""

    @staticmethod
    def full() -> Connection:
        return Connection([b"x"] * 1000)

    def test_is_taken_in_while_the_last_chunk_is_sent(self) -> None:
        async def play(scene: Scene) -> None:
            connection = scene.connection

            async def send(message: dict[str, Any]) -> None:
                connection.sent.append(message)
                while not message.get("more_body", True) and connection.received < 1001:
                    await asyncio.sleep(0)

            connection.send = send  # type: ignore[method-assign]
            scene.begin(ok, post_scope())
            await scene.end()
            assert connection.complete

        act(play, self.full)

    def test_is_taken_in_after_an_error(self) -> None:
        async def play(scene: Scene) -> None:
            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> None:
                raise ValueError("oops")

            scene.begin(app, post_scope())
            with pytest.raises(ValueError, match="oops"):
                await scene.end()
            scene.connection.leave()
            async with asyncio.timeout(DEADLINE):
                while scene.connection.received < 1001:
                    await asyncio.sleep(0)

        act(play, self.full)

    def test_is_thrown_away_when_the_response_stands_still(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(handover, "UNREAD_BODY_TIMEOUT", 0.01)

        async def play(scene: Scene) -> None:
            connection = scene.connection

            async def send(message: dict[str, Any]) -> None:
                connection.sent.append(message)
                while connection.received < 1001:
                    await asyncio.sleep(0)

            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
                start_response("200 OK", [TEXT])
                yield b"a"
                with pytest.raises(ClientDisconnected, match="thrown away"):
                    environ["wsgi.input"].read()
                yield b"b"

            connection.send = send  # type: ignore[method-assign]
            scene.begin(app, post_scope())
            await scene.end()
            assert connection.body == b"ab"
            assert connection.complete

        act(play, self.full)
        assert "threw away the rest of a request's body" in caplog.text

    def test_is_kept_while_the_app_may_still_read_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing stands still but the client, who has not sent the rest yet."""
        monkeypatch.setattr(handover, "UNREAD_BODY_TIMEOUT", 0.001)

        async def play(scene: Scene) -> None:
            connection = scene.connection

            async def send(message: dict[str, Any]) -> None:
                await asyncio.sleep(0.01)  # ten times the timeout
                connection.sent.append(message)

            def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
                start_response("200 OK", [TEXT])
                yield b"a"
                yield environ["wsgi.input"].read(1)

            connection.send = send  # type: ignore[method-assign]
            scene.begin(app, post_scope())
            await scene.end()
            assert connection.body == b"ax"

        act(play, endless)


class TestClosedLoop:
    def test_no_thread_waits_for_a_loop_that_is_closed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(handover, "LOOP_CHECK_INTERVAL", 0.01)
        loop = asyncio.new_event_loop()

        async def make() -> Handover:
            connection = Connection()
            return Handover(connection.receive, connection.send, body_expected=True)

        subject = loop.run_until_complete(make())
        with ThreadPoolExecutor(2) as pool:
            # Nobody serves: the threads wait.
            reader = pool.submit(subject.pull)
            writer = pool.submit(subject.transmit, [{"type": "http.response.start"}], last=False)
            loop.close()
            for waiter in (reader, writer):
                with pytest.raises(ClientDisconnected, match="loop is closed"):
                    waiter.result(DEADLINE)

    def test_nor_posts_to_it(self, caplog: pytest.LogCaptureFixture) -> None:
        loop = asyncio.new_event_loop()

        async def make() -> Handover:
            connection = Connection()
            return Handover(connection.receive, connection.send, body_expected=False)

        subject = loop.run_until_complete(make())
        loop.close()
        with pytest.raises(ClientDisconnected, match="loop is closed"):
            subject.transmit([], last=True)
        failed: Future[Any] = Future()
        failed.set_exception(ValueError("last words"))
        subject.app_done(failed)
        assert "ValueError: last words" in caplog.text


class TestIsDisconnect:
    def test_follows_the_chain_as_a_traceback_does(self) -> None:
        gone = ClientDisconnected("gone")
        assert is_disconnect(gone)
        assert not is_disconnect(ConnectionResetError())
        caused, during, unrelated = ValueError(), ValueError(), ValueError()
        caused.__cause__ = gone
        during.__context__ = gone
        unrelated.__context__ = gone
        unrelated.__suppress_context__ = True
        assert is_disconnect(caused)
        assert is_disconnect(during)
        assert not is_disconnect(unrelated)

    def test_ends_on_a_ring(self) -> None:
        one, two = ValueError(), ValueError()
        one.__context__, two.__context__ = two, one
        assert not is_disconnect(one)
