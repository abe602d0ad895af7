"""The chart of a soak: ``python -m loadtests.charts.soak SOAK.json FOLDER``."""

import json
import sys
from pathlib import Path

from matplotlib import pyplot as plt

from loadtests.charts.style import DPI, FAINT, colour_of, set_style
from loadtests.contenders import OURS

SERIES = (
    ("pss_mb", "PSS, MB"),
    ("files", "open files"),
    ("threads", "threads"),
    ("interpreters", "interpreters"),
)


def draw(source: Path, folder: Path) -> Path:
    """Write the chart and return its file."""
    set_style()
    soak = json.loads(source.read_text())
    minutes = [sample["at"] / 60 for sample in soak["samples"]]
    canvas, grid = plt.subplots(len(SERIES), 1, figsize=(9, 7.5), sharex=True, layout="constrained")
    for axes, (key, label) in zip(grid, SERIES, strict=True):
        axes.plot(minutes, [sample[key] for sample in soak["samples"]], color=colour_of(OURS))
        for at in soak["hups"]:
            axes.axvline(at / 60, color=FAINT, linewidth=0.7, zorder=0)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
        axes.grid(axis="y")
    grid[-1].set_xlabel("minutes (a light line is a HUP)")
    done, failed = sum(soak["done"].values()), sum(soak["failures"].values())
    canvas.suptitle(f"Soak: {done} requests, {failed} failed")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "soak.png"
    canvas.savefig(path, dpi=DPI, facecolor="white")
    return path


if __name__ == "__main__":
    print(draw(Path(sys.argv[1]), Path(sys.argv[2])))
