"""What Prometheus sees. Every series of a version carries `model` and `version` and goes when the version does."""

import platform
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version as distribution_version
from itertools import accumulate
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

from rhapsode_server.engine.engine import EngineStats

# Small models are fast: from a quarter of a millisecond, doubling, to about two minutes.
LATENCIES = tuple(0.00025 * 2**n for n in range(20))
BATCH_ROWS = tuple(2.0**n for n in range(9))
BATCH_TOKENS = tuple(2.0**n for n in range(14))
# From a version that was kept warm to one that is loaded from a slow disk: up to about seven minutes.
SWAPS = tuple(0.05 * 2**n for n in range(14))
SWAP_RESULTS = ("moved", "rolled_back", "refused")

_LABELS = ("model", "version")


class Metrics:
    """All series of one server, in a registry of its own. Times are in seconds."""

    def __init__(self) -> None:
        # Else every counter and histogram comes with a series that says when it was made.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._of_versions: list[Any] = []
        self._states: dict[tuple[str, int], str] = {}
        self._series: dict[tuple[str, int], dict[Any, Any]] = {}
        self._gone: set[tuple[str, int | str]] = set()
        self._weights: dict[str, set[int]] = {}
        self._make_request_metrics()
        self._make_engine_metrics()
        self._make_version_metrics()
        self._make_lifecycle_metrics()
        self._make_build_info()

    def _make_request_metrics(self) -> None:
        self._requests = self._add(
            Counter, "requests", "Requests that ended, by outcome and finish reason.", "outcome", "finish_reason"
        )
        # Of all methods. Without model and version: many calls never get as far.
        self._calls = Counter(
            "rhapsode_calls", "Calls that ended, by method and outcome.", ("method", "outcome"), registry=self.registry
        )
        self._prompt_tokens = self._add(Counter, "prompt_tokens", "Prompt tokens of submitted requests.")
        self._cached_tokens = self._add(
            Counter, "cached_tokens", "Prompt tokens that were not computed but taken over from other requests."
        )
        self._generated_tokens = self._add(Counter, "generated_tokens", "Tokens generated.")
        self._first_token = self._add_latency("time_to_first_token", "From the arrival of a call to its first token.")
        self._queue_time = self._add_latency("queue_time", "From the arrival of a call to its start in the engine.")
        self._request_time = self._add_latency("request_duration", "From the arrival of a call to its end.")
        self._inter_token = WeightedHistogram(
            "rhapsode_inter_token_latency_seconds",
            "Time between two tokens of a request; those that reach the caller together share theirs.",
            LATENCIES,
        )
        self.registry.register(self._inter_token)
        self._of_versions.append(self._inter_token)

    def _make_engine_metrics(self) -> None:
        self._waiting = self._add(Gauge, "requests_waiting", "Requests in the queue.")
        self._running = self._add(Gauge, "requests_running", "Requests that run.")
        self._blocks_used = self._add(Gauge, "kv_blocks_used", "Blocks of the KV cache that running requests hold.")
        self._blocks_retained = self._add(
            Gauge,
            "kv_blocks_retained",
            "Blocks of the KV cache that are kept of requests that ended, until others need them.",
        )
        self._blocks = self._add(Gauge, "kv_blocks", "Blocks of the KV cache.")
        self._forwards = self._add(Counter, "model_forwards", "Steps that ran the model.")
        self._step_time = self._add_latency("step_duration", "Time of a step of the engine.")
        self._batch_rows = self._add(Histogram, "batch_size", "Requests computed in a step.", buckets=BATCH_ROWS)
        self._batch_tokens = self._add(Histogram, "batch_tokens", "Tokens computed in a step.", buckets=BATCH_TOKENS)

    def _make_version_metrics(self) -> None:
        self._version_state = self._add(Gauge, "version_state", "1 for the state in which a version is.", "state")
        self._worker_restarts = self._add(Counter, "worker_restarts", "Engine processes started again after a loss.")
        self._quarantines = self._add_of_models(Counter, "quarantines", "Versions refused, by reason.", "reason")

    def _make_lifecycle_metrics(self) -> None:
        self._traffic_weight = self._add(
            Gauge, "traffic_weight", "Weight by which a version shares the requests of its model."
        )
        self._worker_exits = self._add(Counter, "worker_exits", "Engine processes that ended, by reason.", "reason")
        self._traffic_override = self._add_of_models(
            Gauge, "traffic_override", "1 while an operator of this server decides where requests go."
        )
        self._swaps = self._add_of_models(
            Counter, "swaps", "Moves of traffic between versions, by result: moved, rolled_back or refused.", "result"
        )
        self._swap_time = self._add_of_models(
            Histogram,
            "swap_seconds",
            "From the decision for a version to its first token, by start: cold, standby or warm.",
            "start",
            buckets=SWAPS,
        )
        self._directory_readable = Gauge(
            "rhapsode_model_directory_readable",
            "1 if the last look at the model directory succeeded.",
            registry=self.registry,
        )
        self._standby_ready = Gauge(
            "rhapsode_standby_ready", "1 while a process waits to become the next worker.", registry=self.registry
        )

    def _make_build_info(self) -> None:
        build_info = Gauge(
            "rhapsode_build_info", "1, for the versions in its labels.", ("version", "python"), registry=self.registry
        )
        build_info.labels(distribution_version("rhapsode-server"), platform.python_version()).set(1)

    def _add(self, kind: Any, name: str, help: str, *labels: str, **options: Any) -> Any:
        metric = kind(f"rhapsode_{name}", help, (*_LABELS, *labels), registry=self.registry, **options)
        self._of_versions.append(metric)
        return metric

    def _add_of_models(self, kind: Any, name: str, help: str, *labels: str, **options: Any) -> Any:
        """Without the version: what it counts outlives it."""
        return kind(f"rhapsode_{name}", help, ("model", *labels), registry=self.registry, **options)

    def _add_latency(self, name: str, help: str) -> Any:
        return self._add(Histogram, f"{name}_seconds", help, buckets=LATENCIES)

    def count_call(self, method: str, outcome: str) -> None:
        """A call of one of our services ended."""
        self._calls.labels(method, outcome).inc()

    def count_request(self, model: str, version: int | str, outcome: str, finish_reason: str) -> None:
        """A completion ended, or failed. `model` and `version` are empty when it never reached a version."""
        if self._is_gone(model, version):
            return
        self._requests.labels(model, version, outcome, finish_reason).inc()

    def count_prompt_tokens(self, model: str, version: int, count: int) -> None:
        if not self._is_gone(model, version):
            self._prompt_tokens.labels(model, version).inc(count)

    def count_generated_tokens(self, model: str, version: int, count: int) -> None:
        if not self._is_gone(model, version):
            self._of_version(model, version, self._generated_tokens).inc(count)

    def observe_inter_token(self, model: str, version: int, gaps: int, seconds: float) -> None:
        """`gaps` more tokens of a request came, `seconds` after the one before them: each took its share."""
        if gaps and not self._is_gone(model, version):
            self._inter_token.observe((model, str(version)), seconds / gaps, gaps)

    def observe_request(
        self, model: str, version: int, *, queue: float | None, first_token: float | None, total: float
    ) -> None:
        """Times of a request that was submitted, from its arrival; None for what it did not reach."""
        if self._is_gone(model, version):
            return
        if queue is not None:
            self._queue_time.labels(model, version).observe(queue)
        if first_token is not None:
            self._first_token.labels(model, version).observe(first_token)
        self._request_time.labels(model, version).observe(total)

    def observe_step(self, model: str, version: int, stats: EngineStats, seconds: float) -> None:
        """An engine made a step that took `seconds`."""
        if self._is_gone(model, version):
            return
        of_version = partial(self._of_version, model, version)
        of_version(self._waiting).set(stats.waiting)
        of_version(self._running).set(stats.running)
        of_version(self._blocks_used).set(stats.blocks_used)
        of_version(self._blocks_retained).set(stats.blocks_retained)
        of_version(self._cached_tokens).inc(stats.cached_tokens)
        of_version(self._blocks).set(stats.blocks_total)
        if stats.batch_rows:
            of_version(self._forwards).inc()
            of_version(self._step_time).observe(seconds)
            of_version(self._batch_rows).observe(stats.batch_rows)
            of_version(self._batch_tokens).observe(stats.batch_tokens)

    def set_version_state(self, model: str, version: int, state: str) -> None:
        self._gone.discard((model, version))
        before = self._states.get((model, version))
        if before not in (None, state):
            self._version_state.remove(model, str(version), before)
        self._states[model, version] = state
        self._version_state.labels(model, version, state).set(1)

    def count_quarantine(self, model: str, reason: str) -> None:
        """A version was refused; `reason` is one word, such as `unsupported_architecture`."""
        self._quarantines.labels(model, reason).inc()

    def count_worker_restart(self, model: str, version: int) -> None:
        if not self._is_gone(model, version):
            self._worker_restarts.labels(model, version).inc()

    def count_worker_exit(self, model: str, version: int, reason: str) -> None:
        """An engine process ended; `reason` is one word, such as `killed`."""
        if not self._is_gone(model, version):
            self._worker_exits.labels(model, version, reason).inc()

    def set_traffic(self, model: str, weights: Mapping[int, float]) -> None:
        """How requests that name no version are split from now on; versions not in it have no share."""
        for version in self._weights.get(model, set()) - weights.keys():
            self._traffic_weight.remove(model, str(version))
        self._weights[model] = set(weights)
        for version, weight in weights.items():
            self._traffic_weight.labels(model, version).set(weight)
        for result in SWAP_RESULTS:
            # From 0: Prometheus sees no increase in the first value of a series.
            self._swaps.labels(model, result)

    def set_override(self, model: str, is_overridden: bool) -> None:
        self._traffic_override.labels(model).set(is_overridden)

    def count_swap(self, model: str, result: str) -> None:
        """Traffic was to move to a version: `moved`, `rolled_back` after it had, or `refused` before it did."""
        self._swaps.labels(model, result).inc()

    def observe_swap(self, model: str, start: str, seconds: float) -> None:
        """From the decision to the first token; the version began `cold`, from the `standby`, or was `warm` still."""
        self._swap_time.labels(model, start).observe(seconds)

    def set_directory_readable(self, is_readable: bool) -> None:
        self._directory_readable.set(is_readable)

    def set_standby(self, is_ready: bool) -> None:
        self._standby_ready.set(is_ready)

    def _of_version(self, model: str, version: int, metric: Any) -> Any:
        """As `metric.labels(model, version)`, which takes several times as long: for every step and message."""
        series = self._series.setdefault((model, version), {})
        if metric not in series:
            series[metric] = metric.labels(model, version)
        return series[metric]

    def _is_gone(self, model: str, version: int | str) -> bool:
        return (model, version) in self._gone

    def forget(self, model: str, version: int) -> None:
        """Remove the series of a version that is no longer served. Callers may still read its last tokens, and its
        engine may end later: these would bring the series back, so they are not counted."""
        self._states.pop((model, version), None)
        self._series.pop((model, version), None)
        self._gone.add((model, version))
        self._weights.get(model, set()).discard(version)
        for metric in self._of_versions:
            metric.remove_by_labels({"model": model, "version": str(version)})


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
        family = HistogramMetricFamily(self._name, self._help, labels=_LABELS)
        bounds = [*map(str, self._bounds), "+Inf"]
        # Collected in the thread of the HTTP server while the event loop observes.
        for labels, counts in list(self._counts.items()):
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric(labels, buckets, self._sums.get(labels, 0.0))
        yield family


@dataclass(slots=True)
class MetricsServer:
    """Serves the registry over HTTP at `/metrics` until it is closed. Raises OSError when the port is taken."""

    metrics: Metrics
    host: str
    port: int
    _server: Any = field(init=False)
    _thread: Any = field(init=False)

    def __post_init__(self) -> None:
        self._server, self._thread = start_http_server(self.port, self.host, self.metrics.registry)
        self.port = self._server.server_port

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
