"""Attention row by row: the slow and obvious form, on any device, with every option of AttentionOptions.

Shape letters: N query heads, K key-value heads, H head dimension, P packed tokens of all rows, T tokens of one row,
S tokens of one sequence so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rhapsode_server.engine.attention import AttentionOptions
from rhapsode_server.engine.batch import Row


class SequenceCache(Protocol):
    """Keys and values of sequences, such as a KVCache."""

    def append(self, layer: int, row: Row, keys_KTH: Tensor, values_KTH: Tensor) -> tuple[Tensor, Tensor]:
        """Store the row's and return all of the sequence's so far: [K, S, H] each."""


@dataclass(slots=True)
class RowBatch:
    """A ForwardBatch."""

    rows: Sequence[Row]
    kv_cache: SequenceCache
    num_layers_seen: int = 0
    _masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)

    def attend(self, query_1NPH: Tensor, key_1KPH: Tensor, value_1KPH: Tensor, options: AttentionOptions) -> Tensor:
        layer, position, outputs = self.num_layers_seen, 0, []
        self.num_layers_seen += 1
        for row in self.rows:
            span = slice(position, position + row.num_tokens)
            keys_KSH, values_KSH = self.kv_cache.append(layer, row, key_1KPH[0, :, span], value_1KPH[0, :, span])
            outputs.append(attend(query_1NPH[0, :, span], keys_KSH, values_KSH, options, self))
            position = span.stop
        return torch.cat(outputs, dim=1).transpose(0, 1).unsqueeze(0)

    def mask(self, num_queries: int, num_keys: int, window: int | None, device: torch.device) -> Tensor | None:
        """True where a query may look, aligned to the end: [T, S]. None: everywhere. Layers share them."""
        if num_queries == 1:
            return None
        key = (num_queries, num_keys, window)
        if key not in self._masks:
            self._masks[key] = _causal_mask(num_queries, num_keys, window, device)
        return self._masks[key]


def attend(
    query_NTH: Tensor, keys_KSH: Tensor, values_KSH: Tensor, options: AttentionOptions, batch: RowBatch
) -> Tensor:
    """The last T of S tokens attend causally. Returns [N, T, H]."""
    num_queries = query_NTH.shape[1]
    if options.sliding_window is not None:
        first = max(0, keys_KSH.shape[1] - options.sliding_window - num_queries + 1)
        keys_KSH, values_KSH = keys_KSH[:, first:], values_KSH[:, first:]
    mask_TS = batch.mask(num_queries, keys_KSH.shape[1], options.sliding_window, query_NTH.device)
    if not options.is_plain:
        return _attend_by_hand(query_NTH, keys_KSH, values_KSH, mask_TS, options)
    is_square = num_queries == keys_KSH.shape[1] and options.sliding_window is None
    return scaled_dot_product_attention(
        query_NTH[None],
        keys_KSH[None],
        values_KSH[None],
        attn_mask=None if is_square else mask_TS,
        is_causal=is_square and num_queries > 1,
        scale=options.scaling,
        enable_gqa=query_NTH.shape[0] != keys_KSH.shape[0],
    )[0]


def _causal_mask(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> Tensor:
    mask_TS = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(num_keys - num_queries)
    return mask_TS if window is None else mask_TS.triu(num_keys - num_queries - window + 1)


def _attend_by_hand(
    query_NTH: Tensor, keys_KSH: Tensor, values_KSH: Tensor, mask_TS: Tensor | None, options: AttentionOptions
) -> Tensor:
    group = query_NTH.shape[0] // keys_KSH.shape[0]
    keys_NSH, values_NSH = keys_KSH.repeat_interleave(group, 0), values_KSH.repeat_interleave(group, 0)
    scaling = options.scaling if options.scaling is not None else query_NTH.shape[-1] ** -0.5
    scores_NTS = query_NTH @ keys_NSH.mT * scaling
    if options.softcap is not None:
        scores_NTS = torch.tanh(scores_NTS / options.softcap) * options.softcap
    if mask_TS is not None:
        scores_NTS = scores_NTS.masked_fill(~mask_TS, -torch.inf)
    weights_NTS = _softmax_with_sinks(scores_NTS.float(), options.sinks)
    return weights_NTS.to(values_NSH.dtype) @ values_NSH


def _softmax_with_sinks(scores_NTS: Tensor, sinks_N: Tensor | None) -> Tensor:
    if sinks_N is None:
        return scores_NTS.softmax(-1)
    sinks_NT1 = sinks_N.float().view(-1, 1, 1).expand(-1, scores_NTS.shape[1], 1)
    return torch.cat([scores_NTS, sinks_NT1], dim=-1).softmax(-1)[..., :-1]
