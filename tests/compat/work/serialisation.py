"""JSON, YAML, MessagePack, XML and other formats."""

import typing

type Json = typing.Any


def use_orjson() -> Json:
    """Serialises dataclasses, dates and UUIDs; parses; refuses."""
    import datetime
    import uuid

    import orjson

    when = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    data = {"when": when, "id": uuid.UUID(int=5), "rows": [{"n": n} for n in range(300)]}
    text = orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
    try:
        orjson.loads(b"{")
    except orjson.JSONDecodeError as error:
        return [len(text), orjson.loads(text)["id"], error.pos]


def use_ujson() -> Json:
    """Serialises and parses."""
    import ujson

    text = ujson.dumps({"a": [1.5, "é", None] * 50, "b": {"c": True}})
    return [len(text), ujson.loads(text)["a"][:3]]


def use_simplejson() -> Json:
    """Serialises decimals; parses floats as decimals."""
    from decimal import Decimal

    import simplejson

    assert simplejson.decoder.c_scanstring is not None, "no speedups"
    text = simplejson.dumps({"price": Decimal("2.50")}, use_decimal=True)
    return [text, str(simplejson.loads(text, use_decimal=True)["price"])]


def use_jiter() -> Json:
    """Parses JSON, whole and cut off."""
    import jiter

    whole = jiter.from_json(b'{"a": [1, 2.5, "x"]}')
    return [whole, jiter.from_json(b'{"a": [1, 2', partial_mode=True)]


def use_ijson() -> Json:
    """Parses JSON as a stream with the C backend."""
    import io

    import ijson.backends.yajl2_c as ijson

    text = b'{"rows": [' + b",".join(b'{"n": %d}' % n for n in range(200)) + b"]}"
    return sum(row["n"] for row in ijson.items(io.BytesIO(text), "rows.item"))


def use_msgspec() -> Json:
    """Validates and converts structs, to JSON and MessagePack."""
    import msgspec

    class User(msgspec.Struct, tag=True, kw_only=True):
        name: str
        groups: set[str] = set()

    packed = msgspec.msgpack.encode(User(name="ann", groups={"a"}))
    try:
        msgspec.json.decode(b'{"type": "User", "name": 1}', type=User)
    except msgspec.ValidationError as error:
        return [msgspec.msgpack.decode(packed, type=User).name, str(error)]


def use_msgpack() -> Json:
    """Packs and unpacks a stream, with timestamps."""
    import msgpack

    unpacker = msgpack.Unpacker(timestamp=3)
    for n in range(100):
        unpacker.feed(msgpack.packb({"n": n, "at": msgpack.Timestamp(n, 0)}))
    return [sum(row["n"] for row in unpacker), msgpack.Packer.__module__]


def use_pyyaml() -> Json:
    """Dumps and loads with libyaml."""
    import yaml

    text = yaml.dump({"list": list(range(50)), "text": "é: x"}, Dumper=yaml.CSafeDumper)
    return [len(text), yaml.load(text, Loader=yaml.CSafeLoader)["text"]]


def use_ruamel_yaml_clib() -> Json:
    """Loads with its libyaml, for ruamel.yaml."""
    import io

    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=False)
    file = io.StringIO()
    yaml.dump({"list": list(range(50))}, file)
    return [len(file.getvalue()), yaml.load(file.getvalue())["list"][5], yaml.Parser.__name__]


def use_pydantic() -> Json:
    """Validates nested models; errors; JSON schema."""
    from decimal import Decimal

    from pydantic import BaseModel, Field, ValidationError

    class Item(BaseModel):
        name: str = Field(min_length=2)
        price: Decimal

    class Order(BaseModel):
        items: list[Item]

    order = Order.model_validate_json('{"items": [{"name": "tea", "price": "2.50"}]}')
    try:
        Order.model_validate({"items": [{"name": "a", "price": "many"}]})
    except ValidationError as error:
        kinds = [detail["type"] for detail in error.errors()]
    return [order.model_dump(mode="json"), kinds, sorted(Order.model_json_schema()["$defs"])]


def use_rpds_py() -> Json:
    """Persistent maps, as jsonschema uses them."""
    from rpds import HashTrieMap, List

    numbers = HashTrieMap({n: n * n for n in range(300)}).remove(7)
    return [len(numbers), numbers[9], list(List([1, 2]).push_front(0))]


def use_lxml() -> Json:
    """Parses XML and HTML; XPath, XSLT and a schema error."""
    from lxml import etree, html

    tree = etree.fromstring("<a>" + "<b n='1'>x</b>" * 100 + "</a>")
    style = etree.XSLT(
        etree.XML(
            "<xsl:stylesheet version='1.0' xmlns:xsl='http://www.w3.org/1999/XSL/Transform'>"
            "<xsl:template match='/'><n><xsl:value-of select='count(//b)'/></n></xsl:template>"
            "</xsl:stylesheet>"
        )
    )
    try:
        etree.fromstring("<a><b></a>")
    except etree.XMLSyntaxError as error:
        line = error.lineno
    page = html.fromstring("<p>one<p>two <a href='/x'>link</a>")
    return [tree.xpath("sum(//@n)"), str(style(tree)).strip()[-10:], line, page.xpath("//a/@href")]


def use_selectolax() -> Json:
    """Parses HTML and selects by CSS."""
    from selectolax.lexbor import LexborHTMLParser

    page = LexborHTMLParser("<div><p class=a>one</p><p>two</p></div>" * 50)
    return [len(page.css("p.a")), page.css_first("p").text()]


def use_fastavro() -> Json:
    """Writes and reads Avro records."""
    import io

    import fastavro

    schema = {"type": "record", "name": "R", "fields": [{"name": "n", "type": "long"}]}
    file = io.BytesIO()
    fastavro.writer(file, schema, [{"n": n} for n in range(200)])
    file.seek(0)
    return sum(row["n"] for row in fastavro.reader(file))


def use_protobuf() -> Json:
    """Builds, serialises and parses messages with upb."""
    from google.protobuf import struct_pb2, timestamp_pb2
    from google.protobuf.internal import api_implementation
    from google.protobuf.json_format import MessageToJson, Parse

    message = struct_pb2.Struct()
    message.update({"a": 1, "b": [True, None, "x"], "c": {"d": 2.5}})
    again = struct_pb2.Struct.FromString(message.SerializeToString())
    parsed = Parse('"2026-01-02T00:00:00Z"', timestamp_pb2.Timestamp())
    return [
        api_implementation.Type(),
        again["c"]["d"],
        parsed.seconds,
        len(MessageToJson(message)),
    ]
