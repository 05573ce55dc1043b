"""The memory of this machine, or of the control groups (v1 or v2) that this process is in. Linux. Imports no torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rhapsode_server.engine.control_groups import group_folders, read_lines, read_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """In bytes."""

    total: int
    free: int


def host_memory(root: Path = Path("/")) -> Memory:
    """The least that the machine and each of the groups allow and leave. `root` holds `proc` and `sys`."""
    fields = _fields(root / "proc/meminfo")
    machine = Memory(total=fields["MemTotal"] << 10, free=fields["MemAvailable"] << 10)
    bounds = [machine, *_group_bounds(root)]
    return Memory(total=min(each.total for each in bounds), free=min(each.free for each in bounds))


def _group_bounds(root: Path) -> Iterator[Memory]:
    for group in group_folders(root, "memory"):
        limit = read_number(group, "memory.max", "memory.limit_in_bytes")
        used = read_number(group, "memory.current", "memory.usage_in_bytes")
        if limit is not None and used is not None:
            # Files that were read once count as used, but give way.
            stat = _fields(group / "memory.stat")
            idle = stat.get("total_inactive_file", stat.get("inactive_file", 0))
            yield Memory(total=limit, free=max(0, limit - used + idle))


def _fields(file: Path) -> dict[str, int]:
    """Lines such as `MemFree: 5 kB` or `inactive_file 5`."""
    return {name.rstrip(":"): int(value) for name, value, *_ in map(str.split, read_lines(file))}
