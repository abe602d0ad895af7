"""Our transport beside asyncio's: the same scenes with both, over real sockets."""

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, override

import pytest

from subserve.worker.loops import AsyncioLoop
from subserve.worker.transport import HIGH_WATER, LARGE_READ, SocketTransport

DEADLINE = 10.0
LARGE = bytes(range(256)) * 64 * 1024  # 16 MiB: more than the kernel takes


class Recorder(asyncio.Protocol):
    """Writes down what it is told; echoes if asked."""

    def __init__(self, *, echo: bool = False, keep_open: bool = False) -> None:
        self.echo, self.keep_open = echo, keep_open
        self.data = b""
        self.told: list[str] = []
        self.error: BaseException | None = None
        self.fails = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.told.append("made")

    @override
    def data_received(self, data: bytes) -> None:
        if self.fails:
            raise ArithmeticError("a flaw")
        self.data += data
        if self.echo:
            self.transport.write(data)

    @override
    def eof_received(self) -> bool:
        self.told.append("eof")
        return self.keep_open

    @override
    def pause_writing(self) -> None:
        self.told.append("pause")

    @override
    def resume_writing(self) -> None:
        self.told.append("resume")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.error = exc


type Scene = Callable[[Recorder, socket.socket], Awaitable[None]]


@pytest.fixture(params=["ours", "ours, slow calls", "asyncio"])
def play(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Run a scene with a transport on one end of a TCP connection."""

    def run(scene: Scene, **protocol: bool) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, AsyncioLoop)
            with socket.create_server(("127.0.0.1", 0)) as server:
                client = socket.create_connection(server.getsockname())
                sock, _ = server.accept()
            sock.setblocking(False)
            client.setblocking(False)
            recorder = Recorder(**protocol)
            if request.param == "asyncio":
                loop._make_socket_transport(sock, recorder)  # type: ignore[attr-defined]
                await asyncio.sleep(0)
            else:
                receive = one_byte if "slow" in request.param else os.read
                SocketTransport(loop, sock.detach(), sock.family, recorder, receive, os.write)
            assert recorder.told == ["made"]
            try:
                async with asyncio.timeout(DEADLINE):
                    await scene(recorder, client)
            finally:
                client.close()
                recorder.transport.abort()
                await until(lambda: recorder.told[-1] == "lost")
            assert recorder.told.count("lost") == 1
            assert recorder.transport.get_extra_info("socket").fileno() == -1

        with asyncio.Runner(loop_factory=AsyncioLoop) as runner:
            runner.run(main())

    def one_byte(fd: int, size: int) -> bytes:
        return os.read(fd, min(size, 1))

    return run


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.001)


async def read_all(client: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size and (piece := await loop.sock_recv(client, LARGE_READ)):
        data += piece
    return data


def test_what_comes_is_echoed(play: Callable[..., None]) -> None:
    async def scene(recorder: Recorder, client: socket.socket) -> None:
        for word in (b"one", b"two", b"x" * 100_000):
            await asyncio.get_running_loop().sock_sendall(client, word)
            assert await read_all(client, len(word)) == word
        assert recorder.told == ["made"]

    play(scene, echo=True)


def test_the_client_leaves(play: Callable[..., None]) -> None:
    async def scene(recorder: Recorder, client: socket.socket) -> None:
        client.close()
        await until(lambda: "lost" in recorder.told)
        assert recorder.told == ["made", "eof", "lost"]
        assert recorder.error is None

    play(scene)


def test_the_client_shuts_down_its_side(play: Callable[..., None]) -> None:
    async def scene(recorder: Recorder, client: socket.socket) -> None:
        client.shutdown(socket.SHUT_WR)
        await until(lambda: "eof" in recorder.told)
        recorder.transport.write(b"still here")
        assert await read_all(client, 10) == b"still here"
        assert recorder.told == ["made", "eof"]
        recorder.transport.close()
        assert await read_all(client, 1) == b""

    play(scene, keep_open=True)


def test_the_client_resets(play: Callable[..., None]) -> None:
    async def scene(recorder: Recorder, client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await until(lambda: "lost" in recorder.told)
        assert isinstance(recorder.error, ConnectionResetError)
        recorder.transport.write(b"into the void")

    play(scene)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_slow_reader_pauses_the_protocol(play: Callable[..., None], parts: int) -> None:
    async def scene(recorder: Recorder, client: socket.socket) -> None:
        transport = recorder.transport
        if parts == 1:
            transport.write(LARGE)
        else:
            transport.writelines([LARGE[:10], b"", LARGE[10:99], LARGE[99:]])
        transport.write(b"the end")
        assert recorder.told == ["made", "pause"]
        assert HIGH_WATER < transport.get_write_buffer_size() < len(LARGE) + 7
        assert await read_all(client, len(LARGE) + 7) == LARGE + b"the end"
        await until(lambda: recorder.told == ["made", "pause", "resume"])
        assert transport.get_write_buffer_size() == 0

    play(scene)


def test_close_sends_what_waits(play: Callable[..., None]) -> None:
    async def scene(recorder: Recorder, client: socket.socket) -> None:
        recorder.transport.write(LARGE)
        recorder.transport.close()
        assert recorder.transport.is_closing()
        assert "lost" not in recorder.told
        assert await read_all(client, len(LARGE) + 1) == LARGE
        await until(lambda: "lost" in recorder.told)
        assert recorder.error is None

    play(scene)


def test_write_eof_comes_behind_what_waits(play: Callable[..., None]) -> None:
    async def scene(recorder: Recorder, client: socket.socket) -> None:
        assert recorder.transport.can_write_eof()
        recorder.transport.write(LARGE)
        recorder.transport.write_eof()
        with pytest.raises(RuntimeError):
            recorder.transport.write(b"more")
        with pytest.raises(RuntimeError):
            recorder.transport.writelines([b"more"])
        assert await read_all(client, len(LARGE) + 1) == LARGE
        await asyncio.get_running_loop().sock_sendall(client, b"thanks")
        await until(lambda: recorder.data == b"thanks")

    play(scene)


def test_abort_drops_what_waits(play: Callable[..., None]) -> None:
    async def scene(recorder: Recorder, client: socket.socket) -> None:
        recorder.transport.write(LARGE)
        recorder.transport.abort()
        assert recorder.transport.get_write_buffer_size() == 0
        await until(lambda: recorder.told[-1] == "lost")
        assert recorder.error is None
        assert len(await read_all(client, len(LARGE))) < len(LARGE)

    play(scene)


def test_a_paused_reader_reads_nothing(play: Callable[..., None]) -> None:
    async def scene(recorder: Recorder, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        transport = recorder.transport
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        await loop.sock_sendall(client, b"later")
        transport.write(b"meanwhile")  # goes out all the same
        assert await read_all(client, 9) == b"meanwhile"
        assert recorder.data == b""
        client.close()
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert recorder.told == ["made"]
        transport.resume_reading()
        transport.resume_reading()
        assert transport.is_reading()
        await until(lambda: recorder.told == ["made", "eof", "lost"])
        assert recorder.data == b"later"

    play(scene)


def test_another_protocol_goes_on(play: Callable[..., None]) -> None:
    async def scene(recorder: Recorder, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        recorder.transport.set_protocol(protocol)
        protocol.connection_made(recorder.transport)
        assert recorder.transport.get_protocol() is protocol
        await loop.sock_sendall(client, b"a line\n")
        assert await reader.readline() == b"a line\n"
        writer = asyncio.StreamWriter(recorder.transport, protocol, reader, loop)
        writer.write(LARGE)
        getter = asyncio.create_task(read_all(client, len(LARGE)))
        await writer.drain()
        assert await getter == LARGE
        writer.close()
        await writer.wait_closed()
        recorder.told.append("lost")  # the other one was told

    play(scene)


def test_a_protocol_that_fails_ends_its_connection(play: Callable[..., None]) -> None:
    async def scene(recorder: Recorder, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reported: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: reported.append(context))
        recorder.fails = True
        await loop.sock_sendall(client, b"x")
        await until(lambda: "lost" in recorder.told)
        assert isinstance(recorder.error, ArithmeticError)
        assert [context["exception"] for context in reported] == [recorder.error]
        assert reported[0]["protocol"] is recorder

    play(scene)


def test_limits_of_the_write_buffer(play: Callable[..., None]) -> None:
    async def scene(recorder: Recorder, client: socket.socket) -> None:
        transport = recorder.transport
        assert transport.get_write_buffer_limits() == (HIGH_WATER // 4, HIGH_WATER)
        transport.set_write_buffer_limits(high=0)
        assert transport.get_write_buffer_limits() == (0, 0)
        transport.set_write_buffer_limits(low=100)
        assert transport.get_write_buffer_limits() == (100, 400)
        transport.set_write_buffer_limits(high=10, low=5)
        with pytest.raises(ValueError, match="low"):
            transport.set_write_buffer_limits(high=1, low=2)
        transport.write(LARGE)
        assert recorder.told == ["made", "pause"]
        assert await read_all(client, len(LARGE)) == LARGE
        await until(lambda: recorder.told[-1] == "resume")

    play(scene)


def test_what_is_known_of_the_connection(play: Callable[..., None]) -> None:
    async def scene(recorder: Recorder, client: socket.socket) -> None:
        info = recorder.transport.get_extra_info
        assert info("peername") == client.getsockname()
        assert info("sockname") == client.getpeername()
        assert info("socket").getsockname() == client.getpeername()
        assert info("ssl_object", "none") == "none"

    play(scene)


def test_bytes_are_copied_that_the_caller_may_change(play: Callable[..., None]) -> None:
    async def scene(recorder: Recorder, client: socket.socket) -> None:
        recorder.transport.write(LARGE)
        changing = bytearray(b"before")
        recorder.transport.write(changing)
        recorder.transport.write(memoryview(b"view"))
        if isinstance(recorder.transport, SocketTransport):  # asyncio does not promise it
            changing[:] = b"after!"
        assert (await read_all(client, len(LARGE) + 10))[-10:] == b"beforeview"

    play(scene)


def test_only_protocols_that_take_data() -> None:
    class Buffered(asyncio.BufferedProtocol):
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, AsyncioLoop)
        ours, theirs = socket.socketpair()
        recorder = Recorder()
        transport = SocketTransport(loop, ours.detach(), ours.family, recorder, os.read, os.write)
        with pytest.raises(TypeError, match="data_received"):
            transport.set_protocol(Buffered())
        transport.abort()
        theirs.close()
        await until(lambda: "lost" in recorder.told)

    with asyncio.Runner(loop_factory=AsyncioLoop) as runner:
        runner.run(main())
