"""From command line, environment and file to one configuration: who wins, and what is refused."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.config import Resolved, Setting, nearest, resolve
from subserve.errors import ConfigError
from subserve.options import Config, rows, variable_of


def given_on_command_line(**texts: str) -> dict[str, Setting]:
    return {name: Setting((text,), f"--{name}") for name, text in texts.items()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def resolved(
    directory: Path,
    arguments: Mapping[str, Setting] | None = None,
    environ: Mapping[str, str] | None = None,
    config_file: str | None = None,
) -> Resolved:
    return resolve(arguments or {}, environ or {}, directory, config_file)


def problems(directory: Path, **sources: object) -> list[str]:
    """Return the lines of the one `ConfigError` that `sources` lead to."""
    with pytest.raises(ConfigError) as caught:
        resolved(directory, **sources)  # type: ignore[arg-type]
    return str(caught.value).splitlines()


def from_file(directory: Path, text: str, name: str = "subserve.toml") -> Config:
    (directory / name).write_text(text, encoding="utf-8")
    return resolved(directory).config


def problem_in_file(directory: Path, text: str, name: str = "subserve.toml") -> str:
    """Return the one problem of a file, without the name of the file before it."""
    path = directory / name
    path.write_text(text, encoding="utf-8")
    (problem,) = problems(directory)
    assert problem.startswith(f"{path}: ")
    return problem.removeprefix(f"{path}: ")


# ---- who wins


def test_defaults(directory: Path) -> None:
    found = resolved(directory)
    assert found.config == Config(workers=os.process_cpu_count() or 1)
    assert found.origins == {}


def test_command_line_then_environment_then_file(directory: Path) -> None:
    (directory / "subserve.toml").write_text("workers = 3\nthreads = 3\nbacklog = 3\n")
    found = resolved(
        directory,
        given_on_command_line(workers="1"),
        {"SUBSERVE_WORKERS": "2", "SUBSERVE_THREADS": "2", "PATH": "/bin"},
    )
    assert (found.config.workers, found.config.threads, found.config.backlog) == (1, 2, 3)
    assert found.origins == {
        "workers": "--workers",
        "threads": "SUBSERVE_THREADS",
        "backlog": f"{directory / 'subserve.toml'}: backlog",
    }


def test_the_last_of_several_counts_unless_it_is_repeatable(directory: Path) -> None:
    arguments = {
        "workers": Setting(("1", "2"), "--workers"),
        "bind": Setting((":1", ":2"), "--bind"),
    }
    found = resolved(directory, arguments)
    assert found.config.workers == 2
    assert found.config.bind == (":1", ":2")


@pytest.mark.parametrize("name", ["app", *rows()])
def test_every_option_can_be_a_variable(directory: Path, name: str) -> None:
    file = directory / "some-file"
    file.touch()
    values = {
        "certfile": str(file),
        "keyfile": str(file),
        "keyfile_password": "secret",
        "ca_certs": str(file),
        "verify_client": "optional",
        "app_dir": str(directory),
        "root_path": "/api",
        "factory": "yes",
        "workers": "auto",
        "max_requests": "1000",
        "max_requests_jitter": "100",
    }
    text = values.get(name) or (str(rows()[name][0].default) if name != "app" else "shop:app")
    if name == "bind":
        text = "127.0.0.1:1, [::1]:2"
    elif name != "app" and rows()[name][1].repeatable and name not in values:
        text = ", ".join(rows()[name][0].default)
    # What belongs together is given together.
    needed = ("certfile", "ca_certs", "verify_client", "max_requests")
    environ = {variable_of(n): values[n] for n in needed}
    environ |= {variable_of(name): text}
    assert resolved(directory, environ=environ).origins[name] == variable_of(name)


@pytest.mark.parametrize("name", ["CERTFILE", "KEYFILE", "KEYFILE_PASSWORD", "CA_CERTS"])
def test_an_empty_variable_is_no_file(directory: Path, name: str) -> None:
    assert resolved(directory, environ={f"SUBSERVE_{name}": ""}).config == Config(
        workers=resolved(directory).config.workers
    )


def test_several_addresses_in_a_variable(directory: Path) -> None:
    found = resolved(directory, environ={"SUBSERVE_BIND": "127.0.0.1:1, unix:/x"})
    assert found.config.bind == ("127.0.0.1:1", "unix:/x")


def test_the_variable_that_names_the_file_is_no_option(directory: Path) -> None:
    assert resolved(directory, environ={"SUBSERVE_CONFIG": "x"}).origins == {}


# ---- files


def test_values_of_a_file(directory: Path) -> None:
    text = """
        app = "shop:app"
        bind = ["127.0.0.1:1", "unix:/x"]
        workers = 4
        factory = true
        graceful-timeout = 2.5
        keep_alive_timeout = 90
        startup-timeout = "2m"
        max-header-bytes = "64k"
        root-path = "/api/"
    """
    config = from_file(directory, text)
    assert (config.app, config.bind) == ("shop:app", ("127.0.0.1:1", "unix:/x"))
    assert (config.workers, config.factory, config.root_path) == (4, True, "/api")
    assert config.graceful_timeout == 2.5
    assert config.keep_alive_timeout == 90.0
    assert config.startup_timeout == 120.0
    assert config.max_header_bytes == 65536


@given(st.floats(0.0, 30e6, allow_subnormal=False))
def test_a_number_means_the_same_in_a_file(
    tmp_path_factory: pytest.TempPathFactory, seconds: float
) -> None:
    config = from_file(tmp_path_factory.getbasetemp(), f"graceful-timeout = {seconds!r}")
    assert config.graceful_timeout == pytest.approx(seconds, abs=1e-6)


def test_one_address_need_not_be_a_list(directory: Path) -> None:
    assert from_file(directory, 'bind = "127.0.0.1:1"').bind == ("127.0.0.1:1",)


def test_pyproject(directory: Path) -> None:
    text = "[project]\nname = 'x'\n[tool.subserve]\nworkers = 7\n"
    assert from_file(directory, text, "pyproject.toml").workers == 7


@pytest.mark.parametrize("text", ["", "[project]\nname = 'x'", "[tool.ruff]", "tool = 5"])
def test_a_pyproject_that_is_not_about_us(directory: Path, text: str) -> None:
    from_file(directory, text, "pyproject.toml")
    assert resolved(directory).origins == {}


@pytest.mark.parametrize("text", ["[[tool.subserve]]\nworkers = 1", "[tool]\nsubserve = 'x'"])
def test_a_pyproject_without_a_table_for_us(directory: Path, text: str) -> None:
    # It ended in an AttributeError: 'list' object has no attribute 'items'.
    assert problem_in_file(directory, text, "pyproject.toml") == "has no table [tool.subserve]"


def test_subserve_toml_comes_before_pyproject(directory: Path) -> None:
    (directory / "pyproject.toml").write_text("[tool.subserve]\nworkers = 7\nthreads = 7\n")
    config = from_file(directory, "workers = 8")
    assert (config.workers, config.threads) == (8, 4)


def test_a_file_that_is_named(directory: Path) -> None:
    (directory / "subserve.toml").write_text("workers = 1")
    named = directory / "other.toml"
    named.write_text("workers = 5")
    found = resolved(directory, config_file=str(named))
    assert found.config.workers == 5
    assert found.origins == {"workers": f"{named}: workers"}


def test_a_pyproject_that_is_named_has_to_be_about_us(directory: Path) -> None:
    # Whoever names it believes that it says something.
    path = directory / "pyproject.toml"
    path.write_text("[project]\nname = 'x'")
    assert problems(directory, config_file=str(path)) == [f"{path}: has no table [tool.subserve]"]


def test_a_named_file_that_is_not_there(directory: Path) -> None:
    assert problems(directory, config_file="/no/such.toml") == [
        "/no/such.toml: cannot be read: No such file or directory"
    ]


@pytest.mark.parametrize(
    "content", [b"workers = ", b"= 4", b"a = 1\na = 2", b'app = "\xff"', b"a = " + b"[" * 10**6]
)
def test_not_toml(directory: Path, content: bytes) -> None:
    (directory / "subserve.toml").write_bytes(content)
    (problem,) = problems(directory)
    assert problem.startswith(f"{directory / 'subserve.toml'}: not valid TOML: ")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("workres = 4", "workres: unknown key; did you mean workers?"),
        ("graceful_timout = 4", "graceful_timout: unknown key; did you mean graceful-timeout?"),
        ("colour = 'red'", "colour: unknown key"),
        ("[logging]\nlevel = 1", "logging: unknown key"),
        ("graceful-timeout = 1\ngraceful_timeout = 2", "graceful_timeout: given twice"),
        ("workers = 4.0", "workers: expected a whole number, got a number with a fraction"),
        ("workers = true", "workers: expected a whole number, got true or false"),
        ("workers = [4]", "workers: expected a whole number, got a list"),
        ("[workers]\nx = 1", "workers: expected a whole number, got a table"),
        ("factory = 1", "factory: expected true or false, got a whole number"),
        ("loop = 1", "loop: expected a string, got a whole number"),
        ("app = ['shop:app']", "app: expected a string, got a list"),
        ("app = 5", "app: expected a string, got a whole number"),
        ("ca-certs = ['x']", "ca-certs: expected a string, got a list"),
        (
            "startup-timeout = 12:30:00",
            "startup-timeout: expected a number of seconds, got a date or time",
        ),
        ("bind = 8000", "bind: expected a string, or a list of at least one, got a whole number"),
        ("bind = [8000]", "bind: expected a string, or a list of at least one, got a list"),
        ("bind = [[':1']]", "bind: expected a string, or a list of at least one, got a list"),
        ('app = "a\\u0000b"', "app: a NUL character"),
        ('certfile = "a\\u0000b"', "certfile: a NUL character"),
    ],
)
def test_keys_and_types_that_are_wrong(directory: Path, text: str, problem: str) -> None:
    assert problem_in_file(directory, text) == problem


def test_true_is_not_taken_for_a_file_name(directory: Path) -> None:
    # `access-log = true` logged to a file named "on" in the working directory.
    problem = problem_in_file(directory, "access-log = true")
    assert problem == "access-log: expected a string, got true or false"


def test_an_empty_list_of_addresses(directory: Path) -> None:
    # It was taken, and the server listened nowhere.
    problem = problem_in_file(directory, "bind = []")
    assert problem == "bind: expected a string, or a list of at least one, got a list"


# ---- problems


def test_all_problems_at_once(directory: Path) -> None:
    (directory / "subserve.toml").write_text("workres = 1\nlog-level = 'loud'\n")
    environ = {"SUBSERVE_THREADS": "none", "SUBSERVE_TREADS": "1"}
    arguments = given_on_command_line(bind="here", root_path="api", app_dir="/no/such")
    with pytest.raises(ConfigError) as caught:
        resolve(arguments, environ, directory, None, ["--wokers: unknown option"])
    path = directory / "subserve.toml"
    assert sorted(str(caught.value).splitlines()) == sorted(
        [
            "--wokers: unknown option",
            f"{path}: workres: unknown key; did you mean workers?",
            f"{path}: log-level: expected one of debug, info, warning, error, got 'loud'",
            "SUBSERVE_THREADS: expected a whole number of at least 1, got 'none'",
            "SUBSERVE_TREADS: unknown variable; did you mean SUBSERVE_THREADS?",
            "--bind: expected host:port, [v6]:port, unix:/path or fd://n, got 'here'",
            "--root_path: expected a URL path such as /api, got 'api'",
            "--app_dir: '/no/such' is not a directory",
        ]
    )


def test_variables_of_a_kubernetes_service_named_subserve(directory: Path) -> None:
    environ = {
        "SUBSERVE_SERVICE_HOST": "10.0.0.1",
        "SUBSERVE_SERVICE_PORT": "80",
        "SUBSERVE_SERVICE_PORT_HTTP": "80",
        "SUBSERVE_PORT": "tcp://10.0.0.1:80",
        "SUBSERVE_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    resolve({}, environ, directory)
    assert problems(directory, environ={"SUBSERVE_PORT": "80"}) != []


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("SUBSERVE_WORKER", "; did you mean SUBSERVE_WORKERS?"),
        ("SUBSERVE_CONFG", "; did you mean SUBSERVE_CONFIG?"),
        # The prefix that all have in common made anything like SUBSERVE_APP.
        ("SUBSERVE_ZZZZ", ""),
        ("SUBSERVE_", ""),
    ],
)
def test_unknown_variables(directory: Path, variable: str, hint: str) -> None:
    assert problems(directory, environ={variable: "1"}) == [f"{variable}: unknown variable{hint}"]


def test_nearest() -> None:
    assert nearest("--wrokers", ["--workers", "--threads"]) == "; did you mean --workers?"
    assert nearest("--colour", ["--workers", "--threads"]) == ""


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"KEYFILE": "{file}"}, "SUBSERVE_KEYFILE: needs --certfile"),
        ({"KEYFILE_PASSWORD": "x"}, "SUBSERVE_KEYFILE_PASSWORD: needs --certfile"),
        (
            {"CA_CERTS": "{file}", "VERIFY_CLIENT": "required"},
            "SUBSERVE_CA_CERTS: needs --certfile",
        ),
        (
            {"CERTFILE": "{file}", "VERIFY_CLIENT": "required"},
            "SUBSERVE_VERIFY_CLIENT: needs --ca-certs, to know whom to trust",
        ),
        (
            {"CERTFILE": "{file}", "CA_CERTS": "{file}"},
            "SUBSERVE_CA_CERTS: checks nobody without --verify-client optional or required",
        ),
        ({"CERTFILE": "/no/such"}, "SUBSERVE_CERTFILE: cannot read '/no/such'"),
        ({"KEYFILE_PASSWORD_FILE": "{file}"}, "SUBSERVE_KEYFILE_PASSWORD_FILE: needs --certfile"),
        (
            {"CERTFILE": "{file}", "KEYFILE_PASSWORD": "x", "KEYFILE_PASSWORD_FILE": "{file}"},
            "SUBSERVE_KEYFILE_PASSWORD_FILE: there is a --keyfile-password, too; give one",
        ),
        (
            {"CERTFILE": "{file},{file}", "KEYFILE": "{file}"},
            (
                "SUBSERVE_KEYFILE: 1 of them for 2 --certfile; give one for each, or none where "
                "the keys are in those files"
            ),
        ),
        ({"BIND": ":1,:1"}, "SUBSERVE_BIND: the same address twice"),
        ({"STARTUP_TIMEOUT": "0"}, "SUBSERVE_STARTUP_TIMEOUT: must be more than 0"),
        ({"KEEP_ALIVE_TIMEOUT": "0"}, "SUBSERVE_KEEP_ALIVE_TIMEOUT: must be more than 0"),
        ({"APP_DIR": "{file}"}, "SUBSERVE_APP_DIR: '{file}' is not a directory"),
    ],
)
def test_contradictions(directory: Path, environ: dict[str, str], problem: str) -> None:
    file = directory / "file"
    file.touch()
    given = {f"SUBSERVE_{name}": text.format(file=file) for name, text in environ.items()}
    assert problems(directory, environ=given) == [problem.format(file=file)]


@pytest.mark.parametrize("log_format", ["%", "%(h", "%(h)", "%(h)d", "%(h)s %s", "%(h)y"])
def test_access_log_formats_that_are_none(directory: Path, log_format: str) -> None:
    (problem,) = problems(directory, environ={"SUBSERVE_ACCESS_LOG_FORMAT": log_format})
    assert problem.startswith("SUBSERVE_ACCESS_LOG_FORMAT: not a format: ")


def test_access_log_formats_may_name_any_header(directory: Path) -> None:
    text = "%(h)s %({x-request-id}i)s 100%%"
    config = resolved(directory, environ={"SUBSERVE_ACCESS_LOG_FORMAT": text}).config
    assert config.access_log_format == text


# ---- secrets and the report


def test_the_report_has_a_line_for_every_option_and_says_where_it_is_from(directory: Path) -> None:
    (directory / "subserve.toml").write_text("threads = 9")
    found = resolved(directory, given_on_command_line(workers="2"), {"SUBSERVE_APP": "shop:app"})
    lines = found.report().splitlines()
    assert [line.split()[0] for line in lines] == ["app", *rows()]
    assert all("=" in line for line in lines)
    by_name = {line.split()[0]: re.sub(" +", " ", line) for line in lines}
    assert by_name["app"] == "app = 'shop:app' (SUBSERVE_APP)"
    assert by_name["workers"] == "workers = 2 (--workers)"
    assert by_name["threads"] == f"threads = 9 ({directory / 'subserve.toml'}: threads)"
    assert by_name["loop"] == "loop = 'asyncio' (default)"


def test_the_report_hides_secrets(directory: Path) -> None:
    file = directory / "cert.pem"
    file.touch()
    environ = {"SUBSERVE_CERTFILE": str(file), "SUBSERVE_KEYFILE_PASSWORD": "hunter2"}
    report = resolved(directory, environ=environ).report()
    assert "hunter2" not in report
    assert re.search(r"keyfile_password += \*\*\* +\(SUBSERVE_KEYFILE_PASSWORD\)", report)


def test_the_report_shows_that_a_secret_is_missing(directory: Path) -> None:
    assert re.search(r"keyfile_password += '' +\(default\)", resolved(directory).report())


@pytest.mark.parametrize(
    "text", ["keyfile-password = 12345678", "keyfile-passwort = 'hunter2'", "keyfile-password = {}"]
)
def test_problems_do_not_tell_secrets(directory: Path, text: str) -> None:
    problem = problem_in_file(directory, text)
    assert "hunter2" not in problem
    assert "12345678" not in problem


def test_a_secret_with_a_nul_is_not_told(directory: Path) -> None:
    arguments = given_on_command_line(keyfile_password="hunter2\0")
    assert problems(directory, arguments=arguments) == ["--keyfile_password: a NUL character"]


@given(st.dictionaries(st.sampled_from([variable_of(n) for n in rows()]), st.text(), max_size=4))
def test_any_environment_is_a_configuration_or_a_config_error(environ: dict[str, str]) -> None:
    try:
        found = resolve({}, environ, Path("/no/such/folder"))
    except ConfigError as error:
        assert str(error)  # noqa: PT017  some environments are fine
    else:
        assert set(found.origins) == {name for name in rows() if variable_of(name) in environ}


# ---- recycling and hangs


@pytest.mark.parametrize("text", ["off", "0", " OFF "])
@pytest.mark.parametrize(
    "name",
    ["hang_timeout", "max_requests", "max_worker_lifetime", "max_rss", "max_requests_jitter"],
)
def test_what_can_be_off(directory: Path, name: str, text: str) -> None:
    found = resolved(directory, given_on_command_line(**{name: text}))
    assert getattr(found.config, name) == 0


def test_a_value_that_is_neither_a_number_nor_off(directory: Path) -> None:
    assert problems(directory, arguments=given_on_command_line(max_requests="many")) == [
        "--max_requests: expected a whole number of at least 1, or off, got 'many'"
    ]


def test_jitter_of_nothing(directory: Path) -> None:
    (problem,) = problems(directory, arguments=given_on_command_line(max_requests_jitter="5"))
    assert problem == "--max_requests_jitter: does nothing without --max-requests"


def test_a_hang_timeout_that_any_worker_would_miss(directory: Path) -> None:
    (problem,) = problems(directory, arguments=given_on_command_line(hang_timeout="100ms"))
    assert problem == "--hang_timeout: must be at least 0.5, or off"
