"""Gumbel noise as a function of seed, position and token id; docs/sampling.md publishes the definition."""

import math
from functools import lru_cache

import torch
from torch import Tensor

_FACTORS = (0x21F0AAAD, 0xD35A2D97)
_LARGEST_BELOW_ONE = 1.0 - 2.0**-24


def _signed(x: int) -> int:
    return x - (1 << 32) if x >> 31 else x


def _int32(x: int) -> Tensor:
    """A constant for operations on int32, which would convert a number anew in every call."""
    return torch.tensor(_signed(x), dtype=torch.int32)


_POSITION_FACTOR, _POSITION_MASK = _int32(0x9E3779B9), _int32(0x85EBCA6B)
_FACTOR_TENSORS = [_int32(factor) for factor in _FACTORS]
# The shift of a signed integer copies the sign bit: a mask makes it logical.
_SHIFTS = {bits: (_int32(bits), _int32((1 << 32 - bits) - 1)) for bits in (15, 16)}


def row_keys(seed: int, position: int) -> tuple[int, int]:
    """The two keys of a row, as signed 32-bit integers. `seed` has 64 bits, `position` 32."""
    assert 0 <= seed < 1 << 64, "a seed has 64 bits"
    assert 0 <= position < 1 << 32, "a position has 32 bits"
    low, high = seed & 0xFFFFFFFF, seed >> 32
    return _signed(_mix(low + 0x9E3779B9 * position)), _signed(_mix(high ^ _mix(position ^ 0x85EBCA6B)))


def row_keys_of(seeds_R: Tensor, positions_R: Tensor) -> Tensor:
    """`row_keys` on the device, int32 [R, 2]; both arguments are int64, and the bits of the first the seeds'."""
    position_R = positions_R.int()
    low_R = seeds_R.int() + position_R * _POSITION_FACTOR
    high_R = (seeds_R >> 32).int() ^ _mixed(position_R ^ _POSITION_MASK)
    return torch.stack((_mixed(low_R), _mixed(high_R)), dim=1)


def hash_tokens(token_ids: Tensor, keys_R2: Tensor) -> Tensor:
    """32-bit hashes [R, N], the bits held in int32, of `token_ids` (int32 [N] or [R, N]) under each row's keys."""
    x_RN = _unfolded_hash(_fold(token_ids), keys_R2)
    return _xor_shift_(x_RN, 15, torch.empty_like(x_RN))


def gumbel(token_ids: Tensor, keys_R2: Tensor) -> Tensor:
    """Standard Gumbel noise, float32 [R, N]: -log(-log1p(-v)) with v in (0, 1) from the low 31 bits of the hash.

    Large noise comes from small v, where float32 is densest and log1p exact: the tail that wins draws is the
    accurate one. The sign bit is dropped because 31 bits convert to float32 by one rounding on every device.
    """
    minus_v_RN = hash_tokens(token_ids, keys_R2).bitwise_and_(0x7FFFFFFF).float()
    minus_v_RN.add_(0.5).mul_(-(2.0**-31)).clamp_(min=-_LARGEST_BELOW_ONE)
    return minus_v_RN.log1p_().neg_().log_().neg_()


def least_v(vocabulary_size: int, keys_R2: Tensor) -> Tensor:
    """What the low 31 bits of each token's hash are at least, int32 [R, V], at half the cost of the noise.

    Bits 17 to 30 are known before the hash is complete, and decide all noise but the largest.
    """
    folded_V = _folded_vocabulary(vocabulary_size, keys_R2.device)
    return _unfolded_hash(folded_V, keys_R2).bitwise_and_(0x7FFE0000)


def largest_gumbel(least_v: Tensor) -> Tensor:
    """What no noise exceeds, but for rounding, whose hash is at least this: -log(v), as -log1p(-v) >= v."""
    return 31 * math.log(2) - least_v.float().add_(0.5).log_()


@lru_cache(maxsize=4)
def _folded_vocabulary(size: int, device: torch.device) -> Tensor:
    return _fold(torch.arange(size, dtype=torch.int32, device=device))


def _unfolded_hash(folded_ids: Tensor, keys_R2: Tensor) -> Tensor:
    """The hash but for its last step, which leaves bits 17 to 31 as they are."""
    # Folding goes through an exclusive or: what all rows share is folded once.
    x_RN = folded_ids ^ _fold(keys_R2[:, :1])
    scratch_RN = torch.empty_like(x_RN)
    _products_(x_RN, scratch_RN)
    _xor_shift_(x_RN, 15, scratch_RN).bitwise_xor_(keys_R2[:, 1:])
    return _products_(_xor_shift_(x_RN, 16, scratch_RN), scratch_RN)


def _mix(x: int) -> int:
    """A bijection of 32-bit integers that scatters every input bit over the whole word."""
    x &= 0xFFFFFFFF
    x = (x ^ x >> 16) * _FACTORS[0] & 0xFFFFFFFF
    x = (x ^ x >> 15) * _FACTORS[1] & 0xFFFFFFFF
    return x ^ x >> 15


def _mixed(x: Tensor) -> Tensor:
    """`_mix` of int32."""
    scratch = torch.empty_like(x)
    return _xor_shift_(_products_(_fold(x), scratch), 15, scratch)


def _products_(x: Tensor, scratch: Tensor) -> Tensor:
    """`_mix` but for its first and its last step, in place on int32, whose products wrap modulo 2^32."""
    first, second = _FACTOR_TENSORS
    return _xor_shift_(x.mul_(first), 15, scratch).mul_(second)


def _fold(x: Tensor) -> Tensor:
    """The first step of `_mix`."""
    return _xor_shift_(x.clone(), 16, torch.empty_like(x))


def _xor_shift_(x: Tensor, bits: int, scratch: Tensor) -> Tensor:
    shift, mask = _SHIFTS[bits]
    torch.bitwise_right_shift(x, shift, out=scratch)
    return x.bitwise_xor_(scratch.bitwise_and_(mask))
