"""The state machine of the h2 library, told to keep less and to leave more to us.

The library says what a frame means and whether it may come now.  It is given whole frames that
`FrameReader` has let pass.  Here is all of ours that depends on how it works inside.
"""

from typing import Any, Final, cast, override

from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, H2Connection
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream
from hpack import Encoder

from subserve.http.h2.frames import MAX_FRAME_BYTES

CONNECTION_WINDOW_BYTES: Final = 1024 * 1024
"""How much request body a client may send ahead over all streams of a connection: room for 16 whose
apps do not read (RFC 9113, section 6.9.2: each may hold 65,535 bytes)."""

DEFAULT_WINDOW_BYTES: Final = 65_535

HARD_LIMIT_FACTOR: Final = 2
"""How far beyond the limit a header list is still decoded, so that it can be answered with 431.
Further on the decoder stops, and the connection with it: its table is lost (RFC 7541)."""

STREAMS_AHEAD: Final = 128
"""How many streams more than announced may be open: until a client has read our SETTINGS it does
not know (RFC 9113, section 5.1.2).  They are refused, and the connection goes on."""

_CLOSED_STREAMS: Final = 1024
"""Of how many streams that are closed the library remembers how; its own 65,536 cost megabytes."""

_CONFIG: Final = H2Configuration(
    client_side=False,
    header_encoding=None,
    # Done in `fields` and `answers`; the library would end the whole connection.
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)

_RESIZE_TO_NOTHING: Final = b"\x20"
"""Dynamic table size update, to 0 (RFC 7541, section 6.3)."""


class _Blocks:
    """Takes the place of the library's encoder: gives out blocks that are encoded already."""

    def __init__(self) -> None:
        self.block = b""
        self._prefix = b""
        self._table_size = 4096

    @property
    def header_table_size(self) -> int:
        """How large the client lets our table be.  We have none, but have to say so."""
        return self._table_size

    @header_table_size.setter
    def header_table_size(self, size: int) -> None:
        if size < self._table_size:
            self._prefix = _RESIZE_TO_NOTHING
        self._table_size = size

    def encode(self, _headers: object) -> bytes:
        """Return the block that was left here."""
        block, self._prefix = self._prefix + self.block, b""
        return block


class _Settings(Settings):
    """Ours: announces a number of streams, and lets some more be opened."""

    @property
    @override
    def max_concurrent_streams(self) -> int:
        return super().max_concurrent_streams + STREAMS_AHEAD

    @max_concurrent_streams.setter
    def max_concurrent_streams(self, value: int) -> None:
        raise AssertionError("it does not change")


class Engine(H2Connection):
    """One connection as the library has it.  Feed it whole frames, or the preface."""

    MAX_CLOSED_STREAMS = _CLOSED_STREAMS

    def __init__(self, max_streams: int, max_header_bytes: int) -> None:
        super().__init__(_CONFIG)
        self.local_settings = _Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: max_streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: max_header_bytes,
                SettingCodes.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
            },
        )
        self.decoder.max_header_list_size = HARD_LIMIT_FACTOR * max_header_bytes
        self._blocks = _Blocks()
        self.encoder = cast(Encoder, self._blocks)

    def begin(self) -> None:
        """Say what we have to say first."""
        self.initiate_connection()
        self.increment_flow_control_window(CONNECTION_WINDOW_BYTES - DEFAULT_WINDOW_BYTES)

    def begin_upgraded(self, settings: bytes) -> None:
        """Do the same where stream 1 was a request in HTTP/1.1, with `settings` in it.

        Raises the library's `ProtocolError` for a setting that has a value it may not have.
        """
        self.initiate_upgrade_connection(settings)
        self.increment_flow_control_window(CONNECTION_WINDOW_BYTES - DEFAULT_WINDOW_BYTES)

    def send_block(self, stream: int, block: bytes, *, informational: bool, end: bool) -> None:
        """Send an HPACK block: a head, or trailers, which have `end`."""
        self._blocks.block = block
        # Of the headers the library looks at nothing else.
        self.send_headers(stream, _INFORMATIONAL if informational else _FINAL, end_stream=end)

    def resets_in(self, data: bytes) -> int:
        """Count the RST_STREAM frames in what the library has written by itself."""
        count, at = 0, 0
        while at < len(data):
            count += data[at + 3] == 3
            at += 9 + int.from_bytes(data[at : at + 3])
        return count

    @override
    def _begin_new_stream(self, stream_id: int, allowed_ids: AllowedStreamIDs) -> H2Stream:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        # A body that is not as long as announced is the stream's error, not the connection's (RFC
        # 9113, section 8.1.1): `Stream` looks.
        stream._initialize_content_length = _ignore  # type: ignore[assignment, method-assign]
        stream._track_content_length = _ignore  # type: ignore[assignment, method-assign]
        return stream


def _ignore(*_arguments: Any) -> None:
    """Do nothing."""


_INFORMATIONAL: Final = [(b":status", b"103")]
_FINAL: Final = [(b":status", b"200")]
