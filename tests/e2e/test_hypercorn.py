"""`--http hypercorn`: its protocol classes, mended, serve every connection from its first byte."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import websockets.sync.client
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from tests.e2e.clients import DEADLINE, H2, Stream, Wire

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest, shared_serve: Serve) -> Server:
    return shared_serve(
        *("asgi:app", "--workers", "1", "--loop", request.param, "--http", "hypercorn"),
    )


def test_http1(server: Server) -> None:
    with Wire.connect(server.address) as wire:
        for size in (3, 100_000):
            answer = wire.get(f"/length/{size}").answer()
            assert (answer.status, len(answer.body)) == (200, size)
    with server.client() as client:
        body = b"x" * 300_000
        assert client.post("/echo", content=iter([body[:10], body[10:]])).content == body


def test_http2(server: Server) -> None:
    with Wire.connect(server.address) as wire:
        client = H2(wire)
        assert client.get("/length/3").body == b"sss"


def test_websocket(server: Server) -> None:
    url = server.url.replace("http", "ws")
    with websockets.sync.client.connect(
        f"{url}/ws/echo", proxy=None, open_timeout=DEADLINE
    ) as chat:
        chat.send("hello")
        assert chat.recv(timeout=DEADLINE) == "hello"


def test_wsgi_and_the_drain(serve: Serve) -> None:
    server = serve("wsgi:app", "--workers", "2", "--http", "hypercorn")
    with Wire.connect(server.address) as wire:
        assert wire.get("/").answer().body == b"hello"
    assert server.stop() == 0
    assert "hypercorn" not in server.log.lower()


class WebSocketStream:
    """A WebSocket over one stream of an HTTP/2 connection."""

    def __init__(self, client: H2, path: str) -> None:
        self.client = client
        client.until(lambda: client.connection.remote_settings.enable_connect_protocol)
        self.number = client.open(
            path, (":protocol", "websocket"), ("sec-websocket-version", "13"), method="CONNECT"
        )
        self._protocol = Connection(ConnectionType.CLIENT)
        self._events = self._read()
        client.until(lambda: self.stream.status is not None)

    @property
    def stream(self) -> Stream:
        return self.client.streams[self.number]

    def send(self, event: Event) -> None:
        self.client.send(self.number, self._protocol.send(event))

    def receive(self) -> Event:
        return next(self._events)

    def _read(self) -> Iterator[Event]:
        while True:
            self.client.until(lambda: self.stream.body)
            self._protocol.receive_data(bytes(self.stream.body))
            self.stream.body.clear()
            yield from self._protocol.events()


def test_over_http2(server: Server) -> None:
    """Beside ordinary streams of the same connection, which goes on after it."""
    with Wire.connect(server.address) as wire:
        client = H2(wire)
        chat = WebSocketStream(client, "/ws/echo")
        assert chat.stream.status == 200
        chat.send(TextMessage("hello"))
        assert chat.receive() == TextMessage("hello")
        assert client.get("/length/3").body == b"sss"
        chat.send(BytesMessage(b"\0\1"))
        assert chat.receive() == BytesMessage(b"\0\1")
        chat.send(Ping(b"there?"))
        assert chat.receive() == Pong(b"there?")
        chat.send(CloseConnection(4003, "over two"))
        assert chat.receive() == CloseConnection(4003, "over two")
        assert client.finish(chat.number).ended
        server.wait_for("websocket closed with 4003 'over two'")
        assert client.get("/length/3").body == b"sss"


def test_over_http2_an_app_that_fails_or_closes(server: Server) -> None:
    """Regression: the stream stayed open behind the close frame."""
    with Wire.connect(server.address) as wire:
        client = H2(wire)
        failed = WebSocketStream(client, "/ws/fail?when=after")
        failed.send(TextMessage("go"))
        received = failed.receive()
        assert isinstance(received, CloseConnection)
        assert received.code == 1011
        assert client.finish(failed.number).ended
        closed = WebSocketStream(client, "/ws/close?code=4004")
        received = closed.receive()
        assert isinstance(received, CloseConnection)
        assert received.code == 4004
        assert client.finish(closed.number).ended
        assert WebSocketStream(client, "/ws/reject").stream.status == 403
        assert WebSocketStream(client, "/ws/deny").stream.status == 429
        assert WebSocketStream(client, "/ws/fail?when=before").stream.status == 500
        assert client.get("/length/3").body == b"sss"
