"""The set-up: what it decides, without network and without changing the checkout."""

import ast
import os
import queue
import select
import sys
import threading
from pathlib import Path

import pytest

from tools.bootstrap import debian, environment, interpreters, programs, steps, uvtool
from tools.bootstrap.interpreters import Facts
from tools.bootstrap.steps import StepFailed

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "tools" / "bootstrap").glob("*.py"))

GOOD = Facts("/usr/bin/python3.14", (3, 14, 0))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_set_up_is_readable_by_python_3_6(source):
    tree = ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 6))
    # The grammar check lets these pass; both came with 3.7.
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom | ast.Import)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert imported.isdisjoint({"__future__", "dataclasses", "importlib.metadata"})


class TestChoiceOfInterpreter:
    def test_a_final_cpython_with_its_modules_does(self):
        assert interpreters.refusal(GOOD, ("3.14", "3.15")) == ""

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"version": (3, 13, 9)}, "it is 3.13.9"),
            ({"version": (3, 16, 0)}, "it is 3.16.0"),
            ({"final": False}, "it is a pre-release of 3.14"),
            ({"implementation": "PyPy"}, "it is PyPy"),
            ({"gil": False}, "it is a free-threaded build"),
            ({"missing": ("ssl", "zlib")}, "it lacks ssl, zlib"),
        ],
    )
    def test_others_are_refused_with_the_reason(self, change, reason):
        assert interpreters.refusal(GOOD._replace(**change), ("3.14", "3.15")).startswith(reason)

    def test_the_version_asked_for_is_the_only_one_that_does(self):
        assert interpreters.refusal(GOOD, ("3.15",)) == "it is 3.14.0"

    def test_the_preferred_series_wins_and_then_the_place_on_path(self):
        newer = Facts("/usr/bin/python3.15", (3, 15, 1))
        second = GOOD._replace(path="/usr/local/bin/python3.14", version=(3, 14, 9))
        assert interpreters.choose([newer, GOOD, second], ("3.14", "3.15")) == GOOD
        assert interpreters.choose([newer], ("3.14", "3.15")) == newer
        assert interpreters.choose([], ("3.14", "3.15")) is None

    def test_the_variable_selects_a_series(self):
        assert interpreters.wanted_series("") == ("3.14", "3.15")
        assert interpreters.wanted_series("3.15") == ("3.15",)

    @pytest.mark.parametrize("value", ["3.13", "3", "python3.14", "3.14.1"])
    def test_a_variable_that_selects_nothing_is_an_error_that_lists_the_choices(self, value):
        with pytest.raises(StepFailed, match=f"PYTHON={value} ") as caught:
            interpreters.wanted_series(value)
        assert "PYTHON=3.14, PYTHON=3.15" in caught.value.advice


class TestCandidates:
    @staticmethod
    def program(file):
        file.parent.mkdir(exist_ok=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
        return str(file)

    def test_each_folder_of_path_is_looked_through_in_order(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        self.program(tmp_path / "python3")  # an empty part of PATH is not the current folder
        second = self.program(tmp_path / "b" / "python3.15")
        third = self.program(tmp_path / "b" / "python3")
        first = self.program(tmp_path / "a" / "python3")
        path = os.pathsep.join([str(tmp_path / "a"), "", str(tmp_path / "b"), "/nowhere"])
        found = programs.on_path(["python3.15", "python3"], path)
        assert found == [first, second, third]

    def test_files_that_are_no_programs_and_folders_do_not_count(self, tmp_path):
        program = self.program(tmp_path / "python3.14")
        (tmp_path / "python").mkdir()
        (tmp_path / "python3.15").write_text("not executable")
        names = ["python3.14", "python3.15", "python3", "python"]
        assert programs.on_path(names, str(tmp_path)) == [program]

    def test_a_link_and_its_target_are_asked_once_and_lost_files_never(self, tmp_path):
        program = self.program(tmp_path / "python3.14")
        link = tmp_path / "python3"
        link.symlink_to(program)
        assert programs.distinct([str(link), program, str(tmp_path / "lost")]) == [str(link)]

    def test_this_interpreter_says_what_it_is(self):
        facts = interpreters.probe(sys.executable)
        assert facts.version == sys.version_info[:3]
        assert facts.implementation == "CPython"
        # The venv's own path would tie a new environment to the one that it may replace.
        assert os.path.realpath(facts.path) == os.path.realpath(sys.executable)
        assert not Path(facts.path).is_relative_to(sys.prefix) or sys.prefix == sys.base_prefix

    def test_a_stand_in_that_refuses_to_run_is_reported(self, tmp_path):
        shim = tmp_path / "python3.14"
        shim.write_text("#!/bin/sh\necho 'no version is set' >&2\nexit 127\n")
        shim.chmod(0o755)
        with pytest.raises(StepFailed, match="exit code 127") as caught:
            interpreters.probe(str(shim))
        assert "no version is set" in caught.value.report()

    @pytest.mark.parametrize("output", ["", "Welcome!", "[]", "{}", '{"path": "/usr/bin/python"}'])
    def test_what_is_not_the_answer_to_the_probe_is_a_value_error(self, output):
        with pytest.raises(ValueError):  # noqa: PT011 - json's own message is as good as ours
            interpreters.parse_facts(output)


class TestUv:
    @pytest.mark.parametrize(
        ("output", "version"),
        [
            ("uv 0.13.9 (x86_64-unknown-linux-gnu)\n", (0, 13, 9)),
            ("uv 0.8.0\n", (0, 8, 0)),
            ("uvx 0.13.9\n", ()),
            ("", ()),
        ],
    )
    def test_version_is_read_from_its_output(self, output, version):
        assert uvtool.parse_version(output) == version

    def test_no_version_is_too_old(self):
        assert uvtool.parse_version("") < uvtool.OLDEST < (0, 8, 0)

    def test_what_pip_knows_of_the_network_is_passed_on(self, tmp_path):
        pip = {"PIP_CERT": "/ca.pem", "PIP_INDEX_URL": "https://mirror.invalid/simple"}
        env = uvtool.environment(tmp_path, pip)
        assert env["SSL_CERT_FILE"] == "/ca.pem"
        assert env["UV_DEFAULT_INDEX"] == "https://mirror.invalid/simple"

    def test_what_uv_was_told_already_is_kept(self, tmp_path):
        own = {"SSL_CERT_FILE": "/own.pem", "UV_DEFAULT_INDEX": "https://own.invalid/simple"}
        pip = {"PIP_CERT": "/ca.pem", "PIP_INDEX_URL": "https://mirror.invalid/simple"}
        env = uvtool.environment(tmp_path, {**own, **pip})
        assert {name: env[name] for name in own} == own

    def test_an_active_environment_has_no_say(self, tmp_path):
        env = uvtool.environment(
            tmp_path, {"VIRTUAL_ENV": "/other", "PYTHONPATH": "/lib", "A": "b"}
        )
        assert env.keys().isdisjoint({"VIRTUAL_ENV", "PYTHONPATH"})
        assert env["A"] == "b"

    def test_without_a_home_the_cache_is_in_the_checkout(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
        env = uvtool.environment(tmp_path, {})
        assert env["UV_CACHE_DIR"] == str(tmp_path / ".cache" / "uv-cache")


class TestDebian:
    def test_each_mirror_is_listed_once_with_its_suites_and_without_security_updates(self):
        listing = (
            "http://deb.example/debian/|bookworm|oldstable\n"
            "http://deb.example/debian/|bookworm|oldstable\n"
            "http://deb.example/debian/|bookworm-updates|oldstable-updates\n"
            "http://deb.example/debian-security/|bookworm-security|oldstable-security\n"
            "http://sec.example/ubuntu/|noble-security|noble-security\n"
            "\n"
            "https://packages.example/|nodistro|nodistro\n"
        )
        assert debian.parse_mirrors(listing) == [
            debian.Mirror("http://deb.example/debian/", ("bookworm", "oldstable")),
            debian.Mirror("https://packages.example/", ("nodistro",)),
        ]

    @pytest.mark.parametrize(
        ("keyring", "options"),
        [("/keys.gpg", "arch=arm64 signed-by=/keys.gpg"), (None, "arch=arm64")],
    )
    def test_source_line(self, keyring, options):
        line = debian.sources("http://deb.example/debian/", "forky", "arm64", keyring)
        assert line == f"deb [{options}] http://deb.example/debian/ forky main\n"

    @pytest.mark.parametrize(
        ("triplet", "loader"),
        [
            ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
            ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
            ("s390x-linux-gnu", "ld64.so.1"),
        ],
    )
    def test_the_loader_is_found_beside_the_c_library(self, tmp_path, triplet, loader):
        libraries = tmp_path / "usr" / "lib" / triplet
        libraries.mkdir(parents=True)
        (tmp_path / "usr" / "lib" / "python3.14").mkdir()
        for name in ("libc.so.6", "libld.so.1", loader):
            (libraries / name).touch()
        assert debian.find_loader(tmp_path) == (libraries, libraries / loader)

    def test_a_tree_without_a_c_library_is_an_error(self, tmp_path):
        with pytest.raises(StepFailed, match="no C library"):
            debian.find_loader(tmp_path)


class TestStamp:
    """The second run is quick because a stamp says that there is nothing to do."""

    @pytest.fixture
    def root(self, tmp_path):
        for name in environment.INPUTS:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)
        return tmp_path

    @pytest.fixture
    def venv(self, root):
        """Make what the set-up leaves behind when it was completed."""
        interpreter = root / "python3.14"
        interpreter.write_text("program")
        (root / ".venv" / "bin").mkdir(parents=True)
        (root / ".venv" / "bin" / "python").symlink_to(interpreter)
        (root / ".venv" / "bin" / "subserve").touch()
        self.complete(root, root / ".venv")
        return root / ".venv"

    @staticmethod
    def complete(root, venv):
        stamp = f"{environment.origin(venv)}\n{environment.contents(root)}\n"
        (venv / environment.STAMP).write_text(stamp)

    def test_complete_and_unchanged_is_ready(self, root, venv):
        assert environment.is_ready(root, venv)

    @pytest.mark.parametrize("name", environment.INPUTS)
    def test_a_changed_input_is_noticed(self, root, venv, name):
        (root / name).write_text("changed")
        assert not environment.is_ready(root, venv)
        assert environment.read_stamp(venv)[0] == environment.origin(venv)

    @pytest.mark.parametrize("lost", [environment.STAMP, "bin/python", "bin/subserve"])
    def test_a_lost_part_is_noticed(self, root, venv, lost):
        (venv / lost).unlink()
        assert not environment.is_ready(root, venv)

    def test_an_interpreter_that_is_gone_is_noticed(self, root, venv):
        (root / "python3.14").unlink()
        assert environment.origin(venv) == ""
        assert not environment.is_ready(root, venv)

    def test_an_interpreter_that_was_replaced_is_noticed(self, root, venv):
        (root / "python3.14").write_text("another program")
        assert not environment.is_ready(root, venv)

    def test_a_checkout_that_was_moved_is_noticed(self, root, venv):
        moved = venv.rename(root / ".venv-3.14")
        assert not environment.is_ready(root, moved)

    def test_a_torn_stamp_counts_as_none(self, root, venv):
        (venv / environment.STAMP).write_text(environment.origin(venv) + "\n")
        assert environment.read_stamp(venv) == []
        assert not environment.is_ready(root, venv)

    def test_ready_means_that_nothing_is_done(self, root, venv, capsys):
        assert environment.make_ready(root, "") == venv
        assert capsys.readouterr() == ("", "")

    @pytest.mark.parametrize(("code", "warnings"), [(0, 0), (1, 1)])
    def test_a_lack_of_the_accelerator_is_told(self, venv, capsys, code, warnings):
        """Installers do not show what a build says that succeeds."""
        (venv / "bin" / "python").unlink()
        TestCandidates.program(venv / "bin" / "python")
        (venv / "bin" / "python").write_text(f"#!/bin/sh\nexit {code}\n")
        environment._look_for_accelerator(venv)
        assert capsys.readouterr().err.count("WARNING: no accelerator was compiled") == warnings

    def test_a_version_has_a_folder_of_its_own(self, root):
        assert environment.folder(root, "") == root / ".venv"
        assert environment.folder(root, "3.15") == root / ".venv-3.15"

    def test_what_is_not_an_environment_is_left_alone(self, root):
        (root / ".venv").mkdir()
        (root / ".venv" / "thesis.txt").write_text("years of work")
        with pytest.raises(StepFailed, match="not a virtual environment"):
            environment.make_ready(root, "")
        assert (root / ".venv" / "thesis.txt").exists()

    def test_one_set_up_at_a_time(self, root, venv, monkeypatch):
        said = queue.SimpleQueue()
        monkeypatch.setattr(environment, "say", said.put)
        second = threading.Thread(target=environment.make_ready, args=(root, ""))
        with environment._turn(root):
            second.start()
            assert said.get(timeout=30) == "waiting for another set-up of this checkout"
            assert second.is_alive()
        second.join(30)
        assert not second.is_alive()


class TestSteps:
    def test_output_is_returned_and_progress_goes_to_stderr(self, capsys):
        output = steps.run(["sh", "-c", "echo out; echo err >&2"], "a step", 30)
        assert output == "out\nerr\n"
        assert capsys.readouterr() == ("", "set-up: a step\n")

    def test_a_failure_names_step_command_code_end_of_output_and_remedy(self):
        with pytest.raises(StepFailed) as caught:
            steps.run(["sh", "-c", "seq 100; exit 3"], "counting", 30, "count less")
        report = caught.value.report().splitlines()
        assert report[0].startswith("counting: exit code 3 after ")
        assert report[1] == "  command: sh -c seq 100; exit 3"
        assert report[2:] == [f"  | {number}" for number in range(81, 101)]
        assert caught.value.advice == "count less"

    def test_a_command_that_does_not_exist_is_a_failed_step(self):
        with pytest.raises(StepFailed, match="a step: cannot run /no/such/program"):
            steps.run(["/no/such/program"], "a step", 30)

    def test_a_command_that_takes_too_long_is_ended_with_its_children(self, tmp_path):
        """A hung download is often a grandchild, which holds on to what it has open."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

        def read_within(seconds):
            assert select.select([reader], [], [], seconds)[0], "the grandchild still has it open"
            return os.read(reader, 100)

        try:
            script = f"(echo started; exec sleep 600) >'{pipe}' & wait"
            with pytest.raises(StepFailed, match="ended for taking longer than 2 s"):
                steps.run(["sh", "-c", script], "hanging", 2)
            assert read_within(30) == b"started\n"
            assert read_within(30) == b""
        finally:
            os.close(reader)

    def test_a_question_that_gets_no_answer_is_a_failed_step(self):
        assert steps.ask(["echo", "42"]) == "42\n"
        with pytest.raises(StepFailed, match="false: exit code 1"):
            steps.ask(["false"])
        with pytest.raises(StepFailed, match="timed out"):
            steps.ask(["sleep", "600"], timeout=0.1)

    def test_of_several_ways_each_failure_is_reported_in_short(self):
        failures = [StepFailed("with pip", output="1\n2\n\n3\n4\n"), StepFailed("with apt")]
        combined = steps.combine("no uv", failures, "get uv")
        assert combined.report() == "no uv:\n- with pip\n  | 2\n  | 3\n  | 4\n- with apt"
        assert combined.advice == "get uv"


def test_requirements_are_pinned_hashed_and_name_no_address():
    for file in sorted((ROOT / "requirements").glob("*.txt")):
        text = file.read_text()
        pins = [line for line in text.splitlines() if line[:1].isalnum()]
        assert pins
        assert all("==" in pin and pin.endswith("\\") for pin in pins)
        assert text.count("\\\n") == text.count("--hash=sha256:")
        assert "://" not in text
        assert "--index" not in text
