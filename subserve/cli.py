"""argv -> `Config` -> server -> exit code."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from subserve import __version__
from subserve.config import Resolved, Setting, nearest, resolve
from subserve.errors import ConfigError, SubserveError, tell
from subserve.options import GROUPS, Config, default_text, flag_of, off_flag_of, rows, variable_of
from subserve.systemd import passed_sockets

_DESCRIPTION = "Serve an ASGI or WSGI app from sub-interpreters, each with its own GIL."

_CHECK = "check"
"""The one sub-command.  An app in a module of that name is served as ``check:app``."""

_CHECK_DESCRIPTION = """\
Load an ASGI or WSGI app in several workers of a process that is thrown away, start it, request
paths, close it, and do so once more; say which of its extension modules work in sub-interpreters,
what they cost, and what else matters there."""

_CHECK_EPILOG = """\
examples:
  subserve check myproject.asgi:application
  subserve check shop:create_app --factory --get /health --get /
  subserve check shop:app --json > check.json

exit codes:
  0          the app works in sub-interpreters
  1          something of it breaks there
  2          an option, a variable or a key of the configuration file is wrong
  3          the app cannot be loaded or started, sub-interpreters or not

All options of `subserve` can be given, and are read from variables and the file as usual; --workers
is 4 unless it is set.  To serve an app in a module that is called check: `subserve check:app`."""

SIGNALS = (
    ("TERM, INT", "Finish the requests in flight, then stop; a second INT stops at once."),
    ("QUIT", "Stop at once."),
    ("USR1", "Reopen the access log, which log rotation has moved away."),
    ("TTIN, TTOU", "Add a worker; remove one, unless it is the last."),
    ("HUP", "Load configuration and code anew, without losing a request."),
)

EXIT_CODES = (
    (0, "stopped as asked"),
    (2, "an option, a variable or a key of the configuration file is wrong"),
    (3, "the app could not be loaded or started"),
    (4, "an address could not be bound"),
    (1, "anything else"),
)


def _epilog() -> str:
    signals = "\n".join(f"  {name:<10} {text}" for name, text in SIGNALS)
    codes = "\n".join(f"  {code:<10} {text}" for code, text in EXIT_CODES)
    return f"""\
examples:
  subserve myproject.asgi:application --workers 8
  subserve shop:create_app --factory --bind unix:/run/shop.sock
  SUBSERVE_WORKERS=4 subserve shop:app --certfile cert.pem --keyfile key.pem
  subserve check shop:app     see whether it works in sub-interpreters; `subserve check --help`
  subserve check:app          serve an app from a module that is called check

signals:
{signals}

exit codes:
{codes}

A switch that a variable or the file turns on is turned off by --no- before it: --no-factory,
--no-reload; and --no-supervisor by --supervisor.

Every option can also be a variable (--graceful-timeout is SUBSERVE_GRACEFUL_TIMEOUT) or a key
(graceful-timeout) of subserve.toml, or of [tool.subserve] in pyproject.toml."""


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are our own, so that one place prints and exits."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _parser(*, check: bool = False) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="subserve check" if check else "subserve",
        usage="subserve check [OPTIONS] APP" if check else "subserve [OPTIONS] APP",
        description=_CHECK_DESCRIPTION if check else _DESCRIPTION,
        epilog=_CHECK_EPILOG if check else _epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "app",
        metavar="APP",
        nargs="?",
        help="module:attribute of the app; the attribute defaults to app, then application",
    )
    if check:
        group = parser.add_argument_group("check")
        group.add_argument(
            "--get",
            metavar="PATH",
            action="append",
            default=[],
            help="request this path, several times at once; may be given more than once",
        )
        group.add_argument("--json", action="store_true", help="print the findings as JSON")
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for name, (_, row) in rows().items():
        names = [flag_of(name)] if row.short is None else [row.short, flag_of(name)]
        text = f"{row.help} [default: {default_text(name)}]".replace("%", "%%")
        group = groups[row.group]
        if row.metavar:
            group.add_argument(
                *names, dest=name, metavar=row.metavar, action="append", default=None, help=text
            )
        else:
            # Not in the help: it would double the lines of all switches.
            for flags, const, shown in (
                (names, "true", text),
                ([off_flag_of(name)], "false", argparse.SUPPRESS),
            ):
                group.add_argument(
                    *flags,
                    dest=name,
                    action="append_const",
                    const=const,
                    default=None,
                    help=shown,
                )
    run = groups["run"]
    run.add_argument("--config", metavar="FILE", help="configuration file to read instead")
    run.add_argument(
        "--show-config", action="store_true", help="print each value and where it comes from"
    )
    run.add_argument("--version", action="store_true", help="print the version")
    run.add_argument("-h", "--help", action="store_true", help="print this text")
    return parser


def parse(argv: Sequence[str], *, check: bool = False) -> tuple[argparse.Namespace, list[str]]:
    """Parse `argv`; also return what is wrong with it, naming the option most like each unknown.

    With `check` it is that of the sub-command.
    Problems are not raised here, so that they can be shown together with those of the values.
    """
    parser = _parser(check=check)
    namespace, unknown = parser.parse_known_args(argv)
    known = [flag for action in parser._actions for flag in action.option_strings]
    flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
    if flags:  # a word beside them may well be the value of one
        return namespace, [f"{flag}: unknown option{nearest(flag, known)}" for flag in flags]
    return namespace, [f"{word}: unexpected argument; subserve serves one APP" for word in unknown]


def configure(namespace: argparse.Namespace, problems: Sequence[str] = ()) -> Resolved:
    """Merge the parsed arguments with the environment and the file of the working directory.

    Raises `ConfigError` that lists `problems` and those of the values.
    """
    arguments = {
        name: Setting(tuple(texts), flag_of(name))
        for name in rows()
        if (texts := getattr(namespace, name)) is not None
    }
    if namespace.app is not None:
        arguments["app"] = Setting((namespace.app,), "command line")
    config_file = namespace.config or os.environ.get("SUBSERVE_CONFIG")
    passed = passed_sockets(os.environ, os.getpid())
    return resolve(arguments, os.environ, Path.cwd(), config_file, problems, passed)


def _fill_standard_descriptors() -> None:
    """Open /dev/null in place of a closed stdin, stdout or stderr.

    Else the next descriptor opened, a listener's or a client's, would be number 2, which log
    records are written to.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code of the process."""
    words = sys.argv[1:] if argv is None else list(argv)
    check = words[:1] == [_CHECK]
    try:
        namespace, problems = parse(words[check:], check=check)
        if namespace.help:
            _parser(check=check).print_help()
            return 0
        if namespace.version:
            print(f"subserve {__version__}")
            return 0
        resolved = configure(namespace, problems)
        if namespace.show_config:
            print(resolved.report())
            return 0
        if not resolved.config.app:
            raise ConfigError(
                f"no app given; run `subserve module:app`, or set {variable_of('app')}"
            )
        if check:
            return _check(resolved, namespace)
        _fill_standard_descriptors()
        return _serve(resolved.config, namespace)
    except SubserveError as error:
        return tell(error)


def _check(resolved: Resolved, namespace: argparse.Namespace) -> int:
    from subserve.check.command import DEFAULT_WORKERS, main

    config = resolved.config
    if "workers" not in resolved.origins:
        config = dataclasses.replace(config, workers=DEFAULT_WORKERS)
    return main(config, namespace.get, json=namespace.json)


def _serve(config: Config, namespace: argparse.Namespace) -> int:
    # Imported late: --help and configuration errors need none of the server.
    if config.no_supervisor:
        from subserve.coordinator.server import serve

        return serve(config)

    from subserve.supervisor.server import supervise

    return supervise(config, lambda: configure(namespace).config)
