"""Find programs on PATH: all of them, for the first one is not always one that works."""

import os
from typing import Dict, List


def on_path(names: List[str], path: str) -> List[str]:
    """Return the programs on `path` that have one of `names`, in the order of `path`."""
    folders = [folder for folder in path.split(os.pathsep) if folder]
    files = [os.path.join(folder, name) for folder in folders for name in names]
    return [file for file in files if os.path.isfile(file) and os.access(file, os.X_OK)]


def distinct(files: List[str]) -> List[str]:
    """Return those of `files` that exist, once each: a link and its target are one."""
    unique: Dict[str, str] = {}
    for file in filter(os.path.exists, files):
        unique.setdefault(os.path.realpath(file), file)
    return list(unique.values())
