"""Service level objectives: what a deployment must keep, as typed after --slo."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rhapsode_client.cli.bench.figures import SHARES, Figures, Latency

_LATENCIES: Mapping[str, Callable[[Figures], Latency]] = {
    "ttft": lambda figures: figures.first_token,
    "itl": lambda figures: figures.between_tokens,
    "total": lambda figures: figures.total,
}
_RATES: Mapping[str, Callable[[Figures], float]] = {
    "tokens_per_second": lambda figures: figures.tokens_per_second,
    "requests_per_second": lambda figures: figures.completed_per_second,
}
_ERROR_RATE = "error_rate"
NAMES = (*(f"{name}_{share}" for name in _LATENCIES for share in SHARES), *_RATES, _ERROR_RATE)

_SECONDS: Mapping[str, float] = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class Verdict(NamedTuple):
    """What became of an objective; `measured` is None where there was nothing to measure, which misses it."""

    objective: str
    measured: float | None
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A figure and its bound: the least for rates, the most for all others."""

    text: str
    name: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Objective":
        """From `ttft_p99=200ms`, `tokens_per_second=500` or `error_rate=1%`. Raises ValueError."""
        name, _, value = text.partition("=")
        if name not in NAMES:
            raise ValueError(f"{name!r} is none of {', '.join(NAMES)}")
        return cls(text=text, name=name, bound=_bound(name, value))

    def verdict(self, figures: Figures) -> Verdict:
        """Whether `figures` keep it."""
        measured = _measured(self.name, figures)
        if measured is None:
            return Verdict(self.text, None, met=False)
        return Verdict(
            self.text, measured, met=measured >= self.bound if self.name in _RATES else measured <= self.bound
        )


def is_latency(name: str) -> bool:
    """Whether the figure of this name is in seconds."""
    return name.partition("_")[0] in _LATENCIES


def _bound(name: str, value: str) -> float:
    if is_latency(name):
        return _number(value, _SECONDS, f"{name} needs a number and its unit: 200ms or 1.5s")
    if name == _ERROR_RATE:
        return _number(value, {"%": 0.01}, f"{name} needs a percentage: 1%")
    return _number(value, {"": 1.0}, f"{name} needs a number: 500")


def _number(text: str, units: Mapping[str, float], complaint: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z%]*)", text)
    if not match or match[2] not in units:
        raise ValueError(f"{complaint}, not {text!r}")
    return float(match[1]) * units[match[2]]


def _measured(name: str, figures: Figures) -> float | None:
    if is_latency(name):
        latency, _, share = name.partition("_")
        return _LATENCIES[latency](figures).percentiles.get(share)
    if name == _ERROR_RATE:
        return figures.error_rate if figures.requests else None
    return _RATES[name](figures)
