"""Create, load, use and close workers over and over: ``python -m tests.interpreters.stress``.

Four workers with own GILs load pydantic, NumPy, lxml, SQLAlchemy and cryptography, use them from
several threads each, and are closed; 200 times, in processes of their own, so that a crash is told.
A process does a few rounds only: workers with these extensions leave some 50 MiB behind each, see
docs/extensions.md.  ``--debug`` has CPython check its memory (PYTHONMALLOC=debug, -X dev),
``--valgrind`` has Valgrind do so.  Returns 0 if all went well.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]

_WORKER = """
import sys
sys.path[:] = {path!r}
from subserve import extensions
extensions.isolate({scratch!r})
import datetime, threading, time
import cryptography.fernet, numpy as np, pydantic, sqlalchemy
from cryptography.hazmat.primitives.asymmetric import ec
from lxml import etree
from sqlalchemy import orm

class Row(pydantic.BaseModel):
    n: int
    when: datetime.datetime
    tags: dict[str, list[float]]

Base = orm.declarative_base()
class Book(Base):
    __tablename__ = "book"
    id = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)
    title = sqlalchemy.Column(sqlalchemy.String)

failures = []
def use(number):
    try:
        for turn in range({turns}):
            row = Row.model_validate_json(
                '{{"n": %d, "when": "2026-01-02T03:04:05", "tags": {{"a": [1, 2.5]}}}}' % turn)
            assert row.model_dump()["n"] == turn
            try:
                Row.model_validate({{"n": "x"}})
            except pydantic.ValidationError as error:
                assert error.error_count() == 3
            square = np.arange(900.0).reshape(30, 30) + np.eye(30) * 50
            assert np.allclose(square @ np.linalg.inv(square), np.eye(30), atol=1e-6)
            tree = etree.fromstring("<a>" + "<b n='2'/>" * 50 + "</a>")
            assert tree.xpath("sum(//@n)") == 100.0
            engine = sqlalchemy.create_engine("sqlite://")
            Base.metadata.create_all(engine)
            with orm.Session(engine) as session:
                session.add_all([Book(title=str(n)) for n in range(10)])
                session.commit()
                assert session.query(Book).count() == 10
            engine.dispose()
            box = cryptography.fernet.Fernet(cryptography.fernet.Fernet.generate_key())
            assert box.decrypt(box.encrypt(b"text")) == b"text"
            ec.generate_private_key(ec.SECP256R1())
    except BaseException as error:
        failures.append(error)

threads = [threading.Thread(target=use, args=(number,)) for number in range({threads})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if failures:
    raise failures[0]
from subserve.worker.threads import wind_down
wind_down(time.monotonic() + 30)
"""


def host(rounds: int, workers: int, code: str) -> None:
    """Do all rounds, in the process that may crash."""
    import threading

    from subserve.interpreter import Interpreter
    from subserve.memory import in_mib, resident_bytes

    failures: list[str] = []

    def live() -> None:
        try:
            interpreter = Interpreter()
            interpreter.run(code)
            left = interpreter.live_threads()
            if left is not None:
                failures.append(f"threads left: {left}")
                return
            interpreter.close()
        except Exception as error:  # noqa: BLE001  told below
            failures.append(str(error))

    for _ in range(rounds):
        threads = [threading.Thread(target=live, name=f"worker-{n}") for n in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            sys.exit("\n".join(failures))
    print(f"{in_mib(resident_bytes() or 0)} resident", flush=True)


def main() -> int:
    """Run the stress, a few rounds in a process; return 0, or the first exit code that is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--rounds-per-process", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=3, help="in each worker")
    parser.add_argument("--turns", type=int, default=3, help="of each thread")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for a process")
    parser.add_argument("--debug", action="store_true", help="PYTHONMALLOC=debug and -X dev")
    parser.add_argument("--valgrind", action="store_true", help="takes minutes for a round")
    options = parser.parse_args()
    launcher = [sys.executable, "-X", "faulthandler"]
    environ = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    if options.debug:
        launcher += ["-X", "dev", "-W", "ignore"]
        environ["PYTHONMALLOC"] = "debug"
    if options.valgrind:
        program = shutil.which("valgrind")
        if program is None:
            sys.exit("valgrind is not on PATH")
        environ["PYTHONMALLOC"] = "malloc"
        launcher = [program, "--error-exitcode=9", "--num-callers=30", *launcher]
    left = options.rounds
    while left > 0:
        rounds = min(left, options.rounds_per_process)
        left -= rounds
        code = _run(options, rounds, launcher, environ)
        print(f"{rounds} rounds: exit code {code}; {left} left", flush=True)
        if code != 0:
            return code
    return 0


def _run(
    options: argparse.Namespace, rounds: int, launcher: list[str], environ: dict[str, str]
) -> int:
    """Run a process with some of the rounds; return its exit code, 1 for a signal."""
    with tempfile.TemporaryDirectory(prefix="subserve-stress-") as scratch:
        path = [str(ROOT), *sys.path]
        code = _WORKER.format(
            path=path, scratch=scratch, turns=options.turns, threads=options.threads
        )
        call = (rounds, options.workers, code)
        program_text = textwrap.dedent(f"""
            import sys
            sys.path[:] = {path!r}
            from tests.interpreters.stress import host
            host(*{call!r})
        """)
        done = subprocess.run(
            [*launcher, "-c", program_text],
            env=environ,
            timeout=options.timeout,
            check=False,
        )
    return done.returncode if done.returncode >= 0 else 1


if __name__ == "__main__":
    sys.exit(main())
