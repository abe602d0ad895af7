"""Hold workers of one kind in memory: threads, sub-interpreters, spawned or forked processes.

``python -m loadtests.economics_host KIND LOAD COUNT`` starts COUNT workers, each of which imports
what LOAD names, prints one line of JSON as soon as all are ready, and then, for each line on the
standard input, lets all of them work at once and prints the seconds that took.  It ends when the
input ends, at once and without cleaning up.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

LOADS = {
    "asyncio": "import asyncio, ctypes, json, ssl",
    "fastapi": "import loadtests.apps.fastapi_json",
    "django": "import loadtests.apps.django_admin",
    "sqlalchemy": "import sqlalchemy.ext.asyncio, aiosqlite",
    "numpy-pandas": "import numpy, pandas",
}

WORK = """
def work():
    value = 1
    for _ in range(2_000_000):
        value = value * 1_103_515_245 + 12_345 & 0x7FFFFFFF
"""

READY_SECONDS = 120.0

type Workers = list[tuple[int, int]]
"""For each worker a descriptor to wake it through and one on which it answers, a byte each time."""


def serve(wake: int, answer: int) -> None:
    """Be a worker: say ready, then work whenever woken, until the descriptor is closed."""
    namespace: dict[str, Callable[[], None]] = {}
    exec(WORK, namespace)
    os.write(answer, b"r")
    while os.read(wake, 1):
        namespace["work"]()
        os.write(answer, b"d")


def _pipes(count: int) -> tuple[Workers, Workers]:
    """Return what the host keeps, and what the workers get."""
    ours, theirs = [], []
    for _ in range(count):
        (wake_there, wake_here), (answer_here, answer_there) = os.pipe(), os.pipe()
        ours.append((wake_here, answer_here))
        theirs.append((wake_there, answer_there))
    return ours, theirs


def threads(load: str, theirs: Workers) -> None:
    """Start threads of this interpreter; what they import they share."""
    exec(LOADS[load], {})
    for pipes in theirs:
        threading.Thread(target=serve, args=pipes, daemon=True).start()


def interpreters(load: str, theirs: Workers) -> None:
    """Start sub-interpreters as subserve does: own GIL, private copies of extension modules."""
    from subserve.interpreter import Interpreter

    scratch = tempfile.mkdtemp()
    path = json.dumps(sys.path)

    def host(wake: int, answer: int) -> None:
        interpreter = Interpreter()
        interpreter.run(f"import json, sys; sys.path[:] = json.loads({path!r})")
        interpreter.run(f"from subserve import extensions; extensions.isolate({scratch!r})")
        interpreter.run(LOADS[load])
        interpreter.run(f"from {__package__}.economics_host import serve; serve({wake}, {answer})")

    for pipes in theirs:
        threading.Thread(target=host, args=pipes, daemon=True).start()


def spawned(load: str, theirs: Workers) -> None:
    """Start processes from nothing."""
    for wake, answer in theirs:
        code = f"{LOADS[load]}\nfrom loadtests.economics_host import serve; serve({wake}, {answer})"
        argv = [sys.executable, "-c", code]
        subprocess.Popen(argv, pass_fds=(wake, answer))  # ends with its pipe
        os.close(wake)
        os.close(answer)


def forked(load: str, theirs: Workers) -> None:
    """Import first, fork then: what is not written to stays shared."""
    import gc

    exec(LOADS[load], {})
    gc.freeze()
    for wake, answer in theirs:
        if os.fork() == 0:
            # Only this worker's ends: the host's have to be the last that are open.
            for descriptor in range(3, 1024):
                if descriptor not in {wake, answer}:
                    try:
                        os.close(descriptor)
                    except OSError:
                        continue
            serve(wake, answer)
            os._exit(0)
    for pair in theirs:
        for descriptor in pair:
            os.close(descriptor)


KINDS: dict[str, Callable[[str, Workers], None]] = {
    "threads": threads,
    "interpreters": interpreters,
    "spawned": spawned,
    "forked": forked,
}


def _answers(ours: Workers) -> None:
    """Wait for an answer of each worker; raises `TimeoutError`."""
    waiting = {answer for _, answer in ours}
    deadline = time.monotonic() + READY_SECONDS
    while waiting:
        ready, _, _ = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))
        if not ready or not all(os.read(descriptor, 1) for descriptor in ready):
            raise TimeoutError("a worker does not answer")
        waiting.difference_update(ready)


def main() -> None:
    """Run the command line."""
    kind, load, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    begin = time.perf_counter()
    ours, theirs = _pipes(count)
    KINDS[kind](load, theirs)
    _answers(ours)
    print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        for wake, _ in ours:
            os.write(wake, b"w")
        _answers(ours)
        print(time.perf_counter() - begin, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
