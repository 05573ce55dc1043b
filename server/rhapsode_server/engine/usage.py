"""What an engine process takes of its machine. Imports no torch until it measures a GPU."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUsage:
    """A GPU as a whole, whoever uses it: memory in bytes, and the part of the last moments in which it computed; None
    where the driver does not tell."""

    name: str
    memory_used: int
    memory_total: int
    utilization: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """`memory` is what of the process is in main memory, in bytes; `device` is the GPU that it computes on."""

    memory: int
    device: DeviceUsage | None = None


def measure_usage(device: str = "cpu", root: Path = Path("/")) -> Usage:
    """Of this process, which computes on `device`; `root` holds `proc`. Linux: elsewhere the memory is 0."""
    return Usage(memory=_resident_memory(root), device=_device_usage(device) if device.startswith("cuda") else None)


def _resident_memory(root: Path) -> int:
    try:
        pages = int((root / "proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _device_usage(device: str) -> DeviceUsage:
    import torch

    free, total = torch.cuda.mem_get_info(device)
    utilization = None
    # Needs the package nvidia-ml-py, and a GPU that is not divided.
    with suppress(Exception):
        utilization = torch.cuda.utilization(device) / 100
    return DeviceUsage(name=device, memory_used=total - free, memory_total=total, utilization=utilization)
