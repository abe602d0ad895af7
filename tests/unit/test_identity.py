"""Who am I? Outside of a worker: nobody."""

import pytest

import subserve
from subserve import WorkerInfo, current_worker, identity


def test_outside_of_a_worker_there_is_none() -> None:
    assert current_worker() is None


def test_its_text_is_the_name_that_logs_use() -> None:
    assert str(WorkerInfo(index=3, generation=2, workers=8)) == "3.2"


def test_a_worker_knows_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_current", None)  # to be restored
    identity.set_current_worker(WorkerInfo(0, 1, 4))
    assert current_worker() == WorkerInfo(0, 1, 4)


def test_nobody_can_change_it() -> None:
    info = WorkerInfo(0, 1, 4)
    with pytest.raises(AttributeError):
        info.index = 1  # type: ignore[misc]


def test_what_the_package_offers() -> None:
    assert subserve.__all__ == ["Server", "WorkerInfo", "__version__", "current_worker", "serve"]
    assert all(hasattr(subserve, name) for name in subserve.__all__)
