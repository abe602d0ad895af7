"""A short run over each target: the corpus, and the same mutations of it each time."""

import contextlib
import logging
from collections.abc import Iterator

import pytest

from subserve.http.h1.chunked import ChunkedDecoder
from subserve.http.h1.head import Refused
from tests.fuzz import corpus
from tests.fuzz.engine import Target, fuzz
from tests.fuzz.targets import TARGETS

INPUTS = 1500
SHORT_SECONDS = 3.0
"""For a target at most, on a machine that is busy; else it takes half a second."""
SECONDS = 30.0  # far above what they take

LARGEST_CORPUS = 200


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What apps fail with is logged with a traceback, which takes longer than all else."""
    logging.getLogger("subserve").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("subserve").setLevel(logging.NOTSET)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_short_run(target: Target) -> None:
    inputs = corpus.read(target.name)
    report = fuzz(target, inputs, seed=1, seconds=SHORT_SECONDS, inputs=len(inputs) + INPUTS)
    if (finding := report.finding) is not None:
        raise AssertionError(f"{target.name}: {finding.data!r}") from finding.error
    assert report.inputs >= len(inputs)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_corpus_is_small(target: Target) -> None:
    inputs = corpus.read(target.name)
    assert 5 <= len(inputs) <= LARGEST_CORPUS
    assert len(set(inputs)) == len(inputs)
    assert max(map(len, inputs)) <= corpus.LARGEST_INPUT


def test_each_corpus_has_its_target() -> None:
    assert {path.stem for path in corpus.FOLDER.iterdir()} == {target.name for target in TARGETS}


def test_a_mistake_is_found_and_made_small() -> None:
    def run(data: bytes) -> None:
        decoder = ChunkedDecoder(200, 4)
        with contextlib.suppress(Refused):
            pieces, _ = decoder.feed(data)
            if pieces and decoder.complete:
                raise KeyError("planted")

    target = Target("planted", run, (b"\r\n",))
    report = fuzz(target, [b"3\r\nabc\r\n", b"0\r\n\r\n"], seed=1, seconds=SECONDS)
    assert report.finding is not None
    assert isinstance(report.finding.error, KeyError)
    assert len(report.finding.data) <= len(b"3\r\nabc\r\n0\r\n\r\n")
    with pytest.raises(KeyError):
        run(report.finding.data)


def test_what_reaches_new_code_is_kept() -> None:
    def run(data: bytes) -> None:
        with contextlib.suppress(Refused):
            ChunkedDecoder(200, 4).feed(data)

    target = Target("chunks", run, (b"1\r\nx\r\n", b"0\r\n"))
    report = fuzz(target, [b""], seed=1, seconds=SECONDS, inputs=5000)
    assert 3 <= len(report.kept) <= 50
    again = fuzz(target, report.kept, seed=1, seconds=SECONDS, inputs=5000)
    assert len(again.kept) < len(report.kept)
