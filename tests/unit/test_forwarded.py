"""What is believed of what proxies say, and what the app gets to see of it."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve.http.forwarded import (
    READ,
    Client,
    Forwarding,
    Headers,
    Server,
    Told,
    is_about_forwarding,
)
from subserve.options import FORWARDING_HEADERS
from subserve.trust import Trust

PROXY: Client = ("127.0.0.1", 40000)
STRANGER: Client = ("203.0.113.9", 40000)
HERE: Server = ("127.0.0.1", 8000)
OWN: Headers = [(b"host", b"app.internal"), (b"accept", b"*/*")]


def tell(
    *headers: tuple[str, str],
    client: Client = PROXY,
    scheme: str = "http",
    server: Server = HERE,
    trust: tuple[str, ...] = ("127.0.0.0/8", "10.0.0.0/8", "unix"),
    believed: tuple[str, ...] = FORWARDING_HEADERS,
) -> Told:
    pairs = [(n.lower().encode(), v.encode("latin-1")) for n, v in headers]
    return Forwarding(Trust(trust), believed).read([*OWN, *pairs], client, scheme, server)


def shown(told: Told) -> dict[str, str]:
    return {n.decode(): v.decode("latin-1") for n, v in told.headers if is_about_forwarding(n)}


# ---- X-Forwarded-*


def test_one_proxy() -> None:
    told = tell(
        ("X-Forwarded-For", "203.0.113.5"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "shop.example"),
        ("X-Forwarded-Prefix", "/shop/"),
    )
    assert told.client == ("203.0.113.5", 0)
    assert told.scheme == "https"
    assert told.server == ("shop.example", 443)
    assert told.root_path == "/shop"
    assert (b"host", b"shop.example") in told.headers
    assert [name for name, _ in told.headers].count(b"host") == 1


def test_nothing_is_said() -> None:
    assert tell() == Told(PROXY, "http", HERE, None, OWN)


@pytest.mark.parametrize("name", [*FORWARDING_HEADERS, "X-Forwarded-Ssl", "x-forwarded-"])
def test_a_stranger_is_not_believed_and_the_app_sees_none_of_it(name: str) -> None:
    """waitress 3.0.2, #452: what was not trusted was left for the app to fall for."""
    told = tell((name, "for=1.2.3.4"), client=STRANGER)
    assert told == Told(STRANGER, "http", HERE, None, OWN)


@pytest.mark.parametrize(
    ("chain", "client", "seen"),
    [
        # The client has made something up; its proxy adds what it knows.
        ("6.6.6.6, 203.0.113.5", "203.0.113.5", "203.0.113.5"),
        (
            "6.6.6.6,203.0.113.5,10.0.0.1, 10.0.0.2",
            "203.0.113.5",
            "203.0.113.5, 10.0.0.1, 10.0.0.2",
        ),
        ("junk, 203.0.113.5", "203.0.113.5", "203.0.113.5"),
        # One of ours asks.
        ("10.0.0.7, 10.0.0.1", "10.0.0.7", "10.0.0.7, 10.0.0.1"),
        ("2001:db8::1", "2001:db8::1", "2001:db8::1"),
        ("[2001:DB8::1]", "2001:db8::1", "[2001:DB8::1]"),
        (",, 203.0.113.5 ,", "203.0.113.5", "203.0.113.5"),
    ],
)
def test_the_right_most_hop_that_is_not_trusted(chain: str, client: str, seen: str) -> None:
    told = tell(("X-Forwarded-For", chain))
    assert told.client == (client, 0)
    assert shown(told) == {"x-forwarded-for": seen}


def test_ports_of_clients() -> None:
    assert tell(("X-Forwarded-For", "203.0.113.5:1234")).client == ("203.0.113.5", 1234)
    assert tell(("X-Forwarded-For", "[2001:db8::1]:99")).client == ("2001:db8::1", 99)
    assert tell(("X-Forwarded-For", "203.0.113.5:99999")).client is None


@pytest.mark.parametrize("entry", ["unknown", "_hidden", "1.2.3", "fe80::1%eth0", "\xe9", "a b"])
def test_a_client_that_is_not_known_does_not_pass_for_its_proxy(entry: str) -> None:
    """An app may give its own network more rights."""
    assert tell(("X-Forwarded-For", entry)).client is None
    assert tell(("X-Forwarded-For", f"6.6.6.6, {entry}, 10.0.0.1")).client is None


def test_everybody_is_trusted() -> None:
    told = tell(("X-Forwarded-For", "6.6.6.6, 203.0.113.5"), client=STRANGER, trust=("*",))
    assert told.client == ("6.6.6.6", 0)


def test_a_proxy_on_a_unix_socket() -> None:
    server: Server = ("/run/app.sock", None)
    told = tell(
        *(("X-Forwarded-For", "203.0.113.5"), ("X-Forwarded-Port", "8443")),
        client=None,
        server=server,
    )
    assert told.client == ("203.0.113.5", 0)
    assert told.server == server, "there is no port to replace; SERVER_PORT comes from the Host"
    told = tell(("X-Forwarded-For", "203.0.113.5"), client=None, server=server, trust=("::1",))
    assert told == Told(None, "http", server, None, OWN)
    # nginx calls a client of its own unix socket so.
    assert tell(("X-Forwarded-For", "unix:")).client is None


def test_several_lines_are_one_list() -> None:
    told = tell(("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "203.0.113.5"))
    assert told.client == ("203.0.113.5", 0)


def test_what_is_said_of_the_same_hop_counts() -> None:
    chain = ("X-Forwarded-For", "6.6.6.6, 203.0.113.5, 10.0.0.1")
    told = tell(chain, ("X-Forwarded-Proto", "http, https, http"))
    assert told.scheme == "https"
    assert shown(told)["x-forwarded-proto"] == "https, http"
    # One for all.
    assert tell(chain, ("X-Forwarded-Proto", "https")).scheme == "https"
    # Without a chain it is the peer's word that counts.
    assert tell(("X-Forwarded-Proto", "https, http")).scheme == "http"


@pytest.mark.parametrize(
    ("scheme", "proto", "result"),
    [
        *(("http", "HTTPS", "https"), ("https", "http", "http"), ("ws", "https", "wss")),
        *(("wss", "http", "ws"), ("http", "wss", "https"), ("ws", "ws", "ws")),
        *(("http", "ftp", "http"), ("http", "", "http"), ("http", "https\x01", "http")),
    ],
)
def test_schemes(scheme: str, proto: str, result: str) -> None:
    assert tell(("X-Forwarded-Proto", proto), scheme=scheme).scheme == result


@pytest.mark.parametrize(
    ("host", "port", "proto", "server"),
    [
        ("shop.example", None, "https", ("shop.example", 443)),
        ("shop.example", None, "http", ("shop.example", 80)),
        ("shop.example:8443", None, "https", ("shop.example", 8443)),
        ("shop.example", "8443", "https", ("shop.example", 8443)),
        ("shop.example:1", "8443", "https", ("shop.example", 8443)),
        ("[2001:db8::1]:81", None, "http", ("2001:db8::1", 81)),
        (None, "8443", "https", ("127.0.0.1", 8443)),
        (None, "99999", "https", HERE),
        (None, "0", "https", HERE),
        (None, "-1", "https", HERE),
    ],
)
def test_where_the_client_has_asked(
    host: str | None, port: str | None, proto: str, server: Server
) -> None:
    values = {"X-Forwarded-Host": host, "X-Forwarded-Port": port, "X-Forwarded-Proto": proto}
    told = tell(*((name, value) for name, value in values.items() if value is not None))
    assert told.server == server
    assert (b"host", (host or "app.internal").encode()) in told.headers


@pytest.mark.parametrize(
    "host", ["a/b", "a b", "a@b", "a?b", "a:", "a:99999", "[::1", "[:::]", "\xe9", "a\x00", "a_%41"]
)
def test_a_host_that_is_none(host: str) -> None:
    told = tell(("X-Forwarded-Host", host))
    assert (told.server, told.headers) == (HERE, OWN)


@pytest.mark.parametrize(
    "prefix", ["//evil.example", "shop", "/a//b", "/a/../b", "/.", "/a?b", "/a\\b", "/a b", "/\xe9"]
)
def test_a_prefix_that_is_none(prefix: str) -> None:
    told = tell(("X-Forwarded-Prefix", prefix))
    assert (told.root_path, told.headers) == (None, OWN)


def test_no_prefix_is_one_too() -> None:
    assert tell(("X-Forwarded-Prefix", "/")).root_path == ""


def test_headers_that_the_proxy_does_not_write_are_the_clients() -> None:
    told = tell(
        ("X-Forwarded-For", "203.0.113.5"),
        ("X-Forwarded-Host", "evil.example"),
        believed=("x-forwarded-for",),
    )
    assert told.client == ("203.0.113.5", 0)
    assert told.server == HERE
    assert shown(told) == {"x-forwarded-for": "203.0.113.5"}


def test_others_of_the_kind_are_left_alone() -> None:
    """An app may know what its own proxy means by them."""
    assert shown(tell(("X-Forwarded-Server", "a"))) == {"x-forwarded-server": "a"}


# ---- Forwarded


def test_forwarded() -> None:
    told = tell(("Forwarded", 'for="[2001:db8::1]:4711";proto=https;host="shop.example:8443"'))
    assert told.client == ("2001:db8::1", 4711)
    assert told.scheme == "https"
    assert told.server == ("shop.example", 8443)
    assert (b"host", b"shop.example:8443") in told.headers


@pytest.mark.parametrize(
    ("value", "client", "seen"),
    [
        ("for=203.0.113.5", ("203.0.113.5", 0), "for=203.0.113.5"),
        ("for=6.6.6.6, For=203.0.113.5;by=_us", ("203.0.113.5", 0), "for=203.0.113.5;by=_us"),
        ("for=203.0.113.5, for=10.0.0.1", ("203.0.113.5", 0), "for=203.0.113.5, for=10.0.0.1"),
        ('for="203.0.113.5:_x"', ("203.0.113.5", 0), 'for="203.0.113.5:_x"'),
        ("for=203.0.113.5:80", ("203.0.113.5", 80), 'for="203.0.113.5:80"'),
        ("for=unknown", None, "for=unknown"),
        ("for=1.2.3.4, for=_hidden", None, "for=_hidden"),
        ("proto=https", PROXY, "proto=https"),
        ('for=1.2.3.4;x="a,b;c\\"d"', ("1.2.3.4", 0), 'for=1.2.3.4;x="a,b;c\\"d"'),
        # A client's quotation mark, in front of what its proxy has added.
        ('for=6.6.6.6;x=", for=203.0.113.5', None, None),
        ('for=6.6.6.6;x=", for="[2001:db8::1]"', None, None),
        ("for=6.6.6.6, nonsense", None, None),
        ("for=6.6.6.6;for=7.7.7.7", None, None),
        ("", None, None),
    ],
)
def test_chains_of_forwarded(value: str, client: Client, seen: str | None) -> None:
    told = tell(("Forwarded", value))
    assert told.client == client
    assert shown(told) == ({"forwarded": seen} if seen else {})


def test_proto_and_host_are_those_of_the_same_element() -> None:
    told = tell(("Forwarded", "for=203.0.113.5;proto=https, for=10.0.0.1;proto=http"))
    assert told.scheme == "https"


def test_a_proxy_that_writes_the_one_lets_the_other_through() -> None:
    told = tell(("Forwarded", "for=6.6.6.6;host=evil"), ("X-Forwarded-For", "203.0.113.5"))
    assert told.client == ("203.0.113.5", 0)
    assert told.server == HERE
    assert shown(told) == {"x-forwarded-for": "203.0.113.5"}
    told = tell(
        ("Forwarded", "for=203.0.113.5"), ("X-Forwarded-For", "6.6.6.6"), believed=("forwarded",)
    )
    assert told.client == ("203.0.113.5", 0)
    assert shown(told) == {"forwarded": "for=203.0.113.5"}


# ---- whatever is sent

ADDRESSES = st.sampled_from(
    ["203.0.113.5", "10.0.0.1", "127.0.0.1", "2001:db8::1", "[2001:db8::1]:80", "unknown", "unix:"]
)
WORDS = st.text('abc:;,="\\[]./ \t_-0129é', max_size=12) | ADDRESSES
VALUES = st.lists(WORDS | WORDS.map("for={}".format), max_size=4).map(", ".join)
NAMES = st.sampled_from([name.decode() for name in READ])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_whatever_comes_the_app_is_told_something_sound(headers: list[tuple[str, str]]) -> None:
    told = tell(*headers)
    assert told.scheme in {"http", "https"}
    if told.client is not None:
        assert told.client[0] in Trust((told.client[0],))
        assert 0 <= told.client[1] <= 65535
    assert told.server is not None
    assert told.server[1] is not None
    assert 0 < told.server[1] <= 65535
    assert told.root_path is None or "//" not in told.root_path
    for _, value in told.headers:
        assert not {0, 10, 13} & set(value)
    # What is shown says the same again, to whoever reads the left-most entry or all of them.
    again = Forwarding(Trust(("127.0.0.0/8", "10.0.0.0/8", "unix")), FORWARDING_HEADERS)
    assert again.read(told.headers, PROXY, "http", HERE).client == told.client or not shown(told)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_a_stranger_changes_nothing(headers: list[tuple[str, str]]) -> None:
    assert tell(*headers, client=STRANGER) == Told(STRANGER, "http", HERE, None, OWN)


@given(VALUES, st.sampled_from(["203.0.113.5", "2001:db8::7"]))
def test_no_client_can_hide_behind_what_it_sends(sent: str, address: str) -> None:
    """The proxy adds the address that it sees to whatever is there already."""
    told = tell(("X-Forwarded-For", f"{sent}, {address}"))
    assert told.client == (address, 0)
    assert shown(told)["x-forwarded-for"] == address
    node = f'"[{address}]"' if ":" in address else address
    told = tell(("Forwarded", f"{sent}, for={node}"))
    assert told.client in {(address, 0), None}, "a quotation mark may hide it, but none is made up"


def test_long_lists_are_read_in_no_time() -> None:
    for value in ("1.2.3.4," * 4000, '"' * 32000, "for=" * 8000, "\\," * 16000, ";" * 32000):
        for name, trust in product((b"x-forwarded-for", b"forwarded"), (("*",), ("127.0.0.1",))):
            Forwarding(Trust(trust), FORWARDING_HEADERS).read(
                [(name, value.encode())], PROXY, "http", HERE
            )


def test_what_is_remembered_is_what_was_read() -> None:
    """However many clients there are, and whoever's connection it comes over."""

    def make() -> Forwarding:
        return Forwarding(Trust(("127.0.0.0/8",)), FORWARDING_HEADERS)

    remembering = make()
    headers: Headers = []
    for _ in range(2):
        for number in range(1500):
            address = f"10.{number // 250}.1.{number % 250}"
            headers = [(b"x-forwarded-for", address.encode()), (b"x-forwarded-proto", b"https")]
            told = remembering.read(headers, PROXY, "http", HERE)
            assert told == make().read(headers, PROXY, "http", HERE)
            assert told.client == (address, 0)
            assert len(remembering._known) <= 1024
    stranger = remembering.read(headers, STRANGER, "http", HERE)
    assert (stranger.client, stranger.scheme, stranger.headers) == (STRANGER, "http", [])
    before = len(remembering._known)
    remembering.read([(b"x-forwarded-for", b"1.2.3.4, " * 100)], PROXY, "http", HERE)
    assert len(remembering._known) == before
