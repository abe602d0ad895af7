"""What other parsers make of the same bytes."""

from dataclasses import dataclass

import h11
import httptools

from subserve.options import Config


@dataclass(frozen=True)
class Parsed:
    """One request, as far as it is complete."""

    method: str
    target: bytes
    version: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether nothing comes behind it."""
        options = {
            option.strip(b" \t").lower()
            for name, value in self.headers
            if name == b"connection"
            for option in value.split(b",")
        }
        return b"close" in options or (self.version == "1.0" and b"keep-alive" not in options)


@dataclass(frozen=True)
class Reading:
    """The complete requests, and whether what follows them is an error, or not for this parser."""

    requests: list[Parsed]
    refused: bool
    upgraded: bool = False


def read_with_h11(data: bytes) -> Reading:
    """Read `data` with h11, a connection for each request: whether it persists is not its matter.

    It closes after each request in HTTP/1.0, whether or not the client asks it not to.
    """
    requests: list[Parsed] = []
    while data:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=Config().max_header_bytes)
        connection.receive_data(data)
        body = b""
        request: h11.Request | None = None
        try:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                else:
                    return Reading(requests, refused=False)
        except h11.RemoteProtocolError:
            return Reading(requests, refused=True)
        assert request is not None
        parsed = Parsed(
            request.method.decode(),
            request.target,
            request.http_version.decode(),
            tuple((bytes(name), bytes(value)) for name, value in request.headers),
            body,
        )
        requests.append(parsed)
        if parsed.closes:
            break
        data = connection.trailing_data[0]
    return Reading(requests, refused=False)


class _Collector:
    """Takes httptools' callbacks."""

    def __init__(self) -> None:
        self.parser: httptools.HttpRequestParser
        self.requests: list[Parsed] = []

    def on_message_begin(self) -> None:
        self.target = self.body = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        method, version = self.parser.get_method().decode(), self.parser.get_http_version()
        self.requests.append(Parsed(method, self.target, version, tuple(self.headers), self.body))


def read_with_httptools(data: bytes) -> Reading:
    """Parse `data` with llhttp, which names the trailers with the headers."""
    collector = _Collector()
    collector.parser = httptools.HttpRequestParser(collector)
    try:
        collector.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        # Whatever the upgrade is to, the body is left to somebody else.
        return Reading(collector.requests[:-1], refused=False, upgraded=True)
    except httptools.HttpParserError:
        return Reading(collector.requests, refused=True)
    return Reading(collector.requests, refused=False)
