"""Rows without goals: other protocols, other apps, other ways to be used."""

from loadtests.contenders import Event
from loadtests.plans import (
    Economics,
    Http2,
    Idle,
    KindScaling,
    Life,
    Load,
    Proxied,
    Spread,
    Users,
    WebSocket,
)
from loadtests.rows import (
    BUSIEST,
    BUSIEST_REQUESTS,
    CONNECTION,
    DELIVERY,
    FAILED,
    MESSAGE,
    P99,
    RETRIED,
    SCALING,
    START_MS,
    WORKER_MB,
    WORST,
    Row,
)
from loadtests.server import Probe

EXAMPLES = (
    (
        "app-fastapi",
        "FastAPI example, JSON from a database",
        Load("examples.fastapi_app.main:app", path="/api/releases"),
    ),
    (
        "app-django-asgi",
        "Django example, page from a database (ASGI)",
        Load("examples.django_app.asgi:application"),
    ),
    (
        "app-django-wsgi",
        "Django example, page from a database (WSGI)",
        Load("examples.django_app.wsgi:application", "wsgi"),
    ),
    (
        "app-flask",
        "Flask example, page from a database",
        Load("examples.flask_app.main:app", "wsgi"),
    ),
)

EVENTS: tuple[tuple[Event, str], ...] = (
    ("reload", "it loads new code (HUP)"),
    ("kill", "a process that serves is killed"),
    ("recycle", "workers are replaced after 300 requests"),
    ("grow", "a worker is added (TTIN)"),
)

ROWS = (
    *(Row(name, title, plan, quick=False, group="apps") for name, title, plan in EXAMPLES),
    Row(
        "users",
        "40 users read and write through the FastAPI example",
        Users("examples.fastapi_app.main:app", users=40),
        also=(P99,),
        quick=False,
        group="apps",
    ),
    Row(
        "http2",
        "HTTP/2, 8 connections with 16 streams each",
        Http2("loadtests.apps.asgi:hello", probe=Probe(connect=True)),
        quick=False,
        group="protocols",
    ),
    Row(
        "websocket-echo",
        "WebSocket echo of 64 bytes, 32 connections",
        WebSocket("loadtests.apps.websocket:echo", connections=32),
        metric=MESSAGE,
        quick=False,
        group="protocols",
    ),
    Row(
        "websocket-room",
        "WebSocket room: each message to 100 connections",
        WebSocket("loadtests.apps.websocket:broadcast", connections=100, room=True),
        metric=DELIVERY,
        quick=False,
        group="protocols",
    ),
    Row(
        "nginx-tcp",
        "behind nginx over TCP, CPU of the server alone",
        Proxied("loadtests.apps.asgi:hello", unix=False, probe=Probe(answer=13)),
        quick=False,
        group="connections",
    ),
    Row(
        "nginx-unix",
        "behind nginx over a unix socket, CPU of the server alone",
        Proxied("loadtests.apps.asgi:hello", unix=True, probe=Probe(answer=13)),
        quick=False,
        group="connections",
    ),
    Row(
        "idle-connections",
        "10,000 idle keep-alive connections, memory of each",
        Idle("loadtests.apps.asgi:hello", connections=10_000),
        metric=CONNECTION,
        max_rounds=3,
        quick=False,
        group="connections",
    ),
    *(
        Row(
            f"spread-{connections}",
            f"{connections} connections on 4 workers, of a fair share",
            Spread("loadtests.apps.asgi:mixed", connections, workers=4),
            metric=BUSIEST,
            also=(BUSIEST_REQUESTS, P99),
            quick=False,
            group="spread",
        )
        for connections in (8, 64, 512)
    ),
    *(
        Row(
            f"kinds-{load}",
            f"1 to 16 workers with {what}, no server",
            Economics(load),
            metric=WORKER_MB,
            also=(START_MS,),
            max_rounds=3,
            quick=False,
            group="kinds",
        )
        for load, what in (
            ("asyncio", "asyncio alone"),
            ("fastapi", "a FastAPI app"),
            ("django", "Django and its admin"),
            ("sqlalchemy", "SQLAlchemy"),
            ("numpy-pandas", "NumPy and pandas"),
        )
    ),
    Row(
        "kinds-scaling",
        "CPU-bound work, 2 workers on 2 cores against 1",
        KindScaling(),
        metric=SCALING,
        quick=False,
        group="kinds",
    ),
    *(
        Row(
            f"life-{event}",
            f"200 requests a second while {what}",
            Life("loadtests.apps.asgi:mixed", event),
            metric=FAILED,
            also=(RETRIED, WORST, P99),
            max_rounds=3,
            quick=False,
            group="life",
        )
        for event, what in EVENTS
    ),
)
