"""The operators in torch: what the kernels must equal, on any device. Nothing here waits for one.

Shape letters: R rows, N query heads, K key-value heads, G query heads of a key-value head, H head dimension,
S places of a block table, V vocabulary.
"""

import torch
from torch import Tensor

from rhapsode_server.engine import race
from rhapsode_server.engine.likeliest import first_argmax
from rhapsode_server.engine.noise import row_keys_of
from rhapsode_server.engine.request import NOT_FINITE


def paged_decode(
    query_RNH: Tensor,
    key_RKH: Tensor,
    value_RKH: Tensor,
    key_blocks: Tensor,
    value_blocks: Tensor,
    tables_LB: Tensor,
    slots_R: Tensor,
    positions_R: Tensor,
    sinks_N: Tensor | None,
    scaling: float,
    window: int,
    softcap: float,
) -> Tensor:
    """As the operator of this name."""
    block_size = key_blocks.shape[1]
    keys, values = key_blocks.flatten(0, 1), value_blocks.flatten(0, 1)
    tables_RB = tables_LB[slots_R].long()
    offsets = torch.arange(block_size, device=tables_RB.device)
    places_RS = (tables_RB[:, :, None] * block_size + offsets).flatten(1)
    own_R = places_RS.gather(1, positions_R[:, None]).squeeze(1)
    keys[own_R], values[own_R] = key_RKH, value_RKH
    seen_RS = _seen(places_RS.shape[1], positions_R, window)
    keys_RKSH, values_RKSH = (tensor[places_RS].transpose(1, 2).float() for tensor in (keys, values))
    # What was never written, or by a row that failed, may be NaN, and a weight of 0 would not hide it.
    values_RKSH = values_RKSH.masked_fill(~seen_RS[:, None, :, None], 0)
    query_RKGH = query_RNH.float().unflatten(1, (keys_RKSH.shape[1], -1))
    scores_RKGS = query_RKGH @ keys_RKSH.mT * scaling
    if softcap:
        scores_RKGS = torch.tanh(scores_RKGS / softcap) * softcap
    scores_RKGS = scores_RKGS.masked_fill(~seen_RS[:, None, None, :], -torch.inf)
    return (_weights(scores_RKGS, sinks_N) @ values_RKSH).flatten(1, 2).to(value_RKH.dtype)


def draw(logits_RV: Tensor, seeds_R: Tensor, positions_R: Tensor, temperatures_R: Tensor) -> Tensor:
    """As the operator of this name."""
    is_greedy_R = temperatures_R == 0
    scaled_RV = logits_RV.float() / temperatures_R.masked_fill(is_greedy_R, 1).float()[:, None]
    drawn_R, peak_R1 = race.draw_plainly(scaled_RV, row_keys_of(seeds_R, positions_R))
    tokens_R = torch.where(is_greedy_R, first_argmax(logits_RV), drawn_R)
    return tokens_R.masked_fill(~peak_R1.squeeze(1).isfinite(), NOT_FINITE)


def _seen(num_places: int, positions_R: Tensor, window: int) -> Tensor:
    places_S = torch.arange(num_places, device=positions_R.device)
    seen_RS = places_S <= positions_R[:, None]
    return seen_RS & (places_S > positions_R[:, None] - window) if window else seen_RS


def _weights(scores_RKGS: Tensor, sinks_N: Tensor | None) -> Tensor:
    if sinks_N is None:
        return scores_RKGS.softmax(-1)
    sinks_RKG1 = sinks_N.float().view(scores_RKGS.shape[1], -1, 1).expand(*scores_RKGS.shape[:3], 1)
    return torch.cat([scores_RKGS, sinks_RKG1], dim=-1).softmax(-1)[..., :-1]
