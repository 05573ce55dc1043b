"""What one step computes: the value that passes from the scheduler to the runner. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rhapsode_server.engine.request import SamplingParameters, TokenScore


class Draw(NamedTuple):
    """What decides one token besides the logits. (A tuple, as a row is: every step makes one for each sequence.)

    `position` is its 0-based index in its sequence, prompt included. `history` holds the ids before it, the first
    `num_prompt_tokens` of them the prompt's; it is empty unless the parameters need it. `suppressed_ids` may not be
    drawn (stop tokens before min_new_tokens). `allowed_mask` is a constraint's: bit i % 32 of 32-bit word i // 32, in
    the machine's byte order, says whether token i may follow.
    """

    parameters: SamplingParameters
    position: int
    history: tuple[int, ...] = ()
    num_prompt_tokens: int = 0
    suppressed_ids: tuple[int, ...] = ()
    allowed_mask: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSpan:
    """Prompt tokens to score: `token_ids[0]` has the index `first` in the prompt."""

    first: int
    token_ids: tuple[int, ...]
    num_candidates: int


class Row(NamedTuple):
    """A span of one sequence: tokens [start, start + num_tokens) are computed and their KV written.

    `token_ids` is None when the one token to feed was sampled by a step still in flight: the runner
    takes it from the device. `draw` is set when the span ends at the sequence's last token and another is to follow;
    `num_candidates`, when that one is to be scored. `scored` are prompt tokens that the span predicts: the first of
    them is at `start` + 1 or later, the last at `end` or before. `num_reserved_tokens` is the size of the slot's KV
    extent. The first row of a sequence brings the `blocks` that were reserved for it; if it begins at `start` > 0,
    `prefix_slot` is the slot whose KV before `start`, written by earlier steps, is its own too.
    """

    slot: int
    start: int
    num_tokens: int
    token_ids: tuple[int, ...] | None
    num_reserved_tokens: int
    draw: Draw | None = None
    num_candidates: int | None = None
    scored: ScoredSpan | None = None
    prefix_slot: int | None = None
    blocks: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        return self.start + self.num_tokens

    @property
    def begins(self) -> bool:
        return self.start == 0 or self.prefix_slot is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The rows of one step, decodes first, and the slots whose KV is free since the batch before."""

    rows: tuple[Row, ...]
    released_slots: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rows or self.released_slots)

    @property
    def num_tokens(self) -> int:
        return sum(row.num_tokens for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What a batch gave, each list in order of rows: an id for each row that draws, a negative one where there is none;
    a score for each of those that ask for one; the scores of all scored spans, one after another."""

    token_ids: Sequence[int] = ()
    scores: Sequence[TokenScore] = ()
    prompt_scores: Sequence[TokenScore] = ()
