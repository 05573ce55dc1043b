"""Work that is recorded once and replayed: the host then launches a whole step at the cost of one kernel."""

from collections.abc import Callable
from typing import Protocol

import torch

# Between two of them a batch is filled up; linear layers cost about the same, and rows that fill attend to themselves.
_BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)


class Graph(Protocol):
    def replay(self) -> None:
        """Do it again, on the same tensors."""


Capture = Callable[[Callable[[], None]], Graph]


def batch_sizes(most: int) -> tuple[int, ...]:
    """The numbers of rows to record a step for, so that one fits every batch of up to `most` rows."""
    return (*(size for size in _BATCH_SIZES if size < most), most)


class CudaGraphs:
    """Captures work on a device. The graphs share their memory, as they never run at once."""

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def __call__(self, work: Callable[[], None]) -> Graph:
        """`work` runs once before it is recorded, on another stream, for what libraries do at first calls."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph
