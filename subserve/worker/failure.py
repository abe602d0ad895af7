"""Why a worker does not start, as the operator is to read it."""

import traceback
from types import TracebackType
from typing import Any

from subserve import extensions
from subserve.errors import AppLoadError, SubserveError
from subserve.messages import Failed
from subserve.worker.lifespan import LifespanFailed

_MAX_TRACEBACK_CHARS = 80_000
"""JSON takes up to 12 bytes for a character, and a message has to stay below `MAX_FRAME_BYTES`."""


def report_of(error: BaseException, target: str) -> Failed:
    """Return what to tell the coordinator; an app that fails is told from a server that does.

    `target` is what names the app on the command line.
    """
    if isinstance(error, LifespanFailed):
        return Failed(str(error), error.traceback[-_MAX_TRACEBACK_CHARS:], error.exit_code)
    if isinstance(error, SubserveError) and not isinstance(error, ImportError):
        return Failed(str(error), "", error.exit_code)
    lines = traceback.format_exception(error.with_traceback(_apps_own(error)))
    reason = f"the app could not be loaded: {type(error).__name__}; see the traceback above"
    if isinstance(error, SubserveError):
        reason = str(error)
    if (name := _extension_of(error)) is not None:
        reason += f"; the extension module {name} failed, `subserve check {target}` tells more"
    return Failed(reason, "".join(lines)[-_MAX_TRACEBACK_CHARS:], AppLoadError.exit_code)


def _extension_of(error: BaseException) -> str | None:
    """Return the name of the extension module that could not be loaded, if it is about one."""
    failures = {
        failed.error: failed.name
        for failed in extensions.report()
        if isinstance(failed, extensions.Failure)
    }
    seen: BaseException | None = error
    while seen is not None:
        if (name := failures.get(f"{type(seen).__name__}: {seen}")) is not None:
            return name
        seen = seen.__cause__ or seen.__context__
    return None


def _apps_own(error: BaseException) -> Any:
    """Return the traceback without the frames of the server and of the import machinery on top."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in {"asyncio", "importlib", "subserve", "__main__"}:
            break
        trace = trace.tb_next
    if trace is not None and _is_importlibs(trace):
        return None  # a syntax error, which names its file itself: no code of the app has run
    return trace


def _is_importlibs(trace: TracebackType) -> bool:
    module: str = trace.tb_frame.f_globals.get("__name__", "")
    return module.startswith("importlib.")
