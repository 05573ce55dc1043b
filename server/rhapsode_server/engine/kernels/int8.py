"""The kernels of int8.cpp: rows of floats to levels of 8 bits, and products of levels to floats.

Shape letters: R rows, E second rows, C rows computed (C >= R + E), I inputs, O outputs.
"""

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from rhapsode_server.engine.kernels import library

_ADDRESS, _NUMBER, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Int8Kernels:
    """For float32. A layer calls them twice in every step, so that microseconds count."""

    def __init__(self, kernels: ctypes.CDLL) -> None:
        self._quantize, self._dequantize = kernels.rhapsode_quantize_rows, kernels.rhapsode_dequantize_rows
        self._quantize.argtypes = [*[_ADDRESS] * 4, *[_NUMBER] * 3, _FLOAT]
        self._quantize.restype = ctypes.c_int64
        self._dequantize.argtypes = [*[_ADDRESS] * 4, *[_NUMBER] * 4]
        self._dequantize.restype = None

    def quantize(
        self, input_RI: Tensor, num_computed: Callable[[int], int], *, highest_level: int, smallest: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Levels [C, I], of which R + E rows are written, scales [R, 1], and the rows [E] that have a second one."""
        assert input_RI.dtype == torch.float32
        input_RI = input_RI.contiguous()
        num_rows, num_inputs = input_RI.shape
        levels = torch.empty(num_computed(2 * num_rows), num_inputs, dtype=torch.uint8)
        scale_R1, owners_R = torch.empty(num_rows, 1), torch.empty(num_rows, dtype=torch.int64)
        addresses = input_RI.data_ptr(), levels.data_ptr(), scale_R1.data_ptr(), owners_R.data_ptr()
        num_owners = self._quantize(*addresses, num_rows, num_inputs, highest_level, smallest)
        return levels[: num_computed(num_rows + num_owners)], scale_R1, owners_R[:num_owners]

    def dequantize(
        self, product_CO: Tensor, scale_R1: Tensor, bias_O: Tensor | None, owners_E: Tensor, *, highest_level: int
    ) -> Tensor:
        """[R, O], in the memory of the product."""
        assert product_CO.dtype == torch.float32
        assert product_CO.is_contiguous()
        num_rows, num_outputs = len(scale_R1), product_CO.shape[1]
        bias = None if bias_O is None else bias_O.data_ptr()
        addresses = product_CO.data_ptr(), scale_R1.data_ptr(), bias, owners_E.data_ptr()
        self._dequantize(*addresses, num_rows, len(owners_E), num_outputs, highest_level)
        return product_CO[:num_rows]


@cache
def int8_kernels() -> Int8Kernels | None:
    kernels = library()
    return Int8Kernels(kernels) if kernels else None
