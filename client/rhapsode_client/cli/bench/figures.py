"""From what was seen of requests to figures."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rhapsode_client.cli.bench.load import Timeline

SHARES: Mapping[str, float] = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99, "max": 1.0}
_BUCKETS = 10


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of `ordered`, at least one ascending value, that at least `share` of them do not exceed."""
    # Rounded, as 0.95 * 20 is a little more than 19.
    return ordered[max(0, math.ceil(round(share * len(ordered), 9)) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """How many values are from `low` to `high`, the latter exclusive but for the last bucket."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds: their percentiles, exact, and their histogram, whose buckets grow by a constant factor."""

    count: int
    percentiles: Mapping[str, float]
    histogram: Sequence[Bucket]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Latency":
        """Of no values there is no percentile and no bucket."""
        ordered = sorted(values)
        shares = {name: percentile(ordered, share) for name, share in SHARES.items()} if ordered else {}
        return cls(count=len(ordered), percentiles=shares, histogram=_histogram(ordered))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Errors of one kind and what the first of them says."""

    count: int
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured. Latencies are of requests that were answered and in seconds from when each was due.

    Rates are of what fell into the time measured, requests of the warm-up that ended in it included.
    """

    seconds: float
    """How long was measured."""
    requests: int
    """Those due in that time."""
    failed: int
    completed_per_second: float
    tokens: int
    tokens_per_second: float
    first_token: Latency
    between_tokens: Latency
    """Between two arrivals of tokens of one request; several tokens may come at once."""
    total: Latency
    errors: Mapping[str, Failures]
    """By the name of the exception."""
    answered_by: Mapping[str, int]
    """Completions by model and version."""
    latest_send: float
    """The most that a request was sent after it was due: above a few milliseconds this machine cannot keep up."""

    @property
    def error_rate(self) -> float:
        """Share of the requests that failed."""
        return self.failed / self.requests if self.requests else 0.0


def figures(timelines: Sequence[Timeline], begin: float, end: float) -> Figures:
    """Of the time from `begin` to `end`."""
    measured = [each for each in timelines if each.due >= begin]
    answered = [each for each in measured if each.error is None]
    tokens = sum(count for each in timelines for when, count in each.arrivals if begin <= when <= end)
    completed = sum(each.error is None and begin <= each.ended <= end for each in timelines)
    return Figures(
        seconds=end - begin,
        requests=len(measured),
        failed=len(measured) - len(answered),
        completed_per_second=completed / (end - begin),
        tokens=tokens,
        tokens_per_second=tokens / (end - begin),
        first_token=Latency.of([each.arrivals[0][0] - each.due for each in answered if each.arrivals]),
        between_tokens=Latency.of([gap for each in answered for gap in _gaps(each)]),
        total=Latency.of([each.ended - each.due for each in answered]),
        errors=_errors(measured),
        answered_by=_answered_by(answered),
        latest_send=max((each.sent - each.due for each in measured), default=0.0),
    )


def _gaps(timeline: Timeline) -> list[float]:
    return [later - earlier for (earlier, _), (later, _) in pairwise(timeline.arrivals)]


def _answered_by(timelines: Sequence[Timeline]) -> Mapping[str, int]:
    answers = [each.answered_by for each in timelines if each.answered_by]
    return dict(Counter(f"{model} version {version}" for model, version in answers).most_common())


def _errors(timelines: Sequence[Timeline]) -> Mapping[str, Failures]:
    errors = [each.error for each in timelines if each.error is not None]
    examples = {type(error).__name__: str(error) for error in reversed(errors)}
    counts = Counter(type(error).__name__ for error in errors)
    return {name: Failures(count=count, example=examples[name]) for name, count in counts.most_common()}


def _histogram(ordered: Sequence[float]) -> Sequence[Bucket]:
    if not ordered:
        return ()
    low, high = ordered[0], ordered[-1]
    span = math.log(high / low) if low > 0 else 0.0
    if not 0 < span < math.inf:
        return (Bucket(low=low, high=high, count=len(ordered)),)
    edges = [low * math.exp(span * place / _BUCKETS) for place in range(_BUCKETS)] + [high]
    last = _BUCKETS - 1
    counts = Counter(min(last, int(math.log(value / low) / span * _BUCKETS)) for value in ordered)
    return tuple(Bucket(low=edges[place], high=edges[place + 1], count=counts[place]) for place in range(_BUCKETS))
