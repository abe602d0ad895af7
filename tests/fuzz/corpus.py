"""The inputs that fuzzing begins with: a file for each target, a bytes literal a line.

They are what a reader of the RFC or of the options would try, what once was a finding, and what
fuzzing came upon by itself (``--keep``).
"""

import ast
from collections.abc import Iterable
from pathlib import Path

LARGEST_INPUT = 300
"""Bytes; a corpus is there to be read."""

FOLDER = Path(__file__).parent / "corpus"


def read(name: str) -> list[bytes]:
    """Return the inputs of a target; raise `FileNotFoundError` where it has none."""
    found = []
    for line in (FOLDER / f"{name}.txt").read_text(encoding="ascii").splitlines():
        if line and not line.startswith("#"):
            data = ast.literal_eval(line)
            assert type(data) is bytes, line
            found.append(data)
    return found


def add(name: str, inputs: Iterable[bytes]) -> None:
    """Write more inputs behind those that a target has, but for long ones."""
    with (FOLDER / f"{name}.txt").open("a", encoding="ascii") as file:
        for data in (data for data in inputs if len(data) <= LARGEST_INPUT):
            file.write(f"{data!r}\n")
