"""Status and headers that no server may send, for the app and for the tests that ask for them."""

BAD: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "reason-crlf": ("200 OK\r\nX-Injected: 1", []),
    "reason-lf": ("200 OK\nX-Injected: 1", []),
    "reason-nul": ("200 OK\0", []),
    "value-crlf": ("200 OK", [("X-Value", "a\r\nX-Injected: 1")]),
    "value-lf": ("200 OK", [("Set-Cookie", "a\nX-Injected: 1")]),
    "value-cr": ("200 OK", [("Location", "/\rX-Injected: 1")]),
    "value-nul": ("200 OK", [("Content-Type", "text/plain\0")]),
    "name-crlf": ("200 OK", [("X-Name: a\r\nX-Injected", "1")]),
    "name-colon": ("200 OK", [("X-Injected:", "1")]),
    "name-empty": ("200 OK", [("", "X-Injected")]),
    "name-beyond-ascii": ("200 OK", [("X-\u00e9", "1")]),
}
"""What `start_response` is not to be given."""
