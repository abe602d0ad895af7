"""The chat: one WebSocket per client, whatever worker it is connected to.

A message is an event in the feed, so it reaches clients on all workers in the same order, and a
client that joins gets what was said before.
"""

import asyncio
import contextlib
from typing import Annotated

from fastapi import APIRouter, Path, Query, WebSocket, WebSocketDisconnect, status
from pydantic import BaseModel, ValidationError

from examples.fastapi_app.feed import Event, Feed, Subscription
from examples.fastapi_app.middleware import worker_name
from examples.fastapi_app.schemas import (
    ChatError,
    ChatIn,
    ChatName,
    ChatOut,
    ChatRoom,
    ChatWelcome,
)
from examples.fastapi_app.state import FeedDep

LOBBY = "lobby"

_HISTORY = 50  # messages that a client gets when it joins

router = APIRouter()


def chat_topic(room: str) -> str:
    """The topic of the feed that carries a room."""
    return f"chat/{room}"


@router.websocket("/ws/chat/{room}")
async def chat(
    socket: WebSocket,
    feed: FeedDep,
    room: Annotated[ChatRoom, Path()],
    name: Annotated[ChatName, Query()],
) -> None:
    """Talk in `room` as `name`: see `ChatIn` for what to send, `ChatOut` for what comes.

    Closed with 1012 (service restart) when the worker stops and with 1013 (try again later) when
    the client is too slow; either way it may connect again and gets the history.
    """
    topic = chat_topic(room)
    async with feed.subscribe({topic}, backlog=_HISTORY) as subscription:
        await socket.accept()
        await _say(feed, topic, "joined", name)
        history = [_out(event) for event in subscription.take_missed()]
        try:
            await _send(socket, ChatWelcome(room=room, worker=worker_name(), history=history))
            code = await _talk(socket, feed, subscription, topic, name)
        except WebSocketDisconnect as gone:
            code = gone.code
        else:
            # The client may have left in the same moment: then there is nobody to tell.
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await socket.close(code)
    if code != status.WS_1012_SERVICE_RESTART:  # then it is the worker that leaves
        await _say(feed, topic, "left", name)


async def _talk(
    socket: WebSocket, feed: Feed, subscription: Subscription, topic: str, name: str
) -> int:
    """Listen and speak until one of both ends; return the close code to send.

    Raises WebSocketDisconnect, with the code received, if the client or the server ended it.
    """
    listening = asyncio.create_task(_listen(socket, feed, topic, name), name=f"chat-listen-{name}")
    speaking = asyncio.create_task(_speak(socket, subscription), name=f"chat-speak-{name}")
    tasks = {listening, speaking}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        # Also takes what the second one raises: it may have noticed the same lost connection.
        await asyncio.gather(*tasks, return_exceptions=True)
    if not listening.cancelled():
        return listening.result()
    speaking.result()
    return status.WS_1012_SERVICE_RESTART if feed.closing else status.WS_1013_TRY_AGAIN_LATER


async def _listen(socket: WebSocket, feed: Feed, topic: str, name: str) -> int:
    """Publish what the client says; returns a close code, raises WebSocketDisconnect."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text = message.get("text")
        if text is None:
            return status.WS_1003_UNSUPPORTED_DATA
        try:
            said = ChatIn.model_validate_json(text)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]["msg"]
            await _send(socket, ChatError(detail=problem))
        else:
            await _say(feed, topic, "message", name, said.text)


async def _speak(socket: WebSocket, subscription: Subscription) -> None:
    """Send what is said in the room, until the subscription ends."""
    async for event in subscription:
        await _send(socket, _out(event))


async def _say(feed: Feed, topic: str, kind: str, name: str, text: str = "") -> None:
    async with feed.write() as change:
        change.emit(topic, kind, {"name": name, "text": text, "worker": worker_name()})


async def _send(socket: WebSocket, message: BaseModel) -> None:
    await socket.send_text(message.model_dump_json())


def _out(event: Event) -> ChatOut:
    return ChatOut.model_validate({"type": event.kind, "id": event.id, "at": event.at} | event.data)
