"""What can go wrong between a WSGI app and the server, named after whoever has to act."""

from subserve.errors import SubserveError


class WsgiViolation(SubserveError):
    """The app's author has to mend something that PEP 3333 forbids; the message says what."""


class AppAborted(SubserveError):
    """The app raised something that would end a thread or a loop, such as `SystemExit`.

    It stands in for the original, which is its ``__cause__``, so that the request fails and
    nothing else does.
    """


class ClientDisconnected(ConnectionResetError):
    """The request is gone: the client left, or the server gave the request up.

    Raised in the app's thread by ``wsgi.input``, by ``write()``, and while the server sends what
    the app yields.  An `OSError`, because that is what frameworks expect from a broken stream.
    """


def is_disconnect(error: BaseException) -> bool:
    """Tell whether `error` is a `ClientDisconnected`, or was raised while one was handled.

    Frameworks translate it (Django's ``UnreadablePostError``), so the chain is followed as
    tracebacks show it: ``__cause__`` first, and ``__context__`` unless it was suppressed.
    """
    seen: set[int] = set()  # a chain that somebody tied into a ring must not hold us here
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if isinstance(link, ClientDisconnected):
            return True
        seen.add(id(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return False
