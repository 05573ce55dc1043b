"""What callers asked for, and how it ended."""

from collections.abc import Iterable

from prometheus_client import Counter

from rhapsode_server.metrics.series import LATENCIES, Series
from rhapsode_server.metrics.weighted import WeightedHistogram


class RequestSeries(Series):
    """Calls, completions, their tokens and times. All times run from the arrival of the call."""

    def __init__(self) -> None:
        super().__init__()
        # Of all methods. Without model and version: many calls never get as far.
        self._calls = Counter(
            "rhapsode_calls", "Calls that ended, by method and outcome.", ("method", "outcome"), registry=self.registry
        )
        self.requests = self._add(
            Counter, "requests", "Completions that ended, by outcome and finish reason.", "outcome", "finish_reason"
        )
        self.prompt_tokens = self._add(Counter, "prompt_tokens", "Prompt tokens of submitted requests.")
        self.generated_tokens = self._add(Counter, "generated_tokens", "Tokens generated, for calls that took them.")
        self.queue_time = self._add_latency("queue_time", "From the arrival of a call to its start in the engine.")
        self.first_token = self._add_latency("time_to_first_token", "From the arrival of a call to its first token.")
        self.request_time = self._add_latency("request_duration", "From the arrival of a call to its end.")
        self.inter_token = WeightedHistogram(
            "rhapsode_inter_token_latency_seconds",
            "Time between two tokens of a request; those that reach the caller together share theirs.",
            LATENCIES,
        )
        self.registry.register(self.inter_token)
        self._of_versions.append(self.inter_token)

    def expect_calls(self, methods: Iterable[str], outcomes: Iterable[str]) -> None:
        """From 0: Prometheus sees no increase in the first value of a series."""
        outcomes = list(outcomes)
        for method in methods:
            for outcome in outcomes:
                self._calls.labels(method, outcome)

    def count_call(self, method: str, outcome: str) -> None:
        """A call of one of our services ended."""
        self._calls.labels(method, outcome).inc()

    def count_request(self, model: str, version: int | str, outcome: str, finish_reason: str) -> None:
        """A completion ended, or failed. `model` and `version` are empty when it never reached a version."""
        self.requests.labels(model, self._version_label(model, version), outcome, finish_reason).inc()

    def count_prompt_tokens(self, model: str, version: int, count: int) -> None:
        """A request with so many was submitted."""
        self._of(model, version, self.prompt_tokens).inc(count)

    def count_generated_tokens(self, model: str, version: int, count: int) -> None:
        """A call took them from the engine, to send them on."""
        self._of(model, version, self.generated_tokens).inc(count)

    def observe_inter_token(self, model: str, version: int, gaps: int, seconds: float) -> None:
        """`gaps` more tokens of a request came, `seconds` after the one before them: each took its share."""
        if gaps:
            self.inter_token.observe((model, self._version_label(model, version)), seconds / gaps, gaps)

    def observe_request(
        self, model: str, version: int, *, queue: float | None, first_token: float | None, total: float
    ) -> None:
        """Times of a request that was submitted; None for what it did not reach."""
        if queue is not None:
            self._of(model, version, self.queue_time).observe(queue)
        if first_token is not None:
            self._of(model, version, self.first_token).observe(first_token)
        self._of(model, version, self.request_time).observe(total)
