"""Published packages with extension modules, doing real work in four workers at once.

See `extension_harness` for how a scenario runs.  Each returns what must be the same in all workers.
"""

import importlib.util

import pytest

from tests.interpreters.extension_harness import Json, run


def use_pydantic(worker: int) -> Json:
    from decimal import Decimal

    from pydantic import BaseModel, Field, ValidationError

    class Item(BaseModel):
        name: str = Field(min_length=2)
        price: Decimal
        tags: set[str] = set()

    class Order(BaseModel):
        items: list[Item]

    order = Order.model_validate_json(
        '{"items": [{"name": "tea", "price": "2.50", "tags": ["x"]}]}'
    )
    errors = []
    for number in range(200):
        try:
            Order.model_validate({"items": [{"name": "a" * (number % 2), "price": "many"}]})
        except ValidationError as error:
            errors = [detail["type"] for detail in error.errors()]
    schema = Order.model_json_schema()
    return [order.model_dump(mode="json"), errors, sorted(schema["$defs"]["Item"]["properties"])]


def use_uvloop(worker: int) -> Json:
    import asyncio

    import uvloop

    async def main() -> list[bytes]:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def ask(number: int) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"line %d\n" % number)
            answer = await reader.read()
            writer.close()
            return answer

        answers = await asyncio.gather(*(ask(number) for number in range(20)))
        assert await asyncio.to_thread(sum, [1, 2]) == 3
        server.close()
        await server.wait_closed()
        return answers

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return [answer.decode() for answer in runner.run(main())]


def use_httptools(worker: int) -> Json:
    import httptools

    class Collector:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def on_url(self, url: bytes) -> None:
            self.seen.append(url.decode())

        def on_header(self, name: bytes, value: bytes) -> None:
            self.seen.append(f"{name.decode()}={value.decode()}")

        def on_body(self, body: bytes) -> None:
            self.seen.append(body.decode())

    collector = Collector()
    parser = httptools.HttpRequestParser(collector)
    for byte in b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello":
        parser.feed_data(bytes([byte]))
    try:
        httptools.HttpRequestParser(collector).feed_data(b"nonsense\r\n\r\n")
    except httptools.HttpParserError as error:
        collector.seen.append(type(error).__name__)
    return [collector.seen, httptools.parse_url(b"http://host:81/p?q#f").port]


def use_orjson(worker: int) -> Json:
    import dataclasses
    import datetime
    import uuid

    import orjson

    @dataclasses.dataclass
    class Point:
        x: int
        when: datetime.datetime

    point = Point(1, datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC))
    for _ in range(100):
        data = orjson.dumps(
            {"p": point, "u": uuid.UUID(int=5), "n": None}, option=orjson.OPT_SORT_KEYS
        )
    try:
        orjson.loads(b"{")
    except orjson.JSONDecodeError as error:
        return [data.decode(), orjson.loads(data), error.pos]
    raise AssertionError("accepted an object that is not closed")


def use_msgspec(worker: int) -> Json:
    import msgspec

    class User(msgspec.Struct, tag=True, kw_only=True):
        name: str
        groups: set[str] = set()

    class Event(msgspec.Struct):
        user: User
        at: int

    event = Event(User(name="ann", groups={"a"}), 3)
    packed = msgspec.msgpack.encode(event)
    assert msgspec.msgpack.decode(packed, type=Event) == event
    for _ in range(100):
        try:
            msgspec.json.decode(b'{"user": {"type": "User", "name": 1}, "at": 3}', type=Event)
        except msgspec.ValidationError as error:
            text = str(error)
    return [msgspec.json.encode(event).decode(), text]


def use_sqlalchemy(worker: int) -> Json:
    import asyncio

    from sqlalchemy import ForeignKey, func, select
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

    class Base(DeclarativeBase):
        pass

    class Author(Base):
        __tablename__ = "author"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        books: Mapped[list[Book]] = relationship(lazy="selectin")

    class Book(Base):
        __tablename__ = "book"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))

    async def main() -> Json:
        engine = create_async_engine("sqlite+aiosqlite://")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            books = [Book(title=f"t{number}") for number in range(50)]
            session.add(Author(name="Ann", books=books))
            await session.commit()
            authors = (await session.scalars(select(Author))).all()
            count = await session.scalar(select(func.count(Book.id)))
            found = [authors[0].name, len(authors[0].books), count]
        await engine.dispose()
        return found

    return asyncio.run(main())


def use_psycopg(worker: int) -> Json:
    import psycopg
    from psycopg import conninfo, pq, sql
    from psycopg.adapt import Transformer
    from psycopg.types.json import Jsonb

    query = sql.SQL("select {} from {}").format(sql.Identifier('a"b'), sql.Identifier("t"))
    transformer = Transformer()
    formats = [psycopg.adapt.PyFormat.TEXT] * 3
    dumped = transformer.dump_sequence([1, "ä", Jsonb({"k": [1]})], formats)
    try:
        psycopg.connect("host=127.0.0.1 port=1 connect_timeout=5")
    except psycopg.OperationalError as error:
        refused = "refused" in str(error)
    return [
        query.as_string(),
        [bytes(value).decode() for value in dumped],
        conninfo.make_conninfo("dbname=x", user="y"),
        pq.__impl__,
        pq.version() > 0,
        refused,
    ]


def use_asyncpg(worker: int) -> Json:
    import asyncio

    import asyncpg
    from asyncpg.pgproto import pgproto

    assert pgproto.UUID("12345678-1234-5678-1234-567812345678").int > 0

    async def main() -> str:
        # A server that hangs up after it has read the start-up message.
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            length = int.from_bytes(await reader.readexactly(4))
            received.append(await reader.readexactly(length - 4))
            writer.close()

        received: list[bytes] = []
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            await asyncpg.connect(
                host="127.0.0.1", port=port, user="ann", database="shop", ssl=False, timeout=10
            )
        except (asyncpg.PostgresError, ConnectionError) as error:
            said = type(error).__name__
        server.close()
        await server.wait_closed()
        assert b"ann" in received[0]
        return said

    return asyncio.run(main())


def use_cryptography(worker: int) -> Json:
    import datetime

    from cryptography import x509
    from cryptography.fernet import Fernet, InvalidToken
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    fernet = Fernet(Fernet.generate_key())
    token = fernet.encrypt(b"secret")
    try:
        Fernet(Fernet.generate_key()).decrypt(token)
    except InvalidToken:
        wrong_key = True
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "worker.example")])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    parsed = x509.load_pem_x509_certificate(pem)
    parsed.verify_directly_issued_by(certificate)
    return [fernet.decrypt(token).decode(), wrong_key, parsed.subject.rfc4514_string()]


def use_lxml(worker: int) -> Json:
    from lxml import etree, html

    root = etree.XML("<list>" + "".join(f"<i n='{n}'>{n * n}</i>" for n in range(100)) + "</list>")
    style = etree.XML(
        '<x:stylesheet version="1.0" xmlns:x="http://www.w3.org/1999/XSL/Transform">'
        '<x:template match="/list"><sum><x:value-of select="sum(i)"/></sum></x:template>'
        "</x:stylesheet>"
    )
    try:
        etree.fromstring("<a><b></a>")
    except etree.XMLSyntaxError as error:
        line = error.lineno
    page = html.fromstring("<p>one<p class=x>two")
    return [
        root.xpath("count(i[@n > 49])"),
        str(etree.XSLT(style)(root)).splitlines()[-1],
        line,
        [element.text for element in page.cssselect("p.x")]
        if hasattr(page, "cssselect") and False
        else page.xpath("//p[@class='x']/text()"),
    ]


def use_pillow(worker: int) -> Json:
    import io

    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    image = Image.new("RGB", (200, 100), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 20, 80, 80), fill="red")
    draw.text((100, 40), "text", font=ImageFont.load_default(), fill="black")
    small = image.resize((50, 25), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(1))
    found = [small.getpixel((12, 12))]
    for kind in ("PNG", "JPEG", "WEBP"):
        file = io.BytesIO()
        image.save(file, kind)
        file.seek(0)
        with Image.open(file) as loaded:
            red = loaded.convert("RGB").getpixel((50, 50))
            found.append([loaded.format, loaded.size, red[0] > 240 and red[1] < 20])
    return found


def use_numpy(worker: int) -> Json:
    import threading

    import numpy as np

    random = np.random.default_rng(5)
    matrix = random.random((300, 300))
    product = matrix @ matrix
    solved = np.linalg.solve(matrix, product)
    spectrum = np.fft.ifft(np.fft.fft(matrix[0]))
    structured = np.array([(1, "a"), (2, "b")], dtype=[("n", int), ("s", "U1")])
    results: list[float] = []
    threads = [
        threading.Thread(target=lambda: results.append(float((matrix @ matrix).sum())))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [
        bool(np.allclose(solved, matrix)),
        bool(np.allclose(spectrum, matrix[0])),
        bool(np.allclose(results, product.sum())),
        round(float(product.sum()), 6),
        structured["s"].tolist(),
    ]


def use_pandas(worker: int) -> Json:
    import io

    import pandas as pd

    frame = pd.DataFrame({"k": ["a", "b"] * 500, "v": range(1000)})
    sums = frame.groupby("k")["v"].sum()
    again = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    assert again.equals(frame)
    dates = pd.date_range("2026-01-01", periods=48, freq="h", tz="Europe/Paris")
    daily = pd.Series(range(48), index=dates).resample("D").mean()
    joined = frame.merge(sums.rename("total").reset_index(), on="k")
    return [sums.to_dict(), daily.tolist(), int(joined["total"].iloc[1])]


def use_scipy(worker: int) -> Json:
    import numpy as np
    from scipy import integrate, interpolate, linalg, optimize, signal, sparse, special
    from scipy.sparse import linalg as sparse_linalg

    matrix = np.arange(9.0).reshape(3, 3) + np.eye(3)
    triangle, _ = linalg.lu(matrix, permute_l=True)
    area, _ = integrate.quad(np.sin, 0, np.pi)
    path = integrate.solve_ivp(lambda t, y: -y, (0, 1), [1.0], method="LSODA", rtol=1e-8)
    spline = interpolate.splrep(np.linspace(0, 1, 10), np.linspace(0, 1, 10) ** 2)
    lowest = optimize.minimize(lambda x: (x[0] - 2) ** 2, [0.0], method="L-BFGS-B")
    taps = signal.butter(3, 0.2)
    system = sparse.eye_array(50, format="csc") * 4
    solved = sparse_linalg.spsolve(system, np.ones(50))
    numbers = [
        triangle.sum(),
        area,
        path.y[0][-1],
        interpolate.splev(0.5, spline),
        lowest.x[0],
        taps[0].sum(),
        solved.sum(),
        special.gamma(5),
    ]
    return [round(float(number), 5) for number in numbers]


def use_yaml(worker: int) -> Json:
    import yaml

    assert yaml.__with_libyaml__
    data = yaml.load("a: [1, 2.5, null]\nb: {c: text}\n", Loader=yaml.CSafeLoader)
    try:
        yaml.load("a: [", Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        line = error.problem_mark.line
    return [data, yaml.dump(data, Dumper=yaml.CSafeDumper), line]


def use_aiohttp(worker: int) -> Json:
    import asyncio

    from aiohttp import ClientSession, web

    async def main() -> Json:
        async def hello(request: web.Request) -> web.Response:
            return web.json_response({"got": await request.text(), "q": request.query["q"]})

        async def echo(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                await socket.send_str(message.data.upper())
            return socket

        app = web.Application()
        app.add_routes([web.post("/", hello), web.get("/ws", echo)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with ClientSession() as session:
            async with session.post(url, params={"q": "ä"}, data="x" * 100_000) as response:
                answer = await response.json()
            async with session.ws_connect(url + "ws") as socket:
                await socket.send_str("hello")
                said = await socket.receive_str(timeout=10)
        await runner.cleanup()
        return [len(answer["got"]), answer["q"], said]

    return asyncio.run(main())


SCENARIOS = {
    "pydantic": use_pydantic,
    "uvloop": use_uvloop,
    "httptools": use_httptools,
    "orjson": use_orjson,
    "msgspec": use_msgspec,
    "sqlalchemy aiosqlite": use_sqlalchemy,
    "psycopg psycopg_binary": use_psycopg,
    "asyncpg": use_asyncpg,
    "cryptography": use_cryptography,
    "lxml": use_lxml,
    "PIL": use_pillow,
    "numpy": use_numpy,
    "pandas": use_pandas,
    "scipy": use_scipy,
    "yaml": use_yaml,
    "aiohttp": use_aiohttp,
}


@pytest.mark.parametrize("packages", SCENARIOS)
def test_a_package_works_in_four_workers_at_once(packages: str) -> None:
    missing = [name for name in packages.split() if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")

    outcome = run(SCENARIOS[packages])

    assert len(outcome.results) == 4
    first = outcome.results[0]
    assert all(result == first for result in outcome.results)
    assert outcome.stderr == ""
