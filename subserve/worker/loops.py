"""Event loops fit for a worker: asyncio's and uvloop's, mended where a worker differs.

A worker is a sub-interpreter with its own GIL, in a process that it shares with other workers and
that outlives it.  Three things that the loops take for granted do not hold there:

* **A loop ends with its process.**  asyncio leaves behind the pidfd and the zombie of a child that
  still runs when its loop is closed, for the kernel to clean up.  Here each recycled worker would
  leave some more.  So `close()` ends the children and collects them.
* **A loop may fork.**  libuv forks to start a child, and uvloop calls `PyOS_AfterFork_Child` in
  it, which is fatal in a sub-interpreter.  `subprocess.Popen` executes no Python code between
  fork and exec and is allowed.  So both loops start children with it, and uvloop no process handle.
* **One GIL keeps descriptors apart.**  uvloop lets libuv close a pipe's descriptor, then closes
  the Python file of the same number too and ignores the EBADF.  Here another worker may have been
  given the number in between, and would lose a connection.  So uvloop gets a duplicate of its own.

Signals reach only the main interpreter, and no loop can handle them in a worker:
`add_signal_handler` raises `RuntimeError` in asyncio and `ValueError` in uvloop; so does uvloop's
`remove_signal_handler`, where asyncio's returns False; `signal.signal` raises `ValueError`.

Threads: all of this runs in the loop's thread, save `_await_exit`, which has a thread for each
child where there are no pidfds (before Linux 5.3, in some sandboxes, on macOS).  The only thing it
touches is `call_soon_threadsafe`, so there is no lock.
"""

import asyncio
import contextlib
import logging
import os
import socket
import stat
import subprocess
import threading
from asyncio.base_subprocess import BaseSubprocessTransport
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import cache
from typing import Any, ClassVar, Literal, cast

from subserve.errors import ConfigError
from subserve.worker.poller import Poller

_log = logging.getLogger(__name__)

_LONGEST_WAIT = 3600.0
"""Seconds; epoll(7) counts milliseconds in 32 bits."""

CHILD_EXIT_TIMEOUT = 2.0
"""Seconds that `close()` waits for the children it has killed.

SIGKILL takes milliseconds, unless the child is stuck in the kernel, say on a dead network file
system.  Not measured: long for a busy machine, short for a shutdown.
"""

UNKNOWN_STATUS = 255
"""The return code of a child whose exit status was collected elsewhere, as asyncio has it."""


def new_event_loop(name: Literal["asyncio", "uvloop"]) -> asyncio.AbstractEventLoop:
    """Return a new event loop of the kind `name` for the thread that runs a worker.

    That must not be the process's main thread, where uvloop would try to handle signals.

    The loop's `close()` kills the children it has started that still run, and waits for them up
    to `CHILD_EXIT_TIMEOUT` seconds, in which other callbacks that are due are called too.

    Raises `ConfigError` if there is no such kind, or if uvloop is not installed.
    """
    try:
        loop_class = _LOOP_CLASSES[name]
    except KeyError:
        raise ConfigError(f"there is no event loop {name!r}: choose asyncio or uvloop") from None
    return loop_class()()


class _Child(BaseSubprocessTransport):
    """A child process and its pipes."""

    _proc: subprocess.Popen[bytes] | None

    def _start(self, *, args: Any, **options: Any) -> None:  # type: ignore[override]
        self._proc = subprocess.Popen(args, **options)

    def collect(self) -> None:
        """Take the exit status of the process, waiting for it to end, and tell the protocol."""
        process = self._proc
        assert process is not None, "the transport drops it after it has been collected"
        # The transport's close() asks Popen whether the process still runs.  If it has just
        # ended, Popen has its status, and the kernel has not any more.
        status = process.returncode
        if status is None:
            try:
                status = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
            except ChildProcessError:
                status = UNKNOWN_STATUS
                _log.warning(
                    "process %d ended, but something else collected its exit status (os.wait()"
                    " in any worker, or an ignored SIGCHLD): reporting %d",
                    process.pid,
                    status,
                )
        self._process_exited(status)

    def end(self) -> None:
        """Kill the process and drop what it has not yet read."""
        stdin: Any = self._pipes.get(0)
        if stdin is not None:
            stdin.pipe.abort()  # close() would wait until all is written
        self.close()


class _ChildKeeper(asyncio.AbstractEventLoop):
    """What both loops add to their libraries': starting children and seeing them end."""

    _child_class: ClassVar[type[_Child]] = _Child

    def __init__(self, *arguments: Any) -> None:
        # What reports the end of each child that has not been collected: a pidfd or a thread.
        self._children: dict[_Child, int | threading.Thread] = {}
        super().__init__(*arguments)

    async def subprocess_exec(
        self,
        protocol_factory: Callable[[], Any],
        program: Any,
        *args: Any,
        shell: bool = False,
        **options: Any,
    ) -> tuple[Any, Any]:
        """Start `program`, as `asyncio.loop.subprocess_exec` does and with the same errors."""
        if shell:
            raise ValueError("shell must be False")
        return await self._spawn(protocol_factory, (program, *args), shell, **options)

    async def subprocess_shell(
        self,
        protocol_factory: Callable[[], Any],
        cmd: bytes | str,
        *,
        shell: bool = True,
        **options: Any,
    ) -> tuple[Any, Any]:
        """Start a shell, as `asyncio.loop.subprocess_shell` does and with the same errors."""
        if not isinstance(cmd, (bytes, str)):
            raise ValueError("cmd must be a string")  # noqa: TRY004 (what asyncio raises)
        if not shell:
            raise ValueError("shell must be True")
        return await self._spawn(protocol_factory, cmd, shell, **options)

    def close(self) -> None:
        """Kill and collect the children that still run, and close the loop.

        Idempotent.  Raises `RuntimeError` while this loop runs or, if there are children to end,
        another one does in the same thread.
        """
        ending = bool(self._children) and not self.is_running()
        if ending and asyncio._get_running_loop() is not None:
            raise RuntimeError("an event loop with child processes was closed by another one")
        try:
            if ending:
                self._run_to_the_end(self._end_children)
        finally:
            super().close()

    def _run_to_the_end(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do what `run_until_complete` does, whatever else may call `stop()` meanwhile."""
        task = self.create_task(function())
        task.add_done_callback(lambda _task: self.stop())
        while not task.done():
            self.run_forever()
        task.result()

    async def _spawn(
        self,
        protocol_factory: Callable[[], Any],
        args: Any,
        shell: bool,
        *,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        **options: Any,
    ) -> tuple[_Child, Any]:
        for name in ("universal_newlines", "text", "encoding", "errors", "bufsize"):
            if options.pop(name, None) not in (None, False, 0):
                raise ValueError(f"{name} must not be set: the pipes carry unbuffered bytes")
        protocol = protocol_factory()
        connected = self.create_future()
        child = self._child_class(
            self, protocol, args, shell, stdin, stdout, stderr, 0, waiter=connected, **options
        )
        try:
            self._watch(child)
        except BaseException:
            connected.cancel()
            child.end()
            child.collect()
            raise
        try:
            await connected
        except SystemExit, KeyboardInterrupt:
            raise
        except BaseException:
            child.end()
            await asyncio.shield(child._wait())
            raise
        return child, protocol

    def _watch(self, child: _Child) -> None:
        pid = child.get_pid()
        assert pid is not None, "only a child that was started is watched"
        try:
            pidfd = os.pidfd_open(pid)
        except AttributeError, OSError:
            # Not Linux, an old kernel, a seccomp filter, or no descriptor is left.
            thread = threading.Thread(
                target=self._await_exit, args=(child, pid), name=f"waitpid-{pid}", daemon=True
            )
            thread.start()
            self._children[child] = thread
            return
        try:
            self.add_reader(pidfd, self._ended, child)
        except BaseException:
            os.close(pidfd)
            raise
        self._children[child] = pidfd

    def _await_exit(self, child: _Child, pid: int) -> None:
        try:
            # WNOWAIT leaves it to the loop's thread to collect the child, so that its number is
            # not another process's by the time send_signal() uses it there.
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            _log.debug("process %d was collected before its end was seen", pid)
        try:
            self.call_soon_threadsafe(self._ended, child)
        except RuntimeError:
            # The loop is closed, and close() has reported that it gave up on the process.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _ended(self, child: _Child) -> None:
        self._unwatch(child)
        child.collect()

    def _unwatch(self, child: _Child) -> None:
        reporter = self._children.pop(child)
        if isinstance(reporter, threading.Thread):
            reporter.join()  # it has made its last call; no thread may outlive the interpreter
        else:
            self.remove_reader(reporter)
            os.close(reporter)

    async def _end_children(self) -> None:
        children = list(self._children)
        pids = ", ".join(str(child.get_pid()) for child in children)
        _log.warning("killing processes that still run when their event loop closes: %s", pids)
        for child in children:
            child.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHILD_EXIT_TIMEOUT):
                await asyncio.gather(*(child._wait() for child in children))
        while self._children:
            child, reporter = self._children.popitem()
            _log.error("process %s is still there when its event loop closes", child.get_pid())
            if isinstance(reporter, int):
                self.remove_reader(reporter)
                os.close(reporter)


class AsyncioLoop(_ChildKeeper, asyncio.SelectorEventLoop):
    """asyncio's loop, with `_ChildKeeper`, on a `Poller`."""

    # `asyncio.BaseEventLoop`'s own.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool

    def __init__(self) -> None:
        self.poller = Poller(self._time_left)
        super().__init__(self.poller)

    def _time_left(self) -> float | None:
        """Return after how many seconds there is something to do; None: not before something comes.

        What `asyncio.BaseEventLoop._run_once` finds out for each turn.
        """
        if self._ready or self._stopping:
            return 0
        if not self._scheduled:
            return None
        return min(max(self._scheduled[0].when() - self.time(), 0), _LONGEST_WAIT)


class _OwnDescriptor:
    """A pipe as uvloop is given it: closing libuv's descriptor leaves the pipe's open."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._fd = os.dup(pipe.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    def fileno(self) -> int:
        """Return the duplicate, which becomes libuv's to close."""
        return self._fd

    def close(self) -> None:
        """Close the pipe proper, which uvloop asks for when libuv has closed the duplicate."""
        self._fd = -1
        self._pipe.close()


class _Stdin:
    """The pipe to a child under uvloop, made to act like asyncio's.

    uvloop's raises `RuntimeError` on being written to when the child has closed the other end,
    which asyncio leaves to `drain()` to report, and has `wait_closed()` raise ENOTSOCK after
    `write_eof()`, because it shuts down one direction, as only a socket can.
    """

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        if not self._transport.is_closing():
            self._transport.writelines(list_of_data)

    def write_eof(self) -> None:
        self._transport.close()


class _UvloopChild(_Child):
    """A child process and its pipes, which are uvloop's transports."""

    def get_pipe_transport(self, fd: int) -> Any:
        transport = super().get_pipe_transport(fd)
        if fd == 0 and transport is not None:
            return _Stdin(cast("asyncio.WriteTransport", transport))
        return transport


def _check_pollable(pipe: Any) -> None:
    """Raise `ValueError`, as asyncio does, for a file that libuv would abort the process for."""
    fd = pipe.fileno()
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)):
        raise ValueError(f"{pipe!r} is not a pipe, a socket or a terminal")


@cache
def _uvloop_class() -> type[asyncio.AbstractEventLoop]:
    # uvloop is an extension module and optional: only who asks for it imports it.
    try:
        import uvloop
    except ModuleNotFoundError as error:
        if error.name != "uvloop":
            raise
        raise ConfigError(
            'the event loop uvloop is not installed: run pip install "subserve[uvloop]",'
            " or choose asyncio"
        ) from error

    # Its stub names and types some parameters unlike typeshed's AbstractEventLoop.
    class UvloopLoop(_ChildKeeper, uvloop.Loop):  # type: ignore[misc]
        """uvloop's loop, with `_ChildKeeper` and pipes that are safe among workers."""

        _child_class = _UvloopChild

        async def connect_read_pipe(
            self, protocol_factory: Callable[[], Any], pipe: Any
        ) -> tuple[Any, Any]:
            """Read from `pipe`; see `asyncio.loop.connect_read_pipe`."""
            return await _connect_pipe(super().connect_read_pipe, protocol_factory, pipe)

        async def connect_write_pipe(
            self, protocol_factory: Callable[[], Any], pipe: Any
        ) -> tuple[Any, Any]:
            """Write to `pipe`; see `asyncio.loop.connect_write_pipe`."""
            return await _connect_pipe(super().connect_write_pipe, protocol_factory, pipe)

    return UvloopLoop


async def _connect_pipe(
    connect: Callable[[Callable[[], Any], Any], Awaitable[tuple[Any, Any]]],
    protocol_factory: Callable[[], Any],
    pipe: Any,
) -> tuple[Any, Any]:
    _check_pollable(pipe)
    # From here on only libuv fails, if anything, and after it has taken the descriptor.
    protocol = protocol_factory()
    if not isinstance(pipe, socket.socket):  # uvloop detaches a socket and closes it once
        pipe = _OwnDescriptor(pipe)
    return await connect(lambda: protocol, pipe)


_LOOP_CLASSES: dict[str, Callable[[], type[asyncio.AbstractEventLoop]]] = {
    "asyncio": lambda: AsyncioLoop,
    "uvloop": _uvloop_class,
}
