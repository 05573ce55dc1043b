"""Small tensors between host and device, without waiting for the device where that can be helped."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def to_device(values: Sequence[float] | Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Host values on the device. From pinned memory, because other copies to CUDA wait for all work before them."""
    host = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)


@dataclass(frozen=True, slots=True)
class CopyToHost:
    """A copy that began when it was made; reading it waits for it alone, not for work launched since."""

    host: Tensor
    done: "torch.cuda.Event | None"

    @classmethod
    def begin(cls, tensor: Tensor) -> "CopyToHost":
        if tensor.device.type != "cuda":
            return cls(tensor, None)
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(tensor.device))
        return cls(host, done)

    def read(self) -> Tensor:
        if self.done is not None:
            self.done.synchronize()
        return self.host
