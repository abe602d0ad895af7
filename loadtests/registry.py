"""All rows there are, by name."""

from loadtests import goals, scenarios

ROWS = {row.name: row for row in (*goals.ROWS, *scenarios.ROWS)}

GROUPS = tuple(dict.fromkeys(row.group for row in ROWS.values()))
