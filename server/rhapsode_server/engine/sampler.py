"""Choosing the next tokens: temperature, top_k, top_p, then Gumbel-max; docs/sampling.md says what is promised.

What to compute is decided from the parameters alone, never from a tensor, so nothing here waits for an accelerator.
Shape letters: R rows, V vocabulary, K candidates (the likeliest tokens of each row, in descending order).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rhapsode_server.engine.copies import to_device
from rhapsode_server.engine.noise import gumbel, row_keys
from rhapsode_server.engine.request import NOT_FINITE, SamplingParameters

# A lower one could push a plausible logit past the range of float32; here it is greedy but for exact near-ties.
_LOWEST_TEMPERATURE = 1e-6
# How many candidates top_p looks at first, and by how much to widen for the rows that these do not settle.
_NUCLEUS_WIDTH = 256
_WIDENING = 8
# Room beside top_k for tokens tied with its last one.
_TIE_ROOM = 16
# Tokens, of all rows together, to draw among at a time on a CPU: the many passes over the noise stay in its cache.
_CACHED_TOKENS = 1 << 17


def sample(logits_RV: Tensor, parameters: Sequence[SamplingParameters], positions: Sequence[int]) -> Tensor:
    """One token id per row, int64 [R], on the device of the logits (of any floating dtype, and left unchanged).

    `positions[r]` is the 0-based index in its sequence, prompt included, of the token to draw. A row that holds
    NaN, +inf or nothing finite gives NOT_FINITE; -inf masks a token. No row depends on another.
    """
    assert len(logits_RV) == len(parameters) == len(positions), "one set of parameters and one position per row"
    rows = _Rows(logits=logits_RV, parameters=parameters, positions=positions)
    draws = [_draw_for(row, rows.vocabulary_size) for row in parameters]
    tokens_R = torch.empty(len(draws), dtype=torch.int64, device=logits_RV.device)
    for draw in dict.fromkeys(draws):
        members = [row for row, its_draw in enumerate(draws) if its_draw is draw]
        tokens_R[rows.column(members, torch.int64).squeeze(1)] = draw(rows.select(members))
    return tokens_R


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Some of the rows of a batch; `logits` are [R, V]."""

    logits: Tensor
    parameters: Sequence[SamplingParameters]
    positions: Sequence[int]

    @property
    def vocabulary_size(self) -> int:
        return self.logits.shape[1]

    def select(self, rows: Sequence[int]) -> "_Rows":
        if len(rows) == len(self.parameters):
            return self
        return _Rows(
            logits=self.logits.index_select(0, self.column(rows, torch.int64).squeeze(1)),
            parameters=[self.parameters[row] for row in rows],
            positions=[self.positions[row] for row in rows],
        )

    def column(self, values: Sequence[float] | Sequence[tuple[int, int]], dtype: torch.dtype) -> Tensor:
        """Host values as a tensor beside the logits: one row each."""
        return to_device(values, dtype, self.logits.device).view(len(values), -1)

    def scaled_logits(self) -> Tensor:
        temperatures = [max(row.temperature, _LOWEST_TEMPERATURE) for row in self.parameters]
        return self.logits.float() / self.column(temperatures, torch.float32)

    def noise(self, token_ids: Tensor) -> Tensor:
        keys = [row_keys(row.seed, position) for row, position in zip(self.parameters, self.positions, strict=True)]
        return gumbel(token_ids, self.column(keys, torch.int32))


def _draw_for(row: SamplingParameters, vocabulary_size: int) -> Callable[[_Rows], Tensor]:
    if row.temperature == 0:
        return _greedy
    if 0 < row.top_k < vocabulary_size:
        return _top_k
    return _top_p if row.top_p < 1 else _unfiltered


def _greedy(rows: _Rows) -> Tensor:
    tokens_R1 = rows.logits.argmax(1, keepdim=True)
    return _checked(tokens_R1.squeeze(1), rows.logits.gather(1, tokens_R1))


def _unfiltered(rows: _Rows) -> Tensor:
    count = len(rows.parameters)
    size = max(1, _CACHED_TOKENS // rows.vocabulary_size) if rows.logits.is_cpu else count
    slices = [range(count)[start : start + size] for start in range(0, count, size)]
    return torch.cat([_unfiltered_at_once(rows.select(members)) for members in slices])


def _unfiltered_at_once(rows: _Rows) -> Tensor:
    x_RV = rows.scaled_logits()
    peak_R1 = x_RV.amax(1, keepdim=True)
    noise_RV = rows.noise(torch.arange(rows.vocabulary_size, dtype=torch.int32, device=x_RV.device))
    return _checked(noise_RV.add_(x_RV.sub_(peak_R1)).argmax(1), peak_R1)


def _top_k(rows: _Rows) -> Tensor:
    """Top_k, and top_p within it where that is on."""
    return _filtered(rows, _top_k_floors, max(row.top_k for row in rows.parameters) + _TIE_ROOM)


def _top_p(rows: _Rows) -> Tensor:
    return _filtered(rows, _top_p_floors, _NUCLEUS_WIDTH)


_Floors = Callable[[_Rows, Tensor, Tensor], tuple[Tensor, Tensor]]


def _filtered(rows: _Rows, floors: _Floors, width: int) -> Tensor:
    """Draw among the `width` likeliest tokens; rows for which these may be too few are drawn again among more.

    Whether they are too few is known on the device only. An accelerator sorts quickly, so there they are all tokens.
    """
    x_RV = rows.scaled_logits()
    width = min(width, rows.vocabulary_size) if x_RV.is_cpu else rows.vocabulary_size
    values_RK, ids_RK = x_RV.topk(width)
    floor_R1, bound_R1 = floors(rows, x_RV, values_RK)
    tokens_R = _checked(_best(rows, values_RK, ids_RK, floor_R1), values_RK[:, :1])
    if width < rows.vocabulary_size:
        last_R1 = values_RK[:, -1:]
        unsettled = ((last_R1 >= bound_R1) & (last_R1 > -torch.inf)).squeeze(1).nonzero().squeeze(1)
        if len(unsettled):
            tokens_R[unsettled] = _filtered(rows.select(unsettled.tolist()), floors, width * _WIDENING)
    return tokens_R


def _top_k_floors(rows: _Rows, x_RV: Tensor, values_RK: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest scaled logit to keep, and the bound below which the candidates must reach: both [R, 1]."""
    bound_R1 = values_RK.gather(1, rows.column([row.top_k - 1 for row in rows.parameters], torch.int64))
    weights_RK = _weights(values_RK)
    total_R1 = weights_RK.where(values_RK >= bound_R1, 0).sum(1, keepdim=True)
    return torch.maximum(bound_R1, _nucleus_floor(rows, values_RK, weights_RK / total_R1)), bound_R1


def _top_p_floors(rows: _Rows, x_RV: Tensor, values_RK: Tensor) -> tuple[Tensor, Tensor]:
    """As `_top_k_floors`, for rows without top_k."""
    peak_probability_R1 = x_RV.softmax(1).amax(1, keepdim=True).double()
    floor_R1 = _nucleus_floor(rows, values_RK, _weights(values_RK) * peak_probability_R1)
    return floor_R1, floor_R1


def _nucleus_floor(rows: _Rows, values_RK: Tensor, probabilities_RK: Tensor) -> Tensor:
    """The last of the most likely tokens that top_p needs: those before it sum to less than top_p."""
    top_p_R1 = rows.column([row.top_p if row.top_p < 1 else torch.inf for row in rows.parameters], torch.float64)
    before_RK = probabilities_RK.cumsum(1) - probabilities_RK
    kept_R1 = (before_RK < top_p_R1).sum(1, keepdim=True).clamp(min=1)
    return values_RK.gather(1, kept_R1 - 1)


def _weights(values_RK: Tensor) -> Tensor:
    """Probabilities relative to the likeliest token; float64, so that no sum depends on the number of candidates."""
    return (values_RK.double() - values_RK[:, :1]).exp()


def _best(rows: _Rows, values_RK: Tensor, ids_RK: Tensor, floor_R1: Tensor) -> Tensor:
    scores_RK = rows.noise(ids_RK.int()).add_(values_RK - values_RK[:, :1])
    scores_RK.masked_fill_(values_RK < floor_R1, -torch.inf)
    # Candidates come in no order of id: among equal scores the lowest id wins, as in argmax over the vocabulary.
    behind_RK = scores_RK < scores_RK.amax(1, keepdim=True)
    return ids_RK.masked_fill(behind_RK, rows.vocabulary_size).amin(1)


def _checked(tokens_R: Tensor, peak_R1: Tensor) -> Tensor:
    """The tokens of rows whose largest logit is finite: NaN and +inf are larger than any number, -inf is no token."""
    return tokens_R.masked_fill(~peak_R1.squeeze(1).isfinite(), NOT_FINITE)
