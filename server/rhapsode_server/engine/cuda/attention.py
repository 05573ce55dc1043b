"""Attention over a paged cache: one operator for rows of one token and for short prompts, row by row for long ones.

Shape letters: N query heads, K key-value heads, H head dimension, P packed tokens of all rows, R rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rhapsode_server.engine.attention import AttentionOptions, ForwardBatch
from rhapsode_server.engine.batch import Row
from rhapsode_server.engine.copies import to_device
from rhapsode_server.engine.cuda.cache import PagedCache
from rhapsode_server.engine.cuda.operators import paged_decode
from rhapsode_server.engine.row_attention import RowBatch

# Programs of one kernel that keep an H200 busy: two for each of its 132 multiprocessors.
_ENOUGH_PROGRAMS = 264
# Few numbers, because a kernel is compiled for each.
_SPLITS = (1, 4, 16)
# Tokens of a row, on average, up to which every token reads its sequence for itself. It reads it once for each token,
# but out of a cache, and all rows share a few kernels; row by row, each row launches a dozen in each layer.
_LONGEST_APART = 256


def paged_attention(rows: Sequence[Row], cache: PagedCache) -> ForwardBatch:
    """For a forward of any rows, which it writes into the block tables if they begin."""
    cache.begin(rows)
    num_tokens = sum(row.num_tokens for row in rows)
    if num_tokens > _LONGEST_APART * len(rows):
        return RowBatch(rows, cache)
    places = [(row.slot, position) for row in rows for position in range(row.start, row.end)]
    slots_P, positions_P = to_device(list(zip(*places, strict=True)), torch.int64, cache.device)
    batch = DecodeBatch(cache=cache, slots_R=slots_P, positions_R=positions_P)
    return batch if num_tokens == len(rows) else PackedBatch(tokens=batch, places_P=cache.places(slots_P, positions_P))


@dataclass(slots=True, kw_only=True)
class DecodeBatch:
    """A ForwardBatch of rows of one token, told by tensors alone: a row's slot and the place of its token."""

    cache: PagedCache
    slots_R: Tensor
    positions_R: Tensor
    num_layers_seen: int = 0

    def attend(self, query_1NPH: Tensor, key_1KPH: Tensor, value_1KPH: Tensor, options: AttentionOptions) -> Tensor:
        layer = self.cache.layer(self.num_layers_seen, key_1KPH[0], value_1KPH[0])
        self.num_layers_seen += 1
        scaling = options.scaling if options.scaling is not None else query_1NPH.shape[-1] ** -0.5
        output_RNH: Tensor = paged_decode(
            query_1NPH[0].transpose(0, 1),
            key_1KPH[0].transpose(0, 1),
            value_1KPH[0].transpose(0, 1),
            layer.keys,
            layer.values,
            self.cache.tables_LB,
            self.slots_R,
            self.positions_R,
            options.sinks,
            scaling,
            options.sliding_window or 0,
            options.softcap or 0.0,
            _num_splits(len(self.slots_R) * key_1KPH.shape[1]),
        )
        return output_RNH.unsqueeze(0)


@dataclass(slots=True, kw_only=True)
class PackedBatch:
    """A ForwardBatch of any rows: all their tokens are stored, and then each attends as if it were a row."""

    tokens: DecodeBatch
    places_P: Tensor

    @property
    def num_layers_seen(self) -> int:
        return self.tokens.num_layers_seen

    def attend(self, query_1NPH: Tensor, key_1KPH: Tensor, value_1KPH: Tensor, options: AttentionOptions) -> Tensor:
        self.tokens.cache.store(self.num_layers_seen, self.places_P, key_1KPH[0], value_1KPH[0])
        return self.tokens.attend(query_1NPH, key_1KPH, value_1KPH, options)


def _num_splits(num_programs: int) -> int:
    """Of a sequence, each read by a program of its own: few rows alone would leave most of the device idle."""
    return next((splits for splits in _SPLITS if splits * num_programs >= _ENOUGH_PROGRAMS), _SPLITS[-1])
