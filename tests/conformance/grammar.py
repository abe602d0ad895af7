"""Requests for Hypothesis: mostly by the grammar, with mistakes of the kind that attackers make."""

from itertools import pairwise

from hypothesis import strategies as st

METHODS = st.sampled_from(
    [b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"M-SEARCH", b"QUERY"]
)
ODD_METHODS = st.sampled_from([b"get", b"G E T", b"", b"G\tT", b"G:", b"-X", b"X" * 33, b"CONNECT"])

TARGETS = st.sampled_from(
    [
        b"/",
        b"/a/b?c=d&e",
        b"/%2e%2E/%00?%",
        b"//x//",
        b"*",
        b"http://a/b?c",
        b"http://b:80",
        b"https://[::1]:8/?",
        b"/a;b@c:d",
        b'/"<>^`{|}\\',
    ]
)
ODD_TARGETS = st.sampled_from(
    [b"a", b"a:80", b"/#", b"/\xc3\xa9", b"/\x7f", b"http://u@a/", b"http:///", b"/ /", b"ftp://a/"]
)

VERSIONS = st.sampled_from([b"HTTP/1.1"] * 8 + [b"HTTP/1.0"] * 2)
ODD_VERSIONS = st.sampled_from(
    [b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.1 ", b"HTTP/11", b"HTTP/1.", b""]
)

PLAIN_HEADERS = st.sampled_from(
    [
        b"Accept: */*",
        b"X-Empty:",
        b"X-Tab:\t a\tb \t",
        b"x_y: 1",
        b"Latin: \xe9\xff",
        b"Cookie: a=b; c=d",
        b"Connection: keep-alive",
        b"Connection: close",
        b"Connection: x, Close",
        b"Content-Type: text/plain",
        b"Expect: 100-continue",
        b"TE: trailers",
        b"!#$%&'*+-.^_`|~9: y",
    ]
)
ODD_HEADERS = st.sampled_from(
    [
        b"X : a",
        b" folded",
        b"\tfolded",
        b": a",
        b"X",
        b"Host",
        b"X\x00: a",
        b"X: \x00",
        b"X: a\x0bb",
        b"X: a\x1fb",
        b"X: a\nY: b",
        b"X: a\rY: b",
        b"Host: a, b",
        b"Host: a/b",
        b"Host: u@a",
        b"Host: c",
        b"Expect: x",
        b"Content-Type: b",
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
        b"Content-Length : 5",
        b"Content-Length: 5",
        b"Content-Length:\x0b5",
        b"Content_Length: 5",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding:\x0bchunked",
        b"Transfer-Encoding\t: chunked",
        b"Connection: upgrade\r\nUpgrade: x",
    ]
)

ENDS = st.sampled_from([b"\r\n"] * 30 + [b"\n", b"\r", b"\r\r\n", b"\n\r", b"\x0b\r\n"])

BODY = st.binary(max_size=12) | st.sampled_from(
    [b"\r\n", b"0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: smuggled\r\n\r\n"]
)

EXTENSIONS = st.sampled_from(
    [b""] * 10 + [b";a", b"; a=b", b';a="b;\\"c"', b" ;a", b" ", b";a\nb", b";", b';"', b";\x00"]
)
SIZES = st.sampled_from([b"%x"] * 20 + [b"%X", b"000%x", b"0x%x", b"+%x", b" %x", b"%x_0"])
CHUNK_ENDS = st.sampled_from([b"\r\n"] * 30 + [b"\n", b"\r", b"", b"XX", b"\r\r\n", b"\n\r\n"])
TRAILERS = st.sampled_from(
    [b""] * 10 + [b"A: b\r\n", b"A: b\r\nC:\r\n", b"Content-Length: 3\r\n", b"A b\r\n", b"A: b\n"]
)


@st.composite
def chunked_bodies(draw: st.DrawFn) -> bytes:
    body = b""
    for part in draw(st.lists(BODY.filter(bool), max_size=3)):
        body += draw(SIZES) % len(part) + draw(EXTENSIONS) + b"\r\n" + part + draw(CHUNK_ENDS)
    return body + b"0" + draw(EXTENSIONS) + b"\r\n" + draw(TRAILERS) + draw(CHUNK_ENDS)


def seldom(draw: st.DrawFn) -> bool:
    """Return whether to make this mistake: most requests have to be read to their end."""
    return draw(st.integers(0, 24)) == 24


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Return one request, with its body."""
    method = draw(ODD_METHODS if seldom(draw) else METHODS)
    target = draw(ODD_TARGETS if seldom(draw) else TARGETS)
    version = draw(ODD_VERSIONS if seldom(draw) else VERSIONS)
    headers = draw(st.lists(PLAIN_HEADERS, max_size=3))
    if not seldom(draw):
        headers.append(draw(st.sampled_from([b"Host: a", b"host: b:80", b"HOST:", b"Host: [::1]"])))
    body = b""
    match draw(st.sampled_from("nnlllccc")):
        case "l":
            body = draw(BODY)
            headers.append(b"Content-Length: %d" % len(body))
        case "c":
            body = draw(chunked_bodies())
            headers.append(draw(st.sampled_from([b"Transfer-Encoding: chunked", b"TE: x"])))
            if headers[-1] == b"TE: x":
                body = b""
    if seldom(draw):
        headers += draw(st.lists(ODD_HEADERS, min_size=1, max_size=2))
    headers = draw(st.permutations(headers))
    lines = [b" ".join((method, target, version)), *headers]
    return b"".join(line + draw(ENDS) for line in lines) + b"\r\n" + body


BYTES = st.sampled_from(
    [bytes([byte]) for byte in b'\x00\t\n\x0b\x0c\r\x1f !",/0159:;AaZz~\x7f\x80\xff']
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Return what a client sends on a connection: a few requests, perhaps with a byte wrong."""
    data = b"".join(
        (b"\r\n" if seldom(draw) else b"") + request
        for request in draw(st.lists(requests(), min_size=1, max_size=3))
    )
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        place = draw(st.integers(0, len(data)))
        removed = draw(st.integers(0, 1))
        data = data[:place] + draw(BYTES | st.just(b"")) + data[place + removed :]
    return data


CUTS = st.lists(st.integers(0, 10**6), max_size=6)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return `data` in pieces, cut at places that `cuts` choose."""
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
    return [data[start:stop] for start, stop in pairwise(places)]
