"""The ASGI lifespan protocol, version 2.0, from the server's side."""

import asyncio
import logging
from typing import Any, Literal

from subserve.errors import AppLoadError
from subserve.http.exchange import App, Message
from subserve.log import TRACEBACK

log = logging.getLogger("subserve.lifespan")


class LifespanFailed(AppLoadError):
    """The app's startup failed; `traceback` is what it had to say, or empty."""

    def __init__(self, reason: str, traceback: str = "") -> None:
        super().__init__(reason)
        self.traceback = traceback


class _NoAnswer(Exception):
    """The app has not answered in time.  Not a `TimeoutError`: the app may raise one itself."""


class Lifespan:
    """Runs the app's lifespan task.  `state` is what the app put there for its requests."""

    def __init__(self, app: App, mode: Literal["auto", "on", "off"]) -> None:
        self._app = app
        self._mode = mode
        self._task: asyncio.Task[None] | None = None
        self._inbox: asyncio.Queue[Message] = asyncio.Queue(2)
        self._outcome: asyncio.Future[Message] | None = None
        self._answers: set[str] = set()
        self.state: dict[str, Any] = {}

    async def startup(self, timeout: float) -> None:
        """Run the app's startup; raise `LifespanFailed` where it fails or takes too long.

        In mode ``auto`` an app that raises before it answers does not speak the protocol, and is
        served without.
        """
        if self._mode == "off":
            return
        self._task = asyncio.create_task(self._run(), name="lifespan")
        try:
            answer = await self._exchange("lifespan.startup", timeout)
        except _NoAnswer:
            raise LifespanFailed(
                f"the app's lifespan startup did not complete within {timeout:g} s; "
                "if it needs longer, raise --startup-timeout"
            ) from None
        except asyncio.CancelledError, GeneratorExit:
            raise
        except BaseException as error:
            self._task = None
            if self._mode == "on":
                raise
            log.debug("the app does not speak the lifespan protocol: %r", error)
            return
        if answer["type"] == "lifespan.startup.failed":
            self._task.add_done_callback(_retrieve)
            raise LifespanFailed(
                "the app's lifespan startup failed; see above, or give --lifespan off",
                str(answer.get("message", "")),
            )

    async def shutdown(self, timeout: float) -> None:
        """Run the app's shutdown for at most `timeout` seconds and log how it went."""
        if self._task is None:
            return
        if self._task.done():
            error = None if self._task.cancelled() else self._task.exception()
            log.warning("the app's lifespan ended early: no shutdown to run", exc_info=error)
            return
        try:
            answer = await self._exchange("lifespan.shutdown", timeout)
        except _NoAnswer:
            log.warning("the app's lifespan shutdown is cut off")
            self._task.cancel()
        except asyncio.CancelledError, GeneratorExit:
            raise
        except BaseException:
            log.exception("the app's lifespan shutdown failed")
        else:
            if answer["type"] == "lifespan.shutdown.failed":
                self._task.add_done_callback(_retrieve)
                trace = {TRACEBACK: str(answer.get("message", ""))}
                log.error("the app's lifespan shutdown failed", extra=trace)
            else:
                log.info("lifespan shutdown complete")

    async def _exchange(self, event: str, timeout: float) -> Message:
        """Send `event` and return the answer; raise what the task raises in its place."""
        assert self._task is not None
        self._outcome = asyncio.get_running_loop().create_future()
        self._answers = {f"{event}.complete", f"{event}.failed"}
        await self._inbox.put({"type": event})
        await asyncio.wait(
            (self._task, self._outcome), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if self._outcome.done():
            return self._outcome.result()
        if not self._task.done():
            raise _NoAnswer
        if self._task.cancelled():
            raise RuntimeError("the app's lifespan was cancelled")
        error = self._task.exception()
        if error is not None:
            raise error
        raise RuntimeError(f"the app's lifespan returned without an answer to {event}")

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._inbox.get, self._send)
        except (SystemExit, KeyboardInterrupt) as error:
            # As such it would end the event loop, not the task.
            raise RuntimeError(f"the app's lifespan raised {type(error).__name__}") from error

    async def _send(self, message: Message) -> None:
        # Many a small app answers whatever it is called for with a response.
        outcome = self._outcome
        if outcome is None or outcome.done() or message["type"] not in self._answers:
            raise RuntimeError(f"unexpected {message['type']}")
        outcome.set_result(message)


def _retrieve(task: asyncio.Task[None]) -> None:
    """Take note of an exception that the app has told us of already, by a message."""
    if not task.cancelled():
        task.exception()
