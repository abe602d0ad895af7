"""Where a worker begins: the coordinator's host thread enters its interpreter through `main`.

Interpreter: the worker's.  Threads: the host thread, which becomes the event loop's; the control
thread; the pool of a WSGI app; whatever the app starts.  Third-party modules are imported only
after extension modules have been seen to.
"""

import asyncio
import io
import logging
import socket
import sys
import threading
import time
from collections.abc import Coroutine
from typing import Any

from subserve import app as app_module
from subserve import extensions
from subserve import log as subserve_log
from subserve.assignment import Assignment
from subserve.channel import Channel
from subserve.identity import set_current_worker
from subserve.scoreboard import Scoreboard
from subserve.worker.failure import report_of
from subserve.worker.loops import new_event_loop
from subserve.worker.threads import wind_down

log = logging.getLogger("subserve.worker")

THREADS_TIMEOUT = 1.0
"""Seconds after the drain for exit hooks and threads to end; with the event loop's part it has to
stay below the coordinator's margin."""

EXECUTOR_TIMEOUT = 0.2
"""Seconds for the threads of the loop's default executor to end."""


def main(text: str) -> None:
    """Live a worker's life.  `text` is an `Assignment`.  Returns when there is nothing left to do.

    Raises only what is a defect of subserve; failures of the app are reported to the coordinator.
    """
    assignment = Assignment.from_json(text)
    channel = Channel(socket.socket(fileno=assignment.control_fd))
    source = socket.socket(fileno=assignment.connections_fd)
    _prepare(assignment)
    try:
        _live(assignment, channel, source)
    finally:
        wind_down(time.monotonic() + THREADS_TIMEOUT)
        subserve_log.flush_prints()
        source.close()
        channel.close()


def _prepare(assignment: Assignment) -> None:
    config = assignment.config
    sys.path[:] = assignment.sys_path
    for stream in (sys.stdout, sys.stderr):
        # What an app prints must show up when it is printed, also where the output is a pipe; but
        # a line at a time, also with PYTHONUNBUFFERED, so that those of the workers do not mix.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, write_through=False)
    name = f"worker {assignment.worker}"
    subserve_log.configure(config.log_level, config.log_format, name, config.processes)
    set_current_worker(assignment.worker)
    # Not made by this interpreter's `threading`, which would call it Dummy-1 in every log line.
    threading.current_thread().name = f"subserve-{assignment.worker}"
    if config.extensions == "isolate":
        extensions.isolate(assignment.scratch)
    else:
        extensions.native()


def _live(assignment: Assignment, channel: Channel, source: socket.socket) -> None:
    config = assignment.config
    row = Scoreboard(assignment.scoreboard_fd, assignment.row + 1).row(assignment.row)
    loop = runner = None
    try:
        loop = new_event_loop(config.loop)
        asyncio.set_event_loop(loop)  # some apps look for it while they are imported
        app = app_module.load(config.app, factory=config.factory, app_dir=config.app_dir)
        # Imported late: it brings in the lanes, and the app may replace parts of what those use.
        from subserve.worker.runner import Runner

        runner = Runner(assignment, channel, source, row, app)
        _run_to_end(loop, runner.run())
    except BaseException as error:  # sys.exit() while the app is imported, too
        if runner is not None and runner.ready:
            raise  # the app did start: what broke now is the worker
        channel.send(report_of(error, config.app))
    finally:
        if loop is not None:
            _close(loop)


def _run_to_end(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run `coroutine`, whatever the app does to the loop.

    A task of the app that raises `SystemExit` ends itself only, and ``loop.stop()`` ends nothing.
    """
    task = loop.create_task(coroutine, name="worker")
    while not task.done():
        try:
            loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            log.exception("a task of the app raised %s", type(error).__name__)
        except RuntimeError:
            if task.done() or loop.is_closed():
                raise
            log.error("the app stopped the event loop, which goes on")  # noqa: TRY400  no traceback


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what still runs and close the loop, in bounded time."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        _run_to_end(loop, _settle(tasks))
    _run_to_end(loop, loop.shutdown_asyncgens())
    _run_to_end(loop, _end_executor(loop))
    asyncio.set_event_loop(None)
    loop.close()


async def _end_executor(loop: asyncio.AbstractEventLoop) -> None:
    try:
        async with asyncio.timeout(EXECUTOR_TIMEOUT):
            await loop.shutdown_default_executor()
    except TimeoutError:
        log.debug("threads of the default executor are still busy")


async def _settle(tasks: set[asyncio.Task[Any]]) -> None:
    _, pending = await asyncio.wait(tasks, timeout=EXECUTOR_TIMEOUT)
    if pending:
        names = ", ".join(task.get_name() for task in pending)
        log.warning("these tasks of the app ignore their cancellation: %s", names)
