"""Behind proxies: what they say of their clients reaches the app, and only what they say.

The client of these tests is at 127.0.0.1 or on a unix socket, which are trusted unless told
otherwise.
"""

import json
import select
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from websockets.sync.client import connect as connect_websocket

from tests.e2e.clients import H2, Stopwatch, Wire

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

SAID = {
    "x-forwarded-for": "6.6.6.6, 203.0.113.5",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "shop.example",
    "x-forwarded-prefix": "/shop",
}
LINES = tuple(f"{name.title()}: {value}" for name, value in SAID.items())

ASGI, WSGI = "behind_proxy:app", "behind_proxy:wsgi"


@pytest.fixture(scope="module", params=["c", "python"])
def server(request: pytest.FixtureRequest, shared_serve: Serve) -> Server:
    return shared_serve(ASGI, "--workers", "1", "--http-parser", request.param)


@pytest.fixture(scope="module")
def wsgi_server(shared_serve: Serve) -> Server:
    return shared_serve(WSGI, "--workers", "1")


@pytest.fixture(scope="module", params=["asgi", "wsgi"])
def distrustful(request: pytest.FixtureRequest, shared_serve: Serve) -> Server:
    app = ASGI if request.param == "asgi" else WSGI
    return shared_serve(app, "--workers", "1", "--forwarded-allow-ips", "192.0.2.0/24")


def over_http1(server: Server) -> dict[str, Any]:
    with Wire.connect(server.address) as wire:
        return json.loads(wire.get("/a", *LINES).answer().body)


def over_http2(server: Server) -> dict[str, Any]:
    with Wire.connect(server.address) as wire:
        client = H2(wire)
        return json.loads(client.finish(client.open("/a", *SAID.items())).body)


def over_websocket(server: Server) -> dict[str, Any]:
    host, port = server.address
    with connect_websocket(f"ws://{host}:{port}/a", additional_headers=SAID) as socket:
        return json.loads(socket.recv())


@pytest.mark.parametrize("ask", [over_http1, over_http2, over_websocket])
def test_all_lanes_agree(server: Server, ask: Callable[[Server], dict[str, Any]]) -> None:
    told = ask(server)
    assert told["client"] == ["203.0.113.5", 0]
    assert told["scheme"] == ("wss" if ask is over_websocket else "https")
    assert told["server"] == ["shop.example", 443]
    assert told["root_path"] == "/shop"
    assert told["path"] == "/shop/a"
    headers = dict(told["headers"])
    assert headers["host"] == "shop.example"
    assert headers["x-forwarded-for"] == "203.0.113.5"


@pytest.mark.parametrize("ask", [over_http1, over_http2, over_websocket])
def test_no_lane_believes_a_stranger(
    distrustful: Server, ask: Callable[[Server], dict[str, Any]]
) -> None:
    """waitress 3.0.2, #452."""
    if ask is over_websocket and ":wsgi" in distrustful.log:
        pytest.skip("WSGI knows no WebSocket")
    told = ask(distrustful)
    assert "203.0.113.5" not in json.dumps(told)
    assert "shop" not in json.dumps(told)
    assert "https" not in json.dumps(told)
    assert "127.0.0.1" in json.dumps(told)


def test_wsgi(wsgi_server: Server) -> None:
    environ = over_http1(wsgi_server)
    assert environ["REMOTE_ADDR"] == "203.0.113.5"
    assert "REMOTE_PORT" not in environ, "that of the proxy would be wrong"
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTPS"] == "on"
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("shop.example", "443")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", "/a")
    assert environ["HTTP_HOST"] == "shop.example"
    assert environ["HTTP_X_FORWARDED_FOR"] == "203.0.113.5"
    assert over_http2(wsgi_server)["REMOTE_ADDR"] == "203.0.113.5"


def test_the_next_request_of_a_connection_is_another_clients(
    server: Server, wsgi_server: Server
) -> None:
    """A proxy sends the requests of all its clients over the connections that it has."""
    seen = []
    for one in (server, wsgi_server):
        with Wire.connect(one.address) as wire:
            for address in ("203.0.113.5", "203.0.113.6", ""):
                lines = [f"X-Forwarded-For: {address}", "X-Forwarded-Prefix: /p"] if address else []
                told = json.loads(wire.get("/a", *lines).answer().body)
                client = told.get("REMOTE_ADDR") or told["client"][0]
                seen.append((client, told.get("SCRIPT_NAME", told.get("root_path"))))
    assert seen == [("203.0.113.5", "/p"), ("203.0.113.6", "/p"), ("127.0.0.1", "")] * 2


def test_cve_2024_45614(wsgi_server: Server) -> None:
    """To WSGI `X_Forwarded_For` and `X-Forwarded-For` are one, and a proxy knows but the other."""
    with Wire.connect(wsgi_server.address) as wire:
        answer = wire.get("/", "X_Forwarded_For: 6.6.6.6", "X-Forwarded-For: 203.0.113.5").answer()
        environ = json.loads(answer.body)
        assert environ["HTTP_X_FORWARDED_FOR"] == "203.0.113.5"
        environ = json.loads(wire.get("/", "X_Forwarded_For: 6.6.6.6").answer().body)
    assert "6.6.6.6" not in json.dumps(environ)
    assert environ["REMOTE_ADDR"] == "127.0.0.1"


def test_a_proxy_on_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    log = tmp_path / "access.log"
    serve(ASGI, "--workers", "1", "--bind", f"unix:{path}", "--access-log", str(log))
    with Wire.connect(path) as wire:
        told = json.loads(wire.get("/a", *LINES).answer().body)
        assert told["client"] == ["203.0.113.5", 0]
        told = json.loads(wire.get("/a").answer().body)
        assert told["client"] is None
    with Wire.connect(path) as wire:
        client = H2(wire)
        told = json.loads(client.get("/a").body)
        assert told["client"] is None, "the same in all lanes"
    assert log.read_text().startswith("203.0.113.5:0 ")


def test_only_headers_that_the_proxy_is_known_to_write(serve: Serve) -> None:
    server = serve(ASGI, "--workers", "1", "--forwarded-headers", "x-forwarded-for")
    told = over_http1(server)
    assert told["client"] == ["203.0.113.5", 0]
    assert (told["scheme"], told["root_path"]) == ("http", "")
    assert dict(told["headers"])["host"] == "test"


# ---- PROXY protocol

V1 = b"PROXY TCP4 203.0.113.5 192.0.2.1 40000 443\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11"
    + struct.pack("!H", 12 + 5)
    + bytes([203, 0, 113, 5, 192, 0, 2, 1])
    + struct.pack("!HH", 40000, 443)
    + b"\x01\0\2h2"
)
UNKNOWN = b"PROXY UNKNOWN\r\n"
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0"
REQUEST = b"GET /a HTTP/1.1\r\nHost: test\r\n\r\n"


@dataclass
class Tls:
    pem: str
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    authority = trustme.CA()
    pem = tmp_path_factory.mktemp("tls") / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    return Tls(str(pem), context)


@pytest.fixture(
    scope="module",
    params=[(loop, secured) for loop in ("asyncio", "uvloop") for secured in (False, True)],
    ids=["asyncio", "asyncio-tls", "uvloop", "uvloop-tls"],
)
def proxied(
    request: pytest.FixtureRequest, shared_serve: Serve, certified: Tls
) -> tuple[Server, Tls | None]:
    loop, secured = request.param
    tls = ("--certfile", certified.pem) if secured else ()
    server = shared_serve(
        *(ASGI, "--workers", "1", "--loop", loop, "--proxy-protocol", "--header-timeout", "300ms"),
        *tls,
    )
    return server, certified if secured else None


def behind(header: bytes, proxied: tuple[Server, Tls | None], pieces: int = 1) -> Wire:
    """Connect as a proxy does: the header, then the client's bytes, TLS perhaps."""
    server, tls = proxied
    wire = Wire.connect(server.address)
    wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    step = -(-len(header) // pieces)
    for place in range(0, len(header), step):
        wire.send(header[place : place + step])
    if tls is not None:
        wire = Wire(tls.context.wrap_socket(wire.sock, server_hostname="localhost"))
    return wire


def is_dropped(wire: Wire) -> bool:
    """Wait for the end of a connection, on which nothing may come before."""
    try:
        return wire.receive() == b""
    except ConnectionResetError:
        return True  # with what it had sent unread


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("pieces", [1, 2, 50])
def test_the_client_that_the_proxy_tells(
    proxied: tuple[Server, Tls | None], header: bytes, pieces: int
) -> None:
    with behind(header, proxied, pieces) as wire:
        for _ in range(2):
            told = json.loads(wire.send(REQUEST).answer().body)
            assert told["client"] == ["203.0.113.5", 40000]
            assert told["server"] == ["192.0.2.1", 443]
            assert told["scheme"] == ("https" if proxied[1] else "http")


def test_header_and_request_in_one_packet(proxied: tuple[Server, Tls | None]) -> None:
    if proxied[1] is not None:
        pytest.skip("what comes next is TLS's affair")
    with Wire.connect(proxied[0].address) as wire:
        told = json.loads(wire.send(V1 + REQUEST).answer().body)
        assert told["client"] == ["203.0.113.5", 40000]


@pytest.mark.parametrize("header", [UNKNOWN, LOCAL], ids=["unknown", "local"])
def test_the_proxys_own_connections(proxied: tuple[Server, Tls | None], header: bytes) -> None:
    with behind(header, proxied) as wire:
        told = json.loads(wire.send(REQUEST).answer().body)
        assert told["client"][0] == "127.0.0.1"


def test_a_client_behind_it_is_no_trusted_peer(proxied: tuple[Server, Tls | None]) -> None:
    """The proxy has passed on what its client has sent."""
    with behind(V1, proxied) as wire:
        told = json.loads(wire.get("/a", *LINES).answer().body)
        assert told["client"] == ["203.0.113.5", 40000]
        assert "x-forwarded-for" not in dict(told["headers"])


def test_other_lanes_know_it_too(proxied: tuple[Server, Tls | None]) -> None:
    if proxied[1] is not None:
        pytest.skip("by prior knowledge, without TLS")
    with behind(V2, proxied) as wire:
        assert json.loads(H2(wire).get("/a").body)["client"] == ["203.0.113.5", 40000]
    wire = behind(V2, proxied)
    with connect_websocket("ws://test/a", sock=wire.sock) as socket_:
        assert json.loads(socket_.recv())["client"] == ["203.0.113.5", 40000]


@pytest.mark.parametrize("data", [REQUEST, V1[:-2] + b" \r\n", b"\x16\x03\x01\x02\0", b""])
def test_what_does_not_begin_with_a_header_is_dropped(
    proxied: tuple[Server, Tls | None], data: bytes
) -> None:
    """Without an answer; what sends nothing, or half a header, when its time is over."""
    server, _ = proxied
    with Wire.connect(server.address) as wire, Stopwatch() as watch:
        wire.send(data)
        assert is_dropped(wire)
    assert watch.seconds < 3
    assert server.log.count("dropped a connection") <= 1 + watch.seconds / 10
    with behind(V1, proxied) as wire:
        assert wire.send(REQUEST).answer().status == 200


def test_half_a_header_in_drips(proxied: tuple[Server, Tls | None]) -> None:
    """The time is for all of it, and the connection is gone from the books as well."""
    server, _ = proxied
    with Wire.connect(server.address) as wire, Stopwatch() as watch:
        for byte in V1[:-1]:
            wire.send(bytes([byte]))
            if select.select([wire.sock], [], [], 0.05)[0]:
                break
        assert is_dropped(wire)
    assert watch.seconds < 3


def test_a_peer_that_is_not_trusted_is_dropped(serve: Serve) -> None:
    server = serve(
        *(ASGI, "--workers", "1", "--proxy-protocol", "--forwarded-allow-ips", "192.0.2.0/24")
    )
    for _ in range(5):
        with Wire.connect(server.address) as wire:
            assert is_dropped(wire.send(V1 + REQUEST))
    server.wait_for(r"dropped a connection from 127\.0\.0\.1: it is not in --forwarded-allow-ips")
    assert server.log.count("dropped a connection") == 1
    assert server.stop() == 0, server.log
