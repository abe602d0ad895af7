"""The process that runs the tests: its main interpreter, which runs none of them.

Threads: the main thread, which waits; one that sees the other side end; and one for each
interpreter, its host.  A test that crashes takes all of it along, and nothing else.
"""

import faulthandler
import json
import os
import socket
import sys
import threading
from dataclasses import replace

from subserve import scratch, signals
from subserve.errors import WorkerError
from subserve.interpreter import Interpreter
from subserve.testing.link import Link
from subserve.testing.task import Task

# What an interpreter runs is named by text: none of it is imported in this one.
_ENTER = """
import json, sys
sys.path[:] = json.loads(task)["sys_path"]
from subserve.testing.worker import main
main(task)
"""


def main(fd: int) -> None:
    """Live the process's life; `fd` is the link to the one that started it.  Does not return."""
    signals.leave_interrupts_to_others()
    link = Link(socket.socket(fileno=fd))
    launch = link.receive()
    assert launch is not None
    tasks = [Task.from_json(text) for text in json.loads(launch[1])]
    dump_fd = launch[2]
    for number in (fd, dump_fd, *(task.fd for task in tasks)):
        os.set_inheritable(number, False)
    faulthandler.enable(dump_fd)
    folder = scratch.make()
    hosts = [
        threading.Thread(target=_host, args=(replace(task, scratch=folder),), daemon=True)
        for task in tasks
    ]
    threading.Thread(target=_end_with, args=(link, folder), daemon=True).start()
    for host in hosts:
        host.start()
    for host in hosts:
        host.join()
    _leave(folder, 0)


def _host(task: Task) -> None:
    """Hold an interpreter for as long as its tests take."""
    own = os.dup(task.fd)
    broken = ""
    try:
        interpreter = Interpreter()
        try:
            interpreter.run(_ENTER, task=task.to_json())
        except WorkerError as error:
            broken = str(error)
        if interpreter.live_threads() is None:
            interpreter.close()
    except WorkerError as error:
        os.close(task.fd)
        broken = str(error)
    link = Link(socket.socket(fileno=own))
    if broken:
        link.send("broken", broken)
    link.close()


def _end_with(link: Link, folder: str) -> None:
    """End the process when the other side has ended."""
    while link.receive() is not None:
        pass
    _leave(folder, 1)


def _leave(folder: str, code: int) -> None:
    """End the process, and not in Python's way: it would close interpreters with live threads."""
    scratch.remove(folder)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
