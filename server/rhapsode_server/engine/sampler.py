"""Choosing the next tokens; docs/sampling.md says how, and what is promised.

How to compute is decided from the parameters and the kind of device alone, never from a tensor, so nothing here waits
for an accelerator. Rows that ask alike are computed together; those that ask for little pay for little.
Shape letters: R rows, V vocabulary, K candidates (the likeliest tokens of each row, in descending order).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rhapsode_server.engine import race
from rhapsode_server.engine.batch import Draw
from rhapsode_server.engine.copies import to_device
from rhapsode_server.engine.filters import Nucleus, kept, kth_largest, least_kept_by_min_p, top_p_limits
from rhapsode_server.engine.likeliest import first_argmax, likeliest
from rhapsode_server.engine.noise import row_keys
from rhapsode_server.engine.processors import is_processed, process
from rhapsode_server.engine.request import NOT_FINITE, NOTHING_LEFT, SamplingParameters

# A lower one could push a plausible logit past the range of float32; here it is greedy but for exact near-ties.
LOWEST_TEMPERATURE = 1e-6
# Room beside top_k for tokens tied with its last one.
_TIE_ROOM = 16


def sample(logits_RV: Tensor, draws: Sequence[Draw]) -> Tensor:
    """One token id per row, int64 [R], on the device of the logits (of any floating dtype, and left unchanged).

    A row that holds NaN or +inf, or nothing but -inf, gives NOT_FINITE; one whose parameters leave no token to draw
    gives NOTHING_LEFT. No row depends on another. Ids in the parameters are below V.
    """
    assert len(logits_RV) == len(draws), "one draw per row"
    rows = _Rows(logits=logits_RV, draws=draws)
    tokens_R = torch.empty(len(draws), dtype=torch.int64, device=logits_RV.device)
    for (method, processed), members in _groups(rows).items():
        group = rows.select(members)
        tokens_R[rows.index(members)] = _processed(group, method) if processed else method(group)
    return tokens_R


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Some of the rows of a batch; `logits` are [R, V]."""

    logits: Tensor
    draws: Sequence[Draw]

    @property
    def parameters(self) -> list[SamplingParameters]:
        return [draw.parameters for draw in self.draws]

    def select(self, rows: Sequence[int]) -> "_Rows":
        if len(rows) == len(self.draws):
            return self
        return _Rows(logits=self.logits.index_select(0, self.index(rows)), draws=[self.draws[row] for row in rows])

    def index(self, rows: Sequence[int]) -> Tensor:
        return to_device(rows, torch.int64, self.logits.device)

    def scaled_logits(self) -> Tensor:
        temperatures = [max(row.temperature, LOWEST_TEMPERATURE) for row in self.parameters]
        if all(temperature == 1 for temperature in temperatures):
            return self.logits.float()
        return self.logits.float() / to_device(temperatures, torch.float32, self.logits.device)[:, None]

    def keys(self) -> Tensor:
        keys = [row_keys(draw.parameters.seed, draw.position) for draw in self.draws]
        return to_device(keys, torch.int32, self.logits.device)


def is_unfiltered(row: SamplingParameters, vocabulary_size: int) -> bool:
    """Whether every token may be drawn, or the likeliest is."""
    has_top_k = 0 < row.top_k < vocabulary_size
    has_filters = has_top_k or row.top_p < 1 or row.min_p > 0 or row.typical_p < 1
    return row.temperature == 0 or not has_filters


_Method = Callable[[_Rows], Tensor]


def _groups(rows: _Rows) -> dict[tuple[_Method, bool], list[int]]:
    """The rows that are computed together, by how they are drawn and whether their logits are processed."""
    groups: dict[tuple[_Method, bool], list[int]] = {}
    for number, draw in enumerate(rows.draws):
        method = _method(draw.parameters, rows.logits.shape[1], rows.logits.is_cpu)
        groups.setdefault((method, is_processed(draw)), []).append(number)
    return groups


def _method(row: SamplingParameters, vocabulary_size: int, is_cpu: bool) -> _Method:
    has_top_k = 0 < row.top_k < vocabulary_size
    if row.temperature == 0:
        return _greedy
    if is_unfiltered(row, vocabulary_size):
        return _unfiltered
    if not is_cpu:
        return _among_all  # an accelerator sorts quickly
    if has_top_k:
        return _among_likeliest
    return _nucleus if row.typical_p == 1 else _among_all


def _processed(rows: _Rows, method: _Method) -> Tensor:
    """A mask may hide what is wrong with the logits: so they are looked at both before and after."""
    tokens_R = method(replace(rows, logits=process(rows.logits, rows.draws)))
    tokens_R = tokens_R.masked_fill(tokens_R == NOT_FINITE, NOTHING_LEFT)
    return _checked(tokens_R, rows.logits.amax(1, keepdim=True))


def _greedy(rows: _Rows) -> Tensor:
    tokens_R = first_argmax(rows.logits)
    return _checked(tokens_R, rows.logits.gather(1, tokens_R[:, None]))


def _unfiltered(rows: _Rows) -> Tensor:
    x_RV = rows.scaled_logits()
    draw = race.draw if x_RV.is_cpu else race.draw_plainly
    return _checked(*draw(x_RV, rows.keys()))


def _nucleus(rows: _Rows) -> Tensor:
    """For rows with top_p and min_p alone: their nucleus need not be known, only that it holds the winner."""
    x_RV, parameters, keys_R2 = rows.scaled_logits(), rows.parameters, rows.keys()
    peak_R1 = x_RV.amax(1, keepdim=True)
    open_RV = x_RV
    if any(row.min_p > 0 for row in parameters):
        open_RV = x_RV.masked_fill(x_RV < least_kept_by_min_p(peak_R1, parameters), -torch.inf)
    if all(row.top_p == 1 for row in parameters):
        return _checked(*race.draw(open_RV, keys_R2))
    nucleus = Nucleus(x=x_RV, peak=peak_R1, top_p=top_p_limits(x_RV, parameters))
    return _checked(_draw_nucleus(nucleus, open_RV, keys_R2), peak_R1)


def _draw_nucleus(nucleus: Nucleus, open_RV: Tensor, keys_R2: Tensor) -> Tensor:
    """Draw among the open tokens; a winner outside of the nucleus is closed, with all that are no likelier."""
    tokens_R, _ = race.draw(open_RV, keys_R2)
    value_R1 = nucleus.x.gather(1, tokens_R[:, None])
    refused = (~nucleus.holds(value_R1)).nonzero().squeeze(1)
    if len(refused):
        left_RV = open_RV.index_select(0, refused)
        left_RV.masked_fill_(left_RV <= value_R1[refused], -torch.inf)
        tokens_R[refused] = _draw_nucleus(nucleus.select(refused), left_RV, keys_R2[refused])
    return tokens_R


def _among_likeliest(rows: _Rows) -> Tensor:
    """For rows with top_k. Where more tokens are tied with its last one than there was room for: among all."""
    width = min(max(row.top_k for row in rows.parameters) + _TIE_ROOM, rows.logits.shape[1])
    x_RV = rows.scaled_logits()
    values_RK, ids_RK = likeliest(x_RV, width)
    tokens_R = _best_kept(rows, values_RK, ids_RK)
    last_R1 = values_RK[:, -1:]
    is_open_R1 = (last_R1 == kth_largest(values_RK, rows.parameters)) & last_R1.isfinite()
    if width < x_RV.shape[1] and is_open_R1.any():
        members = is_open_R1.squeeze(1).nonzero().squeeze(1)
        tokens_R[members] = _among_all(rows.select(members.tolist()))
    return tokens_R


def _among_all(rows: _Rows) -> Tensor:
    return _best_kept(rows, *rows.scaled_logits().sort(dim=1, descending=True))


def _best_kept(rows: _Rows, values_RK: Tensor, ids_RK: Tensor) -> Tensor:
    peak_R1 = values_RK[:, :1]
    kept_RK = kept(values_RK, rows.parameters)
    tokens_R, _ = race.best(values_RK.masked_fill(~kept_RK, -torch.inf), ids_RK, peak_R1, rows.keys())
    return _checked(tokens_R, peak_R1)


def _checked(tokens_R: Tensor, peak_R1: Tensor) -> Tensor:
    """The tokens of rows whose largest logit is finite: NaN and +inf are larger than any number, -inf is no token."""
    return tokens_R.masked_fill(~peak_R1.squeeze(1).isfinite(), NOT_FINITE)
