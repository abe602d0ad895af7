"""The live feed as server-sent events."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from examples.fastapi_app.feed import Subscription
from examples.fastapi_app.middleware import worker_name
from examples.fastapi_app.schemas import EventOut
from examples.fastapi_app.state import FeedDep

_MAX_BACKLOG = 500  # events that a client gets at once after a pause
_RETRY_MS = 1000  # milliseconds until a browser connects again

router = APIRouter(prefix="/api", tags=["live feed"])


async def _subscription(
    feed: FeedDep,
    topic: Annotated[list[str] | None, Query(max_length=20)] = None,
    last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,18}$")] = None,
) -> AsyncIterator[Subscription]:
    """A dependency, because FastAPI ends it with the response whichever way that ends."""
    after = None if last_event_id is None else int(last_event_id)
    backlog = 0 if after is None else _MAX_BACKLOG
    topics = None if topic is None else frozenset(topic)
    async with feed.subscribe(topics, after=after, backlog=backlog) as subscription:
        yield subscription


@router.get("/events", response_class=EventSourceResponse)
async def stream_events(
    subscription: Annotated[Subscription, Depends(_subscription)],
) -> AsyncIterator[ServerSentEvent]:
    """What happens on the board, as it happens; `topic` (repeatable) narrows it down.

    The first event, ``hello``, names the worker.  The stream ends when the client leaves, when it
    cannot keep up and when the worker stops; a browser comes back by itself, and its
    ``Last-Event-ID`` brings what it missed.
    """
    yield ServerSentEvent(event="hello", data={"worker": worker_name()}, retry=_RETRY_MS)
    async for event in subscription:
        yield ServerSentEvent(
            event=event.kind, id=str(event.id), data=EventOut.model_validate(event)
        )
