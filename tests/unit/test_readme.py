"""The README's tables are made from the code: they must be what the code says."""

import pytest

from subserve.options import flag_of, rows
from tools import readme


def test_the_readme_is_up_to_date() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.rendered(text) == text, "run `make readme`"


def test_every_option_has_a_row() -> None:
    table = readme.options_table()
    assert [name for name in rows() if f"`{flag_of(name)}`" not in table] == []


def test_a_missing_marker_is_an_error() -> None:
    with pytest.raises(ValueError, match="no block"):
        readme.rendered("# a README without markers")
