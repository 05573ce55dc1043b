"""Linear layers with int8 weights, for the CPU.

Weights have one scale for each output channel, activations one for each row of a batch, since single tokens of trained
models carry activations a hundred times larger than those of others. A row of which a few activations are far larger
than its others has a second row of levels, for what the first one left: without, SmolLM2 loses 4% of its perplexity,
with it 0.2%. Products of int8 are summed exactly, so that a row's result does not depend on what stands beside it.

Shape letters: O outputs, I inputs, R rows, E second rows, C rows computed (C >= R + E), P panels, U units of four
inputs, L outputs of a panel.
"""

from dataclasses import replace

import torch
from torch import Tensor

from rhapsode_server.engine.kernels.int8 import int8_kernel
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


class Int8PanelLinear(Replacement):
    """y = x W^T + b for `weight_OI` in float32, with our own kernel, which is there where the machine has VNNI."""

    _packed_PUL4: Tensor

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        kernel = int8_kernel()
        assert kernel
        self._kernel = kernel
        self.scales_O, weight_int8 = _reduced(weight_OI)
        self.bias_O = bias_O
        packed_PUL4, self._zero_sums_O = kernel.pack(weight_int8)
        self.register_buffer("_packed_PUL4", packed_PUL4)

    def forward(self, input_RI: Tensor) -> Tensor:
        """float32 [..., I] to [..., O]."""
        return self._kernel(input_RI, self._packed_PUL4, self.scales_O, self._zero_sums_O, self.bias_O)


class Int8Linear(Replacement):
    """The same with oneDNN's product: the oracle, and what is left where there is no kernel."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.num_inputs = weight_OI.shape[1]
        self.scales_O, weight_int8 = _reduced(weight_OI)
        self.bias_O = bias_O
        self.opaque_bytes = weight_OI.numel()
        self._zero_points_O = torch.zeros(len(weight_OI), dtype=torch.int64)
        self._packed = torch.ops.onednn.qlinear_prepack(weight_int8, None)

    def forward(self, input_RI: Tensor) -> Tensor:
        """float32 [..., I] to [..., O]."""
        rows_RI = input_RI.reshape(input_RI.numel() // self.num_inputs, self.num_inputs)
        levels_CI, scale_R1, owners_E = _levels(rows_RI)
        product_CO: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(levels_CI, 1.0, _ZERO_POINT),
            *(self._packed, self.scales_O, self._zero_points_O, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        output_RO = _outputs(product_CO, scale_R1, owners_E)
        if self.bias_O is not None:
            output_RO += self.bias_O
        return output_RO.view(*input_RI.shape[:-1], len(self.scales_O))


def _levels(input_RI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Levels [C, I], of which R + E rows mean something, scales [R, 1], and the rows [E] that have a second one."""
    num_inputs = input_RI.shape[1]
    largest_R1 = input_RI.abs().amax(-1, keepdim=True).clamp_(min=_SMALLEST)
    exact_RI = input_RI * (_LEVELS / largest_R1)
    rounded_RI = exact_RI.round()
    is_coarse_R = rounded_RI.double().square().sum(1) * _COARSE**2 < num_inputs * _LEVELS**2
    owners_E = is_coarse_R.nonzero()[:, 0]
    rest_EI = ((exact_RI - rounded_RI)[owners_E] * (2 * _LEVELS)).round()
    levels = torch.cat((rounded_RI, rest_EI)).add_(_ZERO_POINT).to(torch.uint8)
    padding = (0, 0, 0, num_rows_computed(len(levels)) - len(levels))
    return torch.nn.functional.pad(levels, padding), largest_R1 / _LEVELS, owners_E


def _outputs(product_CO: Tensor, scale_R1: Tensor, owners_E: Tensor) -> Tensor:
    """[R, O]."""
    num_rows, num_owners = len(scale_R1), len(owners_E)
    output_RO = product_CO[:num_rows] * scale_R1
    output_RO[owners_E] += product_CO[num_rows : num_rows + num_owners] * (scale_R1[owners_E] / (2 * _LEVELS))
    return output_RO


def _reduced(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Scales [O], and the weight in int8."""
    scales_O = weight_OI.abs().amax(1).clamp_(min=_SMALLEST) / 127
    return scales_O, (weight_OI / scales_O[:, None]).round_().to(torch.int8)


def quantize(loaded: LoadedModel) -> LoadedModel:
    """Replaces every linear layer of a float32 model on the CPU.

    Raises ModelRefused (canary_off) naming a layer that the kernels of this machine get wrong.
    """
    make = Int8PanelLinear if int8_kernel() else Int8Linear
    replace_linears(loaded.model, make, largest_error=_LARGEST_ERROR)
    return replace(loaded, dtype="int8")
