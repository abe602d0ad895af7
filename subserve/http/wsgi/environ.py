"""ASGI scope to WSGI environ: a pure function, but for ``wsgi.errors``, which is `sys.stderr`.

Every CGI variable is a `str` of code points up to U+00FF that stand for bytes (PEP 3333, "Unicode
Issues").  Always there:

===================  ==============================================================================
``REQUEST_METHOD``   as sent
``SCRIPT_NAME``      the root path, without a slash at its end; ``""`` where none is set
``PATH_INFO``        the path with percent-encoding undone, less the root path if it starts with it
``QUERY_STRING``     as sent
``RAW_URI``          path and query as sent; also as ``REQUEST_URI``
``SERVER_NAME``      the address the connection came in on; from the Host header (or
``SERVER_PORT``      ``localhost`` and the scheme's port) where that was a unix socket
``SERVER_PROTOCOL``  ``HTTP/1.0``, ``HTTP/1.1`` or ``HTTP/2``
``SERVER_SOFTWARE``  ``subserve/`` and its version
``REMOTE_ADDR``      the peer's address; ``""`` on a unix socket
``wsgi.*``           PEP 3333's, and ``wsgi.file_wrapper`` and ``wsgi.input_terminated``
===================  ==============================================================================

``REMOTE_PORT``, ``HTTPS`` (``on``), ``CONTENT_TYPE``, ``CONTENT_LENGTH`` and ``HTTP_*`` are there
when they have a value.
"""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_to_bytes

from subserve import __version__
from subserve.http.wsgi.files import FileWrapper

if TYPE_CHECKING:
    from wsgiref.types import InputStream, WSGIEnvironment

_SOFTWARE = f"subserve/{__version__}"
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def build_environ(
    scope: Mapping[str, Any], body: InputStream, *, multiprocess: bool
) -> WSGIEnvironment:
    """Return the environ of a request, a plain dict that the app may change as it likes.

    `scope` is an ASGI ``http`` scope (spec version 2.0 or later); `body` becomes ``wsgi.input``.
    """
    scheme = scope.get("scheme", "http")
    query = scope.get("query_string", b"").decode("latin-1")
    target = _target(scope)
    path, authority = _path_and_authority(scope["path"], target)
    script_name, path_info = _split_root(path, scope.get("root_path", ""))
    raw_uri = f"{target}?{query}" if query else target
    client = scope.get("client")

    environ: WSGIEnvironment = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": script_name,
        "PATH_INFO": path_info,
        "QUERY_STRING": query,
        "RAW_URI": raw_uri,
        "REQUEST_URI": raw_uri,
        "SERVER_PROTOCOL": f"HTTP/{scope.get('http_version', '1.1')}",
        "SERVER_SOFTWARE": _SOFTWARE,
        # Apps index it without a thought, so it is there even where the peer has no address.
        "REMOTE_ADDR": client[0] if client else "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.input": body,
        # Not a logger: a logging handler of the app may write to this very stream.
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
    }
    if client:
        environ["REMOTE_PORT"] = str(client[1])
    if scheme == "https":
        environ["HTTPS"] = "on"
    _add_headers(environ, scope["headers"])
    if authority:
        # The target's authority overrules the Host header (RFC 9112, section 3.2.2).
        environ["HTTP_HOST"] = authority
    environ["SERVER_NAME"], environ["SERVER_PORT"] = _server(
        scope.get("server"), environ.get("HTTP_HOST", ""), scheme
    )
    return environ


def body_expected(scope: Mapping[str, Any]) -> bool:
    """Tell whether a body may follow: in HTTP/1 only if a header says so (RFC 9112, 6.3)."""
    if not scope.get("http_version", "1.1").startswith("1"):
        return True
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


def _add_headers(environ: WSGIEnvironment, headers: list[tuple[bytes, bytes]]) -> None:
    """Add the request's headers; the names are lower case, as ASGI has them.

    Left out are names with an underscore, because ``X_Forwarded_For`` would become the same
    variable as ``X-Forwarded-For``, which a proxy in front of us vouches for; ``Proxy``, because
    libraries take ``HTTP_PROXY`` for the proxy to use (httpoxy, CVE-2016-1000110); and a
    ``Content-Length`` that ``Transfer-Encoding`` overrules (RFC 9112, section 6.3).
    """
    chunked = any(name == b"transfer-encoding" for name, _ in headers)
    for raw_name, raw_value in headers:
        value = raw_value.decode("latin-1")
        if raw_name == b"content-type":
            environ.setdefault("CONTENT_TYPE", value)
        elif raw_name == b"content-length":
            if not chunked:
                environ.setdefault("CONTENT_LENGTH", value)
        elif raw_name != b"proxy" and b"_" not in raw_name:
            key = "HTTP_" + raw_name.decode("latin-1").upper().replace("-", "_")
            if key in environ:
                # HTTP/2 clients may split the cookie header, and only that one is joined
                # with a semicolon (RFC 9113, section 8.2.3).
                value = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{value}"
            environ[key] = value


def _target(scope: Mapping[str, Any]) -> str:
    """Return the request target without its query, as it was sent if the server tells."""
    raw_path: bytes | None = scope.get("raw_path")
    if raw_path is None:
        return _as_latin1(scope["path"])
    return raw_path.partition(b"?")[0].decode("latin-1")


def _path_and_authority(path: str, target: str) -> tuple[str, str]:
    """Return the path with percent-encoding undone, each character one byte, and the authority.

    `path` has lost the bytes that are not UTF-8, so the target is decoded anew, unless middleware
    has changed the one and not the other: then `path` is what counts.
    """
    if unquote(target) != path:
        return _split_target(_as_latin1(path))[0], ""
    encoded, authority = _split_target(target)
    return unquote_to_bytes(encoded.encode("latin-1")).decode("latin-1"), authority


def _split_target(target: str) -> tuple[str, str]:
    """Split a request target into path and authority (RFC 9112, section 3.2).

    The authority is empty but in absolute form (``http://host/path``).  ``*`` and what else does
    not name a path count as an empty path, because PATH_INFO is empty or begins with a slash.
    """
    if target.startswith("/"):
        return target, ""
    _, separator, rest = target.partition("://")
    if not separator:
        return "", ""
    authority, slash, path = rest.partition("/")
    return f"{slash}{path}" or "/", authority.rpartition("@")[2]


def _split_root(path: str, root_path: str) -> tuple[str, str]:
    """Return SCRIPT_NAME and PATH_INFO.

    A proxy may leave the root path on or take it off.  If the path does not begin with it, it was
    taken off, and the app still has to put it in front of the links it makes: SCRIPT_NAME is the
    root path in both cases, and no request is refused.
    """
    script_name = _as_latin1(root_path).rstrip("/")
    if not script_name:
        return "", path
    if not script_name.startswith("/"):
        script_name = f"/{script_name}"
    if path == script_name or path.startswith(f"{script_name}/"):
        return script_name, path[len(script_name) :]
    return script_name, path


def _server(server: tuple[str, int | None] | None, host: str, scheme: str) -> tuple[str, str]:
    """Return SERVER_NAME and SERVER_PORT, neither of them ever empty."""
    if server is not None and server[1] is not None:
        return server[0], str(server[1])
    name, separator, port = host.rpartition(":")
    if not separator or not (port.isascii() and port.isdigit()):
        # No port in it, or the colon is one of those in ``[::1]``.
        name, port = host.removesuffix(":"), _DEFAULT_PORTS.get(scheme, "80")
    return name or "localhost", port


def _as_latin1(text: str) -> str:
    """Return the UTF-8 bytes of `text` as the characters of the same numbers."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
