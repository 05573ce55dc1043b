"""The next row of a sequence. Imports no torch.

What every decode step makes is made by position: with keywords it takes several times as long.
"""

from rhapsode_server.engine.batch import Draw, Row, ScoredSpan
from rhapsode_server.engine.request import EngineRequest, Sequence


def decode_row(sequence: Sequence) -> Row:
    """The row that computes the last token, of which the id may not be known yet."""
    start, token_ids = sequence.num_scheduled, sequence.token_ids
    return Row(
        sequence.slot,
        start,
        1,
        (token_ids[start],) if start < len(token_ids) else None,
        sequence.num_reserved_tokens,
        _draw(sequence),
        sequence.request.top_logprobs,
    )


def prefill_row(sequence: Sequence, start: int, num_tokens: int, prefix_slot: int | None = None) -> Row:
    """The row that computes `num_tokens` tokens of the prompt from `start` on."""
    request, end = sequence.request, start + num_tokens
    draws = end == sequence.num_prompt_tokens and request.max_new_tokens > 0
    return Row(
        slot=sequence.slot,
        start=start,
        num_tokens=num_tokens,
        token_ids=request.prompt_ids[start:end],
        num_reserved_tokens=sequence.num_reserved_tokens,
        draw=_draw(sequence) if draws else None,
        num_candidates=request.top_logprobs if draws else None,
        scored=_scored(request, start, end),
        prefix_slot=prefix_slot,
        blocks=() if sequence.has_begun else tuple(sequence.blocks),
    )


def longest_row(request: EngineRequest, start: int, num_scores: int) -> int:
    """How many tokens of the prompt a row from `start` on may have if it may score so many of them."""
    num_left = len(request.prompt_ids) - start
    if request.prompt_top_logprobs is None:
        return num_left
    first = max(request.first_scored, start + 1)
    return num_left if len(request.prompt_ids) - first <= num_scores else first + num_scores - 1 - start


def _draw(sequence: Sequence) -> Draw:
    request, position = sequence.request, len(sequence.token_ids) + sequence.num_pending_tokens
    may_not_stop = position - sequence.num_prompt_tokens < request.min_new_tokens
    return Draw(
        request.sampling,
        position,
        tuple(sequence.token_ids) if sequence.needs_history else (),
        sequence.num_prompt_tokens,
        sequence.suppressed_ids if may_not_stop else (),
        sequence.allowed_mask,
    )


def _scored(request: EngineRequest, start: int, end: int) -> ScoredSpan | None:
    """The logits of [start, end) are those of the tokens one further."""
    first = max(request.first_scored, start + 1)
    token_ids = request.prompt_ids[first : end + 1]
    if request.prompt_top_logprobs is None or not token_ids:
        return None
    return ScoredSpan(first=first, token_ids=token_ids, num_candidates=request.prompt_top_logprobs)
