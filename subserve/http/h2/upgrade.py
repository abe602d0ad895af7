"""HTTP/2 that begins as a request in HTTP/1.1 with ``Upgrade: h2c`` (RFC 7540, section 3.2).

Pure.  RFC 9113 has dropped it; some clients still ask.
"""

import base64
import binascii
from typing import Final

from subserve.http.h1.head import (
    BAD_REQUEST,
    Refused,
    find_end,
    parse_fields,
    parse_request_line,
    parse_target,
)
from subserve.http.h2.fields import Head
from subserve.http.h2.frames import known_settings

SWITCHING: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n"
)

_SETTING_BYTES: Final = 6

_ABOUT_THE_UPGRADE: Final = frozenset({b"connection", b"http2-settings", b"keep-alive", b"upgrade"})


def parse(data: bytes, max_bytes: int, max_count: int) -> tuple[Head, bytes, bytes]:
    """Return the request that `data` begins with, its settings in base64, and what follows it.

    The request is complete and has no body: the HTTP/1.1 lane has seen to that.  Raises `Refused`.
    """
    end = find_end(data, 0, max_bytes)
    line_end = data.find(b"\r\n")
    method, target, _ = parse_request_line(data[:line_end])
    fields = parse_fields(data[line_end + 2 : end - 2], max_count)
    path, raw_path, query, authority = parse_target(method, target)
    if authority is not None and authority != fields.host:
        fields = fields.with_host(authority)
    settings = [value for name, value in fields.headers if name == b"http2-settings"]
    if len(settings) != 1:
        raise Refused(BAD_REQUEST, "not one HTTP2-Settings")
    headers = [pair for pair in fields.headers if pair[0] not in _ABOUT_THE_UPGRADE]
    head = Head(method, path, raw_path, query, headers, -1, expect_continue=False, trailers=False)
    return head, _settings(settings[0]), data[end:]


def _settings(text: bytes) -> bytes:
    """Return settings without those that are unknown."""
    try:
        payload = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise Refused(BAD_REQUEST, "HTTP2-Settings that are no base64") from None
    if len(payload) % _SETTING_BYTES:
        raise Refused(BAD_REQUEST, "HTTP2-Settings that are none")
    return base64.urlsafe_b64encode(known_settings(payload))
