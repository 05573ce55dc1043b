"""Attention of rows of one token over a paged cache in Triton.

A program is one row, one key-value head with its group of query heads, and one part of the sequence; the parts are put
together by a second kernel. The row's own key and value come from the arguments, and the first part stores them.
Shape letters: R rows, N query heads, K key-value heads, G query heads of a key-value head, H head dimension (that of
values may differ), D parts of a sequence, L slots, B blocks of a sequence.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rhapsode_server.engine import memory

# Tokens that a program reads at once.
TILE = tl.constexpr(32)
BLOCK_SIZE = tl.constexpr(memory.BLOCK_SIZE)
# The least that tensor cores take.
_SMALLEST_DOT = 16
# The score of what is not seen: with an infinity, the difference of two of them would be NaN.
NOTHING = tl.constexpr(-1e30)


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
    num_splits: int,
) -> Tensor:
    """As the operator of this name."""
    num_rows, num_heads, key_dim = query_RNH.shape
    _, num_kv_heads, value_dim = value_RKH.shape
    query_RNH, key_RKH, value_RKH = _with_dense_rows(query_RNH), _with_dense_rows(key_RKH), _with_dense_rows(value_RKH)
    group = num_heads // num_kv_heads
    output_RNH = query_RNH.new_empty(num_rows, num_heads, value_dim)
    parts_RNDH, softmax_RND2 = _parts(output_RNH, num_splits)
    _attend_to_part[num_rows, num_kv_heads, num_splits](
        *(query_RNH, key_RKH, value_RKH, query_RNH.stride(0), key_RKH.stride(0), value_RKH.stride(0)),
        *(key_blocks, value_blocks, tables_LB, slots_R, positions_R, sinks_N),
        *(parts_RNDH, softmax_RND2),
        SCALING=scaling,
        WINDOW=window,
        SOFTCAP=softcap,
        KV_HEADS=num_kv_heads,
        GROUP=group,
        GROUP_PADDED=1 if group == 1 else max(_SMALLEST_DOT, triton.next_power_of_2(group)),
        KEY_DIM=key_dim,
        KEY_PADDED=max(_SMALLEST_DOT, triton.next_power_of_2(key_dim)),
        VALUE_DIM=value_dim,
        VALUE_PADDED=max(_SMALLEST_DOT, triton.next_power_of_2(value_dim)),
        TABLE_SIZE=tables_LB.shape[1],
        SPLITS=num_splits,
    )
    if num_splits > 1:
        padded = triton.next_power_of_2(value_dim)
        _put_together[num_rows, num_heads](
            parts_RNDH, softmax_RND2, output_RNH, DIM=value_dim, PADDED=padded, SPLITS=num_splits
        )
    return output_RNH


def _with_dense_rows(tensor_RNH: Tensor) -> Tensor:
    """A row may be part of a longer one, as where queries, keys and values are one product."""
    _, num_heads, head_dim = tensor_RNH.shape
    is_dense = tensor_RNH.stride(2) == 1 and (num_heads == 1 or tensor_RNH.stride(1) == head_dim)
    return tensor_RNH if is_dense else tensor_RNH.contiguous()


def _parts(output_RNH: Tensor, num_splits: int) -> tuple[Tensor, Tensor | None]:
    """Where parts go: their weighted values, and their largest scores and totals of weights; a single one is all."""
    if num_splits == 1:
        return output_RNH, None
    num_rows, num_heads, value_dim = output_RNH.shape
    parts_RNDH = output_RNH.new_empty(num_rows, num_heads, num_splits, value_dim, dtype=torch.float32)
    return parts_RNDH, parts_RNDH.new_empty(num_rows, num_heads, num_splits, 2)


@triton.jit
def _attend_to_part(
    query,
    key,
    value,
    query_stride,
    key_stride,
    value_stride,
    key_blocks,
    value_blocks,
    tables,
    slots,
    positions,
    sinks,
    parts,
    softmax,
    SCALING: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    KEY_DIM: tl.constexpr,
    KEY_PADDED: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_PADDED: tl.constexpr,
    TABLE_SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
):
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    position = tl.load(positions + row).to(tl.int32)
    table = tables + tl.load(slots + row) * TABLE_SIZE
    heads, is_head = head * GROUP + tl.arange(0, GROUP_PADDED), tl.arange(0, GROUP_PADDED) < GROUP
    query_GH = _load(query + row * query_stride + heads * KEY_DIM, is_head, KEY_DIM, KEY_PADDED)
    own_key_H = _load_one(key + row * key_stride + head * KEY_DIM, KEY_DIM, KEY_PADDED)
    own_value_H = _load_one(value + row * value_stride + head * VALUE_DIM, VALUE_DIM, VALUE_PADDED)
    if split == 0:
        place = _places(table, position, True) * KV_HEADS + head
        _store_one(key_blocks + place * KEY_DIM, own_key_H, KEY_DIM, KEY_PADDED)
        _store_one(value_blocks + place * VALUE_DIM, own_value_H, VALUE_DIM, VALUE_PADDED)
    state = _begin(query_GH, own_key_H, own_value_H, sinks, heads, is_head, split == 0, SCALING, SOFTCAP)
    first, begin, end = _share(position, split, WINDOW, SPLITS)
    for tile in range(begin, end):
        tokens = tile * TILE + tl.arange(0, TILE)
        is_seen = (tokens >= first) & (tokens < position)
        places = _places(table, tokens, is_seen) * KV_HEADS + head
        keys_TH = _load(key_blocks + places * KEY_DIM, is_seen, KEY_DIM, KEY_PADDED)
        values_TH = _load(value_blocks + places * VALUE_DIM, is_seen, VALUE_DIM, VALUE_PADDED)
        state = _advance(state, query_GH, keys_TH, values_TH, is_seen, SCALING, SOFTCAP)
    part = (row * KV_HEADS * GROUP + heads) * SPLITS + split
    _finish(state, parts, softmax, part, is_head, VALUE_DIM, VALUE_PADDED, SPLITS)


@triton.jit
def _share(position, split, WINDOW: tl.constexpr, SPLITS: tl.constexpr):
    """The first token that the row sees, and the tiles that this part of the sequence has, up to the own token."""
    first = tl.maximum(position + 1 - WINDOW, 0) if WINDOW > 0 else position * 0
    end = tl.cdiv(position, TILE)
    size = tl.cdiv(end - first // TILE, SPLITS)
    begin = first // TILE + split * size
    return first, begin, tl.minimum(begin + size, end)


@triton.jit
def _begin(query_GH, key_H, value_H, sinks, heads, is_head, is_first, SCALING: tl.constexpr, SOFTCAP: tl.constexpr):
    """The first part begins with the row's own token and the sink, the others with nothing."""
    scores_G = _capped(tl.sum(query_GH.to(tl.float32) * key_H.to(tl.float32)[None, :], 1) * SCALING, SOFTCAP)
    largest_G = scores_G
    if sinks is not None:
        sinks_G = tl.load(sinks + heads, mask=is_head, other=0.0).to(tl.float32)
        largest_G = tl.maximum(scores_G, sinks_G)
    weights_G = tl.where(is_first, tl.exp(scores_G - largest_G), 0.0)
    total_G = weights_G
    if sinks is not None:
        total_G += tl.where(is_first, tl.exp(sinks_G - largest_G), 0.0)
    values_GH = weights_G[:, None] * tl.where(is_first, value_H.to(tl.float32), 0.0)[None, :]
    return tl.where(is_first, largest_G, NOTHING), total_G, values_GH


@triton.jit
def _advance(state, query_GH, keys_TH, values_TH, is_seen, SCALING: tl.constexpr, SOFTCAP: tl.constexpr):
    """The softmax so far, and a tile of tokens: the largest score, the weights' total and the weighted values."""
    largest_G, total_G, sums_GH = state
    scores_GT = _capped(_product(query_GH, tl.trans(keys_TH)) * SCALING, SOFTCAP)
    scores_GT = tl.where(is_seen[None, :], scores_GT, NOTHING)
    larger_G = tl.maximum(largest_G, tl.max(scores_GT, 1))
    weights_GT = tl.where(is_seen[None, :], tl.exp(scores_GT - larger_G[:, None]), 0.0)
    shrink_G = tl.exp(largest_G - larger_G)
    sums_GH = sums_GH * shrink_G[:, None] + _product(weights_GT.to(values_TH.dtype), values_TH)
    return larger_G, total_G * shrink_G + tl.sum(weights_GT, 1), sums_GH


@triton.jit
def _finish(state, parts, softmax, part, is_head, DIM: tl.constexpr, PADDED: tl.constexpr, SPLITS: tl.constexpr):
    largest_G, total_G, sums_GH = state
    dims = tl.arange(0, PADDED)
    is_there = is_head[:, None] & (dims < DIM)[None, :]
    if SPLITS == 1:
        tl.store(parts + (part * DIM)[:, None] + dims[None, :], sums_GH / total_G[:, None], mask=is_there)
    else:
        tl.store(parts + (part * DIM)[:, None] + dims[None, :], sums_GH, mask=is_there)
        tl.store(softmax + 2 * part, largest_G, mask=is_head)
        tl.store(softmax + 2 * part + 1, total_G, mask=is_head)


@triton.jit
def _put_together(parts, softmax, output, DIM: tl.constexpr, PADDED: tl.constexpr, SPLITS: tl.constexpr):
    head = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    splits, dims = head * SPLITS + tl.arange(0, SPLITS), tl.arange(0, PADDED)
    largest_D = tl.load(softmax + 2 * splits)
    weights_D = tl.exp(largest_D - tl.max(largest_D, 0))
    parts_DH = _load(parts + splits * DIM, splits >= 0, DIM, PADDED)
    total = tl.sum(tl.load(softmax + 2 * splits + 1) * weights_D, 0)
    tl.store(output + head * DIM + dims, tl.sum(parts_DH * weights_D[:, None], 0) / total, mask=dims < DIM)


@triton.jit
def _product(left, right):
    """A matrix product; of a single row, which would leave most of a tensor core idle, by elements."""
    if left.shape[0] == 1:
        return tl.sum(tl.trans(left).to(tl.float32) * right.to(tl.float32), 0)[None, :]
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def _capped(scores, SOFTCAP: tl.constexpr):
    if SOFTCAP > 0:
        return SOFTCAP * (2 * tl.sigmoid(scores * (2 / SOFTCAP)) - 1)  # the hyperbolic tangent
    return scores


@triton.jit
def _places(table, tokens, is_seen):
    """Where tokens are if all blocks stand in one line. In 64 bits: a cache has more than 2^31 numbers."""
    blocks = tl.load(table + tokens // BLOCK_SIZE, mask=is_seen, other=0).to(tl.int64)
    return blocks * BLOCK_SIZE + tokens % BLOCK_SIZE


@triton.jit
def _load(rows, is_there, DIM: tl.constexpr, PADDED: tl.constexpr):
    dims = tl.arange(0, PADDED)
    return tl.load(rows[:, None] + dims[None, :], mask=is_there[:, None] & (dims < DIM)[None, :], other=0.0)


@triton.jit
def _load_one(row, DIM: tl.constexpr, PADDED: tl.constexpr):
    dims = tl.arange(0, PADDED)
    return tl.load(row + dims, mask=dims < DIM, other=0.0)


@triton.jit
def _store_one(row, values_H, DIM: tl.constexpr, PADDED: tl.constexpr):
    dims = tl.arange(0, PADDED)
    tl.store(row + dims, values_H, mask=dims < DIM)
