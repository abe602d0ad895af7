"""Workers share a process and nothing else; each knows who it is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.e2e.clients import Wire
from tests.e2e.conftest import APPS

if TYPE_CHECKING:
    from tests.e2e.conftest import Serve

PROBE = """\
import json, os, sys, threading
import subserve
import asgi
from websockets_app import tell

outside = subserve.current_worker()
sys.setrecursionlimit(2000 + outside.index)
os.environ["PROBE"] = str(outside)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await asgi.app(scope, receive, send)
    inside = subserve.current_worker()
    report = {
        "index": inside.index, "generation": inside.generation, "workers": inside.workers,
        "text": str(inside), "same": inside == outside, "pid": os.getpid(),
        "thread": threading.get_native_id(), "limit": sys.getrecursionlimit(),
        "environ": os.environ["PROBE"],
    }
    x = asgi.Exchange(scope, receive, send, [], {})
    await x.answer(json.dumps(report))
"""


def test_each_worker_is_an_interpreter_of_its_own(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(PROBE)
    server = serve("probe:app", "--workers", "4", app_dir=tmp_path, env={"PYTHONPATH": str(APPS)})
    reports = {}
    with server.client(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        for _ in range(16):
            answer = client.get("/")
            report = json.loads(answer.text)
            assert answer.headers["x-worker"] == report["text"]
            reports[report["index"]] = report
    assert sorted(reports) == [0, 1, 2, 3]
    for index, report in reports.items():
        assert report["text"] == f"{index}.1"
        assert (report["generation"], report["workers"], report["same"]) == (1, 4, True)
        assert report["pid"] == server.serving_pid
        # What interpreters have of their own: settings, and even `os.environ`.
        assert report["limit"] == 2000 + index
        assert report["environ"] == f"{index}.1"
    assert len({report["thread"] for report in reports.values()}) == 4


def test_module_globals_are_not_shared(serve: Serve) -> None:
    server = serve("asgi:app", "--workers", "2")
    with Wire.connect(server.address) as one, Wire.connect(server.address) as other:
        for count in range(1, 4):
            for wire in (one, other):
                assert wire.get("/").answer().headers["x-served"] == str(count)


def test_the_root_path_is_there_whether_or_not_the_proxy_strips_it(serve: Serve) -> None:
    server = serve("asgi:app", "--workers", "1", "--root-path", "/api/v1/")
    with server.client() as client:
        for path in ("/scope/x%20y", "/api/v1/scope/x%20y"):
            scope = client.get(path).json()
            assert scope["root_path"] == "/api/v1"
            assert scope["path"] == "/api/v1/scope/x y"
            assert scope["raw_path"] == "/api/v1/scope/x%20y"
        # Not the prefix, but a name that begins like it.
        assert client.get("/api/v10").status_code == 500  # /api/v1/api/v10: no such route here


def test_the_main_interpreter_has_none_of_the_app(serve: Serve, tmp_path: Path) -> None:
    """Module code runs once a worker, and nowhere else."""
    (tmp_path / "counted.py").write_text(
        "import os, subserve\n"
        "os.write(2, f'imported in {subserve.current_worker()}\\n'.encode())\n"
        "from asgi import app\n"
    )
    server = serve("counted:app", "--workers", "3", app_dir=tmp_path, env={"PYTHONPATH": str(APPS)})
    lines = [line for line in server.log.splitlines() if line.startswith("imported in ")]
    assert sorted(lines) == [f"imported in {index}.1" for index in range(3)]


BLAS = """\
import os
import asgi

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await asgi.app(scope, receive, send)
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    x = asgi.Exchange(scope, receive, send, [], {})
    await x.answer(" ".join(os.environ.get(name, "unset") for name in names))
"""


@pytest.mark.parametrize(
    ("workers", "given", "seen"),
    [
        ("2", {}, "1 1 1"),
        ("2", {"OPENBLAS_NUM_THREADS": "3"}, "3 1 1"),
        ("1", {}, "unset unset unset"),
    ],
)
def test_workers_do_not_each_start_a_blas_thread_per_core(
    serve: Serve, tmp_path: Path, workers: str, given: dict[str, str], seen: str
) -> None:
    (tmp_path / "blas.py").write_text(BLAS)
    env = {"PYTHONPATH": str(APPS), **given}
    server = serve("blas:app", "--workers", workers, app_dir=tmp_path, env=env)
    with server.client() as client:
        assert client.get("/").text == seen
    assert server.stop() == 0
