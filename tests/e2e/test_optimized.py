"""With ``python -O`` there are no assertions: what they decide has to be decided elsewhere."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import trustme

from tests.e2e.clients import H2, Wire
from tests.e2e.conftest import APPS

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve

PROBE = """\
import asgi, sys

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/debug":
        x = asgi.Exchange(scope, receive, send, [], {})
        return await x.answer(f"{__debug__} {sys.flags.optimize}")
    await asgi.app(scope, receive, send)
"""

REFUSED = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /digest HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n",
    b"\x16\x03\x01\x02\x00",
    b"\0",
]


def test_without_assertions_all_is_the_same(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(PROBE)
    env = {"PYTHONOPTIMIZE": "1", "PYTHONPATH": str(APPS)}
    server = serve("probe:app", "--workers", "1", app_dir=tmp_path, env=env)
    with server.client() as client:
        assert client.get("/debug").text == "False 1"
        assert client.post("/digest", content=iter([b"ab", b"c"])).text.startswith("3 ba7816bf")
        assert client.get("/raise/ValueError").status_code == 500
    for data in REFUSED:
        with Wire.connect(server.address) as wire:
            assert wire.send(data).answer().status == 400, data
            assert wire.closed_cleanly()
    with Wire.connect(server.address) as wire:
        wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        assert [wire.answer().status for _ in range(3)] == [200] * 3
    with Wire.connect(server.address) as wire:
        assert H2(wire).get("/").status == 200
    server.send(1)
    server.wait_for("turned over in")
    assert server.stop() == 0, server.log
    assert "AssertionError" not in server.log


def test_without_assertions_wsgi_and_tls_are_the_same(serve: Serve, tmp_path: Path) -> None:
    pem, authority = tmp_path / "server.pem", trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    pem.chmod(0o600)
    options = ("--workers", "1", "--certfile", str(pem))
    server = serve("wsgi:app", *options, env={"PYTHONOPTIMIZE": "1"})
    with server.client(verify=False) as client:
        assert json.loads(client.get("/environ").text)["SSL_PROTOCOL"] == "TLSv1.3"
        assert client.get("/bad/reason-crlf").status_code == 500
        assert client.post("/digest", content=iter([b"ab", b"c"])).text.startswith("3 ba7816bf")
    assert server.stop() == 0, server.log
