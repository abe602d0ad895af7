"""Threads that an extension starts by itself, and that Python does not know.

See `extension_harness` for how a scenario runs.
"""

import pathlib
import platform
import subprocess
import sys

import pytest

from subserve.extensions import redirect
from tests.interpreters.extension_builder import build_module, needs_c
from tests.interpreters.extension_harness import Json, run

pytestmark = needs_c
needs_stubs = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="there are no stubs for this system",
)


def wait_for_a_byte(worker: int) -> Json:
    import os

    import threaded

    ours, its = os.pipe()
    threaded.join(threaded.write_from_thread(its))
    os.close(its)
    with open(ours) as pipe:
        return pipe.read()


def test_a_thread_that_does_not_call_python_works(tmp_path: pathlib.Path) -> None:
    build_module(tmp_path, "threaded", "threaded.c")

    assert run(wait_for_a_byte, sys_path=[tmp_path]).results == ["x"] * 4


def be_called_from_threads(worker: int) -> Json:
    import _interpreters
    import threading

    import threaded

    def callback(interpreter: int) -> None:
        here = threading.get_ident() == ours
        called.append((interpreter, _interpreters.get_current()[0], here))

    ours = threading.get_ident()
    called: list[tuple[int, int, bool]] = []
    for thread in [threaded.call_from_thread(callback) for _ in range(3)]:
        threaded.join(thread)
    number = _interpreters.get_current()[0]
    return [len(called), set(called) == {(number, number, False)}]


@needs_stubs
@pytest.mark.parametrize("rounds", [1, 5])
def test_a_thread_that_calls_python_gets_its_workers_interpreter(
    tmp_path: pathlib.Path, rounds: int
) -> None:
    """It got the main interpreter, where the objects of the callback do not belong."""
    build_module(tmp_path, "threaded", "threaded.c")

    outcome = run(be_called_from_threads, sys_path=[tmp_path], rounds=rounds)

    assert outcome.results == [[30, True]] * 4
    assert outcome.stderr == ""


def wait_for_pending_calls(worker: int) -> Json:
    import _interpreters
    import time

    import threaded

    called: list[int] = []
    for thread in [threaded.add_pending_from_thread(called.append) for _ in range(10)]:
        threaded.join(thread)
    deadline = time.monotonic() + 20
    while len(called) < 10 and time.monotonic() < deadline:
        pass  # pending calls are made between the steps of Python code
    return [len(called), set(called) == {_interpreters.get_current()[0]}]


@needs_stubs
def test_pending_calls_are_made_in_the_workers_interpreter(tmp_path: pathlib.Path) -> None:
    build_module(tmp_path, "threaded", "threaded.c")

    assert run(wait_for_pending_calls, sys_path=[tmp_path]).results == [[10, True]] * 4


def end_the_thread_later(worker: int) -> Json:
    import threaded

    threaded.clean_up_at_thread_end()


def test_what_a_thread_cleans_up_after_its_interpreter_is_closed(tmp_path: pathlib.Path) -> None:
    """greenlet asked for a call that freed objects of the closed interpreter in the main one: the
    process ended with "double free or corruption"."""
    build_module(tmp_path, "threaded", "threaded.c")

    outcome = run(end_the_thread_later, sys_path=[tmp_path], rounds=2)

    assert outcome.stderr == ""


def switch_in_many_threads(worker: int) -> Json:
    import threading

    import greenlet

    def count(up_to: int) -> int:
        parent = greenlet.getcurrent()
        numbers = [greenlet.greenlet(lambda n=n: parent.switch(n)) for n in range(up_to)]
        return sum(number.switch() for number in numbers)

    sums: list[int] = []
    for _ in range(5):
        threads = [threading.Thread(target=lambda: sums.append(count(100))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return [count(100), set(sums) == {4950}]


def test_greenlets_of_threads_that_end() -> None:
    pytest.importorskip("greenlet")

    outcome = run(switch_in_many_threads, rounds=3)

    assert outcome.results == [[4950, True]] * 4
    assert outcome.stderr == ""


# The instructions whose bytes are in `redirect`, for one processor.
ASSEMBLY = """
.intel_syntax noprefix
base: .set table, base + 65536
pending:
  endbr64
  mov rax, [rip + table]
  test rax, rax
  je dropped
  mov rdx, rsi
  mov rsi, rdi
  mov rdi, rax
  xor ecx, ecx
  jmp [rip + table + 16]
dropped:
  xor eax, eax
  ret
.balign 16, 0xcc
ensure:
  endbr64
  sub rsp, 8
  call [rip + table + 24]
  test rax, rax
  jne real
  mov rdi, [rip + table]
  test rdi, rdi
  je closed
  call [rip + table + 40]
  test rax, rax
  je real
  mov rdi, rax
  call [rip + table + 48]
  mov eax, 1
  add rsp, 8
  ret
closed:
  call [rip + table + 64]
  cmp rax, [rip + table + 8]
  jne hang
real:
  add rsp, 8
  jmp [rip + table + 32]
hang:
  call [rip + table + 56]
  jmp hang
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the assembly is for x86-64")
def test_the_machine_code_is_what_it_says(tmp_path: pathlib.Path) -> None:
    source, made = tmp_path / "stubs.s", tmp_path / "stubs.bin"
    source.write_text(ASSEMBLY)
    # With the text at the beginning of a flat file, and nothing else in it.
    command = ["cc", "-nostdlib", "-static", "-no-pie", "-Wl,--oformat=binary,-Ttext=0"]
    command += ["-Wl,-e,0,--build-id=none", "-o", str(made), str(source)]
    subprocess.run(command, check=True, timeout=60)

    assert made.read_bytes().hex() == redirect.MACHINE_CODE["x86_64"].replace(" ", "")
