"""What may be written after ``--bind``."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.binds import BindSpec, parse_bind


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("127.0.0.1:8000", BindSpec("tcp", host="127.0.0.1", port=8000)),
        ("localhost:0", BindSpec("tcp", host="localhost", port=0)),
        (":80", BindSpec("tcp", host="", port=80)),
        ("[::1]:65535", BindSpec("tcp", host="::1", port=65535)),
        ("[fe80::1%eth0]:80", BindSpec("tcp", host="fe80::1%eth0", port=80)),
        ("unix:/run/app.sock", BindSpec("unix", path="/run/app.sock")),
        ("unix:app.sock", BindSpec("unix", path="app.sock")),
        ("unix:a:b", BindSpec("unix", path="a:b")),
        ("fd://3", BindSpec("fd", fd=3)),
    ],
)
def test_addresses(text: str, spec: BindSpec) -> None:
    assert parse_bind(text) == spec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "host:port"),
        ("8000", "host:port"),
        ("localhost", "host:port"),
        ("localhost:", "host:port"),
        ("localhost:http", "host:port"),
        ("localhost:65536", "host:port"),
        ("localhost:-1", "host:port"),
        ("localhost:٣", "host:port"),
        ("::1:80", "host:port"),
        ("[::1]80", "host:port"),
        ("[]:80", "host:port"),
        ("http://localhost:80", "host:port"),
        ("unix:", "path of 1 to 103 bytes"),
        ("unix:/" + "x" * 103, "path of 1 to 103 bytes"),
        ("unix:/" + "ü" * 52, "path of 1 to 103 bytes"),
        ("unix:/a\0b", "path of 1 to 103 bytes"),
        ("fd://", "number of an open file descriptor"),
        ("fd://-1", "number of an open file descriptor"),
        ("fd://x", "number of an open file descriptor"),
        ("fd://9999999", "number of an open file descriptor"),
    ],
)
def test_no_addresses(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_bind(text)


def test_a_path_that_is_not_utf_8() -> None:
    # Such a path comes from argv with surrogates in it, and could not be measured as UTF-8.
    path = os.fsdecode(b"/run/\xff.sock")
    assert parse_bind(f"unix:{path}").path == path


@given(st.from_regex(r"[a-z0-9.-]{0,40}", fullmatch=True), st.integers(0, 65535))
def test_host_and_port_come_back(host: str, port: int) -> None:
    assert parse_bind(f"{host}:{port}") == BindSpec("tcp", host=host, port=port)


@given(st.text() | st.text().map("unix:{}".format) | st.text().map("fd://{}".format))
def test_anything_else_is_a_value_error(text: str) -> None:
    try:
        spec = parse_bind(text)
    except ValueError as error:
        assert str(error).startswith("expected")  # noqa: PT017  some texts are addresses
    else:
        assert spec.kind in {"tcp", "unix", "fd"}
