"""An ASGI app that leaks, in each worker, up to a bound."""

import asgi

LEAK_BYTES = 64 * 1024
LEAKS = 1500

leaked: list[bytes] = []


async def app(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    if scope["type"] == "http" and len(leaked) < LEAKS:
        leaked.append(b"x" * LEAK_BYTES)
    await asgi.app(scope, receive, send)
