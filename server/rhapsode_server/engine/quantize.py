"""Linear layers with int8 weights, for the CPU.

Weights have one scale for each output channel, activations one for each row of a batch, since single tokens of trained
models carry activations a hundred times larger than those of others. Products of int8 are summed exactly, so that a
row's result does not depend on what stands beside it in a batch.

Shape letters: O outputs, I inputs, R rows.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rhapsode_server.engine.loader import LoadedModel
from rhapsode_server.engine.refusal import CANARY_OFF, ModelRefused

# Without VNNI pairs of products are summed in 16 bits: 7 bits of activation keep that from saturating.
_LEVELS = 127 if torch.cpu._is_vnni_supported() else 63
_ZERO_POINT = _LEVELS + 1
_SMALLEST = 1e-12

# Relative error of a product of random activations. Seen: 0.008 to 0.02; a scale twice too large gives 1.
_LARGEST_ERROR = 0.05
_PROBE_ROWS = 4


class Int8Linear(nn.Module):
    """y = x W^T + b for `weight_OI` in float32. Raises ModelRefused if the kernels of this machine get it wrong."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.scales_O = _scales(weight_OI)
        self.bias_O = bias_O
        self.num_bytes = weight_OI.numel()
        self._zero_points_O = torch.zeros(len(weight_OI), dtype=torch.int64)
        weight_int8 = (weight_OI / self.scales_O[:, None]).round_().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(weight_int8, None)

    def forward(self, input_RI: Tensor) -> Tensor:
        """float32 [..., I] to [..., O]."""
        scale_R1 = input_RI.abs().amax(-1, keepdim=True).clamp_(min=_SMALLEST) / _LEVELS
        levels_RI = (input_RI / scale_R1).round_().add_(_ZERO_POINT).to(torch.uint8)
        product_RO: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(levels_RI, 1.0, _ZERO_POINT),
            *(self._packed, self.scales_O, self._zero_points_O, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        return product_RO * scale_R1 if self.bias_O is None else torch.addcmul(self.bias_O, product_RO, scale_R1)


def _scales(weight_OI: Tensor) -> Tensor:
    return weight_OI.abs().amax(1).clamp_(min=_SMALLEST) / 127


@torch.inference_mode()
def quantize(loaded: LoadedModel) -> LoadedModel:
    """Replaces every linear layer of a float32 model on the CPU, the one that gives the logits too.

    Each is compared with the one that it replaces. Raises ModelRefused (canary_off) naming a layer that differs.
    """
    for name, module in list(loaded.model.named_modules()):
        if isinstance(module, nn.Linear | Conv1D):
            loaded.model.set_submodule(name, _replacement(name, module))
    return replace(loaded, dtype="int8")


def int8_bytes(model: nn.Module) -> int:
    """Of the weights that are no parameters any more."""
    return sum(module.num_bytes for module in model.modules() if isinstance(module, Int8Linear))


def _replacement(name: str, module: nn.Linear | Conv1D) -> Int8Linear:
    weight_OI = module.weight if isinstance(module, nn.Linear) else module.weight.t().contiguous()
    made = Int8Linear(weight_OI.detach(), None if module.bias is None else module.bias.detach())
    probe_RI = torch.randn(_PROBE_ROWS, weight_OI.shape[1], generator=torch.Generator().manual_seed(0))
    expected_RO = module(probe_RI)
    error = float((made(probe_RI) - expected_RO).norm() / expected_RO.norm().clamp(min=_SMALLEST))
    if not error <= _LARGEST_ERROR:
        raise ModelRefused(CANARY_OFF, f"{name} in int8 is off by {error:.2g}, above {_LARGEST_ERROR:g}")
    return made
