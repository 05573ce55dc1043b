"""What the groups of series share: the registry, and that the series of a version go when it does."""

from typing import Any

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics

# Small models are fast: from a quarter of a millisecond, doubling, to about two minutes.
LATENCIES = tuple(0.00025 * 2**n for n in range(20))

VERSION_LABELS = ("model", "version")


class Series:
    """Each group extends it. Labels have values of this server alone: no caller can bring another one into being."""

    def __init__(self) -> None:
        # Else every counter and histogram comes with a series that says when it was made.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._of_versions: list[Any] = []
        self._children: dict[tuple[str, int | str], dict[Any, Any]] = {}
        self._gone: set[tuple[str, int | str]] = set()

    def forget(self, model: str, version: int) -> None:
        """Remove the series of a version that is no longer served. Its engine may end later: that would bring the
        series back, so it is not counted. Callers may still read its last tokens: these count without a version."""
        self._gone.add((model, version))
        self._children.pop((model, version), None)
        for metric in self._of_versions:
            metric.remove_by_labels({"model": model, "version": str(version)})

    def _add(self, kind: Any, name: str, help: str, *labels: str, **options: Any) -> Any:
        metric = kind(f"rhapsode_{name}", help, (*VERSION_LABELS, *labels), registry=self.registry, **options)
        self._of_versions.append(metric)
        return metric

    def _add_of_models(self, kind: Any, name: str, help: str, *labels: str, **options: Any) -> Any:
        """Without the version: what it counts outlives it."""
        return kind(f"rhapsode_{name}", help, ("model", *labels), registry=self.registry, **options)

    def _add_latency(self, name: str, help: str) -> Any:
        return self._add(Histogram, f"{name}_seconds", help, buckets=LATENCIES)

    def _is_gone(self, model: str, version: int | str) -> bool:
        return (model, version) in self._gone

    def _of(self, model: str, version: int | str, metric: Any) -> Any:
        """As `metric.labels(model, version)`, which takes several times as long: for every step and message."""
        children = self._children.setdefault((model, version), {})
        if metric not in children:
            children[metric] = metric.labels(model, self._version_label(model, version))
        return children[metric]

    def _version_label(self, model: str, version: int | str) -> str:
        """Empty for a version that has gone."""
        return "" if self._is_gone(model, version) else str(version)
