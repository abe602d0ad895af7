"""Write all charts of a run: ``python -m loadtests.charts RUN.json FOLDER`` prints the files."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure as Canvas

from loadtests.charts import courses, overview
from loadtests.charts.style import DPI, set_style
from loadtests.results import Run, load

CHARTS: dict[str, Callable[[Run], Canvas | None]] = {
    "goals": overview.goals,
    "costs": overview.costs,
    "others": overview.others,
    "latencies": overview.latencies,
    "spread": courses.spread,
    "life": courses.life,
    "kinds": courses.kinds,
}


def draw(run: Run, folder: Path) -> Iterator[Path]:
    """Write all charts that the run has figures for, and yield the files."""
    set_style()
    folder.mkdir(parents=True, exist_ok=True)
    for name, chart in CHARTS.items():
        canvas = chart(run)
        if canvas is not None:
            path = folder / f"{name}.png"
            canvas.savefig(path, dpi=DPI, facecolor="white")
            plt.close(canvas)
            yield path


if __name__ == "__main__":
    for file in draw(load(Path(sys.argv[1])), Path(sys.argv[2])):
        print(file)
