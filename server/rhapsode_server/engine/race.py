"""Gumbel-max over a whole vocabulary: the token with the largest sum of scaled logit and noise.

The noise of every token would cost more than all else. So `draw` bounds the sums of groups of tokens, and computes the
noise of those few groups that can still win. The result is that of `draw_plainly`, bit for bit.
Shape letters: R rows, V vocabulary, G groups of a row, F groups looked into, K tokens of these.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rhapsode_server.engine.likeliest import first_argmax
from rhapsode_server.engine.noise import gumbel, largest_gumbel, least_v

# Tokens to work on at a time for each thread, so that the many passes over them stay in its cache.
_CACHED_TOKENS = 1 << 17
# Tokens of a group: far apart, because their largest is then that of whole vectors.
_GROUP = 16
# Groups to look into. A row is drawn plainly where more can win: with this many, hardly ever.
_FINALISTS = 48
# Covers the rounding of bounds and sums, relative to the largest logit and absolute.
_RELATIVE_SLACK, _ABSOLUTE_SLACK = 2.0**-20, 1e-3


def draw(x_RV: Tensor, keys_R2: Tensor) -> tuple[Tensor, Tensor]:
    """The winners, int64 [R], and the largest logit of each row, [R, 1]. `x_RV`: scaled logits, float32.

    Looks at values, so it is for a CPU. Among equal sums the lowest id wins; -inf is never drawn; a row that holds NaN
    or +inf gives any token.
    """
    if x_RV.shape[1] < _GROUP * _FINALISTS * 2:
        return draw_plainly(x_RV, keys_R2)
    largest_RG = _by_group(x_RV, Tensor.amax)
    peak_R1 = largest_RG.amax(1, keepdim=True)
    bounds_RG = largest_gumbel(torch.cat([_least_v(x_RV.shape[1], keys_R2[rows]) for rows in cached_slices(x_RV)]))
    bounds_RF, groups_RF = bounds_RG.add_(largest_RG - peak_R1).topk(_FINALISTS + 1)
    ids_RK = _tokens(groups_RF[:, :-1], x_RV.shape[1])
    tokens_R, best_R1 = best(x_RV.gather(1, ids_RK), ids_RK, peak_R1, keys_R2)
    slack_R1 = peak_R1.abs() * _RELATIVE_SLACK + _ABSOLUTE_SLACK
    open_R = (bounds_RF[:, -1:] + slack_R1 >= best_R1).squeeze(1).nonzero().squeeze(1)
    if len(open_R):
        tokens_R[open_R], _ = draw_plainly(x_RV.index_select(0, open_R), keys_R2[open_R])
    return tokens_R, peak_R1


def draw_plainly(x_RV: Tensor, keys_R2: Tensor) -> tuple[Tensor, Tensor]:
    """As `draw`, by definition and on any device."""
    peak_R1 = x_RV.amax(1, keepdim=True)
    ids_V = torch.arange(x_RV.shape[1], dtype=torch.int32, device=x_RV.device)
    winners = [
        first_argmax(gumbel(ids_V, keys_R2[rows]).add_(x_RV[rows] - peak_R1[rows])) for rows in cached_slices(x_RV)
    ]
    return torch.cat(winners), peak_R1


def best(values_RK: Tensor, ids_RK: Tensor, peak_R1: Tensor, keys_R2: Tensor) -> tuple[Tensor, Tensor]:
    """Of some tokens of each row, in any order of id, the winner [R] and its sum [R, 1]."""
    sums_RK = gumbel(ids_RK.int(), keys_R2).add_(values_RK - peak_R1)
    best_R1 = sums_RK.amax(1, keepdim=True)
    # As in argmax over the vocabulary: among equal sums the lowest id.
    ids_RK = ids_RK.masked_fill(sums_RK < best_R1, torch.iinfo(ids_RK.dtype).max)
    return ids_RK.amin(1), best_R1


def cached_slices(x_RV: Tensor) -> list[slice]:
    """Slices of the rows that fit the caches; all rows at once elsewhere than on a CPU."""
    count, vocabulary_size = x_RV.shape
    size = max(1, _CACHED_TOKENS * torch.get_num_threads() // vocabulary_size) if x_RV.is_cpu else count
    return [slice(start, start + size) for start in range(0, count, size)]


def _least_v(vocabulary_size: int, keys_R2: Tensor) -> Tensor:
    return _by_group(least_v(vocabulary_size, keys_R2), Tensor.amin)


def _by_group(x_RV: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
    """Each group's extreme: token i is of group i % n, where n = V // 16; the last V % 16 tokens are groups alone."""
    count = x_RV.shape[1] // _GROUP
    in_groups = x_RV[:, : count * _GROUP].unflatten(1, (_GROUP, count))
    return torch.cat((reduce(in_groups, 1), x_RV[:, count * _GROUP :]), dim=1)


def _tokens(groups_RF: Tensor, vocabulary_size: int) -> Tensor:
    """The ids of the groups' tokens, [R, F * 16]; that of a group alone, many times."""
    count = vocabulary_size // _GROUP
    in_group = groups_RF[:, :, None] + torch.arange(0, count * _GROUP, count)
    alone = groups_RF[:, :, None] + (count * _GROUP - count)
    return torch.where(groups_RF[:, :, None] < count, in_group, alone).flatten(1)
