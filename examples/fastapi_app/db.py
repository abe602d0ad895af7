"""The database: one pool of connections per worker, opened by the lifespan.

SQLite's rules for several workers on one file are kept here:

* write-ahead logging, so that readers and the writer do not block each other;
* a transaction that writes says so at once (``BEGIN IMMEDIATE``) and waits its turn.  One that
  begins by reading and writes later fails without waiting if another writer was faster;
* every wait ends after `_BUSY_TIMEOUT`.
"""

import asyncio
import contextlib
import fcntl
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, event, insert, inspect, make_url, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from examples.fastapi_app.models import Base, Release, State

_BUSY_TIMEOUT = 10.0  # seconds that a writer waits for its turn
_POOL_SIZE = 5  # connections per worker, no more at a peak: aiosqlite runs a thread for each
_WRITES = "board_writes"  # execution option of connections that are going to write

# Any number will do: it names the lock under which PostgreSQL creates the tables.
_SCHEMA_LOCK = 0x626F6172


class Database:
    """A pool of connections of one worker, and the two ways to use it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reading = async_sessionmaker(engine, expire_on_commit=False)
        self._writing = async_sessionmaker(
            engine.execution_options(**{_WRITES: True}), expire_on_commit=False
        )
        # SQLite has one writer and makes the others sleep: queue here for what ends at once.
        self._turn = contextlib.nullcontext() if self.is_postgresql else asyncio.Lock()

    @classmethod
    async def open(cls, url: str) -> Database:
        """Connect to `url` and make the tables if no other worker has.

        Raises ValueError for a SQLite database in memory, which workers could not share, and
        SQLAlchemyError when the database does not answer.
        """
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            engine = await _sqlite_engine(parsed)
        else:
            engine = create_async_engine(
                parsed, pool_size=_POOL_SIZE, max_overflow=0, pool_pre_ping=True
            )
        database = cls(engine)
        try:
            async with database.write() as session:
                if database.is_postgresql:
                    await database.lock(session, _SCHEMA_LOCK)
                # On SQLite, BEGIN IMMEDIATE is the lock: the next worker finds the tables made.
                await (await session.connection()).run_sync(_create_tables)
        except BaseException:
            await database.close()
            raise
        return database

    @property
    def is_postgresql(self) -> bool:
        """Whether other machines may be writing to this database too."""
        return self._engine.dialect.name == "postgresql"

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session that only reads; what it loaded stays usable after it."""
        async with self._reading() as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A session in a transaction: committed on the way out, rolled back on an exception."""
        async with self._turn, self._writing.begin() as session:
            yield session

    async def lock(self, session: AsyncSession, name: int) -> None:
        """Take PostgreSQL's advisory lock `name` until the transaction of `session` ends."""
        await session.execute(text("SELECT pg_advisory_xact_lock(:name)"), {"name": name})

    async def ping(self) -> None:
        """Ask the database for nothing; raises SQLAlchemyError if it does not answer."""
        async with self._engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close the pool, and with aiosqlite the thread behind each of its connections."""
        await self._engine.dispose()


async def _sqlite_engine(url: URL) -> AsyncEngine:
    if url.database in (None, "", ":memory:"):
        raise ValueError("DATABASE_URL: workers cannot share a SQLite database in memory")
    await asyncio.to_thread(_use_write_ahead_log, Path(str(url.database)))
    engine = create_async_engine(
        url,
        pool_size=_POOL_SIZE,
        max_overflow=0,
        # Without an isolation level of its own, sqlite3 leaves BEGIN to us.
        connect_args={"timeout": _BUSY_TIMEOUT, "isolation_level": None},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        # With a write-ahead log, a power cut may cost the last commits but never the file.
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_write_ahead_log(path: Path) -> None:
    """Switch the file to write-ahead logging; the file remembers it.

    The switch needs the file alone and does not wait for it, so that workers starting together
    would fail with "database is locked".  Hence the lock around it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()


def _create_tables(connection: Connection) -> None:
    fresh = not inspect(connection).has_table(Release.__tablename__)
    Base.metadata.create_all(connection)
    if fresh:
        connection.execute(insert(Release), _SAMPLES)


_SAMPLES = [
    {
        "project": "checkout",
        "version": "4.2.0",
        "title": "One-page checkout",
        "notes": "Address and payment on one page.\nKlarna is back.\nFix: totals round half up.\n",
        "state": State.SHIPPED,
    },
    {
        "project": "checkout",
        "version": "4.3.0",
        "title": "Gift cards",
        "notes": "Address and payment on one page.\nGift cards, up to three for one order.\n"
        "Fix: totals round half up.\n",
        "state": State.TESTING,
    },
    {
        "project": "search",
        "version": "2.0.0-rc.1",
        "title": "New ranking",
        "notes": "Ranking learns from clicks.\nSynonyms in eleven languages.\n",
        "state": State.BUILDING,
    },
    {
        "project": "mobile",
        "version": "9.1.0",
        "title": "Dark mode",
        "notes": "Follows the system setting.\n",
        "state": State.PLANNED,
    },
]
