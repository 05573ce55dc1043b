"""Linear layers of a loaded model, replaced by modules that compute the same faster on the CPU.

Model definitions stay as they are: a replacement takes the place of one module, and is compared with it.

Shape letters: O outputs, I inputs, R rows, C rows computed (C >= R), P panels, L outputs of a panel, T tokens.
"""

import platform
from collections.abc import Callable, Collection
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import FastGELUActivation, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from rhapsode_server.engine.arena import Arena, room_for
from rhapsode_server.engine.host_memory import host_memory
from rhapsode_server.engine.kernels.gelu import TanhGELU
from rhapsode_server.engine.kernels.linear import linear_kernel
from rhapsode_server.engine.loader import LoadedModel
from rhapsode_server.engine.refusal import CANARY_OFF, NON_FINITE_LOGITS, ModelRefused

# Relative error of a product of random activations, summed in another order. Seen: 3e-7.
_LARGEST_ERROR = 1e-5
_PROBE_ROWS = 4
_SMALLEST = 1e-12


class Replacement(nn.Module):
    """Of a linear layer. `opaque_bytes` is what its weight takes where it is neither a parameter nor a buffer."""

    opaque_bytes = 0


class PanelLinear(Replacement):
    """y = x W^T + b in float32 with our own kernel, which is there where the machine has AVX-512."""

    packed_PIL: Tensor

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        kernel = linear_kernel()
        assert kernel
        self._kernel = kernel
        self.num_outputs = len(weight_OI)
        self.register_buffer("packed_PIL", kernel.pack(weight_OI))
        self.bias_O = bias_O

    def forward(self, input_RI: Tensor) -> Tensor:
        """float32 [..., I] to [..., O]."""
        return self._kernel(input_RI, self.packed_PIL, self.bias_O, self.num_outputs)


class PanelEmbedding(nn.Module):
    """The embedding of a model whose head shares its weight, read from the head's panels."""

    def __init__(self, packed_PIL: Tensor) -> None:
        super().__init__()
        self._packed_PIL = packed_PIL

    def forward(self, token_ids_T: Tensor) -> Tensor:
        """int64 [...] to float32 [..., I]."""
        panel = self._packed_PIL.shape[2]
        return self._packed_PIL[token_ids_T // panel, :, token_ids_T % panel]


class PackedLinear(Replacement):
    """y = x W^T + b in float32, the weight in the order in which oneDNN reads it."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.num_inputs = weight_OI.shape[1]
        self.bias_O = bias_O
        self.opaque_bytes = weight_OI.nbytes
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI)

    def forward(self, input_RI: Tensor) -> Tensor:
        """float32 [..., I] to [..., O]."""
        num_rows = input_RI.numel() // self.num_inputs
        num_computed = num_rows_computed(num_rows)
        if num_computed == num_rows:
            return self._product(input_RI)
        padded_CI = nn.functional.pad(input_RI.reshape(num_rows, -1), (0, 0, 0, num_computed - num_rows))
        return self._product(padded_CI)[:num_rows].view(*input_RI.shape[:-1], -1)

    def _product(self, input_CI: Tensor) -> Tensor:
        output_CO: Tensor = torch.ops.mkldnn._linear_pointwise(input_CI, self._packed, self.bias_O, "none", [], "")
        return output_CO


@cache
def num_rows_computed(num_rows: int) -> int:
    """oneDNN compiles kernels for each number of rows, and keeps them: so there are only four in each octave."""
    step = 1 << max(0, (num_rows - 1).bit_length() - 3)
    return -(-num_rows // step) * step


def can_pack() -> bool:
    """With oneDNN: only where it was tried."""
    return bool(torch.backends.mkldnn.is_available()) and platform.machine() in ("x86_64", "AMD64")


def pack(loaded: LoadedModel) -> LoadedModel:
    """Replaces the layers of a float32 model on the CPU, where that can be done; results differ by rounding alone."""
    if linear_kernel():
        _pack_in_panels(loaded.model)
    elif can_pack():
        replace_linears(loaded.model, PackedLinear, largest_error=_LARGEST_ERROR, kept=_without_room(loaded.model))
    return loaded


def _pack_in_panels(model: PreTrainedModel) -> None:
    embedding = model.get_input_embeddings()
    is_shared = type(embedding) is nn.Embedding and model.get_output_embeddings().weight is embedding.weight
    kept = [] if is_shared else _without_room(model)
    replace_linears(model, PanelLinear, largest_error=_LARGEST_ERROR, kept=kept)
    if is_shared:
        name = next(name for name, module in model.named_modules() if module is embedding)
        model.set_submodule(name, PanelEmbedding(model.get_output_embeddings().packed_PIL))


def _without_room(model: PreTrainedModel) -> list[nn.Module]:
    """The head, if it shares its weight with the embedding and cannot have one of its own.

    To have both takes 12% less time for a step of 16 rows of GPT-2, for 31% of its memory.
    """
    head = model.get_output_embeddings()
    weight: Tensor = head.weight
    if weight is not model.get_input_embeddings().weight:
        return []
    needed = weight.nbytes + sum(parameter.nbytes for parameter in model.parameters())
    return [head] if needed > host_memory().free else []


@torch.inference_mode()
def replace_linears(
    model: nn.Module,
    make: Callable[[Tensor, Tensor | None], Replacement],
    *,
    largest_error: float,
    kept: Collection[nn.Module] = (),
) -> None:
    """Every linear layer but those to be kept. Each is freed before the next one is made.

    Raises ModelRefused: canary_off with the name of a layer whose replacement differs by more than `largest_error` of
    its norm, non_finite_logits with that of one whose weights are of no use.
    """
    names = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and module not in kept
    ]
    for name in names:
        model.set_submodule(name, _replacement(name, model.get_submodule(name), make, largest_error))


def _replacement(name: str, module: Any, make: Callable[[Tensor, Tensor | None], Replacement], bound: float) -> Any:
    weight_OI = module.weight.t() if isinstance(module, Conv1D) else module.weight
    made = make(weight_OI.detach().contiguous(), None if module.bias is None else module.bias.detach().clone())
    probe_RI = torch.randn(_PROBE_ROWS, weight_OI.shape[1], generator=torch.Generator().manual_seed(0))
    expected_RO = module(probe_RI)
    if not expected_RO.isfinite().all():
        raise ModelRefused(NON_FINITE_LOGITS, f"what {name} gives is not finite")
    error = float((made(probe_RI) - expected_RO).norm() / expected_RO.norm().clamp(min=_SMALLEST))
    if not error <= bound:
        raise ModelRefused(CANARY_OFF, f"{type(made).__name__} for {name} is off by {error:.2g}, above {bound:g}")
    return made


def trim(model: nn.Module, make_gelu: Callable[[], nn.Module] = TanhGELU) -> None:
    """GELU as GPT-2 writes it passes the memory once instead of eight times; dropout, which is for training, goes."""
    for name, module in list(model.named_modules()):
        if isinstance(module, NewGELUActivation | FastGELUActivation):
            model.set_submodule(name, make_gelu())
        elif isinstance(module, nn.Dropout):
            model.set_submodule(name, nn.Identity())


@torch.inference_mode()
def settle(model: nn.Module) -> None:
    """Copies all weights to one place in large pages, away from the version's files.

    From then on files that vanish, or a mount that hangs, cannot hurt. As a whole they would stay in memory as long as
    one tensor of them does.
    """
    tensors = [*model.parameters(), *model.buffers()]
    arena = Arena(sum(map(room_for, tensors)))
    for tensor in tensors:
        tensor.data = arena.like(tensor).copy_(tensor)


def weights_bytes(model: nn.Module) -> int:
    """Shared tensors count once."""
    tensors = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    opaque = sum(module.opaque_bytes for module in model.modules() if isinstance(module, Replacement))
    return opaque + sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
