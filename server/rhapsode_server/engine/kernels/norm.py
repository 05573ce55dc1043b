"""The kernel of norm.cpp: layer norm and RMS norm in one call, where models write the latter in six.

Shape letters: R rows, I inputs.
"""

import ctypes
import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from rhapsode_server.engine.kernels import library
from rhapsode_server.engine.tape import call

_ADDRESS, _NUMBER = ctypes.c_void_p, ctypes.c_int64
_PROBE_ROWS = 4


class FastNorm(nn.Module):
    """What `exact` computes over the last dimension, for float32 on the CPU; other types are left to it."""

    def __init__(self, exact: Any, epsilon: float, *, is_centred: bool) -> None:
        super().__init__()
        self.exact = exact
        self.epsilon = epsilon
        self.is_centred = is_centred

    def forward(self, input_RI: Tensor) -> Tensor:
        """[..., I] to the same."""
        kernel, weight_I = _kernel(), self.exact.weight
        if kernel is None or input_RI.dtype != torch.float32:
            return self.exact(input_RI)  # type: ignore[no-any-return]
        input_RI = input_RI.contiguous()
        output_RI = torch.empty_like(input_RI)
        bias_I = getattr(self.exact, "bias", None)
        addresses = input_RI.data_ptr(), weight_I.data_ptr(), None if bias_I is None else bias_I.data_ptr()
        num_inputs = len(weight_I)
        sizes = input_RI.numel() // num_inputs, num_inputs
        call(kernel, *addresses, output_RI.data_ptr(), *sizes, self.epsilon, self.is_centred)
        return output_RI


@torch.inference_mode()
def replace_norms(model: nn.Module) -> None:
    """Those of a float32 model on the CPU that the kernel gives the same results for."""
    for name, module in list(model.named_modules()):
        if made := fast_norm(module):
            model.set_submodule(name, made)


def fast_norm(exact: nn.Module) -> FastNorm | None:
    """None for what is no norm, or one of another kind, such as Gemma's, which adds one to its weight."""
    weight: Any = getattr(exact, "weight", None)
    if not _is_norm(exact) or weight is None or weight.dim() != 1 or weight.dtype != torch.float32:
        return None
    epsilon = getattr(exact, "variance_epsilon", getattr(exact, "eps", None))
    if epsilon is None or not _kernel():
        return None
    made = FastNorm(exact, epsilon, is_centred=isinstance(exact, nn.LayerNorm))
    probe_RI = torch.randn(_PROBE_ROWS, len(weight), generator=torch.Generator().manual_seed(0)) * 2 + 0.5
    return made if torch.allclose(made(probe_RI), exact(probe_RI), rtol=1e-4, atol=1e-5) else None


def _is_norm(module: nn.Module) -> bool:
    """By name: every model of transformers has a class of its own."""
    takes_input_alone = len(inspect.signature(module.forward).parameters) == 1
    return takes_input_alone and (type(module) is nn.LayerNorm or type(module).__name__.endswith("RMSNorm"))


@cache
def _kernel() -> Any:
    kernels = library()
    if kernels is None:
        return None
    kernels.rhapsode_norm.argtypes = [*[_ADDRESS] * 4, *[_NUMBER] * 2, ctypes.c_float, ctypes.c_int]
    kernels.rhapsode_norm.restype = None
    return kernels.rhapsode_norm
