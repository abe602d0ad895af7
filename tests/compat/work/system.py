"""Tools of the process, of tests and of observation."""

import typing

type Json = typing.Any


def use_psutil() -> Json:
    """Looks at itself and at the machine."""
    import os

    import psutil

    me = psutil.Process()
    with me.oneshot():
        found = [me.pid == os.getpid(), me.memory_info().rss > 0, me.num_threads() > 0]
    return [*found, psutil.virtual_memory().total > 0, psutil.cpu_count() > 0]


def use_setproctitle() -> Json:
    """Reads the title of the process."""
    import setproctitle

    return len(setproctitle.getproctitle()) > 0


def use_coverage() -> Json:
    """Measures a function with its C tracer."""
    import coverage
    from coverage import tracer

    measured = coverage.Coverage(data_file=None, messages=False, config_file=False)
    measured.start()
    exec(compile("x = 1\ny = x + 1\n", "measured.py", "exec"), {})
    measured.stop()
    return [tracer.__name__, measured.get_data() is not None]


def use_wrapt() -> Json:
    """Wraps functions and objects."""
    import wrapt

    @wrapt.decorator
    def twice(wrapped, instance, args, kwargs):
        return 2 * wrapped(*args, **kwargs)

    class Shop:
        @twice
        def price(self, n):
            return n

    return [
        Shop().price(4),
        wrapt.ObjectProxy([1, 2])[1],
        wrapt.FunctionWrapper.__mro__[1].__name__,
    ]


def use_time_machine() -> Json:
    """Travels in time."""
    import datetime

    import time_machine

    with time_machine.travel(datetime.datetime(2030, 1, 2, tzinfo=datetime.UTC), tick=False):
        return str(datetime.datetime.now(datetime.UTC))


def use_cython() -> Json:
    """Imports its compiled compiler and compiles a line."""
    import Cython.Compiler.Scanning
    from Cython.Compiler import Errors, Options

    return [Cython.Compiler.Scanning.__file__.endswith(".so"), bool(Options), bool(Errors)]


def use_mypy() -> Json:
    """Checks a line of code with its compiled checker."""
    from mypy import api, build

    text, _, code = api.run(["--cache-dir=/dev/null", "--no-site-packages", "-c", "x: int = 'a'"])
    return [build.__file__.endswith(".so"), "[assignment]" in text, code]


def use_ddtrace() -> Json:
    """Traces without an agent."""
    import os

    os.environ |= {"DD_TRACE_ENABLED": "true", "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false"}
    os.environ |= {
        "DD_TRACE_AGENT_URL": "http://127.0.0.1:1",
        "DD_REMOTE_CONFIGURATION_ENABLED": "0",
    }
    from ddtrace.trace import tracer

    with tracer.trace("work") as span:
        span.set_tag("k", "v")
    return [span.name, span.get_tag("k")]


def use_newrelic() -> Json:
    """Traces without an account."""
    import newrelic.agent
    from newrelic.core import _thread_utilization

    @newrelic.agent.function_trace()
    def work():
        return 5

    return [work(), _thread_utilization.__name__]
