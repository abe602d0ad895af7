"""The FastAPI example, served by four workers, as its users would meet it."""

import asyncio
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.e2e.conftest import ROOT, Serve, Server

WORKERS = 4
WAIT = 20.0  # seconds that anything expected may take

APP = "examples.fastapi_app.main:app"
MAX_UPLOAD_BYTES = 300_000


def environment(data: Path) -> dict[str, str]:
    """No settings of whoever runs the tests; the data of the run goes below `data`."""
    return {
        "TMPDIR": str(data),
        "BOARD_DATA": "",
        "DATABASE_URL": "",
        "BOARD_MAX_UPLOAD_BYTES": str(MAX_UPLOAD_BYTES),
    }


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that leave it as they found it; it has to end without a stain."""
    data = tmp_path_factory.mktemp("board")
    arguments = (APP, "--app-dir", str(ROOT), "--bind", "127.0.0.1:0", "--workers", str(WORKERS))
    server = Server(arguments, data, environment(data))
    try:
        yield server.wait_ready()
        assert server.stop() == 0, server.log
        assert_clean(server, data)
    finally:
        server.kill()


@pytest.fixture
def client(board: Server) -> Iterator[httpx.Client]:
    with board.client() as client:
        yield client


def assert_clean(server: Server, data: Path) -> None:
    """Each worker shut its app down, nobody complained, and nothing is left on disk."""
    assert server.log.count("lifespan shutdown complete") == WORKERS
    assert not re.search(r"Traceback|\b(warning|error|critical)\b", server.log), server.log
    assert list(data.iterdir()) == []


def on_each_worker(server: Server, ask: Callable[[httpx.Client], None]) -> None:
    """Call `ask` with one client for each worker: connections go to the least loaded one."""
    workers: set[str] = set()
    with ExitStack() as stack:
        for _ in range(4 * WORKERS):
            client = stack.enter_context(server.client())
            name = client.get("/whoami").headers["X-Worker"]
            if name not in workers:
                workers.add(name)
                ask(client)
            if len(workers) == WORKERS:
                return
    pytest.fail(f"only {sorted(workers)} answered")


def plan(client: httpx.Client, version: str, **fields: str) -> dict[str, Any]:
    body = {"project": "e2e", "version": version, "title": "A title"} | fields
    answer = client.post("/api/releases", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


class EventStream:
    """A reader of `/api/events` in a thread, so that the test can act meanwhile."""

    def __init__(self, server: Server, **options: Any) -> None:
        self._client = server.client()
        self._response = self._client.send(
            self._client.build_request("GET", "/api/events", **options), stream=True
        )
        self.headers = self._response.headers
        self._lines = self._response.iter_lines()
        assert self.headers["Content-Type"].startswith("text/event-stream")
        kind, _, hello = self.next()
        assert (kind, hello["worker"]) == ("hello", self.headers["X-Worker"])

    def next(self) -> tuple[str, str, dict[str, Any]]:
        """The next event: its kind, id and data."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if line.startswith(":"):
                continue
            if not line and fields:
                return fields["event"], fields.get("id", ""), json.loads(fields["data"])
            name, _, fields[name] = line.partition(": ")
        raise EOFError

    def rest(self) -> list[str]:
        """What comes until the server ends the stream, with or without a last chunk.

        An app learns of the stop as a client that left, so it does not end its response.
        """
        lines: list[str] = []
        with suppress(httpx.RemoteProtocolError):
            lines.extend(self._lines)
        return lines

    def close(self) -> None:
        self._response.close()
        self._client.close()


class Talker:
    """A chat client."""

    def __init__(self, connection: ClientConnection, welcome: dict[str, Any]) -> None:
        self.connection = connection
        self.welcome = welcome

    @classmethod
    async def join(cls, stack: AsyncExitStack, server: Server, name: str) -> Talker:
        uri = f"{server.url.replace('http', 'ws', 1)}/ws/chat/lobby?name={name}"
        connection = await stack.enter_async_context(connect(uri, proxy=None))
        talker = cls(connection, json.loads(await connection.recv()))
        assert talker.welcome["type"] == "welcome"
        assert talker.worker == talker.welcome["worker"]
        return talker

    @property
    def worker(self) -> str:
        assert self.connection.response is not None
        return self.connection.response.headers["X-Worker"]

    async def say(self, text: str) -> None:
        await self.connection.send(json.dumps({"text": text}))

    async def hear(self, kind: str, **expected: str) -> dict[str, Any]:
        """The next message that is of this kind and has these values."""
        async with asyncio.timeout(WAIT):
            while True:
                message = json.loads(await self.connection.recv())
                if message["type"] == kind and expected.items() <= message.items():
                    return message


async def join_on_two_workers(stack: AsyncExitStack, server: Server) -> tuple[Talker, Talker]:
    ann = await Talker.join(stack, server, "ann")
    for _ in range(4 * WORKERS):
        bob = await Talker.join(stack, server, "bob")
        if bob.worker != ann.worker:
            return ann, bob
    pytest.fail(f"everybody was connected to worker {ann.worker}")


def test_every_page_comes_from_every_worker(board: Server) -> None:
    def ask(client: httpx.Client) -> None:
        for path in ("/", "/board", "/chat", "/files", "/docs", "/static/board.css"):
            answer = client.get(path)
            assert answer.status_code == 200, path
            assert re.fullmatch(r"[0-3]\.1", answer.headers["X-Worker"])
        assert client.get("/health").json() == {"status": "ok"}
        assert "/api/releases/{release_id}" in client.get("/openapi.json").json()["paths"]

    on_each_worker(board, ask)


def test_the_links_of_the_home_page_lead_somewhere(client: httpx.Client) -> None:
    links = set(re.findall(r'(?:href|src)="([^"]+)"', client.get("/").text))
    assert {"/board", "/chat", "/files", "/docs", "/whoami", "/api/releases"} <= links
    for path in sorted(links - {"/api/events"}):
        assert client.get(path).status_code == 200, path


def test_whoami_tells_workers_apart(board: Server) -> None:
    answers: list[dict[str, Any]] = []
    on_each_worker(board, lambda client: answers.append(client.get("/whoami").json()))
    assert sorted(answer["index"] for answer in answers) == list(range(WORKERS))
    assert {(answer["generation"], answer["workers"]) for answer in answers} == {(1, WORKERS)}
    assert len({answer["interpreter"] for answer in answers}) == WORKERS
    assert {answer["process"] for answer in answers} == {board.serving_pid}


def test_crud_is_seen_by_all_workers(board: Server, client: httpx.Client) -> None:
    release = plan(client, "1.0.0", notes="first line")
    path = f"/api/releases/{release['id']}"
    assert (release["state"], release["project"]) == ("planned", "e2e")

    answer = client.patch(path, json={"title": "Another title"})
    assert answer.json()["title"] == "Another title"
    assert answer.json()["notes"] == "first line"

    def same(other: httpx.Client) -> None:
        assert other.get(path).json() == answer.json()

    on_each_worker(board, same)
    page = client.get("/api/releases", params={"project": "e2e", "state": "planned"}).json()
    assert answer.json() in page["items"]
    assert page["total"] == len(page["items"])

    assert client.delete(path).status_code == 204
    on_each_worker(board, lambda other: assert_status(other.get(path), 404))


def assert_status(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text


def test_a_release_moves_as_the_states_allow(client: httpx.Client) -> None:
    path = f"/api/releases/{plan(client, '2.0.0')['id']}/state"
    assert_status(client.post(path, json={"state": "shipped"}), 409)
    for state in ("building", "testing", "shipped"):
        assert client.post(path, json={"state": state}).json()["state"] == state
    refused = client.post(path, json={"state": "planned"})
    assert refused.json() == {"detail": "a release that is shipped can go to: rolled_back"}


def test_validation_errors_name_each_mistake(client: httpx.Client) -> None:
    answer = client.post("/api/releases", json={"project": "x", "version": "1", "colour": "red"})
    assert_status(answer, 422)
    assert {tuple(error["loc"]): error["type"] for error in answer.json()["detail"]} == {
        ("body", "version"): "version",
        ("body", "title"): "missing",
        ("body", "colour"): "extra_forbidden",
    }
    assert re.fullmatch(r"[0-3]\.1", answer.headers["X-Worker"])
    assert_status(client.get("/api/releases", params={"limit": 0}), 422)
    assert_status(client.post("/api/releases", content=b"{"), 422)


def test_the_same_version_twice_is_a_conflict(board: Server, client: httpx.Client) -> None:
    plan(client, "3.0.0")
    body = {"project": "E2E", "version": "3.0.0", "title": "Again"}
    on_each_worker(board, lambda other: assert_status(other.post("/api/releases", json=body), 409))


def test_writers_on_all_workers_do_not_lock_each_other_out(board: Server) -> None:
    clients = 2 * WORKERS
    rounds = 10
    failures: list[str] = []

    def write(number: int) -> None:
        with board.client() as client:
            for round_ in range(rounds):
                body = {"project": f"w{number}", "version": f"1.0.{round_}", "title": "t"}
                answer = client.post("/api/releases", json=body)
                if answer.status_code != 201:
                    failures.append(answer.text)

    stream = EventStream(board, params={"topic": "releases"})
    threads = [threading.Thread(target=write, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert failures == []
    # One worker's stream has what all workers wrote, each event once, in order.
    events = [stream.next() for _ in range(clients * rounds)]
    stream.close()
    ids = [int(id_) for _, id_, _ in events]
    assert ids == sorted(set(ids))
    assert len({event["data"]["id"] for _, _, event in events}) == clients * rounds


def test_the_live_feed_crosses_workers_and_resumes(board: Server, client: httpx.Client) -> None:
    streams = [EventStream(board, params={"topic": "releases"}) for _ in range(WORKERS)]
    assert len({stream.headers["X-Worker"] for stream in streams}) > 1
    release = plan(client, "4.0.0")
    received = [stream.next() for stream in streams]
    for kind, _, event in received:
        assert (kind, event["data"]) == ("created", release)
    for stream in streams:
        stream.close()

    client.patch(f"/api/releases/{release['id']}", json={"notes": "missed"})
    again = EventStream(
        board, params={"topic": "releases"}, headers={"Last-Event-ID": received[0][1]}
    )
    kind, _, event = again.next()
    again.close()
    assert (kind, event["data"]["notes"]) == ("changed", "missed")


def test_a_plain_function_runs_in_a_thread(client: httpx.Client) -> None:
    old = plan(client, "5.0.0", notes="same\nold")
    new = plan(client, "5.1.0", notes="same\nnew")
    answer = client.get(f"/api/releases/{old['id']}/diff/{new['id']}").json()
    assert answer["similarity"] == 0.5
    assert answer["diff"][:2] == ["--- e2e 5.0.0", "+++ e2e 5.1.0"]
    assert answer["diff"][2:] == ["@@ -1,2 +1,2 @@", " same", "-old", "+new"]
    assert answer["thread"] != client.get("/whoami").json()["thread"]
    assert_status(client.get(f"/api/releases/{old['id']}/diff/999999"), 404)


def test_uploads_are_hashed_kept_and_verified(board: Server, client: httpx.Client) -> None:
    content = bytes(range(256)) * 1000
    digest = hashlib.sha256(content).hexdigest()
    pieces = (content[start : start + 10_000] for start in range(0, len(content), 10_000))
    form = client.post("/api/files", files={"file": ("a/../b c.bin", content)})
    raw = client.put("/api/files/raw/stream.bin", content=pieces)
    for answer, name in ((form, "b c.bin"), (raw, "stream.bin")):
        assert_status(answer, 201)
        file = answer.json()
        assert (file["name"], file["size"], file["sha256"]) == (name, len(content), digest)

    path = f"/api/files/{raw.json()['id']}"

    def check(other: httpx.Client) -> None:
        assert other.get(f"{path}/verify").json()["intact"] is True
        assert other.get(f"{path}/content").content == content

    on_each_worker(board, check)
    part = client.get(f"{path}/content", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])
    assert_status(client.delete(path), 204)
    assert_status(client.get(path), 404)


@pytest.mark.parametrize("size", [MAX_UPLOAD_BYTES + 1, 10 * MAX_UPLOAD_BYTES])
def test_an_upload_that_is_too_large_is_refused(
    board: Server, client: httpx.Client, size: int
) -> None:
    content = b"x" * size
    before = client.get("/api/files").json()
    for send in (
        lambda uploader: uploader.post("/api/files", files={"file": ("big", content)}),
        lambda uploader: uploader.put("/api/files/raw/big", content=content),
        lambda uploader: uploader.put("/api/files/raw/big", content=iter([b"x", content[1:]])),
    ):
        with board.client() as uploader:
            try:
                answer = send(uploader)
            except httpx.WriteError:
                continue  # the server has answered and closed before we had sent it all
            assert_status(answer, 413)
            assert re.fullmatch(r"[0-3]\.1", answer.headers["X-Worker"])
    assert client.get("/api/files").json() == before


def test_the_chat_crosses_workers(board: Server) -> None:
    async def talk() -> None:
        async with AsyncExitStack() as stack:
            ann, bob = await join_on_two_workers(stack, board)
            await ann.say("hello from ann")
            heard = await bob.hear("message", name="ann", text="hello from ann")
            assert heard["worker"] == ann.worker
            await bob.say("hello from bob")
            assert (await ann.hear("message", name="bob"))["worker"] == bob.worker
            # Both have everything in the same order, and who joins later has it as history.
            async with connect(
                f"{board.url.replace('http', 'ws', 1)}/ws/chat/lobby?name=eve", proxy=None
            ) as eve:
                history = json.loads(await eve.recv())["history"]
                said = [item["text"] for item in history if item["type"] == "message"]
                # What her worker has not read from the table yet comes as it is read.
                async with asyncio.timeout(30):
                    while said[-1:] != ["hello from bob"]:
                        item = json.loads(await eve.recv())
                        said += [item["text"]] if item["type"] == "message" else []
                assert said[-2:] == ["hello from ann", "hello from bob"]
            await ann.hear("left", name="eve")

    asyncio.run(talk())


def test_the_chat_refuses_nonsense_and_goes_on(board: Server) -> None:
    async def talk() -> None:
        async with AsyncExitStack() as stack:
            ann = await Talker.join(stack, board, "ann")
            await ann.connection.send("not JSON")
            assert "Invalid JSON" in (await ann.hear("error"))["detail"]
            await ann.say("   ")
            assert "at least 1 character" in (await ann.hear("error"))["detail"]
            await ann.say("fine")
            await ann.hear("message", text="fine")
            await ann.connection.send(b"\0")
            with pytest.raises(ConnectionClosedError) as closed:
                await ann.hear("never")
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1003
            with pytest.raises(InvalidStatus) as refused:
                await Talker.join(stack, board, "")
            assert refused.value.response.status_code == 403

    asyncio.run(talk())


def test_shipping_is_announced_in_the_background(board: Server, client: httpx.Client) -> None:
    async def talk() -> None:
        async with AsyncExitStack() as stack:
            ann = await Talker.join(stack, board, "ann")
            release = plan(client, "6.0.0", title="Announced")
            for state in ("building", "testing", "shipped"):
                client.post(f"/api/releases/{release['id']}/state", json={"state": state})
            await ann.hear("message", name="release-bot", text="e2e 6.0.0 shipped: Announced")

    asyncio.run(talk())


def test_stopping_ends_streams_and_sockets_at_once(
    serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tmp_path_factory.mktemp("stop")
    server = serve(APP, "--workers", str(WORKERS), app_dir=ROOT, env=environment(data))
    assert list(data.glob("release-board-*")) != []

    async def talk() -> None:
        async with AsyncExitStack() as stack:
            ann, bob = await join_on_two_workers(stack, server)
            streams = [EventStream(server) for _ in range(WORKERS)]
            await ann.say("anybody here?")
            await bob.hear("message", name="ann")
            for stream in streams:
                while stream.next()[0] != "message":
                    pass
            # Far below the graceful timeout of 30 s: nothing waits for it.
            assert await asyncio.to_thread(server.stop, timeout=10.0) == 0, server.log
            for talker in (ann, bob):
                with pytest.raises(ConnectionClosedError) as closed:
                    await talker.hear("never")
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1012
            for stream in streams:
                assert "".join(stream.rest()) == ""
                stream.close()

    asyncio.run(talk())
    assert_clean(server, data)
