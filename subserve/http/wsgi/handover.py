"""The hand-over between the pool thread that runs an app and the loop that owns its connection.

Interpreter: the worker's.  Threads: the loop's, and for each request one of the pool.  Methods are
grouped by the thread that may call them.

The pool thread asks through `call_soon_threadsafe` and waits on the condition `_changed`; the loop
answers by changing what that condition guards and notifying it.  The lock is never held across a
call that may block, so the loop never waits for an app.  The pool thread always gets an answer:

- what it asked for, or
- `ClientDisconnected`, once the client has gone, the request's task was cancelled, or the loop is
  closed.  Only for the last of these, where nobody is left to notify, does it look by itself.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from subserve.errors import WorkerError
from subserve.http.wsgi.errors import AppAborted, ClientDisconnected, is_disconnect
from subserve.http.wsgi.messages import Message, Receive, Send
from subserve.http.wsgi.response import MAX_DETACHED_BYTES

logger = logging.getLogger("subserve.wsgi")

# Chunks of the body that may wait for the app; a server's chunk is some 64 KiB at most.  The next
# is asked for when half of them are left, so that reader and connection work side by side.
MAX_READ_AHEAD = 4

# A `send` gets this long (s) to notice by itself that the client has gone, and to close down in
# order, before it is cancelled.  Not measured: the app's thread has been let go by then.
ABORT_GRACE = 1.0

# How long (s) the sending of a response may stand still while the request's body is not read,
# before that body is thrown away.  A server whose queue for it is full can neither tell us that
# the client has gone nor, over HTTP/2, hear that the client has made room.  Below the 30 s after
# which a connection without progress is to be closed.
UNREAD_BODY_TIMEOUT = 10.0

# How often (s) a waiting thread looks whether the loop has been closed under it.
LOOP_CHECK_INTERVAL = 1.0

type AppFuture = Future[list[Message]]


class _TimedOut:
    """Mail that says that nobody waits for the app any more."""


_TIMED_OUT = _TimedOut()


@dataclass(frozen=True, slots=True)
class Delivery:
    """Messages to be sent in one go; `last` says that they end the response."""

    messages: list[Message]
    last: bool


class Handover:
    """One request, between its two threads.  Made on the loop's thread.

    `body_expected` says whether the request may have a body: if not, reading never waits.
    """

    def __init__(self, receive: Receive, send: Send, *, body_expected: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition(threading.Lock())
        # Guarded by the condition.
        self._chunks: deque[bytes] = deque()
        self._body_ended = not body_expected
        self._discarding = False  # the body is lost to the app
        self._pump_paused = False
        self._undelivered = 0
        self._unreadable: str | None = None  # why no more of the body can be had
        self._gone: str | None = None  # why nothing can be sent, nor waited for
        # The loop thread's own.
        self._receive = receive
        self._send = send
        self._mailbox: deque[Delivery | AppFuture | _TimedOut] = deque()
        self._mail_waiter: asyncio.Future[None] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._ending = False  # the last delivery has begun
        self._sending: asyncio.Timeout | None = None
        self._unread_watch: asyncio.TimerHandle | None = None
        self._failure: Exception | None = None  # of the server's `send` or `receive`
        self._left = False  # the request's task has ended, nobody reads the mailbox
        self.begun = False
        """Whether a part of the response has been given to the server."""

    # -- pool thread --------------------------------------------------------------------------

    def pull(self) -> bytes:
        """Return the next chunk of the request's body, ``b""`` at its end; block until then.

        Raises:
            ClientDisconnected: if the rest of the body will not come.
        """
        with self._changed:
            while not self._chunks:
                if self._body_ended and not self._discarding:
                    return b""
                if self._unreadable is not None:
                    raise ClientDisconnected(self._unreadable)
                self._wait()
            chunk = self._chunks.popleft()
            resume = self._pump_paused and len(self._chunks) <= MAX_READ_AHEAD // 2
            if resume:
                self._pump_paused = False
        if resume:
            self._call(self._room.set)
        return chunk

    def transmit(self, messages: list[Message], *, last: bool) -> None:
        """Have the loop send `messages`, and block until it has; `last` ends the response.

        A last delivery of at most `MAX_DETACHED_BYTES` is not waited for.

        Raises:
            ClientDisconnected: if they cannot be sent.
        """
        with self._changed:
            if self._gone is not None:
                raise ClientDisconnected(self._gone)
            self._undelivered += 1
        self._call(self._mail, Delivery(messages, last))
        if last and sum(len(m.get("body", b"")) for m in messages) <= MAX_DETACHED_BYTES:
            return
        with self._changed:
            while self._undelivered:
                if self._gone is not None:
                    raise ClientDisconnected(self._gone)
                self._wait()

    def app_done(self, future: AppFuture) -> None:
        """Tell the loop that the app's thread is done with the request, or never began it.

        A done-callback of the future: runs in the pool thread, or in the thread that cancels it.
        """
        try:
            self._loop.call_soon_threadsafe(self._mail, future)
        except RuntimeError:
            _report_leftover(future)

    def time_out(self) -> None:
        """Have `serve` return; for any thread.  Raises `RuntimeError` where the loop is closed."""
        self._loop.call_soon_threadsafe(self._mail, _TIMED_OUT)

    def _call[*Args](self, callback: Callable[[*Args], None], *arguments: *Args) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            raise ClientDisconnected("the event loop is closed") from None

    def _wait(self) -> None:
        """Wait for a change, with the condition held."""
        if not self._changed.wait(LOOP_CHECK_INTERVAL) and self._loop.is_closed():
            self._gone = self._unreadable = "the event loop is closed"

    # -- loop thread --------------------------------------------------------------------------

    async def serve(self, future: AppFuture) -> bool:
        """Carry out what the app's thread asks for, until `future` says that it has ended.

        Returns False where the request has timed out before.  The future's result are messages
        left to be sent.  When the task is cancelled, this returns at once and leaves the thread to
        find out by itself.

        Raises:
            Exception: the app's own; an `AppAborted` in place of one that is not an `Exception`.
        """
        if not self._body_ended:
            self._start_pump()
        future.add_done_callback(self.app_done)
        item: Delivery | AppFuture | _TimedOut = future
        given_up = True
        try:
            while isinstance(item := await self._next_mail(), Delivery):
                if await self._deliver(item):
                    self._acknowledge()
            if item is _TIMED_OUT:
                given_up = False
                return False
            await self._conclude(future)
            given_up = False
        except Exception:
            given_up = False
            raise
        finally:
            self._leave(given_up=given_up)
            if given_up:
                future.cancel()  # it may still be waiting for a thread
            # An exception's traceback holds this frame; let the frame not hold the exception.
            del future, item
        return True

    async def _conclude(self, future: AppFuture) -> None:
        """Send what is left of the response, or raise why there is none."""
        if future.cancelled():
            raise WorkerError("the thread pool was shut down before the request's turn came")
        error = future.exception()
        try:
            if error is None:
                if rest := future.result():
                    await self._deliver(Delivery(rest, last=True))
            elif not is_disconnect(error):
                if self._failure is not None:
                    error.add_note(f"The server had failed before: {self._failure!r}")
                # A coroutine cannot let StopIteration through (PEP 479).
                if isinstance(error, Exception) and not isinstance(error, StopIteration):
                    raise error
                raise AppAborted(f"the app raised {type(error).__name__}: {error}") from error
            if self._failure is not None:
                raise self._failure
            if error is not None or self._gone is not None:
                logger.debug("a request was not served to its end: %s", self._gone or error)
        finally:
            del error, future

    async def _deliver(self, delivery: Delivery) -> bool:
        """Send messages; return False if that failed, after the thread was told why."""
        if self._gone is not None:
            return False  # it was on its way when the client left
        self.begun = True
        if delivery.last:
            self._ending = True
            self._discard_body()
        else:
            if self._pump is None:
                self._start_pump()  # whoever streams wants to know when the client has gone
            self._watch_unread_body()
        try:
            async with asyncio.timeout(None) as self._sending:
                for message in delivery.messages:
                    await self._send(message)
        except OSError as error:  # the server's way to say so (ASGI 2.4), or our own timeout
            self._give_up(f"the client has disconnected ({type(error).__name__})")
            return False
        except Exception as error:  # noqa: BLE001 - raised in `_conclude`
            self._failure = error
            self._give_up(f"the server cannot send the response: {error}")
            return False
        finally:
            self._sending = None
            if self._unread_watch is not None:
                self._unread_watch.cancel()
        return True

    def _acknowledge(self) -> None:
        with self._changed:
            self._undelivered -= 1
            self._changed.notify_all()

    async def _next_mail(self) -> Delivery | AppFuture | _TimedOut:
        while not self._mailbox:
            self._mail_waiter = self._loop.create_future()
            await self._mail_waiter
        return self._mailbox.popleft()

    def _mail(self, item: Delivery | AppFuture | _TimedOut) -> None:
        if self._left:
            if isinstance(item, Future):
                _report_leftover(item)
            return
        self._mailbox.append(item)
        if item is _TIMED_OUT and self._sending is not None:
            self._sending.reschedule(self._loop.time())
        if self._mail_waiter is not None and not self._mail_waiter.done():
            self._mail_waiter.set_result(None)

    def _start_pump(self) -> None:
        self._pump = self._loop.create_task(self._pump_messages())

    async def _pump_messages(self) -> None:
        """Take in the body, as far ahead as allowed, and then wait for the client to leave."""
        try:
            while (message := await self._receive())["type"] != "http.disconnect":
                self._take_in(message)
                while self._pump_paused:
                    self._room.clear()
                    await self._room.wait()
        except OSError as error:
            self._client_left(f"the client has disconnected ({type(error).__name__})")
        except Exception as error:  # noqa: BLE001 - raised in `_conclude`
            self._failure = error
            self._client_left(f"the server cannot receive the request: {error}")
        else:
            self._client_left("the client has disconnected")

    def _take_in(self, message: Message) -> None:
        chunk = message.get("body", b"")
        with self._changed:
            if chunk and not self._discarding:
                self._chunks.append(chunk)
            if not message.get("more_body", False):
                self._body_ended = True
            if len(self._chunks) >= MAX_READ_AHEAD and not self._body_ended:
                self._pump_paused = True
            self._changed.notify_all()

    def _client_left(self, why: str) -> None:
        if self._ending:
            # The end of a response may be what closes the stream, and so looks like this: let
            # the server finish.
            with self._changed:
                self._unreadable = why
                self._changed.notify_all()
        else:
            self._give_up(why)
        if self._sending is not None:
            self._sending.reschedule(self._loop.time() + ABORT_GRACE)

    def _give_up(self, why: str) -> None:
        """Let the thread know that this request leads nowhere."""
        with self._changed:
            if self._gone is None:
                self._gone = self._unreadable = why
            self._changed.notify_all()

    def _watch_unread_body(self) -> None:
        if not self._body_ended:
            self._unread_watch = self._loop.call_later(
                UNREAD_BODY_TIMEOUT, self._discard_unread_body
            )

    def _discard_unread_body(self) -> None:
        if not self._pump_paused:
            self._watch_unread_body()  # it is not the body that holds things up
            return
        logger.warning(
            "threw away the rest of a request's body: the app does not read it, and its response"
            " has stood still for %g s",
            UNREAD_BODY_TIMEOUT,
        )
        self._discard_body()

    def _discard_body(self) -> None:
        """Throw away what is left of the body, so that what comes after it can get through."""
        with self._changed:
            if self._body_ended:
                return
            self._discarding = True
            self._unreadable = "the rest of the request's body was thrown away"
            self._chunks.clear()
            self._pump_paused = False
            self._changed.notify_all()
        self._room.set()

    def _leave(self, *, given_up: bool) -> None:
        """End the request's task: from here on nobody answers its thread.

        Unless it is given up, a body that has not been read is thrown away for a while longer: a
        server that awaits room in a full queue, to say that the stream is closed, would wait for
        ever (seen with Hypercorn 0.18).
        """
        self._left = True
        self._give_up("the server has given the request up" if given_up else "it is over")
        for item in self._mailbox:
            if isinstance(item, Future):
                _report_leftover(item)
        if self._pump is None or self._pump.done():
            return
        if given_up or self._body_ended:
            self._pump.cancel()
        else:
            self._discard_body()
            # The handle also keeps the task alive: the loop itself only has weak references.
            self._loop.call_later(UNREAD_BODY_TIMEOUT, self._pump.cancel)


def _report_leftover(future: AppFuture) -> None:
    """Log how an app ended whose request nobody waits for any more, unless that is why."""
    error = None if future.cancelled() else future.exception()
    if error is not None and not is_disconnect(error):
        logger.error("the app failed after its request was given up", exc_info=error)
