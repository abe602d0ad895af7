"""The first thing an operator sees."""

import logging
import os
import platform
from collections.abc import Sequence

from subserve import __version__
from subserve import log as subserve_log
from subserve.options import Config

log = logging.getLogger("subserve")


def announce(config: Config, interface: str, urls: Sequence[str]) -> None:
    """Write the banner, as it is or as one JSON record."""
    text = banner(config, interface, urls)
    if config.log_format == "json":
        log.info("%s", text)
    else:
        subserve_log.announce(text)


def banner(config: Config, interface: str, urls: Sequence[str]) -> str:
    """Return the start-up banner: version, Python, app, listeners, workers x threads, pid."""
    processes = f"{config.processes} processes x " if config.processes > 1 else ""
    workers = f"{processes}{config.workers} sub-interpreter{'s' if config.workers > 1 else ''}"
    threads = f" x {config.threads} threads" if interface == "wsgi" else ""
    rows = [
        ("app", f"{config.app} ({interface.upper()})"),
        *(("listening" if number == 0 else "", url) for number, url in enumerate(urls)),
        ("workers", f"{workers}{threads}, {config.loop}, extensions: {config.extensions}"),
        ("pid", str(os.getpid())),
    ]
    head = (
        f"subserve {__version__} on {platform.python_implementation()} {platform.python_version()}"
    )
    return "\n".join([head, *(f"  {name:<10} {value}" for name, value in rows)])
