"""What a process asks of the operating system for itself. Linux; elsewhere nothing happens."""

import ctypes
import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_LOWEST_PRIORITY = 19


def end_with_parent(parent: int) -> None:
    """From now on the system kills this process when its parent ends, even one that is stopped or hangs.

    `parent` is the process id of whoever started this one, which may have ended already. "Ends" is said of the
    parent's thread that started this process: it must live as long as the parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


def lower_priority() -> None:
    """Of the calling thread and those that it will start: they give way to all others. There is no way back."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, 0, _LOWEST_PRIORITY)


def run_on(processors: Collection[int]) -> None:
    """The calling thread, and those that it will start, whatever the one that started it was bound to."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, processors)


def return_freed_memory() -> None:
    """The C library keeps what was freed for later; the system gets it back, where the library can do that."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # musl has nothing of the kind
            ctypes.CDLL(None).malloc_trim(0)
