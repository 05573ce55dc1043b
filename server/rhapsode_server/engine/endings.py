"""What ends a sequence besides time. Imports no torch."""

from rhapsode_server.engine.request import NOTHING_LEFT, FinishReason, Sequence

# Why, and what is to be said of it.
End = tuple[FinishReason, str]


def reason_to_end(sequence: Sequence, token_id: int) -> End | None:
    """After a token, with which its matcher goes on."""
    if token_id in sequence.request.stop_token_ids:
        return FinishReason.STOP_TOKEN, ""
    if sequence.matcher and (end := constrain(sequence, token_id)):
        return end
    is_full = len(sequence.token_ids) == sequence.num_reserved_tokens
    return (FinishReason.LENGTH, "") if is_full else None


def reason_for_no_token(sequence: Sequence, token_id: int) -> End:
    """Where a step gave a negative number in place of a token."""
    if token_id != NOTHING_LEFT:
        return FinishReason.NOT_FINITE, ""
    if sequence.matcher is None:
        return FinishReason.NOTHING_LEFT, ""
    return FinishReason.BAD_CONSTRAINT, "none of the tokens that may follow can be drawn with these sampling parameters"


def constrain(sequence: Sequence, token_id: int | None = None) -> End | None:
    """Let its matcher go on by a token and say what may follow."""
    if (matcher := sequence.matcher) is None:
        return None
    try:
        if token_id is not None:
            matcher.accept(token_id)
        if matcher.is_complete:
            return FinishReason.CONSTRAINT, ""
        sequence.allowed_mask = matcher.allowed_mask()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a grammar fails its own request only, even by a panic of its library
        return FinishReason.BAD_CONSTRAINT, str(error)
    return None
