"""Attention of rows of one token over a paged cache: arguments, and what it has to give by the plainest of means.

Shape letters: N query heads, K key-value heads, H head dimension, S tokens of a sequence.
"""

from dataclasses import dataclass
from typing import Any

import torch
from rhapsode_server.engine.attention import AttentionOptions
from rhapsode_server.engine.kv_cache import KVCache
from rhapsode_server.engine.row_attention import RowBatch, attend
from torch import Tensor

BLOCK_SIZE = 16
TABLE_SIZE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`positions` are those of the rows' tokens, one row each."""

    positions: tuple[int, ...] = (0, 16, 79)
    heads: int = 4
    kv_heads: int = 2
    key_dim: int = 16
    value_dim: int = 16
    window: int = 0
    softcap: float = 0.0
    has_sinks: bool = False
    splits: int = 1
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def check(self, operator: Any, tolerance: float) -> None:
        """That an operator gives what it has to, and stores what it has to and nothing else."""
        queries, keys, values, sinks = self._sequences()
        arguments, rows = self.arguments(queries, keys, values, sinks)
        before = arguments["key_blocks"].clone(), arguments["value_blocks"].clone()
        actual_RNH = operator(**arguments)
        expected = [self._attend(*sequence, sinks) for sequence in zip(queries, keys, values, strict=True)]
        error = (actual_RNH - torch.stack(expected)).abs().max()
        assert error < tolerance, f"off by {error}"
        for blocks, sequences, old in zip(("key_blocks", "value_blocks"), (keys, values), before, strict=True):
            for place, sequence in zip(rows, sequences, strict=True):
                old.flatten(0, 1)[place] = sequence[:, -1]
            assert torch.equal(arguments[blocks].nan_to_num(99), old.nan_to_num(99))

    def arguments(
        self, queries: list[Tensor], keys: list[Tensor], values: list[Tensor], sinks: Tensor | None
    ) -> tuple[dict[str, Any], list[int]]:
        """The operator's, and where the rows' tokens belong. Blocks are in no order, and NaN where nothing is."""
        num_rows = len(self.positions)
        slots = torch.randperm(num_rows + 2, generator=torch.Generator().manual_seed(1))[:num_rows]
        tables = torch.zeros(num_rows + 2, TABLE_SIZE, dtype=torch.int32)
        order = torch.randperm(num_rows * TABLE_SIZE, generator=torch.Generator().manual_seed(2)) + 1
        tables[slots] = order.view(num_rows, TABLE_SIZE).int()
        blocks = [self._blocks(self.key_dim), self._blocks(self.value_dim)]
        rows = []
        for slot, position, *sequence in zip(slots, self.positions, keys, values, strict=True):
            tokens = torch.arange(position + 1)
            places = tables[slot, tokens // BLOCK_SIZE].long() * BLOCK_SIZE + tokens % BLOCK_SIZE
            for cache, tokens_KSH in zip(blocks, sequence, strict=True):
                cache.flatten(0, 1)[places[:-1]] = tokens_KSH[:, :-1].transpose(0, 1)
            rows.append(int(places[-1]))
        # As where one product makes queries, keys and values: a row is part of a longer one.
        own = [torch.stack([sequence[:, -1] for sequence in each]).flatten(1) for each in (queries, keys, values)]
        fused = torch.cat(own, dim=1).split([each.shape[1] for each in own], dim=1)
        heads = (self.heads, self.kv_heads, self.kv_heads)
        query, key, value = (each.unflatten(1, (count, -1)) for each, count in zip(fused, heads, strict=True))
        return {
            "query_RNH": query,
            "key_RKH": key,
            "value_RKH": value,
            "key_blocks": blocks[0],
            "value_blocks": blocks[1],
            "tables_LB": tables.to(self.device),
            "slots_R": slots.to(self.device),
            "positions_R": torch.tensor(self.positions, device=self.device),
            "sinks_N": sinks,
            "scaling": 0.3,
            "window": self.window,
            "softcap": self.softcap,
            "num_splits": self.splits,
        }, rows

    def _sequences(self) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor | None]:
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(self.device, self.dtype)

        lengths = [position + 1 for position in self.positions]
        queries = [random(self.heads, 1, self.key_dim) for _ in lengths]
        keys = [random(self.kv_heads, length, self.key_dim) for length in lengths]
        values = [random(self.kv_heads, length, self.value_dim) for length in lengths]
        return queries, keys, values, random(self.heads) if self.has_sinks else None

    def _blocks(self, dim: int) -> Tensor:
        shape = (len(self.positions) * TABLE_SIZE + 1, BLOCK_SIZE, self.kv_heads, dim)
        return torch.full(shape, torch.nan, dtype=self.dtype, device=self.device)

    def _attend(self, query_N1H: Tensor, keys_KSH: Tensor, values_KSH: Tensor, sinks: Tensor | None) -> Tensor:
        options = AttentionOptions(
            scaling=0.3, sliding_window=self.window or None, softcap=self.softcap or None, sinks=sinks
        )
        return attend(query_N1H, keys_KSH, values_KSH, options, RowBatch([], KVCache()))[:, 0]


CASES = {
    "plain": Case(),
    "split": Case(splits=4),
    "split_much": Case(splits=16, kv_heads=1, positions=(79,)),
    "one_group": Case(kv_heads=4),
    "one_group_split": Case(kv_heads=4, splits=4, positions=(3, 70)),
    "one_head": Case(heads=5, kv_heads=1, positions=(3, 70)),
    "window": Case(window=20, splits=4, positions=(5, 79)),
    "small_window": Case(window=3, positions=(0, 33)),
    "window_of_one": Case(window=1, positions=(20,)),
    "softcap": Case(softcap=2.0, positions=(20,)),
    "sinks": Case(has_sinks=True, splits=4, positions=(0, 79)),
    "all": Case(heads=6, positions=(20, 79), window=30, softcap=5.0, has_sinks=True),
    "odd_width": Case(key_dim=80, value_dim=24, positions=(17, 50)),
    "wide": Case(key_dim=256, value_dim=256, kv_heads=1, positions=(40,)),
}
