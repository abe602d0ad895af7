"""Questions that operators and load balancers ask."""

import asyncio
import logging
import os
import platform
import threading
from concurrent import interpreters

from fastapi import APIRouter, Response, status
from sqlalchemy.exc import SQLAlchemyError

from examples.fastapi_app.schemas import Health, WhoAmI
from examples.fastapi_app.state import DatabaseDep
from subserve import current_worker

_PING_TIMEOUT = 5.0  # seconds, the wait for a connection of the pool included

log = logging.getLogger(__name__)

router = APIRouter(tags=["operations"])


@router.get("/health", responses={status.HTTP_503_SERVICE_UNAVAILABLE: {"model": Health}})
async def health(database: DatabaseDep, response: Response) -> Health:
    """Whether this worker can do its work: 200 if the database answers, 503 if not."""
    try:
        async with asyncio.timeout(_PING_TIMEOUT):
            await database.ping()
    except (SQLAlchemyError, OSError) as error:
        log.warning("the database does not answer: %r", error)
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return Health(status="unavailable")
    return Health(status="ok")


@router.get("/whoami")
async def whoami() -> WhoAmI:
    """Which worker, thread and interpreter answered."""
    worker = current_worker()
    return WhoAmI(
        index=None if worker is None else worker.index,
        generation=None if worker is None else worker.generation,
        workers=None if worker is None else worker.workers,
        thread=threading.current_thread().name,
        interpreter=interpreters.get_current().id,
        process=os.getpid(),
        python=platform.python_version(),
        event_loop=type(asyncio.get_running_loop()).__module__,
    )
