"""Apps that try to make something of one request reach another: over threads, workers, streams."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clients import H2, Wire

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve, Server

CLIENTS = 6
REQUESTS = 30


def check(bodies: list[bytes], sent: list[tuple[str, str]]) -> None:
    """Fail unless each answer has its own path and body, and nothing that was not its own."""
    answers = [json.loads(body) for body in bodies]
    contexts = {answer[1] for answer in answers}
    assert len(contexts) == 1, "the contexts differ"
    [size] = contexts
    assert answers == [["", size, path, body] for path, body in sent]


def post(path: str, body: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
    return f"{head}{body}".encode()


def one_after_the_other(server: Server, name: str) -> None:
    sent = [(f"/{name}/{i}", f"body {name} {i}") for i in range(REQUESTS)]
    bodies = []
    with Wire.connect(server.address) as wire:
        for path, body in sent:
            wire.send(post(path, body))
            answer = wire.answer()
            assert (answer.status, "x-leak" in answer.headers) == (200, False)
            bodies.append(answer.body)
    check(bodies, sent)


def pipelined(server: Server, name: str) -> None:
    sent = [(f"/{name}/{i}", f"body {name} {i}") for i in range(REQUESTS)]
    with Wire.connect(server.address) as wire:
        wire.send(b"".join(post(path, body) for path, body in sent))
        answers = [wire.answer() for _ in sent]
    assert {answer.status for answer in answers} == {200}
    check([answer.body for answer in answers], sent)


def streams(server: Server, name: str) -> None:
    sent = [(f"/{name}/{i}", f"body {name} {i}") for i in range(REQUESTS)]
    with Wire.connect(server.address) as wire:
        client = H2(wire)
        numbers = [client.open(path, method="POST") for path, _ in sent]
        for number, (_, body) in zip(numbers, sent, strict=True):
            client.send(number, body.encode(), end=True)
        bodies = []
        for number in numbers:
            stream = client.finish(number)
            assert (stream.status, "x-leak" in stream.headers) == (200, False)
            bodies.append(bytes(stream.body))
    check(bodies, sent)


@pytest.fixture(scope="module", params=["asgi", "wsgi-1", "wsgi-3"])
def server(request: pytest.FixtureRequest, shared_serve: Serve) -> Server:
    app, _, threads = request.param.partition("-")
    return shared_serve(f"leaking:{app}", "--workers", "2", "--threads", threads or "4")


@pytest.mark.parametrize("way", [one_after_the_other, pipelined, streams])
def test_nothing_of_a_request_reaches_another(
    server: Server, way: Callable[[Server, str], None]
) -> None:
    with ThreadPoolExecutor(CLIENTS) as clients:
        for done in [clients.submit(way, server, f"client{i}") for i in range(CLIENTS)]:
            done.result()
    assert "Traceback" not in server.log
