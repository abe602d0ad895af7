"""Compare subserve with its peers under load: ``python -m loadtests``.  See loadtests/README.md."""

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from loadtests import environment, report, results, table
from loadtests.bench import Bench, choose_cores, raise_open_files
from loadtests.contenders import CONTENDERS
from loadtests.measure import contenders_of, named_by_goals, take
from loadtests.progress import Progress
from loadtests.registry import GROUPS, ROWS

EXTRAS = ("subserve+uvloop", "uvicorn+zig")
"""Contenders that take part only where ``--peers`` names them."""

PROGRAMS = ("wrk", "taskset")

QUICK_SECONDS = 1.0
QUICK_ROUNDS = 1


def _rows(text: str) -> list[str]:
    """Read names of rows and of groups of rows."""
    names = _names(text, [*GROUPS, *ROWS])
    return [row.name for row in ROWS.values() if row.name in names or row.group in names]


def _peers(text: str) -> list[str]:
    return _names(text, CONTENDERS)


def _names(text: str, known: Collection[str]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"no {name}; there are {', '.join(known)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--only", type=_rows, metavar="ROW,...", help="measure these rows, or groups [all]")
    add("--peers", type=_peers, metavar="NAME,...", help="measure these contenders")
    add("--seconds", type=float, help="how long each sample is measured [4]")
    add("--rounds", type=int, help="how often each contender is measured [5]")
    add("--attempts", type=int, default=3, help="how often to take what others disturb [3]")
    add("--quick", action="store_true", help="one round of 1 s, named peers only")
    add("--resume", type=Path, metavar="FILE", help="go on with a run that was interrupted")
    add("--output", type=Path, metavar="FILE", help="where the samples go [.cache/loadtests/...]")
    add("--report", type=Path, metavar="FILE", help="only write the report of a run again")
    add("--lock", type=Path, metavar="FILE", help="hold this lock, flock(1), during each sample")
    add("--list", action="store_true", help="list rows and contenders")
    return parser


def main() -> int:
    """Run the command line; 1 where something is missing or a sample had errors."""
    options = _parser().parse_args()
    if options.list:
        for row in ROWS.values():
            who = ", ".join(contenders_of(row))
            print(f"{row.group:<11}  {row.name:<18}  {row.title}\n{'':33}{who}")
        return 0
    for program in PROGRAMS:
        if shutil.which(program) is None:
            print(f"{program} is not on PATH: install it", file=sys.stderr)
            return 1
    raise_open_files()
    # So that servers are stopped when we are, and what was measured until then is shown.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        programs = environment.make_ready()
        cores = choose_cores(sorted(os.sched_getaffinity(0)))
        old = options.report or options.resume
        run = results.load(old) if old else _new_run(options, programs)
    except (environment.SetUpFailed, results.NotARun, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    output = options.output or old or _output()
    try:
        if not options.report:
            _measure(
                run,
                Bench(programs, cores, run.options["seconds"], options.attempts),
                output,
                options.lock,
            )
    except KeyboardInterrupt:
        print(f"interrupted; go on with --resume {output}", file=sys.stderr)
    paint = table.colour if sys.stdout.isatty() else table.plain
    print(table.report(run, paint))
    print(f"\nsamples  {output}")
    failed = any(sample.errors for sample in run.samples)
    return 0 if _write_report(run, programs, output) and not failed else 1


def _write_report(run: results.Run, programs: Path, output: Path) -> bool:
    """Write charts and page beside the samples; say where, or why not."""
    run.save(output)
    try:
        charts = report.draw(programs, output, output.with_suffix(""))
    except report.DrawingFailed as error:
        print(f"no charts: {error}", file=sys.stderr)
        return False
    page = output.with_suffix(".html")
    page.write_text(report.html(run, charts))
    print(f"charts   {output.with_suffix('')}/\nreport   {page}")
    return True


def _new_run(options: argparse.Namespace, programs: Path) -> results.Run:
    quick = options.quick
    peers = [name for name in CONTENDERS if name not in EXTRAS]
    seconds = options.seconds or (QUICK_SECONDS if quick else 4.0)
    return results.Run(
        machine=results.describe_machine(),
        versions={
            "subserve": results.describe_checkout(),
            **environment.versions(programs),
        },
        options={
            "rows": options.only or [row.name for row in ROWS.values() if row.quick or not quick],
            "peers": options.peers or ([] if quick else peers),
            "seconds": seconds,
            "rounds": options.rounds or (QUICK_ROUNDS if quick else 5),
            "command": ["python", "-m", "loadtests", *sys.argv[1:]],
        },
    )


def _output() -> Path:
    return environment.CACHE / "results" / time.strftime("%Y%m%d-%H%M%S.json")


def _plan(run: results.Run) -> Iterator[tuple[str, str, int]]:
    """Yield what has to be measured: rows one by one, and in each the contenders in turn.

    Without peers chosen, as in a quick run, those take part that the goals name.

    Each round begins with another contender, so that none is always the one after the same other.
    """
    for name in run.options["rows"]:
        peers = run.options["peers"] or named_by_goals(ROWS[name])
        able = contenders_of(ROWS[name])
        if set(able) <= CONTENDERS.keys():  # which kinds of workers are not
            able = [peer for peer in able if peer in peers]
        for turn in range(1, min(run.options["rounds"], ROWS[name].max_rounds) + 1):
            first = (turn - 1) % max(1, len(able))
            for contender in able[first:] + able[:first]:
                yield name, contender, turn


def _measure(run: results.Run, bench: Bench, output: Path, lock: Path | None) -> None:
    wanted = results.missing(_plan(run), run)
    progress = Progress(len(wanted))
    try:
        for name, contender, turn in wanted:
            progress.begin(name, contender, turn, run.options["rounds"])
            with _alone(lock):
                run.samples.append(take(ROWS[name], contender, turn, bench))
            run.save(output)
            progress.end()
    finally:
        progress.close()


@contextlib.contextmanager
def _alone(lock: Path | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
