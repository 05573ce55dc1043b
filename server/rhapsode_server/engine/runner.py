"""One forward and one draw for each batch.

Shape letters: P packed tokens of all rows, R rows that draw, N prompt tokens to score, V vocabulary, L slots.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rhapsode_server.engine.attention import ForwardBatch
from rhapsode_server.engine.batch import Batch, BatchResult, Row
from rhapsode_server.engine.copies import CopyToHost, to_device
from rhapsode_server.engine.kv_cache import KVCache
from rhapsode_server.engine.loader import LoadedModel
from rhapsode_server.engine.logprobs import PendingScores, token_scores
from rhapsode_server.engine.row_attention import RowBatch
from rhapsode_server.engine.sampler import sample


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """What a batch gave, on its way to the host."""

    token_ids: CopyToHost | None = None
    scores: PendingScores | None = None
    prompt_scores: PendingScores | None = None

    def read(self) -> BatchResult:
        return BatchResult(
            token_ids=self.token_ids.read().tolist() if self.token_ids else (),
            scores=self.scores.read() if self.scores else (),
            prompt_scores=self.prompt_scores.read() if self.prompt_scores else (),
        )


@dataclass(slots=True, kw_only=True)
class ModelRunner:
    """Runs batches on one device. Sampled ids stay there too, so that the next step need not wait for the host.

    `vocabulary_size` is the tokenizer's: the padding that some models add to their output is never drawn.
    """

    loaded: LoadedModel
    vocabulary_size: int
    max_sequences: int
    kv_cache: KVCache = field(default_factory=KVCache)
    attention: Callable[[Sequence[Row], KVCache], ForwardBatch] = RowBatch
    _last_token_ids_L: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._last_token_ids_L = torch.zeros(self.max_sequences, dtype=torch.int64, device=self.loaded.device)

    @torch.inference_mode()
    def execute(self, batch: Batch) -> PendingBatch:
        self.kv_cache.release(batch.released_slots)
        if not batch.rows:
            return PendingBatch()
        forward = self.forward(batch.rows)
        prompt_scores = self._score_prompts(batch.rows, forward.prompt_logits_NV[:, : self.vocabulary_size])
        drawing = [row for row in batch.rows if row.draw]
        if not drawing:
            return PendingBatch(prompt_scores=prompt_scores)
        logits_RV = forward.logits_RV[:, : self.vocabulary_size]
        token_ids_R = self._draw(drawing, logits_RV)
        scores = self._score_drawn(drawing, logits_RV, token_ids_R)
        return PendingBatch(CopyToHost.begin(token_ids_R), scores, prompt_scores)

    @torch.inference_mode()
    def forward(self, rows: Sequence[Row]) -> "Forward":
        """Write the rows' KV and compute the logits of what the rows draw and score."""
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

    def _draw(self, rows: Sequence[Row], logits_RV: Tensor) -> Tensor:
        token_ids_R = sample(logits_RV, [row.draw for row in rows if row.draw])
        self._last_token_ids_L[self._index([row.slot for row in rows])] = token_ids_R
        return token_ids_R

    def _score_drawn(self, rows: Sequence[Row], logits_RV: Tensor, token_ids_R: Tensor) -> PendingScores | None:
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
            ids_P[self._index(positions)] = self._last_token_ids_L[self._index(slots)].clamp(min=0)
        return ids_P

    def _index(self, values: Sequence[int]) -> Tensor:
        return to_device(values, torch.int64, self.loaded.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """What a forward gave: logits to draw from, in order of the rows that do, and those of the prompt tokens to score.

    `num_attention_calls` is the number of layers whose attention was ours.
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
