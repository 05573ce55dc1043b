"""One forward and one draw for each batch.

Shape letters: P packed tokens of all rows, R rows that draw, N prompt tokens to score, V vocabulary, L slots.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from rhapsode_server.engine.attention import ForwardBatch
from rhapsode_server.engine.batch import Batch, BatchResult, Row
from rhapsode_server.engine.copies import CopyToHost, to_device
from rhapsode_server.engine.decode_tapes import DecodeTapes
from rhapsode_server.engine.kv_cache import KVCache
from rhapsode_server.engine.loader import LoadedModel
from rhapsode_server.engine.logprobs import PendingScores, token_scores
from rhapsode_server.engine.row_attention import RowBatch
from rhapsode_server.engine.sampler import sample


class Cache(Protocol):
    """What a runner asks of the keys and values of its slots. The rest is between them and the attention."""

    def release(self, slots: Iterable[int]) -> None: ...

    def bytes_per_token(self, slot: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Computed:
    """What rows gave: ids on the device, scores on their way to the host."""

    token_ids_R: Tensor | None = None
    scores: PendingScores | None = None
    prompt_scores: PendingScores | None = None


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """What a batch gave, on its way to the host."""

    token_ids: CopyToHost | None = None
    scores: Sequence[PendingScores] = ()
    prompt_scores: Sequence[PendingScores] = ()

    @classmethod
    def begin(cls, parts: Sequence[Computed]) -> "PendingBatch":
        """Of the parts of a batch, in the order of its rows."""
        token_ids = [part.token_ids_R for part in parts if part.token_ids_R is not None]
        return cls(
            token_ids=CopyToHost.begin(torch.cat(token_ids)) if token_ids else None,
            scores=[part.scores for part in parts if part.scores],
            prompt_scores=[part.prompt_scores for part in parts if part.prompt_scores],
        )

    def read(self) -> BatchResult:
        return BatchResult(
            token_ids=self.token_ids.read().tolist() if self.token_ids else (),
            scores=[score for pending in self.scores for score in pending.read()],
            prompt_scores=[score for pending in self.prompt_scores for score in pending.read()],
        )


@dataclass(slots=True, kw_only=True)
class ModelRunner:
    """Runs batches on one device. Sampled ids stay there too, so that the next step need not wait for the host.

    `vocabulary_size` is the tokenizer's: the padding that some models add to their output is never drawn.
    `last_token_ids_L` are the ids that slots drew last; those of one slot more are for rows that only fill a batch.
    """

    loaded: LoadedModel
    vocabulary_size: int
    max_sequences: int
    kv_cache: Cache = field(default_factory=KVCache)
    attention: Callable[[Sequence[Row], Any], ForwardBatch] = RowBatch
    tapes: DecodeTapes | None = None
    last_token_ids_L: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.last_token_ids_L = torch.zeros(self.max_sequences + 1, dtype=torch.int64, device=self.loaded.device)

    @torch.inference_mode()
    def execute(self, batch: Batch) -> PendingBatch:
        self.kv_cache.release(batch.released_slots)
        return PendingBatch.begin([self.compute(batch.rows)] if batch.rows else [])

    @torch.inference_mode()
    def compute(self, rows: Sequence[Row]) -> Computed:
        """One forward of the rows, and the draws and scores that they ask for."""
        forward = self.forward(rows)
        prompt_scores = self._score_prompts(rows, forward.prompt_logits_NV[:, : self.vocabulary_size])
        drawing = [row for row in rows if row.draw]
        if not drawing:
            return Computed(prompt_scores=prompt_scores)
        logits_RV = forward.logits_RV[:, : self.vocabulary_size]
        token_ids_R = self.draw(drawing, logits_RV)
        return Computed(token_ids_R, self.score_drawn(drawing, logits_RV, token_ids_R), prompt_scores)

    @torch.inference_mode()
    def forward(self, rows: Sequence[Row]) -> "Forward":
        """Write the rows' KV and compute the logits of what the rows draw and score."""
        if self.tapes and self.tapes.can_compute(rows):
            logits_RV = self.tapes.compute(self._input_ids(rows), rows)
            return Forward(
                logits_RV=logits_RV,
                prompt_logits_NV=logits_RV[:0],
                num_attention_calls=self.tapes.num_attention_calls,
            )
        context = self.attention(rows, self.kv_cache)
        drawn, scored = _drawn_positions(rows), _scored_positions(rows)
        output = self.loaded.model(
            input_ids=self._input_ids(rows)[None],
            position_ids=self._index([position for row in rows for position in range(row.start, row.end)])[None],
            logits_to_keep=self._index(drawn + scored),
            use_cache=False,
            batch=context,
        )
        return Forward(
            logits_RV=output.logits[0, : len(drawn)],
            prompt_logits_NV=output.logits[0, len(drawn) :],
            num_attention_calls=context.num_layers_seen,
        )

    def draw(self, rows: Sequence[Row], logits_RV: Tensor) -> Tensor:
        """A token for each row, int64 [R], kept as its slot's last one. Every row draws."""
        token_ids_R = sample(logits_RV, [row.draw for row in rows if row.draw])
        self.last_token_ids_L[self._index([row.slot for row in rows])] = token_ids_R
        return token_ids_R

    def score_drawn(self, rows: Sequence[Row], logits_RV: Tensor, token_ids_R: Tensor) -> PendingScores | None:
        """The scores of the drawn tokens of those rows that ask for them."""
        wanted = {number: row.num_candidates for number, row in enumerate(rows) if row.num_candidates is not None}
        if not wanted:
            return None
        numbers = self._index(list(wanted))
        # A row that drew nothing (a negative id) has no score that anyone would read, but must have an id.
        return token_scores(logits_RV[numbers], token_ids_R[numbers].clamp(min=0), list(wanted.values()))

    def _score_prompts(self, rows: Sequence[Row], logits_NV: Tensor) -> PendingScores | None:
        spans = [row.scored for row in rows if row.scored]
        if not spans:
            return None
        token_ids_N = self._index([token_id for span in spans for token_id in span.token_ids])
        return token_scores(logits_NV, token_ids_N, [span.num_candidates for span in spans for _ in span.token_ids])

    def _input_ids(self, rows: Sequence[Row]) -> Tensor:
        ids_P = self._index([id_ for row in rows for id_ in (row.token_ids or (0,) * row.num_tokens)])
        fed_back = [(position, row.slot) for position, row in _with_positions(rows) if row.token_ids is None]
        if fed_back:
            positions, slots = zip(*fed_back, strict=True)
            # A row that drew nothing (a negative id) has ended; what it feeds is thrown away but must be an id.
            ids_P[self._index(positions)] = self.last_token_ids_L[self._index(slots)].clamp(min=0)
        return ids_P

    def _index(self, values: Sequence[int]) -> Tensor:
        return to_device(values, torch.int64, self.loaded.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """What a forward gave: logits to draw from, in order of the rows that do, and those of the prompt tokens to score.

    The logits are good until the next forward. `num_attention_calls` is the number of layers whose attention was ours.
    """

    logits_RV: Tensor
    prompt_logits_NV: Tensor
    num_attention_calls: int


def _with_positions(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    """Each row with the packed position of its first token."""
    positions, position = [], 0
    for row in rows:
        positions.append((position, row))
        position += row.num_tokens
    return positions


def _drawn_positions(rows: Sequence[Row]) -> list[int]:
    return [position + row.num_tokens - 1 for position, row in _with_positions(rows) if row.draw]


def _scored_positions(rows: Sequence[Row]) -> list[int]:
    """A token is predicted in the place before it."""
    return [
        position + row.scored.first - 1 - row.start + offset
        for position, row in _with_positions(rows)
        if row.scored
        for offset in range(len(row.scored.token_ids))
    ]
