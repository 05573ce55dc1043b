"""Threads that compute stay each on a core of its own. Linux; elsewhere nothing happens.

Where one of them has to give way for a moment, to the front-end for example, the system moves it to a core on which
another computes. Both then share that core for milliseconds, while the layers wait for the slower.
"""

import os
from itertools import count

import torch

from rhapsode_server.engine.host_processors import cores_of_affinity
from rhapsode_server.engine.kernels import call_on_each_thread


def pin_threads() -> None:
    """The calling thread and those that compute for it, unless they are more or fewer than the cores.

    Fewer leave others free, to which the system may move them. Threads that a pinned one starts begin on its core.
    """
    cores, numbers = cores_of_affinity(), count()
    if hasattr(os, "sched_setaffinity") and torch.get_num_threads() == len(cores):
        call_on_each_thread(lambda: os.sched_setaffinity(0, cores[next(numbers)]))
