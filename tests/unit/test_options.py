"""The table of options: how values are read, written, and carried into another interpreter."""

import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subserve import options
from subserve.options import (
    GROUPS,
    Config,
    default_text,
    flag_of,
    parse_count,
    parse_duration,
    parse_flag,
    parse_root_path,
    parse_size,
    parse_workers,
    rows,
    value_text,
    variable_of,
)

YEAR = 365 * 24 * 3600.0

# ---- durations and sizes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30.0),
        ("0", 0.0),
        ("1.5s", 1.5),
        ("200ms", 0.2),
        ("2m", 120.0),
        ("1h", 3600.0),
        (" 2 m ", 120.0),
        ("8760h", YEAR),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "+1", "1e3", "1_0", ".5", "1.", "1d", "1 0", "inf", "nan", "٣", "1,5"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 30"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["8761h", "99999999999", "9" * 400, "9" * 5000])
def test_durations_that_would_overflow_in_a_selector(text: str) -> None:
    # `--graceful-timeout 1000h` was accepted, and ended the coordinator with an OverflowError when
    # it drained: epoll_wait(2) counts milliseconds in an int.
    with pytest.raises(ValueError, match="at most 8760h"):
        parse_duration(text)


@given(st.floats(0.0, YEAR))
def test_a_duration_is_read_as_it_was_written(seconds: float) -> None:
    # `graceful-timeout = 1234567.5` in a file became "1.23457e+06", which no duration looks like.
    assert parse_duration(value_text(seconds)) == pytest.approx(seconds, abs=1e-6)


@given(
    st.integers(1, 10**6), st.sampled_from(["", "k", "M", "g"]), st.sampled_from(["", "B", "ib"])
)
def test_sizes_are_powers_of_1024(number: int, unit: str, suffix: str) -> None:
    exponent = ["", "k", "m", "g"].index(unit.lower())
    assert parse_size(f"{number}{unit}{suffix}") == number * 1024**exponent


@pytest.mark.parametrize("text", ["", "0", "0k", "-1", "1.5k", "k", "1kk", "1t", "٣", "9" * 5000])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size such as 65536, 64k or 16MiB"):
        parse_size(text)


# ---- counts, flags, paths


@pytest.mark.parametrize(("text", "count"), [("1", 1), (" 12 ", 12), ("2147483647", 2**31 - 1)])
def test_counts(text: str, count: int) -> None:
    assert parse_count(text) == parse_workers(text) == count


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.0", "1e2", "two", "٣", "2147483648", "9" * 5000]
)
def test_no_counts(text: str) -> None:
    # listen(2) takes an int: `--backlog 2147483648` ended in an OverflowError.
    with pytest.raises(ValueError, match=r"expected a whole number of at least 1$"):
        parse_count(text)
    with pytest.raises(ValueError, match=r"expected a whole number of at least 1, or auto$"):
        parse_workers(text)


@pytest.mark.parametrize("text", ["auto", "AUTO", " auto "])
def test_auto_workers_are_counted_later(text: str) -> None:
    assert parse_workers(text) == 0


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("true", True),
        ("Yes", True),
        (" on", True),
        ("1", True),
        ("false", False),
        ("NO", False),
        ("off ", False),
        ("0", False),
    ],
)
def test_flags(text: str, flag: bool) -> None:
    assert parse_flag(text) is flag


@pytest.mark.parametrize("text", ["", "2", "y", "enabled"])
def test_no_flags(text: str) -> None:
    with pytest.raises(ValueError, match="expected true or false"):
        parse_flag(text)


@pytest.mark.parametrize(
    ("text", "path"), [("", ""), ("/", ""), ("/api", "/api"), ("/api/", "/api"), ("/a/b", "/a/b")]
)
def test_root_paths(text: str, path: str) -> None:
    assert parse_root_path(text) == path


@pytest.mark.parametrize("text", ["api", "http://x/api", "/a?b", "/a#b", "/a\r\nX: y", "/a\0"])
def test_no_root_paths(text: str) -> None:
    with pytest.raises(ValueError, match="expected a URL path such as /api"):
        parse_root_path(text)


@given(st.text())
def test_parsers_raise_nothing_but_value_error(text: str) -> None:
    for _, row in rows().values():
        try:
            row.parse(text)
        except ValueError as error:
            assert str(error).startswith("expected")  # noqa: PT017  most texts raise, some do not


# ---- the table


def test_each_default_is_what_its_parser_makes_of_its_text() -> None:
    for name, (option, row) in rows().items():
        text = default_text(name)
        if row.default_text == "none":
            assert option.default in {"", ()}
        elif row.repeatable:
            assert tuple(map(row.parse, text.split(", "))) == option.default
        else:
            assert row.parse(text) == option.default


def test_the_choices_are_those_of_the_annotation() -> None:
    for name, annotation in typing.get_type_hints(Config).items():
        if typing.get_origin(annotation) is typing.Literal:
            row = rows()[name][1]
            assert row.metavar == "|".join(typing.get_args(annotation))
            assert [row.parse(choice) for choice in typing.get_args(annotation)]


def test_every_option_has_a_group_and_help_and_a_letter_of_its_own() -> None:
    table = [row for _, row in rows().values()]
    assert {row.group for row in table} == set(GROUPS)
    assert all(row.help.endswith(".") for row in table)
    letters = [row.short for row in table if row.short]
    assert len(letters) == len(set(letters))


def test_only_flags_take_no_value() -> None:
    assert [name for name, (_, row) in rows().items() if not row.metavar] == [
        "factory",
        "proxy_protocol",
        "no_supervisor",
        "reload",
    ]


def test_spellings() -> None:
    assert flag_of("graceful_timeout") == "--graceful-timeout"
    assert variable_of("graceful_timeout") == "SUBSERVE_GRACEFUL_TIMEOUT"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "on"),
        (False, "off"),
        (30.0, "30"),
        (0.0, "0"),
        (0.25, "0.25"),
        (100.0, "100"),
        (("a:1", "b:2"), "a:1, b:2"),
        (8, "8"),
        ("x", "x"),
    ],
)
def test_values_as_an_operator_would_write_them(value: object, text: str) -> None:
    assert value_text(value) == text


# ---- across interpreters

_BY_TYPE: dict[object, st.SearchStrategy[object]] = {
    str: st.text(),
    int: st.integers(1),
    float: st.floats(0.0, YEAR),
    bool: st.booleans(),
    tuple[str, ...]: st.lists(st.text(), max_size=3).map(tuple),
}


def _configs() -> st.SearchStrategy[Config]:
    fields = {}
    for name, annotation in typing.get_type_hints(Config).items():
        choices = typing.get_args(annotation)
        is_choice = typing.get_origin(annotation) is typing.Literal
        fields[name] = st.sampled_from(choices) if is_choice else _BY_TYPE[annotation]
    return st.fixed_dictionaries(fields).map(lambda values: Config(**values))


@given(_configs())
def test_a_config_survives_json(config: Config) -> None:
    assert Config.from_json(config.to_json()) == config


def test_from_json_refuses_what_is_no_option() -> None:
    with pytest.raises(TypeError, match="colour"):
        Config.from_json('{"colour": "red"}')


def test_a_row_that_is_not_in_the_table_has_no_default() -> None:
    with pytest.raises(KeyError):
        options.default_text("app")
