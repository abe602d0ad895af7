"""The limit of file descriptors, in a child process each."""

import os
import subprocess
import sys

import pytest

from subserve.descriptors import MOST, ceiling, kept_back


@pytest.mark.parametrize(
    ("soft", "hard", "result"), [(64, 64, 64), (64, 128, 128), (100, 100_000_000, None)]
)
def test_the_soft_limit_is_raised_to_the_hard_one(soft: int, hard: int, result: int | None) -> None:
    code = f"""
import resource
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
hard = min({hard}, most) if most != resource.RLIM_INFINITY else {hard}
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, hard))
from subserve.descriptors import raise_limit
print(raise_limit(), raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE), hard)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    first, again, soft_now, _, hard_now = map(int, done.stdout.split())
    assert first == again == soft_now == (result or min(hard_now, MOST))


def test_how_many_are_kept_back() -> None:
    assert [kept_back(limit) for limit in (64, 1024, 10**6)] == [16, 102, 256]


def test_from_where_on_they_are() -> None:
    free = os.dup(0)
    os.close(free)
    assert ceiling(free + 1000) == free + 1000 - kept_back(free + 1000)
    assert ceiling(free + 8) == free + 6, "a quarter of what is free, at most"
