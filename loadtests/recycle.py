"""Recycle the workers of a server many times under load; see that no request fails.

``python -m loadtests.recycle 1000 examples.fastapi_app.main:app --workers 2``
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from loadtests.load import Load

START_SECONDS = 60.0
STOP_SECONDS = 60.0
RECYCLE_SECONDS = 60.0
"""How long a single recycle may take."""

LIFETIME = "100ms"
"""Of each worker, so that there is always one to be recycled."""


@dataclass(frozen=True)
class Size:
    """What a process takes up."""

    fds: int
    threads: int
    rss: int

    @classmethod
    def of(cls, pid: int) -> Size:
        """Look it up in ``/proc``."""
        folder = Path(f"/proc/{pid}")
        pages = int((folder / "statm").read_text().split()[1])
        return cls(
            fds=len(list((folder / "fd").iterdir())),
            threads=len(list((folder / "task").iterdir())),
            rss=pages * os.sysconf("SC_PAGE_SIZE"),
        )

    def __str__(self) -> str:
        return f"{self.rss / 2**20:.0f} MiB, {self.threads} threads, {self.fds} descriptors"


def serving_pid(supervisor: int) -> int:
    """Return the process that runs the workers, the child of the one that was started."""
    (pid,) = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return int(pid)


def recycled(log: IO[bytes]) -> int:
    """Count the recycles in the log of a server."""
    return os.pread(log.fileno(), 2**28, 0).count(b" has taken the place of ")


def address_of(log: IO[bytes], server: subprocess.Popen[bytes]) -> tuple[str, int]:
    """Wait for the banner and return the host and the port that it names."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        text = os.pread(log.fileno(), 2**20, 0).decode(errors="replace")
        if "\n  pid " in text:
            url = text.partition("\n  listening  http://")[2].partition("\n")[0]
            host, _, port = url.rpartition(":")
            return host, int(port)
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the server did not start\n{text}")
        time.sleep(0.02)


def wait_for(count: int, log: IO[bytes], server: subprocess.Popen[bytes]) -> None:
    """Wait until there have been `count` recycles."""
    done, since = -1, time.monotonic()
    while (now := recycled(log)) < count:
        if now > done:
            done, since = now, time.monotonic()
            size = Size.of(serving_pid(server.pid))
            print(f"\r{done}/{count}: {size}   ", end="", file=sys.stderr, flush=True)
        if server.poll() is not None or time.monotonic() > since + RECYCLE_SECONDS:
            raise SystemExit(f"no recycle after {done}\n{log.name}")
        time.sleep(0.2)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("count", type=int)
    parser.add_argument("app")
    parser.add_argument("--path", default="/", help="what to request [/]")
    parser.add_argument("--clients", type=int, default=8, help="how many at a time [8]")
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between requests [0.01]")
    options, arguments = parser.parse_known_args()
    with (
        tempfile.NamedTemporaryFile(prefix="recycle-", suffix=".log") as log,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "subserve", options.app, "--bind", "127.0.0.1:0"),
                *("--max-worker-lifetime", LIFETIME, *arguments),
            ],
            stderr=log,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        ) as server,
    ):
        try:
            address = address_of(log, server)
            with Load(address, options.path, clients=options.clients, pause=options.pause) as load:
                wait_for(min(10, options.count), log, server)
                early = Size.of(serving_pid(server.pid))
                wait_for(options.count, log, server)
                late = Size.of(serving_pid(server.pid))
            server.send_signal(signal.SIGTERM)
            code = server.wait(STOP_SECONDS)
        finally:
            server.kill()
        text = os.pread(log.fileno(), 2**28, 0).decode(errors="replace")
    tally = load.tally
    print(
        f"\n{options.count} recycles, {tally.answered} requests answered, "
        f"{len(tally.failures)} failed, {tally.retried} sent twice, "
        f"the slowest took {tally.slowest:.2f} s; exit code {code}\n"
        f"after 10 recycles: {early}\nat the end:       {late}"
    )
    for failure in tally.failures[:10]:
        print(f"  {failure}")
    for line in text.splitlines():
        if " warning " in line or " error " in line:
            print(line)
    return 1 if tally.failures or code else 0


if __name__ == "__main__":
    sys.exit(main())
