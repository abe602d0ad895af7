"""A serving process under a supervisor, whose first message says what to serve, and where."""

import os
import socket
import sys

from subserve import title
from subserve.channel import Channel
from subserve.coordinator.server import check_certificate, serve_on
from subserve.errors import SubserveError, tell
from subserve.listener import inherit
from subserve.messages import Launch
from subserve.options import Config
from subserve.privileges import drop


def main(control_fd: int, name: str) -> int:
    """Serve until told to stop, or until the supervisor is gone; return the exit code."""
    os.set_inheritable(control_fd, False)
    channel = Channel(socket.socket(fileno=control_fd))
    title.set_title(f"subserve {name}")
    launch = channel.receive()
    if not isinstance(launch, Launch):
        return 0  # the supervisor is gone already
    sys.path[:] = launch.sys_path
    config = Config.from_json(launch.config)
    os.set_inheritable(launch.crash_fd, False)
    listeners = [inherit(fd, url) for fd, url in zip(launch.listening, launch.urls, strict=True)]
    try:
        drop(config)
        check_certificate(config)
        return serve_on(config, listeners, channel, launch.crash_fd)
    except SubserveError as error:
        return tell(error)
