"""What an operator asks: is it alive, which worker answered, what does a failure look like?"""

import threading
from typing import NoReturn

from flask import Blueprint, Response

from examples.flask_app import store
from subserve import current_worker

status = Blueprint("status", __name__)


@status.get("/health")
def health() -> dict[str, str]:
    """Answer once the database did: for load balancers and container probes."""
    store.connection().execute("SELECT 1").fetchone()
    return {"status": "ok"}


@status.get("/whoami")
def whoami() -> dict[str, object]:
    """Describe the worker and the thread that answer; all numbers are None outside of subserve."""
    worker = current_worker()
    return {
        "index": worker.index if worker else None,
        "generation": worker.generation if worker else None,
        "workers": worker.workers if worker else None,
        "thread": threading.current_thread().name,
    }


@status.get("/fail")
def fail() -> NoReturn:
    """Raise, to show the page that visitors see and the traceback that the log gets."""
    raise RuntimeError("this route always fails")


@status.after_app_request
def add_headers(response: Response) -> Response:
    """Say on every response which worker made it, and what a browser must not do with it."""
    response.headers["X-Worker"] = str(current_worker() or "-")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "default-src 'self'; img-src 'self' data:"
    return response


@status.app_context_processor
def worker_name() -> dict[str, object]:
    """Let every template say which worker rendered it."""
    return {"worker": current_worker()}
