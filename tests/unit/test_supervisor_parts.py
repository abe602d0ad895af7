"""The small parts of the supervisor: sockets, scratch folders, what is code, what an end means."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest

from subserve import scratch
from subserve.api import configuration
from subserve.config import Setting, resolve
from subserve.errors import BindError, ConfigError
from subserve.options import Config
from subserve.privileges import Identity, identity
from subserve.supervisor.deaths import describe
from subserve.supervisor.reload import is_code
from subserve.supervisor.sockets import Sockets

# ---- sockets


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


def test_addresses_that_stay_are_the_same_sockets(sockets: Sockets, tmp_path: Path) -> None:
    unix = f"unix:{tmp_path}/app.sock"
    before = sockets.bind(Config(bind=("127.0.0.1:0", unix)))
    after = sockets.bind(Config(bind=(unix, "127.0.0.1:0"), backlog=5))
    assert [listener.sock for listener in after] == [before[1].sock, before[0].sock]


def test_addresses_that_come_and_go(sockets: Sockets, tmp_path: Path) -> None:
    old = Config(bind=(f"unix:{tmp_path}/old.sock",))
    new = Config(bind=(f"unix:{tmp_path}/new.sock",))
    sockets.bind(old)
    sockets.bind(new)
    sockets.keep([old, new])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.sock", "old.sock"]
    sockets.keep([new])
    assert [path.name for path in tmp_path.iterdir()] == ["new.sock"]


def test_an_address_that_cannot_be_had_changes_nothing(sockets: Sockets, tmp_path: Path) -> None:
    with pytest.raises(BindError):
        sockets.bind(Config(bind=(f"unix:{tmp_path}/new.sock", "unix:/no/such/folder/app.sock")))
    assert list(tmp_path.iterdir()) == []


def test_tls_changes_the_names_only(sockets: Sockets, tmp_path: Path) -> None:
    binds = ("127.0.0.1:0", f"unix:{tmp_path}/app.sock")
    plain = sockets.bind(Config(bind=binds))
    secure = sockets.bind(Config(bind=binds, certfile=("cert.pem",)))
    assert [listener.url.partition(":")[0] for listener in secure] == ["https", "https+unix"]
    assert [listener.url.partition(":")[0] for listener in plain] == ["http", "http+unix"]
    assert secure[0].sock is plain[0].sock


def test_permissions_of_a_unix_socket(sockets: Sockets, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        sockets.bind(Config(bind=(f"unix:{tmp_path}/app.sock",), umask="117"))
        assert (tmp_path / "app.sock").stat().st_mode & 0o777 == 0o660
        assert os.umask(0o022) == 0o022, "ours is as it was"
    finally:
        os.umask(before)


# ---- socket activation


def bound(passed: dict[str, int], *bind: str) -> tuple[str, ...]:
    arguments = {"bind": Setting(bind, "--bind")} if bind else {}
    return resolve(arguments, {}, None, passed_sockets=passed).config.bind


def test_passed_sockets_are_the_default() -> None:
    assert bound({"web": 3, "admin": 4}) == ("fd://3", "fd://4")
    assert bound({}) == ("127.0.0.1:8000",)


def test_passed_sockets_by_name() -> None:
    assert bound({"web": 3, "admin": 4}, "fd://admin", "fd://3") == ("fd://4", "fd://3")


def test_a_passed_socket_that_is_not_asked_for() -> None:
    with pytest.raises(ConfigError, match="--bind: does not name fd://web"):
        bound({"web": 3}, "127.0.0.1:0")


def test_a_name_that_was_not_passed() -> None:
    with pytest.raises(ConfigError, match="expected fd://n"):
        bound({"web": 3}, "fd://wbe", "fd://3")


# ---- scratch folders


def test_a_folder_that_was_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    mine = Path(scratch.make())
    (mine / "copy.so").touch()
    other = tmp_path / f"subserve-{os.getpid()}0-other"
    other.mkdir()
    file = tmp_path / f"subserve-{os.getpid()}-file"
    file.touch()
    link = tmp_path / f"subserve-{os.getpid()}-link"
    link.symlink_to(other)
    assert scratch.sweep(os.getpid(), os.getuid() + 1) == 0, "another user's"
    assert mine.exists()
    assert scratch.sweep(os.getpid(), os.getuid()) == 1
    assert sorted(tmp_path.iterdir()) == sorted([other, file, link])


# ---- what is code


INCLUDE, EXCLUDE = Config().reload_include, Config().reload_exclude


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("main.py", True),
        ("shop/models.py", True),
        ("main.pyc", False),
        ("README.md", False),
        (".venv/lib/x.py", False),
        ("shop/__pycache__/x.py", False),
        (".hidden.py", False),
        ("web/node_modules/x/y.py", False),
    ],
)
def test_what_is_code_by_default(path: str, code: bool) -> None:
    assert is_code(PurePath(path), INCLUDE, EXCLUDE) is code


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("templates/mail/a.html", True),
        ("a.html", False),
        ("tests/a.html", False),
        ("x.toml", True),
        ("shop/tests/x.toml", False),
    ],
)
def test_patterns_with_and_without_a_slash(path: str, code: bool) -> None:
    assert is_code(PurePath(path), ("templates/**/*.html", "*.toml"), ("tests",)) is code


# ---- ends


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "ended with exit code 0"),
        (7, "ended with exit code 7"),
        (-11, "was killed by SIGSEGV (a crash in C code; its Python stacks are above)"),
        (-12, "was killed by SIGUSR2"),
        (-40, "was killed by signal 40"),
    ],
)
def test_what_an_exit_status_means(code: int, text: str) -> None:
    assert describe(code) == text


def test_a_crash_names_the_extension_on_the_stack() -> None:
    said = 'Stack:\n  Binary file "/site/boom/./_boom.abi3.so", at +0x1139 [0x7f]\n'
    text = describe(-11, said, "shop:app")
    assert "a crash with /site/boom/_boom.abi3.so on the stack" in text
    assert "`subserve check shop:app`" in text


def test_a_kill_may_be_want_of_memory() -> None:
    assert "memory" in describe(-9)


# ---- who serves


def test_nobody_else() -> None:
    assert identity(Config()) is None
    assert identity(Config(user=str(os.getuid()), group=str(os.getgid()))) is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"user": "no-such-user"}, "--user no-such-user: there is no such user"),
        ({"group": "no-such-group"}, "--group no-such-group: there is no such group"),
    ],
)
def test_users_that_are_none(options: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        identity(Config(**options))  # type: ignore[arg-type]


def test_only_root_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="only root may"):
        identity(Config(user="54321"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = identity(Config(user="54321", group="54322"))
    assert found == Identity(54321, 54322, "")


# ---- options from Python


def test_options_are_values_or_texts() -> None:
    found = configuration(
        "shop:app", {"workers": 3, "graceful_timeout": "2m", "bind": ["127.0.0.1:1", "[::1]:1"]}
    )
    assert found.app == "shop:app"
    assert (found.workers, found.graceful_timeout) == (3, 120.0)
    assert found.bind == ("127.0.0.1:1", "[::1]:1")
    assert configuration("a:b", {"factory": True, "keep_alive_timeout": 1.5}).factory


def test_neither_variables_nor_files_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "subserve.toml").write_text("workers = 7")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUBSERVE_WORKERS", "7")
    assert configuration("a:b", {"workers": 2}).workers == 2


def test_all_that_is_wrong_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        configuration("a:b", {"wrokers": 2, "graceful_timeout": "soon"})
    assert "wrokers: unknown option; did you mean workers?" in str(caught.value)
    assert "graceful_timeout: expected a duration" in str(caught.value)


def test_nothing_listens_after_a_close(sockets: Sockets, tmp_path: Path) -> None:
    (listener,) = sockets.bind(Config(bind=("127.0.0.1:0",)))
    address = listener.sock.getsockname()
    sockets.close()
    sockets.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
