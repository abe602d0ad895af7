"""The states of a connection: the diagram in `docs/http1.md` is what happens, and all that does."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from subserve.http.h1.connection import Connection
from subserve.http.h1.overdue import check_time
from subserve.http.h1.states import State
from tests.unit.h1_harness import Bench, Client, Outcome

PAGE = Path(__file__).resolve().parents[2] / "docs" / "http1.md"

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\n"

moves: set[tuple[str, str]] = set()


class Watched(Connection):
    """Notes each change of its state."""

    __slots__ = ("_state",)

    @property
    def state(self) -> State:
        return self._state

    @state.setter
    def state(self, new: State) -> None:
        old = getattr(self, "_state", None)
        if old is not None and old is not new:
            moves.add((old.name, new.name))
        self._state = new


@pytest.fixture(scope="module")
def watched(parser: str) -> Iterator[Bench]:
    moves.clear()
    with Bench(Watched, http_parser=parser) as made:
        yield made


def written_down() -> set[tuple[str, str]]:
    rows = re.findall(
        r"^\| ([A-Z_]+) \| ([A-Z_]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    return set(rows)


async def never(scope: dict[str, Any], receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def broken(scope: dict[str, Any], receive: Any, send: Any) -> None:
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"abc", "more_body": True})
    raise RuntimeError("on purpose")


def live_through_it(bench: Bench) -> None:
    """Each life that a connection can have."""
    for pieces in (
        [GET],
        [GET[:5], GET[5:]],
        [GET + b"\r", b"\n"],
        [LAST],
        [LAST + GET],
        [LAST[:5], LAST[5:]],
        [GET[:5] + b"\x00" + GET],
        [b"\x16"],
        [GET[:5], b" \r\n\r\n"],
        [POST, b"12345"],
        [PREFACE],
        [PREFACE[:5], PREFACE[5:]],
    ):
        bench.exchange(*pieces)
    bench.exchange(GET, app=broken)
    bench.exchange(POST, b"123", app=never)

    async def overdue(client: Client, pieces: list[bytes], then: float = 100.0) -> Outcome:
        await client.send(*pieces)
        now = client.lane.now + then
        check_time(client.connection, now)  # begins to linger, or aborts
        await client.settle()
        check_time(client.connection, now + 1)
        check_time(client.connection, now + 100)
        await client.settle()
        return await client.end()

    async def stalled(client: Client, pieces: list[bytes]) -> Outcome:
        client.transport.stalled = True
        await client.send(*pieces)
        check_time(client.connection, client.lane.now + 1)
        check_time(client.connection, client.lane.now + 100)
        await client.settle()
        return await client.end()

    for pieces in ([], [GET], [GET[:5]], [POST]):
        bench.run(lambda client, pieces=pieces: overdue(client, pieces))
    for pieces in ([GET], [GET + GET[:5]], [LAST]):
        bench.run(lambda client, pieces=pieces: stalled(client, pieces))
    bench.run(lambda client: stalled(client, [GET]), app=broken)

    async def left(client: Client, pieces: list[bytes]) -> Outcome:
        await client.send(*pieces)
        client.transport.lose()
        await client.settle()
        return await client.end()

    for pieces in ([], [GET], [GET[:5]], [POST]):
        bench.run(lambda client, pieces=pieces: left(client, pieces))


def test_the_diagram_is_what_happens(watched: Bench) -> None:
    live_through_it(watched)
    assert moves - written_down() == set(), "not in docs/http1.md"
    assert written_down() - moves == set(), "never happens"


def test_the_states_are_described() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for state in State:
        assert f"**{state.name}**" in page
