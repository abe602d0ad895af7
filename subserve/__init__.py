"""An ASGI and WSGI server whose workers are sub-interpreters, each with its own GIL."""

from typing import TYPE_CHECKING, Any

from subserve.identity import WorkerInfo, current_worker

if TYPE_CHECKING:
    from subserve.api import Server, serve

__version__ = "0.1.0"

__all__ = ["Server", "WorkerInfo", "__version__", "current_worker", "serve"]


def __getattr__(name: str) -> Any:
    """Bring in the server when it is asked for: an app that runs in a worker has no use for it."""
    if name in {"Server", "serve"}:
        from subserve import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
