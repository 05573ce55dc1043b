"""The largest of many logits, without sorting them: by tiles, of which only a few can hold what is sought.

Shape letters: R rows, V vocabulary, T tiles of a row, F tiles looked into, K tokens sought.
"""

import torch
from torch import Tensor

_TILE = 64


def tile_maxima(x_RV: Tensor) -> Tensor:
    """The largest value of each 64 neighbouring tokens, [R, T]; the last tile may be smaller."""
    whole = x_RV.shape[1] // _TILE * _TILE
    maxima = [x_RV[:, :whole].unflatten(1, (-1, _TILE)).amax(2)] if whole else []
    rest = [x_RV[:, whole:].amax(1, keepdim=True)] if whole < x_RV.shape[1] else []
    return torch.cat(maxima + rest, dim=1)


def tile_tokens(x_RV: Tensor, tiles_RF: Tensor) -> tuple[Tensor, Tensor]:
    """The values and ids of the tokens of some tiles, both [R, F * 64]; a smaller tile is filled with -inf."""
    offsets = torch.arange(_TILE, device=tiles_RF.device)
    ids_RK = (tiles_RF[:, :, None] * _TILE + offsets).flatten(1)
    last = x_RV.shape[1] - 1
    is_filling_RK = ids_RK > last
    ids_RK.clamp_(max=last)
    return x_RV.gather(1, ids_RK).masked_fill_(is_filling_RK, -torch.inf), ids_RK


def first_argmax(x_RV: Tensor) -> Tensor:
    """The lowest id of the largest value of each row, int64 [R]; NaN counts as the largest."""
    if not x_RV.is_cpu:
        return x_RV.argmax(1)
    tile_R1 = tile_maxima(x_RV).argmax(1, keepdim=True)
    values_RK, ids_RK = tile_tokens(x_RV, tile_R1)
    return ids_RK.gather(1, values_RK.argmax(1, keepdim=True)).squeeze(1)


def likeliest(x_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest values of each row in descending order, and their ids, both [R, count].

    Of the tokens that equal the last one, any; the id beside -inf tells nothing.
    """
    # Each tile with a larger maximum holds a token that comes before any of this one.
    tiles_RF = tile_maxima(x_RV).topk(min(count, _num_tiles(x_RV))).indices
    values_RK, ids_RK = tile_tokens(x_RV, tiles_RF)
    values_RK, order_RK = values_RK.topk(count)
    return values_RK, ids_RK.gather(1, order_RK)


def first_likeliest(x_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As `likeliest`, but among equal values lower ids come first, and are chosen first."""
    order_RT = tile_maxima(x_RV).sort(dim=1, descending=True, stable=True).indices
    values_RK, ids_RK = tile_tokens(x_RV, order_RT[:, :count].sort(dim=1).values)
    values_RK, order_RK = values_RK.sort(dim=1, descending=True, stable=True)
    return values_RK[:, :count], ids_RK.gather(1, order_RK)[:, :count]


def _num_tiles(x_RV: Tensor) -> int:
    return -(-x_RV.shape[1] // _TILE)
