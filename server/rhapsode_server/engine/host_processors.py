"""The processors of this machine that this process may compute on. Linux. Imports no torch."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from rhapsode_server.engine.control_groups import group_folders, read_lines, read_number


def available_cores(root: Path = Path("/"), allowed: Collection[int] | None = None) -> int:
    """At least one: what its affinity and each of its control groups allow. `root` holds `proc` and `sys`.

    Two processors of one core count once, since each of them would have half of its arithmetic. A part of a processor
    does not count: a thread that is stopped for the rest of a period makes all others wait.
    """
    allowed = _affinity() if allowed is None else allowed
    return max(1, int(min([_num_cores(root, allowed), *_quotas(root)])))


def _affinity() -> Collection[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _num_cores(root: Path, allowed: Collection[int]) -> int:
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return len({tuple(read_lines(root / topology.format(number))) or (number,) for number in allowed})


def _quotas(root: Path) -> Iterator[float]:
    """In processors."""
    for group in group_folders(root, "cpu"):
        v2 = " ".join(read_lines(group / "cpu.max")).split()
        quota = int(v2[0]) if v2 and v2[0].isdecimal() else read_number(group, "cpu.cfs_quota_us")
        period = int(v2[1]) if len(v2) > 1 else read_number(group, "cpu.cfs_period_us")
        if quota and period:
            yield quota / period
