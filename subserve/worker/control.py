"""The worker's control thread: waits for commands, and for nothing else.

Interpreter: the worker's.  It shares only what it is given: a channel of its own end, and a
callback that is safe to call from another thread.
"""

import threading
from collections.abc import Callable

from subserve.channel import Channel
from subserve.messages import Drain, Message


class ControlThread:
    """Passes each command on as it arrives."""

    def __init__(self, channel: Channel, on_drain: Callable[[Drain], None]) -> None:
        self._channel = channel
        self._on_drain = on_drain
        self._thread = threading.Thread(target=self._run, name="subserve-control", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it; it holds no lock and runs none of the app's code."""
        self._channel.shutdown()
        self._thread.join()

    def _run(self) -> None:
        while (command := self._channel.receive()) is not None:
            self._obey(command)

    def _obey(self, command: Message) -> None:
        match command:
            case Drain():
                self._on_drain(command)
            case _:
                raise AssertionError(f"not a command: {command}")
