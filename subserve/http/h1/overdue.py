"""What is done about a connection whose client takes too long."""

import logging
from typing import TYPE_CHECKING

from subserve.http.h1.states import State
from subserve.http.sockets import unsent_bytes

if TYPE_CHECKING:
    from subserve.http.h1.connection import Connection

log = logging.getLogger("subserve.http")


def check_time(connection: Connection, now: float) -> None:
    """Act on what is overdue at `now` (loop time, seconds)."""
    lane = connection.lane
    state = connection.state
    elapsed = now - connection.since
    if state is State.IDLE:
        timeout = lane.keep_alive_timeout if connection.served else lane.header_timeout
        if elapsed > timeout and not _writing_stalled(connection, now):
            connection.linger(unread=False)
    elif state is State.HEAD:
        if elapsed > lane.header_timeout:
            connection.refuse(408)
    elif state is State.ACTIVE:
        connection.settle()
        if connection.state is not State.ACTIVE or _writing_stalled(connection, now):
            return
        if connection.waits_for_body and elapsed > lane.body_timeout:
            log.debug("a body stood still")
            connection.refuse(408)
    elif _writing_stalled(connection, now):
        return
    elif state is State.LINGERING:
        if connection.transport.get_write_buffer_size():
            connection.since = now  # it lingers once all is out
        elif elapsed > lane.linger_timeout:
            begun = connection.since
            connection.close()
            # TLS need not wait once more, for the other side's close_notify.
            connection.since = begun
    elif (
        connection.tls is not None
        and elapsed > lane.linger_timeout
        and not unsent_bytes(connection.transport)
    ):
        # asyncio would wait 30 s for the other side's close_notify.
        connection.transport.abort()


def _writing_stalled(connection: Connection, now: float) -> bool:
    """Cut off a client that takes next to nothing of what waits for it; tell whether it was."""
    transport = connection.transport
    if transport.get_write_buffer_size() == 0:
        connection.write_since = now
        return False
    # What its kernel has acknowledged: ours takes megabytes at a time.
    taken = connection.written - unsent_bytes(transport)
    if taken > connection.taken:
        credit = (taken - connection.taken) * connection.lane.seconds_per_byte
        connection.taken = taken
        connection.write_since = min(now, connection.write_since + credit)
    if now - connection.write_since <= connection.lane.write_timeout:
        return False
    log.debug("a client has stopped reading")
    connection.state = State.CLOSING
    transport.abort()
    return True
