"""Requests of one group have the same prompt: one of them computes it, the others take over its keys and values.

They wait for it after admission, so that what they need is theirs already, and the one whose prompt they take over is
kept until they have begun, even if it ends before. If it ends without the whole prompt, the next one computes it.
Imports no torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from rhapsode_server.engine.request import FinishReason, Sequence


@dataclass(slots=True)
class SharedPrompts:
    """What the groups of these sequences, in order of admission, have computed before the coming step."""

    _holders: dict[int, Sequence] = field(default_factory=dict)
    _leaders: dict[int, Sequence] = field(default_factory=dict)
    _awaited: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, sequences: Iterable[Sequence]) -> "SharedPrompts":
        shared = cls()
        for sequence in sequences:
            if sequence.request.group is not None:
                shared._note(sequence, sequence.request.group)
        return shared

    def holder(self, sequence: Sequence) -> Sequence | None:
        """Whose prompt it may take over now."""
        group = sequence.request.group
        return self._holders.get(group) if group is not None and sequence.request.num_shareable_tokens else None

    def must_wait(self, sequence: Sequence) -> bool:
        """Whether another one is about to compute the prompt."""
        group = sequence.request.group
        if group is None or sequence.has_begun or not sequence.request.num_shareable_tokens:
            return False
        return group not in self._holders and self._leaders[group] is not sequence

    def is_awaited(self, sequence: Sequence) -> bool:
        """Whether one that has not begun will take over its prompt."""
        group = sequence.request.group
        return group is not None and group in self._awaited and self._holders.get(group) is sequence

    def _note(self, sequence: Sequence, group: int) -> None:
        if _holds_prompt(sequence) and (group not in self._holders or self._holders[group].finish_reason):
            self._holders[group] = sequence
        if sequence.finish_reason is None and sequence.is_prefilling:
            self._leaders.setdefault(group, sequence)
            if not sequence.has_begun and sequence.request.num_shareable_tokens:
                self._awaited.add(group)


def _holds_prompt(sequence: Sequence) -> bool:
    return not sequence.is_prefilling and sequence.finish_reason is not FinishReason.NOT_FINITE
