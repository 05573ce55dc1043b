"""Where sequences are: slots and blocks. Imports no torch.

A sequence that ended keeps its place as long as nobody needs it, so that its keys and values can be taken over. It
delays nobody: whoever needs a slot or blocks gets those of the least recently used.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.prefixes import Prefixes
from rhapsode_server.engine.request import Sequence


@dataclass(slots=True)
class Places:
    """Ask (`has_room`), then act (`take`)."""

    pool: BlockPool
    prefixes: Prefixes
    num_slots: int
    _free_slots: list[int] = field(default_factory=list)
    _retained: dict[int, Sequence] = field(default_factory=dict)  # by slot, least recently used first
    _released: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free_slots = list(range(self.num_slots - 1, -1, -1))

    def has_room(self, num_tokens: int) -> bool:
        """Whether there is a place for a sequence that may come to need so many tokens."""
        has_slot = bool(self._free_slots or self._retained)
        return has_slot and self.pool.blocks_for(num_tokens) <= self.pool.num_blocks - self.pool.num_used

    def take(self, num_tokens: int) -> tuple[int, list[int]]:
        """A slot and blocks."""
        assert self.has_room(num_tokens), "ask has_room first"
        while not (self._free_slots and self.pool.can_allocate(num_tokens)):
            self._evict(next(iter(self._retained.values())))
        return self._free_slots.pop(), self.pool.allocate(num_tokens)

    def leave(self, sequence: Sequence) -> None:
        """It has ended, and no step in flight touches it. It is retained if it can be found, in place of its origin if
        that has nothing more."""
        origin, sequence.origin = sequence.origin, None
        if origin and self._retained.get(origin.slot) is origin and set(origin.beginnings) <= set(sequence.beginnings):
            self._evict(origin)
        if sequence.beginnings:
            self._retained[sequence.slot] = sequence
            self.pool.retain(sequence.blocks)
        else:
            self._release(sequence.slot)
            self.pool.free(sequence.blocks)

    def touch(self, sequence: Sequence) -> None:
        """It is of use."""
        if retained := self._retained.pop(sequence.slot, None):
            self._retained[sequence.slot] = retained

    def take_released(self) -> tuple[int, ...]:
        """Slots that nobody has had since this was last asked, if only for a moment."""
        released, self._released = self._released, []
        return tuple(released)

    def check_integrity(self, occupants: Collection[Sequence]) -> None:
        """The books agree about these, and about those that are retained."""
        retained = self._retained.values()
        self.pool.check_integrity(_blocks(occupants), _blocks(retained))
        slots = [sequence.slot for sequence in (*occupants, *retained)]
        assert sorted([*self._free_slots, *slots]) == list(range(self.num_slots))
        self.prefixes.check_integrity([*occupants, *retained])

    def _evict(self, sequence: Sequence) -> None:
        del self._retained[sequence.slot]
        self.prefixes.drop(sequence)
        self._release(sequence.slot)
        self.pool.free_retained(sequence.blocks)

    def _release(self, slot: int) -> None:
        self._free_slots.append(slot)
        self._released.append(slot)


def _blocks(sequences: Collection[Sequence]) -> list[int]:
    return [block for sequence in sequences for block in sequence.blocks]
