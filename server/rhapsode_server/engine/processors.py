"""What changes logits before a token is drawn: biases, penalties, and tokens that may not follow.

Apart from masks, each touches only the rows and the token ids concerned.
Shape letters: R rows, V vocabulary, N pairs of a row and a token id, W 32-bit words of a mask.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from rhapsode_server.engine.batch import Draw
from rhapsode_server.engine.copies import to_device


def is_processed(draw: Draw) -> bool:
    """Whether anything here applies to the draw."""
    row = draw.parameters
    changes = row.logit_bias or row.repetition_penalty != 1 or row.presence_penalty != 0 or row.frequency_penalty != 0
    masks = row.banned_sequences or row.allowed_mask is not None or draw.suppressed_ids or draw.allowed_mask is not None
    return bool(changes or masks)


def process(logits_RV: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The logits as they are to be drawn from: a copy in float32, [R, V]. A token that may not follow has -inf.

    Ids beyond the vocabulary are passed over: they cannot be drawn.
    """
    x_RV = logits_RV.to(torch.float32, copy=True)
    _add(x_RV, [dict(draw.parameters.logit_bias) for draw in draws])
    _penalise_repetition(x_RV, draws)
    _add(x_RV, [_completion_penalties(draw) for draw in draws])
    _forbid(x_RV, [{*draw.suppressed_ids, *_banned(draw)} for draw in draws])
    _allow(x_RV, [draw.parameters.allowed_mask for draw in draws])
    _allow(x_RV, [draw.allowed_mask for draw in draws])
    return x_RV


def _add(x_RV: Tensor, amounts: Sequence[dict[int, float]]) -> None:
    if any(amounts):
        values = [amount for row in amounts for token_id, amount in row.items() if token_id < x_RV.shape[1]]
        values_N = to_device(values, torch.float32, x_RV.device)
        x_RV.index_put_(_pairs(x_RV, amounts), values_N, accumulate=True)


def _penalise_repetition(x_RV: Tensor, draws: Sequence[Draw]) -> None:
    ids = [set(draw.history) if draw.parameters.repetition_penalty != 1 else set[int]() for draw in draws]
    if any(ids):
        pairs = _pairs(x_RV, ids)
        penalties_R = to_device([draw.parameters.repetition_penalty for draw in draws], torch.float32, x_RV.device)
        values_N, penalties_N = x_RV[pairs], penalties_R[pairs[0]]
        x_RV.index_put_(pairs, torch.where(values_N < 0, values_N * penalties_N, values_N / penalties_N))


def _completion_penalties(draw: Draw) -> dict[int, float]:
    row = draw.parameters
    if row.presence_penalty == 0 and row.frequency_penalty == 0:
        return {}
    counts = Counter(draw.history[draw.num_prompt_tokens :])
    return {token_id: -(row.presence_penalty + row.frequency_penalty * count) for token_id, count in counts.items()}


def _banned(draw: Draw) -> Iterator[int]:
    """The tokens that would complete a banned sequence."""
    for *before, last in draw.parameters.banned_sequences:
        if not before or draw.history[-len(before) :] == tuple(before):
            yield last


def _forbid(x_RV: Tensor, ids: Sequence[set[int]]) -> None:
    if any(ids):
        x_RV.index_put_(_pairs(x_RV, ids), x_RV.new_full((), -torch.inf))


def _allow(x_RV: Tensor, masks: Sequence[bytes | None]) -> None:
    mask_by_row = {row: mask for row, mask in enumerate(masks) if mask is not None}
    if mask_by_row:
        rows = _index(list(mask_by_row), x_RV.device)
        is_allowed_RV = _unpack(mask_by_row.values(), x_RV.shape[1], x_RV.device)
        x_RV.index_copy_(0, rows, x_RV[rows].where(is_allowed_RV, -torch.inf))


def _unpack(masks: Iterable[bytes], vocabulary_size: int, device: torch.device) -> Tensor:
    """Bit i % 32 of word i // 32 as bool [R, V]; what a mask is too short for is not allowed."""
    num_bytes = (vocabulary_size + 31) // 32 * 4
    joined = bytearray().join(mask[:num_bytes].ljust(num_bytes, b"\0") for mask in masks)
    words = torch.frombuffer(joined, dtype=torch.int32).view(-1, num_bytes // 4)
    # From pinned memory, because other copies to CUDA wait for all work before them.
    words_RW = (words.pin_memory() if device.type == "cuda" else words).to(device, non_blocking=True)
    bits = torch.ones(32, dtype=torch.int32, device=device) << torch.arange(32, dtype=torch.int32, device=device)
    return (words_RW[:, :, None] & bits).ne(0).flatten(1)[:, :vocabulary_size]


def _pairs(x_RV: Tensor, ids_by_row: Sequence[Iterable[int]]) -> tuple[Tensor, Tensor]:
    """The rows and ids of all ids of all rows, both [N]."""
    vocabulary_size = x_RV.shape[1]
    pairs = [(row, token_id) for row, ids in enumerate(ids_by_row) for token_id in ids if token_id < vocabulary_size]
    return _index([row for row, _ in pairs], x_RV.device), _index([token_id for _, token_id in pairs], x_RV.device)


def _index(values: Sequence[int], device: torch.device) -> Tensor:
    return to_device(values, torch.int64, device)
