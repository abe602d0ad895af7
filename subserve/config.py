"""From the command line, the environment and a file to one `Config`, with all problems at once.

Who wins: the command line, then ``SUBSERVE_*`` variables, then the file, then the defaults.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from subserve.errors import ConfigError
from subserve.options import Config, flag_of, rows, value_text, variable_of

LEAST_HANG_TIMEOUT = 0.5
"""Seconds; below it a busy machine would look like a worker that hangs."""


OWN_LANES = (
    *("header_timeout", "body_timeout", "write_timeout", "max_header_count", "max_body_bytes"),
    *(
        "min_rate",
        "http_parser",
        "h2_max_concurrent_streams",
        "ws_ping_interval",
        "ws_ping_timeout",
    ),
    *("ws_compression", "ws_window_bits", "ws_context_takeover"),
)
"""Options that mean nothing to Hypercorn's protocol classes."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value as it was given: texts to be parsed, and where they stand."""

    texts: tuple[str, ...]
    origin: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configuration, and for each field where its value comes from."""

    config: Config
    origins: Mapping[str, str]

    def report(self) -> str:
        """Return one line a field, ``name = value  (origin)``, for ``--show-config``."""
        secret = {name for name, (_, row) in rows().items() if row.secret}
        lines = []
        for name in ("app", *rows()):
            value = getattr(self.config, name)
            shown = "***" if name in secret and value else repr(value)
            lines.append(f"{name:<22} = {shown:<40} ({self.origins.get(name, 'default')})")
        return "\n".join(lines)


def resolve(
    arguments: Mapping[str, Setting],
    environ: Mapping[str, str],
    directory: Path | None,
    config_file: str | None = None,
    known_problems: Sequence[str] = (),
    passed_sockets: Mapping[str, int] | None = None,
) -> Resolved:
    """Merge the sources; raise `ConfigError` that lists every problem and its remedy.

    Without a `directory` no file is read.  `passed_sockets` are those of socket activation, by
    name: they are what is listened on unless addresses are given, and ``fd://NAME`` is one of them.
    """
    problems = list(known_problems)
    settings: dict[str, Setting] = {}
    if directory is not None:
        settings |= _from_file(directory, config_file, problems)
    settings |= _from_environ(environ, problems)
    settings |= arguments
    if passed_sockets:
        settings["bind"] = _with_passed(passed_sockets, settings.get("bind"), problems)

    values = dict(_parse(settings, problems))
    config = Config(**values)
    problems += _contradictions(config, settings)
    if problems:
        raise ConfigError("\n".join(problems))
    origins = {name: setting.origin for name, setting in settings.items()}
    return Resolved(_with_cores_counted(config), origins)


def _with_passed(passed: Mapping[str, int], bind: Setting | None, problems: list[str]) -> Setting:
    """Return the addresses with names of passed sockets as numbers; all of them by default."""
    if bind is None:
        return Setting(tuple(f"fd://{fd}" for fd in passed.values()), "socket activation")
    numbers = {f"fd://{name}": f"fd://{fd}" for name, fd in passed.items()}
    texts = tuple(numbers.get(text, text) for text in bind.texts)
    for name, number in numbers.items():
        if number not in texts:
            problems.append(f"{bind.origin}: does not name {name}, which was passed to us")
    return Setting(texts, bind.origin)


def nearest(word: str, candidates: Iterable[str], prefix: str = "") -> str:
    """Return ``; did you mean X?`` for the candidate most like `word`, or nothing.

    `prefix` is what all have in common; it says nothing about likeness.
    """
    ends = [candidate.removeprefix(prefix) for candidate in candidates]
    close = get_close_matches(word.removeprefix(prefix), ends, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _with_cores_counted(config: Config) -> Config:
    if config.workers:
        return config
    values = {name: getattr(config, name) for name in ("app", *rows())}
    return Config(**values | {"workers": os.process_cpu_count() or 1})


def _parse(settings: Mapping[str, Setting], problems: list[str]) -> Iterator[tuple[str, Any]]:
    table = rows()
    for name, setting in settings.items():
        if any("\0" in text for text in setting.texts):
            problems.append(f"{setting.origin}: a NUL character")
            continue
        if name == "app":
            yield name, setting.texts[-1]
            continue
        option, row = table[name]
        if row.repeatable and not option.default and setting.texts == ("",):
            continue  # an empty variable is nothing, as with options that are given once
        try:
            values = tuple(row.parse(text) for text in setting.texts)
        except ValueError as error:
            shown = "***" if row.secret else ", ".join(map(repr, setting.texts))
            problems.append(f"{setting.origin}: {error}, got {shown}")
        else:
            yield name, values if row.repeatable else values[-1]


_KUBERNETES = re.compile(
    r"SUBSERVE_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_\w+)=.*|SUBSERVE_PORT=(?:tcp|udp|sctp)://.*"
)
"""What Kubernetes sets in the pods beside a Service that is named subserve."""


def _from_environ(environ: Mapping[str, str], problems: list[str]) -> dict[str, Setting]:
    names = {variable_of(name): name for name in ("app", *rows())}
    found = {}
    for variable, text in environ.items():
        # SUBSERVE_CONFIG names the file itself; the command line has read it already.
        if not variable.startswith("SUBSERVE_") or variable == "SUBSERVE_CONFIG":
            continue
        if _KUBERNETES.fullmatch(f"{variable}={text}"):
            continue
        if variable not in names:
            hint = nearest(variable, [*names, "SUBSERVE_CONFIG"], "SUBSERVE_")
            problems.append(f"{variable}: unknown variable{hint}")
            continue
        name = names[variable]
        several = name in rows() and rows()[name][1].repeatable
        texts = tuple(part.strip() for part in text.split(",")) if several else (text,)
        found[name] = Setting(texts, variable)
    return found


def _from_file(directory: Path, given: str | None, problems: list[str]) -> dict[str, Setting]:
    path, table = _load_file(directory, given, problems)
    names = {name.replace("_", "-"): name for name in ("app", *rows())}
    found = {}
    for key, value in table.items():
        name = names.get(key.replace("_", "-"))
        origin = f"{path}: {key}"
        if name is None:
            problems.append(f"{origin}: unknown key{nearest(key.replace('_', '-'), names)}")
        elif name in found:
            problems.append(f"{origin}: given twice")
        elif expected := _mistyped(name, value):
            got = _TOML_NAMES.get(type(value), "a date or time")
            problems.append(f"{origin}: expected {expected}, got {got}")
        else:
            items = value if isinstance(value, list) else [value]
            found[name] = Setting(tuple(value_text(item) for item in items), origin)
    return found


_TOML_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a fraction",
    str: "a string",
    list: "a list",
    dict: "a table",
}


def _mistyped(name: str, value: Any) -> str | None:
    """Return what a key expects where `value` has another type; a string is parsed, so it may do.

    No type is taken for another: ``access-log = true`` would be a file named "on".
    """
    if type(value) is str:
        return None
    kind = str if name == "app" else type(rows()[name][0].default)
    if kind is tuple:
        fits = type(value) is list and value and all(type(item) is str for item in value)
        return None if fits else "a string, or a list of at least one"
    if type(value) is kind or (kind is float and type(value) is int):
        return None
    return "a number of seconds" if kind is float else _TOML_NAMES[kind]


def _load_file(
    directory: Path, given: str | None, problems: list[str]
) -> tuple[Path, dict[str, Any]]:
    """Return the path and the table of the file in charge; an empty table where there is none."""
    for path in (
        [Path(given)] if given else [directory / "subserve.toml", directory / "pyproject.toml"]
    ):
        if not given and not path.is_file():
            continue
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}")
        # TOML syntax, or not UTF-8; lists in lists in lists
        except (ValueError, RecursionError) as error:
            problems.append(f"{path}: not valid TOML: {error}")
        else:
            if path.name != "pyproject.toml":
                return path, document
            tools = document.get("tool", {})
            table = tools.get("subserve") if isinstance(tools, dict) else None
            if isinstance(table, dict):
                return path, table
            if given or table is not None:
                problems.append(f"{path}: has no table [tool.subserve]")
    return directory, {}


def _contradictions(config: Config, settings: Mapping[str, Setting]) -> Iterator[str]:
    def flag(name: str) -> str:
        return settings[name].origin if name in settings else flag_of(name)

    for name in ("keyfile", "keyfile_password", "keyfile_password_file", "ca_certs"):
        if getattr(config, name) and not config.certfile:
            yield f"{flag(name)}: needs --certfile"
    if config.keyfile and config.certfile and len(config.keyfile) != len(config.certfile):
        yield (
            f"{flag('keyfile')}: {len(config.keyfile)} of them for {len(config.certfile)} "
            "--certfile; give one for each, or none where the keys are in those files"
        )
    if config.keyfile_password and config.keyfile_password_file:
        yield f"{flag('keyfile_password_file')}: there is a --keyfile-password, too; give one"
    for name in OWN_LANES if config.http == "hypercorn" else ():
        if name in settings:
            yield f"{flag(name)}: means nothing to Hypercorn; leave it out, or --http hypercorn"
    if config.verify_client != "none" and not config.ca_certs:
        yield f"{flag('verify_client')}: needs --ca-certs, to know whom to trust"
    if config.ca_certs and config.verify_client == "none":
        yield f"{flag('ca_certs')}: checks nobody without --verify-client optional or required"
    for name in ("certfile", "keyfile", "keyfile_password_file", "ca_certs"):
        value = getattr(config, name)
        for path in value if isinstance(value, tuple) else (value,):
            if path and not os.access(path, os.R_OK):
                yield f"{flag(name)}: cannot read {path!r}"
    if not Path(config.app_dir).is_dir():
        yield f"{flag('app_dir')}: {config.app_dir!r} is not a directory"
    for folder in config.reload_dir:
        if not Path(folder).is_dir():
            yield f"{flag('reload_dir')}: {folder!r} is not a directory"
    if config.no_supervisor and config.reload:
        yield f"{flag('reload')}: needs the supervisor"
    if config.no_supervisor and config.processes > 1:
        yield f"{flag('processes')}: needs the supervisor"
    if len(set(config.bind)) != len(config.bind):
        yield f"{flag('bind')}: the same address twice"
    if config.startup_timeout <= 0:
        yield f"{flag('startup_timeout')}: must be more than 0"
    if config.keep_alive_timeout <= 0:
        yield f"{flag('keep_alive_timeout')}: must be more than 0"
    if 0 < config.hang_timeout < LEAST_HANG_TIMEOUT:
        yield f"{flag('hang_timeout')}: must be at least {LEAST_HANG_TIMEOUT:g}, or off"
    if config.max_requests_jitter and not config.max_requests:
        yield f"{flag('max_requests_jitter')}: does nothing without --max-requests"
    yield from _format_problems(config, flag)


def _format_problems(config: Config, flag: Any) -> Iterator[str]:
    class Anything(dict[str, str]):
        def __missing__(self, key: str) -> str:
            return "-"

    try:
        config.access_log_format % Anything()
    except (ValueError, TypeError, KeyError) as error:
        yield f"{flag('access_log_format')}: not a format: {error}"
