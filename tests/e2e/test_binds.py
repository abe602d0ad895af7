"""Where the server listens, and what it says when it cannot."""

import re
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clients import Wire

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

UNUSABLE = 4
"""Exit code for an address that cannot be bound."""


def urls(server: Server) -> list[str]:
    """The listeners that the banner names."""
    return re.findall(r"^  (?:listening|         )  (\S+)", server.log, re.MULTILINE)


def port(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_all_kinds_of_addresses_at_once(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        fd = inherited.fileno()
        binds = ["127.0.0.1:0", "[::1]:0", f"unix:{path}", f"fd://{fd}"]
        arguments = [word for bind in binds for word in ("--bind", bind)]
        server = serve("asgi:app", *arguments, pass_fds=(fd,))
        inherited_address = inherited.getsockname()
    v4, v6, unix, given = urls(server)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", v4)
    assert re.fullmatch(r"http://\[::1\]:\d+", v6)
    assert unix == f"http+unix:{path}"
    assert given == "http://{}:{}".format(*inherited_address)

    addresses: list[tuple[str, int] | str] = [
        ("127.0.0.1", port(v4)),
        ("::1", port(v6)),
        str(path),
        inherited_address,
    ]
    for address in addresses:
        with Wire.connect(address) as wire:
            assert wire.get("/").answer().status == 200
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert server.stop() == 0, server.log
    assert not path.exists()


def test_a_name_is_all_of_its_addresses(serve: Serve) -> None:
    """`localhost` is 127.0.0.1 and ::1 on most machines: a browser may try either."""
    names = {info[4][0] for info in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}
    server = serve("asgi:app", "--bind", "localhost:0")
    found = urls(server)
    assert len(found) == len(names)
    assert len({port(url) for url in found}) == 1
    for name in names:
        with Wire.connect((str(name), port(found[0]))) as wire:
            assert wire.get("/").answer().status == 200


def test_a_unix_socket_that_nobody_listens_on_is_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = serve("asgi:app", "--bind", f"unix:{path}")
    with Wire.connect(str(path)) as wire:
        assert wire.get("/").answer().status == 200
    assert server.stop() == 0, server.log


def test_the_file_of_another_server_is_left_alone(serve: Serve, tmp_path: Path) -> None:
    """A new server may have taken the place of one that is still draining."""
    path = tmp_path / "app.sock"
    server = serve("asgi:app", "--bind", f"unix:{path}")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        assert server.stop() == 0, server.log
        assert path.exists()


def test_an_inherited_unix_socket_keeps_its_file(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as parents:
        parents.bind(str(path))
        fd = parents.fileno()
        server = serve("asgi:app", "--bind", f"fd://{fd}", pass_fds=(fd,))
        with Wire.connect(str(path)) as wire:
            assert wire.get("/").answer().status == 200
        assert server.stop() == 0, server.log
        assert path.exists()


REFUSALS = {
    "not an address of this machine": ("192.0.2.1:0", "no such address"),
    "a name that does not resolve": ("no-such-host.invalid:0", ""),
    "no such folder": ("unix:{folder}/none/app.sock", "directory does not exist"),
    "a file in the way": ("unix:{folder}/file", "not a socket"),
    "not a file descriptor": ("fd://999", "Bad file descriptor"),
    "in use": ("127.0.0.1:{port}", "another process listens there"),
    "in use, unix": ("unix:{folder}/live.sock", "another process listens there"),
}
"""Each a bind that cannot be, and what has to be said about it."""


@pytest.mark.parametrize("case", REFUSALS)
def test_an_address_that_cannot_be_had(launch: Serve, tmp_path: Path, case: str) -> None:
    """Exit code 4; the message names the address and the cause; nothing else is left or begun."""
    mine = tmp_path / "mine.sock"
    (tmp_path / "file").write_text("precious")
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket(socket.AF_UNIX) as live:
        live.bind(str(tmp_path / "live.sock"))
        live.listen()
        bind, cause = REFUSALS[case]
        bind = bind.format(folder=tmp_path, port=other.getsockname()[1])
        server = launch("no_such_module:app", "--bind", f"unix:{mine}", "--bind", bind)
        assert server.wait() == UNUSABLE, server.log
    assert f"subserve: cannot listen on {bind}: " in server.log
    assert cause in server.log
    assert "Traceback" not in server.log
    assert "no_such_module" not in server.log  # no worker was begun
    assert not mine.exists()
    assert (tmp_path / "file").read_text() == "precious"
    assert (tmp_path / "live.sock").exists()


def test_a_datagram_socket_is_refused(launch: Serve) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inherited:
        fd = inherited.fileno()
        server = launch("asgi:app", "--bind", f"fd://{fd}", pass_fds=(fd,))
        assert server.wait() == UNUSABLE
    assert f"cannot listen on fd://{fd}: not a stream socket" in server.log


def test_no_descriptor_leaks_into_what_the_app_starts(serve: Serve, tmp_path: Path) -> None:
    """A child of the app that held the listener would keep the port busy after a restart."""
    (tmp_path / "starter.py").write_text(
        "import os, subprocess, sys\n"
        "code = 'import os; print(sorted(map(int, os.listdir(\"/proc/self/fd\"))))'\n"
        "seen = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)\n"
        "os.write(2, f'child has {seen.stdout}'.encode())\n"
        "from asgi import app\n"
    )
    env = {"PYTHONPATH": str(Path(__file__).parent / "apps")}
    server = serve("starter:app", "--workers", "1", app_dir=tmp_path, env=env)
    fds = server.wait_for(r"child has \[(.*)\]")[1].split(", ")
    # Standard streams, and the listing itself.
    assert len([fd for fd in fds if int(fd) > 2]) == 1, fds
