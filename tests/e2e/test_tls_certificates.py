"""TLS: which certificate is shown, what apps are told of the client's, and handshakes that fail."""

import json
import socket
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.e2e.clients import DEADLINE, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import Serve, Server

LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write(authority: trustme.CA, path: Path, *names: str) -> str:
    """Issue a certificate, put it into `path` with its key, and return its serial number."""
    made = authority.issue_cert(*names)
    blob = made.private_key_and_cert_chain_pem
    replacement = path.with_suffix(".new")
    blob.write_to_path(str(replacement))
    replacement.chmod(0o600)
    replacement.rename(path)
    return str(ssl._ssl._test_decode_cert(str(path))["serialNumber"])  # type: ignore[attr-defined]


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())


def connect(server: Server, context: ssl.SSLContext, name: str) -> tuple[Wire, str]:
    """Connect, asking for `name`; return the connection and the serial number that is shown."""
    sock = context.wrap_socket(
        socket.create_connection(server.address, DEADLINE), server_hostname=name
    )
    shown = sock.getpeercert()
    assert shown is not None
    return Wire(sock), str(shown["serialNumber"])


@LOOPS
def test_certificates_by_name_and_their_renewal(
    serve: Serve, authority: trustme.CA, tmp_path: Path, loop: str
) -> None:
    first, second = tmp_path / "first.pem", tmp_path / "second.pem"
    serials = {"localhost": write(authority, first, "localhost")}
    serials["shop.example"] = write(authority, second, "shop.example", "*.shop.example")
    serials["de.shop.example"] = serials["shop.example"]
    server = serve(
        *("asgi:app", "--workers", "1", "--loop", loop),
        *("--certfile", str(first), "--certfile", str(second)),
    )
    context = trusting(authority)
    for name, serial in serials.items():
        wire, shown = connect(server, context, name)
        with wire:
            told = json.loads(wire.get("/scope").answer().body)["extensions"]["tls"]
            assert shown == serial
            assert ssl.PEM_cert_to_DER_cert(told["server_cert"])

    old, shown = connect(server, context, "shop.example")
    with old:
        assert old.get("/").answer().status == 200
        renewed = write(authority, second, "shop.example")
        deadline = time.monotonic() + DEADLINE
        while shown != renewed:
            assert time.monotonic() < deadline
            wire, shown = connect(server, context, "shop.example")
            with wire:
                assert wire.get("/").answer().status == 200
        assert old.get("/").answer().status == 200, "the connection from before goes on"
    wire, shown = connect(server, context, "localhost")
    wire.close()
    assert shown == serials["localhost"]
    assert server.log.count("the certificates have changed and were loaded anew") == 1
    assert server.stop() == 0, server.log


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_apps_are_told_of_the_clients_certificate(
    serve: Serve, authority: trustme.CA, tmp_path: Path, kind: str
) -> None:
    pem, authorities = tmp_path / "server.pem", tmp_path / "authorities.pem"
    write(authority, pem, "localhost")
    authority.cert_pem.write_to_path(str(authorities))
    server = serve(
        *(f"{kind}:app", "--workers", "1", "--certfile", str(pem), "--tls-min-version", "1.3"),
        *("--ca-certs", str(authorities), "--verify-client", "optional"),
    )
    known, nobody = trusting(authority), trusting(authority)
    mine = authority.issue_cert("kim@example.org", common_name="Kim")
    mine.configure_cert(known)
    chain = [mine.cert_chain_pems[0].bytes().decode(), authority.cert_pem.bytes().decode()]
    answers = []
    for context in (known, nobody):
        with Wire.connect(server.address, context) as wire:
            path = "/scope" if kind == "asgi" else "/environ"
            answer = wire.get(path, "SSL-Client-Verify: SUCCESS", "X-Client-Cert: forged").answer()
            answers.append(json.loads(answer.body))
    if kind == "asgi":
        told, without = (answer["extensions"]["tls"] for answer in answers)
        assert (told["client_cert_chain"], told["tls_version"]) == (chain, 0x0304)
        assert told["client_cert_name"].startswith("CN=Kim,")
        assert (without["client_cert_chain"], without["client_cert_name"]) == ([], None)
    else:
        told, without = answers
        assert (told["SSL_CLIENT_VERIFY"], told["SSL_PROTOCOL"]) == ("SUCCESS", "TLSv1.3")
        assert [told["SSL_CLIENT_CERT"], told["SSL_CLIENT_CERT_CHAIN_0"]] == chain
        assert told["SSL_CLIENT_S_DN"].startswith("CN=Kim,")
        assert without["SSL_CLIENT_VERIFY"] == "NONE"
        assert not {"SSL_CLIENT_S_DN", "SSL_CLIENT_CERT"} & set(without)
        assert told["HTTPS"] == "on"
    assert server.stop() == 0, server.log


def test_what_an_operator_is_warned_of(serve: Serve, authority: trustme.CA, tmp_path: Path) -> None:
    pem = tmp_path / "server.pem"
    write(authority, pem, "localhost")
    pem.chmod(0o644)
    server = serve("asgi:app", "--workers", "2", "--certfile", str(pem))
    said = f"--certfile {pem}: anybody on this machine can read the private key"
    assert server.log.count(said) == 1, server.log
    assert server.stop() == 0, server.log


def test_bad_certificates_at_a_reload_change_nothing(
    serve: Serve, authority: trustme.CA, tmp_path: Path
) -> None:
    pem = tmp_path / "server.pem"
    serial = write(authority, pem, "localhost")
    server = serve("asgi:app", "--workers", "1", "--certfile", str(pem))
    pem.write_text("nonsense")
    server.send(1)
    server.wait_for("the new code does not start; the old goes on serving")
    wire, shown = connect(server, trusting(authority), "localhost")
    with wire:
        assert (wire.get("/").answer().status, shown) == (200, serial)
    assert "Traceback" not in server.log
    assert server.stop() == 0, server.log


# ---- handshakes that fail


def raw(data: bytes) -> Callable[[Server, trustme.CA], None]:
    def attempt(server: Server, _: trustme.CA) -> None:
        with Wire.connect(server.address) as wire:
            wire.send(data)
            wire.sock.shutdown(socket.SHUT_WR)
            _drain(wire)

    return attempt


def _drain(wire: Wire) -> None:
    try:
        while wire.receive():
            pass
    except ConnectionError, ssl.SSLError:
        return


def reset(server: Server, _: trustme.CA) -> None:
    Wire.connect(server.address).send(b"\x16\x03\x01\x02\x00\x01").reset()


def refuse_the_server(server: Server, _: trustme.CA) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        Wire.connect(server.address, ssl.create_default_context())


def without_common_ciphers(server: Server, authority: trustme.CA) -> None:
    context = trusting(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
    with pytest.raises(ssl.SSLError):
        Wire.connect(server.address, context)


def with_certificate(issuer: trustme.CA | None) -> Callable[[Server, trustme.CA], None]:
    def attempt(server: Server, authority: trustme.CA) -> None:
        context = trusting(authority)
        if issuer is not None:
            issuer.issue_cert("stranger").configure_cert(context)
        # TLS 1.3: the client learns only on reading that its certificate was refused.
        with Wire.connect(server.address, context) as wire:
            _drain(wire)

    return attempt


def nonsense_behind_the_handshake(server: Server, authority: trustme.CA) -> None:
    context = trusting(authority)
    authority.issue_cert("client").configure_cert(context)
    with Wire.connect(server.address, context) as wire:
        assert wire.get("/").answer().status == 200
        below = socket.socket(fileno=wire.sock.detach())
        with below:
            below.settimeout(DEADLINE)
            below.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            below.shutdown(socket.SHUT_WR)
            while below.recv(65536):
                pass


FAILURES = {
    "nothing": raw(b""),
    "plain HTTP": raw(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"),
    "half a record": raw(b"\x16\x03\x01\x02\x00"),
    "a record too long": raw(b"\x16\x03\x01\xff\xff" + b"x" * 100),
    "an alert": raw(b"\x15\x03\x01\x00\x02\x02\x28"),
    "nonsense": raw(bytes(range(256))),
    "an empty hello": raw(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00"),
    "a reset": reset,
    "a client that does not trust us": refuse_the_server,
    "no common cipher": without_common_ciphers,
    "no certificate": with_certificate(None),
    "an unknown authority": with_certificate(trustme.CA()),
    "nonsense behind the handshake": nonsense_behind_the_handshake,
}


@LOOPS
def test_handshakes_that_fail_are_a_line_each_at_debug(
    serve: Serve, authority: trustme.CA, tmp_path: Path, loop: str
) -> None:
    pem, authorities = tmp_path / "server.pem", tmp_path / "authorities.pem"
    write(authority, pem, "localhost")
    authority.cert_pem.write_to_path(str(authorities))
    server = serve(
        *("asgi:app", "--workers", "1", "--loop", loop, "--certfile", str(pem)),
        *("--ca-certs", str(authorities), "--verify-client", "required", "--log-level", "debug"),
        *("--header-timeout", "0.5"),
    )
    good = trusting(authority)
    authority.issue_cert("client").configure_cert(good)
    before = server.log
    for fail in FAILURES.values():
        fail(server, authority)
        with Wire.connect(server.address, good) as wire:  # it serves
            assert wire.get("/", "Connection: close").answer().status == 200
            assert wire.closed_cleanly()
    with Wire.connect(server.address) as slow:
        slow.send(b"\x16\x03\x01\x02\x00")
        assert slow.receive() == b"", "the time-out, which that for the head is"
    assert server.stop() == 0, server.log
    said = server.log.removeprefix(before)
    lines = [line for line in said.splitlines() if "handshake" in line or "broke" in line]
    assert len(lines) <= len(FAILURES) + 1, said
    assert all(" debug " in line for line in lines), said
    assert "WRONG_VERSION_NUMBER" in said or "HTTP_REQUEST" in said
    assert "Traceback" not in said
