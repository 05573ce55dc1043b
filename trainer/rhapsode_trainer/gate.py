"""The gate: whether a trained model may become the champion, decided by rules that a recipe fixes beforehand.

Base model, champion and new model are measured on the same held-out documents. Differences are in bits per byte, new
minus old, and judged by the upper end of their interval: chance alone must not open the gate.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .evaluation.bootstrap import Interval, difference_interval
from .evaluation.opponent import Opponent
from .evaluation.record import Measured
from .evaluation.scores import finite_or_none


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """The rules.

    `tolerance`: bits per byte; the upper end of the interval (of `confidence`) of new minus base and of new minus
    champion must be below it, so 0 asks for a proven improvement. `max_repetition` and `max_empty` are shares,
    `min_words` and `max_words` bound the mean length of generated texts. `canary_text` may not get less likely by more
    than `canary_tolerance` bits per byte than the better of base and champion; an empty text is no rule.
    """

    tolerance: float
    confidence: float
    max_repetition: float
    max_empty: float
    min_words: float
    max_words: float
    canary_text: str
    canary_tolerance: float

    def __post_init__(self) -> None:
        _require(self.tolerance >= 0, "tolerance", self.tolerance, "is negative")
        _require(0.5 <= self.confidence < 1, "confidence", self.confidence, "is not between 0.5 and 1")
        _require(0 <= self.max_repetition <= 1, "max_repetition", self.max_repetition, "is not a share")
        _require(0 <= self.max_empty <= 1, "max_empty", self.max_empty, "is not a share")
        _require(self.min_words >= 0, "min_words", self.min_words, "is negative")
        _require(self.min_words <= self.max_words, "max_words", self.max_words, "is less than min_words")
        _require(self.canary_tolerance >= 0, "canary_tolerance", self.canary_tolerance, "is negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule applied: passed when `value` is within `low` and `high`, and below `high` when `strict`. NaN fails."""

    name: str
    value: float
    low: float = -math.inf
    high: float = math.inf
    strict: bool = False
    interval: Interval | None = None
    detail: str

    @property
    def passed(self) -> bool:
        return self.low <= self.value <= self.high and not (self.strict and self.value == self.high)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is not finite is null."""
        bounds = {name: finite_or_none(getattr(self, name)) for name in ("value", "low", "high")}
        interval = self.interval.as_dict() if self.interval else None
        return {
            "name": self.name,
            "passed": self.passed,
            **bounds,
            "strict": self.strict,
            "interval": interval,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Every rule with its numbers. `forced`: the user asked for publication whatever the rules say."""

    config: GateConfig
    rules: tuple[Rule, ...]
    opponent: Opponent
    forced: bool

    @property
    def passed(self) -> bool:
        return all(rule.passed for rule in self.rules)

    @property
    def accepted(self) -> bool:
        """Whether the new version becomes the champion."""
        return self.passed or self.forced

    @property
    def summary(self) -> str:
        """One line for the history and the screen."""
        failed = "; ".join(f"{rule.name}: {rule.detail}" for rule in self.rules if not rule.passed)
        if not failed:
            return f"passed {len(self.rules)} rules"
        return f"forced although it failed: {failed}" if self.forced else f"failed: {failed}"

    def as_dict(self) -> dict[str, Any]:
        """For evaluation.json."""
        return {
            "passed": self.passed,
            "forced": self.forced,
            "accepted": self.accepted,
            "opponent": self.opponent.version,
            "refused_by_the_fleet": {str(version): reason for version, reason in self.opponent.refused.items()},
            "config": asdict(self.config),
            "rules": [rule.as_dict() for rule in self.rules],
        }


def judge(
    config: GateConfig,
    *,
    new: Measured,
    base: Measured,
    champion: Measured | None,
    opponent: Opponent,
    forced: bool = False,
) -> Verdict:
    """Applies every rule. `champion` is the measurement of the opponent, None when there is none to beat."""
    assert (champion is None) == (opponent.version is None), "the opponent is the champion that was measured"
    rules = (
        _finite(new),
        _not_worse("better than base", new, base, config),
        *([] if champion is None else [_not_worse("better than champion", new, champion, config)]),
        *_samples(config, new),
        *_canary(config, new, [base] if champion is None else [base, champion]),
    )
    return Verdict(config=config, rules=rules, opponent=opponent, forced=forced)


def _finite(new: Measured) -> Rule:
    wrong = sum(not math.isfinite(part.nats) for part in new.documents)
    detail = f"{wrong} of {len(new.documents)} held-out documents have no finite likelihood"
    return Rule(name="finite", value=wrong, high=0, detail=detail)


def _not_worse(name: str, new: Measured, old: Measured, config: GateConfig) -> Rule:
    if not all(math.isfinite(part.nats) for part in old.documents):
        return Rule(name=name, value=-math.inf, high=config.tolerance, detail="the other's likelihood is not finite")
    interval = difference_interval(new.documents, old.documents, confidence=config.confidence)
    detail = (
        f"{interval.estimate:+.4f} bits per byte, {config.confidence:.0%} interval {interval.low:+.4f} to "
        f"{interval.high:+.4f} (its upper end must be below {config.tolerance:g})"
    )
    return Rule(name=name, value=interval.high, high=config.tolerance, strict=True, interval=interval, detail=detail)


def _samples(config: GateConfig, new: Measured) -> Iterator[Rule]:
    quality = new.quality
    if quality is None:
        return
    shares = (
        ("repetition", quality.repetition, config.max_repetition, "of 4-grams stood in the same text before"),
        ("emptiness", quality.empty, config.max_empty, "of generated texts have no word"),
    )
    for name, value, bound, what in shares:
        yield Rule(name=name, value=value, high=bound, detail=f"{value:.1%} {what} (allowed: {bound:.1%})")
    detail = f"{quality.words:.1f} words in a text on average (allowed: {config.min_words:g} to {config.max_words:g})"
    yield Rule(name="length", value=quality.words, low=config.min_words, high=config.max_words, detail=detail)


def _canary(config: GateConfig, new: Measured, others: Sequence[Measured]) -> Iterator[Rule]:
    if not config.canary_text:
        return
    known = [other.canary.bits_per_byte for other in others if other.canary is not None]
    assert new.canary is not None, "the canary text was not measured"
    assert known, "the canary text was not measured"
    value = new.canary.bits_per_byte - min(known, key=_infinite_if_nan)
    detail = f"{value:+.4f} bits per byte for the canary text (allowed: {config.canary_tolerance:+.4f})"
    yield Rule(name="canary text", value=value, high=config.canary_tolerance, detail=detail)


def _infinite_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _require(condition: bool, field: str, value: object, rule: str) -> None:
    if not condition:
        raise ValueError(f"{field}: {value!r} {rule}")
