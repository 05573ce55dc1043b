"""The two operators of a decode step, each a Triton kernel with a form in torch as its oracle and fallback.

To torch each is one call with tensors of fixed shapes, whatever the lengths of the sequences: so a graph can hold it.
Shape letters: R rows, N query heads, K key-value heads, H head dimension (that of values may differ), L slots,
B blocks of a sequence, V vocabulary.
"""

import os
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from rhapsode_server.engine.cuda import reference

_HAS_TRITON = find_spec("triton") is not None


@torch.library.custom_op("rhapsode::paged_decode", mutates_args=("key_blocks", "value_blocks"))
def paged_decode(
    query_RNH: Tensor,
    key_RKH: Tensor,
    value_RKH: Tensor,
    key_blocks: Tensor,
    value_blocks: Tensor,
    tables_LB: Tensor,
    slots_R: Tensor,
    positions_R: Tensor,
    sinks_N: Tensor | None,
    scaling: float,
    window: int,
    softcap: float,
    num_splits: int,
) -> Tensor:
    """Store each row's key and value at its position, and let its query attend to all up to there: [R, N, H].

    Blocks are [blocks, block size, K, H]; `window` and `softcap` are 0 where there is none. A sequence is read in
    `num_splits` parts at once.
    """
    inputs = (query_RNH, key_RKH, value_RKH, key_blocks, value_blocks, tables_LB, slots_R, positions_R, sinks_N)
    if kernels := _kernels("attention_kernel", query_RNH.device):
        with torch.cuda.device_of(query_RNH):  # Triton launches on the current one
            output: Tensor = kernels.paged_decode(*inputs, scaling, window, softcap, num_splits)
        return output
    return reference.paged_decode(*inputs, scaling, window, softcap)


@paged_decode.register_fake
def _(query_RNH: Tensor, key_RKH: Tensor, value_RKH: Tensor, *others: object) -> Tensor:
    return query_RNH.new_empty(*query_RNH.shape[:2], value_RKH.shape[2])


@torch.library.custom_op("rhapsode::draw", mutates_args=())
def draw(logits_RV: Tensor, seeds_R: Tensor, positions_R: Tensor, temperatures_R: Tensor) -> Tensor:
    """One token for each row, int64 [R], as `sample` draws it for rows of no other parameters; 0 degrees are greedy.

    `seeds_R` holds the 64 bits of the seeds, `positions_R` the places of the tokens to draw, both int64;
    `temperatures_R` is float64.
    """
    if kernels := _kernels("draw_kernel", logits_RV.device):
        with torch.cuda.device_of(logits_RV):
            tokens_R: Tensor = kernels.draw(logits_RV, seeds_R, positions_R, temperatures_R)
        return tokens_R
    return reference.draw(logits_RV, seeds_R, positions_R, temperatures_R)


@draw.register_fake
def _(logits_RV: Tensor, seeds_R: Tensor, *others: object) -> Tensor:
    return torch.empty_like(seeds_R)


def _kernels(name: str, device: torch.device) -> ModuleType | None:
    """On a CPU they run under Triton's interpreter, thousands of times slower: only where that is asked for."""
    if not _HAS_TRITON or (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1"):
        return None
    if name == "draw_kernel":
        from rhapsode_server.engine.cuda import draw_kernel

        return draw_kernel
    from rhapsode_server.engine.cuda import attention_kernel

    return attention_kernel
