"""Kernels in C++ for what torch has no fast form of on a CPU. Each has an oracle and fallback in torch.

To add one: NAME.cpp beside this file with an extern "C" function over plain pointers (`parallel.h` has threads and
CLONES), and a class with its argument types that is made from `library()`; then install the server again.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache

import torch

from rhapsode_server.engine.kernels.compile import LIBRARY, sources_hash


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, on torch's own threads; None where they were not built, or if RHAPSODE_KERNELS is off."""
    if os.environ.get("RHAPSODE_KERNELS") == "off" or not LIBRARY.exists():
        return None
    kernels = ctypes.CDLL(str(LIBRARY))
    if not _is_made_from_these_sources(kernels):
        print(f"{LIBRARY.name} is older than its sources and not used: install the server again", file=sys.stderr)
        return None
    kernels.rhapsode_use_threads.argtypes = [ctypes.c_void_p]
    kernels.rhapsode_use_threads(_parallel_regions_of_torch())
    return kernels


def call_on_each_thread(function: Callable[[], None]) -> None:
    """Once on each thread that computes for the calling one, itself among them; not at all without torch's OpenMP."""
    if address := _parallel_regions_of_torch():
        region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: function())
        as_many_as_torch_set = ctypes.c_uint(0)
        parallel = ctypes.CFUNCTYPE(None, type(region), ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(address)
        parallel(region, None, as_many_as_torch_set, 0)


def _is_made_from_these_sources(kernels: ctypes.CDLL) -> bool:
    kernels.rhapsode_sources.restype = ctypes.c_char_p
    return bool(kernels.rhapsode_sources() == sources_hash().encode())


def _parallel_regions_of_torch() -> int | None:
    """The address of GOMP_parallel in what torch is linked with; without it kernels run on one thread."""
    try:
        function = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    return ctypes.cast(function, ctypes.c_void_p).value
