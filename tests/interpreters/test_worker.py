"""Workers as the coordinator sees them: a `WorkerHandle` here, an app in a sub-interpreter there.

What is done wrong to interpreters ends processes, so each group of workers lives in a process of
its own.  It runs a *scenario*, a function below, which prints what it saw as JSON.
"""

import _interpreters
import json
import os
import queue
import re
import select
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from subserve.coordinator import handle as handle_module
from subserve.coordinator.handle import HostEnded, WorkerHandle
from subserve.errors import WorkerError
from subserve.identity import WorkerInfo
from subserve.interpreter import Interpreter
from subserve.lifecycle import WorkerEvent, WorkerState
from subserve.messages import Drain, Failed, Message, Ready
from subserve.options import Config
from subserve.scoreboard import Scoreboard

ROOT = Path(__file__).parents[2]

PROCESS_TIMEOUT = 100.0
"""Seconds for the process of a group, which takes a few unless something hangs."""

DEADLINE = 30.0
"""Seconds for one step of a scenario, which takes milliseconds."""

type Json = Any


def run(scenario: Callable[..., Json], *arguments: Json) -> tuple[Json, str]:
    """Call `scenario` in a new process; return what it returned and what is on standard error."""
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]; from tests.interpreters import test_worker;"
        f"test_worker.finish(test_worker.{scenario.__name__}(*{arguments!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "faulthandler", "-c", program],
        capture_output=True,
        text=True,
        timeout=PROCESS_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def finish(result: Json) -> None:
    """End the process as the coordinator does where an interpreter is left open."""
    os.write(sys.__stdout__.fileno(), f"\n{json.dumps(result)}\n".encode())  # type: ignore[union-attr]
    if open_interpreters() > 0:
        os._exit(0)


def open_interpreters() -> int:
    return len(_interpreters.list_all()) - 1


def in_thread[T](function: Callable[[], T]) -> T:
    """Call `function` in a thread, as whoever holds an interpreter does."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join(DEADLINE)
    return results[0]


# ---- an interpreter


def an_interpreter() -> Json:
    def hold() -> Json:
        interpreter = Interpreter()
        config = _interpreters.get_config(interpreter._id)
        # Imported under the lock, before anybody could run something in it.
        interpreter.run("import sys; assert {'_ctypes', '_asyncio', '_ssl'} <= set(sys.modules)")
        interpreter.run("import builtins; builtins.seen = [a, b]", a=1, b="two")
        interpreter.run("assert seen == [1, 'two']")
        failure = ""
        try:
            interpreter.run("def f(): raise LookupError('inside')\nf()")
        except WorkerError as error:
            failure = str(error)
        counts = [open_interpreters()]
        interpreter.close()
        return {
            "gil": config.gil,
            "daemons": config.allow_daemon_threads,
            "fork": config.allow_fork,
            "failure": failure,
            "open": [*counts, open_interpreters()],
        }

    return in_thread(hold)


def test_an_interpreter() -> None:
    seen, _ = run(an_interpreter)
    assert (seen["gil"], seen["daemons"], seen["fork"]) == ("own", True, False)
    assert "in f\n" in seen["failure"]
    assert seen["failure"].rstrip().endswith("LookupError: inside")
    assert seen["open"] == [1, 0]


START_THREADS = {
    "none": "",
    "plain": "threading.Thread(target=wait, name='plain').start()",
    "daemon": "threading.Thread(target=wait, name='daemon', daemon=True).start()",
    "two": "[threading.Thread(target=wait, name=n).start() for n in ('one', 'two')]",
    "raw": "_thread.start_new_thread(wait, ())",
    "raw that asked for its name": "_thread.start_new_thread(ask_and_wait, ())",
    "timer": "threading.Timer(60, print).start()",
    "pool": "pool = concurrent.futures.ThreadPoolExecutor(1, 'pool'); pool.submit(int).result()",
    "ended": "t = threading.Thread(target=int); t.start(); t.join()",
}

WAITING = """
import _thread, concurrent.futures, threading
proceed, started = threading.Event(), threading.Event()
def wait():
    started.set()
    proceed.wait()
def ask_and_wait():
    threading.current_thread()
    wait()
"""


def live_threads(code: str) -> Json:
    def hold() -> Json:
        interpreter = Interpreter()
        interpreter.run(WAITING + code)
        if "wait" in code:
            interpreter.run("assert started.wait(30)")
        found = interpreter.live_threads()
        if found is None:
            interpreter.close()
        return found

    return in_thread(hold)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("none", None),
        ("plain", "plain"),
        ("daemon", "daemon"),
        ("two", "one, two"),
        ("raw", "a thread without a name"),
        ("raw that asked for its name", r"Dummy-\d"),
        ("timer", "Thread-1"),
        ("pool", "pool_0"),
        ("ended", None),
    ],
)
def test_threads_that_live_are_found(kind: str, names: str | None) -> None:
    found, _ = run(live_threads, START_THREADS[kind])
    assert found is None if names is None else re.fullmatch(names, found)


def many_at_once(workers: int, rounds: int) -> Json:
    def hold() -> None:
        for _ in range(rounds):
            interpreter = Interpreter()
            interpreter.run("import asyncio, json, threading\nthreading.Thread(target=int).start()")
            interpreter.run("for t in threading.enumerate()[1:]: t.join()")
            assert interpreter.live_threads() is None
            interpreter.close()

    threads = [threading.Thread(target=hold) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    return open_interpreters()


def test_interpreters_are_made_and_closed_by_several_threads_at_once() -> None:
    assert run(many_at_once, 4, 3)[0] == 0


# ---- workers

HELLO = """
from subserve import current_worker
async def app(scope, receive, send):
    assert scope["type"] == "http"
    info = current_worker()
    body = f"{info} {info.index} {info.generation} {info.workers}".encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

CLOSED_APPS = {
    "hello": HELLO,
    "wsgi": """
        from subserve import current_worker
        def app(environ, start_response):
            start_response("200 OK", [])
            return [str(current_worker()).encode()]
    """,
    "printing": "print('while it is imported')" + HELLO,
    # Idle threads of a pool wait for work until the interpreter ends.
    "idle_pool": """
        import concurrent.futures
        pool = concurrent.futures.ThreadPoolExecutor(2)
        pool.submit(int).result()
    """
    + HELLO,
    "default_executor": """
        import asyncio
        async def app(scope, receive, send):
            assert scope["type"] == "http"
            await asyncio.to_thread(int)
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})
    """,
    # Error reporters send from a thread that they end in an exit hook.
    "reporter": """
        import atexit, os, queue, threading
        reports = queue.SimpleQueue()
        def send_reports():
            while (report := reports.get()) is not None:
                os.write(2, report)
        thread = threading.Thread(target=send_reports, daemon=True)
        thread.start()
        def flush():
            reports.put(b"a report at exit\\n")
            reports.put(None)
            thread.join()
        atexit.register(flush)
    """
    + HELLO,
    "failing_hook": "import atexit; atexit.register(lambda: 1 / 0)" + HELLO,
    "closed_stdout": "import sys; sys.stdout.close()" + HELLO,
    "no_stdout": "import sys; sys.stdout = sys.stderr = None" + HELLO,
    "quick_thread": """
        import threading
        proceed = threading.Event()
        threading.Thread(target=proceed.wait).start()
        import atexit; atexit.register(proceed.set)
    """
    + HELLO,
    "stops_the_loop": """
        import asyncio
        async def app(scope, receive, send):
            assert scope["type"] == "http"
            asyncio.get_running_loop().stop()
            await asyncio.sleep(0)
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})
    """,
    "exits_in_a_task": """
        import asyncio, sys
        async def leave():
            sys.exit("I leave")
        async def app(scope, receive, send):
            assert scope["type"] == "http"
            task = asyncio.create_task(leave())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})
    """,
    "deaf_task": """
        import asyncio
        async def deaf():
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    pass
        async def app(scope, receive, send):
            assert scope["type"] == "http"
            app.task = asyncio.create_task(deaf(), name="deaf")
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})
    """,
}
"""Whose interpreter can be closed when they end."""

LEFT_APPS = {
    "plain_thread": """
        import threading
        threading.Thread(target=threading.Event().wait, name="plain").start()
    """
    + HELLO,
    "daemon_thread": """
        import threading
        threading.Thread(target=threading.Event().wait, name="daemon", daemon=True).start()
    """
    + HELLO,
    "raw_thread": """
        import _thread, threading
        _thread.start_new_thread(threading.Event().wait, ())
    """
    + HELLO,
    # Once it has logged something, `threading` knows it, but cannot join it.
    "dummy_thread": """
        import _thread, threading
        def run():
            threading.current_thread()
            known.set()
            threading.Event().wait()
        known = threading.Event()
        _thread.start_new_thread(run, ())
        known.wait()
    """
    + HELLO,
    "busy_pool": """
        import atexit, concurrent.futures, os, threading
        pool = concurrent.futures.ThreadPoolExecutor(1, "busy")
        pool.submit(threading.Event().wait)
        atexit.register(os.write, 2, b"exit hook beside a busy pool\\n")
    """
    + HELLO,
    "stuck_hook": """
        import atexit, threading
        atexit.register(threading.Event().wait)
    """
    + HELLO,
    "thread_and_no_start": """
        import threading
        threading.Thread(target=threading.Event().wait, name="plain").start()
        raise LookupError("not to be started")
    """,
    "thread_and_broken": """
        import asyncio, threading
        threading.Thread(target=threading.Event().wait, name="plain").start()
        async def app(scope, receive, send):
            assert scope["type"] == "http"
            for task in asyncio.all_tasks():
                if task.get_name() == "worker":
                    task.cancel()
            await asyncio.sleep(60)
    """,
}
"""In whose interpreter a thread lives on."""

FAILING_APPS = {
    "no_module": None,
    "no_attribute": "api = 1",
    "no_app": "app = 5",
    "raising": """
        def deep():
            raise LookupError("no settings")
        deep()
    """,
    "bad_syntax": "def app(:",
    "exiting": "import sys; sys.exit(9)",
    "interrupted": "raise KeyboardInterrupt",
    "bad_lifespan": """
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "Traceback of the app"})
            raise LookupError
    """,
    "slow_lifespan": """
        import asyncio
        async def app(scope, receive, send):
            await asyncio.Event().wait()
    """,
    "talkative": "raise LookupError('\U0001f600' * 200_000)",
}
"""What cannot be loaded or started."""

BROKEN_APPS = {
    "broken": """
        import asyncio
        async def app(scope, receive, send):
            assert scope["type"] == "http"
            for task in asyncio.all_tasks():
                if task.get_name() == "worker":
                    task.cancel()
            await asyncio.sleep(60)
    """,
}
"""Where the worker ends without being asked to."""


class Side:
    """The coordinator's side of one worker: does one thing after the other, and notes it."""

    def __init__(
        self, name: str, place: int, board: Scoreboard, folder: str, workers: int, **changes: Json
    ) -> None:
        self.name = name
        self.notes: queue.SimpleQueue[HostEnded] = queue.SimpleQueue()
        options = {"startup_timeout": DEADLINE} | changes
        config = Config(
            app=f"{name}:app",
            app_dir=folder,
            workers=workers,
            extensions="native",
            **options,
        )
        info = WorkerInfo(place, 1, workers)
        self.handle = WorkerHandle.start(
            info, config, board, folder, [str(ROOT), *sys.path], self.notes.put
        )
        self.seen: dict[str, Json] = {"loads": [self.handle.load], "body": None}

    def first_report(self) -> None:
        report = self._receive()
        self.seen["report"] = [type(report).__name__, *vars_of(report)]
        self.handle.take(WorkerEvent.READY if isinstance(report, Ready) else WorkerEvent.FAILED)
        self.seen["loads"].append(self.handle.load)

    def _receive(self) -> Message:
        deadline = time.monotonic() + DEADLINE
        while True:
            readable, _, _ = select.select([self.handle.control], [], [], DEADLINE)
            messages = self.handle.receive()
            if messages:
                (message,) = messages
                return message
            assert messages is not None, f"{self.handle.info}: gone without a report"
            assert readable, f"{self.handle.info}: no report"
            assert time.monotonic() < deadline

    def request(self) -> None:
        """Hand a connection over and send a request on it."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname(), DEADLINE)
            connection, _ = server.accept()
        with client:
            assert self.handle.hand_over(connection)
            assert connection.fileno() == -1
            self.seen["loads"].append(self.handle.load)
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        self.seen["status"] = head.partition(b"\r\n")[0].decode()
        self.seen["body"] = body.decode()

    def end(self) -> None:
        """Ask it to end unless it does so by itself, and wait for it."""
        if self.handle.state is WorkerState.READY and "broken" not in self.name:
            self.handle.drain(1.0)
        note = self.notes.get(timeout=DEADLINE)
        self.handle.take(note.event)
        self.seen["event"] = note.event.name
        self.seen["detail"] = note.detail
        self.seen["left_open"] = note.left_open
        self.seen["state"] = self.handle.state.name
        self.seen["joined"] = self.handle.join(DEADLINE)


def vars_of(message: Message) -> list[Json]:
    match message:
        case Ready(interface):
            return [interface]
        case Failed(reason, traceback, exit_code):
            return [reason, traceback, exit_code]
        case Drain(timeout):
            return [timeout]


def descriptors() -> dict[str, str]:
    """Return the open descriptors of this process, and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that did the listing
    return found


def workers(apps: dict[str, str | None], folder: str, changes: dict[str, Json]) -> Json:
    """Run each app in a worker of its own, all at once; return by name what was seen of them."""
    for name, source in apps.items():
        if source is not None:
            text = "\n".join(map(textwrap.dedent, source.partition(HELLO)))
            Path(folder, f"{name}.py").write_text(text)
    reader, writer = os.pipe()
    kept = os.dup(1)
    os.dup2(writer, 1)
    os.close(writer)
    before = descriptors()
    board = Scoreboard.create(len(apps))
    sides = {
        name: Side(name, place, board, folder, len(apps), **changes.get(name, {}))
        for place, name in enumerate(apps)
    }
    for side in sides.values():
        side.first_report()
    # All have been imported, none has ended: what is here now was not kept back.
    printed = os.read(reader, 65536).decode() if select.select([reader], [], [], 0)[0] else ""
    for side in sides.values():
        if side.handle.state is WorkerState.READY:
            side.request()
    for side in sides.values():
        side.end()
    seen = {name: side.seen for name, side in sides.items()}
    board.close()
    sides.clear()
    del side, board  # the mapping lives as long as a row of it does
    after = descriptors()
    os.dup2(kept, 1)
    # libffi, which loads extension modules, opens itself once in a process.
    new = [what for number, what in after.items() if number not in before and "ffi" not in what]
    return {"printed": printed, "open": open_interpreters(), "fds": new, "seen": seen}


type Group = tuple[Json, str]


def group(
    folder: Path, apps: dict[str, str | None] | dict[str, str], **changes: dict[str, Json]
) -> Group:
    return run(workers, apps, str(folder), changes)


# ---- workers whose interpreter is closed


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Group:
    return group(tmp_path_factory.mktemp("closed"), CLOSED_APPS)


@pytest.mark.parametrize("name", CLOSED_APPS)
def test_a_worker_from_start_to_end(closed: Group, name: str) -> None:
    seen = closed[0]["seen"][name]
    assert seen["report"] == ["Ready", "wsgi" if name == "wsgi" else "asgi"]
    assert seen["status"].split()[1] in {"200", "204"}
    assert seen["event"] == seen["state"] == "CLOSED", seen["detail"]
    assert (seen["left_open"], seen["joined"]) == (False, True)


def test_every_interpreter_was_closed(closed: Group) -> None:
    assert closed[0]["open"] == 0
    assert closed[0]["fds"] == []


def test_a_worker_takes_connections_once_it_is_ready(closed: Group) -> None:
    starting, ready, busy = closed[0]["seen"]["hello"]["loads"]
    assert (starting, ready) == (None, [0, 0])
    assert busy in ([1, 0], [1, 1])


def test_the_app_knows_its_worker(closed: Group) -> None:
    count = len(CLOSED_APPS)
    assert closed[0]["seen"]["hello"]["body"] == f"0.1 0 1 {count}"
    assert closed[0]["seen"]["wsgi"]["body"] == "1.1"


def test_what_an_app_prints_shows_up_at_once(closed: Group) -> None:
    # In a sub-interpreter, standard output was kept back in a buffer until the worker ended.
    assert closed[0]["printed"] == "while it is imported\n"


def test_exit_hooks_run(closed: Group) -> None:
    assert "a report at exit\n" in closed[1]
    assert "ZeroDivisionError" in closed[1]


def test_what_apps_do_to_the_loop_is_logged(closed: Group) -> None:
    assert "the app stopped the event loop, which goes on" in closed[1]
    assert "a task of the app raised SystemExit" in closed[1]
    assert "these tasks of the app ignore their cancellation: deaf" in closed[1]


# ---- workers whose interpreter cannot be closed


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Group:
    return group(tmp_path_factory.mktemp("left"), LEFT_APPS)


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("plain_thread", "plain"),
        ("daemon_thread", "daemon"),
        ("raw_thread", "a thread without a name"),
        ("dummy_thread", r"Dummy-\d"),
        ("busy_pool", "busy_0, subserve-thread-hooks"),
        ("stuck_hook", "subserve-exit-hooks"),
    ],
)
def test_a_worker_with_a_thread_that_does_not_end(left: Group, name: str, detail: str) -> None:
    seen = left[0]["seen"][name]
    assert seen["status"].split()[1] == "200"
    assert (seen["event"], seen["state"]) == ("THREADS_LEFT", "ABANDONED")
    assert re.fullmatch(detail, seen["detail"])
    assert (seen["left_open"], seen["joined"]) == (True, True)


def test_a_worker_that_did_not_start_with_a_thread_that_does_not_end(left: Group) -> None:
    """It is left open, too: finalising the process would close it under the thread."""
    seen = left[0]["seen"]["thread_and_no_start"]
    assert seen["report"][0] == "Failed"
    assert (seen["event"], seen["state"], seen["detail"]) == ("THREADS_LEFT", "FAILED", "plain")
    assert seen["left_open"] is True


def test_a_worker_that_broke_with_a_thread_that_does_not_end(left: Group) -> None:
    # Only its breaking was told, so the process was finalised under the thread.
    seen = left[0]["seen"]["thread_and_broken"]
    assert (seen["event"], seen["state"], seen["left_open"]) == ("BROKE", "BROKEN", True)


def test_no_interpreter_with_a_live_thread_was_closed(left: Group) -> None:
    assert left[0]["open"] == len(LEFT_APPS)


def test_exit_hooks_run_beside_a_busy_pool(left: Group) -> None:
    # They came after the threads of the pool, in the same thread: never.
    assert "exit hook beside a busy pool\n" in left[1]
    assert "threads of a pool are still busy, they are left alone" in left[1]
    assert "the exit hooks of the app take too long, they are left alone" in left[1]


# ---- workers that do not start, or break


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Group:
    return group(
        tmp_path_factory.mktemp("failed"),
        FAILING_APPS | BROKEN_APPS | {"bad_log": HELLO},
        slow_lifespan={"startup_timeout": 0.1},
        bad_log={"access_log": "/no/such/folder/log"},
    )


@pytest.mark.parametrize(
    ("name", "reason", "code"),
    [
        ("no_module", "no module named no_module in ", 3),
        ("no_attribute", "module no_attribute has no attribute app", 3),
        ("no_app", "the app is not callable but 5", 3),
        ("raising", "the app could not be loaded: LookupError; see the traceback above", 3),
        ("bad_syntax", "the app could not be loaded: SyntaxError; see the traceback above", 3),
        ("exiting", "the app could not be loaded: SystemExit; see the traceback above", 3),
        ("interrupted", "the app could not be loaded: KeyboardInterrupt; see", 3),
        ("bad_lifespan", "the app's lifespan startup failed; see above", 3),
        ("slow_lifespan", "did not complete within 0.1 s; if it needs longer, raise --startup-", 3),
        ("talkative", "the app could not be loaded: LookupError; see the traceback above", 3),
        ("bad_log", "--access-log /no/such/folder/log: cannot be written: No such file", 2),
    ],
)
def test_a_worker_that_does_not_start(failed: Group, name: str, reason: str, code: int) -> None:
    seen = failed[0]["seen"][name]
    kind, told, _, exit_code = seen["report"]
    assert (kind, exit_code) == ("Failed", code)
    assert reason in told
    assert (seen["event"], seen["state"], seen["loads"]) == ("CLOSED", "FAILED", [None, None])


def test_the_traceback_is_the_apps_own(failed: Group) -> None:
    lines = failed[0]["seen"]["raising"]["report"][2].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "raising.py" in lines[1]
    assert lines[-1] == "LookupError: no settings"
    assert "subserve" not in "".join(lines)


def test_an_error_of_the_operator_has_no_traceback(failed: Group) -> None:
    assert {failed[0]["seen"][name]["report"][2] for name in ("no_module", "bad_log")} == {""}


def test_the_traceback_of_a_lifespan_is_what_the_app_says(failed: Group) -> None:
    assert failed[0]["seen"]["bad_lifespan"]["report"][2] == "Traceback of the app"


def test_a_traceback_of_any_length_and_script_fits_a_message(failed: Group) -> None:
    # 200,000 characters are 2.4 MB of JSON: the report was refused, and the worker "broke".
    traceback = failed[0]["seen"]["talkative"]["report"][2]
    assert traceback.endswith("\U0001f600\n")


def test_a_worker_that_ends_without_being_asked_to(failed: Group) -> None:
    # Once it was ready, it reported that its app could not be loaded, which ended the coordinator:
    # "a READY worker cannot take FAILED".
    seen = failed[0]["seen"]["broken"]
    assert seen["report"] == ["Ready", "asgi"]
    assert (seen["event"], seen["state"], seen["left_open"]) == ("BROKE", "BROKEN", False)
    assert "CancelledError" in seen["detail"]


def test_interpreters_of_workers_that_did_not_start_are_closed(failed: Group) -> None:
    assert failed[0]["open"] == 0
    assert failed[0]["fds"] == []


# ---- the handle alone


def test_no_interpreter_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Interpreter:
        raise WorkerError("no interpreter could be made: out of memory")

    monkeypatch.setattr(handle_module, "Interpreter", refuse)
    notes: queue.SimpleQueue[HostEnded] = queue.SimpleQueue()
    board = Scoreboard.create(1)
    info = WorkerInfo(0, 1, 1)
    handle = WorkerHandle.start(info, Config(workers=1), board, "/", [], notes.put)
    assert notes.get(timeout=DEADLINE) == HostEnded(
        info, WorkerEvent.BROKE, "no interpreter could be made: out of memory"
    )
    assert handle.receive() is None, "the worker's end is closed"
    assert handle.join(DEADLINE)
    board.close()


def test_a_connection_that_cannot_be_handed_over_stays_the_callers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proceed = threading.Event()

    def hold() -> Interpreter:
        proceed.wait(DEADLINE)
        raise WorkerError("it is over")

    monkeypatch.setattr(handle_module, "Interpreter", hold)
    notes: queue.SimpleQueue[HostEnded] = queue.SimpleQueue()
    board = Scoreboard.create(1)
    handle = WorkerHandle.start(WorkerInfo(0, 1, 1), Config(workers=1), board, "/", [], notes.put)
    handle.take(WorkerEvent.READY)
    assert handle.load == (0, 0)
    assert handle.join(0.0) is False
    here, there = socket.socketpair()
    with here, there:
        handed = 0
        while handle.hand_over(copy := socket.socket(fileno=os.dup(here.fileno()))):
            handed += 1
            assert handed < 100_000, "its buffer has no end"
        assert handle.load == (handed, 0)
        assert copy.fileno() >= 0
        copy.close()

        handle.drain(1.0)
        assert handle.state is WorkerState.DRAINING
        assert handle.load is None
        assert handle.hand_over(here) is False
        assert here.fileno() >= 0
    proceed.set()
    assert notes.get(timeout=DEADLINE).event is WorkerEvent.BROKE
    assert handle.join(DEADLINE)
    board.close()
