"""Forwards of decode rows on a CPU, recorded once for each number of rows and replayed.

On one row of GPT-2 the Python of the model's definition takes a seventh of a step in float32, and half of one in int8.

Shape letters: R rows, V vocabulary.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rhapsode_server.engine.arena import Arena
from rhapsode_server.engine.batch import Row
from rhapsode_server.engine.cpu_attention import CpuBatch
from rhapsode_server.engine.kv_cache import KVCache
from rhapsode_server.engine.loader import LoadedModel
from rhapsode_server.engine.tape import NotRecordable, Tape, recording

# With more the Python is less than a twentieth of a step, and the arena grows with the rows.
MOST_ROWS = 32

logger = logging.getLogger("rhapsode.engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recorded:
    """One number of rows: what is set before each replay, and the logits that it gives."""

    input_ids_1R: Tensor
    positions_1R: Tensor
    batch: CpuBatch
    tape: Tape
    logits_RV: Tensor

    def replay(self, input_ids_R: Tensor, rows: Sequence[Row]) -> Tensor:
        self.input_ids_1R[0] = input_ids_R
        self.positions_1R[0] = _positions(rows)
        self.batch.move_to(rows)
        self.tape.replay()
        return self.logits_RV


@dataclass(slots=True, kw_only=True)
class DecodeTapes:
    """`num_replays` counts; `num_attention_calls` are those of each forward. Logits are good until the next one."""

    loaded: LoadedModel
    kv_cache: KVCache
    num_replays: int = 0
    num_attention_calls: int = 0
    _recorded: dict[int, _Recorded] = field(default_factory=dict)
    _arena: Arena = field(default_factory=lambda: Arena(0))
    _is_possible: bool = True

    def can_compute(self, rows: Sequence[Row]) -> bool:
        """Whether these are rows of a tape, which decode and do nothing else, and the model can be recorded."""
        return self._is_possible and 0 < len(rows) <= MOST_ROWS and all(map(_only_decodes, rows))

    def compute(self, input_ids_R: Tensor, rows: Sequence[Row]) -> Tensor:
        """The logits of the next tokens, [R, V]. Keys and values of the rows' tokens are stored."""
        if recorded := self._recorded.get(len(rows)):
            self.num_replays += 1
            return recorded.replay(input_ids_R, rows)
        if not self._recorded:
            return self._begin(input_ids_R, rows)
        return self._record(input_ids_R, rows).logits_RV

    def _begin(self, input_ids_R: Tensor, rows: Sequence[Row]) -> Tensor:
        """The first recording shows whether there can be any, and how much memory they take."""
        batch = CpuBatch(rows, self.kv_cache)
        expected_RV = self._forward(input_ids_R[None], _positions(rows)[None], batch)
        self.num_attention_calls = batch.num_layers_seen
        try:
            self._record(input_ids_R, rows)
            self._arena = Arena(self._arena.num_bytes_used * MOST_ROWS // len(rows))
            self._recorded.clear()
            logits_RV = self._record(input_ids_R, rows).replay(input_ids_R, rows)
            self._is_possible = torch.equal(logits_RV, expected_RV)
        except NotRecordable as error:
            self._is_possible = False
            logger.info("decode steps of this model cannot be recorded, and take a little longer: %s", error)
        return expected_RV

    def _record(self, input_ids_R: Tensor, rows: Sequence[Row]) -> _Recorded:
        input_ids_1R, positions_1R = input_ids_R[None].clone(), _positions(rows)[None]
        batch = CpuBatch(rows, self.kv_cache)
        with recording(self._arena) as tape:
            logits_RV = self._forward(input_ids_1R, positions_1R, batch)
        self._recorded[len(rows)] = _Recorded(
            input_ids_1R=input_ids_1R, positions_1R=positions_1R, batch=batch, tape=tape, logits_RV=logits_RV
        )
        return self._recorded[len(rows)]

    def _forward(self, input_ids_1R: Tensor, positions_1R: Tensor, batch: CpuBatch) -> Tensor:
        model = self.loaded.model
        logits_1RV: Tensor = model(
            input_ids=input_ids_1R, position_ids=positions_1R, use_cache=False, batch=batch
        ).logits
        return logits_1RV[0]


def _only_decodes(row: Row) -> bool:
    return row.num_tokens == 1 and row.draw is not None and row.scored is None and not row.begins


def _positions(rows: Sequence[Row]) -> Tensor:
    return torch.tensor([row.start for row in rows])
