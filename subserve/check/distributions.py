"""Which installed distribution a file belongs to."""

import os
from collections.abc import Iterable
from importlib import metadata


def owners(paths: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return name and version of the distribution of each file; those of none are left out.

    By the lists of files that installers leave; an editable install has none, and is found by the
    name of its package.
    """
    wanted = {os.path.realpath(path): path for path in paths}
    found: dict[str, tuple[str, str]] = {}
    if not wanted:
        return found
    for distribution in metadata.distributions():
        for file in distribution.files or ():
            if not file.name.endswith((".so", ".pyd")):
                continue
            path = wanted.get(os.path.realpath(str(distribution.locate_file(file))))
            if path is not None:
                found[path] = (distribution.name, distribution.version)
    return found
