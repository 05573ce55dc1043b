"""The memory of this machine, or of the control groups (v1 or v2) that this process is in. Linux. Imports no torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


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
    for group in _groups(root):
        limit = _number(group, "memory.max", "memory.limit_in_bytes")
        used = _number(group, "memory.current", "memory.usage_in_bytes")
        if limit is not None and used is not None:
            # Files that were read once count as used, but give way.
            stat = _fields(group / "memory.stat")
            idle = stat.get("total_inactive_file", stat.get("inactive_file", 0))
            yield Memory(total=limit, free=max(0, limit - used + idle))


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's memory groups, from its own to the outermost; some need not exist.

    A container may see its own group as the outermost, whatever path the system names.
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
            own = mount / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(mount))


def _number(group: Path, *names: str) -> int | None:
    """Of the first of these files that is there; None if none is, or it holds no number (`max`)."""
    lines = [line for name in names for line in _lines(group / name)]
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _fields(file: Path) -> dict[str, int]:
    """Lines such as `MemFree: 5 kB` or `inactive_file 5`."""
    return {name.rstrip(":"): int(value) for name, value, *_ in map(str.split, _lines(file))}


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
