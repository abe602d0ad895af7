"""What is fuzzed: a function each, that raises `AssertionError` or anything else undocumented.

To add one: write it, give it a row in `TARGETS`, and a file of the same name in ``corpus``.  Where
an input is cut, and whatever else is chosen at random, has to depend on nothing but the input.
"""

import asyncio
import random
import re
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory

from subserve import channel, cli
from subserve.config import Setting, resolve
from subserve.errors import ChannelError, ConfigError
from subserve.http.forwarded import Forwarding, is_about_forwarding
from subserve.http.h1.chunked import ChunkedDecoder
from subserve.http.h1.head import Refused
from subserve.http.h1.response import ResponseHead
from subserve.http.h1.speed import choose
from subserve.http.proxy_protocol import SIGNATURE, NotProxied, parse_header
from subserve.http.wsgi.errors import WsgiViolation
from subserve.http.wsgi.head import parse_head
from subserve.messages import Decoder, Message, Signal, encode
from subserve.options import Config, flag_of, rows
from tests.conformance.invariants import check_one_response_each
from tests.fuzz.engine import Target
from tests.unit.h1_harness import Bench, Outcome

PARSERS = ("python",) if choose("auto") == choose("python") else ("python", "c")

_folder = TemporaryDirectory(prefix="subserve-fuzz-")
FOLDER = Path(_folder.name)


def pieces(data: bytes, chance: random.Random) -> list[bytes]:
    """Return `data` in up to nine pieces; some may be empty, which no socket would bring."""
    cuts = sorted(chance.randint(0, len(data)) for _ in range(chance.randint(1, 8)))
    found = [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, None], strict=True)]
    return [piece for piece in found if piece]


def chance_of(data: bytes) -> random.Random:
    return random.Random(zlib.crc32(data))


# ---- the HTTP/1.1 lane

_benches: dict[str, Bench] = {}


@contextmanager
def _no_errors_of_the_loop() -> Iterator[None]:
    """Fail on what ends up with the loop's exception handler."""
    told: list[object] = []
    for bench in _benches.values():
        loop: asyncio.AbstractEventLoop = bench._runner.get_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))
    yield
    assert not told, told


def http1(data: bytes) -> None:
    """What a client sends: read the same by both parsers, however it is cut, a response each."""
    for parser in PARSERS:
        if parser not in _benches:
            _benches[parser] = Bench(http_parser=parser)
    parts = pieces(data, chance_of(data))
    with _no_errors_of_the_loop():
        outcomes: list[Outcome] = []
        for bench in _benches.values():
            outcomes += (bench.exchange(data), bench.exchange(*parts))
    for outcome in outcomes:
        check_one_response_each(outcome)
        assert outcome.summary == outcomes[0].summary, parts
        for seen in outcome.seen:
            for name, value in seen.scope["headers"]:
                assert not {*name} & {*b"\r\n\0: "}, name
                assert not {*value} & {*b"\r\n\0"}, value


def chunked(data: bytes) -> None:
    """A chunked body: the same data, or refused, however it is cut."""
    chance = chance_of(data)
    whole = _decode_chunks([data])
    assert _decode_chunks(pieces(data, chance)) == whole
    assert _decode_chunks([data[i : i + 1] for i in range(len(data))]) == whole


def _decode_chunks(parts: list[bytes]) -> object:
    decoder = ChunkedDecoder(200, 4)
    body, rest = b"", b""
    for part in parts:
        if decoder.complete:
            rest += part
            continue
        try:
            found, rest = decoder.feed(part)
        except Refused as refusal:
            return refusal.status
        assert len(found) <= 1
        body += b"".join(found)
    return body, rest, decoder.complete


# ---- what proxies say


def proxy_protocol(data: bytes) -> None:
    """The header before all else: nothing is taken that is the client's, however it comes."""
    try:
        whole = parse_header(data)
    except NotProxied:
        whole = None
        refused = True
    else:
        refused = False
    for size in range(1, len(data)):
        try:
            found = parse_header(data[:size])
        except NotProxied:
            assert refused, size
            return
        if found is not None:
            assert found == whole
            assert found.size == size, "all before was not complete"
            return
    assert whole is None or whole.size == len(data)


def forwarded(data: bytes) -> None:
    """Headers, a line each: an address is one, and of nobody who is not trusted a word remains."""
    data = data.translate(None, bytes({*range(0x20), 0x7F} - {*b"\n\t"}))  # as the lane refuses
    lines = [line.partition(b":")[::2] for line in data.split(b"\n")]
    headers = [(name.lower(), value.strip()) for name, value in lines]
    for peer in ("127.0.0.1", "192.0.2.7"):
        told = _FORWARDING.read(headers, (peer, 1), "http", ("192.0.2.1", 80))
        if told.client is not None:
            address, port = told.client
            assert str(ip_address(address)) == address
            assert 0 <= port <= 65535
        assert told.scheme in {"http", "https"}
        assert told.root_path is None or re.fullmatch(r"(/[^/\s]+)*", told.root_path)
        for name, value in told.headers:
            assert not {*name, *value} & {*b"\r\n\0"}
        if peer == "192.0.2.7":
            assert told.client == (peer, 1)
            assert not any(map(is_about_forwarding, dict(told.headers)))


_HEADERS = (
    "forwarded",
    *(f"x-forwarded-{name}" for name in ("for", "proto", "host", "port", "prefix")),
)
_FORWARDING = Forwarding.of(Config(forwarded_headers=_HEADERS))


# ---- what apps answer


def response_heads(data: bytes) -> None:
    """A head of an app's, a line each: what goes out has as many lines, or nothing goes out."""
    status, *lines = data.split(b"\x1e")
    headers = [(name, value) for name, _, value in (line.partition(b"\x1f") for line in lines)]
    try:
        code = int(status[:3])
        head = ResponseHead(code, headers).lines
    except ValueError:
        head = b""
    assert head.count(b"\n") == head.count(b"\r") == head.count(b"\r\n")
    assert b"\0" not in head
    assert not head or head.count(b"\r\n") <= 1 + len(headers)
    texts = [(name.decode("latin-1"), value.decode("utf-8", "replace")) for name, value in headers]
    try:
        parsed = parse_head(status.decode("latin-1"), texts)
    except WsgiViolation:
        return
    for name, value in parsed.headers:
        assert not {*name, *value} & {*b"\r\n\0"}


# ---- configuration


def options(data: bytes) -> None:
    """Arguments, variables and a file: a configuration that can be handed on, or `ConfigError`."""
    texts = data.decode("utf-8", "surrogateescape").split("\x1e")
    argv, variables, file = ([*texts, "", ""])[:3]
    path = FOLDER / "subserve.toml"
    path.write_text(file, encoding="utf-8", errors="surrogateescape")
    environ = dict(_variables(variables))
    try:
        namespace, problems = cli.parse(argv.split("\x1f") if argv else [])
        arguments = {
            name: Setting(tuple(given), flag_of(name))
            for name in rows()
            if (given := getattr(namespace, name)) is not None
        }
        if namespace.app is not None:
            arguments["app"] = Setting((namespace.app,), "command line")
        resolved = resolve(arguments, environ, FOLDER, None, problems)
    except ConfigError:
        return
    config = resolved.config
    assert Config.from_json(config.to_json()) == config
    assert resolved.report()


def _variables(text: str) -> Iterator[tuple[str, str]]:
    for line in text.split("\x1f"):
        name, equals, value = line.partition("=")
        if equals and "\0" not in line:
            yield f"SUBSERVE_{name}", value


# ---- control messages


def messages(data: bytes) -> None:
    """Frames: the same messages, or `ChannelError`, however they are cut; over a channel, too."""
    whole = _decode_frames([data])
    assert _decode_frames(pieces(data, chance_of(data))) == whole
    ours, theirs = socket.socketpair()
    with theirs:
        receiving = channel.Channel(ours)
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        received: list[Message] = []
        try:
            while (message := receiving.receive()) is not None:
                received.append(message)
        except ChannelError:
            assert whole[1]
        else:
            assert list(map(repr, received)) == whole[0]
        finally:
            receiving.close()


def _decode_frames(parts: list[bytes]) -> tuple[list[str], bool]:
    """Return the messages, and whether there was nonsense behind them."""
    decoder = Decoder()
    found = []
    try:
        for part in parts:
            for message in decoder.feed(part):
                found.append(repr(message))
                [again] = Decoder().feed(encode(message))
                assert repr(again) == repr(message)
    except ChannelError:
        return found, True
    return found, False


TARGETS = (
    Target(
        "http1",
        http1,
        (
            *(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"),
            *(b"Host: a\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"),
            *(b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n"),
            *(b"0\r\n\r\n", b"5\r\nhello\r\n", b"\r\n\r\n", b";a=b", b": ", b"http://a/", b"*"),
            *(b"Upgrade: websocket\r\n", b"Connection: upgrade\r\n", b"HTTP2-Settings: \r\n"),
            *(
                b"POST",
                b"HEAD",
                b"CONNECT",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"TE: trailers\r\n",
            ),
        ),
    ),
    Target("chunked", chunked, (b"0\r\n\r\n", b"1\r\nx\r\n", b";a=b", b';a="', b"A: b\r\n", b"\r")),
    Target(
        "response_heads", response_heads, (b"\x1e", b"\x1f", b"200 OK", b"content-length", b"date")
    ),
    Target(
        "proxy_protocol",
        proxy_protocol,
        (b"PROXY TCP4 ", b"PROXY UNKNOWN", b"1.2.3.4 ", b"::1 ", SIGNATURE, b"\x21\x11\0\x0c"),
    ),
    Target(
        "forwarded",
        forwarded,
        (
            *(b"\nX-Forwarded-For: ", b"\nForwarded: for=", b"127.0.0.1", b'"[::1]:5"', b";proto="),
            *(b"\nX-Forwarded-Proto: https", b"\nX-Forwarded-Host: a", b"\nX-Forwarded-Port: 1"),
            *(b"\nX-Forwarded-Prefix: /a", b"unknown", b"_x", b";host=", b",", b'"', b"\\"),
        ),
    ),
    Target(
        "options",
        options,
        (
            *(b"\x1e", b"\x1f", b"=", b"--", b"[", b"]", b"app = 'a:b'\n", b"auto", b"off", b"2m"),
            *(flag_of(name).encode() for name in rows()),
            *(f"\x1f{name.upper()}=".encode() for name in rows()),
        ),
    ),
    Target(
        "messages",
        messages,
        (b"\0\0\0", b"[", b"]", b'"Drain"', b'"Signal"', b"NaN", encode(Signal(15))),
    ),
)
