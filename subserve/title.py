"""The name that ``ps -o comm``, ``top`` and ``pgrep`` show for this process."""

from pathlib import Path


def set_title(text: str) -> None:
    """Name the process; Linux keeps the first 15 bytes (proc(5), ``comm``).

    Nothing depends on the name, so where it cannot be set the process goes without.
    """
    try:
        Path("/proc/self/comm").write_text(text[:15], encoding="ascii")
    except OSError:
        return
