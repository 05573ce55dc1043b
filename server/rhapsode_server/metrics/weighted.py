"""A histogram for many equal observations at once."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

from rhapsode_server.metrics.series import VERSION_LABELS


class WeightedHistogram(Collector):
    """A histogram by model and version that takes many equal observations in one call."""

    def __init__(self, name: str, help: str, bounds: tuple[float, ...]) -> None:
        self._name, self._help, self._bounds = name, help, bounds
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._sums: dict[tuple[str, str], float] = {}

    def observe(self, labels: tuple[str, str], value: float, weight: int) -> None:
        counts = self._counts.setdefault(labels, [0] * (len(self._bounds) + 1))
        counts[bisect_left(self._bounds, value)] += weight
        self._sums[labels] = self._sums.get(labels, 0.0) + value * weight

    def remove_by_labels(self, labels: dict[str, str]) -> None:
        key = (labels["model"], labels["version"])
        self._counts.pop(key, None)
        self._sums.pop(key, None)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._help, labels=VERSION_LABELS)
        bounds = [*map(str, self._bounds), "+Inf"]
        # Collected in the thread of the HTTP server while the event loop observes.
        for labels, counts in list(self._counts.items()):
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric(labels, buckets, self._sums.get(labels, 0.0))
        yield family
