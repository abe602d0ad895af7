"""What an exit status means, in words that help."""

from subserve import crash
from subserve.signals import name_of

_CAUSES = {
    "SIGSEGV": "a crash in C code; its Python stacks are above",
    "SIGBUS": "a crash in C code, or a mapped file that was cut short; Python stacks are above",
    "SIGABRT": "a library or CPython gave up; what it said is above",
    "SIGILL": "a library made for another CPU, or a crash in C code",
    "SIGFPE": "a crash in C code; its Python stacks are above",
    "SIGKILL": "by an operator, or by the kernel for want of memory: see dmesg, or the "
    "oom_kill count in memory.events of the control group",
    "SIGXCPU": "its limit of CPU time is reached: ulimit -t",
    "SIGTERM": "by somebody else than the supervisor",
}


def describe(code: int, said: str = "", app: str = "APP") -> str:
    """Say how a process ended that was not told to; `code` is negative for a signal.

    `said` is what faulthandler has written; an extension module that it names is named here.
    """
    if code >= 0:
        return f"ended with exit code {code}"
    libraries = crash.read(said).libraries
    if libraries:
        return (
            f"was killed by {name_of(-code)} (a crash with {libraries[0]} on the stack, see "
            f"above; `subserve check {app}` tells more)"
        )
    name = name_of(-code)
    cause = _CAUSES.get(name)
    return f"was killed by {name} ({cause})" if cause else f"was killed by {name}"
