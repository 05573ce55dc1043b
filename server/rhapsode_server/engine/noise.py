"""Gumbel noise as a function of seed, position and token id; docs/sampling.md publishes the definition."""

import torch
from torch import Tensor

_FACTORS = (0x21F0AAAD, 0xD35A2D97)
_LARGEST_BELOW_ONE = 1.0 - 2.0**-24


def row_keys(seed: int, position: int) -> tuple[int, int]:
    """The two keys of a row, as signed 32-bit integers. `seed` has 64 bits, `position` 32."""
    assert 0 <= seed < 1 << 64, "a seed has 64 bits"
    assert 0 <= position < 1 << 32, "a position has 32 bits"
    low, high = seed & 0xFFFFFFFF, seed >> 32
    return _signed(_mix(low + 0x9E3779B9 * position)), _signed(_mix(high ^ _mix(position ^ 0x85EBCA6B)))


def hash_tokens(token_ids: Tensor, keys_R2: Tensor) -> Tensor:
    """32-bit hashes [R, N], the bits held in int32, of `token_ids` (int32 [N] or [R, N]) under each row's keys."""
    x_RN = token_ids ^ keys_R2[:, :1]
    scratch_RN = torch.empty_like(x_RN)
    _mix_(x_RN, scratch_RN)
    x_RN.bitwise_xor_(keys_R2[:, 1:])
    return _mix_(x_RN, scratch_RN)


def gumbel(token_ids: Tensor, keys_R2: Tensor) -> Tensor:
    """Standard Gumbel noise, float32 [R, N]: -log(-log1p(-v)) with v in (0, 1) from the low 31 bits of the hash.

    Large noise comes from small v, where float32 is densest and log1p exact: the tail that wins draws is the
    accurate one. The sign bit is dropped because 31 bits convert to float32 by one rounding on every device.
    """
    minus_v_RN = hash_tokens(token_ids, keys_R2).bitwise_and_(0x7FFFFFFF).float()
    minus_v_RN.add_(0.5).mul_(-(2.0**-31)).clamp_(min=-_LARGEST_BELOW_ONE)
    return minus_v_RN.log1p_().neg_().log_().neg_()


def _mix(x: int) -> int:
    """A bijection of 32-bit integers that scatters every input bit over the whole word."""
    x &= 0xFFFFFFFF
    x = (x ^ x >> 16) * _FACTORS[0] & 0xFFFFFFFF
    x = (x ^ x >> 15) * _FACTORS[1] & 0xFFFFFFFF
    return x ^ x >> 15


def _mix_(x: Tensor, scratch: Tensor) -> Tensor:
    """`_mix` in place on int32, whose products wrap modulo 2^32; half the memory traffic of int64."""
    _xor_shift_(x, 16, scratch).mul_(_signed(_FACTORS[0]))
    _xor_shift_(x, 15, scratch).mul_(_signed(_FACTORS[1]))
    return _xor_shift_(x, 15, scratch)


def _xor_shift_(x: Tensor, bits: int, scratch: Tensor) -> Tensor:
    # The shift of a signed integer copies the sign bit: the mask makes it logical.
    torch.bitwise_right_shift(x, bits, out=scratch)
    return x.bitwise_xor_(scratch.bitwise_and_((1 << 32 - bits) - 1))


def _signed(x: int) -> int:
    return x - (1 << 32) if x >> 31 else x
