"""The live feed: an append-only table, followed by every worker.

Whoever changes something writes an event in the same transaction (`Feed.write`), so there is no
change without its event and no event without its change.  Each worker has one task that reads what
is new when the bus rings and hands it to its subscribers: open server-sent event streams and chat
sockets.  The table also is the history: a client that comes back asks for what it missed.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from examples.fastapi_app.bus import Bus
from examples.fastapi_app.datadir import DataDirectory
from examples.fastapi_app.db import Database
from examples.fastapi_app.models import EventRow

log = logging.getLogger(__name__)

_MAX_BATCH = 500  # events read from the table at once
_MAX_LAG = 1000  # events that may wait for a slow client before it is told to come back
_KEPT_EVENTS = 10_000  # length of the history
_TRIM_EVERY = 500  # events between two cuts
_RETRY_INTERVAL = 1.0  # seconds between attempts when the database does not answer
_CLOSE_TIMEOUT = 5.0  # seconds that a read under way has to end on shutdown

# PostgreSQL may be written to by other machines, whose wake-ups do not reach us.
_POSTGRESQL_POLL_INTERVAL = 1.0  # seconds

# Any number will do: it names the lock that puts PostgreSQL's commits in the order of their ids.
_APPEND_LOCK = 0x66656564


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the log; `data` must be JSON."""

    id: int
    topic: str
    kind: str
    data: dict[str, Any]
    at: datetime

    @classmethod
    def from_row(cls, row: EventRow) -> Self:
        """Make one of its table row."""
        return cls(row.id, row.topic, row.kind, row.data, row.at)


@dataclass(slots=True)
class Transaction:
    """A database transaction whose events go out once it is committed."""

    session: AsyncSession
    events: list[EventRow] = field(default_factory=list)

    def emit(self, topic: str, kind: str, data: dict[str, Any]) -> None:
        """Add an event; the feed gets it if the transaction is committed."""
        self.events.append(EventRow(topic=topic, kind=kind, data=data))


class Subscription:
    """The events of some topics, oldest first; ends when the feed closes or we fall behind."""

    def __init__(self, topics: Collection[str] | None) -> None:
        self._topics = topics
        self._missed: deque[Event] = deque()
        self._queue: asyncio.Queue[Event] = asyncio.Queue(_MAX_LAG)
        self._ended = False

    def wants(self, event: Event) -> bool:
        """Whether `event` is of one of our topics."""
        return self._topics is None or event.topic in self._topics

    def replay(self, events: Collection[Event]) -> None:
        """Put `events`, which came before all of the live ones, in front."""
        self._missed.extend(events)

    def take_missed(self) -> list[Event]:
        """The replayed events that were not iterated over yet, for who wants them all at once."""
        missed = list(self._missed)
        self._missed.clear()
        return missed

    def offer(self, event: Event) -> None:
        """Queue a live event.  A subscriber too slow for it is ended: it can ask again."""
        if self._ended:
            return
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self.end()

    def end(self) -> None:
        """End the iteration, after what is queued.  Idempotent."""
        self._ended = True
        self._queue.shutdown()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._missed:
            return self._missed.popleft()
        try:
            return await self._queue.get()
        except asyncio.QueueShutDown:
            raise StopAsyncIteration from None


class Feed:
    """One worker's view of the log."""

    def __init__(self, database: Database, data: DataDirectory) -> None:
        self._database = database
        self._wake = asyncio.Event()
        self._bus = Bus(data.bus, self._wake.set)
        self._subscriptions: set[Subscription] = set()
        self._last = 0  # id of the newest event handed to our subscribers
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to follow the log at its present end."""
        self._bus.open()  # before looking, so that nothing falls in between
        async with self._database.read() as session:
            self._last = await session.scalar(select(func.max(EventRow.id))) or 0
        self._task = asyncio.create_task(self._follow(), name="feed")

    async def close(self) -> None:
        """End all subscriptions and stop following.  Idempotent."""
        self._closing = True
        for subscription in self._subscriptions:
            subscription.end()
        self._bus.close()
        self._wake.set()
        if self._task is not None:
            # A read under way may finish, which leaves its connection in a known state.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await self._task

    @property
    def closing(self) -> bool:
        """Whether the worker is shutting down."""
        return self._closing

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """Change the database and tell everybody: the only way that the app writes.

        The reader relies on ids becoming visible in ascending order.  SQLite has one writer at a
        time, so they do; PostgreSQL needs a lock from before the ids are given until the commit.
        """
        try:
            async with self._database.write() as session:
                transaction = Transaction(session)
                yield transaction
                if transaction.events:
                    await session.flush()
                    if self._database.is_postgresql:
                        await self._database.lock(session, _APPEND_LOCK)
                    session.add_all(transaction.events)
                    await session.flush()
                    await self._trim(session, transaction.events)
        finally:
            # Also if we were cancelled during the commit, which may have succeeded.
            self._bus.ring()

    @asynccontextmanager
    async def subscribe(
        self, topics: Collection[str] | None, *, after: int | None = None, backlog: int = 0
    ) -> AsyncIterator[Subscription]:
        """Follow `topics` (None: all), beginning with up to `backlog` events newer than `after`."""
        subscription = Subscription(topics)
        # Registered and bounded in one step: up to `last` it is history, beyond it comes live.
        self._subscriptions.add(subscription)
        last = self._last
        if self._closing:
            subscription.end()
        try:
            if backlog:
                subscription.replay(await self._history(topics, after, last, backlog))
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    async def _history(
        self, topics: Collection[str] | None, after: int | None, last: int, limit: int
    ) -> list[Event]:
        query = select(EventRow).where(EventRow.id <= last)
        if topics is not None:
            query = query.where(EventRow.topic.in_(topics))
        if after is not None:
            query = query.where(EventRow.id > after)
        async with self._database.read() as session:
            rows = await session.scalars(query.order_by(EventRow.id.desc()).limit(limit))
            return [Event.from_row(row) for row in rows][::-1]

    async def _follow(self) -> None:
        poll = _POSTGRESQL_POLL_INTERVAL if self._database.is_postgresql else None
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poll):
                    await self._wake.wait()
            self._wake.clear()
            try:
                while await self._deliver():
                    pass
            except Exception:  # whatever it was: our subscribers are still waiting
                log.exception("cannot read the feed, trying again in %g s", _RETRY_INTERVAL)
                await asyncio.sleep(_RETRY_INTERVAL)
                self._wake.set()

    async def _deliver(self) -> bool:
        """Hand out one batch; True if there may be more to hand out."""
        query = select(EventRow).where(EventRow.id > self._last).order_by(EventRow.id)
        async with self._database.read() as session:
            rows = (await session.scalars(query.limit(_MAX_BATCH))).all()
        for row in rows:
            event = Event.from_row(row)
            self._last = event.id
            for subscription in self._subscriptions:
                if subscription.wants(event):
                    subscription.offer(event)
        return len(rows) == _MAX_BATCH and not self._closing

    async def _trim(self, session: AsyncSession, events: list[EventRow]) -> None:
        """Forget the oldest events, now and then, in the transaction that adds new ones."""
        if any(event.id % _TRIM_EVERY == 0 for event in events):
            newest = events[-1].id
            await session.execute(delete(EventRow).where(EventRow.id <= newest - _KEPT_EVENTS))
