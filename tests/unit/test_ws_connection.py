"""WebSocket connections, on a transport of paper, with the app and the clock in our hands."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from subserve.http.exchange import ClientGone
from subserve.http.ws.connection import FRAMES_PER_TURN, MAX_UNREAD_BYTES, State
from subserve.scoreboard import Counter
from tests.unit.ws_harness import (
    BINARY,
    CLOSE,
    CONTINUATION,
    KEY,
    PING,
    PONG,
    REQUEST,
    TEXT,
    Chat,
    close_frame,
    frame,
    run,
)

type Send = Callable[[dict[str, Any]], Awaitable[None]]
type Receive = Callable[[], Awaitable[dict[str, Any]]]


class App:
    """Accepts, and keeps what it receives; `answer` is called with each message."""

    def __init__(self, answer: Any = None, *, accept: bool = True) -> None:
        self.received: list[dict[str, Any]] = []
        self.scope: dict[str, Any] = {}
        self.send: Any = None
        self.error: BaseException | None = None
        self._answer = answer
        self._accept = accept

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.scope, self.send = scope, send
        try:
            assert await receive() == {"type": "websocket.connect"}
            if self._accept:
                await send({"type": "websocket.accept"})
            while not self.received or self.received[-1]["type"] != "websocket.disconnect":
                message = await receive()
                self.received.append(message)
                if message["type"] == "websocket.receive" and self._answer is not None:
                    await self._answer(message, send)
        except BaseException as error:
            self.error = error
            raise

    @property
    def end(self) -> tuple[int, str]:
        """How it was told that it ended."""
        last = self.received[-1]
        assert last["type"] == "websocket.disconnect"
        return last["code"], last["reason"]


async def echo(message: dict[str, Any], send: Send) -> None:
    await send({**message, "type": "websocket.send"})


def status(chat: Chat) -> int:
    return int(chat.transport.sent.split(b" ")[1])


def ended(chat: Chat) -> bool:
    return chat.transport.ended or chat.transport.is_closing()


def answering(*messages: dict[str, Any]) -> Any:
    """Return an app that sends `messages` and returns."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        for message in messages:
            await send(message)

    return app


def scripted(app: Any, **options: Any) -> Callable[[Callable[[Chat], Awaitable[None]]], None]:
    """Run what it decorates, at once."""

    def decorate(script: Callable[[Chat], Awaitable[None]]) -> None:
        run(script, app, **options)

    return decorate


# ---- messages


def test_messages_go_both_ways() -> None:
    app = App(echo)

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.open()
        await chat.send(frame(TEXT, "grüße".encode()) + frame(BINARY, b"\0"), frame(TEXT))
        assert chat.taken() == [(0x81, "grüße".encode()), (0x82, b"\0"), (0x81, b"")]
        assert chat.row[Counter.REQUESTS_STARTED] == 1
        assert chat.row[Counter.REQUESTS_FINISHED] == 0
        await chat.send(close_frame(4001, b"bye"))
        assert chat.taken() == [(0x88, (4001).to_bytes(2))]
        assert chat.transport.is_closing()
        assert chat.log == ["192.0.2.7:40000 GET /chat?a=b 101 0"]

    assert app.received[:2] == [
        {"type": "websocket.receive", "text": "grüße"},
        {"type": "websocket.receive", "bytes": b"\0"},
    ]
    assert app.end == (4001, "bye")


def test_the_scope() -> None:
    app = App()
    protocols = REQUEST.replace(b"Host: a", b"Host: a\r\nSec-WebSocket-Protocol: b, c")

    @scripted(app, root_path="/shop")
    async def _(chat: Chat) -> None:
        await chat.open(protocols.replace(b"/chat", b"/ch%61t"))

    headers = app.scope.pop("headers")
    assert (b"sec-websocket-key", KEY) in headers
    assert app.scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/shop/chat",
        "raw_path": b"/shop/ch%61t",
        "query_string": b"a=b",
        "root_path": "/shop",
        "client": ("192.0.2.7", 40000),
        "server": ("192.0.2.1", 8000),
        "subprotocols": ["b", "c"],
        "state": {"given": 1},
        "extensions": {"websocket.http.response": {}},
    }


def test_types_that_apps_send() -> None:
    app = answering(
        {"type": "websocket.accept"},
        {"type": "websocket.send", "bytes": bytearray(b"a"), "text": None},
        {"type": "websocket.send", "bytes": memoryview(b"b")},
        {"type": "websocket.send", "bytes": None, "text": "c"},
        {"type": "websocket.send", "bytes": b"d" * 70_000},
    )

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.open()
        *frames, close = chat.taken()
        assert frames == [(0x82, b"a"), (0x82, b"b"), (0x81, b"c"), (0x82, b"d" * 70_000)]
        assert close == (0x88, (1000).to_bytes(2)), "an app that just returns"


def test_compression_both_ways() -> None:
    offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"

    @scripted(App(echo))
    async def _(chat: Chat) -> None:
        head = await chat.open(REQUEST[:-2] + offer)
        assert b"sec-websocket-extensions: permessage-deflate" in head
        # The example of RFC 7692, section 7.2.3.1.
        await chat.send(frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4))
        assert chat.taken() == [(0x81, b"Hello")]
        await chat.send(frame(TEXT, b"x" * 1000))
        [(first, payload)] = chat.taken()
        assert first == 0xC1
        assert len(payload) < 30

    @scripted(App(echo), ws_compression="off")
    async def _(chat: Chat) -> None:
        assert b"extensions" not in (await chat.open(REQUEST[:-2] + offer))
        await chat.send(frame(TEXT, b"x" * 1000))
        assert chat.taken() == [(0x81, b"x" * 1000)]
        await chat.send(frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4))
        assert chat.taken()[0][1][:2] == (1002).to_bytes(2)


# ---- the handshake


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (b"Version: 13", b"Version: 8", 426),
        (KEY, b"short", 400),
        (b"Host: a", b"Host: a\r\nSec-WebSocket-Protocol: \x80\xff", 400),
        (b"Host: a", b"Host: a\r\nSec-WebSocket-Extensions: ;", 400),
        (b"\r\n\r\n", b"\r\n\r\n\x81\x80abcd", 400),
    ],
)
def test_handshakes_that_are_refused(before: bytes, after: bytes, expected: int) -> None:
    app = App()

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.send(REQUEST.replace(before, after))
        assert status(chat) == expected
        assert chat.transport.ended
        assert chat.log == [f"192.0.2.7:40000 GET /chat?a=b {expected} 0"]
        assert chat.row[Counter.REQUESTS_STARTED] == 0

    assert app.scope == {}


def test_an_app_that_refuses() -> None:
    @scripted(answering({"type": "websocket.close"}))
    async def _(chat: Chat) -> None:
        await chat.send(REQUEST)
        assert status(chat) == 403
        assert chat.transport.ended
        assert chat.log == ["192.0.2.7:40000 GET /chat?a=b 403 0"]


def test_a_response_in_place_of_a_websocket_streamed() -> None:
    start = {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x", b"y")]}
    body = {"type": "websocket.http.response.body", "body": b"not "}
    app = answering(
        start, {**body, "more_body": True}, {**body, "body": b"you", "more_body": False}
    )

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.send(REQUEST)
        head, _, rest = bytes(chat.transport.sent).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 Unauthorized\r\nx: y\r\n")
        assert b"transfer-encoding: chunked" in head
        assert b"connection: close" in head
        assert rest == b"4\r\nnot \r\n3\r\nyou\r\n0\r\n\r\n"
        assert chat.transport.ended
        assert chat.log == ["192.0.2.7:40000 GET /chat?a=b 401 7"]


def test_a_response_that_is_not_finished_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    start = {"type": "websocket.http.response.start", "status": 401}
    body = {"type": "websocket.http.response.body", "body": b"not ", "more_body": True}

    @scripted(answering(start, body))
    async def _(chat: Chat) -> None:
        await chat.send(REQUEST)
        assert chat.transport.sent.endswith(b"4\r\nnot \r\n")
        assert chat.transport.aborted

    assert "the app returned too early" in caplog.text


ACCEPT = {"type": "websocket.accept"}
START = {"type": "websocket.http.response.start", "status": 401}
BODY = {"type": "websocket.http.response.body"}
DATA = {"type": "websocket.send", "text": "a"}


@pytest.mark.parametrize(
    "messages",
    [
        (),
        (DATA,),
        (BODY,),
        (START,),
        (START, START),
        (START, ACCEPT),
        ({**START, "headers": [(b"x", b"a\r\nb: c")]}, BODY),
        ({**START, "status": 101}, BODY),
        ({**ACCEPT, "headers": [(b"x", b"a\r\nb: c")]},),
        ({**ACCEPT, "headers": [(b"x\0", b"a")]},),
        ({**ACCEPT, "subprotocol": "not offered"},),
        ({"type": "http.response.start", "status": 200},),
    ],
)
def test_answers_that_are_none(
    messages: tuple[dict[str, Any], ...], caplog: pytest.LogCaptureFixture
) -> None:
    """CVE-2026-42545: the client gets 500, and nothing of it."""

    @scripted(answering(*messages))
    async def _(chat: Chat) -> None:
        await chat.send(REQUEST)
        assert chat.transport.sent.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert chat.transport.sent.count(b"\r\n\r\n") == 1
        assert chat.transport.ended

    assert "WEBSOCKET /chat" in caplog.text


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.send"},
        {"type": "websocket.send", "text": b"a"},
        {"type": "websocket.send", "text": "\ud800"},
        ACCEPT,
        START,
        {"type": "websocket.close", "code": 1006},
        {"type": "websocket.close", "code": 999},
        {"type": "websocket.close", "reason": "x" * 124},
    ],
)
def test_messages_that_are_none(message: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    @scripted(answering(ACCEPT, message))
    async def _(chat: Chat) -> None:
        await chat.open()
        assert chat.taken() == [(0x88, (1011).to_bytes(2))]
        await chat.send(close_frame(1011))
        assert chat.transport.is_closing()

    assert "WEBSOCKET /chat failed" in caplog.text


def test_a_client_that_speaks_too_early() -> None:
    app = App(accept=False)

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.send(REQUEST, frame(TEXT, b"hello"))
        assert status(chat) == 400
        assert ended(chat)
        assert app.end == (1006, "")
        with pytest.raises(ClientGone):
            await app.send(ACCEPT)


def test_a_client_that_leaves_before_the_answer() -> None:
    app = App(accept=False)

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.send(REQUEST)
        chat.transport.lose()
        await chat.settle()
        assert app.end == (1006, "")
        with pytest.raises(OSError):  # noqa: PT011  what ASGI says, whatever it says
            await app.send(ACCEPT)


# ---- the end


def test_the_app_closes_and_the_client_answers() -> None:
    app = answering(ACCEPT, {"type": "websocket.close", "code": 4000, "reason": "done"})

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.open()
        assert chat.taken() == [(0x88, (4000).to_bytes(2) + b"done")]
        assert not ended(chat)
        await chat.send(frame(TEXT, b"on its way"), frame(PING, b"too"), close_frame(4000))
        assert chat.transport.is_closing()
        assert chat.taken() == [], "nothing behind a close frame"


def test_the_app_closes_and_the_client_does_not_answer() -> None:
    @scripted(answering(ACCEPT, {"type": "websocket.close"}))
    async def _(chat: Chat) -> None:
        await chat.open()
        chat.wait(4)
        assert not ended(chat)
        chat.wait(6)
        assert chat.transport.ended
        assert not chat.transport.is_closing()
        chat.wait(1)
        assert not chat.transport.is_closing()
        chat.wait(3)
        assert chat.transport.is_closing()


def test_behind_its_own_close_an_app_may_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    @scripted(answering(ACCEPT, {"type": "websocket.close"}, DATA))
    async def _(chat: Chat) -> None:
        await chat.open()
        assert chat.taken() == [(0x88, (1000).to_bytes(2))]

    assert "WEBSOCKET /chat failed: RuntimeError" in caplog.text


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"\x81\x00", 1002), (frame(TEXT, b"\xff"), 1007), (frame(TEXT, b"x" * 11), 1009)],
)
def test_the_client_breaks_the_rules(data: bytes, code: int) -> None:
    app = App(echo)

    @scripted(app, ws_max_message_bytes=10)
    async def _(chat: Chat) -> None:
        await chat.open()
        await chat.send(frame(TEXT, b"before"), data, frame(TEXT, b"behind"))
        assert [first for first, _ in chat.taken()] == [0x81, 0x88]
        assert chat.transport.ended
        assert app.end[0] == code


def test_to_send_to_nobody_raises() -> None:
    app = App()

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.open()
        await chat.send(close_frame(1000))
        with pytest.raises(ClientGone):
            await app.send(DATA)
        await app.send({"type": "websocket.close"})  # it cannot know


def test_an_app_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(message: dict[str, Any], send: Send) -> None:
        raise SystemExit(3)

    @scripted(App(fail))
    async def _(chat: Chat) -> None:
        await chat.open()
        await chat.send(frame(TEXT, b"go"))
        assert chat.taken() == [(0x88, (1011).to_bytes(2))]

    assert "WEBSOCKET /chat failed: SystemExit" in caplog.text


def test_a_worker_that_has_no_time_left() -> None:
    app = App()

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.open()
        assert await chat.lane.cut_off(1.0) == 1
        assert chat.transport.aborted
        assert isinstance(app.error, asyncio.CancelledError)


def test_over_tls_it_closes_when_the_client_is_quiet() -> None:
    """There is no half-closed connection; closing on what is unread would reset it."""

    @scripted(App())
    async def _(chat: Chat) -> None:
        await chat.open()
        chat.connection._is_tls = True
        await chat.send(frame(3))
        assert chat.taken()[0][0] == 0x88
        for _ in range(3):
            await chat.send(b"more")
            chat.wait(0.2)
            assert not ended(chat)
        chat.wait(0.4)
        assert chat.transport.is_closing()


def test_a_client_that_sends_no_more() -> None:
    app = App()

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.open()
        chat.transport.feed_eof()
        with pytest.raises(ClientGone):
            await app.send(DATA)
        await chat.settle()
        assert app.end == (1006, "")


def test_who_waits_next_is_not_forgotten_when_who_waited_is_cancelled() -> None:
    """A time-out around `receive`, and another call at once."""
    received: list[Any] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        first = asyncio.create_task(receive())  # type: ignore[arg-type]
        await asyncio.sleep(0)
        first.cancel()
        received.append(await receive())

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.open()
        await chat.send(frame(TEXT, b"a"))
        assert received == [{"type": "websocket.receive", "text": "a"}]


# ---- the drain


def test_a_drain_asks_the_client_to_come_back() -> None:
    app = App()

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.open()
        chat.lane.begin_drain()
        await chat.settle()
        assert chat.taken() == [(0x88, (1012).to_bytes(2))]
        assert app.end == (1012, "")
        with pytest.raises(ClientGone):
            await app.send(DATA)
        assert chat.lane.busy
        await chat.send(close_frame(1012))
        assert not chat.lane.busy


def test_a_drain_does_not_wait_for_ever() -> None:
    @scripted(App())
    async def _(chat: Chat) -> None:
        await chat.open()
        chat.lane.begin_drain()
        await chat.settle()
        chat.wait(0.9)
        assert not ended(chat)
        chat.wait(1.1)
        assert ended(chat)


def test_a_drain_before_the_answer() -> None:
    app = App(accept=False)

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.send(REQUEST)
        chat.lane.begin_drain()
        await chat.settle()
        assert status(chat) == 503
        assert app.end == (1012, "")


def test_a_handshake_in_a_drain() -> None:
    @scripted(App())
    async def _(chat: Chat) -> None:
        chat.lane.begin_drain()
        await chat.send(REQUEST)
        assert status(chat) == 503


def test_a_drain_while_the_app_waits_for_room() -> None:
    async def flood(message: dict[str, Any], send: Send) -> None:
        while True:
            await send({"type": "websocket.send", "bytes": bytes(40_000)})

    app = App(flood)

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.open()
        chat.transport.stalled = True
        await chat.send(frame(TEXT))
        assert app.error is None
        chat.lane.begin_drain()
        await chat.settle()
        assert isinstance(app.error, ClientGone)
        assert chat.transport.unsent.endswith(b"\x88\x02\x03\xf4")


# ---- back-pressure


def test_reading_pauses_while_the_app_does_not_receive() -> None:
    gate = asyncio.Event()

    async def wait(message: dict[str, Any], send: Send) -> None:
        await gate.wait()

    app = App(wait)
    count = 40

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.open()
        for number in range(count):
            chat.transport.feed(frame(BINARY, bytes((number,)) * 10_000))
        await chat.settle()
        assert not chat.transport.is_reading()
        assert sum(map(len, chat.connection.messages)) < MAX_UNREAD_BYTES + 10_000
        chat.wait(50)  # pings are of no use to who is not heard
        assert chat.taken() == []
        gate.set()
        await chat.settle()
        assert chat.transport.is_reading()
        assert [message["bytes"][0] for message in app.received] == list(range(count))


def test_small_messages_count_too() -> None:
    gate = asyncio.Event()

    async def wait(message: dict[str, Any], send: Send) -> None:
        await gate.wait()

    @scripted(App(wait))
    async def _(chat: Chat) -> None:
        await chat.open()
        await chat.send(frame(TEXT) * 20_000)
        assert len(chat.connection.messages) < 2000
        assert not chat.transport.is_reading()
        gate.set()


def test_one_client_does_not_have_the_loop_for_itself() -> None:
    app = App(echo)

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.open()
        first = frame(TEXT, b"x", fin=False)
        chat.transport.feed(first + frame(CONTINUATION, fin=False) * (FRAMES_PER_TURN * 3))
        assert not chat.transport.is_reading()
        assert chat.connection.state is State.OPEN
        await chat.settle()
        assert chat.transport.is_reading()
        await chat.send(frame(CONTINUATION, b"y"))
        assert chat.taken() == [(0x81, b"xy")]


def test_an_app_waits_while_the_client_does_not_read() -> None:
    sent = 0

    async def flood(message: dict[str, Any], send: Send) -> None:
        nonlocal sent
        for _ in range(100):
            await send({"type": "websocket.send", "bytes": bytes(10_000)})
            sent += 1

    @scripted(App(flood))
    async def _(chat: Chat) -> None:
        await chat.open()
        chat.transport.stalled = True
        await chat.send(frame(TEXT))
        assert sent < 10
        chat.transport.resume()
        await chat.settle()
        assert sent == 100


def test_a_client_that_takes_nothing_is_cut_off() -> None:
    async def flood(message: dict[str, Any], send: Send) -> None:
        while True:
            await send({"type": "websocket.send", "bytes": bytes(10_000)})

    app = App(flood)

    @scripted(app, write_timeout=30.0)
    async def _(chat: Chat) -> None:
        await chat.open()
        chat.transport.stalled = True
        await chat.send(frame(TEXT))
        chat.wait(0)
        chat.wait(29)
        assert not chat.transport.aborted
        chat.wait(31)
        assert chat.transport.aborted
        await chat.settle()
        assert isinstance(app.error, ClientGone)


# ---- pings


def test_pings_are_answered() -> None:
    @scripted(App())
    async def _(chat: Chat) -> None:
        await chat.open()
        await chat.send(frame(PING, b"a") + frame(PONG, b"b") + frame(PING, b"c" * 125))
        assert chat.taken() == [(0x8A, b"a"), (0x8A, b"c" * 125)]


def test_pongs_do_not_pile_up() -> None:
    """A client that sends pings, and reads nothing."""

    async def flood(message: dict[str, Any], send: Send) -> None:
        await send({"type": "websocket.send", "bytes": bytes(100_000)})

    @scripted(App(flood))
    async def _(chat: Chat) -> None:
        await chat.open()
        chat.transport.stalled = True
        await chat.send(frame(TEXT))
        for number in range(500):
            await chat.send(frame(PING, b"%d" % number))
        assert len(chat.transport.unsent) < 101_000
        chat.transport.resume()
        await chat.settle()
        assert chat.taken()[1:] == [(0x8A, b"499")]


def test_a_client_that_says_nothing_is_asked() -> None:
    app = App()

    @scripted(app, ws_ping_interval=20.0, ws_ping_timeout=10.0)
    async def _(chat: Chat) -> None:
        await chat.open()
        chat.wait(19)
        assert chat.taken() == []
        chat.wait(21)
        assert chat.taken() == [(0x89, b"")]
        await chat.send(frame(PONG))
        chat.wait(32)
        chat.wait(51)
        assert not ended(chat)
        chat.wait(53)
        assert chat.taken() == [(0x89, b"")]
        chat.wait(64)
        assert chat.taken() == [(0x88, (1011).to_bytes(2) + b"keepalive ping timeout")]
        assert ended(chat)
        await chat.settle()
        assert app.end == (1011, "keepalive ping timeout")


def test_pings_can_be_off() -> None:
    @scripted(App(), ws_ping_interval=0.0)
    async def _(chat: Chat) -> None:
        await chat.open()
        chat.wait(1_000_000)
        assert chat.taken() == []

    @scripted(App(), ws_ping_timeout=0.0)
    async def _(chat: Chat) -> None:
        await chat.open()
        chat.wait(30)
        chat.wait(1_000_000)
        assert chat.taken() == [(0x89, b"")]
        assert not ended(chat)


def test_control_characters_of_a_close_reason_reach_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    app = App()

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.open()
        await chat.send(close_frame(4000, b"\x1b[31m\r\nforged"))

    assert app.end == (4000, "\x1b[31m\r\nforged")
    assert "forged" not in caplog.text


def test_close_is_the_last_frame() -> None:
    """Pings and messages behind a close frame count no more (RFC 6455, section 5.5.1)."""
    app = App(echo)

    @scripted(app)
    async def _(chat: Chat) -> None:
        await chat.open()
        await chat.send(frame(CLOSE) + frame(PING) + frame(TEXT, b"x"))
        assert chat.taken() == [(0x88, b"")]

    assert app.received == [{"type": "websocket.disconnect", "code": 1005, "reason": ""}]
