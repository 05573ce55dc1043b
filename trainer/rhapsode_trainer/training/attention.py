"""Attention over rows that carry no mask: which function computes it, and what the function is given.

transformers builds a mask whenever a name for attention has a function for masks, and then the fast kernels are out of
reach; these names have none. For full blocks, or padding on the right, causal attention needs nothing else. Packed
rows need the bounds of their documents, which are taken from the position ids once per step, on the host: the layers
would wait for the device to find them.

Shapes: B rows, T tokens, H heads, D size of a head, S documents in the batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, default_data_collator
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .precision import product_dtype

varlen_attn: Any
try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None

CAUSAL, PACKED, MASKED = "rhapsode_causal", "rhapsode_packed", "sdpa"

Rows = Sequence[dict[str, Any]]
_NOT_HONOURED = ("sliding_window", "softcap", "s_aux", "position_bias", "cache")
_WINDOWS = ("sliding_window", "attention_chunk_size")


def causal(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Every token sees itself and those before it in its row. Tensors are BHTD, the result is BTHD."""
    _refuse(attention_mask, is_causal, options)
    result, _ = sdpa_attention_forward(
        module, query, key, value, None, dropout=dropout, scaling=scaling, is_causal=True
    )
    return result, None


def packed(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Every token sees itself and those before it in its document. `cu_seq_lens_q` (S + 1) are the bounds of the
    documents in all rows one after the other. Tensors are BHTD, the result is BTHD."""
    _refuse(attention_mask, is_causal, options)
    if cu_seq_lens_q is None or max_length_q is None:
        raise ValueError("the model does not pass the bounds of documents on to its attention")
    if dropout:
        raise ValueError(f"the kernel for packed rows has no dropout, and that of attention is {dropout:g}")
    rows, dtype = query.shape[0], product_dtype(query)
    flat = [tensor.transpose(1, 2).flatten(0, 1).to(dtype) for tensor in (query, key, value)]
    bounds, longest = (cu_seq_lens_q, cu_seq_lens_q), (max_length_q, max_length_q)
    result = varlen_attn(*flat, *bounds, *longest, **_kernel_options(query, key, scaling))
    return result.unflatten(0, (rows, -1)), None


def _kernel_options(query: Tensor, key: Tensor, scaling: float | None) -> dict[str, Any]:
    """Causal; and what not every release of torch knows only where it is needed."""
    options: dict[str, Any] = {"window_size": (-1, 0)}
    if scaling is not None:
        options["scale"] = scaling
    if query.shape[1] != key.shape[1]:
        options["enable_gqa"] = True
    return options


def _refuse(attention_mask: Tensor | None, is_causal: bool | None, options: dict[str, Any]) -> None:
    asked = [name for name in _NOT_HONOURED if options.get(name) is not None]
    if attention_mask is not None:
        asked.append("attention_mask")
    if is_causal is False:
        asked.append("is_causal=False")
    if asked:
        raise ValueError(f"attention asks for what the fast kernels do not do: {', '.join(asked)}")


AttentionInterface.register(CAUSAL, causal)
AttentionInterface.register(PACKED, packed)


@contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """Within the block, `model` computes attention by this name. Raises ValueError if it cannot be told to, or if not
    every layer of it sees all that came before: a window may be longer than what is tried out."""
    windows = [getattr(model.config, limit, None) for limit in _WINDOWS]
    if not model._can_set_attn_implementation() or any(windows):
        raise ValueError(f"{type(model).__name__} has an attention of its own")
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def with_bounds(rows: Rows) -> dict[str, Any]:
    """The batch for PACKED."""
    batch: dict[str, Any] = default_data_collator(list(rows))
    positions_BT = batch["position_ids"]
    starts = (positions_BT.flatten() == 0).nonzero().flatten()
    bounds = torch.cat([starts, starts.new_tensor([positions_BT.numel()])]).int()
    length = positions_BT.shape[1]  # that of the longest document would be another number in each batch
    return {**batch, "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": length, "max_length_k": length}


def with_mask(rows: Rows) -> dict[str, Any]:
    """The batch for MASKED: who sees whom, B1TT."""
    batch: dict[str, Any] = default_data_collator(list(rows))
    document_BT = (batch["position_ids"] == 0).cumsum(dim=1)
    seen_BTT = (document_BT[:, :, None] == document_BT[:, None, :]).tril()
    return {**batch, "attention_mask": seen_BTT[:, None]}
