"""Which precision matrix products are computed in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def product_dtype(tensor: Tensor) -> torch.dtype:
    """What autocast would compute a product with `tensor` in, for operators that autocast does not know."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


@contextmanager
def tensor_float_32() -> Iterator[None]:
    """Products of float32 on CUDA in TF32: fast enough for training, not exact enough for measuring."""
    cuda = torch.backends.cuda.matmul
    before = cuda.fp32_precision
    cuda.fp32_precision = "tf32"
    try:
        yield
    finally:
        cuda.fp32_precision = before
