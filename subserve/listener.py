"""The one module that binds sockets."""

import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from subserve.binds import BindSpec, parse_bind
from subserve.errors import BindError

_ADVICE = {
    ("tcp", errno.EADDRINUSE): "another process listens there; stop it or choose another address",
    ("tcp", errno.EACCES): "ports below 1024 need root or CAP_NET_BIND_SERVICE",
    ("tcp", errno.EADDRNOTAVAIL): "this machine has no such address",
    ("unix", errno.EADDRINUSE): "another process listens there; stop it or choose another path",
    ("unix", errno.EACCES): "this user may not write to its directory, or to the socket there",
    ("unix", errno.ENOENT): "its directory does not exist",
    ("fd", errno.EBADF): "the parent process left no such descriptor open",
}

ACCEPTS_PER_TURN = 64
"""Bounds how long everything else waits while clients storm in.  Not measured."""

LAST_TURNS = 32
"""Bounds how many are accepted at the end; times `ACCEPTS_PER_TURN`, it is the default backlog."""

ERRORS_OF_ONE_CONNECTION = frozenset(
    {
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EPROTO,
    }
)
"""accept(2): what the network, or a firewall, has done to the connection that was next."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening, non-blocking socket.  `url` is what a user would open."""

    sock: socket.socket
    url: str
    unix_path: str | None = None
    unix_inode: int = 0

    def close(self) -> None:
        """Stop listening, and remove the unix socket's file unless another took its place.

        Idempotent: once closed, a file with this path and inode may be our successor's.
        """
        if self.sock.fileno() < 0:
            return
        self.sock.close()
        if self.unix_path is None:
            return
        try:
            if os.stat(self.unix_path).st_ino == self.unix_inode:
                os.unlink(self.unix_path)
        except FileNotFoundError:
            return
        except PermissionError:
            return  # bound as root, whom we are no more; the next server replaces it


def listen(
    binds: Sequence[str],
    *,
    backlog: int,
    tls: bool,
    umask: str = "",
    owner: tuple[int, int] | None = None,
) -> list[Listener]:
    """Listen on each bind address, in order; on all of them or on none.

    `umask` (octal) and `owner` (user and group id) are for the files of unix sockets.  Raises
    `BindError` that names the address and the cause.
    """
    with ExitStack() as undo:
        listeners = []
        for text in binds:
            spec = parse_bind(text)
            try:
                found = _listen(spec, backlog, "https" if tls else "http", umask, owner)
            except OSError as error:
                cause = error.strerror or str(error)
                advice = _ADVICE.get((spec.kind, error.errno or 0))
                hint = f" ({advice})" if advice else ""
                raise BindError(f"cannot listen on {text}: {cause}{hint}") from error
            except UnicodeError as error:  # from the codec that host names go through
                raise BindError(f"cannot listen on {text}: not a host name") from error
            for listener in found:
                undo.callback(listener.close)
            listeners += found
        undo.pop_all()
    return listeners


def with_scheme(listener: Listener, *, tls: bool) -> Listener:
    """Return the same listener with the URL that it has with TLS, or without."""
    rest = listener.url.removeprefix("https").removeprefix("http")
    return replace(listener, url=f"{'https' if tls else 'http'}{rest}")


def inherit(fd: int, url: str) -> Listener:
    """Return the listener that the supervisor has bound, and whose file it looks after."""
    os.set_inheritable(fd, False)  # a child of the app would keep the address busy
    return Listener(socket.socket(fileno=fd), url)


def _listen(
    spec: BindSpec, backlog: int, scheme: str, umask: str, owner: tuple[int, int] | None
) -> list[Listener]:
    match spec.kind:
        case "unix":
            return [_listen_unix(spec.path, backlog, scheme, umask, owner)]
        case "fd":
            return [_adopt(spec.fd, backlog, scheme)]
        case "tcp":
            return _listen_tcp(spec.host, spec.port, backlog, scheme)


def _listen_tcp(host: str, port: int, backlog: int, scheme: str) -> list[Listener]:
    """Listen on every address of `host`: ``localhost`` may well be 127.0.0.1 and ::1."""
    addresses = dict.fromkeys(
        (family, sockaddr)
        for family, _, _, _, sockaddr in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    )
    with ExitStack() as undo:
        listeners: list[Listener] = []
        refusal: OSError | None = None
        for family, address in addresses:
            sockaddr = address
            if port == 0 and listeners:  # the same free port for all families
                sockaddr = (address[0], listeners[0].sock.getsockname()[1], *address[2:])
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:  # a machine without IPv6 may still resolve to ::1
                refusal = error
                continue
            undo.callback(sock.close)
            try:
                _prepare_tcp(sock, family, sockaddr, backlog)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and len(addresses) > 1:
                    sock.close()
                    refusal = error
                    continue
                raise
            listeners.append(Listener(sock, f"{scheme}://{_authority(sock)}"))
        if not listeners:
            raise refusal or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        undo.pop_all()
    return listeners


def _prepare_tcp(sock: socket.socket, family: int, sockaddr: object, backlog: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        # [::] must not take 0.0.0.0 along: both may be given, and each is named in the banner.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(sockaddr)  # type: ignore[arg-type]
    sock.listen(backlog)
    sock.setblocking(False)


def _listen_unix(
    path: str, backlog: int, scheme: str, umask: str, owner: tuple[int, int] | None
) -> Listener:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _masked(umask):
            sock.bind(path)
        if owner is not None:
            os.chown(path, *owner)
        sock.listen(backlog)
        sock.setblocking(False)
        absolute = os.path.abspath(path)
        return Listener(sock, f"{scheme}+unix:{path}", absolute, os.stat(absolute).st_ino)
    except OSError:
        sock.close()
        raise


@contextmanager
def _masked(umask: str) -> Iterator[None]:
    if not umask:
        yield
        return
    before = os.umask(int(umask, 8))
    try:
        yield
    finally:
        os.umask(before)


def _remove_stale(path: str) -> None:
    """Remove the file of a unix socket that nobody listens on; leave anything else alone."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "a file that is not a socket is in the way")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # one whose backlog is full would keep us waiting
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody does listen
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _adopt(fd: int, backlog: int, scheme: str) -> Listener:
    """Take over a listening socket that the parent process left open, as systemd does."""
    sock = socket.socket(fileno=fd)
    try:
        sock.set_inheritable(False)
        if sock.type != socket.SOCK_STREAM:
            raise OSError(errno.EINVAL, "not a stream socket")
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    if sock.family == socket.AF_UNIX:
        return Listener(sock, f"{scheme}+unix:{sock.getsockname()}")
    return Listener(sock, f"{scheme}://{_authority(sock)}")


def _authority(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"
