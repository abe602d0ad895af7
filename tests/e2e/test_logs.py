"""The access log, and the server's own."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clients import DEADLINE, H2, Wire
from tests.e2e.conftest import APPS

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve


def test_access_log_to_a_file(serve: Serve, tmp_path: Path) -> None:
    """A line a request, from all workers; text from outside cannot break out of its line."""
    path = tmp_path / "access.log"
    form = '%(m)s %(U)s "%(R)s" %(s)s %(b)s %(L)s [%(a)s] [%({X-Name}i)s] [%({x-worker}o)s]'
    server = serve("asgi:app", "--access-log", str(path), "--access-log-format", form)
    with Wire.connect(server.address) as wire:
        wire.get("/length/5?a=1", "User-Agent: test", "X-Name: v\x85").answer()
        wire.get("/raise/ValueError/%0aforged").answer()
        wire.get("/status/204", method="HEAD").answer(to_head=True)
    with Wire.connect(server.address) as wire:
        client = H2(wire)
        assert client.get("/length/7").status == 200
    assert server.stop() == 0, server.log
    # Two workers wrote them: in the order in which their requests ended, or nearly so.
    order = ("GET /length/5", "GET /raise", "HEAD", "GET /length/7")
    lines = sorted(
        path.read_text().splitlines(), key=lambda line: [not line.startswith(o) for o in order]
    )
    assert len(lines) == 4
    assert re.fullmatch(
        r'GET /length/5 "GET /length/5\?a=1 1.1" 200 5 \d\.\d{6} '
        r"\[test\] \[vÂ\\x85\] \[[01]\.1\]",
        lines[0],
    )
    assert r'GET /raise/ValueError/\x0aforged "GET' in lines[1]
    assert lines[1].split('"')[2].startswith(" 500 ")
    assert lines[2].startswith('HEAD /status/204 "HEAD /status/204 1.1" 204 ')
    assert lines[3].startswith('GET /length/7 "GET /length/7 2" 200 7 ')


def test_access_log_to_standard_output(serve: Serve, tmp_path: Path) -> None:
    out = tmp_path / "stdout"
    server = serve("asgi:app", "--workers", "1", "--access-log", "-", stdout=out)
    with Wire.connect(server.address) as wire:
        wire.get("/length/5").answer()
    assert server.stop() == 0, server.log
    assert re.fullmatch(
        r'127\.0\.0\.1:\d+ "GET /length/5 HTTP/1\.1" 200 5 \d\.\d+\n', out.read_text()
    )


def test_no_access_log_unless_asked_for(serve: Serve, tmp_path: Path) -> None:
    out = tmp_path / "stdout"
    server = serve("asgi:app", "--workers", "1", stdout=out)
    with Wire.connect(server.address) as wire:
        wire.get("/length/5").answer()
    assert server.stop() == 0, server.log
    assert out.read_text() == ""
    assert "/length/5" not in server.log


def test_json_logs(launch: Serve, tmp_path: Path) -> None:
    """One object a line, the banner and tracebacks included."""
    path = tmp_path / "app.sock"
    server = launch(
        *("asgi:app", "--app-dir", str(APPS), "--workers", "2", "--bind", f"unix:{path}"),
        *("--log-format", "json"),
    )
    server.wait_for(r'"message": "subserve .*listening')
    with Wire.connect(str(path)) as wire:
        assert wire.get("/raise/ValueError").answer().status == 500
    assert server.stop() == 0, server.log
    records = [json.loads(line) for line in server.log.splitlines() if not line.startswith("app ")]
    assert all({"time", "level", "origin", "logger", "message"} <= set(r) for r in records)
    failed = [record for record in records if record["level"] == "error"]
    assert len(failed) == 1
    assert failed[0]["message"] == "GET /raise/ValueError failed: ValueError"
    assert failed[0]["origin"] in {"worker 0.1", "worker 1.1"}
    assert failed[0]["traceback"].endswith("ValueError: from the handler")
    banners = [r for r in records if r["origin"] == "supervisor" and "listening" in r["message"]]
    assert len(banners) == 1
    assert "asgi:app (ASGI)" in banners[0]["message"]


def test_records_say_which_process_they_come_from(serve: Serve, launch: Serve) -> None:
    """With several of them, "worker 0.1" is no name: each has one."""
    options = ("--processes", "2", "--workers", "1")
    address = ("--app-dir", str(APPS), "--bind", "127.0.0.1:0")
    server = launch("asgi:app", *options, *address, "--log-format", "json")
    server.wait_for(r'"message": "subserve .*listening')
    pids = server.serving_pids()
    assert server.stop() == 0, server.log
    records = [json.loads(line) for line in server.log.splitlines() if not line.startswith("app ")]
    for origin in ("server", "worker 0.1"):
        assert {r["pid"] for r in records if r["origin"] == origin} == set(pids)
    assert {r["pid"] for r in records if r["origin"] == "supervisor"} == {server.process.pid}

    server = serve("asgi:app", *options)
    pids = server.serving_pids()
    assert server.stop() == 0, server.log
    for pid in pids:
        assert f" info    server[{pid}]  stopping: " in server.log
        assert f" info    worker 0.1[{pid}]  draining " in server.log


def test_levels(serve: Serve) -> None:
    quiet = serve("asgi:app", "--workers", "1", "--log-level", "error")
    with Wire.connect(quiet.address) as wire:
        assert wire.get("/raise/ValueError").answer().status == 500
    assert quiet.stop() == 0, quiet.log
    records = re.findall(r"^\d{4}-\d\d-\d\d .*", quiet.log, re.MULTILINE)
    assert len(records) == 1
    assert " error   worker 0.1  GET /raise/ValueError failed: ValueError" in records[0]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_an_app_prints_is_not_lost_and_not_torn(
    serve: Serve, tmp_path: Path, unbuffered: str
) -> None:
    """A line is one write, so that those of the workers cannot mix; up to the very end."""
    (tmp_path / "chatty.py").write_text(
        "import atexit, subserve\n"
        "worker = subserve.current_worker()\n"
        "print('imported', 'in', worker)\n"
        "atexit.register(print, 'exit', 'of', worker)\n"
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    print('startup', 'of', worker)\n"
        "    await send({'type': 'lifespan.startup.complete'})\n"
        "    await receive()\n"
        "    print('no', 'newline', 'at the end', end='')\n"
        "    await send({'type': 'lifespan.shutdown.complete'})\n"
    )
    reader, writer = os.pipe2(os.O_DIRECT)  # packets: each write is read as it was written
    packets: list[str] = []

    def read() -> None:
        while packet := os.read(reader, 65536):
            packets.append(packet.decode())

    thread = threading.Thread(target=read)
    thread.start()
    env = {"PYTHONUNBUFFERED": unbuffered}  # as many a container image has it
    server = serve("chatty:app", "--workers", "4", app_dir=tmp_path, stdout=writer, env=env)
    assert server.stop() == 0, server.log
    thread.join()
    os.close(reader)
    for index in range(4):
        assert packets.count(f"imported in {index}.1\n") == 1
        assert packets.count(f"startup of {index}.1\n") == 1
        # What waits for its end of line goes out together with it.
        assert packets.count(f"no newline at the endexit of {index}.1\n") == 1
    assert len(packets) == 12


def pipe_to_nobody() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("sink", ["full disk", "closed pipe"])
def test_a_log_that_nobody_takes_does_not_stop_the_server(tmp_path: Path, sink: str) -> None:
    """The disk is full, or the log shipper at the other end has crashed."""
    path = tmp_path / "app.sock"
    with open("/dev/full" if sink == "full disk" else pipe_to_nobody(), "wb") as stderr:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "subserve", "asgi:app", "--app-dir", str(APPS)),
                *("--bind", f"unix:{path}", "--workers", "1"),
            ],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            cwd=tmp_path,
        )
    try:
        deadline = time.monotonic() + DEADLINE
        while not path.exists():
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with Wire.connect(str(path)) as wire:  # waits in the kernel's queue for the worker
            for _ in range(5):
                assert wire.get("/raise/ValueError").answer().status == 500
                assert wire.get("/length/3").answer().body == b"sss"
        server.terminate()
        assert server.wait(DEADLINE) == 0
    finally:
        server.kill()
        server.wait()
