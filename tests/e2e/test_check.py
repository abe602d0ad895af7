"""``subserve check`` as its users run it."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import ROOT, Serve
from tests.interpreters.extension_builder import build_module, needs_c

CHECK_SECONDS = 100.0


def check(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "subserve", "check", *arguments],
        cwd=cwd,
        env={**os.environ, "TMPDIR": str(cwd), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CHECK_SECONDS,
        check=False,
    )


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("app", "path", "module"),
    [
        ("examples.fastapi_app.main:app", "/", "pydantic_core._pydantic_core"),
        ("examples.flask_app.main:app", "/", "markupsafe._speedups"),
        ("examples.django_app.asgi:application", "/", None),
    ],
    ids=["fastapi", "flask", "django"],
)
def test_the_examples_pass(app: str, path: str, module: str | None, tmp_path: Path) -> None:
    done = check(
        app, "--app-dir", str(ROOT), "--workers", "3", "--get", path, "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = findings(done)
    assert report["requests"] == (1 + 3 * 4) * 2
    assert report["memory_per_worker"] > 2**20
    works = {row["name"] for row in report["modules"] if row["verdict"] == "works"}
    assert module is None or module in works
    assert done.stderr == "", "no progress where nobody looks"


@needs_c
def test_an_extension_that_crashes_when_it_is_loaded_is_reported(tmp_path: Path) -> None:
    path = build_module(tmp_path, "boom._boom", "crashing.c", "-DAT_LOAD")
    (tmp_path / "shop.py").write_text("def app(environ, start): ...\nimport boom._boom\n")
    done = check("shop", cwd=tmp_path)
    assert done.returncode == 1
    assert "SIGSEGV while boom._boom was loaded" in done.stdout
    assert "<module> at" in done.stdout, "where it was imported"
    assert f"{tmp_path}/shop.py:2" in done.stdout
    assert "an ordinary Python crashes with it, too" in done.stdout
    assert path.name not in os.listdir(tmp_path), "no copies are left"
    assert "\x1b" not in done.stdout


@needs_c
def test_an_extension_that_crashes_in_use_is_reported(tmp_path: Path) -> None:
    build_module(tmp_path, "boom", "crashing.c")
    (tmp_path / "shop.py").write_text(
        "import boom\n"
        "def app(environ, start):\n"
        "    if environ['PATH_INFO'] == '/crash':\n"
        "        boom.crash()\n"
        "    start('200 OK', [])\n"
        "    return [b'fine']\n"
    )
    assert check("shop", "--get", "/fine", cwd=tmp_path).returncode == 0
    done = check("shop", "--get", "/crash", "--json", cwd=tmp_path)
    assert done.returncode == 1
    report = findings(done)
    assert [(row["name"], row["verdict"]) for row in report["modules"]] == [("boom", "crashes")]
    assert "SIGSEGV with" in report["findings"][0]["what"]
    assert any("app at" in line for line in report["findings"][0]["where"])


@needs_c
def test_a_crash_of_a_server_names_the_extension(serve: Serve, tmp_path: Path) -> None:
    """What brings an operator to `subserve check`: the log of a server that crashed."""
    build_module(tmp_path, "boom", "crashing.c")
    (tmp_path / "shop.py").write_text("import boom\ndef app(environ, start): boom.crash()\n")
    server = serve("shop", app_dir=tmp_path)
    with server.client() as client, contextlib.suppress(httpx.HTTPError):
        client.get("/")
    server.wait_for(r"crashed: .* SIGSEGV \(a crash with \S+/boom\.\S+so on the stack")
    assert "`subserve check shop` tells more" in server.log
    assert f'File "{tmp_path}/shop.py", line 2 in app' in server.log


@needs_c
def test_a_server_that_cannot_load_an_extension_names_it(launch: Serve, tmp_path: Path) -> None:
    build_module(tmp_path, "raises", "broken.c")
    (tmp_path / "shop.py").write_text("import raises\n")
    server = launch("shop", "--app-dir", str(tmp_path), "--bind", "127.0.0.1:0")
    assert server.wait() == 3
    assert "the extension module raises failed, `subserve check shop` tells more" in server.log


def test_what_matters_in_a_worker_is_told(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "import atexit, contextlib, os, signal, threading\n"
        "with contextlib.suppress(ValueError):\n"
        "    signal.signal(signal.SIGTERM, print)\n"
        "with contextlib.suppress(RuntimeError):\n"
        "    os.fork()\n"
        "os.chdir('.')\n"
        "os.umask(0o22)\n"
        "atexit.register(print)\n"
        "threading.main_thread()\n"
        "threading.Thread(target=print, name='flusher', daemon=True).start()\n"
        "def app(environ, start): ...\n"
    )
    done = check("shop", "--workers", "2", "--json", cwd=tmp_path)
    assert done.returncode == 1, "for the fork"
    told = {finding["what"].partition(":")[0]: finding for finding in findings(done)["findings"]}
    assert {name: finding["severity"] for name, finding in told.items()} == {
        "fork()": "breaks",
        "signal(SIGTERM, print)": "costs",
        "chdir('.')": "costs",
        "umask(18)": "costs",
        "atexit.register(print)": "note",
        "threading.main_thread()": "note",
        "daemon thread flusher": "note",
    }
    assert told["fork()"]["where"] == ["shop.py:5"]
    assert told["daemon thread flusher"]["where"] == ["shop.py:10"]


def test_an_app_that_nobody_can_load(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import a_module_that_is_not_there\n")
    done = check("shop", cwd=tmp_path)
    assert done.returncode == 3
    assert "No module named 'a_module_that_is_not_there'" in done.stdout
    assert "cannot be loaded by an ordinary Python either" in done.stdout


def test_an_app_that_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import os\nos._exit(0)\n")
    done = check("shop", cwd=tmp_path)
    assert done.returncode == 1
    assert "_exit(0): acts on all workers at once" in done.stdout
    assert "the process ended with exit code 0" in done.stdout


def test_an_app_that_does_not_shut_down(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "import threading\n"
        "threading.Thread(target=threading.Event().wait, name='stuck', daemon=True).start()\n"
        "def app(environ, start): ...\n"
    )
    done = check("shop", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "threads that do not end with their worker: stuck" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shop", "--gt", "/"), "--gt: unknown option; did you mean --get?"),
        (("shop", "--get", "health"), "--get health: expected a path"),
        (("shop", "--workers", "none"), "--workers: expected a whole number"),
        ((), "no app given"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = check(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr


def test_help_says_how_to_serve_an_app_called_check(tmp_path: Path) -> None:
    done = check("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "subserve check:app" in done.stdout
    assert "--get PATH" in done.stdout


@pytest.mark.parametrize("no_color", ["", "1"], ids=["colours", "NO_COLOR"])
def test_on_a_terminal_it_says_what_it_does(no_color: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("def app(environ, start): ...\n")
    ours, terminal = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "subserve", "check", "shop", "--workers", "2"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path), "TERM": "xterm", "NO_COLOR": no_color},
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(ours, 4096):
                shown += data
        os.close(ours)
    assert process.wait(CHECK_SECONDS) == 0
    text = shown.decode()
    assert "  worker 1 of 2 loads shop ... " in text
    assert "  recycling: 2 new workers load it, at once ... " in text
    assert ("\x1b[32mworks in sub-interpreters" in text) is (no_color == "")
