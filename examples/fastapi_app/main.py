"""Release board, put together: ``subserve examples.fastapi_app.main:app``."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from examples.fastapi_app import chat, events, files, pages, releases, system
from examples.fastapi_app.datadir import DataDirectory
from examples.fastapi_app.db import Database
from examples.fastapi_app.feed import Feed
from examples.fastapi_app.middleware import HEADER, WorkerHeader, worker_name
from examples.fastapi_app.settings import Settings
from examples.fastapi_app.state import LifespanState
from examples.fastapi_app.storage import FileStore

_MAX_JSON_BYTES = 1024 * 1024
_FORM_OVERHEAD_BYTES = 64 * 1024  # boundaries and headers around the file of a form


def create_app(settings: Settings) -> FastAPI:
    """Make the app; nothing is opened before its lifespan starts."""
    app = FastAPI(
        title="Release board",
        version="1.0.0",
        summary="Plan, ship and talk about releases.",
        lifespan=_lifespan(settings),
    )
    # Limits belong to routers here: the app's own would answer from outside of our middleware.
    app.include_router(files.router, max_body_size=settings.max_upload_bytes + _FORM_OVERHEAD_BYTES)
    for module in (releases, events, chat, system, pages):
        app.include_router(module.router, max_body_size=_MAX_JSON_BYTES)
    app.mount("/static", StaticFiles(directory=pages.STATIC), name="static")
    app.add_middleware(WorkerHeader)
    app.add_exception_handler(Exception, _server_error)
    return app


def _lifespan(
    settings: Settings,
) -> Callable[[FastAPI], AbstractAsyncContextManager[LifespanState]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[LifespanState]:
        """Open what the worker needs; the stack closes it in the opposite order."""
        async with AsyncExitStack() as stack:
            data = await asyncio.to_thread(
                DataDirectory.open, settings.data, keep=settings.keep_data
            )
            stack.push_async_callback(asyncio.to_thread, data.close)
            database = await Database.open(settings.database_url)
            stack.push_async_callback(database.close)
            feed = Feed(database, data)
            stack.push_async_callback(feed.close)
            await feed.open()
            store = FileStore(data.uploads, settings.max_upload_bytes)
            yield {"database": database, "feed": feed, "store": store}

    return lifespan


async def _server_error(_request: Request, _error: Exception) -> JSONResponse:
    """The answer to an error nobody expected; the server logs it.

    It is sent from outside of all middleware, so it has to name the worker itself.
    """
    return JSONResponse({"detail": "Internal Server Error"}, 500, {HEADER: worker_name()})


app = create_app(Settings.from_environment())
