"""Which tokens top_k, top_p, min_p and typical_p keep, one filter after the other.

Each counts the tokens, or sums their probabilities, that come before a token in the filter's order, and keeps the token
while that is below the filter's limit: tokens that are equal are kept or dropped together.
Sums are in float64, so that none depends on the number of candidates.
Shape letters: R rows, V vocabulary, K candidates (the likeliest tokens of each row, in descending order).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rhapsode_server.engine.copies import to_device
from rhapsode_server.engine.race import cached_slices
from rhapsode_server.engine.request import SamplingParameters

_Parameters = Sequence[SamplingParameters]


def kept(values_RK: Tensor, parameters: _Parameters) -> Tensor:
    """Which candidates all filters of their row keep, bool [R, K].

    `values_RK` are scaled logits: for a row with top_k all that it may keep, for another the whole vocabulary.
    """
    weights_RK = (values_RK.double() - values_RK[:, :1]).exp()
    floor_R1 = kth_largest(values_RK, parameters)
    if any(row.top_p < 1 for row in parameters):
        weights_RK = weights_RK.where(values_RK >= floor_R1, 0)
        floor_R1 = torch.maximum(floor_R1, _nucleus_floor(values_RK, weights_RK, parameters))
    if any(row.min_p > 0 for row in parameters):
        floor_R1 = torch.maximum(floor_R1, least_kept_by_min_p(values_RK[:, :1], parameters))
    kept_RK = values_RK >= floor_R1
    if any(row.typical_p < 1 for row in parameters):
        kept_RK &= _typical(weights_RK.where(kept_RK, 0), parameters)
    return kept_RK


def kth_largest(values_RK: Tensor, parameters: _Parameters) -> Tensor:
    """The last value that top_k keeps, [R, 1]; -inf where it is off."""
    width = values_RK.shape[1]
    ranks = [row.top_k if row.top_k <= width else 0 for row in parameters]
    rank_R1 = to_device(ranks, torch.int64, values_RK.device)[:, None]
    return values_RK.gather(1, (rank_R1 - 1).clamp(min=0)).masked_fill(rank_R1 == 0, -torch.inf)


def least_kept_by_min_p(peak_R1: Tensor, parameters: _Parameters) -> Tensor:
    """The lowest scaled logit that min_p keeps, [R, 1]: no filter before it moves the likeliest token."""
    min_p_R1 = _column([row.min_p for row in parameters], peak_R1)
    return (peak_R1.double() + min_p_R1.log()).float()


def top_p_limits(beside: Tensor, parameters: _Parameters) -> Tensor:
    """Each row's top_p, infinite where it is off: float64 [R, 1]."""
    return _column([row.top_p if row.top_p < 1 else torch.inf for row in parameters], beside)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nucleus:
    """The tokens that top_p keeps, by rows: of the scaled logits `x` [R, V], whose largest are `peak` [R, 1]."""

    x: Tensor
    peak: Tensor
    top_p: Tensor

    def holds(self, value_R1: Tensor) -> Tensor:
        """Whether tokens with these scaled logits are in it, bool [R]. A row that holds NaN or +inf says yes."""
        ahead_R1 = torch.cat([self._probability_ahead(rows, value_R1) for rows in cached_slices(self.x)])
        return ~(ahead_R1 >= self.top_p).squeeze(1)

    def select(self, rows: Tensor) -> "Nucleus":
        return Nucleus(x=self.x.index_select(0, rows), peak=self.peak[rows], top_p=self.top_p[rows])

    def _probability_ahead(self, rows: slice, value_R1: Tensor) -> Tensor:
        weights_RV = (self.x[rows] - self.peak[rows]).exp_()
        total_R1 = weights_RV.sum(1, keepdim=True, dtype=torch.float64)
        # A comparison into float32 is much faster than one into bool and a mask.
        is_ahead_RV = torch.gt(self.x[rows], value_R1[rows], out=torch.empty_like(weights_RV))
        return weights_RV.mul_(is_ahead_RV).sum(1, keepdim=True, dtype=torch.float64) / total_R1


def _nucleus_floor(values_RK: Tensor, weights_RK: Tensor, parameters: _Parameters) -> Tensor:
    """The last of the most likely tokens that top_p needs: those before it sum to less than top_p."""
    top_p_R1 = top_p_limits(values_RK, parameters)
    probabilities_RK = weights_RK / weights_RK.sum(1, keepdim=True)
    before_RK = probabilities_RK.cumsum(1) - probabilities_RK
    count_R1 = (before_RK < top_p_R1).sum(1, keepdim=True).clamp(min=1)
    return values_RK.gather(1, count_R1 - 1)


def _typical(weights_RK: Tensor, parameters: _Parameters) -> Tensor:
    """The candidates whose information is nearest the entropy, until their probabilities sum to typical_p."""
    typical_p_R1 = _column([row.typical_p if row.typical_p < 1 else torch.inf for row in parameters], weights_RK)
    probabilities_RK = weights_RK / weights_RK.sum(1, keepdim=True)
    entropy_R1 = torch.special.entr(probabilities_RK).sum(1, keepdim=True)
    distances_RK = (probabilities_RK.log() + entropy_R1).abs()
    sorted_RK, order_RK = distances_RK.sort(dim=1)
    sums_RK = probabilities_RK.gather(1, order_RK).cumsum(1)
    count_R1 = (sums_RK < typical_p_R1).sum(1, keepdim=True).clamp(max=weights_RK.shape[1] - 1)
    is_near_RK: Tensor = distances_RK <= sorted_RK.gather(1, count_R1)
    return is_near_RK


def _column(values: Sequence[float], beside: Tensor) -> Tensor:
    return to_device(values, torch.float64, beside.device)[:, None]
