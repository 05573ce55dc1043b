"""Gumbel-max over a whole vocabulary in Triton: the noise is made where the logits are read, and never stored.

Two kernels: the best token of each tile of the vocabulary, then the best of these. docs/sampling.md has the definition
of the noise. Shape letters: R rows, V vocabulary, T tiles of it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rhapsode_server.engine.request import NOT_FINITE

_TILE = 1024


def draw(logits_RV: Tensor, seeds_R: Tensor, positions_R: Tensor, temperatures_R: Tensor) -> Tensor:
    """As the operator of this name."""
    num_rows, vocabulary_size = logits_RV.shape
    assert logits_RV.stride(1) == 1
    num_tiles = triton.cdiv(vocabulary_size, _TILE)
    # The largest logit, or NaN; sums are relative to it, so that they round alike everywhere.
    peaks_R = logits_RV.amax(1).float()
    sums_RT = peaks_R.new_empty(num_rows, num_tiles)
    ids_RT = torch.empty_like(sums_RT, dtype=torch.int32)
    tokens_R = torch.empty_like(seeds_R)
    row = (logits_RV, logits_RV.stride(0), peaks_R, seeds_R, positions_R, temperatures_R)
    _best_of_tile[num_rows, num_tiles](*row, sums_RT, ids_RT, vocabulary_size, num_tiles, _TILE)
    _best_of_row[(num_rows,)](
        sums_RT, ids_RT, peaks_R, tokens_R, num_tiles, triton.next_power_of_2(num_tiles), NOT_FINITE
    )
    return tokens_R


@triton.jit
def _best_of_tile(
    logits,
    row_stride,
    peaks,
    seeds,
    positions,
    temperatures,
    sums,
    ids,
    VOCABULARY_SIZE: tl.constexpr,
    NUM_TILES: tl.constexpr,
    TILE: tl.constexpr,
):
    row, tile = tl.program_id(0), tl.program_id(1)
    tokens = tile * TILE + tl.arange(0, TILE)
    is_token = tokens < VOCABULARY_SIZE
    x = tl.load(logits + row.to(tl.int64) * row_stride + tokens, mask=is_token, other=-float("inf")).to(tl.float32)
    peak = tl.load(peaks + row)
    temperature = tl.load(temperatures + row).to(tl.float32)
    if temperature != 0:
        noise = _gumbel(tokens.to(tl.uint32), tl.load(seeds + row), tl.load(positions + row).to(tl.uint32))
        x = noise + (tl.div_rn(x, temperature) - tl.div_rn(peak, temperature))
    best = tl.max(x, 0)
    # Among equal sums the lowest id.
    winner = tl.min(tl.where((x == best) & is_token, tokens, VOCABULARY_SIZE - 1), 0)
    tl.store(sums + row * NUM_TILES + tile, best)
    tl.store(ids + row * NUM_TILES + tile, winner)


@triton.jit
def _best_of_row(sums, ids, peaks, tokens, NUM_TILES: tl.constexpr, WIDTH: tl.constexpr, NOT_FINITE: tl.constexpr):
    row = tl.program_id(0)
    tiles = tl.arange(0, WIDTH)
    x = tl.load(sums + row * NUM_TILES + tiles, mask=tiles < NUM_TILES, other=-float("inf"))
    candidates = tl.load(ids + row * NUM_TILES + tiles, mask=tiles < NUM_TILES, other=0x7FFFFFFF)
    winner = tl.min(tl.where(x == tl.max(x, 0), candidates, 0x7FFFFFFF), 0)
    is_finite = tl.abs(tl.load(peaks + row)) < float("inf")  # NaN is less than nothing
    tl.store(tokens + row, tl.where(is_finite, winner, NOT_FINITE).to(tl.int64))


@triton.jit
def _gumbel(tokens, seed, position):
    low, high = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    first = _mix(low + position * 0x9E3779B9)
    second = _mix(high ^ _mix(position ^ 0x85EBCA6B))
    bits = _mix(_mix(tokens ^ first) ^ second) & 0x7FFFFFFF
    v = tl.minimum((bits.to(tl.float32) + 0.5) * 4.656612873077393e-10, 1.0 - 5.9604644775390625e-08)
    return -tl.log(-_log1p_of_minus(v))


@triton.jit
def _log1p_of_minus(v):
    """log(1 - v) without the rounding of 1 - v (Kahan): what it rounds to is known, and its logarithm is scaled."""
    u = 1.0 - v
    is_exact = u == 1.0
    return tl.where(is_exact, -v, tl.log(u) * tl.div_rn(-v, tl.where(is_exact, 1.0, u - 1.0)))


@triton.jit
def _mix(x):
    """A bijection of 32-bit integers, as `noise._mix`."""
    x = (x ^ (x >> 16)) * 0x21F0AAAD
    x = (x ^ (x >> 15)) * 0xD35A2D97
    return x ^ (x >> 15)
