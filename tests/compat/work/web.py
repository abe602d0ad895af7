"""HTTP, events, templates: what web frameworks and their clients are made of."""

import typing

type Json = typing.Any


def use_aiohttp() -> Json:
    """A server and a client in one loop, with JSON and a WebSocket."""
    import asyncio

    from aiohttp import ClientSession, web

    async def rows(request):
        return web.json_response({"path": request.path})

    async def echo(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data.upper())
        return socket

    async def main():
        app = web.Application()
        app.add_routes([web.get("/rows", rows), web.get("/ws", echo)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.get("/rows") as answer:
                found = await answer.json()
            async with session.ws_connect("/ws") as socket:
                await socket.send_str("hello")
                heard = (await socket.receive()).data
        await runner.cleanup()
        return [found, heard]

    return asyncio.run(main())


def use_tornado() -> Json:
    """Masks WebSocket frames with its speedups."""
    from tornado.speedups import websocket_mask

    return websocket_mask(b"\1\2\3\4", b"hello" * 20).hex()[:20]


def use_httptools() -> Json:
    """Parses requests a byte at a time; refuses nonsense."""
    import httptools

    seen = []

    class Collector:
        def on_url(self, url):
            seen.append(url.decode())

        def on_body(self, body):
            seen.append(body.decode())

    parser = httptools.HttpRequestParser(Collector())
    for byte in b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi":
        parser.feed_data(bytes([byte]))
    try:
        httptools.HttpRequestParser(Collector()).feed_data(b"nonsense\r\n\r\n")
    except httptools.HttpParserError as error:
        return [seen, type(error).__name__]


def use_uvloop() -> Json:
    """Serves and asks itself over TCP, with a thread pool."""
    import asyncio

    import uvloop

    async def main():
        async def echo(reader, writer):
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        answers = []
        for n in range(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"line %d\n" % n)
            answers.append((await reader.read()).decode())
            writer.close()
        assert await asyncio.to_thread(sum, [1, 2]) == 3
        server.close()
        await server.wait_closed()
        return answers

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def use_websockets() -> Json:
    """A server and a client, with compression."""
    import asyncio

    from websockets.asyncio.client import connect
    from websockets.asyncio.server import serve
    from websockets.speedups import apply_mask

    async def echo(socket):
        async for message in socket:
            await socket.send(message[::-1])

    async def main():
        async with serve(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"ws://127.0.0.1:{port}") as socket:
                await socket.send("abc" * 500)
                return len(await socket.recv())

    return [asyncio.run(main()), apply_mask(b"abcd", b"\1\2\3\4").hex()]


def use_gevent() -> Json:
    """Greenlets, a queue, and a server on its loop."""
    import gevent
    from gevent.queue import Queue
    from gevent.server import StreamServer
    from gevent.socket import create_connection

    queue = Queue()

    def produce(n):
        gevent.sleep(0)
        queue.put(n)

    gevent.joinall([gevent.spawn(produce, n) for n in range(50)], timeout=10)
    server = StreamServer(("127.0.0.1", 0), lambda sock, _: sock.sendall(b"hello"))
    server.start()
    client = create_connection(("127.0.0.1", server.server_port), timeout=10)
    heard = client.recv(10).decode()
    client.close()
    server.stop()
    found = [sum(queue.get() for _ in range(50)), heard]
    gevent.get_hub().destroy(destroy_loop=True)
    return found


def use_greenlet() -> Json:
    """Switches; raises into; ends with what was thrown; in a thread, too."""
    import threading

    from greenlet import getcurrent, greenlet

    seen = []

    def run():
        def inner(x):
            while x < 100:
                x = getcurrent().parent.switch(x + 1)

        worker = greenlet(inner)
        value = 0
        while value is not None and value < 100:
            value = worker.switch(value)
        seen.append(value)

    run()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return seen


def use_yarl() -> Json:
    """Parses, joins and quotes URLs."""
    from yarl import URL

    url = URL("http://host:81/a b?q=é#f") / "c" % {"x": "1 2"}
    return [str(url), url.query["x"], str(URL("http://h/a/b").join(URL("../c")))]


def use_markupsafe() -> Json:
    """Escapes and formats."""
    from markupsafe import Markup, _speedups, escape

    return [str(escape("<&'\"é" * 50))[:20], Markup("<b>%s</b>") % "<i>", _speedups.__name__]


def use_watchfiles() -> Json:
    """Sees a file appear."""
    import pathlib
    import tempfile
    import threading

    from watchfiles import watch

    with tempfile.TemporaryDirectory() as folder:
        stop = threading.Event()
        timer = threading.Timer(0.2, pathlib.Path(folder, "new").touch)
        timer.start()
        for changes in watch(folder, stop_event=stop, debounce=50, step=10):
            timer.join()
            return [kind.name for kind, _ in changes][:1]
    return None


def use_pycurl() -> Json:
    """Fetches a page from a server of its own, with a callback."""
    import http.server
    import io
    import threading

    import pycurl

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"page")

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    body = io.BytesIO()
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, f"http://127.0.0.1:{server.server_port}/")
    curl.setopt(pycurl.NOPROXY, "*")
    curl.setopt(pycurl.WRITEFUNCTION, body.write)
    curl.perform()
    code = curl.getinfo(pycurl.RESPONSE_CODE)
    curl.close()
    thread.join()
    server.server_close()
    return [code, body.getvalue().decode()]


def use_grpcio() -> Json:
    """A server with a thread pool and a client, over loopback."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    def upper(request, context):
        return request.upper()

    handler = grpc.method_handlers_generic_handler(
        "Echo", {"Upper": grpc.unary_unary_rpc_method_handler(upper)}
    )
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]
        ) as channel:
            call = channel.unary_unary("/Echo/Upper")
            found = [call(b"hello %d" % n, timeout=20).decode() for n in range(10)]
        server.stop(None).wait(10)
    return found


def use_zope_interface() -> Json:
    """Adapts objects by interface."""
    from zope.interface import Interface, implementer
    from zope.interface.adapter import AdapterRegistry

    class IShape(Interface):
        pass

    @implementer(IShape)
    class Shape:
        pass

    registry = AdapterRegistry()
    registry.register([IShape], IShape, "", len)
    return [IShape.providedBy(Shape()), registry.lookup([IShape], IShape) is len]
