"""Where an interpreter that runs tests begins.

Interpreter: a sub-interpreter with its own GIL.  Threads: the host thread, which runs pytest, and
whatever the tests start.  pytest is imported after extension modules have been seen to.
"""

import io
import os
import socket
import sys
import threading
import time

import subserve
from subserve import extensions
from subserve.testing import surroundings
from subserve.testing.link import Link
from subserve.testing.task import Task
from subserve.worker.threads import wind_down

THREADS_TIMEOUT = 2.0
"""Seconds for exit hooks, and for threads that tests have left, to end."""


def main(text: str) -> None:
    """Run pytest as `text`, a `Task`, says; what comes of it goes through the link.

    Raises only what is a defect of subserve.
    """
    task = Task.from_json(text)
    link = Link(socket.socket(fileno=task.fd))
    try:
        _prepare(task, link)
        import pytest

        from subserve.testing.session import Reporter

        reporter = Reporter(task, link)
        # There is one terminal, which is not ours, and one faulthandler, which is the process's.
        pytest.main(
            ["-p", "no:terminalreporter", "-p", "no:faulthandler", *task.args], plugins=[reporter]
        )
        wind_down(time.monotonic() + THREADS_TIMEOUT)
        link.send("over", reporter.should_fail, reporter.should_stop)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        link.close()


def _prepare(task: Task, link: Link) -> None:
    sys.path[:] = task.sys_path
    sys.argv[:] = task.argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # several write to it, a line at a time
            stream.reconfigure(line_buffering=True, write_through=False)
    # pytest rewrites the asserts of packages that bring plugins, and warns where it is too late.
    subserve.__doc__ = f"{subserve.__doc__}\n\nPYTEST_DONT_REWRITE"
    own_folder = task.count == 1 or surroundings.own_folder()
    if task.count > 1:
        surroundings.own_environment()
        # The variables by which suites that know pytest-xdist keep databases and ports apart.
        os.environ["PYTEST_XDIST_WORKER"] = task.name
        os.environ["PYTEST_XDIST_WORKER_COUNT"] = str(task.count)
    surroundings.announce_exit(lambda story: link.send("exiting", story))
    link.send("thread", threading.get_ident(), own_folder)
    extensions.isolate(task.scratch)
