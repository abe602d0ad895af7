"""Runs a scenario in several workers at once, in a process of its own: a crash fails one test only.

A *scenario* is a function of this repository's tests.  Its source is sent to the process, where
each worker, a sub-interpreter with its own GIL, first does what the server's bootstrap does
(`isolate` or `native`) and then calls it.  So it must import what it needs, and return plain data.
"""

import inspect
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PROCESS_TIMEOUT = 100.0
"""Seconds for a process of a test, which takes under ten unless something hangs."""

type Json = typing.Any


@dataclass(frozen=True)
class Outcome:
    """What came of it: by worker, what the scenario returned in its last round."""

    results: list[Json]
    stderr: str


def meet() -> None:
    """Wait, in a scenario, until all workers have come here."""
    raise AssertionError("it is another function, of the same name, that workers call")


def host(
    scenario: str,
    mode: str,
    scratch: str,
    results: str,
    workers: int,
    rounds: int,
    arguments: dict[str, object],
) -> None:
    """Run in the process of the test; its source is sent there."""
    import _interpreters
    import json
    import os
    import sys
    import threading

    from subserve.interpreter import FIRST_IMPORTS

    prologue = f"""
import sys
sys.path[:] = {sys.path!r}
from subserve import extensions
def meet():
    import os
    os.write(ARRIVED, b".")
    assert os.read(GO, 1), "another worker failed"
extensions.{f"isolate({scratch!r})" if mode == "isolate" else "native()"}
"""
    call = f"""
import json, threading
_result = SCENARIO(WORKER, **json.loads(ARGUMENTS))
for _thread in threading.enumerate():
    if _thread not in (threading.current_thread(), threading.main_thread()):
        _thread.join(20)
        assert not _thread.is_alive(), f"{{_thread}} outlives its worker"
with open({results!r} + f"/{{WORKER}}", "w") as _file:
    json.dump(_result, _file)
"""
    name = scenario.partition("(")[0].removeprefix("def ")
    code = prologue + scenario + call.replace("SCENARIO", name)
    config = _interpreters.new_config("isolated", allow_daemon_threads=True)
    one_at_a_time = threading.Lock()
    start = threading.Barrier(workers)
    failures: list[str] = []

    def work(worker: int) -> None:
        for _ in range(rounds):
            with one_at_a_time:
                interpreter = _interpreters.create(config)
                # As `subserve.interpreter` does, and for its reasons.
                _interpreters.exec(interpreter, FIRST_IMPORTS)
            start.wait(30)
            shared = {
                "WORKER": worker,
                "ARGUMENTS": json.dumps(arguments),
                "ARRIVED": workers_end,
                "GO": gates[worker][0],
            }
            failure = _interpreters.exec(interpreter, code, shared)
            if failure is not None:
                failures.append(f"worker {worker}: {failure.errdisplay}")
                start.abort()
                os.write(workers_end, b"x")
            with one_at_a_time:
                _interpreters.destroy(interpreter)
            if failure is not None:
                return

    arrivals, workers_end = os.pipe()
    gates = [os.pipe() for _ in range(workers)]

    def hold_meetings() -> None:
        arrived = b""
        while b"x" not in arrived and (more := os.read(arrivals, 100)):
            arrived += more
            if len(arrived) == workers:
                for _, gate in gates:
                    os.write(gate, b".")
                arrived = b""
        for _, gate in gates:
            os.close(gate)

    meetings = threading.Thread(target=hold_meetings)
    meetings.start()
    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(workers_end)
    meetings.join()
    if failures:
        sys.exit("\n".join(failures))
    # Notes that workers leave each other may stay; copies and links may not.
    left = [name for name in os.listdir(scratch) if name not in ("extensions.lock", "own-gil")]
    if left:
        sys.exit(f"left in the scratch folder: {left}")


def run(
    scenario: Callable[..., Json],
    *,
    workers: int = 4,
    rounds: int = 1,
    mode: str = "isolate",
    sys_path: Sequence[pathlib.Path] = (),
    scratch: pathlib.Path | None = None,
    launcher: Sequence[str] = (),
    **arguments: object,
) -> Outcome:
    """Run a scenario in `workers` interpreters at once, `rounds` times; fail if any of them does.

    `sys_path` is put in front of `sys.path`, `launcher` in front of the command.
    """
    process = start(
        scenario,
        workers=workers,
        rounds=rounds,
        mode=mode,
        sys_path=sys_path,
        scratch=scratch,
        launcher=launcher,
        **arguments,
    )
    assert process.returncode == 0, f"status {process.returncode}\n{process.stderr}"
    return Outcome(json.loads(process.stdout), process.stderr)


def start(
    scenario: Callable[..., Json],
    *,
    workers: int = 4,
    rounds: int = 1,
    mode: str = "isolate",
    sys_path: Sequence[pathlib.Path] = (),
    scratch: pathlib.Path | None = None,
    launcher: Sequence[str] = (),
    **arguments: object,
) -> subprocess.CompletedProcess[str]:
    """Do what `run` does, but let the caller judge; stdout holds the results, as JSON."""
    with tempfile.TemporaryDirectory(prefix="subserve-test-") as folder:
        results = pathlib.Path(folder, "results")
        results.mkdir()
        if scratch is None:
            scratch = pathlib.Path(folder, "scratch")
            scratch.mkdir(mode=0o700)
        source = inspect.getsource(scenario)
        call = (source, mode, str(scratch), str(results), workers, rounds, arguments)
        program = (
            f"import sys\nsys.path[:] = {[*map(str, sys_path), *sys.path]!r}\n"
            + textwrap.dedent(inspect.getsource(host))
            + f"host(*{call!r})\n"
        )
        process = subprocess.run(
            [*launcher, sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=PROCESS_TIMEOUT,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            check=False,
        )
        found = [json.loads(p.read_text()) for p in sorted(results.iterdir())]
        return subprocess.CompletedProcess(
            process.args, process.returncode, json.dumps(found), process.stdout + process.stderr
        )
