"""Which other modules' C functions and types does an extension module call directly?

A module that declares own-GIL support has no statics that matter, or so it says.  Those of SciPy
declare it, and keep pointers into NumPy in statics all the same: loaded as they are, next to copies
of NumPy, they worked in the last worker to load them, and said "argument 1 must be numpy.ndarray,
not numpy.ndarray" in the others.  Such pointers are handed over in capsules.
"""

import re

_TAKES_CAPSULES = re.compile(rb"\0PyCapsule_(?:GetPointer|Import)\0")
_NAME = re.compile(rb"(?<=\0)[A-Za-z_][A-Za-z0-9_.]*(?=\0)")


def providers(path: str) -> frozenset[str]:
    """Return the names that may be those of the modules whose capsules the module at `path` takes.

    All that looks like a name in the file, since it has to say from which module it wants one;
    empty if it does not take capsules.  Raises `OSError` if the file cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read()
    if _TAKES_CAPSULES.search(content) is None:
        return frozenset()
    return frozenset(name.decode("ascii") for name in _NAME.findall(content))
