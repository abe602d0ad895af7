"""`--request-timeout` for ASGI: cancels an app that takes too long for a request."""

import asyncio
import logging

from subserve.http.exchange import App, ClientGone, Message, Receive, Scope, Send, is_event_stream

log = logging.getLogger("subserve.app")

_BODY = b"Gateway Timeout\n"


class TimedApp:
    """An ASGI app whose requests take at most `timeout` seconds.  Lives in the loop's thread.

    The app is cancelled, as by `asyncio.timeout`: it can clean up, and holds the request up for as
    long as it does.  Then the client is answered 504, or its response cut short if it has begun.
    An event stream has no end of its own and is let be once it has begun.
    """

    def __init__(self, app: App, timeout: float) -> None:
        self._app = app
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app for one request, WebSocket or lifespan."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_on(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                if is_event_stream(message.get("headers", ())):
                    timeout.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(self._timeout) as timeout:
                await self._app(scope, receive, send_on)
        except TimeoutError:
            if not timeout.expired():
                raise  # a time-out of the app's own
            log.exception(
                "%s %s has taken longer than --request-timeout (%g s): it is given up; the "
                "traceback says where it was",
                scope["method"],
                scope["path"],
                self._timeout,
            )
            if begun:
                raise ClientGone from None  # which leaves it to the lane to cut the response short
            await _answer_504(send)


async def _answer_504(send: Send) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(_BODY)),
    ]
    await send({"type": "http.response.start", "status": 504, "headers": headers})
    await send({"type": "http.response.body", "body": _BODY})
