"""One forward and one draw for each batch.

Shape letters: P packed tokens of all rows, R rows that sample, V vocabulary, L slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rhapsode_server.engine.attention import ForwardBatch
from rhapsode_server.engine.batch import Batch, Row
from rhapsode_server.engine.copies import CopyToHost, to_device
from rhapsode_server.engine.kv_cache import KVCache
from rhapsode_server.engine.loader import LoadedModel
from rhapsode_server.engine.sampler import sample


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """Ids on their way to the host."""

    copy: CopyToHost

    def token_ids(self) -> list[int]:
        return self.copy.read().tolist()


@dataclass(slots=True, kw_only=True)
class ModelRunner:
    """Runs batches on one device. Sampled ids stay there too, so that the next step need not wait for the host.

    `vocabulary_size` is the tokenizer's: the padding that some models add to their output is never drawn.
    """

    loaded: LoadedModel
    vocabulary_size: int
    max_sequences: int
    kv_cache: KVCache = field(default_factory=KVCache)
    _last_token_ids_L: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._last_token_ids_L = torch.zeros(self.max_sequences, dtype=torch.int64, device=self.loaded.device)

    @torch.inference_mode()
    def execute(self, batch: Batch) -> SampledTokens:
        self.kv_cache.release(batch.released_slots)
        sampled = batch.sampled_rows
        logits_RV = self.forward(batch.rows).logits_RV if batch.rows else None
        if logits_RV is None or not sampled:
            return SampledTokens(CopyToHost.begin(torch.empty(0, dtype=torch.int64)))
        token_ids_R = sample(
            logits_RV[:, : self.vocabulary_size], [row.sampling for row in sampled], [row.end for row in sampled]
        )
        self._last_token_ids_L[self._index([row.slot for row in sampled])] = token_ids_R
        return SampledTokens(CopyToHost.begin(token_ids_R))

    @torch.inference_mode()
    def forward(self, rows: Sequence[Row]) -> "Forward":
        """Write the rows' KV and compute the logits [R, V] of the rows that sample."""
        context = ForwardBatch(rows, self.kv_cache)
        output = self.loaded.model(
            input_ids=self._input_ids(rows)[None],
            position_ids=self._index([position for row in rows for position in range(row.start, row.end)])[None],
            logits_to_keep=self._index(_last_positions(rows)),
            use_cache=False,
            batch=context,
        )
        return Forward(logits_RV=output.logits[0], num_attention_calls=context.num_layers_seen)

    def _input_ids(self, rows: Sequence[Row]) -> Tensor:
        ids_P = self._index([id_ for row in rows for id_ in (row.token_ids or (0,) * row.num_tokens)])
        fed_back = [(position, row.slot) for position, row in _with_positions(rows) if row.token_ids is None]
        if fed_back:
            positions, slots = zip(*fed_back, strict=True)
            # A row that drew nothing (NOT_FINITE) has ended; what it feeds is thrown away but must be an id.
            ids_P[self._index(positions)] = self._last_token_ids_L[self._index(slots)].clamp(min=0)
        return ids_P

    def _index(self, values: Sequence[int]) -> Tensor:
        return to_device(values, torch.int64, self.loaded.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """What a forward gave; `num_attention_calls` is the number of layers whose attention was ours."""

    logits_RV: Tensor
    num_attention_calls: int


def _with_positions(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    """Each row with the packed position of its first token."""
    positions, position = [], 0
    for row in rows:
        positions.append((position, row))
        position += row.num_tokens
    return positions


def _last_positions(rows: Sequence[Row]) -> list[int]:
    return [position + row.num_tokens - 1 for position, row in _with_positions(rows) if row.samples]
