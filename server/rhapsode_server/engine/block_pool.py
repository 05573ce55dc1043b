"""The one accounting of KV memory, in blocks of a fixed number of tokens. Imports no torch."""


class BlockPool:
    """Hands out block ids. Ask (`can_allocate`), then act (`allocate`).

    A block is free, used, or retained: what is in it may be of use, but nobody needs it.
    """

    def __init__(self, *, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"num_blocks ({num_blocks}) and block_size ({block_size}) must be at least 1")
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.num_retained = 0
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free) - self.num_retained

    @property
    def num_tokens(self) -> int:
        """Capacity in tokens."""
        return self.num_blocks * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def can_allocate(self, num_tokens: int) -> bool:
        return self.blocks_for(num_tokens) <= len(self._free)

    def allocate(self, num_tokens: int) -> list[int]:
        assert self.can_allocate(num_tokens), "ask can_allocate first"
        return [self._free.pop() for _ in range(self.blocks_for(num_tokens))]

    def free(self, blocks: list[int]) -> None:
        self._free.extend(blocks)
        blocks.clear()

    def retain(self, blocks: list[int]) -> None:
        self.num_retained += len(blocks)

    def free_retained(self, blocks: list[int]) -> None:
        self.num_retained -= len(blocks)
        self.free(blocks)

    def check_integrity(self, used: list[int], retained: list[int]) -> None:
        """Every block is free, used or retained, and none is two of that or twice."""
        everything = sorted(self._free + used + retained)
        assert everything == list(range(self.num_blocks)), "the block pool lost or duplicated a block"
        assert self.num_retained == len(retained)
