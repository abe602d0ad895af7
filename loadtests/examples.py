"""Put each example app under load with wrk: no socket error, no answer but 2xx.

``python -m loadtests.examples --seconds 30 --workers 4``
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass

EXAMPLES = {
    "examples.fastapi_app.main:app": "/",
    "examples.flask_app.main:app": "/",
    "examples.django_app.asgi:application": "/",
    "examples.django_app.wsgi:application": "/",
}
DATA_VARIABLES = ("BOARD_DATA", "POSTCARDS_DATA_DIR", "DJANGO_DATA_DIR")
"""Where the examples keep their data; a folder of its own for each run."""

CONNECTIONS = 64
STOP_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What wrk saw: requests, requests a second, socket errors and answers other than 2xx."""

    requests: int
    per_second: float
    errors: str
    exit_code: int

    @property
    def clean(self) -> bool:
        """Whether nothing went wrong."""
        return not self.errors and self.exit_code == 0 and self.requests > 0


def load(app: str, path: str, seconds: int, workers: int) -> Outcome:
    """Serve `app`, run wrk against `path`, stop; raise `RuntimeError` where it does not start."""
    with (
        tempfile.TemporaryDirectory() as data,
        subprocess.Popen(
            [sys.executable, "-m", "subserve", app, f"--workers={workers}", "--bind=127.0.0.1:0"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **dict.fromkeys(DATA_VARIABLES, data)},
        ) as server,
    ):
        try:
            assert server.stderr is not None
            banner = ""
            while "\n  pid" not in banner:
                line = server.stderr.readline()
                if not line:
                    raise RuntimeError(f"{app} does not start:\n{banner}")
                banner += line
            found = re.search(r"listening  (\S+)", banner)
            assert found is not None
            wrk = subprocess.run(
                ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", found[1] + path],
                capture_output=True,
                text=True,
                timeout=seconds + 30,
                check=True,
            )
            server.send_signal(signal.SIGTERM)
            _, rest = server.communicate(timeout=STOP_SECONDS)
        finally:
            server.kill()
    if server.returncode != 0:
        print(rest, file=sys.stderr)
    return _read(wrk.stdout, server.returncode)


def _read(report: str, exit_code: int) -> Outcome:
    requests = re.search(r"(\d+) requests in", report)
    per_second = re.search(r"Requests/sec:\s+([\d.]+)", report)
    assert requests is not None, report
    assert per_second is not None, report
    errors = re.findall(r"(?:Socket errors|Non-2xx).*", report)
    return Outcome(int(requests[1]), float(per_second[1]), "; ".join(errors), exit_code)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not on PATH: install it (apt-get install wrk)", file=sys.stderr)
        return 1
    clean = True
    for app, path in EXAMPLES.items():
        print(f"{app}{path} for {options.seconds} s ...", file=sys.stderr, flush=True)
        outcome = load(app, path, options.seconds, options.workers)
        clean = clean and outcome.clean
        verdict = "clean" if outcome.clean else f"NOT CLEAN: {outcome.errors}"
        print(f"{app:<40} {outcome.requests:>8} requests {outcome.per_second:>9.0f}/s  {verdict}")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
