"""Keys and values of the running sequences: one contiguous extent for each slot and layer.

Shape letters: K key-value heads, H head dimension (that of values may differ from that of keys), T tokens of a row,
S tokens of the sequence so far, C reserved tokens (the extent's capacity).
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from rhapsode_server.engine.batch import Row


@dataclass(slots=True)
class Extent:
    """Room for one slot in one layer."""

    keys_KCH: Tensor
    values_KCH: Tensor


class ExtentTable:
    """Where the extents are, for kernels: in each layer an address of keys, one of values and a capacity by slot."""

    def __init__(self) -> None:
        self._layers: list[array[int]] = []

    def place(self, layer: int) -> tuple[int, int]:
        """Of one layer's part, until the next extent is put there: its address, and how many slots it has."""
        address, length = self._layers[layer].buffer_info()
        return address, length // 3

    def put(self, layer: int, slot: int, extent: Extent) -> None:
        self._layers += [array("q") for _ in range(layer + 1 - len(self._layers))]
        addresses = extent.keys_KCH.data_ptr(), extent.values_KCH.data_ptr()
        self._set(self._layers[layer], slot, *addresses, extent.keys_KCH.shape[1])

    def remove(self, slot: int) -> None:
        for entries in self._layers:
            self._set(entries, slot, 0, 0, 0)

    @staticmethod
    def _set(entries: "array[int]", slot: int, *entry: int) -> None:
        entries.extend([0] * (3 * (slot + 1) - len(entries)))
        entries[3 * slot : 3 * slot + 3] = array("q", entry)


@dataclass(slots=True)
class KVCache:
    """Extents sized to what admission reserved: made with a sequence's first row, dropped when its slot is released.

    A prompt that is another sequence's too is copied, since an extent has one owner, and so every sequence's blocks are
    its own in the books. A cache of block tables would have both tables name the same full blocks, count their owners
    in the books, and copy only the last block, which both go on to write.
    """

    table: ExtentTable = field(default_factory=ExtentTable)
    _extents: dict[int, list[Extent]] = field(default_factory=dict)  # by slot, then layer

    def append(self, layer: int, row: Row, keys_KTH: Tensor, values_KTH: Tensor) -> tuple[Tensor, Tensor]:
        """Store the row's keys and values and return all of the sequence's so far: [K, S, H] each."""
        if row.begins:
            self.open(layer, row, keys_KTH, values_KTH)
        extent = self._extents[row.slot][layer]
        extent.keys_KCH[:, row.start : row.end] = keys_KTH
        extent.values_KCH[:, row.start : row.end] = values_KTH
        return extent.keys_KCH[:, : row.end], extent.values_KCH[:, : row.end]

    def open(self, layer: int, row: Row, keys_KTH: Tensor, values_KTH: Tensor) -> None:
        """Make room for a sequence that this row begins, for keys and values such as these. Layers come in order."""
        extent = _new_extent(row.num_reserved_tokens, keys_KTH, values_KTH)
        if row.prefix_slot is not None:
            prefix = self._extents[row.prefix_slot][layer]
            extent.keys_KCH[:, : row.start] = prefix.keys_KCH[:, : row.start]
            extent.values_KCH[:, : row.start] = prefix.values_KCH[:, : row.start]
        del self._extents.setdefault(row.slot, [])[layer:]
        self._extents[row.slot].append(extent)
        self.table.put(layer, row.slot, extent)

    def release(self, slots: Iterable[int]) -> None:
        for slot in slots:
            if self._extents.pop(slot, None):
                self.table.remove(slot)

    def bytes_per_token(self, slot: int) -> int:
        """Memory of one token over all layers, as the slot's extents show it."""
        return sum(_bytes_per_token(tensor) for e in self._extents[slot] for tensor in (e.keys_KCH, e.values_KCH))


def _new_extent(capacity: int, keys_KTH: Tensor, values_KTH: Tensor) -> Extent:
    def room_for(like_KTH: Tensor) -> Tensor:
        num_heads, _, head_dim = like_KTH.shape
        return like_KTH.new_empty(num_heads, capacity, head_dim)

    return Extent(keys_KCH=room_for(keys_KTH), values_KCH=room_for(values_KTH))


def _bytes_per_token(tensor_KCH: Tensor) -> int:
    num_heads, _, head_dim = tensor_KCH.shape
    return num_heads * head_dim * tensor_KCH.element_size()
