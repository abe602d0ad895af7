"""Scope to environ: names, types and values."""

import io
import sys
from typing import Any

import pytest

import subserve
from subserve.http.wsgi.environ import body_expected, build_environ
from subserve.http.wsgi.files import FileWrapper
from tests.unit.wsgi_harness import Headers, http_scope


def environ_of(**changes: Any) -> dict[str, Any]:
    return build_environ(http_scope(**changes), io.BytesIO(), multiprocess=False)


def with_headers(*headers: tuple[bytes, bytes], **changes: Any) -> dict[str, Any]:
    return environ_of(headers=list(headers), **changes)


def test_a_plain_request() -> None:
    body = io.BytesIO()
    scope = http_scope(path="/a b", raw_path=b"/a%20b", query_string=b"q=%20")
    assert build_environ(scope, body, multiprocess=True) == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "q=%20",
        "RAW_URI": "/a%20b?q=%20",
        "REQUEST_URI": "/a%20b?q=%20",
        "SERVER_NAME": "192.0.2.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": f"subserve/{subserve.__version__}",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "40000",
        "HTTP_HOST": "example.com",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": body,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
    }


def test_types_are_exactly_those_of_the_pep() -> None:
    environ = with_headers((b"host", b"x"), (b"content-length", b"3"), (b"content-type", b"a/b"))
    assert type(environ) is dict
    assert {type(value) for key, value in environ.items() if "." not in key} == {str}


def test_https() -> None:
    environ = environ_of(scheme="https", http_version="2")
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTPS"] == "on"
    assert environ["SERVER_PROTOCOL"] == "HTTP/2"
    assert "HTTPS" not in environ_of()


@pytest.mark.parametrize(
    ("path", "raw_path", "path_info"),
    [
        ("/é", b"/%C3%A9", "/Ã©"),
        ("/é", None, "/Ã©"),
        # Not UTF-8: the server could but put U+FFFD into the path.
        ("/\ufffd", b"/%E9", "/é"),
        ("/a/b", b"/a%2Fb", "/a/b"),
        ("/a", b"/a?q", "/a"),
        # Middleware has changed the path and left the raw one.
        ("/new", b"/old", "/new"),
        # RFC 9112, section 3.2: absolute, authority and asterisk form.
        ("http://h/a b", b"http://h/a%20b", "/a b"),
        ("http://h", b"http://h", "/"),
        ("http://h/a", None, "/a"),
        ("h:80", b"h:80", ""),
        ("*", b"*", ""),
    ],
)
def test_path_info(path: str, raw_path: bytes | None, path_info: str) -> None:
    assert environ_of(path=path, raw_path=raw_path)["PATH_INFO"] == path_info


def test_the_uri_is_given_as_it_was_sent() -> None:
    environ = environ_of(path="/é", raw_path=b"/%c3%a9", query_string=b"a=%C3%A9&b")
    assert environ["RAW_URI"] == environ["REQUEST_URI"] == "/%c3%a9?a=%C3%A9&b"
    assert environ_of(path="/é", raw_path=None)["RAW_URI"] == "/Ã©"


def test_the_authority_of_an_absolute_target_overrules_host() -> None:
    environ = environ_of(path="http://u@real:81/", raw_path=b"http://u@real:81/")
    assert environ["HTTP_HOST"] == "real:81"


@pytest.mark.parametrize(
    ("root_path", "path", "script_name", "path_info"),
    [
        ("", "/a", "", "/a"),
        ("/", "/a", "", "/a"),
        ("/root", "/root/a", "/root", "/a"),
        ("/root/", "/root/a", "/root", "/a"),
        ("root", "/root/a", "/root", "/a"),
        ("/root", "/root", "/root", ""),
        ("/root", "/root/", "/root", "/"),
        # The proxy has taken it off already.
        ("/root", "/a", "/root", "/a"),
        ("/root", "/rooted", "/root", "/rooted"),
        ("/é", "/é/a", "/Ã©", "/a"),
    ],
)
def test_script_name(root_path: str, path: str, script_name: str, path_info: str) -> None:
    environ = environ_of(root_path=root_path, path=path, raw_path=None)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


@pytest.mark.parametrize(
    ("server", "host", "scheme", "expected"),
    [
        (("::1", 8000), b"h", "http", ("::1", "8000")),
        # A unix socket, as Hypercorn and as the ASGI specification have it.
        (None, b"h:81", "http", ("h", "81")),
        (("/run/s", None), b"h", "http", ("h", "80")),
        (None, b"h", "https", ("h", "443")),
        (None, b"[::1]:81", "http", ("[::1]", "81")),
        (None, b"[::1]", "http", ("[::1]", "80")),
        (None, b"h:", "http", ("h", "80")),
        (None, b"", "http", ("localhost", "80")),
    ],
)
def test_server_name_and_port(
    server: tuple[str, int | None] | None, host: bytes, scheme: str, expected: tuple[str, str]
) -> None:
    environ = with_headers((b"host", host), server=server, scheme=scheme)
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == expected


def test_a_client_on_a_unix_socket() -> None:
    environ = with_headers(client=None, server=None)
    assert environ["REMOTE_ADDR"] == ""
    assert "REMOTE_PORT" not in environ
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("localhost", "80")


def test_headers_become_variables() -> None:
    environ = with_headers((b"x-one", b"caf\xe9"), (b"content-type", b"a/b"))
    assert environ["HTTP_X_ONE"] == "caf\xe9"
    assert environ["CONTENT_TYPE"] == "a/b"
    assert not {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH", "CONTENT_LENGTH"} & environ.keys()


def test_headers_sent_twice_are_joined() -> None:
    environ = with_headers(
        (b"accept", b"a"), (b"cookie", b"a=1"), (b"accept", b"b"), (b"cookie", b"b=2")
    )
    assert environ["HTTP_ACCEPT"] == "a,b"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"


def test_of_two_content_headers_the_first_counts() -> None:
    environ = with_headers((b"content-length", b"3"), (b"content-length", b"3"))
    assert environ["CONTENT_LENGTH"] == "3"


def test_transfer_encoding_overrules_content_length() -> None:
    environ = with_headers((b"content-length", b"3"), (b"transfer-encoding", b"chunked"))
    assert "CONTENT_LENGTH" not in environ


def test_names_that_could_pass_for_others_are_dropped() -> None:
    environ = with_headers(
        (b"x-forwarded-for", b"proxy"),
        (b"x_forwarded_for", b"forged"),
        (b"content_length", b"9"),
        (b"proxy", b"http://evil"),
    )
    assert environ["HTTP_X_FORWARDED_FOR"] == "proxy"
    assert not {"HTTP_PROXY", "HTTP_CONTENT_LENGTH", "CONTENT_LENGTH"} & environ.keys()


@pytest.mark.parametrize(
    ("version", "headers", "expected"),
    [
        ("1.1", [], False),
        ("1.0", [(b"content-length", b"0")], False),
        ("1.1", [(b"content-length", b"1")], True),
        ("1.1", [(b"transfer-encoding", b"chunked")], True),
        ("2", [], True),
    ],
)
def test_body_expected(version: str, headers: Headers, expected: bool) -> None:
    assert body_expected(http_scope(http_version=version, headers=headers)) is expected
