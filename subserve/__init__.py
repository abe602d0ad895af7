"""An ASGI and WSGI server whose workers are sub-interpreters, each with its own GIL."""

from subserve.identity import WorkerInfo, current_worker

__version__ = "0.1.0"

__all__ = ["WorkerInfo", "__version__", "current_worker"]
