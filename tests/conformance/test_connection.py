"""A connection from its first byte to its last: order, limits, blank lines, hand-over, its end."""

import asyncio
from typing import Any

import pytest

from subserve.http.h1.connection import MAX_UNREAD_BYTES
from subserve.http.h1.discarding import MAX_DISCARDED_BYTES
from subserve.http.h1.states import State
from tests.unit.h1_harness import Bench, Client, Outcome, Transport, echo

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSING = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def post(body: bytes, *lines: bytes, target: bytes = b"/") -> bytes:
    head = b"".join(line + b"\r\n" for line in (b"POST %b HTTP/1.1" % target, b"Host: a", *lines))
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(*parts: bytes, lines: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + lines + b"\r\n"
    return head + body + b"0\r\n\r\n"


def targets(outcome: Outcome) -> list[bytes]:
    return [seen.target for seen in outcome.seen]


# ---- pipelining


@pytest.mark.parametrize("count", [2, 16, 17, 100])
def test_pipelined_requests_are_answered_in_order(bench: Bench, count: int) -> None:
    data = b"".join(post(b"%d" % number) for number in range(count))
    for outcome in (bench.exchange(data), bench.exchange_bytewise(data)):
        assert [one.body for one in outcome.responses] == [b"%d" % n for n in range(count)]
        assert outcome.state is State.IDLE


def test_a_slow_request_holds_up_those_behind_it(bench: Bench) -> None:
    """CVE-2023-46137: a fast second one overtook the first."""
    released = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await released.wait()
        await echo(scope, receive, send)

    async def script(client: Client) -> tuple[bytes, int, Outcome]:
        await client.send(post(b"1", target=b"/slow") + post(b"2"), post(b"3"))
        before, begun = bytes(client.transport.sent), len(client.seen)
        released.set()
        await client.settle()
        return before, begun, await client.end()

    before, begun, outcome = bench.run(script, app)
    assert (before, begun) == (b"", 1), "one at a time"
    assert [one.body for one in outcome.responses] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("behind", [GET, b"\r\n", b"\x00", CLOSING])
def test_nothing_is_served_behind_the_last_request(bench: Bench, behind: bytes) -> None:
    outcome = bench.split_everywhere(GET + CLOSING + behind)
    assert targets(outcome) == [b"/", b"/last"]
    assert outcome.statuses == [200, 200]
    assert outcome.responses[-1].header(b"connection") == b"close"
    assert outcome.closed


@pytest.mark.parametrize(
    "bad", [b"BAD\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", chunked(b"x")[:-4] + b"x\r\n"]
)
def test_nothing_is_served_behind_a_refusal(bench: Bench, bad: bytes) -> None:
    """CVE-2024-49768."""
    outcome = bench.split_everywhere(GET + bad + GET)
    assert outcome.statuses == [200, 400]
    assert len(outcome.completed) == 1
    assert outcome.closed


def test_the_apps_wish_to_close_counts(bench: Bench) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        headers = [(b"Connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    outcome = bench.exchange(GET + GET, app=app)
    assert outcome.statuses == [200]
    assert outcome.closed


# ---- persistence (RFC 9112, section 9.3)


@pytest.mark.parametrize(
    ("version", "option", "kept"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: Close\r\n", False),
        (b"1.1", b"Connection: keep-alive, close\r\n", False),
        (b"1.1", b"Connection: x\r\nConnection: close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
        (b"1.0", b"Connection: close\r\nConnection: keep-alive\r\n", False),
    ],
)
def test_which_connections_are_kept(
    bench: Bench, version: bytes, option: bytes, kept: bool
) -> None:
    data = b"GET / HTTP/%b\r\nHost: a\r\n%b\r\n" % (version, option)
    outcome = bench.split_everywhere(data + GET)
    assert len(outcome.seen) == 1 + kept
    assert outcome.closed is not kept
    expected = {(True, b"1.0"): b"keep-alive", (True, b"1.1"): None}.get((kept, version), b"close")
    assert outcome.responses[0].header(b"connection") == expected


# ---- blank lines (RFC 9112, section 2.2)


@pytest.mark.parametrize("requests", [[GET], [GET, GET], [post(b"x"), chunked(b"y"), GET]])
def test_one_blank_line_before_a_request_is_ignored(bench: Bench, requests: list[bytes]) -> None:
    outcome = bench.split_everywhere(b"".join(b"\r\n" + request for request in requests))
    assert outcome.statuses == [200] * len(requests)
    alone = bench.exchange(b"\r\n")
    assert (alone.written, alone.closed) == (b"", False)


@pytest.mark.parametrize("before", [b"", GET, b"\r\n" + GET])
@pytest.mark.parametrize(
    "blank", [b"\r\n\r\n", b"\n", b"\r", b"\n\r\n", b"\r\r\n", b"\r\n\n", b" \r\n"]
)
def test_other_blank_lines_are_refused(bench: Bench, before: bytes, blank: bytes) -> None:
    outcome = bench.split_everywhere(before + blank + GET)
    assert outcome.statuses == ([200, 400] if before else [400])


# ---- control characters


@pytest.mark.parametrize("control", [byte for byte in range(0x20) if byte != 0x09] + [0x7F])
def test_no_control_character_anywhere_in_a_head(bench: Bench, control: int) -> None:
    """A CR or LF too much, as well."""
    head = b"GET /a HTTP/1.1\r\nHost: a\r\nX-Y: z\r\n\r\n"
    for place in range(len(head) - 4):
        data = head[:place] + bytes([control]) + head[place:]
        outcome = bench.exchange(data)
        assert not outcome.seen, data
        assert outcome.statuses == [400], data


@pytest.mark.parametrize("place", range(len(b"3\r\nabc\r\n0\r\n\r")))
def test_no_control_character_in_the_frame_of_a_chunk(bench: Bench, place: int) -> None:
    data = chunked(b"abc")
    start = data.index(b"\r\n\r\n") + 4
    inside = data.index(b"abc") - start
    if inside <= place <= inside + 3:
        return  # the body itself, which is then a byte too long: see the other bytes
    for control in (0x00, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x1F, 0x20, 0x7F):
        broken = data[: start + place] + bytes([control]) + data[start + place :]
        outcome = bench.exchange(broken, GET)
        assert not outcome.completed, broken
        assert outcome.statuses == [400], broken


# ---- limits


def test_the_head_is_limited(bench: Bench) -> None:
    def head(size: int) -> bytes:
        beginning = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
        return beginning + b"x" * (size - len(beginning) - 4) + b"\r\n\r\n"

    assert bench.split_everywhere(head(200), max_header_bytes=200).statuses == [200]
    assert bench.split_everywhere(head(201), max_header_bytes=200).statuses == [431]
    assert bench.exchange(b"\r\n" + head(200), max_header_bytes=200).statuses == [200]
    assert bench.split_everywhere(GET + head(200), max_header_bytes=200).statuses == [200, 200]
    without_end = head(300)[:250]
    assert bench.split_everywhere(without_end, max_header_bytes=200).statuses == [431]
    assert bench.exchange(head(32 * 1024)).statuses == [200]
    assert bench.exchange(head(32 * 1024 + 1)).statuses == [431]


def test_the_request_line_is_limited(bench: Bench) -> None:
    long = b"GET /" + b"x" * 300 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert bench.split_everywhere(long, max_header_bytes=200).statuses == [414]
    assert bench.split_everywhere(long[:201], max_header_bytes=200).statuses == [414]


def test_the_number_of_fields_is_limited(bench: Bench) -> None:
    def head(count: int) -> bytes:
        return b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * (count - 1) + b"\r\n"

    assert bench.split_everywhere(head(10), max_header_count=10).statuses == [200]
    assert bench.split_everywhere(head(11), max_header_count=10).statuses == [431]


def test_what_came_first_decides_what_is_answered(bench: Bench) -> None:
    """A first byte that begins nothing is known at once: so it comes before all limits."""
    for data in (b"\x16" + b"x" * 300, b"\x16 / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n"):
        assert bench.split_everywhere(data, max_header_bytes=2000).statuses == [400]
    lines = b"GET / HTTP/1.1\nHost: a\n" + b"X: y\r\n" * 200 + b"\r\n"
    assert bench.split_everywhere(lines, max_header_bytes=2000).statuses == [400]


def test_the_body_is_limited_before_the_app_sees_it(bench: Bench) -> None:
    assert bench.split_everywhere(post(b"x" * 20), max_body_bytes=20).statuses == [200]
    outcome = bench.split_everywhere(post(b"x" * 21), max_body_bytes=20)
    assert outcome.statuses == [413]
    assert not outcome.seen
    assert outcome.closed
    waiting = bench.exchange(
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 21\r\n\r\n",
        max_body_bytes=20,
    )
    assert waiting.statuses == [413]


def test_a_chunked_body_is_limited_before_the_app_sees_more(bench: Bench) -> None:
    assert bench.split_everywhere(chunked(b"x" * 19, b"y"), max_body_bytes=20).statuses == [200]
    data = chunked(*[b"abc"] * 20)
    outcome = bench.split_everywhere(data, max_body_bytes=20)
    assert outcome.statuses == [413]
    assert not outcome.completed
    assert outcome.closed
    pieces = bench.exchange_bytewise(data, max_body_bytes=20)
    assert all(len(seen.body) <= 20 for seen in pieces.seen)


def test_a_body_that_nobody_reads_is_not_kept_in_memory(bench: Bench) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await asyncio.get_running_loop().create_future()

    async def script(client: Client) -> int:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        for _ in range(100):
            await client.send(b"x" * 10_000)
        waiting = len(client.transport.incoming)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await client.settle()
        await client.end()
        return waiting

    assert bench.run(script, app) >= 1_000_000 - MAX_UNREAD_BYTES - 10_000


def test_requests_to_come_are_not_kept_in_memory(bench: Bench) -> None:
    """While one is served, a client sends more of them without an end."""
    held = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await held.wait()
        await echo(scope, receive, send)

    async def script(client: Client) -> tuple[int, Outcome]:
        for _ in range(100):
            await client.send(GET * 100)
        waiting = len(client.transport.incoming)
        held.set()
        await client.settle()
        return waiting, await client.end()

    waiting, outcome = bench.run(script, app)
    assert waiting >= 10_000 * len(GET) - MAX_UNREAD_BYTES - 200 * len(GET)
    assert outcome.statuses == [200] * 10_000


@pytest.mark.parametrize(
    "data",
    [
        GET.replace(b"\r\n\r\n", b"\r\nX: " + b"y" * 400 + b"\r\n\r\n"),
        post(b"", b"X: " + b"y" * 400),
        post(b"x" * 400),
        b"\r\n" + chunked(b"x" * 400),
    ],
    ids=["without a body", "empty", "with a body", "chunked"],
)
@pytest.mark.parametrize("waits", [False, True])
def test_a_client_that_never_stops_asking_is_read_no_faster_than_answered(
    bench: Bench, data: bytes, waits: bool
) -> None:
    """Regression: with each turn of the loop 16 requests were served, and 256 KiB of more read."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if waits:
            await asyncio.sleep(0)
        largest.append(len(connection[0]._buffer))
        await echo(scope, receive, send)

    largest: list[int] = []
    connection: list[Any] = []
    count = 1_500_000 // len(data)

    async def script(client: Client) -> Outcome:
        connection.append(client.connection)
        await client.send(data * count)
        return await client.end()

    outcome = bench.run(script, app)
    # What is read before the first is begun, and once more before it is known to be too much.
    assert max(largest) <= MAX_UNREAD_BYTES + 2 * Transport.MAX_READ
    assert len(outcome.seen) == count
    assert outcome.state is State.IDLE


def test_responses_that_nobody_reads_do_not_pile_up(bench: Bench) -> None:
    """Regression: each packet began another request, though those before it were still unread.

    A client that asks for much with little, and takes nothing of it, had all of it made.
    """

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 100_000})

    async def script(client: Client) -> tuple[int, Outcome]:
        client.transport.stalled = True
        for _ in range(50):
            await client.send(GET)
        unsent = len(client.transport.unsent)
        client.transport.resume()
        await client.settle()
        return unsent, await client.end()

    unsent, outcome = bench.run(script, app)
    assert unsent < 200_000
    assert outcome.statuses == [200] * 50


# ---- what is not served


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: wonders\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET http:// HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ],
)
def test_refusals(bench: Bench, data: bytes, status: int) -> None:
    for method in (b"GET", b"HEAD"):
        outcome = bench.split_everywhere(data.replace(b"GET", method, 1) + GET)
        assert (outcome.statuses, outcome.seen) == ([status], [])
        assert outcome.responses[0].body == b"", "a HEAD request may have been refused"
        assert outcome.closed


def test_absolute_form(bench: Bench) -> None:
    """RFC 9112, section 3.2.2: its host counts, not the one in Host."""
    outcome = bench.split_everywhere(b"GET http://b:1/x?y HTTP/1.1\r\nX: z\r\nHost: a\r\n\r\n")
    [seen] = outcome.seen
    assert seen.target == b"/x?y"
    assert seen.scope["headers"] == [(b"host", b"b:1"), (b"x", b"z")]
    [old] = bench.exchange(b"GET http://b/ HTTP/1.0\r\n\r\n").seen
    assert old.scope["headers"] == [(b"host", b"b")]


# ---- Expect (RFC 9110, section 10.1.1)

EXPECTING = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"


def test_leave_is_given_when_the_app_asks_for_the_body(bench: Bench) -> None:
    outcome = bench.exchange(EXPECTING, b"abc")
    assert outcome.statuses == [100, 200]
    assert outcome.responses[1].body == b"abc"
    assert outcome.state is State.IDLE


def test_no_leave_is_given_where_none_is_waited_for(bench: Bench) -> None:
    assert bench.exchange(EXPECTING + b"abc").statuses == [200]
    without_body = EXPECTING.replace(b"Content-Length: 3\r\n", b"")
    assert bench.exchange(without_body).statuses == [200]
    old = EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0")
    assert bench.exchange(old, b"abc").statuses == [200], "HTTP/1.0 knows no such thing"


@pytest.mark.parametrize("behind", [b"", b"a", b"ab", b"abc", b"abc" + GET, GET])
def test_a_body_that_may_come_or_not_ends_the_connection(bench: Bench, behind: bytes) -> None:
    """An app that answers without it: what comes next may be either, so nothing is served of it."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 403, "headers": []})
        await send({"type": "http.response.body"})

    outcome = (
        bench.exchange(EXPECTING, behind, app=app) if behind else bench.exchange(EXPECTING, app=app)
    )
    assert outcome.statuses == [403]
    assert outcome.responses[0].header(b"connection") == b"close"
    assert outcome.closed


# ---- bodies that the app does not read


async def unread(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def test_a_small_rest_of_a_body_is_dropped_and_the_connection_kept(bench: Bench) -> None:
    data = post(GET * 3, target=b"/1") + post(b"", target=b"/2")
    for outcome in (bench.exchange(data, app=unread), bench.exchange_bytewise(data, app=unread)):
        assert [one.body for one in outcome.responses] == [b"/1", b"/2"]


def test_a_large_rest_of_a_body_ends_it(bench: Bench) -> None:
    data = post(b"x" * (MAX_DISCARDED_BYTES + 1), target=b"/1")
    head = data.index(b"\r\n\r\n") + 4
    outcome = bench.exchange(data[:head], data[head:], GET, app=unread)
    assert [one.body for one in outcome.responses] == [b"/1"]
    assert outcome.responses[0].header(b"connection") == b"close"
    assert outcome.closed


@pytest.mark.parametrize(("count", "kept"), [(MAX_DISCARDED_BYTES // 1024, True), (1000, False)])
def test_a_chunked_one_may_end_soon(bench: Bench, count: int, kept: bool) -> None:
    data = chunked(*[b"x" * 1024] * count)
    head = data.index(b"\r\n\r\n") + 4
    outcome = bench.exchange(data[:head], data[head:], GET, app=unread)
    assert outcome.statuses == [200] * (1 + kept)
    assert outcome.closed is not kept


# ---- responses without a body


@pytest.mark.parametrize("status", [200, 204, 205, 304, 404])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_next_response_begins_where_it_should(
    bench: Bench, status: int, method: bytes, streamed: bool
) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        if streamed:
            await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        await send({"type": "http.response.body", "body": b"" if status == 205 else b"c"})

    outcome = bench.exchange(GET.replace(b"GET", method) * 3, app=app)
    assert outcome.statuses == [status] * 3
    assert outcome.state is State.IDLE


def test_interim_responses(bench: Bench) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</a>; rel=preload"]})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    assert bench.exchange(GET * 2, app=app).statuses == [103, 200, 103, 200]
    old = bench.exchange(GET.replace(b"1.1", b"1.0"), app=app)
    assert old.statuses == [200], "HTTP/1.0 knows no interim responses"


@pytest.mark.parametrize("status", [100, 101, 103, 199, 0, 99, 1000])
def test_an_app_cannot_answer_with_what_is_no_answer(bench: Bench, status: int) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})

    assert bench.exchange(GET * 2, app=app).statuses == [500, 500]


# ---- trailers


def test_trailers_of_a_request_are_dropped(bench: Bench) -> None:
    data = chunked(b"abc")[:-2] + b"X-Checksum: 5\r\n\r\n"
    outcome = bench.split_everywhere(data + GET)
    assert outcome.statuses == [200, 200]
    assert [name for name, _ in outcome.seen[0].scope["headers"]] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(("te", "sent"), [(b"trailers", True), (b"gzip", False)])
def test_trailers_of_a_response(bench: Bench, te: bytes, sent: bool) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        offered = "http.response.trailers" in scope["extensions"]
        assert offered is sent
        await send(
            {"type": "http.response.start", "status": 200, "headers": [], "trailers": offered}
        )
        await send({"type": "http.response.body", "body": b"abc"})
        if offered:
            await send({"type": "http.response.trailers", "headers": [(b"x", b"y")]})

    outcome = bench.exchange(
        b"GET / HTTP/1.1\r\nHost: a\r\nTE: %b\r\n\r\n" % te
        + GET.replace(b"\r\n\r\n", b"\r\nTE: %b\r\n\r\n" % te),
        app=app,
    )
    assert outcome.statuses == [200, 200]
    assert (b"\r\n0\r\nx: y\r\n\r\n" in outcome.written) is sent


# ---- hand-over

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
H2C = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
)
WEBSOCKET = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.mark.parametrize("beginning", [PREFACE, H2C])
@pytest.mark.parametrize("behind", [b"", b"\x81\x85abcdhello", b"\r\n", GET])
def test_another_lane_gets_every_byte(bench: Bench, beginning: bytes, behind: bytes) -> None:
    outcome = bench.split_everywhere(beginning + behind)
    assert outcome.handed_over == beginning + behind
    assert (outcome.written, outcome.seen, outcome.closed) == (b"", [], False)


@pytest.mark.parametrize("behind", [b"", b"\x81\x85abcdhello", b"\r\n", GET])
def test_the_websocket_lane_gets_the_request_and_what_is_behind_it(
    bench: Bench, behind: bytes
) -> None:
    """The head is parsed once: there cannot be two opinions about it."""
    outcome = bench.split_everywhere(WEBSOCKET.replace(b"/ws", b"/w%73?a=b%20c") + behind)
    assert outcome.handed_over == behind
    assert (outcome.written, outcome.seen, outcome.closed) == (b"", [], False)
    assert outcome.websocket is not None
    path, raw_path, query, headers = outcome.websocket
    assert (path, raw_path, query) == ("/ws", b"/w%73", b"a=b%20c")
    assert headers[:2] == [(b"host", b"a"), (b"connection", b"keep-alive, Upgrade")]


def test_a_websocket_by_url_is_for_the_host_that_the_url_names(bench: Bench) -> None:
    """RFC 9112, section 3.2.2."""
    outcome = bench.split_everywhere(WEBSOCKET.replace(b"/ws", b"http://b:81/ws"))
    assert outcome.websocket is not None
    path, raw_path, _, headers = outcome.websocket
    assert (path, raw_path) == ("/ws", b"/ws")
    assert [value for name, value in headers if name == b"host"] == [b"b:81"]


@pytest.mark.parametrize(
    ("beginning", "first"), [(H2C, H2C), (WEBSOCKET, b"")], ids=["h2c", "websocket"]
)
def test_it_may_be_the_second_request(bench: Bench, beginning: bytes, first: bytes) -> None:
    outcome = bench.split_everywhere(GET + beginning + b"more")
    assert outcome.statuses == [200]
    assert outcome.handed_over == first + b"more"


@pytest.mark.parametrize(
    "data",
    [
        WEBSOCKET.replace(b"HTTP/1.1", b"HTTP/1.0"),
        WEBSOCKET.replace(b"GET", b"POST"),
        WEBSOCKET.replace(b"keep-alive, Upgrade", b"keep-alive"),
        WEBSOCKET.replace(b"Upgrade: W", b"Upgrade: h2c\r\nUpgrade: W"),
        WEBSOCKET.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc"),
        H2C.replace(b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n", b""),
        H2C.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        H2C.replace(b"h2c", b"h2"),
    ],
)
def test_an_upgrade_that_cannot_be_is_ignored(bench: Bench, data: bytes) -> None:
    """RFC 9110, section 7.8: the request is served as it is."""
    outcome = bench.split_everywhere(data)
    assert (outcome.statuses, outcome.handed_over) == ([200], None)


def test_http2_does_not_begin_in_the_middle_of_a_connection(bench: Bench) -> None:
    outcome = bench.split_everywhere(GET + PREFACE)
    assert outcome.statuses == [200, 505]
    assert outcome.handed_over is None


@pytest.mark.parametrize(
    "behind", [b"PRI * HTTP/2.0\r\nHost: a\r\n\r\n", b"PRI / HTTP/2.0\r\n\r\n"]
)
def test_what_only_looks_like_the_preface(bench: Bench, behind: bytes) -> None:
    assert bench.split_everywhere(behind).statuses == [505]


# ---- the end


def test_a_client_that_has_said_all_is_answered(bench: Bench) -> None:
    """It has shut down its side: a `printf | nc` does."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        await unread(scope, receive, send)

    async def script(client: Client) -> Outcome:
        client.transport.feed(GET + GET)
        client.transport.feed_eof()
        await client.settle()
        return await client.end()

    outcome = bench.run(script, app)
    assert outcome.statuses == [200, 200]
    assert outcome.closed


@pytest.mark.parametrize("size", range(1, len(GET)))
def test_half_a_head_is_not_answered(bench: Bench, size: int) -> None:
    outcome = bench.exchange(GET[:size])
    assert (outcome.written, outcome.seen) == (b"", [])


@pytest.mark.parametrize("data", [post(b"abc"), chunked(b"ab", b"c")])
def test_half_a_body_is_not_taken_for_a_whole_one(bench: Bench, data: bytes) -> None:
    for size in range(data.index(b"\r\n\r\n") + 4, len(data)):
        outcome = bench.exchange(data[:size])
        assert not outcome.completed
        [seen] = outcome.seen
        assert seen.disconnected
        assert outcome.written == b""
