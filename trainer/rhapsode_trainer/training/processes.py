"""Training in several processes (`accelerate launch`): who is the main one, and how all of them decide alike.

The main process alone writes: status, checkpoints, versions. The others help to train. What a process sees alone (a
signal, a clock) is a decision only once all have it, or some would wait for the others forever.
"""

import atexit
from typing import Any

import torch
from accelerate import PartialState
from torch import distributed

from ..environment import is_main, world_size

__all__ = ["Processes", "begin_together", "is_main", "world_size"]


def begin_together(go: bool) -> bool:
    """What the main process says: whether there is something to do. Call it in all processes, or in none."""
    if world_size() == 1:
        return go
    PartialState(cpu=not torch.cuda.is_available())
    # Threads of a group that is still there when the interpreter goes may abort the process.
    atexit.register(_leave)
    return bool(Processes().from_main(go))


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


class Processes:
    """All processes of a run; make it in all of them, once the process group is up. Alone, everything is immediate."""

    def __init__(self) -> None:
        together = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        # On the host, so that no step waits for a device.
        self._group = distributed.new_group(backend="gloo") if together else None
        self.main = not together or distributed.get_rank() == 0

    def largest(self, *values: int) -> tuple[int, ...]:
        """The largest value of each place over all processes."""
        if self._group is None:
            return values
        tensor = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=self._group)
        return tuple(tensor.tolist())

    def from_main(self, value: Any) -> Any:
        """The value that the main process has."""
        if self._group is None:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def wait(self) -> None:
        """Returns when all processes are here."""
        if self._group is not None:
            distributed.barrier(group=self._group)
