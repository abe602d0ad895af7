"""Against other parsers: what we serve, they have read the same way; where not, it is written down.

`docs/http1.md` has the list of differences, `test_differences.py` a test for each.
"""

from hypothesis import event, given, settings

from subserve.http.h1.states import State
from tests.conformance.grammar import CUTS, cut, streams
from tests.conformance.invariants import check_one_response_each
from tests.conformance.peers import Parsed, read_with_h11, read_with_httptools
from tests.unit.h1_harness import Bench, Outcome, Seen

KNOWN = {"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "M-SEARCH", "QUERY"}
"""Methods that llhttp has heard of.  It knows no white space in chunk extensions, either."""

profile = settings.get_profile("conformance")


def as_we_do(request: Parsed) -> tuple[object, ...]:
    """Return what an app is told of a request: RFC 9112, section 3.2.2, of one with a URL."""
    target, headers = request.target, request.headers
    if not target.startswith((b"/", b"*")):
        _, _, rest = target.partition(b"://")
        place = min((at for at in map(rest.find, (b"/", b"?")) if at >= 0), default=len(rest))
        authority, target = rest[:place], rest[place:]
        if not target and request.method == "OPTIONS":
            target = b"*"
        elif not target.startswith(b"/"):
            target = b"/" + target
        if (b"host", authority) not in headers:
            others = tuple(pair for pair in headers if pair[0] != b"host")
            headers = ((b"host", authority), *others)
    path, _, query = target.partition(b"?")
    return request.method, path, query, request.version, headers, request.body


def as_app_saw(seen: Seen) -> tuple[object, ...]:
    scope = seen.scope
    return (
        scope["method"],
        scope["raw_path"],
        scope["query_string"],
        scope["http_version"],
        tuple(scope["headers"]),
        seen.body,
    )


def without_blank_lines(data: bytes, outcome: Outcome) -> bytes:
    """Take away the lines that may stand before requests: h11 does not know them."""
    place, cleaned = 0, b""
    for seen in outcome.seen:
        if data[place : place + 2] == b"\r\n":
            place += 2
        size = request_size(data[place:], seen)
        cleaned += data[place : place + size]
        place += size
    if data[place : place + 2] == b"\r\n":
        place += 2
    return cleaned + data[place:]


def request_size(data: bytes, seen: Seen) -> int:
    """Return how long the request is that `data` begins with, by what the app was told of it."""
    head = data.index(b"\r\n\r\n") + 4
    headers = dict(seen.scope["headers"])
    if b"transfer-encoding" not in headers:
        return head + len(seen.body)
    place = head
    while True:
        end = data.find(b"\r\n", place)
        if end < 0:
            return len(data)  # it never came whole
        size = int(data[place:end].partition(b";")[0], 16)
        place = end + 2
        if not size:
            last = data.find(b"\r\n\r\n", end)
            return last + 4 if last >= 0 else len(data)
        place += size + 2


@given(streams(), CUTS)
@settings(profile)
def test_how_it_is_cut_makes_no_difference(bench: Bench, data: bytes, cuts: list[int]) -> None:
    whole = bench.exchange(data)
    assert bench.exchange(*cut(data, cuts)).summary == whole.summary
    assert bench.exchange_bytewise(data).summary == whole.summary


@given(streams())
@settings(profile)
def test_one_response_for_each_request(bench: Bench, data: bytes) -> None:
    check_one_response_each(bench.exchange(data))


@given(streams())
@settings(profile)
def test_h11_has_read_the_same(bench: Bench, data: bytes) -> None:
    outcome = bench.exchange(data)
    theirs = read_with_h11(without_blank_lines(data, outcome))
    ours = [as_app_saw(seen) for seen in outcome.completed]
    assert [as_we_do(request) for request in theirs.requests[: len(ours)]] == ours
    event(f"{len(ours)} requests served")
    if outcome.state is State.IDLE:
        # All that came was taken.  Where we wait for more, they may have refused what there is.
        assert not theirs.refused, "refused by h11, and not by us"
        assert len(theirs.requests) == len(ours), "they have read one more"


@given(streams())
@settings(profile)
def test_llhttp_has_read_the_same(bench: Bench, data: bytes) -> None:
    outcome = bench.exchange(data)
    theirs = read_with_httptools(data)
    ours = [as_app_saw(seen) for seen in outcome.completed]
    event(f"{len(ours)} requests served")
    for mine, request in zip(ours, theirs.requests, strict=False):
        *expected, headers, body = as_we_do(request)
        *got, seen_headers, seen_body = mine
        assert got == expected
        assert seen_body == body
        # Trailers come as headers there.
        assert headers[: len(seen_headers)] == seen_headers
    known = all(seen.scope["method"] in KNOWN for seen in outcome.seen) and b"; " not in data
    if outcome.state is State.IDLE and known and not theirs.upgraded:
        assert not theirs.refused, "refused by llhttp, and not by us"
        assert len(theirs.requests) == len(ours), "they have read one more"
