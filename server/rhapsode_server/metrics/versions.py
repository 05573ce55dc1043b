"""What becomes of versions: their states, their share of the traffic, swaps, refusals and lost processes."""

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

from rhapsode_server.metrics.series import Series

# From a version that was kept warm to one that is loaded from a slow disk: up to about seven minutes.
SWAPS = tuple(0.05 * 2**n for n in range(14))
SWAP_RESULTS = ("moved", "rolled_back", "refused")


class VersionSeries(Series):
    """The life of versions, and of what they come from: the model directory and the standby process."""

    def __init__(self) -> None:
        super().__init__()
        self._states: dict[tuple[str, int], str] = {}
        self._weights: dict[str, set[int]] = {}
        self._make_version_metrics()
        self._make_model_metrics()
        self._directory_readable = Gauge(
            "rhapsode_model_directory_readable",
            "1 if the last look at the model directory succeeded.",
            registry=self.registry,
        )
        self._standby_ready = Gauge(
            "rhapsode_standby_ready", "1 while a process waits to become the next worker.", registry=self.registry
        )

    def _make_version_metrics(self) -> None:
        self._version_state = self._add(Gauge, "version_state", "1 for the state in which a version is.", "state")
        self._traffic_weight = self._add(
            Gauge, "traffic_weight", "Weight by which a version shares the requests of its model."
        )
        self._worker_restarts = self._add(Counter, "worker_restarts", "Engine processes started again after a loss.")
        self._worker_exits = self._add(Counter, "worker_exits", "Engine processes that ended, by reason.", "reason")

    def _make_model_metrics(self) -> None:
        self._decided_at = self._add_of_models(
            Gauge, "last_decision_timestamp_seconds", "When the fleet last decided which versions are to serve."
        )
        self._traffic_override = self._add_of_models(
            Gauge, "traffic_override", "1 while an operator of this server decides where requests go."
        )
        self._quarantines = self._add_of_models(Counter, "quarantines", "Versions refused, by reason.", "reason")
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

    def set_version_state(self, model: str, version: int, state: str) -> None:
        self._gone.discard((model, version))
        before = self._states.get((model, version))
        if before not in (None, state):
            self._version_state.remove(model, str(version), before)
        self._states[model, version] = state
        self._version_state.labels(model, version, state).set(1)
        # From 0: Prometheus sees no increase in the first value of a series.
        self._worker_restarts.labels(model, version)

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
            # From 0, as above.
            self._swaps.labels(model, result)

    def set_decision(self, model: str, decided_at: float) -> None:
        """The fleet's aliases or weights last changed then, in Unix time."""
        self._decided_at.labels(model).set(decided_at)

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

    def forget(self, model: str, version: int) -> None:
        self._states.pop((model, version), None)
        self._weights.get(model, set()).discard(version)
        super().forget(model, version)
