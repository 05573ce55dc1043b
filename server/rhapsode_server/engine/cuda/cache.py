"""Keys and values in blocks of a fixed number of tokens, found through the block table of each slot.

All tensors stay where they are, so that a CUDA graph may hold them, from the last `grow` on.
Shape letters: L slots, B blocks of a sequence, K key-value heads, H head dimension (that of values may differ),
T tokens of a row, S tokens of the sequence so far.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from rhapsode_server.engine.batch import Row
from rhapsode_server.engine.copies import to_device
from rhapsode_server.engine.memory import BLOCK_SIZE


class Layer(NamedTuple):
    """The blocks of one layer: [blocks, BLOCK_SIZE, K, H] each. The first one is scratch."""

    keys: Tensor
    values: Tensor


@dataclass(slots=True, kw_only=True)
class PagedCache:
    """A KVCache of blocks, which belong to whom the scheduler's books say.

    The slot `num_slots` is that of rows that only fill a batch: like every slot before its first sequence, all its
    blocks are the scratch block, whose content means nothing.
    """

    num_slots: int
    max_tokens: int
    device: torch.device
    num_blocks: int = 0
    layers: list[Layer] = field(default_factory=list)
    tables_LB: Tensor = field(init=False)
    _places: dict[int, Tensor] = field(default_factory=dict)  # by slot, for one forward

    def __post_init__(self) -> None:
        shape = (self.num_slots + 1, -(-self.max_tokens // BLOCK_SIZE))
        self.tables_LB = torch.zeros(shape, dtype=torch.int32, device=self.device)

    @property
    def scratch_slot(self) -> int:
        return self.num_slots

    def grow(self, num_blocks: int) -> None:
        """Have room for at least so many blocks; what is in them stays."""
        if num_blocks > self.num_blocks:
            self.num_blocks = num_blocks
            self.layers = [Layer(self._grown(layer.keys), self._grown(layer.values)) for layer in self.layers]

    def begin(self, rows: Sequence[Row]) -> None:
        """Before a forward: write down the blocks of sequences that begin, and copy those that they take over."""
        self._places.clear()
        for row in rows:
            if row.begins:
                self.grow(max(row.blocks) + 1)
                blocks = to_device([block + 1 for block in row.blocks], torch.int32, self.device)
                self.tables_LB[row.slot, : len(blocks)] = blocks
            if row.prefix_slot is not None:
                self._copy(row.prefix_slot, row.slot, row.start)

    def layer(self, number: int, key_KTH: Tensor, value_KTH: Tensor) -> Layer:
        """The blocks of a layer, made for keys and values such as these when it is first seen."""
        if number == len(self.layers):
            self.layers.append(Layer(self._blocks_for(key_KTH), self._blocks_for(value_KTH)))
        return self.layers[number]

    def append(self, layer: int, row: Row, keys_KTH: Tensor, values_KTH: Tensor) -> tuple[Tensor, Tensor]:
        """Store the row's keys and values and return all of the sequence's so far: [K, S, H] each."""
        places_S = self._places_of(row)
        self.store(layer, places_S[row.start :], keys_KTH, values_KTH)
        if row.start == 0:
            return keys_KTH, values_KTH
        keys, values = (blocks.flatten(0, 1) for blocks in self.layers[layer])
        return keys[places_S].transpose(0, 1), values[places_S].transpose(0, 1)

    def store(self, layer: int, places_T: Tensor, keys_KTH: Tensor, values_KTH: Tensor) -> None:
        """Keys and values of tokens of any slots."""
        blocks = self.layer(layer, keys_KTH, values_KTH)
        blocks.keys.flatten(0, 1)[places_T] = keys_KTH.transpose(0, 1)
        blocks.values.flatten(0, 1)[places_T] = values_KTH.transpose(0, 1)

    def places(self, slots: Tensor | int, positions_T: Tensor) -> Tensor:
        """Where tokens are if all blocks stand in one line, int64 [T]."""
        blocks_T = self.tables_LB[slots, positions_T // BLOCK_SIZE].long()
        return blocks_T * BLOCK_SIZE + positions_T % BLOCK_SIZE

    def release(self, slots: Iterable[int]) -> None:
        """Their blocks are another's as soon as the books say so."""

    def bytes_per_token(self, slot: int) -> int:
        """Memory of one token over all layers, the same in every slot."""
        return sum(tensor[0, 0].numel() * tensor.element_size() for layer in self.layers for tensor in layer)

    def _copy(self, source: int, target: int, num_tokens: int) -> None:
        num_blocks = -(-num_tokens // BLOCK_SIZE)
        from_B, to_B = (self.tables_LB[slot, :num_blocks].long() for slot in (source, target))
        for layer in self.layers:
            for tensor in layer:
                tensor.index_copy_(0, to_B, tensor.index_select(0, from_B))

    def _places_of(self, row: Row) -> Tensor:
        """Of the sequence's tokens so far, [S]. Layers share them."""
        if row.slot not in self._places:
            self._places[row.slot] = self.places(row.slot, torch.arange(row.end, device=self.device))
        return self._places[row.slot]

    def _blocks_for(self, like_KTH: Tensor) -> Tensor:
        num_heads, _, head_dim = like_KTH.shape
        return like_KTH.new_zeros(self.num_blocks + 1, BLOCK_SIZE, num_heads, head_dim)

    def _grown(self, tensor: Tensor) -> Tensor:
        grown = tensor.new_zeros(self.num_blocks + 1, *tensor.shape[1:])
        grown[: len(tensor)] = tensor
        return grown
