"""How the server is run: service managers, users, development, from Python."""

import contextlib
import json
import os
import pwd
import queue
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

import subserve
from loadtests.hup import HELLO
from loadtests.keepalive import Client, Load
from subserve.errors import AppLoadError, BindError, ConfigError
from tests.e2e.clients import Stopwatch, Wire, gate, wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve

SECONDS = 60.0
"""For what takes a second."""

APPS = Path(__file__).parent / "apps"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


def ask(address: tuple[str, int] | str) -> bytes:
    with Wire.connect(address) as wire:
        return wire.get("/", "Connection: close").answer().body


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    (tmp_path / "hello.py").write_text(HELLO)
    return tmp_path


# ---- pid file


@pytest.mark.parametrize("options", [(), ("--no-supervisor",)])
def test_a_pid_file(serve: Serve, launch: Serve, tmp_path: Path, options: tuple[str, ...]) -> None:
    path = tmp_path / "server.pid"
    path.write_text("1\n")  # what an earlier container has left
    server = serve("asgi:app", "--pid-file", str(path), *options)
    assert path.read_text() == f"{server.process.pid}\n"
    second = launch("asgi:app", "--pid-file", str(path), "--bind", "127.0.0.1:0", *options)
    assert second.wait() == 2
    assert f"a running server holds it, process {server.process.pid}" in second.log
    assert server.stop(signal.SIGQUIT) == 0
    assert not path.exists()


# ---- systemd


class Manager:
    """What a service manager hears; it listens all the time, for the kernel keeps little."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while text := self.sock.recv(4096).decode():
            self.heard.put(text)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", str(self.path))
        self._thread.join()
        self.sock.close()

    def hear(self, without: str = "WATCHDOG=1") -> dict[str, str]:
        """Return the next message, but for those that only say `without`."""
        deadline = time.monotonic() + SECONDS
        while (text := self.heard.get(timeout=SECONDS)) == without:
            assert time.monotonic() < deadline, f"nothing but {without}"
        return dict(line.split("=", 1) for line in text.splitlines())


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


def test_what_the_service_manager_hears(serve: Serve, hello: Path, manager: Manager) -> None:
    server = serve("hello:app", app_dir=hello, env={"NOTIFY_SOCKET": str(manager.path)})
    assert manager.hear() == {"READY": "1", "STATUS": "serving"}
    before = time.monotonic_ns() // 1000
    server.send(signal.SIGHUP)
    reloading = manager.hear()
    assert reloading["RELOADING"] == "1"
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert manager.hear() == {"READY": "1", "STATUS": "serving"}
    (hello / "hello.py").write_text("1 / 0")
    server.send(signal.SIGHUP)
    assert manager.hear()["RELOADING"] == "1"
    assert manager.hear()["READY"] == "1", "a reload that failed is over, too"
    server.send(signal.SIGTERM)
    assert manager.hear()["STOPPING"] == "1"
    assert server.wait() == 0, server.log


def test_the_watchdog_is_fed(serve: Serve, manager: Manager) -> None:
    env = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "200000"}
    serve("asgi:app", env=env)
    assert manager.hear()["READY"] == "1"
    while not manager.heard.empty():
        manager.heard.get()
    begin = time.monotonic()
    for _ in range(5):
        assert manager.hear(without="") == {"WATCHDOG": "1"}
    assert time.monotonic() - begin >= 0.3


def test_the_service_manager_hears_of_a_server_without_supervisor(
    serve: Serve, manager: Manager
) -> None:
    server = serve("asgi:app", "--no-supervisor", env={"NOTIFY_SOCKET": str(manager.path)})
    assert manager.hear() == {"READY": "1", "STATUS": "serving"}
    server.send(signal.SIGTERM)
    assert manager.hear()["STOPPING"] == "1"


ACTIVATE = """\
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",")]
saved = [os.dup(fd) for fd in fds]
for place, fd in enumerate(saved):
    os.dup2(fd, 100 + place)
for place in range(len(saved)):
    os.dup2(100 + place, 3 + place)
    os.close(100 + place)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds))}
os.execv(sys.executable, [sys.executable, "-m", "subserve", *sys.argv[2:]])
"""
"""What systemd does before it executes a service."""


@pytest.mark.parametrize("options", [(), ("--no-supervisor",)])
def test_socket_activation(hello: Path, options: tuple[str, ...]) -> None:
    """The sockets are the manager's: they stay when the server ends, and turn-overs keep them."""
    unix = hello / "app.sock"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(unix))
        local.listen()
        fds = (tcp.fileno(), local.fileno())
        command = [sys.executable, "-c", ACTIVATE, ",".join(map(str, fds)), "hello:app"]
        process = subprocess.Popen(
            [*command, "--app-dir", str(hello), "--workers", "1", *options],
            pass_fds=fds,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "LISTEN_FDNAMES": "web:local"},
        )
        assert process.stderr is not None
        try:
            addresses: list[tuple[str, int] | str] = [tcp.getsockname(), str(unix)]
            answers = {ask(address) for address in addresses}
            assert len(answers) == 1
            if not options:
                process.send_signal(signal.SIGHUP)
                wait_until(lambda: ask(addresses[0]) not in answers, "no turn-over")
            process.send_signal(signal.SIGTERM)
            log = process.stderr.read()
            assert process.wait(SECONDS) == 0, log
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
        assert f"http://127.0.0.1:{tcp.getsockname()[1]}" in log
        assert unix.exists()
        with socket.create_connection(tcp.getsockname()):
            pass


# ---- another user


WHO = """\
import json, os, stat
async def app(scope, receive, send):
    if scope["type"] == "http":
        mask = os.umask(0)
        os.umask(mask)
        who = {"uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups()}
        try:
            os.setuid(0)
            who["back"] = True
        except PermissionError:
            who["back"] = False
        text = json.dumps(who | {"umask": mask}).encode()
        length = str(len(text)).encode()
        headers = [(b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})
"""


@as_root
@pytest.mark.parametrize("options", [(), ("--no-supervisor",)])
def test_another_user(serve: Serve, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Root binds and holds the pid file, another serves, and cannot go back."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        (Path(folder) / "who.py").write_text(WHO)
        unix, scratch = Path(folder, "app.sock"), Path(folder, "tmp")
        scratch.mkdir()
        scratch.chmod(0o1777)
        server = serve(
            *("who:app", "--bind", f"unix:{unix}", "--workers", "1", "--loop", "uvloop"),
            *("--user", "nobody", "--umask", "027", *options),
            app_dir=Path(folder),
            cwd=Path(folder),
            env={"TMPDIR": str(scratch)},
        )
        nobody = pwd.getpwnam("nobody")
        found = json.loads(ask(str(unix)))
        assert found["uid"] == [nobody.pw_uid] * 3
        assert found["gid"] == [nobody.pw_gid] * 3
        assert 0 not in found["groups"]
        assert found["back"] is False
        assert found["umask"] == 0o027
        status = unix.stat()
        assert (status.st_uid, status.st_mode & 0o777) == (nobody.pw_uid, 0o750)
        (left,) = scratch.iterdir()
        assert left.stat().st_uid == nobody.pw_uid
        if not options:
            os.kill(server.serving_pid, signal.SIGKILL)
            ask(str(unix))
            assert not left.exists(), "swept"
        assert server.stop() == 0, server.log
        assert list(scratch.iterdir()) == []


def test_a_user_that_is_none(launch: Serve) -> None:
    server = launch("asgi:app", "--user", "no-such-user", "--bind", "127.0.0.1:0")
    assert server.wait() == 2
    assert "--user no-such-user: there is no such user" in server.log


# ---- names of processes


def test_process_names(serve: Serve) -> None:
    server = serve("asgi:app")
    assert Path(f"/proc/{server.process.pid}/comm").read_text() == "subserve\n"
    assert Path(f"/proc/{server.serving_pid}/comm").read_text() == "subserve 0.1\n"


# ---- development


def body(text: str) -> str:
    return f"{HELLO}\nBODY = b'{text}'\nHEADERS = [(b'content-length', b'{len(text)}')]\n"


def test_reload(serve: Serve, hello: Path) -> None:
    """A change is served soon; one that is broken is shown, and the next one mends it."""
    with Stopwatch() as start:
        server = serve("hello:app", "--reload", app_dir=hello, cwd=hello)
    with Stopwatch() as reload:
        (hello / "hello.py").write_text(body("changed"))
        wait_until(lambda: ask(server.address) == b"changed", server.log)
    # A second more than what a start takes; here twice that, for a machine that is busy.
    assert reload.seconds < 1.0 + 2 * start.seconds
    server.wait_for(r"changed: hello\.py; loading anew")
    (hello / "hello.py").write_text("def app(:\n")
    server.wait_for("SyntaxError")
    server.wait_for("the new code does not start")
    assert ask(server.address) == b"changed"
    (hello / "hello.py").write_text(body("mended"))
    wait_until(lambda: ask(server.address) == b"mended", server.log)
    assert server.stop() == 0, server.log


def test_a_burst_of_changes_is_one(serve: Serve, hello: Path) -> None:
    """As an editor, a formatter or `git switch` makes it."""
    server = serve("hello:app", "--reload", app_dir=hello, cwd=hello)
    for number in range(20):
        (hello / f"module_{number}.py").write_text("")
    (hello / "hello.py").write_text(body("changed"))
    wait_until(lambda: ask(server.address) == b"changed", server.log)
    # Two where a busy machine holds us up for longer than a burst may pause.
    assert server.log.count("loading anew") <= 2, server.log
    assert server.stop() == 0, server.log


def test_reload_from_a_start_that_failed(launch: Serve, tmp_path: Path) -> None:
    """There is nothing yet that could serve: who connects waits for the code to be mended."""
    (tmp_path / "hello.py").write_text("def app(:\n")
    unix = tmp_path / "app.sock"
    server = launch("hello:app", "--reload", "--bind", f"unix:{unix}", cwd=tmp_path)
    server.wait_for("waiting for a change of the code")
    with Wire.connect(str(unix)) as wire:
        wire.get("/")
        (tmp_path / "hello.py").write_text(body("mended"))
        assert wire.answer().body == b"mended"
    server.wait_ready()
    assert server.stop() == 0, server.log


def test_what_is_watched(serve: Serve, hello: Path) -> None:
    watched, not_watched = hello / "watched", hello / "elsewhere"
    for folder in (watched, not_watched, watched / "build"):
        folder.mkdir()
    server = serve(
        *("hello:app", "--reload", "--reload-dir", "watched"),
        *("--reload-include", "*.html", "--reload-exclude", "build"),
        app_dir=hello,
        cwd=hello,
    )
    for path in (not_watched / "a.html", watched / "a.py", watched / "build" / "a.html"):
        path.write_text("no")
    (watched / "b.html").write_text("yes")
    server.wait_for(r"changed: watched/b\.html; loading anew")
    server.wait_for("turned over in")
    assert server.log.count("loading anew") == 1


def test_reload_without_its_package(launch: Serve, hello: Path) -> None:
    (hello / "watchfiles.py").write_text("raise ImportError('not installed')\n")
    server = launch(
        *("hello:app", "--reload", "--bind", "127.0.0.1:0"),
        cwd=hello,
        env={"PYTHONPATH": str(hello)},
    )
    assert server.wait() == 2
    assert "--reload: needs the package watchfiles; pip install 'subserve[reload]'" in server.log


# ---- certificates


def test_a_new_certificate(serve: Serve, hello: Path) -> None:
    """It is in force after a HUP; connections with the old one are not dropped."""
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)

    def issue() -> None:
        certificate = authority.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(str(hello / "key.pem"))
        for number, pem in enumerate(certificate.cert_chain_pems):
            pem.write_to_path(str(hello / "cert.pem"), append=number > 0)

    def shown(wire: Wire) -> bytes:
        assert isinstance(wire.sock, ssl.SSLSocket)
        found = wire.sock.getpeercert(binary_form=True)
        assert found is not None
        return found

    issue()
    server = serve(
        *("asgi:app", "--workers", "1"),
        *("--certfile", str(hello / "cert.pem"), "--keyfile", str(hello / "key.pem")),
    )
    with gate() as held, Wire.connect(server.address, context) as busy:
        busy.get(f"/gate/{held.port}")
        held.wait()
        issue()
        server.send(signal.SIGHUP)
        server.wait_for(r"draining \d+ connections")  # so the old one accepts no more
        with Wire.connect(server.address, context) as wire:
            assert wire.get("/").answer().status == 200
            assert shown(wire) != shown(busy)
        held.open()
        assert busy.answer().body == b"through"
    # One that is broken changes nothing.
    (hello / "cert.pem").write_text("broken")
    server.send(signal.SIGHUP)
    server.wait_for("the new code does not start")
    with Wire.connect(server.address, context) as wire:
        assert wire.get("/").answer().status == 200


# ---- from Python


def test_serve_from_python(hello: Path) -> None:
    code = (
        "import subserve, sys\n"
        f"sys.exit(subserve.serve('hello:app', workers=1, bind='unix:{hello}/app.sock'))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=hello) as process:
        wait_until((hello / "app.sock").exists, "it does not start")
        assert ask(f"{hello}/app.sock")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0


def test_a_server_beside_other_things(hello: Path) -> None:
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    server = subserve.Server(
        "hello:app", app_dir=str(hello), workers=1, bind=["127.0.0.1:0"], log_level="error"
    )
    assert server.urls == ()
    with server:
        (url,) = server.urls
        host, port = re.fullmatch(r"http://(.*):(\d+)", url).groups()  # type: ignore[union-attr]
        address = (host, int(port))
        pid = ask(address)
        assert int(pid) != os.getpid()
        with Load([Client(address), Client(address, keep=1)]) as load:
            server.reload()
            wait_until(lambda: len(load.bodies) == 2, "no turn-over")
        assert load.failures == []
        assert server.exit_code is None
    assert server.exit_code == 0
    assert server.stop() == 0, "idempotent"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    assert {s: signal.getsignal(s) for s in before} == before


def test_a_server_that_cannot_start(hello: Path) -> None:
    options = {"app_dir": str(hello), "log_level": "error"}
    with pytest.raises(AppLoadError):
        subserve.Server("no_such_module:app", bind="127.0.0.1:0", **options).start()
    with pytest.raises(BindError):
        subserve.Server("hello:app", bind="unix:/no/such/folder/app.sock", **options).start()
    with pytest.raises(ConfigError):
        subserve.Server("hello:app", wrokers=3)
    with pytest.raises(ConfigError):
        subserve.Server("hello:app", no_supervisor=True)


def test_a_server_that_its_block_leaves_by_an_error(hello: Path) -> None:
    server = subserve.Server(
        "hello:app", app_dir=str(hello), bind=f"unix:{hello}/app.sock", log_level="error"
    )
    with contextlib.suppress(LookupError), server:
        raise LookupError
    assert server.exit_code == 0
    assert not (hello / "app.sock").exists()


# ---- as process 1


ORPHANS = f"""\
import os, subprocess
{HELLO}
# The shell ends at once; its own child is then a child of process 1.
subprocess.run(["sh", "-c", "sleep 0.1 &"], check=True)
"""


@as_root
def test_as_process_1(tmp_path: Path) -> None:
    """As in a container: it stops on TERM, and the orphans of others do not pile up as zombies."""
    (tmp_path / "orphans.py").write_text(ORPHANS)
    unix = tmp_path / "app.sock"
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no PID namespaces here")
    server = [sys.executable, "-m", "subserve", "orphans:app", "--bind", f"unix:{unix}"]
    with subprocess.Popen([*command, *server, "--workers", "2"], cwd=tmp_path) as process:
        try:
            wait_until(unix.exists, "it does not start")
            assert ask(str(unix))
            (init,) = children(process.pid)
            wait_until(lambda: len(children(init)) == 1, "zombies are left")
            os.kill(init, signal.SIGTERM)
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found
