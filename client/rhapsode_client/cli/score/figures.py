"""From the scores of a text to its figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rhapsode_client import Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """`bits` of `tokens` predicted tokens, which stand for `bytes` bytes of text in UTF-8.

    The token that ends a document is predicted and counted as a token; it stands for no bytes.
    """

    bits: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float | None:
        """Per token. None: nothing was predicted, or it is too large to be told."""
        mean = self.bits / self.tokens if self.tokens else math.inf
        return 2**mean if mean < 1000 else None

    @property
    def bits_per_byte(self) -> float | None:
        """None: nothing was predicted."""
        return self.bits / self.bytes if self.bytes else None


def likelihood(text: str, score: Score, *, is_document: bool) -> Likelihood:
    """Of a whole document, all bytes are predicted; else all but those of the first token."""
    predicted = [each for each in score.tokens if each.logprob is not None]
    first = 0 if is_document else len(score.tokens[0].text)
    num_bytes = len(text.encode()) - first
    return Likelihood(bits=bits(score.sum_logprob), tokens=len(predicted), bytes=num_bytes)


def total(parts: Sequence[Likelihood]) -> Likelihood:
    """The likelihood of all texts together."""
    return Likelihood(
        bits=math.fsum(part.bits for part in parts),
        tokens=sum(part.tokens for part in parts),
        bytes=sum(part.bytes for part in parts),
    )


def bits(logprob: float) -> float:
    """How surprising it is: 1 for what is as likely as not."""
    # Adding nothing makes -0.0 a plain 0.
    return -logprob / math.log(2) + 0.0
