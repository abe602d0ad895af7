"""What several unit tests share."""

import logging
from collections.abc import Iterator
from typing import override

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says nothing on a machine that does other things, too.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """What subserve logs during the test, of every level."""
    logger, keeper = logging.getLogger("subserve"), _Keeper()
    before = logger.handlers, logger.level
    logger.handlers = [keeper]
    logger.setLevel(logging.DEBUG)
    yield keeper.records
    logger.handlers, logger.level = before
