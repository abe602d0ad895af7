"""Where we read something else than h11 does: each is a row of `docs/http1.md`, and shown here.

A row that is not shown, and a test without a row, fail.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conformance.peers import read_with_h11
from tests.unit.h1_harness import Bench

PAGE = Path(__file__).resolve().parents[2] / "docs" / "http1.md"


def get(*lines: bytes, target: bytes = b"/") -> bytes:
    return b"".join(
        line + b"\r\n" for line in (b"GET %b HTTP/1.1" % target, b"Host: a", *lines, b"")
    )


def chunked(body: bytes) -> bytes:
    return get(b"Transfer-Encoding: chunked") + body


LAST = b"0\r\n\r\n"


@dataclass(frozen=True)
class Difference:
    """`status` is what we refuse with; 0 where we accept what h11 refuses."""

    key: str
    status: int
    examples: tuple[bytes, ...]


DIFFERENCES = [
    # ---- stricter
    Difference(
        "bare-lf",
        400,
        (
            b"GET / HTTP/1.1\nHost: a\n\n",
            b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
            b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        ),
    ),
    Difference("method", 400, (get().replace(b"GET", b"get"), get().replace(b"GET", b"-X"),
                               get().replace(b"GET", b"X" * 33))),
    Difference("version", 505, (get().replace(b"1.1", b"1.2", 1), get().replace(b"1.1", b"2.0", 1),
                                get().replace(b"1.1", b"0.9", 1))),
    Difference("connect", 501, (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",)),
    Difference("target-form", 400, (get(target=b"a/b"), get(target=b"a:80"), get(target=b"*"),
                                    get(target=b"ftp://a/"), get(target=b"http://"))),
    Difference("fragment", 400, (get(target=b"/#a"), get(target=b"/?a#b"),
                                 get(target=b"http://a/#b"))),
    Difference("userinfo", 400, (get(target=b"http://u:p@a/"),)),
    Difference("empty-authority", 400, (get(target=b"http://:80/"),)),
    Difference("host-value", 400, (get().replace(b": a", b": a/b"), get().replace(b": a", b": u@a"),
                                   get().replace(b": a", b": a, b"),
                                   get().replace(b": a", b": [:::1]"),
                                   get().replace(b": a", b": a%41"))),
    Difference("control-characters", 400, (get(b"X: a\x01b"), get(b"X: a\x7f"), get(b"X: \x1b"))),
    Difference("folded-lines", 400, (get(b"X: a", b" b"), get(b"X: a", b"\tb"))),
    Difference("content-length-list", 400, (get(b"Content-Length: 1, 1") + b"x",)),
    Difference("content-length-twice", 400,
               (get(b"Content-Length: 1", b"Content-Length: 1") + b"x",)),
    Difference("content-length-digits", 400, (get(b"Content-Length: " + b"0" * 18 + b"1") + b"x",)),
    Difference("length-with-coding", 400,
               (get(b"Content-Length: 5", b"Transfer-Encoding: chunked") + LAST,)),
    Difference("coding-1.0", 400,
               (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST,)),
    Difference("length-look-alikes", 400, (get(b"Content_Length: 1"),
                                           get(b"Transfer_Encoding: chunked"))),
    Difference("two-content-types", 400, (get(b"Content-Type: a", b"Content-Type: a"),)),
    Difference("expectation", 417, (get(b"Expect: wonders"),)),
    Difference("header-count", 431, (get(*[b"X: y"] * 100),)),
    Difference("head-size", 431, (get(b"X: " + b"y" * 32_740),)),
    Difference("chunk-size-digits", 400, (chunked(b"0" * 15 + b"1\r\nx\r\n" + LAST),)),
    Difference("chunk-size-space", 400, (chunked(b"1 \r\nx\r\n" + LAST),
                                         chunked(b"1\t\r\nx\r\n" + LAST))),
    Difference("chunk-extension", 400, (chunked(b"1;\r\nx\r\n" + LAST),
                                        chunked(b"1;a\rb\r\nx\r\n" + LAST),
                                        chunked(b'1;a="b\r\nx\r\n' + LAST),
                                        chunked(b"1;a=\x00\r\nx\r\n" + LAST))),
    Difference("chunk-line-size", 400, (chunked(b"1;" + b"a" * 1023 + b"\r\nx\r\n" + LAST),)),
    Difference("trailer-names", 400, (chunked(b"0\r\nContent-Length: 5\r\n\r\n"),
                                      chunked(b"0\r\nCookie: a\r\n\r\n"))),
    # ---- more lenient
    Difference("blank-line", 0, (b"\r\n" + get(),)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("difference", "example"),
    [(one, example) for one in DIFFERENCES for example in one.examples],
    ids=[f"{one.key}-{n}" for one in DIFFERENCES for n in range(len(one.examples))],
)
def test_what_h11_sees_differently(bench: Bench, difference: Difference, example: bytes) -> None:
    theirs = read_with_h11(example)
    if difference.status == 0:
        assert theirs.refused
        assert bench.exchange(example).statuses == [200]
        return
    assert not theirs.refused
    assert theirs.requests, "h11 takes it"
    outcome = bench.exchange(example, get())  # with more, lest it waits for an end
    assert outcome.statuses == [difference.status]
    assert not outcome.completed
    assert outcome.closed


def test_each_difference_is_written_down_with_the_section_it_rests_on() -> None:
    rows = re.findall(
        r"^\| `([a-z0-9.-]+)` \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(key for key, _ in rows) == sorted(one.key for one in DIFFERENCES)
    statuses = {one.key: one.status for one in DIFFERENCES}
    for key, row in rows:
        assert re.search(r"\b(?:9112|9110|9113), \d", row) or "limit" in row, key
        assert (str(statuses[key]) if statuses[key] else "accepted") in row, key


def test_keep_alive_in_http10(bench: Bench) -> None:
    """RFC 9112, section 9.3; h11 closes."""
    old = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    assert bench.exchange(old + old).statuses == [200, 200]
