"""What one step computes: the value that passes from the scheduler to the runner. Imports no torch."""

from dataclasses import dataclass

from rhapsode_server.engine.request import SamplingParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A span of one sequence: tokens [start, start + num_tokens) are computed and their KV written.

    `token_ids` is None when the one token to feed was sampled by a step still in flight: the runner
    takes it from the device. `samples` is true when the span ends at the sequence's last token.
    `num_reserved_tokens` is the size of the slot's KV extent.
    """

    slot: int
    start: int
    num_tokens: int
    token_ids: tuple[int, ...] | None
    samples: bool
    sampling: SamplingParameters
    num_reserved_tokens: int

    @property
    def end(self) -> int:
        return self.start + self.num_tokens


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

    @property
    def sampled_rows(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.samples)
