"""Frames of the control channel: whole, cut anywhere, or nonsense."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.errors import ChannelError
from subserve.messages import (
    MAX_FRAME_BYTES,
    Accept,
    Decoder,
    Drain,
    DumpStacks,
    Failed,
    Launch,
    Message,
    Ready,
    ReopenLogs,
    Retire,
    Serving,
    Signal,
    StopAccepting,
    TurnOver,
    encode,
)

any_text = st.text(st.characters())  # with lone surrogates: a traceback may hold them
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Drain, st.floats(0.0, 1e9)),
    st.sampled_from([DumpStacks(), ReopenLogs(), StopAccepting()]),
    st.builds(Accept, st.lists(st.integers(0)), st.integers(0), st.integers(0)),
    st.builds(Ready, st.sampled_from(["asgi", "wsgi"])),
    st.builds(Failed, any_text, any_text, st.integers(0, 255)),
    st.builds(Launch, any_text, st.lists(st.integers(0)), st.lists(any_text), st.lists(any_text)),
    st.builds(Signal, st.integers(1, 64)),
    st.just(Retire()),
    st.builds(Serving, st.sampled_from(["asgi", "wsgi"])),
    st.builds(TurnOver, any_text),
)


def frame(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


@given(messages)
def test_a_message_comes_back(message: Message) -> None:
    assert list(Decoder().feed(encode(message))) == [message]


@given(st.lists(messages, max_size=5), st.data())
def test_messages_come_back_however_they_are_cut(sent: list[Message], data: st.DataObject) -> None:
    stream = b"".join(map(encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder, received = Decoder(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:end])
    assert received == sent


def test_byte_by_byte() -> None:
    decoder, stream = Decoder(), encode(Drain(1.5)) + encode(Ready("wsgi"))
    received = [m for number in range(len(stream)) for m in decoder.feed(stream[number:][:1])]
    assert received == [Drain(1.5), Ready("wsgi")]


def test_an_unfinished_frame_is_no_message_yet() -> None:
    decoder, stream = Decoder(), encode(Ready("asgi"))
    assert list(decoder.feed(stream[:-1])) == []
    assert list(decoder.feed(stream[-1:])) == [Ready("asgi")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"5",
        b"null",
        b"{}",
        b"[]",
        b'"Drain"',
        b'["Drain"]',
        b'["Drain", 1, 2, 3]',
        b'["Undrain", 1]',
        b'[["Drain"], 1]',
        b'[{"a": 1}]',
        b"[" * 10**6,
        json.dumps(["Failed", "reason"]).encode(),
    ],
)
def test_nonsense_is_a_channel_error(body: bytes) -> None:
    with pytest.raises(ChannelError, match="not a message"):
        list(Decoder().feed(frame(body)))


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_a_channel_error(stream: bytes) -> None:
    try:
        list(Decoder().feed(frame(stream) + stream))
    except ChannelError as error:
        assert str(error)  # noqa: PT017  some bytes are an unfinished frame


def test_a_frame_that_claims_too_much_is_not_waited_for() -> None:
    header = struct.pack("!I", MAX_FRAME_BYTES + 1)
    with pytest.raises(ChannelError, match="a frame claims 1048577 bytes"):
        list(Decoder().feed(header))


def test_the_longest_frame() -> None:
    overhead = len(encode(Ready(""))) - 4
    message = Ready("x" * (MAX_FRAME_BYTES - overhead))
    assert list(Decoder().feed(encode(message))) == [message]
    with pytest.raises(ChannelError, match="longer than 1048576"):
        encode(Ready(message.interface + "x"))
