"""What has gone wrong in other servers, a test each, named after the advisory.

Those about requests and responses in HTTP/1.1.  Which bytes were sent there is in the advisories.
"""

import logging
import subprocess
import sys
from contextvars import ContextVar
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from subserve.http.h1.states import State
from subserve.http.wsgi.environ import fill
from subserve.http.wsgi.errors import WsgiViolation
from subserve.http.wsgi.head import parse_head
from tests.unit.h1_harness import Bench, Outcome, echo

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"0\r\n\r\n"


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"".join(line + b"\r\n" for line in (b"POST / HTTP/1.1", b"Host: a", *lines, b"")) + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def refused(bench: Bench, data: bytes, status: int = 400, **options: Any) -> Outcome:
    """Fail unless `data` is refused, however it comes, and nothing behind it is served."""
    outcome = bench.split_everywhere(data, **options) if len(data) < 500 else bench.exchange(data)
    if outcome.state is State.ACTIVE or outcome.state is State.HEAD:
        outcome = bench.exchange(data, GET, **options)  # it waits for more
    assert outcome.statuses == [status], data
    assert not outcome.completed
    assert outcome.closed
    behind = bench.exchange(data + GET, **options)
    assert behind.statuses == [status], data
    return outcome


def answer(headers: list[tuple[Any, Any]], status: Any = 200) -> Any:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"x"})

    return app


# ---- what an app sends


@pytest.mark.parametrize(
    "value", [b"a\r\nSet-Cookie: b", b"a\nb", b"a\rb", b"a\0b", b"\r\n\r\nHTTP"]
)
def test_cve_2018_1000164(bench: Bench, value: bytes) -> None:
    """A line break in a header of the app's: refused before a byte goes out."""
    for name in (b"x", b"Location", b"Set-Cookie", b"Content-Type"):
        outcome = bench.exchange(GET * 2, app=answer([(name, value)]))
        assert outcome.statuses == [500, 500]
        assert value not in outcome.written


@pytest.mark.parametrize("value", [b"a\r\nX-Injected: b", b"a\nb", b"a\rb", b"a\0b"])
def test_cve_2018_1000164_in_other_places(bench: Bench, value: bytes) -> None:
    """In a header of a long response, in an early hint, in a trailer."""
    start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
    bad = [(b"x", value)]
    te = GET.replace(b"\r\n\r\n", b"\r\nTE: trailers\r\n\r\n")

    async def streams(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send(start | {"headers": bad})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def hints(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.early_hint", "links": [value]})

    async def trails(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send(start | {"trailers": True})
        await send({"type": "http.response.body", "body": b"x"})
        await send({"type": "http.response.trailers", "headers": bad})

    assert bench.exchange(GET * 2, app=streams).statuses == [500, 500]
    assert bench.exchange(GET * 2, app=hints).statuses == [500, 500]
    outcome = bench.exchange(te * 2, app=trails)
    assert outcome.statuses == [200]
    assert not outcome.responses[0].complete
    assert value not in outcome.written


def test_cve_2020_7695(bench: Bench) -> None:
    """A line break that was percent-encoded in the target, put into a header by the app."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer([(b"location", scope["path"].encode())])(scope, receive, send)

    data = GET.replace(b"/ ", b"/%0d%0aSet-Cookie:%20a=b ", 1)
    assert bench.exchange(data, app=app).statuses == [500]


@pytest.mark.parametrize("phrase", ["OK\r\nX: 1", "OK\nX: 1", "OK\rX", "OK\0"])
def test_cve_2025_67724(phrase: str) -> None:
    """Also CVE-2026-34519: a line break in the reason phrase.  ASGI apps have none to give."""
    with pytest.raises(WsgiViolation, match="status"):
        parse_head(f"200 {phrase}", [])


@pytest.mark.parametrize(
    "header",
    [(b"a b", b"c"), (b"", b"c"), (b"a:", b"c"), (b"\xff", b"c"), ("a", "b"), (b"a", None)],
)
def test_cve_2026_42545(bench: Bench, header: tuple[Any, Any]) -> None:
    """An invalid header of the app's fails its request, and nothing else."""
    outcome = bench.exchange(GET * 2, app=answer([header]))
    assert outcome.statuses == [500, 500]
    assert outcome.state is State.IDLE


# ---- logs


def test_cve_2025_69230(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Also CVE-2025-47287: one bad request, thousands of log lines."""
    with caplog.at_level(logging.DEBUG):
        bench.exchange(post(*[b"Cookie: \x01"] * 90))
        bench.exchange(b"\n" * 10_000)
        bench.exchange(chunked(b"1;\n" * 10_000))
    records = [record for record in caplog.records if record.name.startswith("subserve")]
    assert len(records) == 3
    assert not [record for record in records if record.levelno > logging.DEBUG]


# ---- Transfer-Encoding and Content-Length


@pytest.mark.parametrize(
    "lines",
    [
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked, identity"],
        [b"Transfer-Encoding: chunked, chunked"],
    ],
)
def test_cve_2024_1135(bench: Bench, lines: list[bytes]) -> None:
    """Also GHSA-753j-mpmx-qq6g: several Transfer-Encodings, or chunked not as the last one."""
    refused(bench, post(*lines, body=LAST))


@pytest.mark.parametrize("value", [b"xchunked", b"x", b"identity", b"chunked;a", b""])
def test_cve_2024_6827(bench: Bench, value: bytes) -> None:
    """An unknown Transfer-Encoding: not the Content-Length instead."""
    refused(bench, post(b"Transfer-Encoding: " + value, b"Content-Length: 5", body=LAST))
    refused(bench, post(b"Transfer-Encoding: " + value, body=LAST))


def test_cve_2019_16785(bench: Bench) -> None:
    """Lines that end with LF alone."""
    refused(bench, b"GET / HTTP/1.1\nHost: a\n\n")
    refused(bench, b"GET / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n" + LAST)


def test_cve_2019_16786(bench: Bench) -> None:
    """A list of codings."""
    refused(bench, post(b"Transfer-Encoding: gzip, chunked", body=LAST), 501)


@pytest.mark.parametrize("space", [b"\x0b", b"\x0c", b"\x1c", b"\x85", b"\xa0", b"\0"])
def test_cve_2019_16789(bench: Bench, space: bytes) -> None:
    """White space of another kind before `chunked`."""
    refused(bench, post(b"Transfer-Encoding: " + space + b"chunked", body=LAST))
    refused(bench, post(b"Transfer-Encoding: chunked" + space, body=LAST))


@pytest.mark.parametrize("second", [b"0", b"5", b"6"])
def test_cve_2019_16792(bench: Bench, second: bytes) -> None:
    """Two Content-Lengths."""
    refused(bench, post(b"Content-Length: 5", b"Content-Length: " + second, body=b"abcde"))


@pytest.mark.parametrize("text", [b"+10", b"0x10", b"1_0", b"-1", b" 1 0", b"\xd9\xa1", b"1,1"])
def test_cve_2022_24761(bench: Bench, text: bytes) -> None:
    """Also GHSA-qppv-j76h-2rpx and CVE-2025-69225: what int() takes for a number."""
    refused(bench, post(b"Content-Length: " + text, body=b"x" * 16))
    refused(bench, chunked(text + b"\r\n" + b"x" * 16 + b"\r\n" + LAST))


def test_cve_2023_47641(bench: Bench) -> None:
    """Also CVE-2020-7658, CVE-2020-10109, CVE-2022-24801: both of them."""
    lines = [b"Content-Length: 5", b"Transfer-Encoding: chunked"]
    refused(bench, post(*lines, body=LAST))
    refused(bench, post(*reversed(lines), body=LAST))


def test_cve_2020_10108(bench: Bench) -> None:
    """Two Content-Lengths, of which one is no number."""
    refused(bench, post(b"Content-Length: 5", b"Content-Length: a", body=b"abcde"))


# ---- heads


def test_cve_2020_5236(bench: Bench) -> None:
    """A long value with a control character at its end: quadratic time there, see test_h1_head."""
    refused(bench, post(b"X: " + b"x" * 30_000 + b"\x10"))


@pytest.mark.parametrize(
    "name", [b"X\0", b"X\x01", b"X ", b" X", b"X\t", b"X\x7f", b"X(", b"X\xe9"]
)
def test_cve_2023_37276(bench: Bench, name: bytes) -> None:
    """Also CVE-2023-47627 and CVE-2024-23829: what is no name."""
    refused(bench, post(name + b": y"))


def test_cve_2026_34525(bench: Bench) -> None:
    """Two Hosts; with and without the accelerator."""
    refused(bench, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    refused(bench, b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n")


@pytest.mark.parametrize(
    "host", [b"example.com/abc?bar=", b"a@b", b"a#b", b"a b", b"a\\b", b"a,b c"]
)
def test_cve_2026_48710(bench: Bench, host: bytes) -> None:
    """A Host from which a URL would be made that leads elsewhere."""
    refused(bench, b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    authority = host.partition(b"/")[0] + b"@c"
    refused(bench, b"GET http://" + authority + b"/ HTTP/1.1\r\nHost: c\r\n\r\n")


@pytest.mark.parametrize("byte", [b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e"])
def test_cve_2026_44546(bench: Bench, byte: bytes) -> None:
    """What str.splitlines() takes for the end of a line; 0x85 and the like are bytes to us."""
    upgrade = [b"Connection: Upgrade", b"Upgrade: websocket"]
    data = post(*upgrade, b"X: a" + byte + b"Y: b").replace(b"POST", b"GET", 1)
    refused(bench, data)
    for other in (b"\x85", "\u2028".encode()):
        [seen] = bench.exchange(post(b"X: a" + other + b"Y: b")).seen
        assert (b"x", b"a" + other + b"Y: b") in seen.scope["headers"]


def test_cve_2021_21330(bench: Bench) -> None:
    """Also CVE-2023-28370, CVE-2020-28724: `//evil` is a path, and nothing is made of it."""
    outcome = bench.exchange(GET.replace(b"/ ", b"//evil.example/%2e%2e ", 1))
    assert outcome.seen[0].target == b"//evil.example/%2e%2e"
    assert outcome.responses[0].header(b"location") is None


def wsgi_environ(headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    environ: dict[str, Any] = {}
    fill(environ, "GET", "/", "/", "", "", headers, BytesIO())  # type: ignore[arg-type]
    return environ


def test_cve_2024_45614() -> None:
    """`X_Forwarded_For` would be the same as `X-Forwarded-For` to a WSGI app."""
    headers = [(b"host", b"a"), (b"x-forwarded-for", b"1"), (b"x_forwarded_for", b"2")]
    environ = wsgi_environ(headers)
    assert environ["HTTP_X_FORWARDED_FOR"] == "1"
    headers = [(b"host", b"a"), (b"content_length", b"5"), (b"x_forwarded_for", b"2")]
    assert not {"CONTENT_LENGTH", "HTTP_CONTENT_LENGTH", "HTTP_X_FORWARDED_FOR"} & set(
        wsgi_environ(headers)
    )


def test_cve_2024_7592(bench: Bench) -> None:
    """Also CVE-2025-67725, CVE-2025-67726: the same header 10,000 times.  See test_h1_head."""
    data = post(*[b"X: y"] * 10_000)
    outcome = bench.exchange(data, max_header_bytes=len(data), max_header_count=10_001)
    assert len(outcome.seen[0].scope["headers"]) == 10_001
    assert bench.exchange(data, max_header_bytes=len(data)).statuses == [431]


def test_hypercorn_277(bench: Bench) -> None:
    """CONNECT was accepted."""
    refused(bench, b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501)


@pytest.mark.parametrize(
    "data",
    [
        b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET a/b HTTP/1.1\r\nHost: a\r\n\r\n",
        post(b"X: \x07"),
        chunked(b"0\r\nContent-Length: 5\r\n\r\n"),
        chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        chunked(b"0\r\nHost: b\r\n\r\n"),
        post(b"Content-Length: 5, 5", body=b"abcde"),
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        post(b"Content-Type: a", b"Content-Type: b"),
        chunked(b"1;a\rb\r\nx\r\n" + LAST),
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST,
        post(b"Transfer-Encoding: chunked, chunked", body=LAST),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + GET,
    ],
)
def test_gunicorn_26(bench: Bench, data: bytes) -> None:
    """What gunicorn began to refuse with 26.0 and 26.1."""
    refused(bench, data)


def test_gunicorn_26_a_chunked_body_that_is_cut_short(bench: Bench) -> None:
    outcome = bench.exchange(chunked(LAST[:-2]))
    assert (outcome.completed, outcome.written) == ([], b"")
    assert outcome.seen[0].disconnected


# ---- chunks


@pytest.mark.parametrize("end", [b"\n", b"\r", b"XX", b"", b"\0\0", b"\n\r", b"\r\r\n"])
def test_cve_2025_43859(bench: Bench, end: bytes) -> None:
    """Any two bytes behind a chunk's data."""
    refused(bench, chunked(b"1\r\nx" + end + LAST))


@pytest.mark.parametrize("extension", [b";a\nb", b";\n", b"\n", b"\r", b";a\0", b";\r", b";a=\n"])
def test_cve_2024_52304(bench: Bench, extension: bytes) -> None:
    """A line break in a chunk extension."""
    refused(bench, chunked(b"1" + extension + b"\r\nx\r\n" + LAST))


def test_cve_2025_53643(bench: Bench) -> None:
    """Trailers were read as the next request."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: b\r\n\r\n"
    refused(bench, chunked(b"0\r\n" + smuggled))
    outcome = bench.split_everywhere(chunked(b"0\r\nX: y\r\n\r\n") + GET)
    assert [seen.target for seen in outcome.seen] == [b"/", b"/"]


def test_cve_2024_21647(bench: Bench) -> None:
    """Megabytes of a chunk extension."""
    refused(bench, chunked(b"1;" + b"a" * 2_000_000))


def test_cve_2025_69229(bench: Bench) -> None:
    """A hundred thousand chunks of a byte: linear, see test_h1_chunked."""
    [seen] = bench.exchange(chunked(b"1\r\nx\r\n" * 100_000 + LAST)).seen
    assert seen.body == b"x" * 100_000


def test_cve_2025_69228(bench: Bench) -> None:
    """Each chunk is small: the sum counts."""
    data = chunked(b"3\r\nabc\r\n" * 10 + LAST)
    assert bench.exchange(data, max_body_bytes=30).statuses == [200]
    refused(bench, data, 413, max_body_bytes=29)


def test_cve_2026_22815(bench: Bench) -> None:
    """Trailers without an end."""
    refused(bench, chunked(b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n"), 431)
    refused(bench, chunked(b"0\r\n" + b"X: " + b"y" * 40_000), 431)


@pytest.mark.parametrize(
    "body",
    [
        b"1\nx\r\n" + LAST,
        b"1\r\nx\n" + LAST,
        b"1\rx\r\n" + LAST,
        b"1\0\r\nx\r\n" + LAST,
        b"1;\0\r\nx\r\n" + LAST,
        b"1;a=\0\r\nx\r\n" + LAST,
        b"1;a\r\r\nx\r\n" + LAST,
        b"1\r\nx\0\n" + LAST,
        b"0\n\r\n",
        b"0\r\n\n",
        b"0\n\n",
        b"0\r\r\n\r\n",
        b"0\r\n\r\r\n",
        b"0;\r\n\r\n",
        b"0;a\n\r\n\r\n",
        b"0\0\r\n\r\n",
    ],
)
def test_chunk_tricks_of_2025(bench: Bench, body: bytes) -> None:
    """TERM.EXT, SPILL and the like: LF, CR and NUL in size, extension and end."""
    refused(bench, chunked(body))


def test_expect_tricks_of_2025(bench: Bench) -> None:
    """An answer that does not wait for the body, which comes, and looks like a request."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: b\r\n\r\n"
    head = post(b"Expect: 100-continue", b"Content-Length: %d" % len(smuggled))
    outcome = bench.exchange(head, smuggled, GET, app=answer([]))
    assert outcome.statuses == [200]
    assert outcome.closed
    refused(bench, post(b"Expect: y 100-continue", b"Content-Length: 1", body=b"x"), 417)
    read = bench.exchange(head, smuggled, GET)
    assert [seen.target for seen in read.seen] == [b"/", b"/"]


# ---- connections


def test_cve_2024_49768(bench: Bench) -> None:
    """A bad request and a good one in a packet: nothing is served behind the decision to close."""
    for bad in (b"\0", post(b"Content-Length: a"), chunked(b"z\r\n")):
        outcome = bench.exchange(bad + GET, GET)
        assert (outcome.statuses, outcome.completed) == ([400], [])


def test_cve_2020_35681(bench: Bench) -> None:
    """What belongs to one request was seen by another."""
    variable: ContextVar[str] = ContextVar("variable", default="")
    found = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        found.append((variable.get(), scope["state"].get("mine"), len(scope["headers"])))
        variable.set("other")
        scope["state"]["mine"] = "other"
        scope["headers"].append((b"x", b"other"))
        scope["extensions"].clear()
        await echo(scope, receive, send)

    outcome = bench.exchange(GET * 20, GET, app=app)
    assert outcome.statuses == [200] * 21
    assert found == [("", None, 1)] * 21


def test_aiohttp_3_14(bench: Bench) -> None:
    """A target in many packets went past the limit of a line; so did a chunk's size."""
    target = b"GET /" + b"x" * 2000
    outcome = bench.exchange(
        *[target[i : i + 10] for i in range(0, 2000, 10)], max_header_bytes=1000
    )
    assert outcome.statuses == [414]
    size = b"1;" + b"a" * 2000
    pieces = [size[i : i + 10] for i in range(0, 2000, 10)]
    assert bench.exchange(chunked(b""), *pieces).statuses == [400]


def test_cve_2025_69227() -> None:
    """Assertions that decided something: without them, requests are refused all the same."""
    payloads = [
        chunked(b"1\r\nxy\r\n"),
        post(b"Content-Length: a"),
        chunked(b"1\r\nx\r\n" + LAST) + GET,
        GET + b"\0",
    ]
    script = f"""
from tests.unit.h1_harness import Bench
with Bench() as bench:
    for data in {payloads!r}:
        print(*bench.exchange(data).statuses)
if __debug__:
    print("not without assertions")
"""
    done = subprocess.run(
        [sys.executable, "-O", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.stdout.splitlines() == ["400", "400", "200 200", "200 400"]
