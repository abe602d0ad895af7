"""What Linux says about a process and all that descend from it: CPU time, memory, who they are."""

import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    """What ``/proc/PID/stat`` says, as far as it matters here; times are seconds.

    `parent` and `session` are process numbers; `own` is the CPU time of the process with all its
    threads, those that have ended too; `reaped` is that of its children that have ended and were
    waited for.
    """

    pid: int
    parent: int
    session: int
    own: float
    reaped: float


def parse_stat(text: str) -> Stat:
    """Read one line of ``/proc/PID/stat`` (proc_pid_stat(5)); the name in it may hold anything."""
    pid, _, rest = text.partition(" (")
    fields = rest.rpartition(") ")[2].split()
    # Counted from the state, which is the third of the manual page.
    user, system, children_user, children_system = map(int, fields[11:15])
    return Stat(
        int(pid),
        int(fields[1]),
        int(fields[3]),
        (user + system) / TICKS_PER_SECOND,
        (children_user + children_system) / TICKS_PER_SECOND,
    )


def parse_pss(text: str) -> int:
    """Return the bytes of PSS in ``/proc/PID/smaps_rollup``; 0 where a process has no memory."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.removesuffix("kB")) * 1024
    return 0


def family(stats: dict[int, Stat], root: int) -> list[int]:
    """Return `root`, if it lives, and everything that descends from it, parents first."""
    found = [root] if root in stats else []
    for pid in found:  # which grows meanwhile
        found.extend(stat.pid for stat in stats.values() if stat.parent == pid)
    return found


def read_stats() -> dict[int, Stat]:
    """Return all processes there are."""
    return {stat.pid: stat for stat in _read_stats()}


def _read_stats() -> Iterator[Stat]:
    for entry in os.scandir(PROC):
        if entry.name.isdigit():
            try:
                yield parse_stat((PROC / entry.name / "stat").read_text(errors="replace"))
            except OSError:
                continue  # it ended while we looked


def cpu_seconds(stats: dict[int, Stat], members: Collection[int]) -> float:
    """Return the CPU time, user and system, that a tree of processes has used so far.

    Each living process is asked for its CPU clock, which counts nanoseconds where stat has ticks.
    """
    return sum(_own_seconds(stats[pid]) + stats[pid].reaped for pid in members)


def _own_seconds(stat: Stat) -> float:
    # clock_getcpuclockid(3): the number of the clock of another process, by the kernel's interface.
    try:
        return time.clock_gettime(~stat.pid << 3 | 2)
    except OSError:
        return stat.own  # it has just ended


def parse_steal(text: str, cores: Collection[int]) -> float:
    """Return the seconds that a hypervisor has kept cores from us, from ``/proc/stat``.

    That is the eighth number of proc_stat(5).
    """
    names = {f"cpu{core}" for core in cores}
    lines = (line.split() for line in text.splitlines())
    ticks = sum(int(fields[8]) for fields in lines if fields and fields[0] in names)
    return ticks / TICKS_PER_SECOND


def steal_seconds(cores: Collection[int]) -> float:
    """Return the seconds that a hypervisor has kept cores from us so far, all together."""
    return parse_steal((PROC / "stat").read_text(), cores)


def parse_busy(text: str, core: int) -> float:
    """Return the seconds that a core has worked so far, from ``/proc/stat``; idle is the rest."""
    for line in text.splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _waiting, *interrupts = map(int, fields[:7])
            return (user + nice + system + sum(interrupts)) / TICKS_PER_SECOND
    return 0.0


def busy_seconds(core: int) -> float:
    """Return the seconds that a core has worked so far."""
    return parse_busy((PROC / "stat").read_text(), core)


def other_seconds(stats: dict[int, Stat], ours: Collection[int]) -> float:
    """Return the CPU time of all processes but `ours`, those of the kernel included."""
    return sum(stat.own + stat.reaped for stat in stats.values() if stat.pid not in ours)


def pss_bytes(root: int) -> int:
    """Return the memory of a tree of processes, each shared page counted once (PSS)."""
    total = 0
    for pid in family(read_stats(), root):
        try:
            total += parse_pss((PROC / str(pid) / "smaps_rollup").read_text())
        except ProcessLookupError, FileNotFoundError:
            continue  # it ended while we looked
    return total
