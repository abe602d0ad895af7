"""Event loops where no worker is needed: in the main interpreter, with real child processes."""

import asyncio
import errno
import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from subserve.errors import ConfigError
from subserve.worker import loops
from subserve.worker.loops import new_event_loop

LOOPS = ["asyncio", "uvloop"]


def refuse_pidfd(pid: int, flags: int = 0) -> int:
    """Stand in for `os.pidfd_open`."""
    raise PermissionError("as under a seccomp filter")


def test_unknown_loop() -> None:
    with pytest.raises(ConfigError, match="'trio'"):
        new_event_loop("trio")  # type: ignore[arg-type]


def test_uvloop_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    loops._uvloop_class.cache_clear()
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(ConfigError, match=r'pip install "subserve\[uvloop\]"'):
        new_event_loop("uvloop")


def test_uvloop_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    # Something that uvloop imports is missing: another remedy, so another error.
    loops._uvloop_class.cache_clear()
    (tmp_path / "uvloop.py").write_text("import no_such_module")
    monkeypatch.delitem(sys.modules, "uvloop", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        new_event_loop("uvloop")


def assert_no_child_is_left() -> None:
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def run_on_asyncio(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=lambda: new_event_loop("asyncio")) as runner:
        runner.run(scenario())


def test_exit_status_that_was_collected_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        child = await asyncio.create_subprocess_exec("sleep", "1000")
        child.kill()
        assert os.waitpid(child.pid, 0) == (child.pid, signal.SIGKILL)
        assert await child.wait() == loops.UNKNOWN_STATUS

    run_on_asyncio(scenario)
    assert "collected its exit status" in caplog.text


def test_exit_status_that_popen_collected_first(caplog: pytest.LogCaptureFixture) -> None:
    # The transport's close() polls Popen.  asyncio 3.14 loses the status then: it reports 255.
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.subprocess_exec(
            asyncio.SubprocessProtocol, "sleep", "1000", stdin=None, stdout=None, stderr=None
        )
        transport.kill()
        os.waitid(os.P_PID, transport.get_pid(), os.WEXITED | os.WNOWAIT)
        transport.close()
        assert await transport._wait() == -signal.SIGKILL  # type: ignore[attr-defined]

    run_on_asyncio(scenario)
    assert caplog.text == ""


def test_child_that_cannot_be_watched_is_not_left_running(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        def add_reader(fd: int, *_args: object) -> None:
            refused.append(fd)
            raise OSError("no space left for another watch")

        refused: list[int] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", add_reader)
        with pytest.raises(OSError, match="another watch"):
            await asyncio.create_subprocess_exec("sleep", "1000", stdin=PIPE, stdout=PIPE)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(refused[0])

    run_on_asyncio(scenario)
    assert_no_child_is_left()
    gc.collect()  # reports exceptions that nobody has looked at
    assert caplog.text == ""


def test_thread_that_watched_a_child_ends_before_the_child_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It may not outlive the interpreter, which may be closed as soon as the loop is.
    async def scenario() -> None:
        def slowly(callback: Callable[..., object], *args: object) -> None:
            call_soon_threadsafe(callback, *args)
            threading.Event().wait(0.1)

        loop = asyncio.get_running_loop()
        call_soon_threadsafe = loop.call_soon_threadsafe
        monkeypatch.setattr(loop, "call_soon_threadsafe", slowly)
        child = await asyncio.create_subprocess_exec("sleep", "1000")
        name = f"waitpid-{child.pid}"
        assert name in [thread.name for thread in threading.enumerate()]
        child.kill()
        await child.wait()
        assert name not in [thread.name for thread in threading.enumerate()]

    monkeypatch.setattr(os, "pidfd_open", refuse_pidfd)
    run_on_asyncio(scenario)


@pytest.mark.parametrize("kind", LOOPS)
def test_close_ends_children_though_the_loop_was_told_to_stop(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # A second request to stop may have come from another thread when the first was being served.
    loop = new_event_loop(kind)
    loop.run_until_complete(asyncio.create_subprocess_exec("sleep", "1000", stdin=PIPE))
    loop.call_soon(loop.stop)
    loop.call_later(0, loop.stop)
    loop.stop()
    loop.close()
    assert loop.is_closed()
    assert_no_child_is_left()
    assert "killing processes" in caplog.text


@pytest.mark.parametrize("kind", LOOPS)
def test_loop_with_children_is_not_closed_by_another_loop(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def close() -> None:
        with pytest.raises(RuntimeError, match="closed by another one"):
            loop.close()

    loop = new_event_loop(kind)
    loop.run_until_complete(asyncio.create_subprocess_exec("sleep", "1000"))
    asyncio.run(close())
    loop.close()
    assert_no_child_is_left()
    assert "killing processes" in caplog.text


def test_no_descriptor_is_left_for_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def dup(fd: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    async def scenario() -> None:
        with pytest.raises(OSError, match="Too many open files"):
            await asyncio.create_subprocess_exec("sleep", "1000", stdin=PIPE, stdout=PIPE)

    with asyncio.Runner(loop_factory=lambda: new_event_loop("uvloop")) as runner:
        runner.run(asyncio.sleep(0))  # opens what the loop needs
        before = os.listdir("/proc/self/fd")
        monkeypatch.setattr(os, "dup", dup)
        runner.run(scenario())
        assert os.listdir("/proc/self/fd") == before
    assert_no_child_is_left()


def test_grandchild_that_keeps_the_pipes_does_not_keep_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        child = await asyncio.create_subprocess_shell(
            "exec 3<&0; sleep 1000 <&3 & echo $!; wait", stdin=PIPE, stdout=PIPE
        )
        assert child.stdin is not None
        assert child.stdout is not None
        grandchildren.append(int(await child.stdout.readline()))
        child.stdin.write(b"x" * 1_000_000)

    before = os.listdir("/proc/self/fd")
    grandchildren: list[int] = []
    run_on_asyncio(scenario)
    os.kill(grandchildren[0], signal.SIGKILL)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert_no_child_is_left()
    assert "killing processes" in caplog.text


@pytest.mark.parametrize("with_pidfd", [True, False])
def test_child_that_survives_being_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, with_pidfd: bool
) -> None:
    """As if it were stuck in the kernel: the loop closes in time, and says what is left."""

    async def scenario() -> None:
        children.append(await asyncio.create_subprocess_exec("sleep", "1000"))

    children: list[asyncio.subprocess.Process] = []
    monkeypatch.setattr(loops, "CHILD_EXIT_TIMEOUT", 0.01)
    if not with_pidfd:
        monkeypatch.setattr(os, "pidfd_open", refuse_pidfd)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "kill", lambda _popen: None)
        loop = new_event_loop("asyncio")
        loop.run_until_complete(scenario())
        loop.close()
        loop.close()
    pid = children[0].pid
    assert f"process {pid} is still there" in caplog.text

    watchers = [thread for thread in threading.enumerate() if thread.name == f"waitpid-{pid}"]
    assert len(watchers) == (0 if with_pidfd else 1)
    process = children[0]._transport.get_extra_info("subprocess")  # type: ignore[attr-defined]
    process.kill()
    for watcher in watchers:
        watcher.join()  # it collects the child, late as it is
    process.wait()
    assert_no_child_is_left()
