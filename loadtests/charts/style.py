"""How the charts look: one colour per contender, everywhere."""

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from loadtests.contenders import OURS

INK = "#1f2933"
FAINT = "#c3ccd5"
OURS_COLOUR = "#0f7b8a"
PEER_COLOURS = {
    "subserve+uvloop": "#5fb3bf",
    "floor": "#9aa5b1",
    "uvicorn": "#d9822b",
    "uvicorn+zig": "#e9b17a",
    "granian": "#a0526d",
    "gunicorn": "#6b8e4e",
    "hypercorn": "#7a6bb0",
    "waitress": "#b59f3b",
    "interpreters": OURS_COLOUR,
    "threads": "#9aa5b1",
    "spawned": "#d9822b",
    "forked": "#6b8e4e",
}
DPI = 144


def colour_of(name: str) -> str:
    """Return the one colour a contender has in all charts."""
    return OURS_COLOUR if name == OURS else PEER_COLOURS.get(name, "#555555")


def set_style() -> None:
    """Set the defaults of matplotlib."""
    plt.rcParams.update(
        {
            "font.size": 9,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": FAINT,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "xtick.color": INK,
            "ytick.color": INK,
            "grid.color": "#e6eaee",
            "legend.frameon": False,
        }
    )
