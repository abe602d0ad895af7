"""Mixed load for a long time, with clients that give up and a HUP every minute; sees leaks.

``python -m loadtests.soak --minutes 30`` serves an app with several workers, samples memory, open
files and threads of the whole process tree, and fails where one of them grows, where a request
that its client did not abandon fails, or where the stop is not clean.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shlex
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from loadtests import environment, processes, report, results
from loadtests.bench import raise_open_files
from loadtests.contenders import CONTENDERS, OURS, Launch
from loadtests.server import Probe, Server, ServerFailed, free_port, request, running

APP = "loadtests.apps.soak:app"
RATE = 150.0
WORKERS = 4
SAMPLE_SECONDS = 5.0
HUP_SECONDS = 60.0
REQUEST_SECONDS = 30.0
MAX_UNDER_WAY = 400

GROWTH = {
    "pss_mb": (0.10, 8.0),
    "files": (0.10, 8.0),
    "threads": (0.10, 4.0),
    "interpreters": (0.0, 0.0),
}
"""How much more the last quarter may have than the second: a share of it, and so much besides."""

BODY = b"x" * 300_000


@dataclass(slots=True)
class Soak:
    """What was seen: a series of samples, counts of what clients did and met, all `processes`."""

    minutes: float
    command: str
    samples: list[dict[str, float]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    hups: list[float] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)


def low_points(samples: Sequence[dict[str, float]], key: str) -> list[float]:
    """Return the lowest value of each time between two HUPs.

    While one process takes over from another there are two, so that highs say nothing.
    """
    windows: dict[int, list[float]] = {}
    for sample in samples:
        windows.setdefault(int(sample["at"] // HUP_SECONDS), []).append(sample[key])
    return [min(values) for values in windows.values()]


def grown(lows: Sequence[float], share: float, besides: float) -> tuple[float, float] | None:
    """Return medians of the second and of the last quarter where the last is too high, or None.

    The first quarter is left out: caches fill in it.
    """
    quarter = len(lows) // 4
    if quarter == 0:
        return None
    early = statistics.median(lows[quarter : 2 * quarter])
    late = statistics.median(lows[-quarter:])
    return (early, late) if late > early * (1 + share) + besides else None


async def _client(port: int, soak: Soak, chance: random.Random) -> None:
    """Make one request of a random kind, as a client that may give up at any moment."""
    kind = chance.choices(
        ("fast", "large", "echo", "slow", "abandon", "cut upload", "cut download"),
        (50, 10, 10, 8, 8, 7, 7),
    )[0]
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            await _do(kind, port, chance)
    except OSError, EOFError, TimeoutError, ValueError:
        soak.failures[kind] += 1
    else:
        soak.done[kind] += 1


async def _do(kind: str, port: int, chance: random.Random) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        path = {"slow": "/slow", "abandon": "/slow", "large": "/large", "cut download": "/large"}
        method, length = ("POST", len(BODY)) if kind in {"echo", "cut upload"} else ("GET", 0)
        head = (
            f"{method} {path.get(kind, '/')} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Length: {length}\r\n\r\n"
        )
        writer.write(head.encode())
        match kind:
            case "abandon":
                await asyncio.sleep(chance.random() * 0.2)
                return
            case "cut upload":
                writer.write(BODY[: chance.randrange(length)])
                return
            case "cut download":
                await reader.readexactly(chance.randrange(1, 50_000))
                return
            case "echo":
                writer.write(BODY)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        if not answer.startswith("http/1.1 200 "):
            raise ValueError(answer)
        size = int(answer.partition("content-length:")[2].split()[0])
        await reader.readexactly(size)
    finally:
        if kind in {"abandon", "cut upload", "cut download"}:
            writer.transport.abort()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def take_sample(server: Server, at: float, soak: Soak) -> dict[str, float]:
    """Return memory, open files and threads of the whole tree, and interpreters of one process.

    Raises `OSError` where the server does not answer how many those are.
    """
    files = threads = 0
    for member in processes.family(processes.read_stats(), server.pid):
        if member not in soak.processes:
            soak.processes.append(member)
        with contextlib.suppress(OSError):  # it ended while we looked
            files += len(os.listdir(f"/proc/{member}/fd"))
            threads += len(os.listdir(f"/proc/{member}/task"))
    _, body = request(server.port, Probe("/interpreters"))
    return {
        "at": at,
        "pss_mb": processes.pss_bytes(server.pid) / 1e6,
        "files": float(files),
        "threads": float(threads),
        "interpreters": float(body),
    }


async def _run(server: Server, soak: Soak) -> None:
    chance = random.Random(1)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    end = begin + soak.minutes * 60
    next_sample, next_hup = begin, begin + HUP_SECONDS
    under_way: set[asyncio.Task[None]] = set()
    while (now := loop.time()) < end:
        if now >= next_sample:
            # In a thread, so that clients do not wait for it.
            soak.samples.append(await asyncio.to_thread(take_sample, server, now - begin, soak))
            next_sample += SAMPLE_SECONDS
            _say(soak, now - begin)
        if now >= next_hup:
            os.kill(server.pid, signal.SIGHUP)
            soak.hups.append(now - begin)
            next_hup += HUP_SECONDS
        if len(under_way) < MAX_UNDER_WAY:
            task = asyncio.create_task(_client(server.port, soak, chance))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.sleep(chance.expovariate(RATE))
    await asyncio.gather(*under_way)


def _say(soak: Soak, at: float) -> None:
    last = soak.samples[-1]
    text = (
        f"{at / 60:5.1f} of {soak.minutes:g} min, {sum(soak.done.values())} requests, "
        f"{sum(soak.failures.values())} failed, PSS {last['pss_mb']:.0f} MB, "
        f"{last['files']:.0f} files, {last['threads']:.0f} threads"
    )
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
    elif len(soak.samples) % 12 == 1:
        print(text, file=sys.stderr, flush=True)


def judge(soak: Soak) -> list[str]:
    """Return what speaks against the server, a line each."""
    problems = [f"{count} of kind {kind} failed" for kind, count in soak.failures.items()]
    for key, (share, besides) in GROWTH.items():
        found = grown(low_points(soak.samples, key), share, besides)
        if found:
            problems.append(f"{key} grew from {found[0]:.1f} to {found[1]:.1f}")
    # The first one, and another one for each HUP; the last may have come too late to be seen.
    if len(soak.processes) < len(soak.hups):
        problems.append(f"{len(soak.hups)} HUPs, but only {len(soak.processes)} processes")
    return problems


def main() -> int:
    """Run the command line; 1 where something grew or failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    raise_open_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        programs = environment.make_ready()
    except environment.SetUpFailed as error:
        print(error, file=sys.stderr)
        return 1
    port = free_port()
    argv = CONTENDERS[OURS].command(programs, Launch(APP, "asgi", port, WORKERS))
    soak = Soak(options.minutes, shlex.join(argv))
    try:
        with running(argv, port, Probe(), environment.ROOT) as server:
            asyncio.run(_run(server, soak))
    except (ServerFailed, OSError) as error:
        print(error, file=sys.stderr)
        soak.failures["server"] += 1
    return _finish(soak, programs)


def _finish(soak: Soak, programs: Path) -> int:
    output = environment.CACHE / "results" / time.strftime("soak-%Y%m%d-%H%M%S.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    found = {name.name: getattr(soak, name.name) for name in fields(soak)}
    found["machine"] = results.describe_machine()
    output.write_text(json.dumps(found, indent=1) + "\n")
    try:
        charts = report.draw(programs, output, output.with_suffix(""), "soak")
    except report.DrawingFailed as error:
        print(f"no chart: {error}", file=sys.stderr)
        charts = []
    print(f"\n{sum(soak.done.values())} requests, {len(soak.hups)} HUPs in {soak.minutes:g} min")
    print(f"samples  {output}", *(f"chart    {chart}" for chart in charts), sep="\n")
    problems = judge(soak)
    print(*problems, sep="\n") if problems else print("nothing grew, nothing failed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
