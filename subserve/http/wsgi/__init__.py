"""The WSGI adapter: runs a PEP 3333 app in a thread pool, behind the ASGI interface.

Request bodies are streamed: a few chunks at most wait for the app to read them.  Responses are
streamed: the app's thread waits until the server has taken a chunk, so that a slow reader holds up
a thread and not memory; only the end of a response, up to 64 KiB, is left to the loop, so that
thread is free for the next request.

`environ` lists what an app finds in its environ.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import TYPE_CHECKING

from subserve.errors import SubserveError, WorkerError
from subserve.http.exchange import ClientGone
from subserve.http.wsgi.body import RequestBody
from subserve.http.wsgi.environ import body_expected, build_environ
from subserve.http.wsgi.errors import AppAborted, ClientDisconnected, WsgiViolation
from subserve.http.wsgi.files import FileWrapper
from subserve.http.wsgi.handover import ABORT_GRACE, Handover
from subserve.http.wsgi.messages import (
    Message,
    Receive,
    Scope,
    Send,
    body_message,
    start_message,
)
from subserve.http.wsgi.response import Response
from subserve.http.wsgi.timeout import RequestTimedOut, Watch, Watched

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication, WSGIEnvironment

__all__ = ["AppAborted", "ClientDisconnected", "FileWrapper", "WsgiApp", "WsgiViolation"]

type Run = Callable[[WSGIApplication, WSGIEnvironment, Response], list[Message]]

_TIMED_OUT = b"Gateway Timeout\n"

_GATEWAY_TIMEOUT = (
    start_message(
        504,
        [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(_TIMED_OUT)),
        ],
    ),
    body_message(_TIMED_OUT, last=True),
)


class WsgiApp:
    """An ASGI 3 app that runs a WSGI app in the threads of `pool`.

    `multiprocess` is what the app is told in ``wsgi.multiprocess``.

    HTTP requests are the app's.  A WebSocket is refused (the client sees 403).  Any other scope,
    lifespan included, is an error of the caller.

    An exception of the app leaves the call as it is, for the server to log and to answer with 500
    or by cutting the connection; one that is not an `Exception` is the cause of an `AppAborted`.
    A client that leaves is no error: the call returns.  When the call is cancelled it ends at once,
    and its thread on the next occasion: what the app reads or sends raises `ClientDisconnected`.

    `watch` looks after requests that take too long: they are answered 504, or end in the middle.
    """

    def __init__(
        self,
        app: WSGIApplication,
        pool: Executor,
        *,
        multiprocess: bool = False,
        watch: Watch | None = None,
    ) -> None:
        self._app = app
        self._watch = watch
        self._pool = pool
        self._multiprocess = multiprocess

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request, or refuse one WebSocket."""
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "websocket":
                await receive()  # websocket.connect
                await send({"type": "websocket.close"})
            case other:
                raise SubserveError(f"a WSGI app has no use for an ASGI scope of type {other!r}")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        handover = Handover(receive, send, body_expected=body_expected(scope))
        pull, transmit = handover.pull, handover.transmit
        run: Run = _run_app
        if self._watch is not None:
            watched = self._watch.request(
                f"{scope['method']} {scope['path']}", handover.time_out, answer_interrupts=True
            )
            pull, transmit = watched.guard(pull), watched.guard(transmit)
            run = partial(_run_watched, watched)
        environ = build_environ(scope, RequestBody(pull), multiprocess=self._multiprocess)
        response = Response(scope["method"], transmit)
        # The future is nobody's local variable here: with an exception in it, it would be a cycle.
        if await handover.serve(self._submit(run, environ, response)):
            return
        if handover.begun:
            raise ClientGone  # which leaves it to the lane to cut the response short
        async with asyncio.timeout(ABORT_GRACE):
            for message in _GATEWAY_TIMEOUT:
                await send({**message})

    def _submit(
        self, run: Run, environ: WSGIEnvironment, response: Response
    ) -> Future[list[Message]]:
        # What the app sets in a context variable is seen by this request only.
        context = contextvars.copy_context()
        try:
            return self._pool.submit(context.run, run, self._app, environ, response)
        except RuntimeError as error:
            raise WorkerError("the thread pool takes no more requests") from error


def _run_watched(
    watched: Watched, app: WSGIApplication, environ: WSGIEnvironment, response: Response
) -> list[Message]:
    """Do what `_run_app` does; nobody waits for what comes of it once it has timed out."""
    try:
        return watched.run(_run_app, app, environ, response)
    except BaseException as error:
        if not watched.timed_out and not isinstance(error, RequestTimedOut):
            raise
        return []


def _run_app(app: WSGIApplication, environ: WSGIEnvironment, response: Response) -> list[Message]:
    """Run `app` from call to close; return the messages that are still to be sent."""
    iterable = app(environ, response.start_response)
    try:
        return response.respond(iterable)
    finally:
        close = getattr(iterable, "close", None)
        if close is not None:
            close()
