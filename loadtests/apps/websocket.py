"""WebSocket apps: echo, and a room in which each message goes to everyone; GET answers 200."""

from loadtests.apps.asgi import Receive, Scope, Send, hello

_room: list[Send] = []


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send each text back."""
    if scope["type"] != "websocket":
        await hello(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def broadcast(scope: Scope, receive: Receive, send: Send) -> None:
    """Send each text to everyone in the room, its author included."""
    if scope["type"] != "websocket":
        await hello(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    _room.append(send)
    try:
        while (message := await receive())["type"] == "websocket.receive":
            for member in tuple(_room):
                await member({"type": "websocket.send", "text": message["text"]})
    finally:
        _room.remove(send)
