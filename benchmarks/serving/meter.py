"""What processes cost between two moments: CPU time, and the peak of resident memory (Linux)."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.serving.figures import Cost

KIBIBYTE = 1024


class Meter:
    """`processes` names those of the system at any moment; the calling process counts as the client if not one."""

    def __init__(self, processes: Callable[[], Sequence[psutil.Process]]) -> None:
        self._processes = processes
        self._cpu_seconds = self._client_seconds = 0.0

    def start(self) -> None:
        for process in self._processes():
            # Writing 5 sets the peak back to what is resident now.
            with suppress(OSError):
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        self._cpu_seconds, self._client_seconds = self._cpu(), time.process_time()

    def stop(self) -> Cost:
        peaks = [peak_bytes(process) for process in self._processes()]
        is_client = psutil.Process() not in self._processes()
        return Cost(
            cpu_seconds=self._cpu() - self._cpu_seconds,
            peak_bytes=sum(peaks),
            largest_peak_bytes=max(peaks),
            client_cpu_seconds=time.process_time() - self._client_seconds if is_client else 0.0,
        )

    def _cpu(self) -> float:
        times = [process.cpu_times() for process in self._processes()]
        return sum(each.user + each.system for each in times)


def peak_bytes(process: psutil.Process) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * KIBIBYTE for line in lines if line.startswith("VmHWM:")), 0)


def tree(root: psutil.Process) -> list[psutil.Process]:
    """A process and all below it."""
    return [root, *root.children(recursive=True)]
