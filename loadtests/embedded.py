"""Start and stop a server within one process many times; see that all it took is given back.

``python -m loadtests.embedded 200 examples.fastapi_app.main:app --workers 2``

It runs under limits that leave room for little more than one server: descriptors, threads and
processes that are kept would soon be missed.
"""

import argparse
import http.client
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import subserve

SPARE_DESCRIPTORS = 24


def held() -> dict[str, object]:
    """Return what this process holds: descriptors, threads, children, files of its servers."""
    pid = str(os.getpid())
    return {
        "descriptors": sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in _descriptors()),
        "threads": len(os.listdir("/proc/self/task")),
        "children": [stat.parent.name for stat in _stats() if _parent(stat) == pid],
        "files": os.listdir(tempfile.gettempdir()),
        "shared memory": os.listdir("/dev/shm"),
    }


def _descriptors() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # that of the listing itself
        found.append(fd)
    return found


def _stats() -> list[Path]:
    return list(Path("/proc").glob("[0-9]*/stat"))


def _parent(stat: Path) -> str:
    try:
        return stat.read_text().rpartition(")")[2].split()[1]
    except OSError:
        return ""  # it ended while we looked


def start_and_stop(app: str, options: dict[str, Any]) -> None:
    """Start a server, ask it once, end it."""
    with subserve.Server(app, bind="127.0.0.1:0", log_level="error", **options) as server:
        address = urlsplit(server.urls[0])
        assert address.hostname is not None
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30.0)
        connection.request("GET", "/")
        status = connection.getresponse().status
        connection.close()
    if (status, server.exit_code) != (200, 0):
        raise RuntimeError(f"status {status}, exit code {server.exit_code}")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("count", type=int)
    parser.add_argument("app")
    parser.add_argument("--workers", default="2")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        start_and_stop(options.app, {"workers": options.workers})  # brings in what is imported once
        before = held()
        limit = len(_descriptors()) + SPARE_DESCRIPTORS
        # What the serving processes hold is bounded by it, too.
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, 64), max(limit, 64)))
        begin = time.monotonic()
        for number in range(1, options.count + 1):
            start_and_stop(options.app, {"workers": options.workers})
            if (now := held()) != before:
                changed = {
                    name: (before[name], now[name]) for name in now if now[name] != before[name]
                }
                print(f"\nafter {number}: {changed}")
                return 1
            print(f"\r{number}/{options.count}", end="", file=sys.stderr, flush=True)
        seconds = time.monotonic() - begin
    print(f"\n{options.count} starts and stops in {seconds:.0f} s, all given back")
    return 0


if __name__ == "__main__":
    sys.exit(main())
