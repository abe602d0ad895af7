"""The lifespan protocol, with apps that keep to it and apps that do not."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest

from subserve.http.exchange import App, Receive, Send
from subserve.log import TRACEBACK
from subserve.worker.lifespan import Lifespan, LifespanFailed

DEADLINE = 10.0  # s, for what takes milliseconds

type Mode = Literal["auto", "on", "off"]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await test()

    asyncio.run(bounded())


async def check_that_nothing_is_left_to_asyncio(lifespan: Lifespan) -> None:
    """Fail where asyncio would complain of an exception that nobody looked at."""
    for _ in range(3):
        await asyncio.sleep(0)
    task = lifespan._task
    assert task is None or not task._log_traceback  # type: ignore[attr-defined]


class Script:
    """An app that takes part as it is told, and notes what it saw."""

    def __init__(self, *answers: str | BaseException, message: str = "") -> None:
        self.answers = answers
        self.message = message
        self.seen: list[str] = []
        self.scope: dict[str, Any] = {}

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        self.scope = scope
        for answer in self.answers:
            self.seen.append((await receive())["type"])
            if isinstance(answer, BaseException):
                raise answer
            await send({"type": answer, "message": self.message})


def cycle(app: App, mode: Mode = "auto", timeout: float = DEADLINE) -> Lifespan:
    """Run startup and shutdown of `app`; raise what startup raises."""
    made: list[Lifespan] = []

    async def test() -> None:
        lifespan = Lifespan(app, mode)
        made.append(lifespan)
        try:
            await lifespan.startup(timeout)
            await lifespan.shutdown(timeout)
        finally:
            await check_that_nothing_is_left_to_asyncio(lifespan)

    run(test)
    return made[0]


def told(records: list[logging.LogRecord], level: str) -> list[str]:
    return [record.getMessage() for record in records if record.levelname == level.upper()]


BOTH = ("lifespan.startup.complete", "lifespan.shutdown.complete")


# ---- an app that speaks it


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_startup_and_shutdown(mode: Mode, records: list[logging.LogRecord]) -> None:
    app = Script(*BOTH)
    cycle(app, mode)
    assert app.seen == ["lifespan.startup", "lifespan.shutdown"]
    assert app.scope["type"] == "lifespan"
    assert app.scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
    assert told(records, "info") == ["lifespan shutdown complete"]


def test_off_means_that_the_app_is_not_asked(records: list[logging.LogRecord]) -> None:
    app = Script(*BOTH)
    cycle(app, "off")
    assert (app.seen, app.scope, records) == ([], {}, [])


def test_state_reaches_the_lane() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        scope["state"]["pool"] = 7
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    assert cycle(app).state == {"pool": 7}


# ---- startup that fails


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_startup_failed(mode: Mode) -> None:
    app = Script("lifespan.startup.failed", message="Traceback\n  no database")
    with pytest.raises(
        LifespanFailed, match="startup failed; see above, or give --lifespan off"
    ) as e:
        cycle(app, mode)
    assert e.value.traceback == "Traceback\n  no database"
    assert e.value.exit_code == 3


def test_startup_failed_and_raised() -> None:
    # Starlette reports its traceback and then raises: asyncio printed the same again, as an
    # exception that nobody had retrieved.
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise RuntimeError("no database")

    with pytest.raises(LifespanFailed):
        cycle(app)


def test_startup_that_takes_too_long() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    with pytest.raises(
        LifespanFailed, match=r"within 0.01 s; if it needs longer, raise --startup-"
    ):
        cycle(app, timeout=0.01)


# ---- an app that does not speak it


NOT_SPOKEN = [
    NotImplementedError(),
    AssertionError("http only"),
    KeyError("method"),
    SystemExit(1),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
    # It was taken for the end of our own patience: "did not complete within 60 s".
    TimeoutError("no database"),
    BaseExceptionGroup("several", [KeyboardInterrupt()]),
]


@pytest.mark.parametrize("error", NOT_SPOKEN, ids=lambda error: type(error).__name__)
def test_auto_serves_an_app_that_raises(
    error: BaseException, records: list[logging.LogRecord]
) -> None:
    cycle(Script(error), "auto")
    (line,) = told(records, "debug")
    assert line.startswith("the app does not speak the lifespan protocol: ")
    assert len(records) == 1


@pytest.mark.parametrize("error", NOT_SPOKEN, ids=lambda error: type(error).__name__)
def test_on_makes_that_an_error(error: BaseException) -> None:
    with pytest.raises(BaseException) as caught:  # noqa: PT011  whatever it is
        cycle(Script(error), "on")
    assert not isinstance(caught.value, LifespanFailed)
    assert not isinstance(caught.value, (SystemExit, KeyboardInterrupt, asyncio.CancelledError))


async def answers_everything(scope: Any, receive: Receive, send: Send) -> None:
    """The first app of every tutorial: it does not look at what it is called for."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


def test_an_app_that_answers_everything_with_a_response(records: list[logging.LogRecord]) -> None:
    # The start of its response was taken for "startup complete"; then its task died of the body,
    # and the shutdown had a warning and an exception that nobody had retrieved.
    cycle(answers_everything, "auto")
    assert [record.levelname for record in records] == ["DEBUG"]
    with pytest.raises(RuntimeError, match=r"unexpected http.response.start"):
        cycle(answers_everything, "on")


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_an_app_that_returns_without_an_answer(mode: Mode) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None: ...

    if mode == "auto":
        cycle(app, mode)
    else:
        with pytest.raises(RuntimeError, match=r"without an answer to lifespan.startup"):
            cycle(app, mode)


@pytest.mark.parametrize(
    "extra", ["lifespan.startup.complete", "lifespan.shutdown.complete", "http.response.start"]
)
def test_a_message_too_many_is_the_apps_error(extra: str, records: list[logging.LogRecord]) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        with pytest.raises(RuntimeError, match=f"unexpected {extra}"):
            await send({"type": extra})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    cycle(app)
    assert told(records, "info") == ["lifespan shutdown complete"]


# ---- shutdown that fails


def test_shutdown_failed(records: list[logging.LogRecord]) -> None:
    app = Script(BOTH[0], "lifespan.shutdown.failed", message="Traceback\n  pool is gone")
    cycle(app)
    (record,) = [record for record in records if record.levelname == "ERROR"]
    assert record.getMessage() == "the app's lifespan shutdown failed"
    assert getattr(record, TRACEBACK) == "Traceback\n  pool is gone"


def test_shutdown_failed_and_raised(records: list[logging.LogRecord]) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "pool is gone"})
        raise RuntimeError("pool is gone")

    cycle(app)
    assert told(records, "error") == ["the app's lifespan shutdown failed"]


@pytest.mark.parametrize("error", NOT_SPOKEN, ids=lambda error: type(error).__name__)
def test_shutdown_raises(error: BaseException, records: list[logging.LogRecord]) -> None:
    cycle(Script(BOTH[0], error))
    (record,) = records
    assert (record.levelname, record.getMessage()) == (
        "ERROR",
        "the app's lifespan shutdown failed",
    )
    assert record.exc_info


def test_shutdown_that_takes_too_long(records: list[logging.LogRecord]) -> None:
    async def test() -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        cancelled = asyncio.Event()
        lifespan = Lifespan(app, "auto")
        await lifespan.startup(DEADLINE)
        await lifespan.shutdown(0.01)
        await cancelled.wait()

    run(test)
    assert told(records, "warning") == ["the app's lifespan shutdown is cut off"]


def test_a_lifespan_that_ended_early(records: list[logging.LogRecord]) -> None:
    async def test() -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            raise LookupError("while serving")

        lifespan = Lifespan(app, "auto")
        await lifespan.startup(DEADLINE)
        await asyncio.sleep(0)
        await lifespan.shutdown(DEADLINE)
        await check_that_nothing_is_left_to_asyncio(lifespan)

    run(test)
    (record,) = records
    assert record.getMessage() == "the app's lifespan ended early: no shutdown to run"
    # Why it ended was not to be found anywhere but in asyncio's complaint.
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


def test_cancellation_by_the_server_is_not_the_apps_failure() -> None:
    async def test() -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            asked.set()
            await asyncio.Event().wait()

        asked = asyncio.Event()
        lifespan = Lifespan(app, "auto")
        task = asyncio.create_task(lifespan.startup(DEADLINE))
        await asked.wait()
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()

    run(test)


# ---- Starlette's


def test_starlette(records: list[logging.LogRecord]) -> None:
    applications = pytest.importorskip("starlette.applications")
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[dict[str, int]]:
        steps.append("up")
        yield {"pool": 7}
        steps.append("down")

    assert cycle(applications.Starlette(lifespan=lifespan)).state == {"pool": 7}
    assert steps == ["up", "down"]
    assert told(records, "error") == []


@pytest.mark.parametrize("when", ["startup", "shutdown"])
def test_starlette_that_fails(when: str, records: list[logging.LogRecord]) -> None:
    applications = pytest.importorskip("starlette.applications")

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        if when == "startup":
            raise TimeoutError("no database")
        yield
        raise TimeoutError("no database")

    app = applications.Starlette(lifespan=lifespan)
    if when == "startup":
        with pytest.raises(LifespanFailed) as caught:
            cycle(app)
        assert "TimeoutError: no database" in caught.value.traceback
    else:
        cycle(app)
        (record,) = [record for record in records if record.levelname == "ERROR"]
        assert "TimeoutError: no database" in getattr(record, TRACEBACK)
