"""The kernel of int8.cpp: y = x W^T + b with weights of 8 bits, W in panels of outputs.

Shape letters: O outputs, I inputs, R rows, P panels, U units of four inputs, L outputs of a panel.
"""

import ctypes
from functools import cache

import torch
from torch import Tensor

from rhapsode_server.engine.kernels import library
from rhapsode_server.engine.tape import call

_ADDRESS, _NUMBER = ctypes.c_void_p, ctypes.c_int64
_ZERO_LEVEL = 128


class Int8Kernel:
    """Sums are exact: what a row gives does not depend on the rows beside it."""

    def __init__(self, kernels: ctypes.CDLL) -> None:
        kernels.rhapsode_panel.restype = _NUMBER
        self.panel: int = kernels.rhapsode_panel()
        self._linear = kernels.rhapsode_int8_linear
        self._linear.argtypes = [*[_ADDRESS] * 6, *[_NUMBER] * 3]
        self._linear.restype = None

    def pack(self, weight_OI: Tensor) -> tuple[Tensor, Tensor]:
        """int8 to [P, U, L, 4], filled up with zeros; and what the levels' zero adds to each output, int32 [O]."""
        num_outputs, num_inputs = weight_OI.shape
        num_panels, num_units = -(-num_outputs // self.panel), -(-num_inputs // 4)
        filled = torch.zeros(num_panels * self.panel, num_units * 4, dtype=torch.int8)
        filled[:num_outputs, :num_inputs] = weight_OI
        packed = filled.view(num_panels, self.panel, num_units, 4).transpose(1, 2).contiguous()
        return packed, weight_OI.sum(1, dtype=torch.int32) * _ZERO_LEVEL

    def __call__(
        self, input_RI: Tensor, packed_PUL4: Tensor, scales_O: Tensor, zero_sums_O: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        """float32 [..., I] to [..., O]."""
        assert input_RI.dtype == scales_O.dtype == torch.float32
        input_RI = input_RI.contiguous()
        num_inputs, num_outputs = input_RI.shape[-1], len(scales_O)
        output_RO = torch.empty(*input_RI.shape[:-1], num_outputs)
        bias = None if bias_O is None else bias_O.data_ptr()
        weights = packed_PUL4.data_ptr(), scales_O.data_ptr(), zero_sums_O.data_ptr(), bias
        sizes = input_RI.numel() // num_inputs, num_inputs, num_outputs
        call(self._linear, input_RI.data_ptr(), *weights, output_RO.data_ptr(), *sizes)
        return output_RO


@cache
def int8_kernel() -> Int8Kernel | None:
    """None where the machine has no AVX-512 VNNI, or no kernels were built."""
    kernels = library()
    return Int8Kernel(kernels) if kernels and kernels.rhapsode_int8_is_fast() else None
