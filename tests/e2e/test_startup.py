"""From the command line to the first connection, and what is said where it does not get there."""

import contextlib
import os
import platform
import re
import select
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import subserve
from tests.e2e.clients import Gate, Wire, gate

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

APPS = Path(__file__).parent / "apps"

MISCONFIGURED = 2
APP_FAILED = 3

MINIMAL = """\
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("this app speaks HTTP only")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"minimal"})
"""


def answers(server: Server) -> bytes:
    with Wire.connect(server.address) as wire:
        return wire.get("/").answer().body


def test_the_banner_names_what_an_operator_looks_for(serve: Serve) -> None:
    server = serve("asgi:app", "--workers", "3", "--loop", "asyncio")
    banner = server.log[server.log.index("subserve ") :]
    head, *rows = banner.splitlines()
    assert head == f"subserve {subserve.__version__} on CPython {platform.python_version()}"
    found = dict(row.split(maxsplit=1) for row in rows)
    assert found["app"] == "asgi:app (ASGI)"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", found["listening"])
    assert found["workers"] == "3 sub-interpreters, asyncio, extensions: isolate"
    assert int(found["pid"]) == server.process.pid
    assert server.log.count("ready\n") == 3


def test_the_banner_counts_the_threads_of_a_wsgi_app(serve: Serve) -> None:
    server = serve("wsgi:app", "--workers", "1", "--threads", "3")
    assert "app        wsgi:app (WSGI)" in server.log
    assert "workers    1 sub-interpreter x 3 threads, " in server.log


# ---- where the app comes from


def test_where_an_app_is_found(serve: Serve, tmp_path: Path) -> None:
    """Default attributes, dotted ones, factories; from the working directory or --app-dir."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "asgi.py").write_text(MINIMAL.replace("def app", "def application"))
    (tmp_path / "made.py").write_text(
        f"{MINIMAL}\nreal = app\ndel app\ndef make():\n    return real\n"
        "class site:\n    inner = real\n"
    )
    for app, *options in (
        ("shop.asgi",),
        ("made:site.inner",),
        ("made:make", "--factory"),
        ("made:make", "--factory", "--interface", "asgi"),
    ):
        server = serve(app, "--workers", "1", *options, app_dir=tmp_path)
        assert answers(server) == b"minimal"


def test_an_interface_that_cannot_be_told(serve: Serve, launch: Serve, tmp_path: Path) -> None:
    """By its signature, that is: the operator can still say what the app speaks."""
    (tmp_path / "vague.py").write_text(
        f"{MINIMAL}\nreal = app\ndef app(*args):\n    return real(*args)\n"
    )
    server = launch("vague:app", "--bind", "127.0.0.1:0")
    assert server.wait() == APP_FAILED
    assert "cannot tell what the app speaks; give --interface asgi or wsgi" in server.log
    server = serve("vague:app", "--workers", "1", "--interface", "asgi", app_dir=tmp_path)
    assert answers(server) == b"minimal"


def test_the_working_directory_is_where_apps_come_from_by_default(
    launch: Serve, tmp_path: Path
) -> None:
    (tmp_path / "here.py").write_text(MINIMAL)
    server = launch("here", "--bind", "127.0.0.1:0", "--workers", "1").wait_ready()
    assert answers(server) == b"minimal"


def test_configuration_comes_from_file_variables_and_command_line(
    launch: Serve, tmp_path: Path
) -> None:
    """The command line wins over variables, variables over the file."""
    (tmp_path / "subserve.toml").write_text(
        f'app = "asgi:app"\napp-dir = "{APPS}"\nbind = ["127.0.0.1:0", "[::1]:0"]\nworkers = 3\n'
        'root-path = "/file"\nloop = "asyncio"\n'
    )
    env = {"SUBSERVE_WORKERS": "2", "SUBSERVE_ROOT_PATH": "/variable"}
    server = launch("--workers", "1", env=env).wait_ready()
    assert "1 sub-interpreter," in server.log
    assert "http://[::1]:" in server.log
    with server.client() as client:
        assert client.get("/scope").json()["root_path"] == "/variable"


# ---- mistakes of the operator


@pytest.mark.parametrize(
    ("arguments", "env", "file", "said"),
    [
        (("--worker", "2"), {}, "", "--worker: unknown option; did you mean --workers?"),
        ((), {"SUBSERVE_WORKER": "2"}, "", "did you mean SUBSERVE_WORKERS?"),
        ((), {}, "wokers = 2", "subserve.toml: wokers: unknown key; did you mean workers?"),
        (("--workers", "none"), {}, "", "--workers: expected a whole number"),
        (("--bind", "localhost"), {}, "", "--bind: expected host:port"),
        (("--loop", "trio"), {}, "", "--loop: expected one of asyncio, uvloop, got 'trio'"),
    ],
)
def test_an_option_that_is_wrong(
    launch: Serve,
    tmp_path: Path,
    arguments: tuple[str, ...],
    env: dict[str, str],
    file: str,
    said: str,
) -> None:
    if file:
        (tmp_path / "subserve.toml").write_text(file)
    server = launch("asgi:app", "--app-dir", str(APPS), *arguments, env=env)
    assert server.wait() == MISCONFIGURED
    assert said in server.log
    assert "Traceback" not in server.log
    assert "ready" not in server.log


def test_all_mistakes_are_named_at_once(launch: Serve) -> None:
    server = launch(
        "asgi:app", "--worker", "2", "--loop", "trio", "--verify-client", "required", "--threads=0"
    )
    assert server.wait() == MISCONFIGURED
    for option in ("--worker:", "--loop:", "--verify-client:", "--threads:"):
        assert option in server.log, server.log


def test_an_access_log_that_cannot_be_written(launch: Serve, tmp_path: Path) -> None:
    path = tmp_path / "no" / "such" / "folder.log"
    server = launch(
        *("asgi:app", "--app-dir", str(APPS), "--bind", "127.0.0.1:0"),
        *("--access-log", str(path)),
    )
    assert server.wait() == MISCONFIGURED
    assert "--access-log" in server.log
    assert "No such file or directory" in server.log
    assert "the app" not in server.log


# ---- mistakes of the app's author

DIVIDE = "def start():\n    return 1 / 0\nstart()\n"

LIFESPAN = """\
import os, sys
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        {body}
"""

BROKEN_APPS = {
    "not there": (
        "import nothing_of_the_kind",
        "no_such:app",
        "no module named no_such in ",
        "",
    ),
    "attribute not there": (
        MINIMAL,
        "broken:aplication",
        "module broken has no attribute aplication",
        "",
    ),
    "raises when imported": (
        DIVIDE,
        "broken:app",
        "the app could not be loaded: ZeroDivisionError",
        "ZeroDivisionError: division by zero",
    ),
    "imports what is not there": (
        "import nothing_of_the_kind",
        "broken:app",
        "the app could not be loaded: ModuleNotFoundError",
        "ModuleNotFoundError: No module named 'nothing_of_the_kind'",
    ),
    "exits when imported": (
        "import sys\nsys.exit('no database')",
        "broken:app",
        "the app could not be loaded: SystemExit",
        "SystemExit: no database",
    ),
    "syntax error": (
        "import worse",
        "broken:app",
        "the app could not be loaded: SyntaxError",
        "SyntaxError: ",
    ),
    "not an app": ("app = 5", "broken:app", "the app is not callable", ""),
    "startup failed": (
        LIFESPAN.format(
            body="await send({'type': 'lifespan.startup.failed', "
            "'message': 'Traceback: no database'})"
        ),
        "broken:app",
        "the app's lifespan startup failed",
        "Traceback: no database",
    ),
    "startup never done": (
        "import asyncio\n" + LIFESPAN.format(body="await asyncio.sleep(3600)"),
        "broken:app",
        "not ready within 0.2 s; is the app's import or lifespan stuck? if it needs longer, raise",
        "",
    ),
}


@pytest.mark.parametrize("case", BROKEN_APPS)
def test_an_app_that_does_not_start(launch: Serve, tmp_path: Path, case: str) -> None:
    """Exit code 3; its traceback once, not once a worker; one line that says what to do."""
    source, app, reason, error = BROKEN_APPS[case]
    (tmp_path / "broken.py").write_text(source)
    (tmp_path / "worse.py").write_text("def app(:")
    path = tmp_path / "app.sock"
    arguments = ["--workers", "3", "--bind", f"unix:{path}"]
    if case == "startup never done":
        arguments += ["--startup-timeout", "200ms"]
    server = launch(app, *arguments)
    assert server.wait() == APP_FAILED, server.log
    assert server.log.count(reason) == 1, server.log
    assert server.log.count("Traceback") == (1 if error else 0)
    if error:
        assert server.log.count(error) == 1
        assert server.log.index(error) < server.log.index(reason)
        # The app's own: none of the server's frames, nor of importlib's, on top of it.
        assert "/subserve/" not in server.log
        assert "importlib" not in server.log
    assert "  pid " not in server.log
    assert not path.exists()


def test_a_syntax_error_in_the_named_module(launch: Serve, tmp_path: Path) -> None:
    """No code of the app has run: there is no traceback to show but the error itself."""
    (tmp_path / "broken.py").write_text("def app(:")
    server = launch("broken:app", "--bind", "127.0.0.1:0")
    assert server.wait() == APP_FAILED
    assert f'File "{tmp_path}/broken.py", line 1' in server.log
    assert "importlib" not in server.log


def test_lifespan_on_demands_an_app_that_speaks_it(launch: Serve, tmp_path: Path) -> None:
    (tmp_path / "minimal.py").write_text(MINIMAL)
    server = launch("minimal:app", "--lifespan", "on", "--bind", "127.0.0.1:0")
    assert server.wait() == APP_FAILED
    assert server.log.count("RuntimeError: this app speaks HTTP only") == 1


def test_an_import_that_takes_too_long(launch: Serve, tmp_path: Path) -> None:
    """The import cannot be interrupted: the process ends under it."""
    (tmp_path / "stuck.py").write_text("import time\ntime.sleep(3600)\n")
    server = launch("stuck:app", "--startup-timeout", "300ms", "--bind", "127.0.0.1:0")
    assert server.wait() == APP_FAILED
    assert re.search(r"worker 0\.1, .* not ready within 0\.3 s; .*--startup-timeout", server.log)


# ---- nothing half-started

GATED = """\
import os, socket, subserve
worker = subserve.current_worker()
with socket.create_connection(("127.0.0.1", int(os.environ[f"GATE_{worker.index}"]))) as gate:
    verdict = gate.recv(1)
if verdict:
    raise RuntimeError("told to fail")
import asgi
async def app(scope, receive, send):
    async def held(message):
        if message["type"] == "lifespan.shutdown.complete" and "GATE_DOWN" in os.environ:
            await asgi.passage(os.environ["GATE_DOWN"])
        await send(message)
    await asgi.app(scope, receive, held)
"""


def gated(launch: Serve, folder: Path, gates: list[Gate], shutdown: int | None = None) -> Server:
    """Start a worker for each gate, which holds up its import; another may hold up shutdowns."""
    (folder / "gated.py").write_text(GATED)
    env = {f"GATE_{index}": str(each.port) for index, each in enumerate(gates)}
    if shutdown is not None:
        env["GATE_DOWN"] = str(shutdown)
    return launch(
        *("gated:app", "--bind", f"unix:{folder}/app.sock", "--workers", str(len(gates))),
        *("--log-level", "debug"),
        env={**env, "PYTHONPATH": str(APPS)},
    )


def test_nobody_is_served_before_all_workers_are_ready(launch: Serve, tmp_path: Path) -> None:
    """Who connects before waits in the kernel's queue, and is served then."""
    gates = [Gate(), Gate()]
    server = gated(launch, tmp_path, gates)
    for each in gates:
        each.wait()
    with Wire.connect(str(tmp_path / "app.sock")) as early:
        early.get("/")
        gates[0].open()
        server.wait_for("worker 0.1 +ready")
        assert "  pid " not in server.log
        assert not select.select([early.sock], [], [], 0.2)[0], "served by half a server"
        gates[1].open()
        assert early.answer().status == 200
    server.wait_ready()
    assert server.stop() == 0, server.log
    for each in gates:
        each.close()


def test_one_worker_that_fails_ends_all(launch: Serve, tmp_path: Path) -> None:
    """The worker that did start is shut down in order; who waits is refused, not served."""
    gates = [Gate(), Gate()]
    server = gated(launch, tmp_path, gates)
    for each in gates:
        each.wait()
    with Wire.connect(str(tmp_path / "app.sock")) as early:
        early.get("/")
        gates[0].open()
        server.wait_for("worker 0.1 +ready")
        gates[1].open(b"!")
        assert server.wait() == APP_FAILED
        with contextlib.suppress(ConnectionResetError):  # its request was never read
            assert early.receive() == b""
    assert "worker 1.1: the app could not be loaded: RuntimeError" in server.log
    assert server.log.count("lifespan.startup\n") == 1
    assert server.log.count("lifespan.shutdown\n") == 1
    assert not (tmp_path / "app.sock").exists()
    for each in gates:
        each.close()


def test_workers_that_fail_alike_are_told_of_once(launch: Serve, tmp_path: Path) -> None:
    """Also when both reports arrive: here the worker that is ready takes its time to shut down."""
    gates = [Gate(), Gate(), Gate()]
    with gate() as held:
        server = gated(launch, tmp_path, gates, shutdown=held.port)
        for each in gates:
            each.wait()
        gates[0].open()
        server.wait_for("worker 0.1 +ready")
        for each in gates[1:]:
            each.open(b"!")
        held.wait()
        for worker in ("1.1", "2.1"):
            server.wait_for(f"worker {worker}: interpreter closed")
        held.open()
        assert server.wait() == APP_FAILED
    assert server.log.count("RuntimeError: told to fail") == 1
    for each in gates:
        each.close()


# ---- what is left behind


def test_a_run_leaves_nothing_in_the_temporary_folder(serve: Serve, tmp_path: Path) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    server = serve("asgi:app", "--loop", "uvloop", env={"TMPDIR": str(scratch)})
    assert answers(server) == b"hello 1"
    assert server.stop() == 0, server.log
    assert list(scratch.iterdir()) == []


def test_an_idle_server_uses_no_cpu(serve: Serve) -> None:
    """8 workers: under 0.5 % of a core.  A bound on CPU time, not on how long anything takes."""
    server = serve("asgi:app", "--workers", "8")
    settled = server.cpu_seconds()
    deadline = time.monotonic() + 30.0
    while True:  # start-up winds down: wait for a moment without a tick of the CPU clock
        time.sleep(0.2)
        settled, before = server.cpu_seconds(), settled
        if settled == before:
            break
        assert time.monotonic() < deadline, "it never comes to rest"
    seconds = 3.0
    time.sleep(seconds)
    assert server.cpu_seconds() - settled < 0.005 * seconds + 1 / os.sysconf("SC_CLK_TCK")
    with socket.create_connection(server.address):
        pass
