"""Asks a Prometheus for what a dashboard's queries give."""

import json
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """`points` are (seconds since the epoch, value)."""

    labels: Mapping[str, str]
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of time in seconds since the epoch, and the step between two points."""

    start: float
    end: float
    step: float


def expand(expr: str, rate_interval: str) -> str:
    """`expr` as Grafana sends it with all variables at All."""
    return expr.replace("$__rate_interval", rate_interval).replace("$instance", ".*").replace("$model", ".*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """A Prometheus over HTTP, at `url` without a path. Calls raise OSError when it does not answer or refuses."""

    url: str

    def over(self, expr: str, span: Span) -> list[Series]:
        """The values of `expr` over a span."""
        result = self._ask("query_range", query=expr, start=span.start, end=span.end, step=span.step)
        return [Series(labels=each["metric"], points=_points(each["values"])) for each in result]

    def at(self, expr: str, time: float) -> list[Series]:
        """The values of `expr` at a time."""
        result = self._ask("query", query=expr, time=time)
        return [Series(labels=each["metric"], points=_points([each["value"]])) for each in result]

    def _ask(self, path: str, **parameters: object) -> list[Any]:
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=30) as response:
            answer: list[Any] = json.load(response)["data"]["result"]
        return answer


def _points(values: list[Any]) -> tuple[Point, ...]:
    return tuple((float(time), float(value)) for time, value in values)
