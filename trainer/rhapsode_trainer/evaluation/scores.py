"""What a model makes of held-out text, as numbers: nothing here needs torch, so that records are read quickly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """Negative log-likelihood in nats of `tokens` predicted tokens that stand for `bytes` bytes of text.

    The token that ends a document is predicted and counted as a token; it stands for no bytes.
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """Per token; of use only between models that share a tokenizer. NaN stays NaN; too large is infinity."""
        mean = self.nats / self.tokens
        return math.inf if mean > 700 else math.exp(mean)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes


def total(parts: Sequence[Likelihood]) -> Likelihood:
    """The likelihood of all documents together."""
    return Likelihood(
        nats=math.fsum(part.nats for part in parts),
        tokens=sum(part.tokens for part in parts),
        bytes=sum(part.bytes for part in parts),
    )


def finite_or_none(value: float | None) -> float | None:
    """For JSON, which has no NaN and no infinity: there they are null."""
    return value if value is not None and math.isfinite(value) else None
