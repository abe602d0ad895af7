"""The command line up to the point where the server starts: what it prints, how it exits."""

import logging
import os
import pty
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from subserve import __version__, cli, options
from subserve.coordinator import server
from subserve.errors import (
    AppLoadError,
    BindError,
    ConfigError,
    ExtensionRefused,
    SubserveError,
    WorkerError,
)
from subserve.options import Config, default_text, flag_of, rows, value_text
from subserve.supervisor import server as supervisor

ROOT = Path(__file__).parents[2]
PROCESS_TIMEOUT = 60.0  # s, for what takes under one


@pytest.fixture(autouse=True)
def _nothing_is_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty folder, without our variables."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SUBSERVE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def _logging_is_restored() -> Iterator[None]:
    logger = logging.getLogger("subserve")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that a server, which is none, was started with."""
    found: list[Config] = []

    def serve(config: Config, reconfigure: object = None) -> int:
        found.append(config)
        return 0

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(supervisor, "supervise", serve)
    return found


def run(*argv: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of ``subserve *argv``."""
    code = cli.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def python_m_subserve(*argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "subserve", *argv],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PROCESS_TIMEOUT,
        check=False,
        **options,  # type: ignore[call-overload]
    )


# ---- help and version


def test_help_shows_every_option_with_its_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    code, out, err = run("--help", capsys=capsys)
    words = " ".join(out.split())
    assert (code, err) == (0, "")
    for name, (_, row) in rows().items():
        assert flag_of(name) in words
        assert f"{row.help} [default: {default_text(name)}]" in words
    assert "usage: subserve [OPTIONS] APP" in words
    for code, text in cli.EXIT_CODES:
        assert f"{code} {text}" in words


def test_help_fits_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    _, out, _ = run("-h", capsys=capsys)
    assert max(map(len, out.splitlines())) <= 100


def test_the_exit_codes_of_the_help_are_those_of_the_errors() -> None:
    codes = {error.exit_code for error in (SubserveError, ConfigError, AppLoadError, BindError)}
    assert {code for code, _ in cli.EXIT_CODES} == codes | {0}
    assert ExtensionRefused.exit_code == AppLoadError.exit_code == 3
    assert WorkerError.exit_code == 1
    assert issubclass(ExtensionRefused, ImportError)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version", capsys=capsys) == (0, f"subserve {__version__}\n", "")


def test_help_wins_over_problems(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help", "--workers", "none", "--colour", capsys=capsys)[0] == 0


# ---- what reaches the server


def test_arguments_in_any_order(served: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("-w", "2", "shop:app", "-t3", "--bind", ":1", "-b", ":2", "--factory", "--loop=uvloop")
    assert run(*argv, capsys=capsys)[0] == 0
    (config,) = served
    assert (config.app, config.workers, config.threads) == ("shop:app", 2, 3)
    assert (config.bind, config.factory, config.loop) == ((":1", ":2"), True, "uvloop")


@pytest.mark.parametrize(
    ("variable", "flag", "name"),
    [
        ("SUBSERVE_FACTORY", "--no-factory", "factory"),
        ("SUBSERVE_RELOAD", "--no-reload", "reload"),
        ("SUBSERVE_NO_SUPERVISOR", "--supervisor", "no_supervisor"),
    ],
)
def test_what_a_variable_turns_on_can_be_turned_off(
    served: list[Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    flag: str,
    name: str,
) -> None:
    monkeypatch.setenv(variable, "true")
    assert run("shop:app", flag, capsys=capsys)[0] == 0
    assert getattr(served[0], name) is False


def test_each_switch_has_a_form_to_turn_it_off() -> None:
    parser = cli._parser()
    for name, (_, row) in options.rows().items():
        if row.parse is options.parse_flag:
            flag = options.off_flag_of(name)
            assert getattr(parser.parse_args([flag]), name) == ["false"]
            assert getattr(parser.parse_args([options.flag_of(name), flag]), name)[-1] == "false"
            assert flag not in parser.format_help().split("signals:")[0]


def test_a_dash_is_a_value(served: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--access-log", "-", "shop:app", capsys=capsys)[0] == 0
    assert served[0].access_log == "-"


@pytest.mark.parametrize("name", [name for name in rows() if rows()[name][1].metavar])
def test_every_default_can_be_given(
    name: str, served: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    option, row = rows()[name]
    text = value_text(option.default) if row.default_text in {None, "none"} else row.default_text
    texts = text.split(", ") if row.repeatable else [text]
    flags = [f"{flag_of(name)}={text}" for text in texts]
    assert run("shop:app", *flags, capsys=capsys)[0] == 0
    if name != "workers":
        assert getattr(served[0], name) == option.default


def test_the_app_from_the_environment(
    served: list[Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUBSERVE_APP", "shop:app")
    assert run(capsys=capsys)[0] == 0
    assert served[0].app == "shop:app"


def test_a_file_of_the_working_directory(
    served: list[Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "subserve.toml").write_text("app = 'shop:app'\nworkers = 3\n")
    assert run("--threads", "2", capsys=capsys)[0] == 0
    assert (served[0].app, served[0].workers, served[0].threads) == ("shop:app", 3, 2)


@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_file_that_is_named(
    by: str,
    served: list[Config],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "subserve.toml").write_text("workres = 3\n")
    (tmp_path / "other.toml").write_text("app = 'shop:app'\n")
    if by == "variable":
        monkeypatch.setenv("SUBSERVE_CONFIG", "other.toml")
    argv = ("--config", "other.toml") if by == "option" else ()
    assert run(*argv, capsys=capsys)[0] == 0
    assert served[0].app == "shop:app"


# ---- --show-config


def test_show_config_starts_nothing(
    served: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run("--show-config", "-w", "2", capsys=capsys)
    assert (code, err, served) == (0, "", [])
    assert [line.split()[0] for line in out.splitlines()] == ["app", *rows()]
    (workers,) = [line for line in out.splitlines() if line.startswith("workers ")]
    assert workers.split() == ["workers", "=", "2", "(--workers)"]


def test_show_config_hides_secrets(
    served: list[Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cert.pem").touch()
    argv = ("--show-config", "--certfile", "cert.pem", "--keyfile-password", "hunter2")
    code, out, err = run(*argv, capsys=capsys)
    assert code == 0
    assert "***" in out
    assert "hunter2" not in out + err


# ---- what is wrong, all at once, with exit code 2


def complaints(*argv: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what a command line that is wrong is told, line by line."""
    code, out, err = run(*argv, capsys=capsys)
    assert (code, out) == (2, "")
    lines = [line.removeprefix("subserve: ") for line in err.splitlines()]
    assert lines.pop() == "try `subserve --help`"
    return lines


def test_no_app(capsys: pytest.CaptureFixture[str]) -> None:
    assert complaints(capsys=capsys) == [
        "no app given; run `subserve module:app`, or set SUBSERVE_APP"
    ]


def test_all_problems_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUBSERVE_THREDS", "1")
    (tmp_path / "subserve.toml").write_text("lop = 'uvloop'")
    argv = ("shop:app", "--wrokers=4", "--backlog", "0", "--log-level", "loud")
    assert set(complaints(*argv, capsys=capsys)) == {
        "--backlog: expected a whole number of at least 1, got '0'",
        "--log-level: expected one of debug, info, warning, error, got 'loud'",
        "--wrokers: unknown option; did you mean --workers?",
        "SUBSERVE_THREDS: unknown variable; did you mean SUBSERVE_THREADS?",
        f"{tmp_path}/subserve.toml: lop: unknown key; did you mean loop?",
    }


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["a:b", "c:d"], "c:d: unexpected argument; subserve serves one APP"),
        (["--bin", ":80"], "--bin: unknown option; did you mean --bind?"),
        (["a:b", "--colour"], "--colour: unknown option"),
        (["a:b", "-x"], "-x: unknown option"),
        (["a:b", "--workers"], "argument -w/--workers: expected one argument"),
        (["a:b", "--factory=1"], "argument --factory: ignored explicit argument '1'"),
    ],
)
def test_bad_arguments(argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert complaints(*argv, capsys=capsys) == [complaint]


def test_an_unknown_option_does_not_tell_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    # It may be a secret whose option is misspelled.
    for argv in (["--keyfile-pasword=hunter2"], ["--keyfile-pasword", "hunter2", "a:b"]):
        text = "\n".join(complaints(*argv, capsys=capsys))
        assert text == "--keyfile-pasword: unknown option; did you mean --keyfile-password?"


# ---- errors of the server


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError, 2),
        (AppLoadError, 3),
        (ExtensionRefused, 3),
        (BindError, 4),
        (WorkerError, 1),
        (SubserveError, 1),
    ],
)
@pytest.mark.parametrize("argv", [["a:b"], ["a:b", "--no-supervisor"]])
def test_an_error_becomes_its_exit_code(
    error: type[SubserveError],
    code: int,
    argv: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def serve(config: Config, reconfigure: object = None) -> int:
        raise error("first line\nsecond line")

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(supervisor, "supervise", serve)
    assert run(*argv, capsys=capsys)[0] == code
    assert cli.main(argv) == code
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["subserve: first line", "subserve: second line"]
    assert lines[2:] == (["subserve: try `subserve --help`"] if code == 2 else [])


def test_an_address_in_use_is_exit_code_4() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = python_m_subserve("shop:app", "--bind", address)
    assert done.returncode == 4
    assert done.stderr.startswith(f"subserve: cannot listen on {address}: Address already in use (")
    assert done.stdout == ""


# ---- TLS: a bad certificate is a bad option, and nobody is asked for a password


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem, and its key encrypted with "secret" in key.pem."""
    folder = tmp_path_factory.mktemp("pems")
    made = trustme.CA().issue_cert("localhost")
    folder.joinpath("cert.pem").write_bytes(made.cert_chain_pems[0].bytes())
    key = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
    folder.joinpath("key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return folder


@pytest.mark.usefixtures("_logging_is_restored")
@pytest.mark.parametrize(
    ("password", "complaint"),
    [("", "give --keyfile-password"), ("guess", "--keyfile-password is wrong")],
)
def test_an_encrypted_key(
    password: str, complaint: str, pems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = pems / "key.pem"
    argv = ["a:b", "--certfile", str(pems / "cert.pem"), "--keyfile", str(key)]
    argv += ["--no-supervisor"]  # the process that serves tells of it, where there is one
    argv += ["--keyfile-password", password] if password else []
    assert complaints(*argv, capsys=capsys) == [
        f"--keyfile {key}: the private key is encrypted; {complaint}"
    ]


def test_nobody_is_asked_for_a_password(pems: Path, tmp_path: Path) -> None:
    """OpenSSL would ask on /dev/tty, whatever the standard streams are: here is one for it."""
    arguments = ["--certfile", str(pems / "cert.pem"), "--keyfile", str(pems / "key.pem")]
    code = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "from subserve.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, "a:b", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        shown = _read_terminal(terminal)
    finally:
        os.close(terminal)  # hangs up on whoever still waits for a password
        code = process.wait(PROCESS_TIMEOUT)
    assert "pass phrase" not in shown.lower()
    assert "give --keyfile-password" in shown
    assert code == 2


def _read_terminal(terminal: int) -> str:
    deadline = time.monotonic() + PROCESS_TIMEOUT
    shown = b""
    try:
        while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
            shown += os.read(terminal, 65536)
        raise AssertionError(f"it waits for something: {shown!r}")
    except OSError:  # EIO: the other side is closed
        return shown.decode()


# ---- standard streams that are closed


def test_closed_standard_streams_are_filled() -> None:
    # With stderr closed, as some service managers start a server, a socket became descriptor 2, and
    # log records were written to it.
    code = (
        "import os, subserve.cli as cli; cli._fill_standard_descriptors();"
        "assert [os.readlink(f'/proc/self/fd/{n}') for n in (0, 1)] == ['/dev/null'] * 2;"
        "assert all(os.get_inheritable(n) for n in range(3));"
        "assert not os.path.exists('/proc/self/fd/3'), os.listdir('/proc/self/fd');"
        "os.write(2, b'filled')"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        timeout=PROCESS_TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"filled")


def test_open_standard_streams_are_left_alone(tmp_path: Path) -> None:
    code = "import subserve.cli as cli; cli._fill_standard_descriptors(); print('still here')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PROCESS_TIMEOUT,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("still here\n", "")


def test_python_m_subserve() -> None:
    done = python_m_subserve("--version")
    assert (done.returncode, done.stdout) == (0, f"subserve {__version__}\n")
