"""Both event loops where they will run: in sub-interpreters, several at once, beside each other.

Each test starts a process of its own.  It runs the source of one *scenario*, an ``async def``
below, in one or four workers at a time, and checks that nothing is left when they are gone: no
child process, no zombie, no descriptor, no thread, nothing on stderr (where warnings, which are
errors, end up when they cannot be raised).
"""

import asyncio
import contextlib
import inspect
import json
import logging
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trustme

from subserve.interpreter import FIRST_IMPORTS

LOOPS = ["asyncio", "uvloop"]

PROCESS_TIMEOUT = 100.0
"""Seconds for a process of a test, which takes about one unless something hangs."""

type Scenario = Callable[[], Coroutine[Any, Any, None]]


# ---- what runs in the process of a test; its source is sent there


def host(workers: int, code: str, shared: dict[str, str], left_open: int) -> None:
    """Run `code` in as many workers at once, and check that they left `left_open` pipes only."""
    import _interpreters

    config = _interpreters.new_config("isolated", allow_daemon_threads=True)
    one_at_a_time = threading.Lock()
    failures: list[str] = []

    def descriptors() -> dict[str, str]:
        found = {}
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the one that did the listing
                found[number] = os.readlink(f"/proc/self/fd/{number}")
        return found

    def work(index: int) -> None:
        with one_at_a_time:
            interpreter = _interpreters.create(config)
            _interpreters.exec(interpreter, FIRST_IMPORTS)
        failure = _interpreters.exec(interpreter, code, {"INDEX": index, **shared})
        if failure is not None:
            failures.append(failure.errdisplay)
        with one_at_a_time:
            _interpreters.destroy(interpreter)

    before = descriptors()
    threads = [threading.Thread(target=work, args=(index,)) for index in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit("\n".join(failures))

    # libffi, which loads extension modules, opens itself once in a process.
    left = [
        target
        for number, target in descriptors().items()
        if number not in before and "libffi" not in target
    ]
    assert len(left) == left_open, left
    assert all(target.startswith("pipe:") for target in left), left
    try:
        child = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return
    raise AssertionError(f"a child process was left behind: {child}")


def work_in_worker(scenario: Scenario, index: int, loop_name: str, scratch: str) -> None:
    """Be a worker: run `scenario` and print what it logged, as JSON."""
    from subserve.extensions import isolate

    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(f"{record.levelname} {record.getMessage()}")  # type: ignore[method-assign]
    logging.basicConfig(handlers=[handler], level=logging.INFO)

    isolate(scratch)
    from subserve.worker.loops import new_event_loop

    with asyncio.Runner(loop_factory=lambda: new_event_loop(loop_name)) as runner:
        runner.run(scenario())

    extra = [
        thread
        for thread in threading.enumerate()
        if thread not in (threading.main_thread(), threading.current_thread())
    ]
    assert not extra, extra
    os.write(1, (json.dumps({"worker": index, "log": records}) + "\n").encode())


PRELUDE = """
import sys
sys.path[:] = PATH.split(chr(10))
import asyncio, contextlib, json, logging, os, pathlib, signal
import socket, ssl, subprocess, tempfile, threading
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from typing import Any
from collections.abc import Callable, Coroutine
type Scenario = Callable[[], Coroutine[Any, Any, None]]
"""


def run_in_workers(
    scenario: Scenario, loop: str, tmp_path: pathlib.Path, *, workers: int = 4
) -> list[str]:
    """Run `scenario` in a new process and return what each worker logged, sorted."""
    parts = [PRELUDE, *(inspect.getsource(part) for part in (work_in_worker, *HELPERS, scenario))]
    code = "\n".join(parts) + f"\nwork_in_worker({scenario.__name__}, INDEX, LOOP, SCRATCH)\n"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    shared = {
        "PATH": "\n".join(sys.path),
        "LOOP": loop,
        "SCRATCH": str(scratch),
    }
    # libuv opens one pipe for signals per copy of it, when first used, and keeps it.
    left_open = 2 * workers if loop == "uvloop" else 0
    program = (
        f"import contextlib, os, sys, threading\n"
        f"FIRST_IMPORTS = {FIRST_IMPORTS!r}\n{inspect.getsource(host)}\n"
        f"host({workers}, {code!r}, {shared!r}, {left_open})"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdout=PIPE,
        stderr=PIPE,
        text=True,
        env={**os.environ, "SCENARIO_FILES": str(tmp_path)},
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=PROCESS_TIMEOUT)
    finally:
        with contextlib.suppress(ProcessLookupError):  # which is how it should be
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == 0, err
    assert err == ""
    reports = [json.loads(line) for line in out.splitlines()]
    assert sorted(report["worker"] for report in reports) == list(range(workers))
    return sorted(line for report in reports for line in report["log"])


# ---- helpers of the scenarios


def python(code: str) -> list[str]:
    """Return the arguments that run `code` in a new Python process."""
    return [sys.executable, "-I", "-S", "-c", code]


async def raised(awaitable: Any) -> BaseException | None:
    """Return what `awaitable` raises, or None."""
    try:
        await awaitable
    except BaseException as error:  # noqa: BLE001 (the caller looks at it)
        return error
    return None


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, and end as the other side does."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def accept(sock: socket.socket, context: ssl.SSLContext | None = None) -> None:
    """Serve an accepted connection with `echo`, as a worker serves the ones it is handed."""
    loop = asyncio.get_running_loop()
    await loop.connect_accepted_socket(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), echo), sock, ssl=context
    )


def refuse_pidfd(pid: int, flags: int = 0) -> int:
    """Stand in for `os.pidfd_open`."""
    raise PermissionError("as under a seccomp filter")


HELPERS = (python, raised, echo, accept, refuse_pidfd)


# ---- scenarios: child processes


async def exit_codes_and_signals() -> None:
    child = await asyncio.create_subprocess_exec(*python("raise SystemExit(7)"))
    assert await child.wait() == 7
    assert child.returncode == 7
    assert await child.wait() == 7
    with contextlib.suppress(ProcessLookupError):  # the one thing it may do: it has ended
        child.kill()
    for end, code in [
        (asyncio.subprocess.Process.terminate, -signal.SIGTERM),
        (asyncio.subprocess.Process.kill, -signal.SIGKILL),
        (lambda child: child.send_signal(signal.SIGUSR1), -signal.SIGUSR1),
    ]:
        child = await asyncio.create_subprocess_exec("sleep", "1000")
        waits = [asyncio.create_task(child.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        assert child.returncode is None
        end(child)
        assert await asyncio.gather(*waits) == [code] * 3
    child = await asyncio.create_subprocess_shell("exit 3")
    assert await child.wait() == 3


async def megabytes_both_ways() -> None:
    code = """if True:
        import sys
        data = sys.stdin.buffer.read()
        sys.stdout.buffer.write(data[::-1])
        sys.stderr.buffer.write(data[:1_000_000])
    """
    child = await asyncio.create_subprocess_exec(
        *python(code), stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    data = bytes(range(256)) * 20_000
    out, err = await child.communicate(data)
    assert out == data[::-1]
    assert err == data[:1_000_000]
    assert child.returncode == 0

    child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    reading = asyncio.create_task(child.stdout.read())
    for start in range(0, len(data), 100_000):
        child.stdin.write(data[start : start + 100_000])
        await child.stdin.drain()
    child.stdin.write_eof()
    await child.stdin.wait_closed()
    assert await reading == data
    assert await child.wait() == 0


async def where_output_goes() -> None:
    script = "echo out; echo err >&2"
    child = await asyncio.create_subprocess_shell(script, stdout=PIPE, stderr=STDOUT)
    assert await child.communicate() == (b"out\nerr\n", None)
    child = await asyncio.create_subprocess_shell(script, stdout=DEVNULL, stderr=PIPE)
    assert await child.communicate() == (None, b"err\n")
    child = await asyncio.create_subprocess_exec("cat", stdin=DEVNULL, stdout=PIPE)
    assert await child.communicate() == (b"", None)
    with tempfile.TemporaryFile() as file:
        child = await asyncio.create_subprocess_shell(script, stdout=file, stderr=file.fileno())
        assert await child.wait() == 0
        file.seek(0)
        assert file.read() == b"out\nerr\n"


async def how_a_child_is_started() -> None:
    code = "import os; print(os.getcwd(), os.environ.get('A'), os.getsid(0) == os.getpid())"
    with tempfile.TemporaryDirectory() as folder:
        child = await asyncio.create_subprocess_exec(
            *python(code), stdout=PIPE, cwd=folder, env={"A": "b"}, start_new_session=True
        )
        out, _ = await child.communicate()
        assert out.decode() == f"{os.path.realpath(folder)} b True\n"
    child = await asyncio.create_subprocess_exec(*python(code), stdout=PIPE, cwd=pathlib.Path("/"))
    assert await child.communicate() == (b"/ None False\n", None)

    reading, writing = os.pipe()
    child = await asyncio.create_subprocess_exec(
        *python(f"import os; os.write({writing}, b'passed')"), pass_fds=[writing]
    )
    assert await child.wait() == 0
    assert os.read(reading, 10) == b"passed"
    child = await asyncio.create_subprocess_exec(
        *python(f"import os; os.fstat({writing})"), stderr=DEVNULL
    )
    assert await child.wait() == 1, "a child got a descriptor that was not passed to it"
    os.close(reading)
    os.close(writing)


async def what_is_refused() -> None:
    start = asyncio.create_subprocess_exec
    assert isinstance(await raised(start("/nonexistent")), FileNotFoundError)
    assert isinstance(await raised(start("true", cwd="/nonexistent")), FileNotFoundError)
    assert isinstance(await raised(start("/")), PermissionError)
    assert isinstance(await raised(start("true", preexec_fn=print)), RuntimeError)
    assert isinstance(await raised(start("true", no_such_option=1)), TypeError)
    for options in [{"text": True}, {"encoding": "utf-8"}, {"errors": "strict"}, {"bufsize": 1}]:
        assert isinstance(await raised(start("true", **options)), ValueError)
    assert isinstance(await raised(start("true", universal_newlines=True)), ValueError)
    assert isinstance(await raised(start("true", shell=True)), ValueError)
    shell: Any = asyncio.create_subprocess_shell
    assert isinstance(await raised(shell("true", shell=False)), ValueError)
    assert isinstance(await raised(shell(["true"])), ValueError)


async def a_child_that_ends_before_its_pipes() -> None:
    # It does not read what it is sent.
    child = await asyncio.create_subprocess_exec("true", stdin=PIPE, stdout=PIPE)
    assert await child.communicate(b"x" * 1_000_000) == (b"", None)
    assert child.returncode == 0
    child = await asyncio.create_subprocess_exec("true", stdin=PIPE)
    assert child.stdin is not None

    async def drain_until_it_fails(writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 1_000_000)
        while True:
            await writer.drain()
            await asyncio.sleep(0)

    error = await raised(drain_until_it_fails(child.stdin))
    assert isinstance(error, BrokenPipeError | ConnectionResetError), error
    child.stdin.write(b"x")
    child.stdin.writelines([b"x"])
    child.stdin.write_eof()
    child.stdin.close()
    assert await child.wait() == 0

    # A grandchild has inherited the pipe, and keeps it open.
    child = await asyncio.create_subprocess_shell(
        "sleep 1000 & echo $!; exit 5", stdin=PIPE, stdout=PIPE
    )
    assert child.stdout is not None
    grandchild = int(await child.stdout.readline())
    assert await child.wait() == 5
    reading = asyncio.create_task(child.stdout.read())
    await asyncio.sleep(0)
    assert not reading.done()
    os.kill(grandchild, signal.SIGKILL)
    assert await reading == b""


async def cancelled_while_it_runs() -> None:
    child = await asyncio.create_subprocess_exec(
        *python("print('x' * 10**6)"), stdin=PIPE, stdout=PIPE
    )
    talking = asyncio.create_task(child.communicate(b"x" * 1_000_000))
    await asyncio.sleep(0)
    talking.cancel()
    assert isinstance(await raised(talking), asyncio.CancelledError)
    out, _ = await child.communicate()
    assert out == b"x" * 10**6 + b"\n"

    child = await asyncio.create_subprocess_exec("sleep", "1000", stdin=PIPE, stdout=PIPE)
    assert isinstance(await raised(asyncio.wait_for(child.communicate(b"x"), 0.01)), TimeoutError)
    assert child.returncode is None
    child.kill()
    assert await child.wait() == -signal.SIGKILL

    # While it is being started: after so many steps of the loop, until it has been.
    for steps in range(100):
        starting = asyncio.create_task(
            asyncio.create_subprocess_exec("sleep", "1000", stdin=PIPE, stdout=PIPE)
        )
        for _ in range(steps):
            await asyncio.sleep(0)
        if not starting.cancel():
            break
        assert isinstance(await raised(starting), asyncio.CancelledError)
    child = await starting
    child.kill()
    assert await child.wait() == -signal.SIGKILL
    assert steps > 2


async def fifty_at_once() -> None:
    async def run(number: int) -> None:
        child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        data = str(number).encode() * 20_000
        assert await child.communicate(data) == (data, b"")
        assert child.returncode == 0

    await asyncio.gather(*(run(number) for number in range(50)))


async def a_protocol_of_ones_own() -> None:
    calls: list[Any] = []
    lost = asyncio.Event()

    class Recorder(asyncio.SubprocessProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            calls.append("made")

        def pipe_data_received(self, fd: int, data: bytes) -> None:
            calls.append((fd, data))

        def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
            calls.append(("closed", fd))

        def process_exited(self) -> None:
            calls.append("exited")

        def connection_lost(self, exc: Exception | None) -> None:
            calls.append("lost")
            lost.set()

    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(Recorder, "cat")
    assert isinstance(protocol, Recorder)
    assert transport.get_protocol() is protocol
    assert transport.get_pid() == transport.get_extra_info("subprocess").pid
    assert transport.get_returncode() is None
    stdin: Any = transport.get_pipe_transport(0)
    stdin.write(b"data")
    stdin.write_eof()
    await lost.wait()
    assert calls[:1] + calls[-1:] == ["made", "lost"]
    assert sorted(map(str, calls)) == sorted(
        map(
            str,
            ["made", (1, b"data"), ("closed", 0), ("closed", 1), ("closed", 2), "exited", "lost"],
        )
    )
    assert transport.get_returncode() == 0
    transport.close()


async def closed_while_children_run() -> None:
    child = await asyncio.create_subprocess_exec("sleep", "1000", stdin=PIPE, stdout=PIPE)
    assert child.stdin is not None
    child.stdin.write(b"x" * 1_000_000)  # more than its pipe holds
    await asyncio.create_subprocess_exec(
        *python("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()")
    )


async def without_pidfds() -> None:
    os.pidfd_open = refuse_pidfd
    for number in range(5):
        child = await asyncio.create_subprocess_exec(*python(f"raise SystemExit({number})"))
        assert await child.wait() == number
    children = [
        await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=DEVNULL) for _ in range(20)
    ]
    assert sum(thread.name.startswith("waitpid-") for thread in threading.enumerate()) == 20
    children[0].kill()
    assert await children[0].wait() == -signal.SIGKILL
    for child in children[1:-1]:
        await child.communicate(b"end")
    # close() of the loop ends the last one, and waits for its thread


async def from_other_threads() -> None:
    def second_loop() -> bytes:
        async def run() -> bytes:
            child = await asyncio.create_subprocess_exec("echo", "second", stdout=PIPE)
            return (await child.communicate())[0]

        with asyncio.Runner(loop_factory=type(loop)) as runner:
            return runner.run(run())

    loop = asyncio.get_running_loop()
    second = asyncio.to_thread(second_loop)
    blocking = asyncio.to_thread(
        subprocess.run, ["echo", "blocking"], capture_output=True, check=True
    )
    child = await asyncio.create_subprocess_exec("echo", "first", stdout=PIPE)
    assert (await child.communicate())[0] == b"first\n"
    assert await second == b"second\n"
    assert (await blocking).stdout == b"blocking\n"


CHILD_SCENARIOS: list[Scenario] = [
    exit_codes_and_signals,
    megabytes_both_ways,
    where_output_goes,
    how_a_child_is_started,
    what_is_refused,
    a_child_that_ends_before_its_pipes,
    cancelled_while_it_runs,
    fifty_at_once,
    a_protocol_of_ones_own,
    from_other_threads,
]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("scenario", CHILD_SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_child_processes(scenario: Scenario, loop: str, tmp_path: pathlib.Path) -> None:
    assert run_in_workers(scenario, loop, tmp_path) == []


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("scenario", [closed_while_children_run, without_pidfds])
def test_close_ends_the_children_that_still_run(
    scenario: Scenario, loop: str, tmp_path: pathlib.Path
) -> None:
    logged = run_in_workers(scenario, loop, tmp_path)
    assert len(logged) == 4
    assert all(line.startswith("WARNING killing processes that still run") for line in logged)


# ---- scenarios: connections, threads, pipes, signals


async def calls_between_threads() -> None:
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[int] = asyncio.Queue()

    def send() -> None:
        for number in range(1000):
            loop.call_soon_threadsafe(arrived.put_nowait, number)

    thread = threading.Thread(target=send)
    thread.start()
    assert [await arrived.get() for _ in range(1000)] == list(range(1000))
    thread.join()
    idents = await asyncio.gather(
        *(loop.run_in_executor(None, threading.get_ident) for _ in range(50))
    )
    assert threading.get_ident() not in idents
    ready = loop.create_future()
    loop.call_later(0.01, ready.set_result, None)
    await ready


async def accepted_connections() -> None:
    async def talk(client: socket.socket, served: socket.socket) -> None:
        served.setblocking(False)
        await accept(socket.socket(fileno=served.detach()))
        reader, writer = await asyncio.open_connection(sock=client)
        data = os.urandom(300_000)
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == data
        writer.close()
        await writer.wait_closed()

    def tcp_pair(family: socket.AddressFamily, host: str) -> tuple[socket.socket, socket.socket]:
        with socket.create_server((host, 0), family=family) as listener:
            client = socket.create_connection(listener.getsockname()[:2])
            return client, listener.accept()[0]

    pairs = [socket.socketpair() for _ in range(10)]
    pairs += [tcp_pair(socket.AF_INET, "127.0.0.1") for _ in range(20)]
    for client, _ in pairs:
        client.setblocking(False)
    await asyncio.gather(*(talk(*pair) for pair in pairs))

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()


async def tls_connections() -> None:
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    files = pathlib.Path(os.environ["SCENARIO_FILES"])
    server_context.load_cert_chain(files / "server.pem")
    client_context = ssl.create_default_context(cafile=files / "ca.pem")

    async def talk() -> None:
        client, served = socket.socketpair()
        serving = asyncio.create_task(accept(served, server_context))
        reader, writer = await asyncio.open_connection(
            sock=client, ssl=client_context, server_hostname="localhost"
        )
        await serving
        data = os.urandom(300_000)
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(talk() for _ in range(10)))


async def loops_one_after_the_other() -> None:
    def run_them() -> None:
        for _ in range(20):
            with asyncio.Runner(loop_factory=loop_class) as runner:
                runner.run(asyncio.sleep(0))
            runner.close()
            assert runner.get_loop is not None

    loop_class = type(asyncio.get_running_loop())
    await asyncio.to_thread(run_them)
    loop = loop_class()
    loop.close()
    loop.close()
    assert loop.is_closed()
    try:
        asyncio.get_running_loop().close()
    except RuntimeError:
        return
    raise AssertionError("a running loop was closed")


async def pipes_of_the_app() -> None:
    """A pipe's number is closed once: a second time, it may be another worker's connection."""

    class Pipe:
        def __init__(self, fd: int) -> None:
            self.fd = fd
            self.closed = loop.create_future()

        def fileno(self) -> int:
            return self.fd

        def close(self) -> None:
            try:
                os.close(self.fd)
            except OSError as error:  # EBADF if libuv has closed it before
                self.closed.set_exception(error)
                raise
            self.closed.set_result(None)

    loop = asyncio.get_running_loop()
    reading, writing = map(Pipe, os.pipe())
    reader = asyncio.StreamReader()
    read_transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), reading
    )
    write_transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, writing)
    assert not read_transport.get_extra_info("pipe").closed.done()
    write_transport.write(b"data")
    write_transport.close()
    assert await reader.read() == b"data"
    read_transport.close()
    await asyncio.gather(reading.closed, writing.closed)

    one, other = socket.socketpair()
    transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, one)
    transport.write(b"data")
    transport.close()
    assert await asyncio.to_thread(other.recv, 10) == b"data"
    assert await asyncio.to_thread(other.recv, 10) == b""
    other.close()

    # What cannot be polled is an error, not an abort() of the process with all its workers.
    with tempfile.TemporaryFile() as file:
        for connect in (loop.connect_read_pipe, loop.connect_write_pipe):
            error = await raised(connect(asyncio.Protocol, file))
            assert isinstance(error, ValueError), error
        assert not file.closed


async def a_device_that_cannot_be_polled() -> None:
    loop = asyncio.get_running_loop()
    with open("/dev/null", "r+b", buffering=0) as file:
        for connect in (loop.connect_read_pipe, loop.connect_write_pipe):
            assert isinstance(await raised(connect(asyncio.Protocol, file)), ValueError)


async def signals_are_refused() -> None:
    loop = asyncio.get_running_loop()
    expected = RuntimeError if isinstance(loop, asyncio.SelectorEventLoop) else ValueError
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1):
        for call, error in [
            (lambda number: loop.add_signal_handler(number, print), expected),
            (lambda number: signal.signal(number, signal.SIG_IGN), ValueError),
        ]:
            try:
                call(number)
            except error:
                continue
            raise AssertionError("a worker may not handle signals")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "scenario",
    [
        calls_between_threads,
        accepted_connections,
        loops_one_after_the_other,
        pipes_of_the_app,
        signals_are_refused,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_the_rest_of_a_loop(scenario: Scenario, loop: str, tmp_path: pathlib.Path) -> None:
    assert run_in_workers(scenario, loop, tmp_path) == []


@pytest.mark.parametrize("loop", LOOPS)
def test_tls(loop: str, tmp_path: pathlib.Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    assert run_in_workers(tls_connections, loop, tmp_path) == []


def test_uvloop_refuses_a_device_that_cannot_be_polled(tmp_path: pathlib.Path) -> None:
    # libuv would call abort().  asyncio takes it, and logs an error if it is read.
    assert run_in_workers(a_device_that_cannot_be_polled, "uvloop", tmp_path, workers=1) == []
