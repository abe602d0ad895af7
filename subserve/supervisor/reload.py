"""Watch the code for changes, for development.

Threads: `Watcher` has one of its own, which calls back from there.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePath

from subserve.errors import ConfigError
from subserve.options import Config

log = logging.getLogger("subserve")

QUIET_MS = 50
"""An editor writes a file in several steps, a checkout writes many files: after so long without a
change they are taken for done.  Not measured."""

LONGEST_MS = 1000
"""A build that never comes to rest is not waited for longer than that."""

_SHOWN = 3


def is_code(path: PurePath, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Tell whether a change of `path`, relative to the watched folder, is a change of the code.

    A pattern without a slash is about one part of the path, the name for `include`, any part for
    `exclude`; with a slash it is about the whole (``**`` for any number of folders).
    """
    return any(_fits(path, [path.name], pattern) for pattern in include) and not any(
        _fits(path, path.parts, pattern) for pattern in exclude
    )


def _fits(path: PurePath, parts: Iterable[str], pattern: str) -> bool:
    if "/" in pattern:
        return path.full_match(pattern)
    return any(fnmatch(part, pattern) for part in parts)


class Watcher:
    """Calls `changed` whenever code below the folders of `config` has changed."""

    def __init__(self, config: Config, changed: Callable[[], None]) -> None:
        self._include = config.reload_include
        self._exclude = config.reload_exclude
        self._folders = [Path(folder).resolve() for folder in config.reload_dir]
        self._changed = changed
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin; raises `ConfigError` where the package that it takes is not there."""
        try:
            from watchfiles import watch
        except ImportError as error:
            raise ConfigError(
                "--reload: needs the package watchfiles; pip install 'subserve[reload]'"
            ) from error
        changes = watch(
            *self._folders,
            watch_filter=lambda _, path: self._is_code(path),
            debounce=LONGEST_MS,
            step=QUIET_MS,
            stop_event=self._stopped,
            raise_interrupt=False,
            ignore_permission_denied=True,
        )
        # A daemon: it looks at its stop event only now and then, and has nothing to finish.
        threading.Thread(
            target=self._run, args=(changes,), name="subserve-reload", daemon=True
        ).start()

    def stop(self) -> None:
        """Call back no more.  Idempotent."""
        self._stopped.set()

    def _run(self, changes: Iterable[set[tuple[object, str]]]) -> None:
        try:
            for found in changes:
                names = sorted({os.path.relpath(path) for _, path in found})
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                log.info("changed: %s%s; loading anew", ", ".join(names[:_SHOWN]), more)
                self._changed()
        except Exception:
            # inotify has limits of its own, and a watched folder may be removed.
            log.exception("the code is not watched any more")

    def _is_code(self, text: str) -> bool:
        path = Path(text)
        for folder in self._folders:
            if path.is_relative_to(folder):
                return is_code(path.relative_to(folder), self._include, self._exclude)
        return False
