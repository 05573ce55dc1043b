"""The next row of a sequence. Imports no torch."""

from rhapsode_server.engine.batch import Draw, Row, ScoredSpan
from rhapsode_server.engine.request import EngineRequest, Sequence


def next_row(sequence: Sequence, num_tokens: int, prefix_slot: int | None = None) -> Row:
    """The row that computes the next `num_tokens` tokens."""
    request, start, end = sequence.request, sequence.num_scheduled, sequence.num_scheduled + num_tokens
    draws = end == sequence.length and request.max_new_tokens > 0
    return Row(
        slot=sequence.slot,
        start=start,
        num_tokens=num_tokens,
        token_ids=tuple(sequence.token_ids[start:end]) if end <= len(sequence.token_ids) else None,
        num_reserved_tokens=request.num_reserved_tokens,
        draw=_draw(sequence) if draws else None,
        num_candidates=request.top_logprobs if draws else None,
        scored=_scored(request, start, end) if start < sequence.num_prompt_tokens else None,
        prefix_slot=prefix_slot,
        blocks=tuple(sequence.blocks) if start == 0 or prefix_slot is not None else (),
    )


def longest_row(request: EngineRequest, start: int, num_scores: int) -> int:
    """How many tokens of the prompt a row from `start` on may have if it may score so many of them."""
    num_left = len(request.prompt_ids) - start
    if request.prompt_top_logprobs is None:
        return num_left
    first = max(request.first_scored, start + 1)
    return num_left if len(request.prompt_ids) - first <= num_scores else first + num_scores - 1 - start


def _draw(sequence: Sequence) -> Draw:
    request = sequence.request
    may_not_stop = sequence.num_generated < request.min_new_tokens
    return Draw(
        parameters=request.sampling,
        position=sequence.length,
        history=tuple(sequence.token_ids) if sequence.needs_history else (),
        num_prompt_tokens=sequence.num_prompt_tokens,
        suppressed_ids=tuple(request.stop_token_ids) if may_not_stop else (),
        allowed_mask=sequence.allowed_mask,
    )


def _scored(request: EngineRequest, start: int, end: int) -> ScoredSpan | None:
    """The logits of [start, end) are those of the tokens one further."""
    first = max(request.first_scored, start + 1)
    token_ids = request.prompt_ids[first : end + 1]
    if request.prompt_top_logprobs is None or not token_ids:
        return None
    return ScoredSpan(first=first, token_ids=token_ids, num_candidates=request.prompt_top_logprobs)
