"""What a CUDA graph does, on a CPU: the operations of a piece of work are recorded with their tensors and replayed.

As with a real one, no Python of the work runs again: a number, a list or a branch is what it was at the recording, and
so is the memory. Whatever would wait for a device, or bring something from the host, cannot be recorded.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::nonzero",
    "aten::masked_select",
    "aten::lift_fresh",
    "aten::equal",
    "aten::is_nonzero",
}


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in WAITING:
            raise RuntimeError(f"{func._schema.name} is not permitted when a stream is capturing")
        outputs = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, _tensors(outputs)))
        return outputs


@dataclass
class RecordedGraph:
    """`num_replays` counts."""

    calls: list[tuple[Callable[..., Any], Any, Any, list[Tensor]]]
    num_replays: int = 0

    def replay(self) -> None:
        self.num_replays += 1
        for func, args, kwargs, outputs in self.calls:
            for there, new in zip(outputs, _tensors(func(*args, **kwargs)), strict=True):
                if there.data_ptr() != new.data_ptr():
                    there.copy_(new)


@dataclass
class Recording:
    """A Capture that keeps what it made."""

    graphs: list[RecordedGraph] = field(default_factory=list)

    def __call__(self, work: Callable[[], None]) -> RecordedGraph:
        work()
        with _Recorder() as recorder:
            work()
        self.graphs.append(RecordedGraph(recorder.calls))
        return self.graphs[-1]

    @property
    def num_replays(self) -> int:
        return sum(graph.num_replays for graph in self.graphs)


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
