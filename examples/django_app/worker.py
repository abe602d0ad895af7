"""Which worker answers: a header on every response, a variable in every template."""

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from subserve import WorkerInfo, current_worker

type SyncHandler = Callable[[HttpRequest], HttpResponseBase]
type AsyncHandler = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


@sync_and_async_middleware
def worker_header(get_response: SyncHandler | AsyncHandler) -> SyncHandler | AsyncHandler:
    """Middleware that adds ``X-Worker``.

    It is of the same kind as `get_response`, so that Django needs no thread to get from one
    to the other, under ASGI and under WSGI.
    """
    if iscoroutinefunction(get_response):

        async def middleware(request: HttpRequest) -> HttpResponseBase:
            return add_header(await get_response(request))
    else:

        def middleware(request: HttpRequest) -> HttpResponseBase:
            return add_header(get_response(request))

    return middleware


def add_header(response: HttpResponseBase) -> HttpResponseBase:
    """Name the worker in `response`: ``index.generation``, or ``-`` outside of subserve."""
    response.headers["X-Worker"] = str(current_worker() or "-")
    return response


def worker_context(_request: HttpRequest) -> dict[str, WorkerInfo | None]:
    """Context processor: `worker`, the worker that renders the template."""
    return {"worker": current_worker()}
