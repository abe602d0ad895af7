"""Serving from Python: `serve` for a program that does nothing else, `Server` for one that does.

Threads: a `Server` belongs to the thread that makes it; the supervisor has one of its own.
"""

import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from subserve.config import Setting, nearest, resolve
from subserve.errors import AppLoadError, ConfigError, SubserveError
from subserve.options import Config, rows, value_text
from subserve.supervisor.server import Request, Supervisor, supervise

STOP_TIMEOUT = 60.0
"""Seconds past the graceful timeout for the end of all processes: far above what any needs."""


def configuration(app: str, options: Mapping[str, Any]) -> Config:
    """Return the configuration for an app, ``module:attribute``, with options by their names.

    An option is spelled as on the command line, with ``_`` for ``-``, and given as a value or as
    text: ``graceful_timeout=5``, ``graceful_timeout="5s"``.  Neither variables nor files are read.
    Raises `ConfigError` that lists all that is wrong.
    """
    unknown = [
        f"{name}: unknown option{nearest(name, rows())}" for name in options if name not in rows()
    ]
    settings = {
        name: Setting(_texts(value), name) for name, value in options.items() if name in rows()
    }
    settings["app"] = Setting((app,), "app")
    return resolve(settings, {}, None, known_problems=unknown).config


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence):
        return tuple(value_text(item) for item in value)
    return (value_text(value),)


def serve(app: str, **options: Any) -> int:
    """Serve an app until the process is told to stop; return the exit code.

    Signals do what they do to the command line, if this is the main thread.  The app is imported
    by other processes, anew: what this one has imported or changed is not there.  Raises
    `ConfigError` or `BindError` before anything is started.
    """
    config = configuration(app, options)
    if config.no_supervisor:
        from subserve.coordinator.server import serve as serve_alone

        return serve_alone(config)
    return supervise(config, lambda: config)


class Server:
    """A server beside other things: for tests, for a program with a window, for a notebook.

    ::

        with subserve.Server("myapp:app", workers=2, bind="127.0.0.1:0") as server:
            print(server.urls)

    Options are those of `serve`.  It serves within the ``with`` block, or from `start` to `drain`
    or `stop`, once.  Signals are left alone: they are the program's own.
    """

    def __init__(self, app: str, **options: Any) -> None:
        self._config = configuration(app, options)
        if self._config.no_supervisor:
            raise ConfigError("no_supervisor: a Server is one")
        self._supervisor = Supervisor(self._config, lambda: self._config, self._up)
        self._thread = threading.Thread(target=self._run, name="subserve-supervisor", daemon=True)
        self._up_or_over = threading.Event()
        self._urls: Sequence[str] = ()
        self._code: int | None = None
        self._error: SubserveError | None = None

    @property
    def urls(self) -> Sequence[str]:
        """What to open, one URL for each address; nothing before the start."""
        return tuple(self._urls)

    @property
    def exit_code(self) -> int | None:
        """What the command line would have exited with; None while it serves."""
        return self._code

    def start(self) -> Self:
        """Start, and wait until it serves.

        Raises `BindError` or `ConfigError`, or `AppLoadError` where the app does not start: what is
        wrong with it is in the log, on standard error.
        """
        self._thread.start()
        self._up_or_over.wait()
        if self._error is not None:
            raise self._error
        if self._code is not None:
            self._thread.join()
            raise AppLoadError("the app does not start; the log says why")
        return self

    def reload(self) -> None:
        """Load the code anew without losing a request, as HUP does; returns before that is done."""
        self._supervisor.ask(Request.TURN_OVER)

    def drain(self) -> int:
        """Let requests in flight finish, end all, and return the exit code.  Idempotent."""
        return self._end(Request.DRAIN)

    def stop(self) -> int:
        """End all at once, and return the exit code.  Idempotent."""
        return self._end(Request.STOP)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.drain()
        else:
            self.stop()

    def _end(self, request: Request) -> int:
        if self._thread.ident is None:
            raise SubserveError("the server was never started")
        self._supervisor.ask(request)
        self._thread.join(self._config.graceful_timeout + STOP_TIMEOUT)
        if self._code is None:
            raise SubserveError("the server does not end")
        return self._code

    def _up(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self._up_or_over.set()

    def _run(self) -> None:
        try:
            self._code = self._supervisor.run()
        except SubserveError as error:
            self._error, self._code = error, error.exit_code
        finally:
            self._up_or_over.set()
