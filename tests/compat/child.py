"""One distribution in four workers of this process: ``child.py JOB``; it may well crash.

First two workers one after the other, so that it can be told what one adds, then two more at once,
then all of them at once, several times; they are closed, and all of that comes again twice, all at
once from the start.  Each line of the file ``results`` is what came next: a step or a result.
"""

import json
import os
import sys
import threading
from importlib import metadata
from typing import Any

WORKERS = 4
ROUNDS = 3
REPEATS = 3

_PROLOGUE = """
import sys
sys.path[:] = PATH
from subserve import extensions
extensions.isolate(SCRATCH)
import json, runpy
_work = runpy.run_path(FILE)[FUNCTION]
"""
_LOAD = """
_first = _work()
assert _first is not None, "it did not come to its end"
with open(RESULT, "w") as _file:
    json.dump(_first, _file)
"""
_AGAIN = """
with open(RESULT) as _file:
    _first = json.load(_file)
for _ in range(REPEATS):
    _now = json.loads(json.dumps(_work()))
    assert _now == _first, f"{_now} after {_first}"
"""
_REPORT = """
from dataclasses import asdict
with open(RESULT, "w") as _file:
    json.dump([asdict(_module) for _module in extensions.report()], _file)
"""
_END = """
import time
from subserve.worker.threads import wind_down
wind_down(time.monotonic() + 15)
"""


class Run:
    """The rounds of one distribution; `job` is what the runner gave us."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._out = open(job["results"], "a", buffering=1)  # noqa: SIM115  until the end
        self.left_threads = False

    def say(self, **values: object) -> None:
        """Write a line."""
        self._out.write(json.dumps(values) + "\n")

    def run(self) -> None:
        """Do all rounds."""
        from subserve.memory import anonymous_bytes

        after: list[int] = []
        for number in range(1, ROUNDS + 1):
            self._round(number)
            if self.left_threads:
                return
            after.append(anonymous_bytes() or 0)
        self.say(left=max(0, after[-1] - after[0]) // WORKERS // (ROUNDS - 1))

    def _round(self, number: int) -> None:
        workers = [_Worker(self._job, f"{index}.{number}") for index in range(WORKERS)]
        groups = [[0], [1], [2, 3]] if number == 1 else [[0, 1, 2, 3]]
        for group in groups:
            names = ", ".join(workers[index].name for index in group)
            self.say(step=f"loading it into worker {names}")
            self._all([workers[index].load for index in group])
            if group == [1]:
                self.say(memory=workers[1].memory, modules=workers[1].modules())
        self.say(step=f"using it in {WORKERS} workers at once, round {number}")
        self._all([worker.again for worker in workers])
        results = {worker.result() for worker in workers}
        assert len(results) == 1, f"workers differ: {results}"
        self.say(step=f"closing the workers of round {number}")
        self._all([worker.close for worker in workers])
        left = {worker.left for worker in workers if worker.left}
        if left:
            self.left_threads = True
            self.say(threads=", ".join(sorted(left)))

    @staticmethod
    def _all(calls: list[Any]) -> None:
        """Make calls at once, and raise what the first one of them raised."""
        errors: list[BaseException] = []

        def make(call: Any) -> None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001  raised below
                errors.append(error)

        threads = [threading.Thread(target=make, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


class _Worker:
    """A worker with a thread of its own, to which the methods hand over what is to do."""

    def __init__(self, job: dict[str, Any], name: str) -> None:
        from concurrent.futures import ThreadPoolExecutor

        from subserve.interpreter import Interpreter

        self.name = name
        self.memory = 0
        self.left = ""
        self._job = job
        self._result = os.path.join(job["folder"], name)
        # One thread, the same for all that the interpreter does, as in the server.
        self._thread = ThreadPoolExecutor(1)
        self._interpreter = self._thread.submit(Interpreter).result()

    def load(self) -> None:
        from subserve.memory import anonymous_bytes

        before = anonymous_bytes() or 0
        job = self._job
        names = f"PATH, SCRATCH, FILE = {job['path']!r}, {job['scratch']!r}, {job['file']!r}\n"
        names += f"FUNCTION, RESULT, REPEATS = {job['function']!r}, {self._result!r}, {REPEATS}\n"
        self._do(names + _PROLOGUE + _LOAD)
        self.memory = max(0, (anonymous_bytes() or 0) - before)

    def again(self) -> None:
        self._do(_AGAIN)

    def result(self) -> str:
        with open(self._result, encoding="utf-8") as file:
            return file.read()

    def modules(self) -> list[dict[str, Any]]:
        before = self.result()
        self._do(_REPORT)
        found: list[dict[str, Any]] = json.loads(self.result())
        with open(self._result, "w", encoding="utf-8") as file:
            file.write(before)
        return found

    def close(self) -> None:
        self._do(_END)
        self.left = self._thread.submit(self._interpreter.live_threads).result() or ""
        if not self.left:
            self._thread.submit(self._interpreter.close).result()
        self._thread.shutdown()

    def _do(self, code: str) -> None:
        self._thread.submit(self._interpreter.run, code).result()


def main() -> int:
    """Run the job; 1 if it raised, which is told as well."""
    job = json.loads(sys.argv[1])
    sys.path[:0] = [job["root"]]
    job["path"] = sys.path
    run = Run(job)
    try:
        run.say(version=metadata.version(job["distribution"]))
        run.run()
    except BaseException as error:  # noqa: BLE001  told
        run.say(error=f"{error}")
        sys.stdout.flush()
        os._exit(1)
    if run.left_threads:
        os._exit(0)
    run.say(step="ending the process")
    return 0


if __name__ == "__main__":
    sys.exit(main())
