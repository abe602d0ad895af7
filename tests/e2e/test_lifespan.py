"""The app's startup and shutdown, and the state that its requests get from it."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clients import Wire, gate
from tests.e2e.conftest import APPS

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve

HTTP_ONLY = """\
async def app(scope, receive, send):
    {body}
    if scope["type"] == "http":
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": scope["path"].encode()}})
"""


def test_each_worker_has_a_lifespan_with_a_state_of_its_own(serve: Serve) -> None:
    server = serve("asgi:app", "--workers", "2")
    assert server.log.count(": lifespan.startup\n") == 2
    seen = {}
    with Wire.connect(server.address) as one, Wire.connect(server.address) as other:
        for wire in (one, other):
            answer = wire.get("/state").answer()
            seen[answer.headers["x-worker"]] = answer.body
        # The state is copied for each request: the count starts anew; what it holds is shared.
        again = one.get("/state").answer().body
    assert sorted(seen) == ["0.1", "1.1"]
    for worker, body in seen.items():
        assert body == f'{{"worker": "{worker}", "list": [0], "count": 1}}'.encode()
    assert again.endswith(b'"list": [0, 1], "count": 1}')
    assert server.stop() == 0, server.log


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("assert scope['type'] == 'http'", id="raises"),
        pytest.param("pass", id="returns"),
        pytest.param(
            "if scope['type'] == 'lifespan': await send({'type': 'http.response.start'})",
            id="answers with a response",
        ),
    ],
)
def test_an_app_without_lifespan_is_served(serve: Serve, tmp_path: Path, body: str) -> None:
    (tmp_path / "simple.py").write_text(HTTP_ONLY.format(body=body))
    server = serve("simple:app", "--workers", "1", app_dir=tmp_path)
    with server.client() as client:
        assert client.get("/there").text == "/there"
    assert server.stop() == 0, server.log
    assert "Traceback" not in server.log
    assert "lifespan" not in server.log


def test_lifespan_off_leaves_it_alone(serve: Serve) -> None:
    server = serve("asgi:app", "--workers", "1", "--lifespan", "off")
    with server.client() as client:
        assert client.get("/").status_code == 200
    assert server.stop() == 0, server.log
    assert "lifespan" not in server.log


def test_a_startup_that_takes_a_while_delays_readiness(launch: Serve, tmp_path: Path) -> None:
    with gate() as held:
        (tmp_path / "slow.py").write_text(
            "import asgi\n"
            "async def app(scope, receive, send):\n"
            "    if scope['type'] == 'lifespan':\n"
            f"        await asgi.passage('{held.port}')\n"
            "    await asgi.app(scope, receive, send)\n"
        )
        server = launch(
            *("slow:app", "--workers", "1", "--bind", "127.0.0.1:0"),
            env={"PYTHONPATH": str(APPS)},
        )
        held.wait()
        assert "ready" not in server.log
        held.open()
        server.wait_ready()


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("raise ValueError('cannot close')", "ValueError: cannot close"),
        (
            "await send({'type': 'lifespan.shutdown.failed', 'message': 'pool is gone'})",
            "pool is gone",
        ),
        ("raise SystemExit(3)", "the app's lifespan raised SystemExit"),
    ],
)
def test_a_shutdown_that_fails_is_logged_and_the_server_ends_in_order(
    serve: Serve, tmp_path: Path, ending: str, said: str
) -> None:
    (tmp_path / "bad_end.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.complete'})\n"
        "    await receive()\n"
        f"    {ending}\n"
    )
    server = serve("bad_end:app", "--workers", "1", app_dir=tmp_path)
    assert server.stop() == 0, server.log
    assert "the app's lifespan shutdown failed" in server.log
    assert server.log.count(said) == 1
    assert "worker 0.1  stopped" in server.log


def test_tasks_that_the_startup_left_running_are_cancelled_at_the_end(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "busy.py").write_text(
        "import asyncio, asgi\n"
        "from websockets_app import tell\n"
        "async def work():\n"
        "    try:\n"
        "        await asyncio.sleep(3600)\n"
        "    finally:\n"
        "        tell('task cancelled')\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan':\n"
        "        scope['state']['task'] = asyncio.create_task(work())\n"
        "    await asgi.app(scope, receive, send)\n"
    )
    server = serve(
        *("busy:app", "--workers", "2", "--log-level", "debug"),
        app_dir=tmp_path,
        env={"PYTHONPATH": str(APPS)},
    )
    assert server.stop() == 0, server.log
    assert server.log.count("task cancelled") == 2
    assert server.log.count("interpreter closed") == 2
