"""Listening on real addresses, and what an operator is told where that fails."""

import errno
import os
import re
import socket
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from subserve.errors import BindError
from subserve.listener import Listener, listen

DEADLINE = 10.0  # s, for what takes milliseconds


class _Listen:
    """Listens, and closes at the end of the test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, *binds: str, backlog: int = 16, tls: bool = False) -> list[Listener]:
        listeners = listen(binds, backlog=backlog, tls=tls)
        for listener in listeners:
            self._stack.callback(listener.close)
        return listeners


@pytest.fixture
def listening() -> Iterator[_Listen]:
    with ExitStack() as stack:
        yield _Listen(stack)


def refusal(*binds: str) -> str:
    """Return what an operator is told about addresses that cannot be bound."""
    with pytest.raises(BindError) as caught:
        listen(binds, backlog=16, tls=False)
    return str(caught.value)


def port_of(listener: Listener) -> int:
    port: int = listener.sock.getsockname()[1]
    return port


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[int, Sequence[object]]) -> None:
    """Have every host name mean these (family, socket address) pairs."""
    found = [(family, socket.SOCK_STREAM, 6, "", tuple(addr)) for family, addr in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)


def refuse_to_bind(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Have bind(2) fail, as it would for another user or on another machine."""

    class Refused(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(socket, "socket", Refused)


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


# ---- TCP


def test_tcp(listening: _Listen) -> None:
    (listener,) = listening("127.0.0.1:0")
    assert listener.url == f"http://127.0.0.1:{port_of(listener)}"
    assert listener.sock.getblocking() is False
    assert listener.sock.get_inheritable() is False
    with socket.create_connection(("127.0.0.1", port_of(listener)), DEADLINE):
        connection, (host, _) = listener.sock.accept()
        connection.close()
    assert host == "127.0.0.1"


def test_tls_shows_in_the_url(listening: _Listen, tmp_path: Path) -> None:
    tcp, unix = listening("127.0.0.1:0", f"unix:{tmp_path}/s", tls=True)
    assert tcp.url.startswith("https://127.0.0.1:")
    assert unix.url == f"https+unix:{tmp_path}/s"


@needs_ipv6
def test_ipv6(listening: _Listen) -> None:
    (listener,) = listening("[::1]:0")
    assert listener.url == f"http://[::1]:{port_of(listener)}"


@needs_ipv6
def test_no_host_means_all_addresses_of_both_families_on_one_port(listening: _Listen) -> None:
    listeners = listening(":0")
    assert {listener.sock.family for listener in listeners} == {socket.AF_INET, socket.AF_INET6}
    assert len({port_of(listener) for listener in listeners}) == 1


@needs_ipv6
def test_ipv6_leaves_ipv4_alone(listening: _Listen) -> None:
    (v6,) = listening("[::]:0")
    listening(f"0.0.0.0:{port_of(v6)}")


def test_the_address_can_be_bound_again_at_once(listening: _Listen) -> None:
    """A server that restarts does not wait for what the kernel keeps of old connections."""
    (first,) = listening("127.0.0.1:0")
    address = first.sock.getsockname()
    with socket.create_connection(address, DEADLINE) as client:
        server, _ = first.sock.accept()
        server.close()  # ours is the side that waits
        client.recv(1)
    first.close()
    listening(f"127.0.0.1:{address[1]}")


def test_a_port_in_use(listening: _Listen) -> None:
    (taken,) = listening("127.0.0.1:0")
    address = f"127.0.0.1:{port_of(taken)}"
    assert refusal(address) == (
        f"cannot listen on {address}: Address already in use "
        "(another process listens there; stop it or choose another address)"
    )


def test_a_privileged_port(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_bind(monkeypatch, errno.EACCES)
    assert refusal("127.0.0.1:80") == (
        "cannot listen on 127.0.0.1:80: Permission denied "
        "(ports below 1024 need root or CAP_NET_BIND_SERVICE)"
    )


def test_an_address_of_another_machine() -> None:
    # TEST-NET-3, RFC 5737
    assert refusal("203.0.113.1:0") == (
        "cannot listen on 203.0.113.1:0: Cannot assign requested address "
        "(this machine has no such address)"
    )


def test_a_host_that_cannot_be_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **options: object) -> None:
        # Its errno is none of the system's: -2 for EAI_NONAME.
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    message = "cannot listen on no.such.host:80: Name or service not known"
    assert refusal("no.such.host:80") == message


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..b", ".example"])
def test_what_no_host_can_be_called(host: str) -> None:
    # Its name is encoded before anything is asked: that ended in a traceback, a UnicodeError.
    assert refusal(f"{host}:80") == f"cannot listen on {host}:80: not a host name"


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_an_address_of_a_host_that_is_not_there_is_left_out(
    monkeypatch: pytest.MonkeyPatch, listening: _Listen
) -> None:
    """`localhost` is ::1, too, on machines where IPv6 is switched off."""
    # Its socket was left to the garbage collector, which warns of such.
    resolve_to(
        monkeypatch,
        (socket.AF_INET, ("203.0.113.1", 0)),
        (socket.AF_INET, ("127.0.0.1", 0)),
        (12345, ("what is this", 0)),
    )
    (listener,) = listening("localhost:0")
    assert listener.url.startswith("http://127.0.0.1:")


def test_none_of_the_addresses_of_a_host_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = [(socket.AF_INET, (f"203.0.113.{number}", 0)) for number in (1, 2)]
    resolve_to(monkeypatch, *elsewhere)
    assert "Cannot assign requested address" in refusal("localhost:0")


def test_a_host_without_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch)
    assert "Cannot assign requested address" in refusal("localhost:0")


def test_an_address_named_twice_is_bound_once(
    monkeypatch: pytest.MonkeyPatch, listening: _Listen
) -> None:
    """/etc/hosts often has two lines for localhost."""
    here = (socket.AF_INET, ("127.0.0.1", 0))
    resolve_to(monkeypatch, here, here)
    assert len(listening("localhost:0")) == 1


# ---- all or none


def test_all_or_none(listening: _Listen, tmp_path: Path) -> None:
    (taken,) = listening("127.0.0.1:0")
    path = tmp_path / "s"
    message = refusal(f"unix:{path}", "127.0.0.1:0", f"127.0.0.1:{port_of(taken)}")
    assert f"cannot listen on 127.0.0.1:{port_of(taken)}" in message
    assert not path.exists()


def test_in_the_order_given(listening: _Listen, tmp_path: Path) -> None:
    urls = [x.url for x in listening(f"unix:{tmp_path}/b", "127.0.0.1:0", f"unix:{tmp_path}/a")]
    assert [re.sub(r":\d+$", "", url) for url in urls] == [
        f"http+unix:{tmp_path}/b",
        "http://127.0.0.1",
        f"http+unix:{tmp_path}/a",
    ]


# ---- unix sockets


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(DEADLINE)
    client.connect(str(path))
    return client


def leave_stale(path: Path) -> int:
    """Leave what a killed server leaves; return its inode."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    return path.stat().st_ino


def test_a_unix_socket(listening: _Listen, tmp_path: Path) -> None:
    path = tmp_path / "s"
    (listener,) = listening(f"unix:{path}")
    assert listener.url == f"http+unix:{path}"
    with connect(path):
        listener.sock.accept()[0].close()
    listener.close()
    assert not path.exists()


def test_a_relative_path_is_removed_from_where_it_was_made(
    listening: _Listen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (listener,) = listening("unix:s")
    monkeypatch.chdir("/")
    listener.close()
    assert not (tmp_path / "s").exists()


def test_a_stale_socket_is_replaced(listening: _Listen, tmp_path: Path) -> None:
    path = tmp_path / "s"
    leave_stale(path)
    listening(f"unix:{path}")
    connect(path).close()


def test_a_live_socket_is_refused(listening: _Listen, tmp_path: Path) -> None:
    path = tmp_path / "s"
    (live,) = listening(f"unix:{path}")
    assert refusal(f"unix:{path}") == (
        f"cannot listen on unix:{path}: Address already in use "
        "(another process listens there; stop it or choose another path)"
    )
    connect(path).close()
    assert live.sock.fileno() >= 0


def test_a_live_socket_whose_backlog_is_full_is_refused(tmp_path: Path) -> None:
    # Connecting to it, to see whether it is stale, waited for ever.
    path = tmp_path / "s"
    with ExitStack() as stack:
        live = stack.enter_context(socket.socket(socket.AF_UNIX))
        live.bind(str(path))
        live.listen(0)
        _fill_backlog(path, stack)
        messages: list[str] = []
        prober = threading.Thread(
            target=lambda: messages.append(refusal(f"unix:{path}")), daemon=True
        )
        prober.start()
        prober.join(DEADLINE)
        assert "another process listens there" in messages[0]
        assert path.exists()


def _fill_backlog(path: Path, stack: ExitStack) -> None:
    for _ in range(10):
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.setblocking(False)
        try:
            client.connect(str(path))
        except BlockingIOError:
            return
    raise AssertionError("the backlog has no end")


def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    assert refusal(f"unix:{path}") == (
        f"cannot listen on unix:{path}: a file that is not a socket is in the way"
    )
    assert path.read_text() == "precious"


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    assert "a file that is not a socket is in the way" in refusal(f"unix:{tmp_path}")


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    assert refusal(f"unix:{tmp_path}/no/s") == (
        f"cannot listen on unix:{tmp_path}/no/s: No such file or directory "
        "(its directory does not exist)"
    )


def test_a_folder_that_may_not_be_written_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # It was said to be a matter of ports below 1024.
    refuse_to_bind(monkeypatch, errno.EACCES)
    assert refusal(f"unix:{tmp_path}/s") == (
        f"cannot listen on unix:{tmp_path}/s: Permission denied "
        "(this user may not write to its directory, or to the socket there)"
    )


def test_close_leaves_the_socket_of_a_successor(listening: _Listen, tmp_path: Path) -> None:
    path = tmp_path / "s"
    (old,) = listening(f"unix:{path}")
    os.rename(path, tmp_path / "moved")  # so that its inode is not used again
    listening(f"unix:{path}")
    old.close()
    connect(path).close()


def test_closing_again_leaves_the_socket_of_a_successor(listening: _Listen, tmp_path: Path) -> None:
    # A server closes its listeners when it drains and again when it ends.  In between a new one
    # may listen there, and most file systems give its file the inode that has just become free.
    path = tmp_path / "s"
    (old,) = listening(f"unix:{path}")
    old.close()
    listening(f"unix:{path}")
    inode = path.stat().st_ino
    Listener(old.sock, old.url, old.unix_path, inode).close()
    connect(path).close()


def test_close_is_idempotent_and_does_not_mind_a_missing_file(
    listening: _Listen, tmp_path: Path
) -> None:
    tcp, unix = listening("127.0.0.1:0", f"unix:{tmp_path}/s")
    (tmp_path / "s").unlink()
    for listener in (tcp, unix, tcp, unix):
        listener.close()


# ---- descriptors that the parent process left open


def test_a_descriptor(listening: _Listen) -> None:
    with socket.create_server(("127.0.0.1", 0)) as parent:
        (listener,) = listening(f"fd://{os.dup(parent.fileno())}")
        assert listener.url == f"http://127.0.0.1:{parent.getsockname()[1]}"
        assert listener.sock.getblocking() is False
        listener.close()
        with socket.create_connection(parent.getsockname(), DEADLINE):
            pass  # the parent's goes on


def test_a_descriptor_of_a_unix_socket_keeps_its_file(listening: _Listen, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as parent:
        parent.bind(str(path))
        (listener,) = listening(f"fd://{os.dup(parent.fileno())}")
        assert listener.url == f"http+unix:{path}"
        listener.close()
        assert stat.S_ISSOCK(path.stat().st_mode)


def test_a_descriptor_that_is_not_open() -> None:
    spare = os.open("/dev/null", os.O_RDONLY)
    os.close(spare)
    assert refusal(f"fd://{spare}") == (
        f"cannot listen on fd://{spare}: Bad file descriptor "
        "(the parent process left no such descriptor open)"
    )


def test_a_descriptor_of_a_file() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    assert refusal(f"fd://{fd}").startswith(
        f"cannot listen on fd://{fd}: Socket operation on non-socket"
    )
    os.close(fd)


def test_a_descriptor_of_a_datagram_socket() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        fd = udp.detach()
        assert refusal(f"fd://{fd}") == f"cannot listen on fd://{fd}: not a stream socket"


def test_a_descriptor_of_a_connection() -> None:
    here, there = socket.socketpair()
    with there:
        fd = here.detach()
        assert refusal(f"fd://{fd}").startswith(f"cannot listen on fd://{fd}: Invalid argument")
