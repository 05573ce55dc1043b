"""What a process and its descendants hold of the machine, by /proc."""

from collections.abc import Iterator
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """All processes below it that still run, ascending."""
    return sorted(_descendants(pid))


def is_alive(pid: int) -> bool:
    """A zombie is not: it holds nothing any more."""
    try:
        return _field(pid, "State").split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def num_descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def num_threads(pid: int) -> int:
    return int(_field(pid, "Threads"))


def resident_mib(pid: int) -> float:
    return int(_field(pid, "VmRSS").split()[0]) / 1024


def data_size(pid: int) -> int:
    """Bytes that are mapped to be written by this process alone: what RLIMIT_DATA bounds."""
    return int(_field(pid, "VmData").split()[0]) * 1024


def _descendants(pid: int) -> Iterator[int]:
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in tasks.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended
            continue
        for child in filter(is_alive, children):
            yield child
            yield from _descendants(child)


def _field(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:")), "0")
