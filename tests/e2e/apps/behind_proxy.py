"""What an app sees of its clients when proxies stand between: an ASGI app and a WSGI app."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

type Scope = dict[str, Any]
type Receive = Callable[[], Awaitable[dict[str, Any]]]
type Send = Callable[[dict[str, Any]], Awaitable[None]]

PAGE = b"All work and no play makes Jack a dull boy.\n" * 400


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    match scope["type"]:
        case "http":
            await _http(scope, receive, send)
        case "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": _told(scope)})
            while (message := await receive())["type"] == "websocket.receive":
                await send({**message, "type": "websocket.send"})
        case _:
            raise ValueError("no lifespan here")


async def _http(scope: Scope, receive: Receive, send: Send) -> None:
    size, sha, chunks = 0, hashlib.sha256(), 0
    while True:
        message = await receive()
        size, chunks = size + len(message["body"]), chunks + 1
        sha.update(message["body"])
        if not message["more_body"]:
            break
    kind, body = b"application/json", _told(scope).encode()
    if scope["path"].endswith("/page"):
        kind, body = b"text/html", PAGE
    elif size:
        body = json.dumps([size, sha.hexdigest(), chunks]).encode()
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _told(scope: Scope) -> str:
    told = {name: scope[name] for name in ("client", "server", "scheme", "root_path", "path")}
    told["headers"] = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"]]
    return json.dumps(told)


def wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({k: v for k, v in environ.items() if isinstance(v, str)}).encode()]
