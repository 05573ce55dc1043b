"""How far a number would move with other held-out documents: percentile bootstrap over documents.

Documents are drawn, not tokens: tokens of one document are anything but independent (Efron and Tibshirani 1993,
chapter 13). Bits per byte is a ratio of sums, so nats and bytes of the same documents are drawn together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .scores import Likelihood, finite_or_none

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

RESAMPLES = 2000
_DRAWS_AT_ONCE = 2**22


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and the bounds between which it lies with probability `confidence`.

    All three are NaN when a document's likelihood is not finite; one document alone has infinite bounds.
    """

    estimate: float
    low: float
    high: float
    confidence: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is not finite is null."""
        return {
            "estimate": finite_or_none(self.estimate),
            "low": finite_or_none(self.low),
            "high": finite_or_none(self.high),
            "confidence": self.confidence,
        }


def bits_per_byte_interval(
    parts: Sequence[Likelihood], *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Of one model; `parts` has one entry for each document."""
    return _interval([part.nats for part in parts], _sizes(parts), confidence, resamples, seed)


def difference_interval(
    new: Sequence[Likelihood],
    old: Sequence[Likelihood],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Bits per byte of `new` minus those of `old` on the same documents in the same order: below zero, `new` is better.

    Paired: both are drawn together, so what makes a document hard for both cancels out. Raises ValueError when the
    documents are not the same ones.
    """
    if _sizes(new) != _sizes(old):
        raise ValueError("old: its documents are not those of new")
    nats = [a.nats - b.nats for a, b in zip(new, old, strict=True)]
    return _interval(nats, _sizes(new), confidence, resamples, seed)


def _sizes(parts: Sequence[Likelihood]) -> list[int]:
    return [part.bytes for part in parts]


def _interval(nats: Sequence[float], sizes: Sequence[int], confidence: float, resamples: int, seed: int) -> Interval:
    if not nats:
        raise ValueError("parts: no documents")
    if not all(map(math.isfinite, nats)):
        return Interval(estimate=math.nan, low=math.nan, high=math.nan, confidence=confidence)
    estimate = math.fsum(nats) / math.log(2) / sum(sizes)
    if len(nats) == 1:
        return Interval(estimate=estimate, low=-math.inf, high=math.inf, confidence=confidence)
    low, high = _quantiles(nats, sizes, confidence, resamples, seed)
    return Interval(estimate=estimate, low=low, high=high, confidence=confidence)


def _quantiles(
    nats: Sequence[float], sizes: Sequence[int], confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    import numpy as np

    generator = np.random.default_rng(seed)
    bits_D = np.asarray(nats, dtype=np.float64) / math.log(2)
    bytes_D = np.asarray(sizes, dtype=np.float64)
    chunk = max(1, _DRAWS_AT_ONCE // len(nats))
    ratios: list[NDArray[float64]] = []
    for start in range(0, resamples, chunk):
        drawn_RD = generator.integers(len(nats), size=(min(chunk, resamples - start), len(nats)))
        ratios.append(bits_D[drawn_RD].sum(axis=1) / bytes_D[drawn_RD].sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return float(low), float(high)
