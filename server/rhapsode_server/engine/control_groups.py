"""The control groups (v1 or v2) that this process is in, as the system's files tell. Linux. Imports no torch.

`root` holds `proc` and `sys` everywhere.
"""

from collections.abc import Iterator
from pathlib import Path


def group_folders(root: Path, controller: str) -> Iterator[Path]:
    """Of the process's groups with this controller, from its own to the outermost; some need not exist.

    A container may see its own group as the outermost, whatever path the system names.
    """
    for line in read_lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / (controller if controllers else "")
            own = mount / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(mount))


def read_number(group: Path, *names: str) -> int | None:
    """Of the first of these files that is there; None if none is, or it holds no number (`max`)."""
    lines = [line for name in names for line in read_lines(group / name)]
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def read_lines(file: Path) -> list[str]:
    """Empty where the file cannot be read."""
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
