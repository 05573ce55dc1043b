"""From what was seen of requests to figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of all do not exceed; None of none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


@dataclass(slots=True)
class Timeline:
    """One request: when it was submitted and when how many tokens of it came, in seconds of one clock."""

    submitted: float
    num_prompt_tokens: int
    num_cached_tokens: int = 0
    arrivals: list[tuple[float, int]] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return sum(count for _, count in self.arrivals)

    @property
    def first_token_seconds(self) -> float | None:
        return self.arrivals[0][0] - self.submitted if self.arrivals else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the processes of a system took: CPU seconds, and the most memory resident at a time, in all and in the
    largest of them. `client_cpu_seconds` are those of the load generator, where it is a process of its own."""

    cpu_seconds: float
    peak_bytes: int
    largest_peak_bytes: int
    client_cpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of one system. Times in seconds; gaps are those between two arrivals of tokens of one request."""

    seconds: float
    num_tokens: int
    first_token_seconds: list[float]
    gaps: list[float]
    cost: Cost
    num_prompt_tokens: list[int]
    num_cached_tokens: list[int]

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds


def measured(timelines: Sequence[Timeline], began: float, ended: float, cost: Cost) -> Measured:
    """What fell between `began` and `ended`: tokens that came, gaps that ended, requests that were submitted."""
    within = [each for each in timelines if began <= each.submitted <= ended and each.arrivals]
    return Measured(
        seconds=ended - began,
        num_tokens=sum(n for each in timelines for when, n in each.arrivals if began < when <= ended),
        first_token_seconds=[each.arrivals[0][0] - each.submitted for each in within],
        gaps=[
            later - earlier
            for each in timelines
            for (earlier, _), (later, _) in pairwise(each.arrivals)
            if began <= earlier and later <= ended
        ],
        cost=cost,
        num_prompt_tokens=[each.num_prompt_tokens for each in within],
        num_cached_tokens=[each.num_cached_tokens for each in within],
    )
