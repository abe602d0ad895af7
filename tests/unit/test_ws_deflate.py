"""permessage-deflate: what is agreed on, and how much is made of what."""

import time
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.extensions import PerMessageDeflate

from subserve.http.ws.deflate import Deflater, Inflater, Settings, agree
from subserve.http.ws.frames import Code, Violation
from tests.unit.ws_harness import agreement

DEFLATE = b"permessage-deflate"


@pytest.mark.parametrize(
    ("offer", "response"),
    [
        (b"", b""),
        (b"; server_no_context_takeover", b"; server_no_context_takeover"),
        (b"; client_no_context_takeover", b"; client_no_context_takeover"),
        (b"; client_max_window_bits", b"; client_max_window_bits=12"),
        (b"; client_max_window_bits=10", b"; client_max_window_bits=10"),
        (b'; client_max_window_bits="10"', b"; client_max_window_bits=10"),
        (b"; client_max_window_bits=8", b"; client_max_window_bits=8"),
        (b"; server_max_window_bits=15", b"; server_max_window_bits=12"),
        (b" ;\tserver_max_window_bits=9 ", b"; server_max_window_bits=9"),
        (b"; SERVER_MAX_WINDOW_BITS=9", b"; server_max_window_bits=9"),
    ],
)
def test_offers_that_are_accepted(offer: bytes, response: bytes) -> None:
    assert agreement(DEFLATE + offer).response == DEFLATE + response


@pytest.mark.parametrize(
    "offer",
    [
        b"; server_max_window_bits",
        b"; server_max_window_bits=8",
        b"; server_max_window_bits=16",
        b"; server_max_window_bits=09",
        b"; client_max_window_bits=7",
        b"; client_max_window_bits=x",
        b"; client_max_window_bits; client_max_window_bits",
        b"; server_no_context_takeover=1",
        b"; unknown",
    ],
)
def test_offers_that_are_declined(offer: bytes) -> None:
    """RFC 7692, section 5.1.  The next one may be for us."""
    assert agree(DEFLATE + offer, Settings()) is None
    assert agree(DEFLATE + offer + b", x-other; a=b, " + DEFLATE, Settings()) is not None


@pytest.mark.parametrize(
    "offer",
    [b"", b",", b"a,", b";a", b"a;", b"a b", b"a;b=", b'a;b="', b'a;b="\\c"', b"a\xff", b"a,," * 9],
)
def test_what_is_no_offer(offer: bytes) -> None:
    with pytest.raises(ValueError, match="not a list of extensions"):
        agree(offer, Settings())


def test_too_many_offers() -> None:
    with pytest.raises(ValueError, match="not a list"):
        agree(b", ".join([b"a"] * 33), Settings())


@pytest.mark.parametrize(
    "hostile", [b'a; b="' + rb"\c" * 15_000, b"a" + b" " * 32_000 + b"b", b"a;" * 16_000 + b"="]
)
def test_cve_2020_7662(hostile: bytes) -> None:
    """An extension header that took time exponential in its length."""
    begin = time.process_time()
    with pytest.raises(ValueError, match="not a list"):
        agree(hostile, Settings())
    assert time.process_time() - begin < 0.2


def test_settings() -> None:
    made = agreement(DEFLATE + b"; client_max_window_bits", window_bits=15)
    assert (made.our_bits, made.their_bits) == (15, 15)
    made = agreement(DEFLATE, context_takeover=False)
    assert made.response == (DEFLATE + b"; server_no_context_takeover; client_no_context_takeover")
    assert not made.we_keep_context
    assert not made.they_keep_context


OFFERS = [
    b"",
    b"; server_no_context_takeover; client_no_context_takeover",
    b"; client_max_window_bits=9; server_max_window_bits=9",
]
MESSAGES = st.lists(st.binary(max_size=300) | st.text(max_size=200).map(str.encode), max_size=5)


@pytest.mark.parametrize("offer", OFFERS)
@given(MESSAGES)
def test_wsproto_inflates_what_we_deflate(offer: bytes, messages: list[bytes]) -> None:
    agreed = agreement(DEFLATE + offer)
    deflater = Deflater(agreed)
    client = PerMessageDeflate()
    client.offer()
    client.finalize(agreed.response.decode())
    for message in messages:
        client._inbound_is_compressible = client._inbound_compressed = True
        if client._decompressor is None:
            bits = client.server_max_window_bits
            client._decompressor = zlib.decompressobj(-bits)
        payload = deflater.deflate(message)
        assert client._decompressor.decompress(payload + b"\0\0\xff\xff") == message
        if client.server_no_context_takeover:
            client._decompressor = None


@pytest.mark.parametrize("offer", OFFERS)
@given(MESSAGES, st.integers(1, 9))
def test_we_inflate_what_a_client_deflates(offer: bytes, messages: list[bytes], step: int) -> None:
    agreed = agreement(DEFLATE + offer)
    inflater = Inflater(agreed)
    stream = None
    for message in messages:
        if stream is None or not agreed.they_keep_context:
            stream = zlib.compressobj(wbits=-agreed.their_bits)
        payload = (stream.compress(message) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]
        pieces = [payload[i : i + step] for i in range(0, len(payload), step)]
        made = b"".join(inflater.inflate(piece, 1 << 20, last=False) for piece in pieces)
        assert made + inflater.inflate(b"", 1 << 20, last=True) == message


def test_a_block_that_says_it_is_the_last() -> None:
    """RFC 7692, section 7.2.3.4, and what comes behind it."""
    inflater = Inflater(agreement())
    assert inflater.inflate(b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", 99, last=True) == b"Hello"
    assert inflater.inflate(b"\xf2\x48\xcd\xc9\xc9\x07\x00", 99, last=True) == b"Hello"


def test_too_many_of_them() -> None:
    with pytest.raises(Violation) as violation:
        Inflater(agreement()).inflate(b"\x03\x00" * 100_000, 99, last=False)
    assert violation.value.code == Code.INVALID_DATA


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x06", b"hello"])
def test_what_is_not_deflate(garbage: bytes) -> None:
    inflater = Inflater(agreement())
    with pytest.raises(Violation) as violation:
        inflater.inflate(garbage, 1000, last=True)
    assert violation.value.code == Code.INVALID_DATA


@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1001, False)])
def test_the_limit_is_exact(size: int, fits: bool) -> None:
    stream = zlib.compressobj(wbits=-15)
    payload = (stream.compress(b"x" * size) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]
    inflater = Inflater(agreement())
    if fits:
        assert len(inflater.inflate(payload, 1000, last=True)) == size
        return
    with pytest.raises(Violation) as violation:
        inflater.inflate(payload, 1000, last=True)
    assert violation.value.code == Code.TOO_BIG


def test_cve_2018_1000518() -> None:
    """A frame of 509 KB that inflates to 500 MB: Hypercorn took 586 MB and 14 s."""
    stream = zlib.compressobj(wbits=-15)
    payload = (stream.compress(bytes(1 << 20)) + stream.flush(zlib.Z_FULL_FLUSH)) * 500
    assert 400_000 < len(payload) < 600_000
    limit = 16 << 20
    inflater = Inflater(agreement())
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(Violation) as violation:
        inflater.inflate(payload, limit, last=True)
    seconds = time.process_time() - begin
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert violation.value.code == Code.TOO_BIG
    assert peak < 3 * limit
    assert seconds < 1.0
