"""Our series under the names that vLLM gives to the same figures, for boards and autoscalers that know these."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from rhapsode_server.metrics.engine import EngineSeries
from rhapsode_server.metrics.requests import RequestSeries

Labels = Mapping[str, str]

FINISHED_REASONS = {
    "eos": "stop",
    "stop_string": "stop",
    "stop_token": "stop",
    "length": "length",
    "context_full": "length",
    "time_limit": "length",
}
"""Of completions, by their finish reason."""

UNFINISHED_REASONS = {"cancelled": "abort", "deadline": "abort", "error": "error", "unavailable": "error"}
"""Of those without one, by their outcome; what was rejected never ran."""


class VllmNames(Collector):
    """With the labels of vLLM: `model_name`, and as `engine` the version, because each has engines of its own."""

    def __init__(self, requests: RequestSeries, engines: EngineSeries) -> None:
        self._requests, self._engines = requests, engines
        self._renamed: Mapping[str, Collector] = {
            "vllm:num_requests_waiting": engines.waiting,
            "vllm:num_requests_running": engines.running,
            "vllm:prompt_tokens": requests.prompt_tokens,
            "vllm:generation_tokens": requests.generated_tokens,
            "vllm:time_to_first_token_seconds": requests.first_token,
            "vllm:inter_token_latency_seconds": requests.inter_token,
            "vllm:e2e_request_latency_seconds": requests.request_time,
            "vllm:request_queue_time_seconds": requests.queue_time,
        }

    def collect(self) -> Iterator[Metric]:
        for name, metric in self._renamed.items():
            yield _renamed(name, metric, _of_engine)
        yield _renamed("vllm:request_success", self._requests.requests, _of_end)
        yield self._kv_cache_usage()

    def _kv_cache_usage(self) -> Metric:
        usage = Metric("vllm:kv_cache_usage_perc", "Part of the KV cache that running requests hold, 0 to 1.", "gauge")
        used, blocks = _by_labels(self._engines.blocks_used), _by_labels(self._engines.blocks)
        for labels in used.keys() & blocks.keys():
            if blocks[labels]:
                usage.add_sample(usage.name, _of_engine(dict(labels)), used[labels] / blocks[labels])
        return usage


def _of_engine(labels: Labels) -> dict[str, str]:
    bucket = {"le": labels["le"]} if "le" in labels else {}
    return {"model_name": labels["model"], "engine": labels["version"], **bucket}


def _of_end(labels: Labels) -> dict[str, str] | None:
    is_finished = labels["outcome"] == "ok"
    reasons, key = (FINISHED_REASONS, "finish_reason") if is_finished else (UNFINISHED_REASONS, "outcome")
    reason = reasons.get(labels[key])
    return {**_of_engine(labels), "finished_reason": reason} if reason and labels["model"] else None


def _renamed(name: str, metric: Collector, relabel: Callable[[Labels], dict[str, str] | None]) -> Metric:
    """Samples that get the same labels are added up; those that get none are left out."""
    [family] = metric.collect()
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for sample in family.samples:
        if (labels := relabel(sample.labels)) is not None:
            place = (name + sample.name.removeprefix(family.name), tuple(labels.items()))
            values[place] = values.get(place, 0.0) + sample.value
    renamed = Metric(name, family.documentation, family.type)
    renamed.samples = [Sample(sample, dict(labels), value) for (sample, labels), value in values.items()]
    return renamed


def _by_labels(metric: Collector) -> dict[tuple[tuple[str, str], ...], float]:
    [family] = metric.collect()
    return {tuple(sample.labels.items()): sample.value for sample in family.samples}
