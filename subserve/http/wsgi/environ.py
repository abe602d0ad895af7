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

``REMOTE_PORT``, ``HTTPS`` (``on``), ``SSL_*`` (see `subserve.tls.wsgi_variables`),
``CONTENT_TYPE``, ``CONTENT_LENGTH`` and ``HTTP_*`` are there when they have a value.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_to_bytes

from subserve import __version__
from subserve.http.wsgi.files import FileWrapper
from subserve.tls import wsgi_variables

if TYPE_CHECKING:
    from wsgiref.types import InputStream, WSGIEnvironment

    from subserve.http.h1.speed import AddHeaders

_SOFTWARE = f"subserve/{__version__}"
_DEFAULT_PORTS = {"http": "80", "https": "443"}

_MAX_KEYS = 1024
_keys: dict[bytes, str] = {}
"""The variables of header names that have been met."""


def _add_none(environ: WSGIEnvironment, headers: object, keys: object) -> int:
    return 0


def build_environ(
    scope: Mapping[str, Any], body: InputStream, *, multiprocess: bool
) -> WSGIEnvironment:
    """Return the environ of a request, a plain dict that the app may change as it likes.

    `scope` is an ASGI ``http`` scope (spec version 2.0 or later); `body` becomes ``wsgi.input``.
    """
    scheme = scope.get("scheme", "http")
    server = scope.get("server")
    target = _target(scope)
    path, authority = _path_and_authority(scope["path"], target)
    environ = connection_environ(
        scheme,
        scope.get("client"),
        server,
        scope.get("http_version", "1.1"),
        multiprocess=multiprocess,
    )
    if (secured := scope.get("extensions", {}).get("tls")) is not None:
        environ |= wsgi_variables(secured)
    root_path = scope.get("root_path", "")
    query = scope.get("query_string", b"").decode("latin-1")
    headers = list(scope["headers"])
    fill(environ, scope["method"], target, path, query, root_path, headers, body)
    if authority:
        # The target's authority overrules the Host header (RFC 9112, section 3.2.2).
        environ["HTTP_HOST"] = authority
    if "SERVER_NAME" not in environ:
        environ["SERVER_NAME"], environ["SERVER_PORT"] = server_of(
            environ.get("HTTP_HOST", ""), scheme
        )
    return environ


def connection_environ(
    scheme: str,
    client: tuple[str, int] | None,
    server: tuple[str, int | None] | None,
    version: str,
    *,
    multiprocess: bool,
) -> WSGIEnvironment:
    """Return what is the same for all requests of a connection, to be copied for each of them.

    On a unix socket SERVER_NAME and SERVER_PORT depend on the request: see `server_of`.
    """
    environ: WSGIEnvironment = {
        "SERVER_PROTOCOL": f"HTTP/{version}",
        "SERVER_SOFTWARE": _SOFTWARE,
        # Apps index it without a thought, so it is there even where the peer has no address.
        "REMOTE_ADDR": client[0] if client else "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        # Not a logger: a logging handler of the app may write to this very stream.
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
    }
    if client and client[1]:  # a proxy tells the address, and seldom the port
        environ["REMOTE_PORT"] = str(client[1])
    if scheme == "https":
        environ["HTTPS"] = "on"
    if server is not None and server[1] is not None:
        environ["SERVER_NAME"], environ["SERVER_PORT"] = server[0], str(server[1])
    return environ


def fill(
    environ: WSGIEnvironment,
    method: str,
    target: str,
    path: str,
    query: str,
    root_path: str,
    headers: list[tuple[bytes, bytes]],
    body: InputStream,
    add_headers: AddHeaders = _add_none,
) -> None:
    """Add what is a request's own.

    `target` is the path as sent, `path` that with percent-encoding undone, each character a byte.
    `add_headers` adds the first headers, as far as it can, and returns how many it were.
    """
    environ["REQUEST_METHOD"] = method
    environ["SCRIPT_NAME"], environ["PATH_INFO"] = _split_root(path, root_path)
    environ["QUERY_STRING"] = query
    environ["RAW_URI"] = environ["REQUEST_URI"] = f"{target}?{query}" if query else target
    environ["wsgi.input"] = body
    added = add_headers(environ, headers, _keys)
    if added < len(headers):
        _add_headers(environ, headers[added:])
    if "HTTP_TRANSFER_ENCODING" in environ and "CONTENT_LENGTH" in environ:
        del environ["CONTENT_LENGTH"]


def body_expected(scope: Mapping[str, Any]) -> bool:
    """Tell whether a body may follow: in HTTP/1 only if a header says so (RFC 9112, 6.3)."""
    if not scope.get("http_version", "1.1").startswith("1"):
        return True
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


def _add_headers(environ: WSGIEnvironment, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Add the request's headers; the names are lower case, as ASGI has them.

    Left out are names with an underscore, because ``X_Forwarded_For`` would become the same
    variable as ``X-Forwarded-For``, which a proxy in front of us vouches for; ``Proxy``, because
    libraries take ``HTTP_PROXY`` for the proxy to use (httpoxy, CVE-2016-1000110); and a
    ``Content-Length`` that ``Transfer-Encoding`` overrules (RFC 9112, section 6.3).
    """
    for name, raw_value in headers:
        key = _keys.get(name)
        if key is None:
            key = _key_of(name)
        if not key:
            continue
        value = raw_value.decode("latin-1")
        if key in environ:
            if key in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
                continue
            # HTTP/2 clients may split the cookie header, and only that one is joined
            # with a semicolon (RFC 9113, section 8.2.3).
            value = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{value}"
        environ[key] = value


def _key_of(name: bytes) -> str:
    """Return the variable for a header, empty where there is none."""
    if name in {b"content-type", b"content-length"}:
        key = name.decode().upper().replace("-", "_")
    elif name == b"proxy" or b"_" in name:
        key = ""
    else:
        key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
    if len(_keys) < _MAX_KEYS:
        _keys[name] = key
    return key


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
    if not root_path:
        return "", path
    script_name = _as_latin1(root_path).rstrip("/")
    if not script_name:
        return "", path
    if not script_name.startswith("/"):
        script_name = f"/{script_name}"
    if path == script_name or path.startswith(f"{script_name}/"):
        return script_name, path[len(script_name) :]
    return script_name, path


def server_of(host: str, scheme: str) -> tuple[str, str]:
    """Return SERVER_NAME and SERVER_PORT from the Host header, neither of them ever empty."""
    name, separator, port = host.rpartition(":")
    if not separator or not (port.isascii() and port.isdigit()):
        # No port in it, or the colon is one of those in ``[::1]``.
        name, port = host.removesuffix(":"), _DEFAULT_PORTS.get(scheme, "80")
    return name or "localhost", port


def _as_latin1(text: str) -> str:
    """Return the UTF-8 bytes of `text` as the characters of the same numbers."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
