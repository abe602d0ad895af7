"""A serving process from its start to its end: what goes before the coordinator and comes after it.

Interpreter: main.  Thread: the main one.
"""

import faulthandler
import logging
import os
from collections.abc import Sequence

from subserve import certificates, scratch, tls
from subserve import log as subserve_log
from subserve.channel import Channel
from subserve.coordinator.coordinator import Coordinator
from subserve.errors import SubserveError
from subserve.listener import Listener
from subserve.options import Config
from subserve.pidfile import pid_file
from subserve.privileges import drop, listen_for

log = logging.getLogger("subserve")

BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
"""How many threads a numeric library starts; by default one per core, in each worker."""


def serve(config: Config) -> int:
    """Serve without a supervisor, until stopped, and return the exit code.

    Ends the process by itself where something still runs that cannot be stopped.  Raises
    `BindError` or `ConfigError` before anything is started.
    """
    check_certificate(config)
    with pid_file(config.pid_file):
        listeners = listen_for(config, config.bind)
        drop(config)
        code, quiet = _serve_on(config, listeners, None)
    return _leave(code, quiet=quiet)


def serve_on(
    config: Config, listeners: Sequence[Listener], supervisor: Channel, crash_fd: int
) -> int:
    """Do the same under a supervisor, on what listens already; `crash_fd` is for last words."""
    code, quiet = _serve_on(config, listeners, supervisor, crash_fd)
    return _leave(code, quiet=quiet)


def _serve_on(
    config: Config,
    listeners: Sequence[Listener],
    supervisor: Channel | None,
    crash_fd: int = subserve_log.STDERR,
) -> tuple[int, bool]:
    """Serve; return what `Coordinator.run` does."""
    subserve_log.configure(config.log_level, config.log_format, "server", config.processes)
    faulthandler.enable(crash_fd)  # a crash in C code ends all workers: let it say where it was
    if config.certfile:
        for text in certificates.all_warnings(config):
            log.warning("%s", text)
    if config.workers > 1:
        # The workers use the cores already.  Set before any of them loads such a library, which
        # reads it once and is shared by all.
        for name in BLAS_VARIABLES:
            os.environ.setdefault(name, "1")
    folder = scratch.make()
    try:
        code, quiet = Coordinator(config, listeners, folder, supervisor).run()
    except Exception:
        log.exception("the coordinator broke")
        code, quiet = SubserveError.exit_code, False
    finally:
        for listener in listeners:
            listener.close()
        scratch.remove(folder)
    return code, quiet


def _leave(code: int, *, quiet: bool) -> int:
    if not quiet:
        # Finalising the process would wait for, or crash on, an interpreter that still runs.
        subserve_log.flush_prints()
        os._exit(code)
    return code


def check_certificate(config: Config) -> None:
    """Raise `ConfigError` where the certificate is bad: now, and once, not in each worker."""
    if config.certfile:
        tls.server_context(config)
