"""Whose keys and values of the beginning of a prompt another sequence may take over. Imports no torch.

A sequence is found by its beginnings: one for each full block of tokens, and for the whole prompt when it has a group.
The key of a beginning is a hash of its last block and the key before it, the first of which is a seed that keeps apart
what may not be shared. Before anything is taken over, the tokens themselves are compared.

What another sequence is computing counts as there: to wait for it is cheaper than to compute it twice.
"""

from bisect import bisect_left
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field

from rhapsode_server.engine.request import EngineRequest, Sequence

Beginnings = list[tuple[int, Hashable]]


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first `num_tokens` tokens of a prompt, which the holder has computed or is about to."""

    holder: Sequence
    num_tokens: int

    @property
    def is_computed(self) -> bool:
        """By the steps before the coming one."""
        return self.holder.num_scheduled >= self.num_tokens

    def is_of(self, prompt_ids: tuple[int, ...]) -> bool:
        """Whether it is what the prompt begins with: two beginnings may have one key."""
        return tuple(self.holder.token_ids[: self.num_tokens]) == prompt_ids[: self.num_tokens]


@dataclass(slots=True)
class Prefixes:
    """Who holds which beginnings. `are_shared` says whether all requests share theirs, or only those of a group."""

    block_size: int
    are_shared: bool
    _holders: dict[Hashable, dict[int, Sequence]] = field(default_factory=dict)  # by key, then slot

    def beginnings(self, request: EngineRequest) -> Beginnings:
        """Those of its prompt."""
        found = self._full_blocks(request, request.prompt_ids)
        if request.group is not None and len(request.prompt_ids) % self.block_size:
            found.append((len(request.prompt_ids), ("group", request.group)))
        return found

    def longest(self, request: EngineRequest, beginnings: Beginnings) -> Prefix | None:
        """The longest beginning of its prompt that somebody holds, as far as it may be taken over."""
        most = request.num_shareable_tokens
        # The first that is long enough is as good as all that are longer.
        num_useful = bisect_left(beginnings, most, key=lambda beginning: beginning[0]) + 1 if most else 0
        for end, key in reversed(beginnings[:num_useful]):
            if holders := self._holders.get(key):
                num_tokens = min(end, most)
                prefix = Prefix(_first_with(num_tokens, holders), num_tokens)
                if not prefix.is_computed or prefix.is_of(request.prompt_ids):
                    return prefix
        return None

    def hold(self, sequence: Sequence) -> None:
        """From now on it is found by its beginnings."""
        for _, key in sequence.beginnings:
            self._holders.setdefault(key, {})[sequence.slot] = sequence

    def hold_computed(self, sequence: Sequence) -> None:
        """It has ended: it is found by what it has computed, its completion included, and by nothing else."""
        in_prompt = [beginning for beginning in sequence.beginnings if beginning[0] <= sequence.num_scheduled]
        blocks = self._full_blocks(sequence.request, sequence.token_ids[: sequence.num_scheduled])
        self.drop(sequence)
        sequence.beginnings = in_prompt + [block for block in blocks if block[0] > sequence.num_prompt_tokens]
        self.hold(sequence)

    def drop(self, sequence: Sequence) -> None:
        """It is found no more."""
        for _, key in sequence.beginnings:
            if holders := self._holders.get(key):
                holders.pop(sequence.slot, None)
                if not holders:
                    del self._holders[key]
        sequence.beginnings = []

    def distrust(self, sequence: Sequence) -> None:
        """Nobody is found by its beginnings any more."""
        for _, key in sequence.beginnings:
            self._holders.pop(key, None)
        sequence.beginnings = []

    def check_integrity(self, sequences: Collection[Sequence]) -> None:
        """Nobody is found who is not among these, nor by what is not a beginning of its tokens."""
        for key, holders in self._holders.items():
            assert holders
            for slot, holder in holders.items():
                assert holder in sequences
                assert holder.slot == slot
                assert key in [key for _, key in holder.beginnings]

    def _full_blocks(self, request: EngineRequest, token_ids: tuple[int, ...] | list[int]) -> Beginnings:
        seed: Hashable = "all" if self.are_shared else request.group
        if seed is None:
            return []
        found, key = Beginnings(), hash(seed)
        for end in range(self.block_size, len(token_ids) + 1, self.block_size):
            key = hash((key, *token_ids[end - self.block_size : end]))
            found.append((end, key))
        return found


def _first_with(num_tokens: int, holders: dict[int, Sequence]) -> Sequence:
    """The first that has computed so many tokens; else the first."""
    first = next(iter(holders.values()))
    return next((holder for holder in holders.values() if holder.num_scheduled >= num_tokens), first)
