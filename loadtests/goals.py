"""The rows that say how fast subserve has to be, each with its goals."""

from pathlib import Path

from loadtests.contenders import Floor
from loadtests.plans import Latency, Load, Memory, Scaling
from loadtests.rows import ADDED, P99, SCALING, Goal, Row
from loadtests.server import Probe

APPS = Path(__file__).parent / "apps"
ORDER = APPS / "order.json"

KIB = 1024
MIB = 1024 * KIB

ASYNC_PEERS = ("uvicorn", "granian")
FORKING_PEERS = ("uvicorn", "gunicorn", "granian")

# 40 requests a second of which 4 take 200 ms keep 0.8 of two cores busy: a common load of a server
# that is not overloaded, at which each fast request meets 0.8 slow ones on average.
MIXED_RATE = 40.0
MIXED_SLOW = 0.1

ROWS = (
    Row(
        "plain-asgi",
        "plain ASGI, 1 worker, 32 keep-alive connections",
        Load("loadtests.apps.asgi:hello", floor=Floor(), probe=Probe(answer=13)),
        (
            Goal("times", ASYNC_PEERS, 1.6, 2.2),
            Goal("share", ("floor",), 1.8, 1.4),
        ),
    ),
    Row(
        "browser-head",
        "plain ASGI, a browser's head that is new in each request",
        Load("loadtests.apps.asgi:browser", script="browser.lua", floor=Floor(40)),
        (Goal("times", ASYNC_PEERS, 1.6, 2.2),),
    ),
    Row(
        "post-10k",
        "10 KiB POST echoed (ASGI)",
        Load(
            "loadtests.apps.asgi:echo",
            script="post.lua",
            arguments=("size", str(10 * KIB)),
            floor=Floor(answer=10 * KIB, body=10 * KIB),
            probe=Probe(body=bytes(10 * KIB), answer=10 * KIB),
        ),
        (Goal("times", ASYNC_PEERS, 1.3, 2.0),),
    ),
    Row(
        "response-100k",
        "100 KiB response",
        Load(
            "loadtests.apps.asgi:large",
            floor=Floor(answer=100 * KIB),
            probe=Probe(answer=100 * KIB),
        ),
        (Goal("times", ASYNC_PEERS, 1.0, 1.3),),
    ),
    Row(
        "stream-10m",
        "10 MiB response, streamed",
        Load("loadtests.apps.asgi:stream", connections=4, probe=Probe(answer=10 * MIB)),
        (Goal("times", ASYNC_PEERS, 1.0, 1.3),),
    ),
    Row(
        "upload-100m",
        "100 MiB upload, read as it comes",
        Load(
            "loadtests.apps.asgi:upload",
            connections=2,
            script="post.lua",
            arguments=("size", str(100 * MIB)),
            floor=Floor(answer=9, body=100 * MIB),
            probe=Probe(body=bytes(MIB), answer=7),
        ),
        (Goal("times", ASYNC_PEERS, 1.0, 1.3),),
    ),
    Row(
        "fastapi-json",
        "FastAPI JSON route, pydantic models in and out",
        Load(
            "loadtests.apps.fastapi_json:app",
            path="/orders",
            script="post.lua",
            arguments=("json", str(ORDER)),
            probe=Probe(
                path="/orders",
                body=ORDER.read_bytes(),
                content_type="application/json",
            ),
        ),
        (Goal("times", ASYNC_PEERS, 1.1, 1.3),),
    ),
    Row(
        "wsgi-plain",
        "plain WSGI, 4 threads",
        Load("loadtests.apps.wsgi:hello", "wsgi", floor=Floor(), probe=Probe(answer=13)),
        (
            Goal("times", ("granian",), 1.0, 1.3),
            Goal("times", ("gunicorn",), 6.0),
        ),
    ),
    Row(
        "flask-template",
        "Flask route with a template, 4 threads",
        Load("loadtests.apps.flask_page:app", "wsgi"),
        (
            Goal("times", ("granian",), 1.0, 1.2),
            Goal("times", ("gunicorn",), 3.0),
        ),
    ),
    Row(
        "new-connection",
        "a new connection for each request (ASGI)",
        Load(
            "loadtests.apps.asgi:hello",
            headers=("Connection: close",),
            floor=Floor(close=True),
            probe=Probe(answer=13),
        ),
        (Goal("times", ASYNC_PEERS, 1.0, 1.2),),
    ),
    Row(
        "cpu-scaling",
        "CPU-bound handler, 2 workers on 2 cores against 1 on 1",
        Scaling("loadtests.apps.asgi:compute"),
        (Goal("value", (), 1.85, 1.95),),
        SCALING,
    ),
    Row(
        "memory",
        "memory a worker adds, FastAPI app, 4 to 8 workers",
        Memory(
            "loadtests.apps.fastapi_json:app",
            (4, 8),
            "/orders",
            "post.lua",
            ("json", str(ORDER)),
        ),
        (Goal("share", ("uvicorn",), 0.7, 0.5),),
        ADDED,
        max_rounds=3,
    ),
    Row(
        "mixed-new",
        "fast requests while 10 % take 200 ms CPU, new connections",
        Latency("loadtests.apps.asgi:mixed", "new", MIXED_RATE, MIXED_SLOW, 4),
        (Goal("share", FORKING_PEERS, 1.0, 0.5),),
        P99,
    ),
    Row(
        "mixed-pool",
        "fast requests while 10 % take 200 ms CPU, a proxy's connections",
        Latency("loadtests.apps.asgi:mixed", "pool", MIXED_RATE, MIXED_SLOW, 4),
        (Goal("share", FORKING_PEERS, 1.0, 0.5),),
        P99,
    ),
    Row(
        "mixed-clients",
        "fast requests while 10 % take 200 ms CPU, 32 clients' connections",
        Latency("loadtests.apps.asgi:mixed", "clients", MIXED_RATE, MIXED_SLOW, 4),
        (Goal("share", FORKING_PEERS, 1.0, 0.5),),
        P99,
        quick=False,
    ),
)
