"""Apps that keep what belongs to a request, and try to make something of it in the next ones.

Each answers with what it has found that was not its own, as JSON.  In memory the same is tried in
`tests/conformance`.
"""

import asyncio
import json
import threading
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

variable: ContextVar[str] = ContextVar("variable", default="")
kept: list[Any] = []
lock = threading.Lock()


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Found: a variable, a header, a key in state; what another request was to receive."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    found = [variable.get(), len(copy_context())]
    found += [name.decode() for name, _ in scope["headers"] if name.startswith(b"x-leak")]
    found += [key for key in (*scope, *scope["state"], *scope["extensions"]) if key == "leak"]
    variable.set(scope["path"])
    scope["headers"] = [*scope["headers"], (b"x-leak", b"1")]
    scope["leak"] = scope["state"]["leak"] = scope["extensions"]["leak"] = scope["path"]
    scope["state"]["shared"].append(1)  # what the lifespan has put there is for all
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    await asyncio.sleep(0.01)  # others are served meanwhile
    for old_receive, old_send in kept[-3:]:
        await asyncio.gather(stale(old_send), return_exceptions=True)
        if (message := await old_receive())["type"] != "http.disconnect" and message["body"]:
            found.append(repr(message))
    answer = json.dumps([*found, scope["path"], body.decode()]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": answer})
    kept.append((receive, send))


async def stale(send: Any) -> None:
    await send({"type": "http.response.start", "status": 201, "headers": [(b"x-leak", b"1")]})
    await send({"type": "http.response.body", "body": b"leak"})


async def lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
    scope["state"]["shared"] = []
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Found: a variable, a key in the environ; a body that can still be read."""
    found = [variable.get(), len(copy_context())]
    found += [key for key in environ if "LEAK" in key]
    path = str(environ["PATH_INFO"])
    body = environ["wsgi.input"].read()
    variable.set(path)
    with lock:
        others = kept[-3:]
    for old_environ, old_start, old_write in others:
        for attempt in (
            lambda old=old_environ: found.extend(old["wsgi.input"].read().splitlines()),
            lambda old=old_start: old("201 Created", [("X-Leak", "1")]),
            lambda old=old_write: old(b"leak"),
        ):
            try:
                attempt()
            except Exception:  # noqa: BLE001  that it fails is what is wanted
                continue
    environ["LEAK"] = environ["HTTP_X_LEAK"] = path
    write = start_response("200 OK", [("Content-Type", "application/json")])
    with lock:
        kept.append((environ, start_response, write))
    return [json.dumps([*found, path, body.decode()]).encode()]
