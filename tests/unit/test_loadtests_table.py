"""What the load tests print at the end."""

import io

import pytest

from loadtests.contenders import OURS
from loadtests.progress import Progress
from loadtests.results import Run, Sample
from loadtests.rows import ADDED, CPU, P99, SCALING
from loadtests.table import amount, colour, plain, report

MACHINE = {"processor": "Some CPU", "cores": 2, "kernel": "6.18"}


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (8.04, CPU, "8.04 µs"),
        (12.84, CPU, "12.8 µs"),
        (250.4, CPU, "250 µs"),
        (2_174.0, CPU, "2.17 ms"),
        (1_500_000.0, CPU, "1.50 s"),
        (1.954, SCALING, "1.95x"),
        (23.46, ADDED, "23.5 MB"),
        (196.2, P99, "196 ms"),
    ],
)
def test_amounts_have_three_digits_and_their_unit(value, metric, text):
    assert amount(value, metric) == text


def make_run():
    run = Run(MACHINE, {"python": "3.14.8", "uvicorn": "0.54.0"}, {})
    for turn, ours, theirs in ((1, 10.0, 20.0), (2, 10.5, 22.0), (3, 10.2, 23.0)):
        run.samples.append(Sample("plain-asgi", OURS, turn, {"cpu_us": ours}))
        run.samples.append(Sample("plain-asgi", "uvicorn", turn, {"cpu_us": theirs}))
    run.samples.append(
        Sample("plain-asgi", "granian", 1, {}, {"failed": 1}, detail={"why": "no such option"})
    )
    return run


def test_the_report_has_the_machine_the_figures_and_the_goals():
    text = report(make_run())
    assert "Some CPU, 2 cores, Linux 6.18" in text
    assert "uvicorn 0.54.0" in text
    head, figures, spread = text.splitlines()[3:6]
    assert head.split() == [OURS, "uvicorn", "granian"]
    assert " ".join(figures.split()) == "plain-asgi, CPU per request 10.2 µs 22.0 µs failed"
    assert spread.split() == ["±2.9%", "±9.1%"]
    # 22.0 / 10.2; by rounds 20 / 10, 22 / 10.5, 23 / 10.2.
    (goal,) = (line for line in text.splitlines() if "best of 2" in line)
    assert " ".join(goal.split()).endswith("best of 2 2.16x 2.00-2.25 ≥ 1.6 ≥ 2.2 reached")


def test_what_went_wrong_is_told():
    text = report(make_run())
    assert "plain-asgi, granian, round 1: failed 1" in text
    assert "no such option" in text


def test_columns_line_up_whatever_the_colours():
    def bare(text, _style):
        return text

    assert report(make_run(), bare) == report(make_run(), plain)
    coloured = report(make_run(), colour)
    for code in ("\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[33m", "\x1b[36m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == report(make_run(), plain)


def test_progress_writes_a_line_per_row_where_nobody_watches():
    stream = io.StringIO()
    progress = Progress(3, stream)
    for row in ("a", "a", "b"):
        progress.begin(row, "x", 1, 1)
        progress.end()
    progress.close()
    assert stream.getvalue() == "[0/3] a\n[2/3] b\n"
