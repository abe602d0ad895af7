"""The fence around the app: what it raises, sends and waits for, with a lane that is a list."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from subserve.http import exchange as module
from subserve.http.exchange import SERVICE_RESTART, App, ClientGone, Exchanges, Receive, Send
from subserve.scoreboard import Row, Scoreboard

DEADLINE = 10.0  # s, for what takes milliseconds

type Sent = dict[str, Any]

START = {"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]}
BODY = {"type": "http.response.body", "body": b"hello"}
ERROR_500 = [
    {
        "type": "http.response.start",
        "status": 500,
        "headers": [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"22"),
        ],
    },
    {"type": "http.response.body", "body": b"Internal Server Error\n"},
]


def request(**changes: Any) -> dict[str, Any]:
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/hello",
        "raw_path": b"/hello",
        "root_path": "",
    }
    return scope | changes


def websocket(**changes: Any) -> dict[str, Any]:
    return request(type="websocket", path="/chat", raw_path=b"/chat") | changes


class Client:
    """What is behind the lane: it sends what it is told to and remembers what it gets."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for message in messages:
            self.inbox.put_nowait(message)
        self.sent: list[Sent] = []
        self.gone = False
        self.got: asyncio.Event = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        return await self.inbox.get()

    async def send(self, message: Any) -> None:
        if self.gone:
            raise ClientGone
        self.sent.append(dict(message))
        self.got.set()

    async def gets(self, count: int) -> None:
        """Wait until it has got this many messages."""
        while len(self.sent) < count:
            self.got.clear()
            await self.got.wait()


WHOLE_REQUEST = {"type": "http.request", "body": b"", "more_body": False}


class Rig:
    """Exchanges around one app, and the counters."""

    def __init__(self, app: App, root_path: str = "") -> None:
        board = Scoreboard.create(1)
        self.row: Row = board.row(0)
        board.close()
        self.exchanges = Exchanges(app, self.row, root_path)

    async def call(self, scope: dict[str, Any], client: Client) -> list[Sent]:
        await self.exchanges(scope, client.receive, client.send)
        return client.sent


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await test()

    asyncio.run(bounded())


def answer(app: App, scope: dict[str, Any] | None = None, root_path: str = "") -> list[Sent]:
    """Return what a client that sends one request gets from `app`."""
    sent: list[Sent] = []

    async def test() -> None:
        rig = Rig(app, root_path)
        sent.extend(await rig.call(scope or request(), Client(WHOLE_REQUEST)))
        assert rig.row.requests == 0

    run(test)
    return sent


async def hello(scope: Any, receive: Receive, send: Send) -> None:
    await send(START)
    await send(BODY)


# ---- requests


def test_a_response() -> None:
    assert answer(hello) == [START, BODY]


def test_requests_in_flight_are_counted() -> None:
    async def test() -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            seen.append(rig.row.requests)
            await hello(scope, receive, send)

        seen: list[int] = []
        rig = Rig(app)
        await rig.call(request(), Client())
        await rig.call(request(), Client())
        assert seen == [1, 1]
        assert rig.row.requests == 0

    run(test)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        SystemExit(3),
        KeyboardInterrupt(),
        BaseException(),
        GeneratorExit(),
        asyncio.CancelledError(),
        TimeoutError(),
        OSError("disk"),
        StopAsyncIteration(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_app_raises_fails_its_request(
    error: BaseException, records: list[logging.LogRecord]
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        raise error

    assert answer(app) == ERROR_500
    (record,) = records
    assert record.levelname == "ERROR"
    assert record.getMessage() == f"GET /hello failed: {type(error).__name__}"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_a_task_of_the_app_that_was_cancelled_fails_its_request(
    records: list[logging.LogRecord],
) -> None:
    # The CancelledError was taken for the server's own: no answer of ours, nothing in the log.
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        task = asyncio.create_task(asyncio.sleep(DEADLINE))
        task.cancel()
        await task

    assert answer(app) == ERROR_500
    assert [record.levelname for record in records] == ["ERROR"]


def test_a_response_that_has_begun_is_not_begun_again() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(START)
        raise ValueError

    assert answer(app) == [START]


def test_a_request_that_the_server_cancels_is_cancelled(records: list[logging.LogRecord]) -> None:
    async def test() -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            started.set()
            await asyncio.sleep(DEADLINE)

        started = asyncio.Event()
        rig, client = Rig(app), Client(WHOLE_REQUEST)
        task = asyncio.create_task(rig.call(request(), client))
        await started.wait()
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        assert (client.sent, rig.row.requests) == ([], 0)

    run(test)
    assert records == []


def test_an_app_that_answers_nothing(records: list[logging.LogRecord]) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None: ...

    assert answer(app) == ERROR_500
    assert [record.levelname for record in records] == ["ERROR"]


# ---- a client that has gone


def test_a_client_that_has_gone_is_no_failure(records: list[logging.LogRecord]) -> None:
    async def test() -> None:
        rig, client = Rig(hello), Client(WHOLE_REQUEST)
        client.gone = True
        assert await rig.call(request(), client) == []

    run(test)
    assert [record.levelname for record in records] == ["DEBUG"]


def test_what_the_app_makes_of_a_client_that_has_gone(records: list[logging.LogRecord]) -> None:
    async def test() -> None:
        async def in_a_group(scope: Any, receive: Receive, send: Send) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(hello(scope, receive, send))

        async def as_another_error(scope: Any, receive: Receive, send: Send) -> None:
            try:
                await send(START)
            except OSError as error:
                raise RuntimeError("could not send") from error

        for app in (in_a_group, as_another_error):
            client = Client(WHOLE_REQUEST)
            client.gone = True
            await Rig(app).call(request(), client)

    run(test)
    assert {record.levelname for record in records} == {"DEBUG"}


def test_an_error_beside_a_client_that_has_gone_is_a_failure(
    records: list[logging.LogRecord],
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        raise BaseExceptionGroup("two", [ClientGone(), ValueError("x")])

    answer(app)
    assert [record.levelname for record in records] == ["ERROR"]


def test_a_client_that_goes_before_it_is_told_of_the_failure() -> None:
    async def test() -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            client.gone = True
            raise ValueError

        client = Client(WHOLE_REQUEST)
        rig = Rig(app)
        assert await rig.call(request(), client) == []
        assert rig.row.requests == 0

    run(test)


# ---- headers


@pytest.mark.parametrize(
    "header",
    [
        (b"x\r\ny", b"z"),
        (b"x-a", b"secret\r\nset-cookie: a=b"),
        (b"x-a", b"secret\n"),
        (b"x-a", b"secret\0"),
        (b"", b"secret"),
        (b"x a", b"secret"),
        (b"x:", b"secret"),
    ],
)
def test_a_header_that_would_be_another_on_the_wire(
    header: tuple[bytes, bytes], records: list[logging.LogRecord]
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [header]})

    assert answer(app) == ERROR_500
    assert "secret" not in str(records[0].exc_info)


@pytest.mark.parametrize("drained", [False, True])
def test_headers_may_come_from_an_iterator(drained: bool) -> None:
    # ASGI 3 calls them an iterable.  To look at them was to use them up: none was sent.
    async def test() -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await send({**START, "headers": iter([(b"x-a", b"b")])})
            await send(BODY)

        rig = Rig(app)
        if drained:
            rig.exchanges.drain()
        sent = await rig.call(request(), Client(WHOLE_REQUEST))
        assert (b"x-a", b"b") in list(sent[0]["headers"])

    run(test)


def test_headers_may_be_left_out() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    assert [message["type"] for message in answer(app)] == [START["type"], BODY["type"]]


# ---- under a path of the proxy


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/hello", "/api/hello"),
        ("/api/hello", "/api/hello"),
        ("/api", "/api"),
        ("/apis", "/api/apis"),
        ("/", "/api/"),
    ],
)
def test_root_path(path: str, seen: str) -> None:
    scopes = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await hello(scope, receive, send)

    answer(app, request(path=path, raw_path=path.encode()), root_path="/api")
    (scope,) = scopes
    assert (scope["root_path"], scope["path"]) == ("/api", seen)
    assert scope["raw_path"] == seen.encode()


def test_root_path_is_escaped_where_the_client_would_have_done_so() -> None:
    # `raw_path` is as it came over the wire: ASCII (RFC 3986, section 2).
    scopes = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await hello(scope, receive, send)

    answer(app, request(path="/ä", raw_path=b"/%C3%A4"), root_path="/ü b")
    assert scopes[0]["path"] == "/ü b/ä"
    assert scopes[0]["raw_path"] == b"/%C3%BC%20b/%C3%A4"


# ---- drain


@pytest.mark.parametrize(
    ("version", "closes"), [("1.0", True), ("1.1", True), ("2", False), ("3", False)]
)
def test_a_response_during_the_drain_closes_its_connection(version: str, closes: bool) -> None:
    """Where that is said with a header: HTTP/2 has a frame for it (RFC 9113, section 8.2.2)."""

    async def test() -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await send({**START, "headers": [(b"Connection", b"keep-alive"), (b"x-a", b"b")]})
            await send(BODY)

        rig = Rig(app)
        rig.exchanges.drain()
        sent = await rig.call(request(http_version=version), Client(WHOLE_REQUEST))
        connection = [value for name, value in sent[0]["headers"] if name.lower() == b"connection"]
        assert connection == ([b"close"] if closes else [b"keep-alive"])
        assert (b"x-a", b"b") in sent[0]["headers"]

    run(test)


def test_an_event_stream_ends_at_the_drain() -> None:
    """Its client comes back by itself, to another server; it would never end otherwise."""

    async def test() -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            assert (await receive())["type"] == "http.request"
            await send({**START, "headers": [(b"Content-Type", b"text/event-stream; charset=x")]})
            await send({**BODY, "more_body": True})
            assert (await receive())["type"] == "http.disconnect"

        rig, client = Rig(app), Client(WHOLE_REQUEST)
        task = asyncio.create_task(rig.call(request(), client))
        await client.gets(2)
        assert not task.done()
        rig.exchanges.drain()
        sent = await task
        # To its client it is the regular end of the body.
        assert not sent[-1].get("more_body", False)
        assert len(sent) == 3

    run(test)


def test_another_response_is_not_cut_short_at_the_drain() -> None:
    async def test() -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await receive()
            await send(START)
            waiting = asyncio.create_task(receive())  # as Starlette does
            await send({**BODY, "more_body": True})
            rig.exchanges.drain()
            for _ in range(10):  # were it told of a disconnection, it would be by now
                await asyncio.sleep(0)
            assert not waiting.done()
            await send(BODY)
            client.inbox.put_nowait({"type": "http.disconnect"})
            assert (await waiting)["type"] == "http.disconnect"

        rig, client = Rig(app), Client(WHOLE_REQUEST)
        assert len(await rig.call(request(), client)) == 3

    run(test)


def test_a_disconnection_is_passed_on() -> None:
    async def test() -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            seen.extend([await receive() for _ in range(3)])

        first = {"type": "http.request", "body": b"a", "more_body": True}
        second = {"type": "http.request", "body": b"b", "more_body": False}
        third = {"type": "http.disconnect"}
        seen: list[Any] = []
        assert await Rig(app).call(request(), Client(first, second, third)) == []
        assert seen == [first, second, third]

    run(test)


def test_a_drain_happens_once() -> None:
    async def test() -> None:
        rig = Rig(hello)
        rig.exchanges.drain()
        rig.exchanges.drain()

    run(test)


# ---- WebSockets

CONNECT = {"type": "websocket.connect"}
GOODBYE = {"type": "websocket.disconnect", "code": 1012}
ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close", "code": SERVICE_RESTART}


async def echo(scope: Any, receive: Receive, send: Send) -> None:
    await receive()
    await send(ACCEPT)
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


def test_a_websocket() -> None:
    async def test() -> None:
        messages = [CONNECT, {"type": "websocket.receive", "text": "hi"}, GOODBYE]
        rig = Rig(echo)
        sent = await rig.call(websocket(), Client(*messages))
        assert sent == [ACCEPT, {"type": "websocket.send", "text": "hi"}]
        assert rig.row.requests == 0

    run(test)


def test_a_websocket_is_closed_with_1012_at_the_drain() -> None:
    async def test() -> None:
        rig, client = Rig(echo), Client(CONNECT)
        task = asyncio.create_task(rig.call(websocket(), client))
        await client.gets(1)
        rig.exchanges.drain()
        await client.gets(2)
        client.inbox.put_nowait(GOODBYE)
        assert await task == [ACCEPT, CLOSE]

    run(test)


def test_a_client_that_does_not_answer_the_close_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_HANDSHAKE_TIMEOUT", 0.01)

    async def test() -> None:
        rig, client = Rig(echo), Client(CONNECT)
        task = asyncio.create_task(rig.call(websocket(), client))
        await client.gets(1)
        rig.exchanges.drain()
        client.inbox.put_nowait({"type": "websocket.receive", "text": "more"})
        assert await task == [ACCEPT, CLOSE]

    run(test)


def test_a_client_that_went_before_the_drain_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # While its app cleaned up, the drain began: the answer to a close frame was awaited from it.
    monkeypatch.setattr(module, "CLOSE_HANDSHAKE_TIMEOUT", 2 * DEADLINE)

    async def test() -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await echo(scope, receive, send)
            rig.exchanges.drain()

        rig = Rig(app)
        await rig.call(websocket(), Client(CONNECT, GOODBYE))

    run(test)


def test_a_handshake_that_is_not_answered_yet_is_refused_at_the_drain() -> None:
    async def test() -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await receive()
            asked.set()
            assert (await receive())["type"] == "websocket.disconnect"

        asked = asyncio.Event()
        rig, client = Rig(app), Client(CONNECT)
        task = asyncio.create_task(rig.call(websocket(), client))
        await asked.wait()
        rig.exchanges.drain()
        client.inbox.put_nowait(GOODBYE)
        sent = await task
        assert [message["type"] for message in sent] == [
            "websocket.http.response.start",
            "websocket.http.response.body",
        ]
        assert sent[0]["status"] == 503

    run(test)


def test_after_the_close_frame_nothing_is_sent_and_a_disconnection_received() -> None:
    async def test() -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await receive()
            await send(ACCEPT)
            assert await receive() == GOODBYE
            assert await receive() == GOODBYE
            with pytest.raises(OSError):  # noqa: PT011  which is all that ASGI 3 says of it
                await send({"type": "websocket.send", "text": "late"})

        rig, client = Rig(app), Client(CONNECT)
        task = asyncio.create_task(rig.call(websocket(), client))
        await client.gets(1)
        rig.exchanges.drain()
        await client.gets(2)
        client.inbox.put_nowait(GOODBYE)
        assert await task == [ACCEPT, CLOSE]

    run(test)


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError])
def test_what_a_websocket_app_raises_is_left_to_the_lane(
    error: type[BaseException], records: list[logging.LogRecord]
) -> None:
    """It answers 500 to the handshake, or closes with 1011."""

    async def test() -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await receive()
            raise error

        rig = Rig(app)
        assert await rig.call(websocket(), Client(CONNECT)) == []
        assert rig.row.requests == 0

    run(test)
    assert [record.levelname for record in records] == ["ERROR"]
    assert "/chat failed" in records[0].getMessage()


def test_a_websocket_that_the_server_cancels() -> None:
    async def test() -> None:
        rig, client = Rig(echo), Client(CONNECT)
        task = asyncio.create_task(rig.call(websocket(), client))
        await client.gets(1)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        assert len(asyncio.all_tasks()) == 1, "a task was left behind"

    run(test)


def test_no_task_is_left_behind() -> None:
    async def test() -> None:
        rig = Rig(echo)
        await rig.call(websocket(), Client(CONNECT, GOODBYE))
        await rig.call(request(), Client(WHOLE_REQUEST, {"type": "http.disconnect"}))
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    run(test)
