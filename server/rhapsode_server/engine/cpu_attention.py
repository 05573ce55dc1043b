"""Attention on a CPU in float32: the rows of one token in one call for a layer, prompts row by row.

Shape letters: N query heads, K key-value heads, H head dimension, P packed tokens of all rows.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from rhapsode_server.engine import kernels
from rhapsode_server.engine.attention import AttentionOptions, ForwardBatch
from rhapsode_server.engine.batch import Row
from rhapsode_server.engine.kernels.decode_attention import DecodeAttention
from rhapsode_server.engine.kv_cache import KVCache
from rhapsode_server.engine.row_attention import RowBatch


def cpu_attention(dtype: torch.dtype) -> Callable[[Sequence[Row], KVCache], ForwardBatch]:
    """What serves a model of this type best: there are kernels for float32, if they were built."""
    return CpuBatch if dtype == torch.float32 and kernels.library() else RowBatch


class CpuBatch:
    """A ForwardBatch. The kernel takes the rows of one token before the first longer one; a batch has decodes first."""

    def __init__(self, rows: Sequence[Row], kv_cache: KVCache) -> None:
        self.num_layers_seen = 0
        self._kv_cache = kv_cache
        self._num_decodes = next((number for number, row in enumerate(rows) if row.num_tokens > 1), len(rows))
        decodes = rows[: self._num_decodes]
        self._beginning = [row for row in decodes if row.begins]
        self._decode = DecodeAttention([row.slot for row in decodes], [row.end for row in decodes])
        self._others = RowBatch(rows[self._num_decodes :], kv_cache)

    def move_to(self, rows: Sequence[Row]) -> None:
        """To as many others, where all of both decode. What was recorded with this batch computes them from now on."""
        self._decode.move_to([row.slot for row in rows], [row.end for row in rows])

    def attend(self, query_1NPH: Tensor, key_1KPH: Tensor, value_1KPH: Tensor, options: AttentionOptions) -> Tensor:
        layer, num_decodes = self.num_layers_seen, self._num_decodes
        self.num_layers_seen += 1
        if not num_decodes:
            return self._others.attend(query_1NPH, key_1KPH, value_1KPH, options)
        for row in self._beginning:
            self._kv_cache.open(layer, row, key_1KPH[0], value_1KPH[0])
        _, num_heads, num_tokens, _ = query_1NPH.shape
        out_1PNH = query_1NPH.new_empty(1, num_tokens, num_heads, value_1KPH.shape[3])
        self._decode(query_1NPH, key_1KPH, value_1KPH, options, partial(self._kv_cache.table.place, layer), out_1PNH)
        if num_decodes < num_tokens:
            query, key, value = (tensor[:, :, num_decodes:] for tensor in (query_1NPH, key_1KPH, value_1KPH))
            out_1PNH[:, num_decodes:] = self._others.attend(query, key, value, options)
        return out_1PNH
