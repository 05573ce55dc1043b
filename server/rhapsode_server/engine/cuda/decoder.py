"""Decode steps: a forward of one token for each row and the draw of the next one, the same work on the same tensors.

What changes from step to step changes on the device: tokens are fed back and positions advance. So the host uploads
something only when the rows are others than before, and a step of plain rows is one graph and one copy to the host.
Rows that ask for more have their token drawn once more, from the logits that the graph gives.

Shape letters: R rows, V vocabulary, L slots.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter

import torch
from torch import Tensor

from rhapsode_server.engine.batch import Draw, Row
from rhapsode_server.engine.copies import to_device
from rhapsode_server.engine.cuda.attention import DecodeBatch
from rhapsode_server.engine.cuda.cache import PagedCache
from rhapsode_server.engine.cuda.graphs import Capture, Graph, batch_sizes
from rhapsode_server.engine.cuda.operators import draw
from rhapsode_server.engine.processors import is_processed
from rhapsode_server.engine.request import SamplingParameters
from rhapsode_server.engine.runner import Computed, ModelRunner
from rhapsode_server.engine.sampler import LOWEST_TEMPERATURE, is_unfiltered

_logger = logging.getLogger(__name__)

# The host passes over the rows of every step: by these, not in Python, which takes several times as long.
_slot, _start, _draw = attrgetter("slot"), attrgetter("start"), attrgetter("draw")
_parameters, _suppressed_ids, _allowed_mask = map(attrgetter, ("parameters", "suppressed_ids", "allowed_mask"))


@dataclass(frozen=True, slots=True)
class _State:
    """Of the rows of a step: where they are, and what their tokens are drawn by."""

    slots: list[int]
    positions: list[int]
    parameters: list[SamplingParameters]

    @classmethod
    def of(cls, rows: Sequence[Row], draws: Sequence[Draw]) -> "_State":
        return cls(list(map(_slot, rows)), list(map(_start, rows)), list(map(_parameters, draws)))

    def advanced(self) -> "_State":
        return _State(self.slots, list(map((1).__add__, self.positions)), self.parameters)


@dataclass(slots=True, kw_only=True)
class Decoder:
    """Runs up to `max_rows` decode rows at a time, with the model and the cache of a runner.

    `num_rows` counts the rows so far, `num_rows_by_graph` those of them that were part of a graph.
    """

    runner: ModelRunner
    cache: PagedCache
    max_rows: int
    num_rows: int = 0
    num_rows_by_graph: int = 0
    _graphs: dict[int, Graph] = field(default_factory=dict)
    _sizes: tuple[int, ...] = field(init=False)
    # What the coming step's rows are if they are those of the last one, and which the graph cannot draw for.
    _expected: _State | None = None
    _special: frozenset[int] = frozenset()
    # Of each row its slot, the place of its token, 1 (0 if it only fills the batch), and the bits of its seed.
    _state_4R: Tensor = field(init=False)
    _temperatures_R: Tensor = field(init=False)
    _token_ids_R: Tensor = field(init=False)
    _logits_RV: Tensor = field(init=False)

    def __post_init__(self) -> None:
        device = self.runner.loaded.device
        self._sizes = batch_sizes(self.max_rows)
        self._state_4R = torch.zeros(4, self.max_rows, dtype=torch.int64, device=device)
        self._state_4R[0] = self.cache.scratch_slot
        self._temperatures_R = torch.zeros(self.max_rows, dtype=torch.float64, device=device)
        self._token_ids_R = torch.zeros(self.max_rows, dtype=torch.int64, device=device)

    @torch.inference_mode()
    def record(self, capture: Capture) -> None:
        """Make the graphs, on scratch memory alone. A model whose code waits for the device runs without."""
        logits_RV = self._forward(self.max_rows)
        self._logits_RV = torch.zeros_like(logits_RV)
        try:
            # The largest first: its memory is then enough for all.
            for size in reversed(self._sizes):
                self._graphs[size] = capture(partial(self._step, size))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._graphs.clear()
            _logger.warning("no CUDA graph can be made of this model, so its decode steps are slower: %s", error)

    def compute(self, rows: Sequence[Row]) -> Computed:
        """The next token of each row, each of which decodes; what it feeds was drawn by an earlier step."""
        size = next(size for size in self._sizes if size >= len(rows))
        draws: list[Draw] = list(map(_draw, rows))
        self._load(_State.of(rows, draws), size)
        self.num_rows += len(rows)
        if graph := self._graphs.get(size):
            self.num_rows_by_graph += len(rows)
            graph.replay()
        else:
            self._step(size)
        logits_RV = self._logits_RV[: len(rows)]
        token_ids_R = self._token_ids_R[: len(rows)]
        if special := self._find_special(draws):
            token_ids_R = self._redraw(rows, special, logits_RV)
        return Computed(token_ids_R, self.runner.score_drawn(rows, logits_RV, token_ids_R))

    def _step(self, size: int) -> None:
        slots_R, positions_R, advances_R, seeds_R = self._state_4R[:, :size]
        self._logits_RV[:size] = self._forward(size)
        positions_R += advances_R
        token_ids_R = draw(self._logits_RV[:size], seeds_R, positions_R, self._temperatures_R[:size])
        self._token_ids_R[:size] = token_ids_R
        self.runner.last_token_ids_L[slots_R] = token_ids_R

    def _forward(self, size: int) -> Tensor:
        slots_R, positions_R = self._state_4R[:2, :size]
        # A row that drew nothing (a negative id) has ended; what it feeds is thrown away but must be an id.
        input_ids_R = self.runner.last_token_ids_L[slots_R].clamp(min=0)
        batch = DecodeBatch(cache=self.cache, slots_R=slots_R, positions_R=positions_R)
        output = self.runner.loaded.model(
            input_ids=input_ids_R[None], position_ids=positions_R[None], use_cache=False, batch=batch
        )
        logits_RV: Tensor = output.logits[0, :, : self.runner.vocabulary_size]
        return logits_RV

    def _load(self, state: _State, size: int) -> None:
        """Upload the rows unless they are what the last step has left."""
        if state != self._expected:
            self._upload(state, size)
        self._expected = state.advanced()

    def _upload(self, state: _State, size: int) -> None:
        num_rows, num_filling, device = len(state.slots), size - len(state.slots), self._state_4R.device
        columns = [
            state.slots + [self.cache.scratch_slot] * num_filling,
            state.positions + [0] * num_filling,
            [1] * num_rows + [0] * num_filling,
            [_signed(each.seed) for each in state.parameters] + [0] * num_filling,
        ]
        temperatures = [
            max(each.temperature, LOWEST_TEMPERATURE) if each.temperature else 0 for each in state.parameters
        ]
        self._state_4R[:, :size] = to_device(columns, torch.int64, device)
        self._temperatures_R[:num_rows] = to_device(temperatures, torch.float64, device)
        self._special = frozenset(
            number
            for number, parameters in enumerate(state.parameters)
            if not _is_plain(parameters, self.runner.vocabulary_size)
        )

    def _find_special(self, draws: Sequence[Draw]) -> Sequence[int]:
        """The rows that ask for more than the graph gives, some of them in this step alone."""
        if not (any(map(_suppressed_ids, draws)) or any(map(_allowed_mask, draws))):
            return sorted(self._special)
        asking = {number for number, each in enumerate(draws) if each.suppressed_ids or each.allowed_mask is not None}
        return sorted(self._special | asking)

    def _redraw(self, rows: Sequence[Row], special: Sequence[int], logits_RV: Tensor) -> Tensor:
        """The tokens, with those of some rows drawn anew by the sampler."""
        special_R = to_device(special, torch.int64, logits_RV.device)
        drawn_R = self.runner.draw([rows[number] for number in special], logits_RV[special_R])
        return self._token_ids_R[: len(rows)].index_copy(0, special_R, drawn_R)


def _is_plain(parameters: SamplingParameters, vocabulary_size: int) -> bool:
    return is_unfiltered(parameters, vocabulary_size) and not is_processed(Draw(parameters=parameters, position=0))


def _signed(seed: int) -> int:
    return seed - (1 << 64) if seed >> 63 else seed
