"""Compression."""

import typing

type Json = typing.Any


def use_zstandard() -> Json:
    """Compresses and decompresses, whole, in pieces and with a dictionary."""
    import zstandard

    packed = zstandard.ZstdCompressor(level=5).compress(b"text " * 1000)
    pieces = zstandard.ZstdDecompressor().decompressobj()
    found = b"".join(pieces.decompress(packed[n : n + 5]) for n in range(0, len(packed), 5))
    try:
        zstandard.ZstdDecompressor().decompress(b"nonsense")
    except zstandard.ZstdError as error:
        return [len(found), type(error).__name__, zstandard.backend]


def use_brotli() -> Json:
    """Compresses and decompresses; refuses."""
    import brotli

    packed = brotli.compress(b"text " * 1000)
    try:
        brotli.decompress(b"nonsense")
    except brotli.error as error:
        return [len(packed), len(brotli.decompress(packed)), str(error)[:20]]


def use_lz4() -> Json:
    """Compresses and decompresses frames."""
    import lz4.frame

    return len(lz4.frame.decompress(lz4.frame.compress(b"text " * 1000)))


def use_cramjam() -> Json:
    """Compresses and decompresses with several algorithms."""
    import cramjam

    kinds = (cramjam.snappy, cramjam.brotli, cramjam.gzip, cramjam.zstd)
    return [len(bytes(k.decompress(bytes(k.compress(b"text " * 500))))) for k in kinds]


def use_python_snappy() -> Json:
    """Compresses and decompresses a stream."""
    import snappy

    packed = snappy.StreamCompressor().add_chunk(b"text " * 1000)
    return len(snappy.StreamDecompressor().decompress(packed))
