"""Say in each answer which worker it comes from."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from subserve import current_worker

HEADER = "X-Worker"

# The messages that begin an answer: a response, an accepted WebSocket, a refused one.
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


def worker_name() -> str:
    """``index.generation`` of the worker that runs us, ``-`` under any other server."""
    worker = current_worker()
    return "-" if worker is None else str(worker)


class WorkerHeader:
    """Adds ``X-Worker`` to HTTP responses and WebSocket handshakes.

    Written against ASGI itself: a middleware based on Starlette's BaseHTTPMiddleware would see no
    WebSockets and put a task and a queue between the app and a streaming response.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_named(message: Message) -> None:
            if message["type"] in _STARTS:
                message.setdefault("headers", [])
                MutableHeaders(scope=message)[HEADER] = worker_name()
            await send(message)

        await self._app(scope, receive, send_named)
