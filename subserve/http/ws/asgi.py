"""One WebSocket as an ASGI app sees it (ASGI 3, WebSocket spec version 2.4)."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from subserve.http.exchange import App, ClientGone, Message, ends_task, is_client_gone, mount
from subserve.http.h1.framing import Framing
from subserve.http.ws.connection import State
from subserve.http.ws.frames import Code, Opcode
from subserve.scoreboard import Counter

if TYPE_CHECKING:
    from subserve.http.h1.connection import Connection as HttpConnection
    from subserve.http.ws.connection import Connection
    from subserve.http.ws.handshake import Handshake, Headers

log = logging.getLogger("subserve.app")

WRITES_PER_TURN: Final = 16
"""How often in a row an app may send without a turn of the event loop."""

_FORBIDDEN, _INTERNAL_SERVER_ERROR = 403, 500

_SPEC_VERSION: Final = "2.4"


def make_scope(
    http: HttpConnection,
    state: dict[str, Any],
    path: str,
    raw_path: bytes,
    query: bytes,
    headers: Headers,
) -> dict[str, Any]:
    """Return the scope of a WebSocket, without subprotocols yet; `state` is the lifespan's."""
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    if http.tls is not None:
        extensions["tls"] = http.tls.copy()
    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": _SPEC_VERSION},
        "http_version": "1.1",
        "scheme": "wss" if http.scheme == "https" else "ws",
        "path": path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": http.client,
        "server": http.server,
        "subprotocols": [],
        "state": state.copy(),
        "extensions": extensions,
    }
    if http.root_path:
        mount(scope, http.root_path)
    return scope


class Exchange:
    """Runs the app for one WebSocket, from the handshake to the end of its connection."""

    __slots__ = (
        "_app",
        "_connect_told",
        "_connection",
        "_framing",
        "_handshake",
        "_scope",
        "_writes",
    )

    def __init__(
        self, app: App, connection: Connection, handshake: Handshake, scope: dict[str, Any]
    ) -> None:
        self._app = app
        self._connection = connection
        self._handshake = handshake
        self._scope = scope
        scope["subprotocols"] = list(handshake.subprotocols)
        self._connect_told = False
        self._framing: Framing | None = None
        self._writes = 0

    async def run(self) -> None:
        """Run the app, then see the connection to its end, which its lane's sweep bounds."""
        connection = self._connection
        row = connection.lane.row
        row.add(Counter.REQUESTS_STARTED)
        try:
            try:
                await self._app(self._scope, self.receive, self.send)
                self._returned()
            except BaseException as error:  # noqa: BLE001  logged in `_failed`
                # sys.exit() in a handler must not reach the event loop, and end it.
                self._failed(error)
            await connection.closed
        except asyncio.CancelledError, GeneratorExit:
            connection.abort()
            raise
        finally:
            row.add(Counter.REQUESTS_FINISHED)

    def _returned(self) -> None:
        state = self._connection.state
        if state is State.OPEN:
            self._connection.close(Code.NORMAL, "")
        elif state is State.CONNECTING or state is State.DENYING:
            log.error("WEBSOCKET %s: the app returned too early", self._scope["path"])
            self._give_up()

    def _failed(self, error: BaseException) -> None:
        if ends_task(error, asyncio.current_task()):
            raise error
        path = self._scope["path"]
        if is_client_gone(error):
            log.debug("%s: the client has gone", path)
        else:
            log.error("WEBSOCKET %s failed: %s", path, type(error).__name__, exc_info=error)
        self._give_up()

    def _give_up(self) -> None:
        """Answer 500, close with 1011, or cut a response short that has begun."""
        connection = self._connection
        if connection.state is State.OPEN:
            connection.close(Code.INTERNAL_ERROR, "")
        elif connection.state is State.DENYING:
            connection.abort()
        else:
            connection.refuse(_INTERNAL_SERVER_ERROR)

    # ---- the app's side

    async def receive(self) -> Message:
        """Return the next message, or how the WebSocket was closed, waiting for it."""
        if not self._connect_told:
            self._connect_told = True
            return {"type": "websocket.connect"}
        connection = self._connection
        if not connection.messages:
            self._writes = 0  # others have their turn now
        message = await connection.next_message()
        if message is None:
            return {
                "type": "websocket.disconnect",
                "code": int(connection.code),
                "reason": connection.reason,
            }
        kind = "text" if isinstance(message, str) else "bytes"
        return {"type": "websocket.receive", kind: message}

    async def send(self, message: Message) -> None:
        """Take a message for the client, and wait where it is slow to read.

        Raises `ClientGone` where nobody would read it, `RuntimeError` for a message that is out of
        turn, `ValueError` for one that is not valid.
        """
        connection = self._connection
        state = connection.state
        kind = message["type"]
        if state is State.OPEN:
            if kind == "websocket.send":
                self._send_data(message)
            elif kind == "websocket.close":
                connection.close(message.get("code", Code.NORMAL), message.get("reason") or "")
                connection.closed_by_app = True
                return
            else:
                raise RuntimeError(f"no message of an open WebSocket: {kind!r}")
            await self._flow()
        elif state is State.CONNECTING:
            await self._answer(kind, message)
        elif state is State.DENYING:
            await self._send_response(kind, message)
        elif kind != "websocket.close":
            if connection.closed_by_app:
                raise RuntimeError(f"{kind!r} behind the end of the WebSocket")
            raise ClientGone

    def _send_data(self, message: Message) -> None:
        data = message.get("bytes")
        if data is not None:
            self._connection.send(Opcode.BINARY, data if type(data) is bytes else bytes(data))
            return
        text = message.get("text")
        if not isinstance(text, str):
            raise TypeError("websocket.send takes bytes, or text that is a str")
        self._connection.send(Opcode.TEXT, text.encode())

    async def _flow(self) -> None:
        """Wait until the client has room, and let others have their turn now and then."""
        connection = self._connection
        if (writable := connection.writable) is not None:
            await writable.wait()
            if connection.state is not State.OPEN:
                raise ClientGone
        else:
            self._writes += 1
            if self._writes >= WRITES_PER_TURN:
                self._writes = 0
                await asyncio.sleep(0)

    # ---- the handshake

    async def _answer(self, kind: str, message: Message) -> None:
        connection = self._connection
        if kind == "websocket.accept":
            if self._framing is not None:
                raise RuntimeError("websocket.accept in the middle of a response")
            response = self._handshake.response(
                message.get("subprotocol"), message.get("headers", ()), connection.lane.lane.date
            )
            connection.open(response, self._handshake.agreement)
            connection.log_access(101, response[:-2], 0)
        elif kind == "websocket.close":
            connection.closed_by_app = True
            connection.refuse(_FORBIDDEN)
        else:
            await self._send_response(kind, message)

    async def _send_response(self, kind: str, message: Message) -> None:
        """Send a response in place of a WebSocket (ASGI extension websocket.http.response)."""
        connection = self._connection
        if kind == "websocket.http.response.start":
            if self._framing is None:
                self._framing = Framing("GET", "1.1", connection.lane.lane.whole_response)
            self._framing.start(message["status"], message.get("headers", ()))
            return
        if kind != "websocket.http.response.body" or self._framing is None:
            raise RuntimeError(f"no answer to the handshake of a WebSocket: {kind!r}")
        framing, body, more = (
            self._framing,
            message.get("body", b""),
            message.get("more_body", False),
        )
        date = connection.lane.lane.date
        if more or framing.begun:
            parts = framing.part(body, more=more, keep_alive=False, date=date)
        else:
            parts = framing.whole(body, keep_alive=False, date=date)
        connection.deny(parts)
        if framing.finished:
            connection.closed_by_app = True
            connection.log_access(framing.head.status, framing.head.lines, framing.size)
            connection.end()
        elif (writable := connection.writable) is not None:
            await writable.wait()
            if connection.state is not State.DENYING:
                raise ClientGone
