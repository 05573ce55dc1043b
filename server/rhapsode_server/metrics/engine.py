"""What the engines do: their steps, their queues, their KV cache."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from prometheus_client import Counter, Gauge, Histogram

from rhapsode_server.engine.engine import EngineStats
from rhapsode_server.metrics.series import Series

BATCH_ROWS = tuple(2.0**n for n in range(9))
BATCH_TOKENS = tuple(2.0**n for n in range(14))


class Queue(Protocol):
    """Requests with which an engine has not begun, and those with which it has. Asked from another thread."""

    @property
    def num_waiting(self) -> int: ...

    @property
    def num_running(self) -> int: ...


class EngineSeries(Series):
    """All engines of a version together."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = self._add(Gauge, "requests_waiting", "Requests in the queue.")
        self.running = self._add(Gauge, "requests_running", "Requests that run.")
        self.blocks_used = self._add(Gauge, "kv_blocks_used", "Blocks of the KV cache that running requests hold.")
        self._blocks_retained = self._add(
            Gauge,
            "kv_blocks_retained",
            "Blocks of the KV cache that are kept of requests that ended, until others need them.",
        )
        self.blocks = self._add(Gauge, "kv_blocks", "Blocks of the KV cache.")
        self._cached_tokens = self._add(
            Counter, "cached_tokens", "Prompt tokens that were not computed but taken over from other requests."
        )
        self._forwards = self._add(Counter, "model_forwards", "Steps that ran the model.")
        self._step_time = self._add_latency("step_duration", "Time of a step of the engine.")
        self._batch_rows = self._add(Histogram, "batch_size", "Requests computed in a step.", buckets=BATCH_ROWS)
        self._batch_tokens = self._add(Histogram, "batch_tokens", "Tokens computed in a step.", buckets=BATCH_TOKENS)

    def follow_queue(self, model: str, version: int, queue: Callable[[], Queue]) -> None:
        """From now on every scrape asks how many requests wait and run: an engine that hangs tells nothing."""
        self.waiting.labels(model, version).set_function(lambda: queue().num_waiting)
        self.running.labels(model, version).set_function(lambda: queue().num_running)

    def observe_step(self, model: str, version: int, stats: EngineStats, seconds: float) -> None:
        """An engine made a step that took `seconds`."""
        if self._is_gone(model, version):
            return
        of_version = partial(self._of, model, version)
        of_version(self.blocks_used).set(stats.blocks_used)
        of_version(self._blocks_retained).set(stats.blocks_retained)
        of_version(self.blocks).set(stats.blocks_total)
        of_version(self._cached_tokens).inc(stats.cached_tokens)
        if stats.batch_rows:
            of_version(self._forwards).inc()
            of_version(self._step_time).observe(seconds)
            of_version(self._batch_rows).observe(stats.batch_rows)
            of_version(self._batch_tokens).observe(stats.batch_tokens)
