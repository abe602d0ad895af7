"""argv -> `Config` -> server -> exit code."""

import argparse
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="subserve",
        usage="subserve [OPTIONS] APP",
        description=_DESCRIPTION,
        epilog=_epilog(),
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


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse `argv`; also return what is wrong with it, naming the option most like each unknown.

    Problems are not raised here, so that they can be shown together with those of the values.
    """
    parser = _parser()
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
    try:
        namespace, problems = parse(sys.argv[1:] if argv is None else argv)
        if namespace.help:
            _parser().print_help()
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
        _fill_standard_descriptors()
        return _serve(resolved.config, namespace)
    except SubserveError as error:
        return tell(error)


def _serve(config: Config, namespace: argparse.Namespace) -> int:
    # Imported late: --help and configuration errors need none of the server.
    if config.no_supervisor:
        from subserve.coordinator.server import serve

        return serve(config)

    from subserve.supervisor.server import supervise

    return supervise(config, lambda: configure(namespace).config)
