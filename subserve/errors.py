"""What can go wrong, named after whoever has to act on it.

Each error that ends the server carries the exit code of the command line, so that service
managers and scripts can tell a typing error from an app that does not start.
"""

import sys
from typing import ClassVar


class SubserveError(Exception):
    """Base of every error that subserve raises on purpose."""

    exit_code: ClassVar[int] = 1


class ConfigError(SubserveError):
    """The operator has to mend an option, a variable or a configuration file."""

    exit_code = 2


class AppLoadError(SubserveError):
    """The app's author has to mend an import, an attribute or a lifespan handler."""

    exit_code = 3


class ExtensionRefused(SubserveError, ImportError):
    """CPython would not load an extension module into a sub-interpreter.

    It is an `ImportError`, so that code with a fallback (``try: import _speedups``) takes it.
    """

    exit_code = 3


class BindError(SubserveError):
    """The operator has to free an address, or choose another one."""

    exit_code = 4


class WorkerError(SubserveError):
    """A worker broke in a way that is neither the app's nor the operator's doing."""


class ChannelError(SubserveError):
    """The other side of a control channel is gone, or sent what no version of it sends."""


def tell(error: SubserveError) -> int:
    """Print an error that ends the program to standard error, and return its exit code."""
    for line in str(error).splitlines():
        print(f"subserve: {line}", file=sys.stderr)
    if isinstance(error, ConfigError):
        print("subserve: try `subserve --help`", file=sys.stderr)
    return error.exit_code
