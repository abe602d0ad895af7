"""TLS: certificates of both sides, and clients that do not get through the handshake."""

import json
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
import websockets.sync.client
from cryptography.hazmat.primitives import serialization

from tests.e2e.clients import DEADLINE, Stopwatch, Wire

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

MISCONFIGURED = 2


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def pem(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's certificate and key in one file."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest, shared_serve: Serve, pem: Path) -> Server:
    return shared_serve(
        *("asgi:app", "--workers", "1", "--loop", request.param, "--certfile", str(pem))
    )


def test_https_and_wss(server: Server, authority: trustme.CA) -> None:
    assert server.url.startswith("https://")
    context = trusting(authority)
    with Wire.connect(server.address, context) as wire:
        assert json.loads(wire.get("/scope").answer().body)["scheme"] == "https"
        assert len(wire.get("/stream/3000000").answer().body) == 3_000_000
        assert wire.get("/", "Connection: close").answer().status == 200
        assert wire.closed_cleanly()
    url = server.url.replace("https", "wss")
    with websockets.sync.client.connect(
        f"{url}/ws/echo", proxy=None, ssl=context, open_timeout=DEADLINE
    ) as chat:
        chat.send("in private")
        assert chat.recv() == "in private"
        with Stopwatch() as watch:
            chat.close()
    # Neither side waits for the other to close first, as they did for 2 s.
    assert watch.seconds < 1.0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(server: Server, authority: trustme.CA, version: ssl.TLSVersion) -> None:
    context = trusting(authority)
    context.minimum_version = context.maximum_version = version
    with Wire.connect(server.address, context) as wire:
        assert wire.get("/").answer().status == 200


def test_clients_that_do_not_get_through_disturb_nobody(
    server: Server, authority: trustme.CA
) -> None:
    with (
        socket.create_connection(server.address),
        Wire.connect(server.address, trusting(authority)) as good,
    ):
        for nonsense in (b"GET / HTTP/1.1\r\nHost: t\r\n\r\n", b"\x16\x03\x01\0\4\1\0\0\0"):
            with Wire.connect(server.address) as bad:
                bad.send(nonsense)
                bad.read_to_end()
        Wire.connect(server.address).send(b"\x16\x03").reset()
        with pytest.raises(ssl.SSLCertVerificationError):  # who does not trust us
            Wire.connect(server.address, ssl.create_default_context())
        assert good.get("/").answer().status == 200
    assert "Traceback" not in server.log
    assert "error" not in server.log


def test_an_app_that_goes_on_sending_is_ended(server: Server, authority: trustme.CA) -> None:
    """Regression: with uvloop the write to a lost connection never gave way to the loop."""
    wire = Wire.connect(server.address, trusting(authority)).get("/endless")
    assert wire.read_until(b"\r\n\r\n")
    wire.reset()
    server.wait_for("endless ended")
    with Wire.connect(server.address, trusting(authority)) as other:
        assert other.get("/").answer().status == 200


def test_a_response_that_breaks_off_is_seen_to(server: Server, authority: trustme.CA) -> None:
    with Wire.connect(server.address, trusting(authority)) as wire:
        answer = wire.get("/raise/RuntimeError?after=1").answer()
        assert (answer.body, answer.complete) == (b"the beginning", False)


def test_an_upload_that_is_not_read_is_answered(server: Server, authority: trustme.CA) -> None:
    size = 3_000_000
    with Wire.connect(server.address, trusting(authority)) as wire:
        wire.send(b"POST /unread HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % size)
        wire.send(b"x" * size)
        assert wire.answer().body == b"not read"


# ---- certificates of clients


@pytest.mark.parametrize("mode", ["required", "optional"])
def test_client_certificates(
    serve: Serve, authority: trustme.CA, pem: Path, tmp_path: Path, mode: str
) -> None:
    authorities = tmp_path / "authorities.pem"
    authority.cert_pem.write_to_path(str(authorities))
    server = serve(
        *("asgi:app", "--workers", "1", "--certfile", str(pem)),
        *("--ca-certs", str(authorities), "--verify-client", mode),
    )
    known, unknown, nobody = (trusting(authority) for _ in range(3))
    authority.issue_cert("client@example.org").configure_cert(known)
    trustme.CA().issue_cert("stranger@example.org").configure_cert(unknown)

    def is_served(context: ssl.SSLContext) -> bool:
        try:
            # TLS 1.3: the client learns only on reading that its certificate was refused.
            with Wire.connect(server.address, context) as wire:
                return bool(wire.get("/").receive())
        except ssl.SSLError, ConnectionError:
            return False

    assert is_served(known)
    assert not is_served(unknown)
    assert is_served(nobody) is (mode == "optional")
    assert "Traceback" not in server.log
    assert server.stop() == 0, server.log


def test_an_encrypted_key(
    serve: Serve, launch: Serve, authority: trustme.CA, tmp_path: Path
) -> None:
    certificate = authority.issue_cert("localhost")
    certfile, keyfile = tmp_path / "chain.pem", tmp_path / "key.pem"
    certfile.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    keyfile.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"sesame"),
        )
    )
    files = ("--certfile", str(certfile), "--keyfile", str(keyfile))
    server = serve(
        "asgi:app", "--workers", "1", *files, env={"SUBSERVE_KEYFILE_PASSWORD": "sesame"}
    )
    with Wire.connect(server.address, trusting(authority)) as wire:
        assert wire.get("/").answer().status == 200
    for password in ((), ("--keyfile-password", "wrong")):
        refused = launch("asgi:app", *files, *password, "--bind", "127.0.0.1:0")
        assert refused.wait() == MISCONFIGURED
        assert "--keyfile-password" in refused.log
        assert "Traceback" not in refused.log


def test_files_that_are_not_what_they_should_be(launch: Serve, pem: Path, tmp_path: Path) -> None:
    (tmp_path / "nonsense.pem").write_text("nonsense")
    for arguments, said in (
        (("--certfile", "missing.pem"), "--certfile: cannot read 'missing.pem'"),
        (("--certfile", "nonsense.pem"), "--certfile nonsense.pem: "),
        (("--keyfile", str(pem)), "--keyfile: needs --certfile"),
        (("--certfile", str(pem), "--verify-client", "required"), "needs --ca-certs"),
    ):
        server = launch("asgi:app", *arguments)
        assert server.wait() == MISCONFIGURED
        assert said in server.log
