"""From the engine's token scores to messages."""

from collections.abc import Sequence

from rhapsode.v1 import generation_pb2 as pb

from rhapsode_server.engine.request import TokenScore
from rhapsode_server.text.tokenizer import Tokenizer


def token_logprobs(scores: Sequence[TokenScore], tokenizer: Tokenizer) -> list[pb.TokenLogprob]:
    """One message for each score."""
    return [
        pb.TokenLogprob(
            token_id=score.token_id,
            logprob=score.logprob,
            rank=score.rank,
            text=_text(score.token_id, tokenizer),
            candidates=[
                pb.Candidate(token_id=token_id, logprob=logprob, text=_text(token_id, tokenizer))
                for token_id, logprob in score.candidates
            ],
        )
        for score in scores
    ]


def unscored(token_id: int, tokenizer: Tokenizer) -> pb.TokenLogprob:
    """The first token of a prompt, which nothing predicts."""
    return pb.TokenLogprob(token_id=token_id, text=_text(token_id, tokenizer))


def _text(token_id: int, tokenizer: Tokenizer) -> bytes:
    try:
        return tokenizer.token_bytes(token_id)
    except ValueError:
        return b""  # an id between others that no token has
