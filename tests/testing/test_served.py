"""The fixture `subserve_server`, in plain pytest and in a sub-interpreter."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ("pytester",)

APP = """
import os
import subserve

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    print("printed by the app")
    body = f"{subserve.current_worker().workers} {os.getpid()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""

TESTS = """
import urllib.request
import pytest
from subserve.testing.served import StartFailed

def get(server):
    with urllib.request.urlopen(server.url + "/") as response:
        return response.read().decode()

def test_serves(subserve_server):
    one = subserve_server("theirs:app", workers=2)
    other = subserve_server("theirs:app")
    assert one.url != other.url
    assert get(one).startswith("2 ")
    assert get(other).startswith("1 ")
    assert (one.workers, other.workers) == (2, 1)
    assert "listening" in one.logs and "printed by the app" in one.logs
    assert one.stop() == 0
    assert one.stop() == 0
    assert "printed by the app" in one.logs
    with pytest.raises(OSError):
        get(one)

def test_shows_its_log(subserve_server):
    assert get(subserve_server("theirs:app")) == "nothing"

def test_does_not_start(subserve_server):
    with pytest.raises(StartFailed, match="(?s)exit code 3.*no module named nowhere"):
        subserve_server("nowhere:app")
    with pytest.raises(StartFailed, match="(?s)exit code 2.*did you mean workers"):
        subserve_server("theirs:app", wokers=2)
"""


def test_an_app_is_served_for_a_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(theirs=APP, test_it=TESTS)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*log of subserve theirs:app*", "*printed by the app*"])
    assert not processes_in(pytester.path)


def test_it_is_from_a_sub_interpreter_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(theirs=APP, test_it=TESTS)
    result = pytester.runpytest_inprocess("--subinterpreters", "-k", "shows")
    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(["*log of subserve theirs:app*", "*printed by the app*"])


def test_no_server_outlives_the_process_of_its_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(theirs=APP)
    code = """
import os, signal
from subserve.testing.served import Server
print(Server("theirs:app").start().url, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=pytester.path,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    assert process.stdout.startswith("http://127.0.0.1:")
    while remaining := processes_in(pytester.path):
        for pid in remaining:  # each is about to end: wait for it
            wait_for_end(pid)


def processes_in(folder: Path) -> list[int]:
    """The processes whose current folder is this one, except our own."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            here = Path(os.readlink(link)) == folder
        except OSError:  # somebody else's, or it has ended meanwhile
            continue
        if here and int(link.parent.name) != os.getpid():
            found.append(int(link.parent.name))
    return found


def wait_for_end(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(60_000), f"process {pid} does not end"
    os.close(fd)
