"""Choosing a token by transformers' processors and warpers, one after the other, and the noise by its definition."""

from collections.abc import Callable

import torch
from rhapsode_server.engine.batch import Draw
from rhapsode_server.engine.noise import gumbel, row_keys
from rhapsode_server.engine.request import NOT_FINITE, NOTHING_LEFT, SamplingParameters
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

# Where a sum of probabilities comes so near to a filter's limit, either answer is right.
NEAR = 1e-6


class CompletionPenalties(LogitsProcessor):
    """Presence and frequency penalties, which transformers does not have, in a plain loop."""

    def __init__(self, draw: Draw):
        self._draw = draw

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        row, completion = self._draw.parameters, self._draw.history[self._draw.num_prompt_tokens :]
        scores = scores.clone()
        for token_id in set(completion):
            scores[:, token_id] -= row.presence_penalty + row.frequency_penalty * completion.count(token_id)
        return scores


class AllowedIds(PrefixConstrainedLogitsProcessor):
    """transformers draws an allowed token that is masked if all are; here a masked token stays masked."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return super().__call__(input_ids, scores).masked_fill(scores.isneginf(), -torch.inf)


class AllowedMask(LogitsProcessor):
    """A constraint's mask, bit by bit."""

    def __init__(self, mask: bytes):
        words = memoryview(mask).cast("I")
        self._words = words

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        closed = [i for i in range(scores.shape[1]) if not self._words[i // 32] >> i % 32 & 1]
        return scores.index_fill(1, torch.tensor(closed, dtype=torch.int64), -torch.inf)


def pack(allowed: list[bool]) -> bytes:
    """`allowed` as Draw.allowed_mask."""
    words = [sum(1 << bit for bit, on in enumerate(allowed[i : i + 32]) if on) for i in range(0, len(allowed), 32)]
    return b"".join(memoryview(torch.tensor([word]).to(torch.uint32).numpy()).tobytes() for word in words)


def processors(draw: Draw) -> LogitsProcessorList:
    """In the order that the wire contract documents."""
    row, found = draw.parameters, LogitsProcessorList()
    if row.logit_bias:
        found.append(SequenceBiasLogitsProcessor({(token_id,): bias for token_id, bias in row.logit_bias}))
    if row.repetition_penalty != 1 and draw.history:
        found.append(RepetitionPenaltyLogitsProcessor(row.repetition_penalty))
    found.append(CompletionPenalties(draw))
    if row.banned_sequences:
        found.append(NoBadWordsLogitsProcessor([list(sequence) for sequence in row.banned_sequences]))
    if row.allowed_token_ids:
        found.append(AllowedIds(lambda _batch, _ids: list(row.allowed_token_ids), 1))
    if draw.suppressed_ids:
        found.append(SuppressTokensLogitsProcessor(draw.suppressed_ids))
    if draw.allowed_mask is not None:
        found.append(AllowedMask(draw.allowed_mask))
    return found


def processed(logits_V: Tensor, draw: Draw) -> Tensor:
    history = torch.tensor([draw.history], dtype=torch.int64)
    return processors(draw)(history, logits_V[None].float())[0]


def filters(row: SamplingParameters) -> list[LogitsProcessor]:
    found: list[LogitsProcessor] = [TopKLogitsWarper(row.top_k)] if row.top_k else []
    found += [TopPLogitsWarper(row.top_p)] if row.top_p < 1 else []
    found += [MinPLogitsWarper(row.min_p)] if row.min_p > 0 else []
    return found + ([TypicalLogitsWarper(row.typical_p)] if row.typical_p < 1 else [])


def warped(logits_V: Tensor, row: SamplingParameters) -> Tensor:
    """What the warpers leave; the filters in float64, so that the oracle's own rounding decides nothing."""
    x_1V = TemperatureLogitsWarper(row.temperature)(None, logits_V[None].float()).double()
    for warper in filters(row):
        x_1V = warper(None, x_1V)
    return x_1V[0]


def near_limit(logits_V: Tensor, row: SamplingParameters) -> bool:
    """Whether a filter's limit falls within rounding of what it is compared with, at its place in the order."""
    if row.temperature == 0:
        return False
    x_V = TemperatureLogitsWarper(row.temperature)(None, logits_V[None].float()).double()[0]
    for warper in filters(row):
        probabilities_V = x_V.softmax(0)
        match warper:
            case TopPLogitsWarper():
                gaps = probabilities_V.sort(descending=True).values.cumsum(0) - row.top_p
            case MinPLogitsWarper():
                gaps = probabilities_V / probabilities_V.amax() - row.min_p
            case TypicalLogitsWarper():
                gaps = _typical_gaps(probabilities_V, row.typical_p)
            case _:
                gaps = torch.ones(1)
        if gaps.abs().min() < NEAR:
            return True
        x_V = warper(None, x_V[None])[0]
    return False


def _typical_gaps(probabilities_V: Tensor, mass: float) -> Tensor:
    """How far sums are from the mass, and unequal tokens' distances from the entropy from each other."""
    kept_P = probabilities_V[probabilities_V > 0]
    distances_P, order_P = (kept_P.log() + torch.special.entr(kept_P).sum()).abs().sort()
    sums_P = kept_P[order_P].cumsum(0) - mass
    steps = distances_P.diff()[kept_P[order_P].diff() != 0]
    return torch.cat((sums_P, steps))


def drawn(x_V: Tensor, seed: int, position: int) -> int:
    """The draw by definition: noise for the whole vocabulary, then the largest sum."""
    keys = torch.tensor([row_keys(seed, position)], dtype=torch.int32)
    noise_V = gumbel(torch.arange(len(x_V), dtype=torch.int32), keys)[0]
    return int((x_V.double() + noise_V).argmax())


def expected(logits_V: Tensor, draw: Draw) -> int:
    x_V, row = processed(logits_V, draw), draw.parameters
    if not logits_V.amax().isfinite():
        return NOT_FINITE
    if not x_V.amax().isfinite():
        return NOTHING_LEFT
    return int(x_V.argmax()) if row.temperature == 0 else drawn(warped(x_V, row), row.seed, draw.position)


def check_rows_not_finite(draw: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], value: float) -> None:
    """Of four rows, `draw` gives a token for the one that is finite alone. `value`: NaN or infinity."""
    logits_RV = torch.randn(4, 50)
    logits_RV[1, 7] = logits_RV[2, 0] = value
    logits_RV[3] = -torch.inf
    temperatures_R = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    tokens_R = draw(logits_RV, torch.arange(4), torch.arange(4), temperatures_R)
    assert tokens_R[0] >= 0
    assert tokens_R[1:].tolist() == [NOT_FINITE] * 3
