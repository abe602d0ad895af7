"""Write the tables of README.md that are made from the code: ``make readme``.

``python -m tools.readme --check`` writes nothing and fails where the README is out of date.
"""

import sys
from pathlib import Path

from subserve.cli import EXIT_CODES, SIGNALS
from subserve.options import GROUPS, default_text, flag_of, rows

README = Path(__file__).parents[1] / "README.md"


def options_table() -> str:
    """Return a Markdown table of all options, by group."""
    lines = ["| option | default | what it does |", "|---|---|---|"]
    for group in GROUPS:
        lines.append(f"| **{group}** | | |")
        for name, (_, row) in rows().items():
            if row.group != group:
                continue
            names = [row.short] if row.short else []
            spelled = ", ".join(f"`{flag}`" for flag in [*names, flag_of(name)])
            value = f" {row.metavar}" if row.metavar else ""
            default = default_text(name)
            shown = default if default == "none" else f"`{default}`"
            lines.append(_cells(f"{spelled}{value}", shown, row.help))
    return "\n".join(lines)


def signals_table() -> str:
    """Return a Markdown table of the signals."""
    lines = ["| signal | what it does |", "|---|---|"]
    return "\n".join([*lines, *(_cells(f"`{name}`", text) for name, text in SIGNALS)])


def exit_codes_table() -> str:
    """Return a Markdown table of the exit codes."""
    lines = ["| code | meaning |", "|---|---|"]
    return "\n".join([*lines, *(_cells(str(code), text) for code, text in EXIT_CODES)])


def _cells(*texts: str) -> str:
    return f"| {' | '.join(text.replace('|', '\\|') for text in texts)} |"


def rendered(text: str) -> str:
    """Return `text` with each block between its two markers made anew.

    Raises `ValueError` where a marker is missing.
    """
    blocks = {
        "options": options_table(),
        "signals": signals_table(),
        "exit codes": exit_codes_table(),
    }
    for name, block in blocks.items():
        begin, end = f"<!-- {name}: made by `make readme` -->\n", f"<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"README.md has no block {begin!r} ... {end!r}")
        text = f"{before}{begin}{block}\n{end}{after}"
    return text


def main() -> int:
    """Write the README, or check it; return the exit code."""
    old = README.read_text(encoding="utf-8")
    new = rendered(old)
    if "--check" not in sys.argv:
        README.write_text(new, encoding="utf-8")
    elif old != new:
        print("README.md is out of date: run `make readme`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
