"""Linear layers with int8 weights, for the CPU.

Weights have one scale for each output channel, activations one for each row of a batch, since single tokens of trained
models carry activations a hundred times larger than those of others. A row of which a few activations are far larger
than its others has a second row of levels, for what the first one left: without, SmolLM2 loses 4% of its perplexity,
with it 0.2%. Products of int8 are summed exactly, so that a row's result does not depend on what stands beside it.

Shape letters: O outputs, I inputs, R rows, E second rows, C rows computed (C >= R + E).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from rhapsode_server.engine.kernels.int8 import Int8Kernels, int8_kernels
from rhapsode_server.engine.linears import Replacement, num_rows_computed, replace_linears
from rhapsode_server.engine.loader import LoadedModel

# Without VNNI pairs of products are summed in 16 bits: 7 bits of activation keep that from saturating.
_LEVELS = 127 if torch.cpu._is_vnni_supported() else 63
_ZERO_POINT = _LEVELS + 1
_SMALLEST = 1e-12

# Times the root of a row's mean square: a larger activation leaves few levels to the others. int8.cpp has it too.
_COARSE = 10

# Relative error of a product of random activations. Seen: 0.008 to 0.02; a scale twice too large gives 1.
_LARGEST_ERROR = 0.05


class TorchRows:
    """What Int8Kernels computes, in several passes: its oracle, and what is left where there are no kernels."""

    def quantize(
        self, input_RI: Tensor, num_computed: Callable[[int], int], *, highest_level: int, smallest: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Levels [C, I], of which R + E rows mean something, scales [R, 1], and the rows [E] that have a second one."""
        num_inputs = input_RI.shape[1]
        largest_R1 = input_RI.abs().amax(-1, keepdim=True).clamp_(min=smallest)
        exact_RI = input_RI * (highest_level / largest_R1)
        rounded_RI = exact_RI.round()
        is_coarse_R = rounded_RI.double().square().sum(1) * _COARSE**2 < num_inputs * highest_level**2
        owners_E = is_coarse_R.nonzero()[:, 0]
        rest_EI = ((exact_RI - rounded_RI)[owners_E] * (2 * highest_level)).round()
        levels = torch.cat((rounded_RI, rest_EI)).add_(highest_level + 1).to(torch.uint8)
        padding = (0, 0, 0, num_computed(len(levels)) - len(levels))
        return torch.nn.functional.pad(levels, padding), largest_R1 / highest_level, owners_E

    def dequantize(
        self, product_CO: Tensor, scale_R1: Tensor, bias_O: Tensor | None, owners_E: Tensor, *, highest_level: int
    ) -> Tensor:
        """[R, O]."""
        num_rows, num_owners = len(scale_R1), len(owners_E)
        output_RO = product_CO[:num_rows] * scale_R1
        output_RO[owners_E] += product_CO[num_rows : num_rows + num_owners] * (scale_R1[owners_E] / (2 * highest_level))
        return output_RO if bias_O is None else output_RO.add_(bias_O)


class Int8Linear(Replacement):
    """y = x W^T + b for `weight_OI` in float32."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.num_inputs = weight_OI.shape[1]
        self.scales_O = _scales(weight_OI)
        self.bias_O = bias_O
        self.num_bytes = weight_OI.numel()
        self.rows: Int8Kernels | TorchRows = int8_kernels() or TorchRows()
        self._zero_points_O = torch.zeros(len(weight_OI), dtype=torch.int64)
        weight_int8 = (weight_OI / self.scales_O[:, None]).round_().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(weight_int8, None)

    def forward(self, input_RI: Tensor) -> Tensor:
        """float32 [..., I] to [..., O]."""
        rows_RI = input_RI.reshape(input_RI.numel() // self.num_inputs, self.num_inputs)
        levels_CI, scale_R1, owners_E = self.rows.quantize(
            rows_RI, num_rows_computed, highest_level=_LEVELS, smallest=_SMALLEST
        )
        product_CO: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(levels_CI, 1.0, _ZERO_POINT),
            *(self._packed, self.scales_O, self._zero_points_O, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        output_RO = self.rows.dequantize(product_CO, scale_R1, self.bias_O, owners_E, highest_level=_LEVELS)
        return output_RO.view(*input_RI.shape[:-1], len(self.scales_O))


def _scales(weight_OI: Tensor) -> Tensor:
    return weight_OI.abs().amax(1).clamp_(min=_SMALLEST) / 127


def quantize(loaded: LoadedModel) -> LoadedModel:
    """Replaces every linear layer of a float32 model on the CPU.

    Raises ModelRefused (canary_off) naming a layer that the kernels of this machine get wrong.
    """
    replace_linears(loaded.model, Int8Linear, largest_error=_LARGEST_ERROR)
    return replace(loaded, dtype="int8")
