"""Which addresses are trusted."""

import pytest

from subserve.trust import Trust, parse_networks


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("127.0.0.1, ::1", "127.0.0.1,::1"),
        ("unix", "unix"),
        ("*", "*"),
        (" fd00::/8 ,unix", "fd00::/8,unix"),
    ],
)
def test_what_is_read(text: str, read: str) -> None:
    assert parse_networks(text) == read


@pytest.mark.parametrize("text", ["", "localhost", "10.0.0.0/8,", "10.0.0.256", "1.2.3.4:80", "/8"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected networks"):
        parse_networks(text)


def test_a_network_that_is_mistyped() -> None:
    with pytest.raises(ValueError, match=r"did you mean 10\.0\.0\.0/8"):
        parse_networks("10.0.0.1/8")


def test_addresses() -> None:
    trust = Trust(("10.0.0.0/8,::1", "192.0.2.7"))
    assert "10.255.0.1" in trust
    assert "::1" in trust
    assert "192.0.2.7" in trust
    assert "::ffff:10.0.0.1" in trust
    assert "11.0.0.1" not in trust
    assert "::2" not in trust
    assert "nonsense" not in trust
    assert None not in trust


def test_unix_and_everybody() -> None:
    assert None in Trust(("unix",))
    assert "127.0.0.1" not in Trust(("unix",))
    assert None in Trust(("*",))
    assert "198.51.100.1" in Trust(("*",))
    assert "127.0.0.1" not in Trust(())
