"""What the tests of the accelerator share: its two functions, and names and values of headers.

They are skipped where it cannot be compiled, and only there.
"""

import pytest
from hypothesis import strategies as st

from tools.hatch_build import CannotCompile, find_tools

try:
    from subserve.http.h1 import _accelerator
except ImportError:
    try:
        find_tools()
    except CannotCompile as reason:
        pytest.skip(f"there is no accelerator: {reason}", allow_module_level=True)
    raise

parse_head = _accelerator.parse_head
send_now = _accelerator.send_now
whole_response = _accelerator.whole_response

NAMES = st.sampled_from(
    [
        b"X",
        b"Accept",
        b"Sec-Fetch-Mode",
        b"x-y-z",
        b"Cookie",
        b"Te",
        b"Upgrade",
        b"Forwarded",
        b"X-Forwarded-For",
    ]
)
NAMES |= st.text("abcXYZ-_.019~", min_size=1, max_size=70).map(str.encode)
VALUES = st.binary(max_size=30) | st.text(" \tabc,;=/\x80\xff", max_size=40).map(
    lambda text: text.encode("latin-1")
)

REMARKABLE = {
    *(b"host", b"content-length", b"content-type", b"transfer-encoding", b"connection", b"te"),
    *(b"expect", b"upgrade", b"keep-alive", b"proxy-connection", b"date"),
}
ORDINARY_NAMES = (
    st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=30)
    .map(str.encode)
    .filter(lambda name: name not in REMARKABLE)
)
TEXTS = st.text([chr(c) for c in [*range(0x21, 0x7F), *range(0x80, 0x100)]], min_size=1, max_size=9)
