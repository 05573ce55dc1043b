"""The kernel of linear.cpp: y = x W^T + b in float32, W in panels of outputs.

Shape letters: O outputs, I inputs, R rows, P panels, L outputs of a panel.
"""

import ctypes
from functools import cache

import torch
from torch import Tensor

from rhapsode_server.engine.kernels import library
from rhapsode_server.engine.tape import call

_ADDRESS, _NUMBER = ctypes.c_void_p, ctypes.c_int64


class LinearKernel:
    """What a row gives does not depend on the rows beside it."""

    def __init__(self, kernels: ctypes.CDLL) -> None:
        kernels.rhapsode_panel.restype = _NUMBER
        self.panel: int = kernels.rhapsode_panel()
        self._linear = kernels.rhapsode_linear
        self._linear.argtypes = [*[_ADDRESS] * 4, *[_NUMBER] * 3]
        self._linear.restype = None

    def pack(self, weight_OI: Tensor) -> Tensor:
        """[P, I, L]; outputs that only fill up the last panel are zero."""
        num_outputs, num_inputs = weight_OI.shape
        num_panels = -(-num_outputs // self.panel)
        filled_OI = torch.nn.functional.pad(weight_OI, (0, 0, 0, num_panels * self.panel - num_outputs))
        return filled_OI.view(num_panels, self.panel, num_inputs).transpose(1, 2).contiguous()

    def __call__(self, input_RI: Tensor, packed_PIL: Tensor, bias_O: Tensor | None, num_outputs: int) -> Tensor:
        """[..., I] to [..., O]."""
        assert input_RI.dtype == packed_PIL.dtype == torch.float32
        input_RI = input_RI.contiguous()
        num_inputs = packed_PIL.shape[1]
        output_RO = torch.empty(*input_RI.shape[:-1], num_outputs)
        bias = None if bias_O is None else bias_O.data_ptr()
        addresses = input_RI.data_ptr(), packed_PIL.data_ptr(), bias, output_RO.data_ptr()
        call(self._linear, *addresses, input_RI.numel() // num_inputs, num_inputs, num_outputs)
        return output_RO


@cache
def linear_kernel() -> LinearKernel | None:
    """None where oneDNN is faster: without AVX-512 the kernel's sums are more than there are registers."""
    kernels = library()
    return LinearKernel(kernels) if kernels and kernels.rhapsode_linear_is_fast() else None
