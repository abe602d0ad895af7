"""The pid file: made, held, removed; told from one that a dead server has left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from subserve.errors import ConfigError
from subserve.pidfile import pid_file


def test_it_is_there_as_long_as_we_are(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_none() -> None:
    with pid_file(""):
        pass


@pytest.mark.parametrize("left", ["1\n", f"{os.getpid()}\n", "4194304000\n", "", "rubbish" * 20])
def test_one_that_nobody_holds_is_taken_over(tmp_path: Path, left: str) -> None:
    """Whatever number is in it: it may be that of a process that is something else by now."""
    path = tmp_path / "server.pid"
    path.write_text(left)
    with pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"


def test_one_that_is_held(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with (
        pid_file(str(path)),
        pytest.raises(ConfigError, match=f"a running server holds it, process {os.getpid()}$"),
        pid_file(str(path)),
    ):
        raise AssertionError("held twice")
    assert not path.exists()


def test_one_whose_owner_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    code = (
        "import os, signal, sys\n"
        "from subserve.pidfile import pid_file\n"
        "with pid_file(sys.argv[1]):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert path.exists()
    with pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"


def test_the_file_of_another_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with pid_file(str(path)):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_one_that_cannot_be_made(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"--pid-file .*: No such file or directory"),
        pid_file(str(tmp_path / "none" / "server.pid")),
    ):
        raise AssertionError("made")
