"""What belongs to one request does not reach another on its connection: apps that try hard.

Over threads, workers and HTTP/2 it is `tests/e2e/test_isolation.py` that tries.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from subserve.http.access import AccessLog
from subserve.http.h1.states import State
from tests.unit.h1_harness import Bench, Client, Outcome, echo

GET = b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n"
POST = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nbody%d"

Scope = dict[str, Any]

variable: ContextVar[str] = ContextVar("variable", default="")


def deep(value: object) -> object:
    """Return a copy that changes of the original do not reach."""
    match value:
        case dict():
            return {key: deep(inner) for key, inner in value.items()}
        case list() | tuple():
            return [deep(inner) for inner in value]
    return value


def spoil(value: Any, known: set[int] | None = None) -> None:
    """Change whatever can be changed, all the way down."""
    known = set() if known is None else known
    if id(value) in known:
        return
    known.add(id(value))
    match value:
        case dict():
            for inner in list(value.values()):
                spoil(inner, known)
            value.clear()
            value["method"] = "GET"  # the harness looks for it
        case list():
            for inner in value:
                spoil(inner, known)
            value[:] = [b"spoilt"]
        case set() | bytearray():
            value.clear()
        case tuple():
            for inner in value:
                spoil(inner, known)


@pytest.mark.parametrize("tls", [None, {"client_cert_chain": ("a", "b"), "tls_version": 0x0304}])
def test_nothing_in_a_scope_is_that_of_another_request(
    bench: Bench, tls: dict[str, Any] | None
) -> None:
    seen = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(deep(scope))
        await echo(scope, receive, send)
        spoil(scope)

    async def script(client: Client) -> Outcome:
        client.connection.tls = tls
        await client.send(GET * 5, GET, GET)
        return await client.end()

    outcome = bench.run(script, app=app)
    assert outcome.statuses == [200] * 7
    assert seen == [seen[0]] * 7
    assert seen[0]["headers"] == [[b"host", b"a"], [b"te", b"trailers"]]


@pytest.mark.parametrize("then", ["raises", "returns", "answers", "hints"])
def test_an_app_that_empties_its_scope_is_answered_all_the_same(bench: Bench, then: str) -> None:
    """Regression: the server looked into it to log the failure, and no response ever came."""
    log = logging.getLogger("test.access")
    access = AccessLog(log, "%(m)s %(U)s %(s)s")

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        spoil(scope)
        if then == "raises":
            raise KeyError("mine")
        if then == "hints":
            await send({"type": "http.response.early_hint", "links": [b"</a>"]})
        if then != "returns":
            await echo(scope, receive, send)

    async def script(client: Client) -> Outcome:
        client.lane.access = access
        await client.send(GET * 2, GET)
        return await client.end()

    status = 500 if then in {"raises", "returns"} else 200
    assert bench.run(script, app=app).statuses == [status] * 3


def test_context_variables_begin_anew(bench: Bench) -> None:
    """Also those that are set in tasks and callbacks, or while the server reads and writes."""
    seen = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append((variable.get(), len(copy_context())))
        variable.set(scope["path"])
        loop = asyncio.get_running_loop()
        loop.call_soon(variable.set, "from a callback")
        await asyncio.create_task(asyncio.sleep(0))
        while (await receive()).get("more_body"):
            variable.set("while reading")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(20):
            await send({"type": "http.response.body", "body": b"x" * 9000, "more_body": True})
            variable.set("while writing")
        await send({"type": "http.response.body"})
        variable.set("at the end")

    requests = [POST % (i, i) for i in range(9)]
    large = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000
    outcome = bench.exchange(
        *requests[:2], b"".join(requests), large, large[:90], large[90:], GET, app=app
    )
    assert outcome.statuses == [200] * 14
    assert seen == [("", seen[0][1])] * 14


def test_nobody_is_told_of_an_exception_that_another_request_handles(bench: Bench) -> None:
    seen = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(sys.exception())
        try:
            raise KeyError("mine")
        except KeyError:
            await echo(scope, receive, send)
            raise

    outcome = bench.exchange(GET * 4, GET, app=app)
    assert outcome.statuses == [200] * 5
    assert seen == [None] * 5


def test_each_request_is_a_task_of_its_own(bench: Bench) -> None:
    tasks = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        tasks.append(asyncio.current_task())
        await echo(scope, receive, send)

    assert bench.exchange(GET * 4, GET, app=app).statuses == [200] * 5
    assert len(set(tasks)) == 5


MESSAGES: list[dict[str, Any]] = [
    {"type": "http.response.start", "status": 200, "headers": [(b"x", b"stale")]},
    {"type": "http.response.body", "body": b"stale"},
    {"type": "http.response.body", "body": b"stale", "more_body": True},
    {"type": "http.response.trailers", "headers": [(b"x", b"stale")]},
    {"type": "http.response.early_hint", "links": [b"</stale>"]},
    {"type": "http.response.pathsend", "path": __file__},
]


async def say_all_again(send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    for message in MESSAGES:
        with contextlib.suppress(RuntimeError, OSError):
            await send(message)


async def fail(scope: Scope, receive: Any, send: Any) -> None:
    raise KeyError("500")


async def return_at_once(scope: Scope, receive: Any, send: Any) -> None:
    """Answered 500, too."""


async def stream(scope: Scope, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a", "more_body": True})
    await send({"type": "http.response.body", "body": b"b"})


async def with_trailers(scope: Scope, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
    await send({"type": "http.response.body", "body": b"x"})
    await send({"type": "http.response.trailers", "headers": []})


@pytest.mark.parametrize("first", [echo, fail, return_at_once, stream, with_trailers])
def test_what_is_left_of_a_request_cannot_speak_in_the_next(bench: Bench, first: Any) -> None:
    """`send` and `receive` that are kept: before, while and after the next request is answered."""
    kept: list[tuple[Any, Any]] = []
    received = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if not kept:
            kept.append((receive, send))
            await first(scope, receive, send)
            return
        old_receive, old_send = kept[0]
        await say_all_again(old_send)
        received.append(await old_receive())
        message = await receive()
        received.append(await old_receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await say_all_again(old_send)
        await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        await say_all_again(old_send)
        await send({"type": "http.response.body"})
        await say_all_again(old_send)

    outcome = bench.exchange(GET + POST % (1, 1) + POST % (2, 2), POST % (3, 3), app=app)
    assert outcome.statuses[1:] == [200] * 3
    assert [response.body for response in outcome.responses[1:]] == [b"body1", b"body2", b"body3"]
    assert b"stale" not in outcome.written
    assert outcome.state is State.IDLE
    for message in received:
        assert message["type"] == "http.disconnect" or message["body"] == b""
    assert received[-1] == {"type": "http.disconnect"}


def test_a_task_that_goes_on_behind_its_request(bench: Bench) -> None:
    """It reads and writes as if it were still its turn, all the time."""
    tasks: list[asyncio.Task[None]] = []
    received: list[dict[str, Any]] = []

    async def behind(receive: Any, send: Any) -> None:
        for _ in range(50):
            await say_all_again(send)
            received.append(await receive())
            await asyncio.sleep(0)

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await echo(scope, receive, send)
        tasks.append(asyncio.create_task(behind(receive, send)))

    async def script(client: Client) -> Outcome:
        for i in range(5):
            data = POST % (i, i)
            for j in range(0, len(data), 9):
                client.transport.feed(data[j : j + 9])
                await asyncio.sleep(0)
        await client.settle()
        outcome = await client.end()
        await asyncio.wait(tasks)
        return outcome

    outcome = bench.run(script, app=app)
    assert [response.body for response in outcome.responses] == [b"body%d" % i for i in range(5)]
    assert b"stale" not in outcome.written
    assert received == [{"type": "http.disconnect"}] * 250


def test_bodies_do_not_mix(bench: Bench) -> None:
    """What one request leaves unread, the next does not read."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        message = await receive() if scope["path"] == "/1" else {"body": b""}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": message["body"]})

    outcome = bench.split_everywhere(POST % (0, 0) + POST % (1, 1) + POST % (0, 0))
    assert [response.body for response in outcome.responses] == [b"body0", b"body1", b"body0"]
    outcome = bench.exchange(POST % (0, 0) + POST % (1, 1) + POST % (0, 0), app=app)
    assert [response.body for response in outcome.responses] == [b"", b"body1", b""]
