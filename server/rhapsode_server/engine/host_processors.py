"""The processors of this machine that this process may compute on. Linux. Imports no torch."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from rhapsode_server.engine.control_groups import group_folders, read_lines, read_number


def cores_of_affinity(root: Path = Path("/")) -> list[set[int]]:
    """The processors of each core that the calling thread may run on, by the smallest number in each."""
    return _cores(root, affinity())


def available_cores(root: Path = Path("/"), allowed: Collection[int] | None = None) -> int:
    """At least one: what its affinity and each of its control groups allow. `root` holds `proc` and `sys`.

    Two processors of one core count once, since each of them would have half of its arithmetic. A part of a processor
    does not count: a thread that is stopped for the rest of a period makes all others wait.
    """
    allowed = affinity() if allowed is None else allowed
    return max(1, int(min([len(_cores(root, allowed)), *_quotas(root)])))


def affinity() -> Collection[int]:
    """The processors that the calling thread may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _cores(root: Path, allowed: Collection[int]) -> list[set[int]]:
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores: dict[tuple[str | int, ...], set[int]] = {}
    for number in sorted(allowed):
        cores.setdefault(tuple(read_lines(root / topology.format(number))) or (number,), set()).add(number)
    return list(cores.values())


def _quotas(root: Path) -> Iterator[float]:
    """In processors."""
    for group in group_folders(root, "cpu"):
        v2 = " ".join(read_lines(group / "cpu.max")).split()
        quota = int(v2[0]) if v2 and v2[0].isdecimal() else read_number(group, "cpu.cfs_quota_us")
        period = int(v2[1]) if len(v2) > 1 else read_number(group, "cpu.cfs_period_us")
        if quota and period:
            yield quota / period
