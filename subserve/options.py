"""The one table of options: each row is a field of `Config`.

A row gives the field's type, default, help and parser once; the command line, the ``SUBSERVE_*``
variables, the configuration file, ``--help`` and the README table are all made from it.  Values
are primitives, or tuples of them, so that a whole `Config` crosses into a sub-interpreter as JSON.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any, Literal

from subserve.binds import parse_bind
from subserve.trust import parse_networks

type Parser = Callable[[str], Any]

GROUPS = ("listen", "workers", "app", "time", "limits", "WebSocket", "TLS", "proxy", "logs", "run")

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?", re.ASCII)
_SECONDS = {"ms": 0.001, None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_MAX_SECONDS = 365 * 24 * 3600.0
"""Far below where time-outs overflow in the C of selectors and threads."""

_COUNT = re.compile(r"\d{1,10}", re.ASCII)
_MAX_COUNT = 2**31 - 1
"""What listen(2) takes for a backlog."""

_MASK = re.compile(r"[0-7]{1,4}", re.ASCII)

_SIZE = re.compile(r"(\d{1,12})\s*([kmg])?(?:i?b)?", re.ASCII | re.IGNORECASE)
_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def parse_duration(text: str) -> float:
    """Read ``30``, ``1.5s``, ``200ms``, ``2m`` or ``1h`` as seconds; raise `ValueError` else."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected a duration such as 30, 1.5s, 200ms, 2m or 1h")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > _MAX_SECONDS:
        raise ValueError(f"expected a duration of at most {_MAX_SECONDS / 3600:g}h")
    return seconds


def parse_size(text: str) -> int:
    """Read ``65536``, ``64k``, ``16MiB`` or ``1g`` (powers of 1024) as bytes, at least 1."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise ValueError("expected a size such as 65536, 64k or 16MiB")
    return int(match[1]) * _BYTES[(match[2] or "").lower()]


def parse_count(text: str) -> int:
    """Read a whole number of at least 1."""
    if _COUNT.fullmatch(text.strip()) is None or not 1 <= int(text) <= _MAX_COUNT:
        raise ValueError("expected a whole number of at least 1")
    return int(text)


def _window_bits(text: str) -> int:
    if not text.strip().isascii() or not text.strip().isdigit() or not 9 <= int(text) <= 15:
        raise ValueError("expected a whole number from 9 to 15")
    return int(text)


def parse_workers(text: str) -> int:
    """Read a number of workers; ``auto`` is kept as 0 until the usable cores are counted."""
    if text.strip().lower() == "auto":
        return 0
    try:
        return parse_count(text)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


def or_off(parse: Parser) -> Parser:
    """Return a parser that reads ``off`` and ``0`` as 0, and what else there is as `parse` does."""

    def parse_or_off(text: str) -> Any:
        if text.strip().lower() in {"off", "0"}:
            return 0
        try:
            return parse(text)
        except ValueError as error:
            raise ValueError(f"{error}, or off") from None

    return parse_or_off


def parse_flag(text: str) -> bool:
    """Read true/false, yes/no, on/off, 1/0."""
    match text.strip().lower():
        case "true" | "yes" | "on" | "1":
            return True
        case "false" | "no" | "off" | "0":
            return False
    raise ValueError("expected true or false")


def parse_root_path(text: str) -> str:
    """Read a URL prefix: empty, or ``/prefix`` without a slash at its end."""
    if text in {"", "/"}:
        return ""
    if not text.startswith("/") or not text.isprintable() or "?" in text or "#" in text:
        raise ValueError("expected a URL path such as /api")
    return text.rstrip("/")


FORWARDING_HEADERS = (
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "forwarded",
)
"""What proxies tell us of their clients in, and is read."""


def parse_forwarding_headers(text: str) -> str:
    """Read names of `FORWARDING_HEADERS`, separated by commas, in any case."""
    names = [name.strip().lower() for name in text.split(",")]
    if not set(names) <= set(FORWARDING_HEADERS):
        raise ValueError(f"expected some of {', '.join(FORWARDING_HEADERS)}")
    return ",".join(names)


def parse_umask(text: str) -> str:
    """Read an octal mask such as ``027``; empty stands for the one we were started with."""
    if text and (_MASK.fullmatch(text) is None or int(text, 8) > 0o777):
        raise ValueError("expected an octal mask such as 027")
    return text


def _bind(text: str) -> str:
    parse_bind(text)
    return text


def _one_of(*values: str) -> Parser:
    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"expected one of {', '.join(values)}")
        return text

    return parse


@dataclass(frozen=True, slots=True)
class Row:
    """How an option is spelled, read and explained."""

    help: str
    group: str
    parse: Parser
    metavar: str
    short: str | None = None
    repeatable: bool = False
    secret: bool = False
    default_text: str | None = None


def _option(
    default: Any,
    explanation: str,
    *,
    group: str,
    parse: Parser = str,
    metavar: str = "TEXT",
    choices: Iterable[str] = (),
    short: str | None = None,
    repeatable: bool = False,
    secret: bool = False,
    default_text: str | None = None,
) -> Any:
    """Declare one row; `choices` stands for a parser and a metavar at once."""
    if choices := tuple(choices):
        parse, metavar = _one_of(*choices), "|".join(choices)
    row = Row(explanation, group, parse, metavar, short, repeatable, secret, default_text)
    return field(default=default, metadata={"row": row})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything an operator decides; see the README for the same table in prose.

    Durations are float seconds, sizes are bytes.  `app` is ``module:attribute``.
    """

    app: str = ""

    bind: tuple[str, ...] = _option(
        ("127.0.0.1:8000",),
        "Address to listen on: host:port, [v6]:port, unix:/path or fd://n. Repeatable.",
        group="listen",
        parse=_bind,
        metavar="ADDRESS",
        short="-b",
        repeatable=True,
    )
    backlog: int = _option(
        2048,
        "Connections the kernel may queue per listener while all workers are busy.",
        group="listen",
        parse=parse_count,
        metavar="N",
    )

    workers: int = _option(
        0,
        "Sub-interpreters that run the app, each with its own GIL; auto is one per usable core.",
        group="workers",
        parse=parse_workers,
        metavar="N|auto",
        short="-w",
        default_text="auto",
    )
    threads: int = _option(
        4,
        "Threads per worker that run a WSGI app.",
        group="workers",
        parse=parse_count,
        metavar="N",
        short="-t",
    )
    processes: int = _option(
        1,
        "Serving processes, each with --workers of its own; a crash in C code costs one of them.",
        group="workers",
        parse=parse_count,
        metavar="N",
    )
    loop: Literal["asyncio", "uvloop"] = _option(
        "asyncio",
        "Event loop of the workers; uvloop needs the package of that name.",
        group="workers",
        choices=("asyncio", "uvloop"),
    )
    http: Literal["own", "hypercorn"] = _option(
        "own",
        "Who speaks HTTP and WebSocket: subserve's own lanes, or Hypercorn's protocol classes, "
        "which are slower, less strict, and know fewer limits.",
        group="workers",
        choices=("own", "hypercorn"),
    )
    http_parser: Literal["auto", "c", "python"] = _option(
        "auto",
        "Read HTTP/1.1 heads in C, where that part of subserve was built, or in Python.",
        group="workers",
        choices=("auto", "c", "python"),
    )
    extensions: Literal["isolate", "native"] = _option(
        "isolate",
        "Give each worker its own copy of C and Rust extension modules, or leave them to CPython, "
        "which refuses those not made for several GILs.",
        group="workers",
        choices=("isolate", "native"),
    )

    interface: Literal["auto", "asgi", "wsgi"] = _option(
        "auto",
        "What the app speaks; auto looks at its signature.",
        group="app",
        choices=("auto", "asgi", "wsgi"),
    )
    factory: bool = _option(
        False,
        "APP names a function without arguments that returns the app.",
        group="app",
        parse=parse_flag,
        metavar="",
    )
    app_dir: str = _option(
        ".",
        "Directory to import the app from, put first on sys.path.",
        group="app",
        metavar="DIR",
    )
    root_path: str = _option(
        "",
        "URL prefix under which a proxy mounts the app (ASGI root_path, WSGI SCRIPT_NAME).",
        group="app",
        parse=parse_root_path,
        metavar="PATH",
        default_text="none",
    )
    lifespan: Literal["auto", "on", "off"] = _option(
        "auto",
        "ASGI lifespan: auto serves apps that do not speak it, on makes that an error.",
        group="app",
        choices=("auto", "on", "off"),
    )

    startup_timeout: float = _option(
        60.0,
        "Time a worker may take to import the app and to run its lifespan startup.",
        group="time",
        parse=parse_duration,
        metavar="TIME",
    )
    graceful_timeout: float = _option(
        30.0,
        "Time that requests in flight are given to finish when the server stops.",
        group="time",
        parse=parse_duration,
        metavar="TIME",
    )
    keep_alive_timeout: float = _option(
        75.0,
        "Time a connection may stay idle between requests; keep it above the proxy's.",
        group="time",
        parse=parse_duration,
        metavar="TIME",
    )
    header_timeout: float = _option(
        10.0,
        "Time a client may take for a request head, all in all, to begin its first one, and for "
        "the TLS handshake before it.",
        group="time",
        parse=parse_duration,
        metavar="TIME",
    )
    body_timeout: float = _option(
        30.0,
        "Time that a request body may stand still while the server waits for more of it.",
        group="time",
        parse=parse_duration,
        metavar="TIME",
    )
    write_timeout: float = _option(
        30.0,
        "Time that a response may stand still because its client does not read.",
        group="time",
        parse=parse_duration,
        metavar="TIME",
    )
    ws_ping_interval: float = _option(
        20.0,
        "Time after which a WebSocket client that says nothing is asked whether it is there, "
        "or off.",
        group="time",
        parse=or_off(parse_duration),
        metavar="TIME|off",
    )
    ws_ping_timeout: float = _option(
        20.0,
        "Time that it is given to answer before its WebSocket is closed with 1011, or off.",
        group="time",
        parse=or_off(parse_duration),
        metavar="TIME|off",
    )
    hang_timeout: float = _option(
        30.0,
        "Time for which an event loop may not run, because of a blocking call or an endless loop, "
        "before its worker is replaced, or off.",
        group="time",
        parse=or_off(parse_duration),
        metavar="TIME|off",
    )
    request_timeout: float = _option(
        0.0,
        "Time that the app may take for a request before it is interrupted and the client answered "
        "504, or off; not for WebSockets and ASGI event streams.",
        group="time",
        parse=or_off(parse_duration),
        metavar="TIME|off",
        default_text="off",
    )
    max_worker_lifetime: float = _option(
        0.0,
        "Time after which a worker is replaced by a new one, or off.",
        group="time",
        parse=or_off(parse_duration),
        metavar="TIME|off",
        default_text="off",
    )

    max_requests: int = _option(
        0,
        "Requests after which a worker is replaced by a new one, or off.",
        group="limits",
        parse=or_off(parse_count),
        metavar="N|off",
        default_text="off",
    )
    max_requests_jitter: int = _option(
        0,
        "At most so many more, at random, so that the workers do not come to it all at once.",
        group="limits",
        parse=or_off(parse_count),
        metavar="N|off",
        default_text="off",
    )
    max_rss: int = _option(
        0,
        "Resident memory of the serving process beyond which its supervisor replaces it, or off.",
        group="limits",
        parse=or_off(parse_size),
        metavar="SIZE|off",
        default_text="off",
    )
    max_header_bytes: int = _option(
        32 * 1024,
        "Largest request head that is accepted.",
        group="limits",
        parse=parse_size,
        metavar="SIZE",
        default_text="32KiB",
    )
    max_header_count: int = _option(
        100,
        "Most header fields that a request may have.",
        group="limits",
        parse=parse_count,
        metavar="N",
    )
    max_body_bytes: int = _option(
        0,
        "Largest request body that is accepted, or off.",
        group="limits",
        parse=or_off(parse_size),
        metavar="SIZE|off",
        default_text="off",
    )
    min_rate: int = _option(
        240,
        "Bytes a second that a client has to send of a body, or take of a response, over HTTP/1.1 "
        "on average, or off; it may be behind by --body-timeout or --write-timeout.",
        group="limits",
        parse=or_off(parse_size),
        metavar="SIZE|off",
    )
    max_connections: int = _option(
        0,
        "Most connections that a worker has open at a time, or off; beyond that none is accepted, "
        "and the kernel queues.",
        group="limits",
        parse=or_off(parse_count),
        metavar="N|off",
        default_text="off",
    )
    h2_max_concurrent_streams: int = _option(
        128,
        "Requests that a client may have open at a time over one HTTP/2 connection.",
        group="limits",
        parse=parse_count,
        metavar="N",
    )
    max_queue: int = _option(
        1000,
        "Requests for a WSGI app that may wait for a thread, per worker; more are answered 503.",
        group="limits",
        parse=parse_count,
        metavar="N",
    )
    ws_max_message_bytes: int = _option(
        16 * 1024 * 1024,
        "Largest WebSocket message that is accepted, once it is inflated.",
        group="limits",
        parse=parse_size,
        metavar="SIZE",
        default_text="16MiB",
    )

    ws_compression: Literal["on", "off"] = _option(
        "on",
        "Whether WebSocket messages are compressed where the client offers it.",
        group="WebSocket",
        choices=("on", "off"),
    )
    ws_window_bits: int = _option(
        12,
        "Size of the windows for that, as a power of two from 9 to 15: more compresses better and "
        "takes more memory per connection, 8 KiB with 9, 32 KiB with 12, 256 KiB with 15.",
        group="WebSocket",
        parse=_window_bits,
        metavar="N",
    )
    ws_context_takeover: Literal["on", "off"] = _option(
        "on",
        "Whether a message may be compressed by reference to those before it; off takes no memory "
        "between messages.",
        group="WebSocket",
        choices=("on", "off"),
    )

    certfile: tuple[str, ...] = _option(
        (),
        "PEM file with a certificate and its chain; turns TLS on for all listeners. Repeatable: "
        "each client gets the one with the name that it asks for, or the first.",
        group="TLS",
        metavar="FILE",
        repeatable=True,
        default_text="none",
    )
    keyfile: tuple[str, ...] = _option(
        (),
        "PEM file with the private key, where it is not in the certificate's file. Repeatable: one "
        "for each --certfile, in the same order.",
        group="TLS",
        metavar="FILE",
        repeatable=True,
        default_text="none",
    )
    keyfile_password: str = _option(
        "",
        "Password of the private keys; SUBSERVE_KEYFILE_PASSWORD hides it from ps.",
        group="TLS",
        metavar="TEXT",
        secret=True,
        default_text="none",
    )
    keyfile_password_file: str = _option(
        "",
        "File that holds the password of the private keys.",
        group="TLS",
        metavar="FILE",
        default_text="none",
    )
    tls_min_version: Literal["1.2", "1.3"] = _option(
        "1.2",
        "Oldest version of TLS that is spoken.",
        group="TLS",
        choices=("1.2", "1.3"),
    )
    ca_certs: str = _option(
        "",
        "PEM file with the authorities that client certificates are checked against.",
        group="TLS",
        metavar="FILE",
        default_text="none",
    )
    verify_client: Literal["none", "optional", "required"] = _option(
        "none",
        "Whether clients must show a certificate; needs --ca-certs.",
        group="TLS",
        choices=("none", "optional", "required"),
    )

    forwarded_allow_ips: tuple[str, ...] = _option(
        ("127.0.0.0/8", "::1", "unix"),
        "Proxies whose Forwarded and X-Forwarded-* headers are believed: networks, addresses, unix "
        "for unix sockets, * for all. Repeatable, or with commas.",
        group="proxy",
        parse=parse_networks,
        metavar="NETWORK",
        repeatable=True,
    )
    forwarded_headers: tuple[str, ...] = _option(
        FORWARDING_HEADERS,
        "Headers that these proxies write; others of that kind are a client's, and are dropped. "
        "Repeatable, or with commas.",
        group="proxy",
        parse=parse_forwarding_headers,
        metavar="NAME",
        repeatable=True,
    )
    proxy_protocol: bool = _option(
        False,
        "Each connection begins with a PROXY protocol header, version 1 or 2, from a peer in "
        "--forwarded-allow-ips.",
        group="proxy",
        parse=parse_flag,
        metavar="",
    )

    log_level: Literal["debug", "info", "warning", "error"] = _option(
        "info",
        "Least severe records of the server to log, on standard error.",
        group="logs",
        choices=("debug", "info", "warning", "error"),
    )
    log_format: Literal["text", "json"] = _option(
        "text",
        "One line of text, or one JSON object a record.",
        group="logs",
        choices=("text", "json"),
    )
    access_log: str = _option(
        "off",
        "Where to log requests: - for standard output, a file, or off.",
        group="logs",
        metavar="-|FILE|off",
    )
    access_log_format: str = _option(
        '%(h)s "%(m)s %(Uq)s HTTP/%(H)s" %(s)s %(b)s %(L)s',
        "Atoms of an access log line: h client, m method, Uq path and query, H version of HTTP, "
        "s status, b bytes, L seconds, f referer, a user agent, {name}i and {name}o request and "
        "response headers.",
        group="logs",
        metavar="FORMAT",
    )

    no_supervisor: bool = _option(
        False,
        "Serve without a process that watches over the one that serves: nothing is replaced after "
        "a crash, and no new code is loaded.",
        group="run",
        parse=parse_flag,
        metavar="",
    )
    pid_file: str = _option(
        "",
        "File to write the process id of the supervisor to; a second server on it is refused.",
        group="run",
        metavar="FILE",
        default_text="none",
    )
    user: str = _option(
        "",
        "User, by name or number, to serve as once the addresses are bound; for a start as root.",
        group="run",
        metavar="USER",
        default_text="none",
    )
    group: str = _option(
        "",
        "Group, by name or number, to serve as; the user's own unless given.",
        group="run",
        metavar="GROUP",
        default_text="none",
    )
    umask: str = _option(
        "",
        "Permissions, octal, that files and unix sockets are not given.",
        group="run",
        parse=parse_umask,
        metavar="MASK",
        default_text="none",
    )
    reload: bool = _option(
        False,
        "Load the code anew when it changes, for development; needs the package watchfiles.",
        group="run",
        parse=parse_flag,
        metavar="",
    )
    reload_dir: tuple[str, ...] = _option(
        (".",),
        "Directory to watch. Repeatable.",
        group="run",
        metavar="DIR",
        repeatable=True,
    )
    reload_include: tuple[str, ...] = _option(
        ("*.py",),
        "Files that count as code: a glob for the name or, with a slash, for the path. Repeatable.",
        group="run",
        metavar="GLOB",
        repeatable=True,
    )
    reload_exclude: tuple[str, ...] = _option(
        (".*", "__pycache__", "node_modules"),
        "Files and directories that do not count. Repeatable.",
        group="run",
        metavar="GLOB",
        repeatable=True,
    )
    crash_limit: int = _option(
        10,
        "Crashes of serving processes within a minute after which the server gives up.",
        group="run",
        parse=parse_count,
        metavar="N",
    )

    def to_json(self) -> str:
        """Return this configuration as text that `from_json` reads in another interpreter."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Make a configuration from `to_json`'s text; lists become tuples again."""
        values: dict[str, Any] = json.loads(text)
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(value)
        return cls(**values)


def rows() -> dict[str, tuple[Field[Any], Row]]:
    """Return the table: field name to the field and its row, in the order of declaration."""
    return {f.name: (f, f.metadata["row"]) for f in fields(Config) if "row" in f.metadata}


def flag_of(name: str) -> str:
    """Return a field as the command line spells it: ``--graceful-timeout``."""
    return "--" + name.replace("_", "-")


def off_flag_of(name: str) -> str:
    """Return how the command line turns a switch off: ``--no-factory``, ``--supervisor``."""
    plain = name.removeprefix("no_")
    return flag_of(plain if plain != name else f"no_{name}")


def variable_of(name: str) -> str:
    """Return the environment variable of a field: ``SUBSERVE_GRACEFUL_TIMEOUT``."""
    return "SUBSERVE_" + name.upper()


def default_text(name: str) -> str:
    """Return the default of a field as an operator would write it."""
    option, row = rows()[name]
    if row.default_text is not None:
        return row.default_text
    assert option.default is not MISSING
    return value_text(option.default)


def value_text(value: Any) -> str:
    """Return a value of a field as an operator would write it."""
    match value:
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:.6f}".rstrip("0").removesuffix(".")
        case tuple():
            return ", ".join(map(str, value))
    return str(value)
