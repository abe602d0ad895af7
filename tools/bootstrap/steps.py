"""Run the commands of the set-up: with a deadline, with signs of life, with errors that help."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import IO, Dict, List, Optional

# A command that is still silent after this many seconds gets a line that says it is being run.
HEARTBEAT_INTERVAL = 10.0
# Lines of a failed command's output that are shown; of each, where several ways were tried.
TAIL_LINES = 20
SHORT_TAIL_LINES = 3
# Characters of such a line that are shown.
TAIL_WIDTH = 160


class StepFailed(Exception):
    """A step of the set-up failed: `what` went wrong, the `output` of the command, `advice`."""

    def __init__(self, what: str, advice: str = "", output: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.advice = advice
        self.output = output

    def report(self, lines: int = TAIL_LINES) -> str:
        """Return what went wrong and the last `lines` lines of the output, if there is any."""
        return "\n".join(filter(None, [self.what, tail(self.output, lines)]))


def combine(what: str, failures: List[StepFailed], advice: str = "") -> StepFailed:
    """Return the failure of a step that was tried in several ways, each of which failed."""
    reports = (failure.report(SHORT_TAIL_LINES) for failure in failures)
    return StepFailed("{}:\n{}".format(what, "\n".join("- " + text for text in reports)), advice)


def say(text: str) -> None:
    """Print a line of progress.

    It goes to stderr, which replaces what the terminal cannot show instead of raising, and leaves
    stdout to the command that the set-up is for.
    """
    sys.stderr.write("set-up: {}\n".format(text))
    sys.stderr.flush()


def tail(output: str, lines: int) -> str:
    """Return the last `lines` lines of `output` that are not blank, each marked as quoted."""
    kept = [line.rstrip() for line in output.splitlines() if line.strip()]
    return "\n".join("  | " + line[:TAIL_WIDTH] for line in kept[-lines:])


def run(
    argv: List[str],
    what: str,
    timeout: float,
    advice: str = "",
    env: Optional[Dict[str, str]] = None,
) -> str:
    """Run a command that is a step of its own and return its output, stdout and stderr together.

    `what` names the step, `timeout` bounds it in seconds.  Raises `StepFailed` if the command
    cannot be started, fails, or takes too long; then nothing that it started is left running.
    """
    say(what)
    started = time.monotonic()
    with tempfile.TemporaryFile() as log:
        try:
            # A session of its own, so that a command that hangs can be ended with its children.
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
        except OSError as error:
            raise StepFailed(
                "{}: cannot run {}: {}".format(what, argv[0], error), advice
            ) from error
        try:
            code = _wait(process, log, started, timeout)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        took = time.monotonic() - started
        output = _read(log)
    if code == 0:
        if took >= 1:
            say("  done in {:.1f} s".format(took))
        return output
    outcome = "ended for taking longer than" if code is None else "exit code {} after".format(code)
    raise StepFailed(
        "{}: {} {:.0f} s\n  command: {}".format(what, outcome, took, " ".join(argv)), advice, output
    )


def ask(argv: List[str], timeout: float = 20.0, env: Optional[Dict[str, str]] = None) -> str:
    """Return the stdout of a short command that answers a question; `StepFailed` if it does not."""
    try:
        done = subprocess.run(
            argv,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout,
            env=env,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StepFailed("{}: {}".format(argv[0], error)) from error
    if done.returncode != 0:
        errors = done.stderr.decode("utf-8", "replace")
        raise StepFailed("{}: exit code {}".format(argv[0], done.returncode), output=errors)
    return done.stdout.decode("utf-8", "replace")


def _wait(
    process: "subprocess.Popen[bytes]", log: IO[bytes], started: float, timeout: float
) -> Optional[int]:
    """Return the exit code, or None if `timeout` seconds after `started` there is none."""
    while True:
        left = started + timeout - time.monotonic()
        if left <= 0:
            return None
        try:
            return process.wait(min(HEARTBEAT_INTERVAL, left))
        except subprocess.TimeoutExpired:
            last = tail(_read(log), 1).strip(" |")
            say("  {:.0f} s so far {}".format(time.monotonic() - started, last and "| " + last))


def _read(log: IO[bytes]) -> str:
    """Return what the command has written; pread leaves its position in the file alone."""
    return os.pread(log.fileno(), 1 << 22, 0).decode("utf-8", "replace")
