"""The load tests' arithmetic and readers: wrk, /proc, medians, goals, the open loop."""

import json
import os
import time

import pytest

from loadtests import (
    economics,
    economics_host,
    figures,
    h2load,
    measure,
    openloop,
    processes,
    soak,
    websocket_client,
    wrk,
)
from loadtests.bench import Bench, Outcome, Window, choose_cores
from loadtests.contenders import CONTENDERS, OURS, Floor, Launch
from loadtests.environment import ROOT
from loadtests.measure import contenders_of, named_by_goals
from loadtests.plans import Economics, Load
from loadtests.registry import ROWS
from loadtests.results import NotARun, Run, Sample, load, missing
from loadtests.rows import CPU, SCALING, Goal
from loadtests.server import ServerFailed
from loadtests.spread import busiest
from loadtests.tools import ToolFailed

WRK = """Running 1s test @ http://127.0.0.1:8000
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   530.00us   90.00us   3.10ms   95.00%
  60111 requests in 1.00s, 8.1MB read
  Socket errors: connect 0, read 2, write 0, timeout 0

loadtests {"requests": 60111, "seconds": 1.001200, "bytes": 8495000, "p50_us": 528.0, \
"p90_us": 541.0, "p99_us": 601.0, "max_us": 3100.0, "connect": 0, "read": 2, "write": 0, \
"timeout": 0, "status": 7}
"""

STAT = (
    "812 (a (b) c) S 40 812 811 0 -1 4194560 1105 22 0 0 150 50 7 3 20 0 5 0 100 1000000 2500 "
    "18446744073709551615 1 1 0 0 0 0 0 16781312 17642 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)


def sample(contender, turn, value, key="cpu_us", errors=None):
    return Sample("plain-asgi", contender, turn, {key: value}, errors or {})


# --- wrk


def test_reports_of_wrk_are_read_with_their_errors():
    report = wrk.parse(WRK)
    assert report.requests == 60111
    assert report.seconds == 1.0012
    assert report.errors == {"read": 2, "status": 7}
    assert report.values["p99_us"] == 601


def test_output_without_a_report_is_an_error():
    with pytest.raises(ToolFailed, match="did not report"):
        wrk.parse("unable to connect to 127.0.0.1:8000 Connection refused\n")


def test_the_command_line_of_wrk_takes_whole_seconds_and_the_script_has_its_arguments():
    argv = wrk.command("http://x/", 0.2, 32, "post.lua", ("size", "10"), ("Connection: close",))
    assert "-d1s" in argv
    assert "--header=Connection: close" in argv
    assert argv[-4:] == ["http://x/", "--", "size", "10"]


# --- h2load

H2LOAD = """finished in 2.00s, 20719.50 req/s, 1.15MB/s
requests: 41439 total, 41567 started, 41439 done, 41400 succeeded, 39 failed, 0 errored, 2 timeout
status codes: 41400 2xx, 0 3xx, 30 4xx, 9 5xx
traffic: 2.30MB (2412345) total, 363.70KB (372435) headers (space savings 95.26%), 526.07KB data
"""


def test_reports_of_h2load_are_read_with_their_errors():
    report = h2load.parse(H2LOAD)
    assert (report.requests, report.seconds, report.bytes) == (41400, 2.0, 2412345)
    assert report.errors == {"failed": 39, "timeout": 2, "status": 39}
    assert h2load.parse(H2LOAD.replace("2.00s", "900.00ms")).seconds == pytest.approx(0.9)
    with pytest.raises(ToolFailed):
        h2load.parse("the connection was refused")


# --- WebSocket


def test_frames_of_a_client_are_masked():
    frame = websocket_client.client_frame(b"hello")
    assert frame[:2] == b"\x81\x85"
    mask, masked = frame[2:6], frame[6:]
    assert bytes(a ^ b for a, b in zip(masked, mask * 2, strict=False)) == b"hello"


# --- /proc


def test_stat_is_read_though_the_name_holds_parentheses_and_spaces():
    stat = processes.parse_stat(STAT)
    ticks = processes.TICKS_PER_SECOND
    assert (stat.pid, stat.parent, stat.session) == (812, 40, 811)
    assert (stat.own, stat.reaped) == (200 / ticks, 10 / ticks)


def test_pss_is_read_in_bytes_and_a_process_without_memory_has_none():
    assert processes.parse_pss("Rss:  900 kB\nPss:   512 kB\nPss_Dirty: 1 kB\n") == 512 * 1024
    assert processes.parse_pss("") == 0


def test_a_family_is_all_that_descends_and_nothing_else():
    def stat(pid, parent):
        return processes.Stat(pid, parent, 1, 0.0, 0.0)

    stats = {s.pid: s for s in (stat(1, 0), stat(5, 1), stat(9, 5), stat(7, 9), stat(6, 1))}
    assert processes.family(stats, 5) == [5, 9, 7]
    assert processes.family(stats, 4) == []


def test_stolen_time_is_that_of_the_cores_asked_for():
    text = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 1 1 3 2 1 1 30 0 0\ncpu1 1 1 1 5 0 1 1 50 0 0\n"
    ticks = processes.TICKS_PER_SECOND
    assert processes.parse_steal(text, [0]) == 30 / ticks
    assert processes.parse_steal(text + "intr 1 2 3\n", [0, 1]) == 80 / ticks


def test_busy_time_is_all_but_idling():
    text = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu1 10 20 30 4000 500 1 2 50 0 0\n"
    assert processes.parse_busy(text, 1) == 63 / processes.TICKS_PER_SECOND
    assert processes.parse_busy(text, 0) == 0


def test_the_busiest_worker_is_told_in_fair_shares():
    assert busiest({"a": 2, "b": 2, "c": 2, "d": 2}, 4) == 1
    assert busiest({"a": 8}, 4) == 4
    assert busiest({}, 4) == 0


def test_others_are_all_but_ours():
    stats = {pid: processes.Stat(pid, 0, pid, 1.0, 0.5) for pid in (1, 2, 3)}
    assert processes.other_seconds(stats, [2, 9]) == 3.0


def test_a_window_tells_the_server_from_others():
    with Window(os.getpid()) as window:
        begin = time.process_time()
        while time.process_time() < begin + 0.05:
            pass
    # This process is the server here.
    assert window.server == pytest.approx(0.05, abs=0.03)
    assert window.seconds >= 0.05
    assert set(window.values) == {"cpu_share", "others_share"}


# --- taking samples again


def test_a_disturbed_sample_is_taken_again_and_the_quietest_kept(monkeypatch):
    shares = iter([0.5, 0.2, 0.3, 0.01])

    def fake(*_):
        return Outcome({"cpu_us": 1.0, "others_share": next(shares)})

    monkeypatch.setattr(measure, "_measure", fake)
    bench = Bench(ROOT, choose_cores(sorted(os.sched_getaffinity(0)) * 2), 1.0)
    sample = measure.take(ROWS["plain-asgi"], OURS, 1, bench)
    assert sample.others == 0.2
    assert sample.disturbed
    assert sample.detail["attempts"] == 3
    sample = measure.take(ROWS["plain-asgi"], OURS, 1, bench)
    assert not sample.disturbed
    assert sample.detail["attempts"] == 1


def test_a_server_that_fails_is_a_sample_with_an_error(monkeypatch):
    def fake(*_):
        raise ServerFailed("it does not start")

    monkeypatch.setattr(measure, "_measure", fake)
    bench = Bench(ROOT, choose_cores(sorted(os.sched_getaffinity(0)) * 2), 1.0)
    sample = measure.take(ROWS["plain-asgi"], OURS, 1, bench)
    assert sample.errors == {"failed": 1}
    assert sample.detail["why"] == "it does not start"


# --- figures and goals


def test_a_figure_is_the_median_with_the_extremes_and_counts_errors():
    found = figures.figure(
        [sample("x", 1, 10.0), sample("x", 2, 12.0, errors={"read": 3}), sample("x", 3, 11.0)], CPU
    )
    assert found == figures.Figure(11.0, 10.0, 12.0, 3, 3)
    assert found.spread == pytest.approx(1 / 11)


def test_there_is_no_figure_of_samples_that_failed():
    assert figures.figure([Sample("r", "x", 1, {}, {"failed": 1})], CPU) is None


def test_times_is_the_better_rival_divided_by_ours():
    goal = Goal("times", ("uvicorn", "granian"), 1.6, 2.2)
    samples = {
        OURS: [sample(OURS, 1, 10.0), sample(OURS, 2, 12.0), sample(OURS, 3, 11.0)],
        "uvicorn": [sample("uvicorn", n, v) for n, v in ((1, 20.0), (2, 21.6), (3, 23.1))],
        "granian": [sample("granian", 1, 30.0)],
        "waitress": [sample("waitress", 1, 1.0)],
    }
    found = figures.verdict(goal, CPU, samples)
    assert found.rival == "uvicorn"
    assert found.ratio == pytest.approx(21.6 / 11)
    # By rounds: 20 / 10, 21.6 / 12, 23.1 / 11.
    assert (found.low, found.high) == (pytest.approx(1.8), pytest.approx(2.1))
    assert found.reached == "goal"


def test_where_more_is_better_ours_is_divided_by_the_rival():
    goal = Goal("times", ("uvicorn",), 1.0)
    samples = {
        OURS: [sample(OURS, 1, 1.9, "scaling")],
        "uvicorn": [sample("uvicorn", 1, 1.0, "scaling")],
    }
    assert figures.verdict(goal, SCALING, samples).ratio == pytest.approx(1.9)


@pytest.mark.parametrize(
    ("goal", "ratio", "reached"),
    [
        (Goal("times", (), 1.6, 2.2), 2.2, "aim"),
        (Goal("times", (), 1.6, 2.2), 1.6, "goal"),
        (Goal("times", (), 1.6, 2.2), 1.59, "missed"),
        (Goal("times", (), 6.0), 100.0, "goal"),
        (Goal("share", (), 1.8, 1.4), 1.4, "aim"),
        (Goal("share", (), 1.8, 1.4), 1.8, "goal"),
        (Goal("share", (), 1.8, 1.4), 1.81, "missed"),
        (Goal("value", (), 1.85, 1.95), 1.9, "goal"),
    ],
)
def test_goals_are_judged_at_their_limits(goal, ratio, reached):
    assert figures.judge(goal, ratio) == reached


def test_no_verdict_without_ours_or_without_a_rival():
    goal = Goal("times", ("uvicorn",), 1.0)
    assert figures.verdict(goal, CPU, {"uvicorn": [sample("uvicorn", 1, 1.0)]}) is None
    assert figures.verdict(goal, CPU, {OURS: [sample(OURS, 1, 1.0)]}) is None


# --- the open loop


def test_arrivals_are_the_same_for_the_same_seed_and_have_the_rate_and_the_share():
    arrivals = openloop.schedule(50.0, 100.0, 0.1, "/slow", "/fast", seed=3)
    assert arrivals == openloop.schedule(50.0, 100.0, 0.1, "/slow", "/fast", seed=3)
    assert arrivals != openloop.schedule(50.0, 100.0, 0.1, "/slow", "/fast", seed=4)
    assert len(arrivals) == pytest.approx(5000, rel=0.1)
    slow = sum(arrival.path == "/slow" for arrival in arrivals)
    assert slow / len(arrivals) == pytest.approx(0.1, rel=0.2)
    times = [arrival.at for arrival in arrivals]
    assert times == sorted(times)
    assert times[-1] < 100


def test_percentiles_are_values_that_occurred():
    values = [float(n) for n in range(200, 0, -1)]
    assert openloop.percentile(values, 0.99) == 198
    assert openloop.percentile(values, 0.5) == 100
    assert openloop.percentile([7.0], 0.99) == 7
    assert openloop.percentile([], 0.99) == 0


# --- rows, contenders, results


def test_goals_name_contenders_that_take_part_in_their_row():
    for row in filter(lambda row: row.goals, ROWS.values()):
        assert named_by_goals(row) <= set(contenders_of(row)), row.name


def test_what_the_rows_serve_is_there():
    for row in ROWS.values():
        if not hasattr(row.plan, "app"):
            continue
        module, _, attribute = row.plan.app.partition(":")
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
        assert f"def {attribute}(" in source or f"\n{attribute} = " in source, row.name
        if isinstance(row.plan, Load):
            assert (wrk.SCRIPTS / row.plan.script).exists()


def test_commands_name_app_and_port_and_no_option_twice():
    for contender in CONTENDERS.values():
        for interface in contender.interfaces:
            launch = Launch("module:app", interface, 8123, workers=2, floor=Floor())
            argv = contender.command(ROOT / "bin", launch)
            assert any("8123" in word for word in argv), contender.name
            assert "module:app" in argv or contender.name == "floor"
            options = [word.partition("=")[0] for word in argv if word.startswith("--")]
            assert len(options) == len(set(options)), contender.name


def test_a_run_is_read_as_it_was_written_and_knows_what_is_missing(tmp_path):
    run = Run({"cores": 2}, {"python": "3.14.8"}, {"rounds": 2})
    run.samples.append(sample(OURS, 1, 10.0))
    path = tmp_path / "results" / "run.json"
    run.save(path)
    assert load(path) == run
    wanted = [("plain-asgi", OURS, 1), ("plain-asgi", OURS, 2)]
    assert missing(wanted, run) == wanted[1:]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 0}', '{"format": 1, "samples": [{"x": 1}]}']
)
def test_what_is_not_a_run_is_refused(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(NotARun):
        load(path)


def test_the_order_that_is_posted_is_json():
    order = json.loads((ROOT / "loadtests/apps/order.json").read_text())
    assert order["items"]


def test_each_load_of_the_kinds_can_be_imported_by_name():
    for row in ROWS.values():
        if isinstance(row.plan, Economics):
            assert row.plan.load in economics_host.LOADS
    assert set(economics.KINDS) == set(economics_host.KINDS)


def test_two_cores_are_needed():
    assert choose_cores([0, 1, 2, 3]).load == 3
    assert choose_cores([2, 5]).two == (2, 5)
    with pytest.raises(ValueError, match="two cores"):
        choose_cores([0])


# --- the soak


def test_low_points_leave_out_the_times_when_two_processes_live():
    samples = [{"at": at, "pss_mb": 300.0 if at % 60 == 0 else 150.0} for at in range(0, 180, 5)]
    assert soak.low_points(samples, "pss_mb") == [150.0, 150.0, 150.0]


def test_growth_is_seen_behind_the_first_quarter():
    assert soak.grown([100, 150, 151, 152, 150, 151, 150, 152], 0.1, 8) is None
    assert soak.grown([100, 110, 120, 130, 140, 150, 160, 170], 0.1, 8) == (125, 165)
    assert soak.grown([100, 200], 0.1, 8) is None  # too short to say


def test_a_soak_with_failed_requests_is_not_passed():
    seen = soak.Soak(1.0, "")
    seen.failures["echo"] += 2
    assert soak.judge(seen) == ["2 of kind echo failed"]
