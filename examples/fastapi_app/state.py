"""What the lifespan opens and requests use: `request.state`, typed, as dependencies.

The server hands each request a copy of the lifespan's state, so nothing here is global and two
apps in one interpreter (as in tests) do not meet.
"""

from typing import Annotated, TypedDict, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from examples.fastapi_app.db import Database
from examples.fastapi_app.feed import Feed
from examples.fastapi_app.storage import FileStore


class LifespanState(TypedDict):
    """The keys that the lifespan yields."""

    database: Database
    feed: Feed
    store: FileStore


def get_database(connection: HTTPConnection) -> Database:
    """The pool of this worker."""
    return cast("Database", connection.state.database)


def get_feed(connection: HTTPConnection) -> Feed:
    """The feed of this worker."""
    return cast("Feed", connection.state.feed)


def get_store(connection: HTTPConnection) -> FileStore:
    """The uploaded files."""
    return cast("FileStore", connection.state.store)


DatabaseDep = Annotated[Database, Depends(get_database)]
FeedDep = Annotated[Feed, Depends(get_feed)]
StoreDep = Annotated[FileStore, Depends(get_store)]
