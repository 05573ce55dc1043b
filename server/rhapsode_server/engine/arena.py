"""Memory of the CPU that tensors share, in pages of 2 MB where the system gives them to those who ask.

A step on a CPU reads every weight. Among pages of 4 kB the processor looks one up for every 64 lines, in the tables of
the machine and, on a virtual one, in those of its host too, and reads ahead no further than their ends.
"""

import mmap
from dataclasses import dataclass, field

import torch
from torch import Tensor

_ALIGNMENT = 64
_PAGE = 1 << 21


@dataclass(slots=True)
class Arena:
    """Gives tensors places, one behind the other. What finds no room there has memory of its own."""

    num_bytes: int
    _memory: Tensor = field(init=False)
    _used: int = 0

    def __post_init__(self) -> None:
        self._memory = _in_large_pages(self.num_bytes)

    @property
    def num_bytes_used(self) -> int:
        """Asked for since it was cleared, even if there was no room."""
        return self._used

    def clear(self) -> None:
        """What was given is given again."""
        self._used = 0

    def like(self, tensor: Tensor) -> Tensor:
        """One of the same size, strides and type, its content undefined."""
        begin = self._used
        self._used += room_for(tensor)
        if self._used > self.num_bytes:
            return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
        part = self._memory[begin : self._used].view(tensor.dtype)
        return part.as_strided(tensor.size(), tensor.stride(), part.storage_offset())


def room_for(tensor: Tensor) -> int:
    """Bytes of an arena that one like it takes."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.size(), tensor.stride(), strict=True))
    num_bytes = (last + 1) * tensor.element_size() if tensor.numel() else 0
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def _in_large_pages(num_bytes: int) -> Tensor:
    """uint8 [num_bytes]; in common memory where there are no such pages, or it would not fill one."""
    if num_bytes < _PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(num_bytes, dtype=torch.uint8)
    # A mapping is aligned to small pages: one more is where the first large one may have to begin.
    mapping = mmap.mmap(-1, num_bytes + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE)
    memory = torch.frombuffer(mapping, dtype=torch.uint8)
    begin = -memory.data_ptr() % _PAGE
    return memory[begin : begin + num_bytes]
