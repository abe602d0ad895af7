"""Read what faulthandler and CPython write when a process crashes."""

import re
from dataclasses import dataclass

_CURRENT = re.compile(r"^Current thread .*\n((?:  .*\n?)*)", re.MULTILINE)
_PYTHON_FRAME = re.compile(r'^  File "(.*)", line (\d+|\?\?\?) in (.*)$', re.MULTILINE)
_C_FRAME = re.compile(r'^  Binary file "([^"]+)"', re.MULTILINE)
_EXTENSION = re.compile(r"\.(?:cpython-[^/]*|abi\d[^/]*)?so$")
_MACHINERY = ("<frozen importlib", "/subserve/extensions/", "/subserve/check/", "<script>")
# What calls an app is no news; the stack is cut there.
_CALLERS = ("/subserve/http/", "/subserve/worker/", "/subserve/app.py", "/importlib/__init__.py")

# What CPython and the C library say before they give up.
_LAST_WORDS = re.compile(
    r"^(?:Fatal Python error: .*|(?:free|malloc|realloc|munmap_chunk|corrupted|double free).*"
    r"|terminate called .*|thread '.*' panicked at .*|.*Assertion .* failed.*)$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Crash:
    """What is known of a crash: `frames` are Python's, innermost first, ``function at file:line``.

    `libraries` are the files of extension modules on the C stack, innermost first, which
    faulthandler writes from CPython 3.14 on; `words` are what was said before.
    """

    frames: tuple[str, ...]
    libraries: tuple[str, ...]
    words: tuple[str, ...]


def read(report: str, output: str = "") -> Crash:
    r"""Read a report of faulthandler, and the program's own output for what was said before.

    >>> read('Current thread 0x1 (most recent call first):\n  File "a.py", line 3 in f\n').frames
    ('f at a.py:3',)
    """
    match = _CURRENT.search(report)
    stack = "" if match is None else match[1]
    frames: list[str] = []
    for path, line, function in _PYTHON_FRAME.findall(stack):
        if frames and any(part in path for part in _CALLERS):
            break
        if not any(part in path for part in _MACHINERY):
            frames.append(f"{function} at {path}:{line}")
    libraries = dict.fromkeys(
        path.replace("/./", "/")
        for path in _C_FRAME.findall(report)
        if is_extension(path) and not any(part in path for part in _CALLERS)
    )
    words = dict.fromkeys(word.strip() for word in _LAST_WORDS.findall(f"{output}\n{report}"))
    return Crash(tuple(frames), tuple(libraries), tuple(words))


def is_extension(path: str) -> bool:
    """Tell an extension module's file from that of a C library, by its name."""
    name = path.rpartition("/")[2]
    return _EXTENSION.search(name) is not None and not name.startswith("lib")
