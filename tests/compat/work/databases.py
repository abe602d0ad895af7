"""Drivers and clients, as far as they go without a server."""

import typing

type Json = typing.Any


def use_sqlalchemy() -> Json:
    """Objects and relations over SQLite."""
    from sqlalchemy import ForeignKey, create_engine, func, select
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
    from sqlalchemy.util import has_compiled_ext

    class Base(DeclarativeBase):
        pass

    class Book(Base):
        __tablename__ = "book"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))

    class Author(Base):
        __tablename__ = "author"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        books: Mapped[list[Book]] = relationship(lazy="selectin")

    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Author(name="Ann", books=[Book(title=f"t{n}") for n in range(100)]))
        session.commit()
        (author,) = session.scalars(select(Author))
        found = [author.name, len(author.books), session.scalar(select(func.count(Book.id)))]
    engine.dispose()
    return [found, has_compiled_ext()]


def use_asyncpg() -> Json:
    """Fails to connect; reads and writes its protocol's types."""
    import asyncio

    import asyncpg
    from asyncpg.pgproto.pgproto import UUID

    async def main():
        try:
            await asyncpg.connect("postgresql://u:p@127.0.0.1:1/d", timeout=5)
        except OSError as error:
            return type(error).__name__

    return [asyncio.run(main()), str(UUID("0" * 31 + "5")), len(asyncpg.Record.__mro__)]


def use_psycopg() -> Json:
    """Quotes with libpq; adapts; fails to connect."""
    import psycopg
    from psycopg import pq, sql

    try:
        psycopg.connect("postgresql://u:p@127.0.0.1:1/d", connect_timeout=3)
    except psycopg.OperationalError as error:
        refused = "refused" in str(error)
    text = sql.SQL("select {}").format(sql.Literal(["a", "é'"])).as_string(None)
    return [pq.__impl__, refused, text]


def use_psycopg2_binary() -> Json:
    """Quotes; fails to connect."""
    import psycopg2
    from psycopg2.extensions import adapt

    try:
        psycopg2.connect("postgresql://u:p@127.0.0.1:1/d", connect_timeout=3)
    except psycopg2.OperationalError as error:
        return ["refused" in str(error), adapt([1, "x"]).getquoted().decode()]


def use_pymongo() -> Json:
    """Encodes and decodes BSON with its C code."""
    import bson

    assert bson.has_c(), "no C code"
    data = bson.encode({"rows": [{"n": n} for n in range(200)], "id": bson.ObjectId("0" * 24)})
    return [len(data), str(bson.decode(data)["id"])]


def use_hiredis() -> Json:
    """Parses replies and packs commands."""
    import hiredis

    reader = hiredis.Reader(encoding="utf-8")
    reader.feed(b"*2\r\n$5\r\nhello\r\n:7\r\n-ERR no\r\n")
    return [
        reader.gets(),
        type(reader.gets()).__name__,
        hiredis.pack_command(("GET", "k")).decode(),
    ]


def use_duckdb() -> Json:
    """Queries, with a function in Python and threads of its own."""
    import duckdb

    with duckdb.connect(config={"threads": 2}) as connection:
        connection.create_function("twice", lambda x: 2 * x, ["BIGINT"], "BIGINT")
        query = "select sum(twice(range)), count(*) from range(5000)"
        return [int(value) for value in connection.execute(query).fetchone()]


def use_confluent_kafka() -> Json:
    """A producer without a broker: queues, polls and gives up."""
    from confluent_kafka import Producer

    producer = Producer(
        {"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": 200, "log_level": 0}
    )
    failed = []
    producer.produce("t", b"x", on_delivery=lambda error, _: failed.append(error.name()))
    producer.flush(10)
    return failed


def use_pyzmq() -> Json:
    """Requests and answers between two threads."""
    import threading

    import zmq

    with zmq.Context() as context:
        server = context.socket(zmq.REP)
        port = server.bind_to_random_port("tcp://127.0.0.1")

        def serve():
            for _ in range(20):
                server.send(server.recv().upper())

        thread = threading.Thread(target=serve)
        thread.start()
        client = context.socket(zmq.REQ)
        client.connect(f"tcp://127.0.0.1:{port}")
        found = []
        for n in range(20):
            client.send(b"line %d" % n)
            found.append(client.recv().decode())
        thread.join()
        client.close()
        server.close()
    return found[-1]


def use_maxminddb() -> Json:
    """Refuses what is no database, in C."""
    import tempfile

    import maxminddb
    from maxminddb import extension

    with tempfile.NamedTemporaryFile() as file:
        file.write(b"nonsense")
        file.flush()
        try:
            maxminddb.open_database(file.name, maxminddb.MODE_MMAP_EXT)
        except maxminddb.InvalidDatabaseError as error:
            return [type(error).__name__, extension.__name__]
