"""WebSocket: RFC 6455 over HTTP/1.1, RFC 8441 over HTTP/2, and what ASGI makes of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import pytest
import websockets.sync.client
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close

from tests.e2e.clients import DEADLINE, Wire

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    from tests.e2e.conftest import Serve, Server

MAX_BYTES = 100_000

UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)

type Connect = Callable[..., AbstractContextManager[ClientConnection]]


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest, shared_serve: Serve) -> Server:
    return shared_serve(
        *("asgi:app", "--workers", "1", "--loop", request.param),
        *("--ws-max-message-bytes", str(MAX_BYTES)),
    )


@pytest.fixture
def connect(server: Server) -> Connect:
    """``connect("echo")`` opens the WebSocket ``/ws/echo``."""
    url = server.url.replace("http", "ws")

    def opened(path: str, **options: object) -> AbstractContextManager[ClientConnection]:
        return websockets.sync.client.connect(  # type: ignore[arg-type]
            f"{url}/ws/{path}", proxy=None, open_timeout=DEADLINE, **options
        )

    return opened


def end_of(chat: ClientConnection) -> Close:
    """Return the close frame that the server sends."""
    with pytest.raises(ConnectionClosed) as closed:
        chat.recv(timeout=DEADLINE)
    assert closed.value.rcvd is not None, "the connection ended without a close frame"
    return closed.value.rcvd


def rejection(connect: Connect, path: str, **options: object) -> websockets.Response:
    with pytest.raises(InvalidStatus) as refused, connect(path, **options):
        pass
    return refused.value.response


def test_text_and_bytes_come_back(connect: Connect) -> None:
    with connect("echo") as chat:
        for message in ("grüße", b"\0\xff", "", "x" * 50_000, b"y" * 50_000):
            chat.send(message)
            assert chat.recv() == message
        chat.send(iter(["in ", "three ", "parts"]))
        assert chat.recv() == "in three parts"
        assert chat.ping().wait(DEADLINE)


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, ""), (4001, "enough")])
def test_the_app_sees_how_the_client_closes(
    server: Server, connect: Connect, code: int, reason: str
) -> None:
    """Regression: Hypercorn says 1006, a broken connection, whatever the client says."""
    with connect("echo") as chat:
        chat.close(code, reason)
    server.wait_for(rf"websocket closed with {code} '{reason}'")


def test_the_app_sees_a_connection_that_breaks(server: Server) -> None:
    with Wire.connect(server.address) as wire:
        assert wire.get("/ws/echo", *UPGRADE).answer().status == 101
    server.wait_for("websocket closed with 1006 ''")


def test_the_client_sees_how_the_app_closes(server: Server, connect: Connect) -> None:
    with connect("close?code=4002&reason=go+home") as chat:
        assert end_of(chat) == Close(4002, "go home")
    server.wait_for("after close: websocket.disconnect")


def test_subprotocols(connect: Connect) -> None:
    with connect("subprotocol?choose=b", subprotocols=["a", "b"]) as chat:
        assert chat.subprotocol == "b"
        assert chat.recv() == "a,b"


def test_a_subprotocol_that_was_not_offered(server: Server, connect: Connect) -> None:
    """Regression: the client got a close frame, where it waited for a response."""
    assert rejection(connect, "subprotocol?choose=c", subprotocols=["a"]).status_code == 500
    server.wait_for("WEBSOCKET /ws/subprotocol failed")


def test_rejection(connect: Connect) -> None:
    assert rejection(connect, "reject").status_code == 403


def test_denial_with_a_response_of_the_app(connect: Connect) -> None:
    response = rejection(connect, "deny")
    assert (response.status_code, bytes(response.body)) == (429, b"too many of you")
    assert response.headers["retry-after"] == "7"


@pytest.mark.parametrize("error", ["RuntimeError", "SystemExit", "KeyboardInterrupt"])
def test_an_app_that_fails(server: Server, connect: Connect, error: str) -> None:
    assert rejection(connect, f"fail?when=before&what={error}").status_code == 500
    with connect(f"fail?when=after&what={error}") as chat:
        chat.send("go")
        assert end_of(chat).code == 1011
    server.wait_for(f"WEBSOCKET /ws/fail failed: {error}")
    with connect("echo") as chat:
        assert chat.response is not None
        assert chat.response.headers["x-worker"] == "0.1"


@pytest.mark.parametrize("fragments", [1, 5])
def test_a_message_that_is_too_big(server: Server, connect: Connect, fragments: int) -> None:
    before = server.log.count("websocket closed with 1009")
    with connect("echo") as chat:
        chat.send("x" * MAX_BYTES)
        assert len(chat.recv()) == MAX_BYTES
        size = MAX_BYTES // fragments + 1
        chat.send(iter(["x" * size] * fragments))
        assert end_of(chat).code == 1009
    server.wait_for("(?s)" + ".*websocket closed with 1009" * (before + 1))


def test_an_app_that_goes_on_sending_is_ended(server: Server, connect: Connect) -> None:
    ended = server.log.count("push ended")
    with connect("push") as chat:
        assert chat.recv() == "tick"
    server.wait_for("(?s)" + ".*push ended" * (ended + 1))
    assert "WEBSOCKET /ws/push failed" not in server.log


def test_who_speaks_before_the_handshake_is_over(server: Server) -> None:
    """Regression: the app waited for ever, for a client that was gone."""
    before = server.log.count("handshake pending, then websocket.disconnect")
    with Wire.connect(server.address) as wire:
        wire.get("/ws/never-accept", *UPGRADE)
        server.wait_for("(?s)" + r".*handshake pending\n" * (before + 1))
        wire.send(b"\x81\x80abcd")
        assert wire.answer().status == 400
        assert wire.closed_cleanly()
    server.wait_for("(?s)" + ".*handshake pending, then websocket.disconnect" * (before + 1))


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\x81\x02hi", id="not masked"),
        pytest.param(b"\x83\x80abcd", id="reserved opcode"),
        pytest.param(b"\x81\x81\0\0\0\0\xff", id="not UTF-8"),
    ],
)
def test_a_frame_that_breaks_the_rules(server: Server, frame: bytes) -> None:
    """RFC 6455, section 7.1.7: a close frame that says why, and the end."""
    with Wire.connect(server.address) as wire:
        assert wire.get("/ws/echo", *UPGRADE).answer().status == 101
        wire.send(frame)
        opcode, size, *code = wire.read_exactly(4)
        assert (opcode, size >= 2) == (0x88, True)
        assert int.from_bytes(code) in {1002, 1007}


def test_a_handshake_that_is_not_one(server: Server) -> None:
    with Wire.connect(server.address) as wire:
        assert wire.get("/ws/echo", *UPGRADE[:2]).answer().status == 400
