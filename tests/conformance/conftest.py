"""What the conformance tests share.

`EXAMPLES=20000 make test ARGS=tests/conformance` looks deeper than a normal run does.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.unit.h1_harness import Bench

# How long an example takes says nothing on a machine that does other things, too.
settings.register_profile(
    "conformance",
    deadline=None,
    max_examples=int(os.environ.get("EXAMPLES", "200")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(scope="module", params=["python", "c"])
def parser(request: pytest.FixtureRequest) -> str:
    """Which code reads what is unremarkable: see `docs/accelerator.md`."""
    if request.param == "c":
        pytest.importorskip("subserve.http.h1._accelerator", reason="it was not built")
    return str(request.param)


@pytest.fixture(scope="module")
def bench(parser: str) -> Iterator[Bench]:
    """The HTTP/1.1 lane in memory."""
    with Bench(http_parser=parser) as made:
        yield made


@pytest.fixture(scope="module")
def usual_bench() -> Iterator[Bench]:
    """The same as most users have it, for what takes long."""
    with Bench() as made:
        yield made
