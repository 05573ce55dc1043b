"""Our figures under the names of vLLM."""

import pytest
from rhapsode.v1.generation_pb2 import FinishReason
from rhapsode_server.metrics import Metrics
from rhapsode_server.metrics.vllm import FINISHED_REASONS
from support.series import everything, samples

ENGINE = {"model_name": "poems", "engine": "3"}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(vllm_names=True)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"vllm:{name}", ENGINE | labels)


def test_the_names_are_absent_unless_asked_for() -> None:
    metrics = Metrics()
    everything(metrics)
    assert not [family.name for family in metrics.registry.collect() if family.name.startswith("vllm")]


def test_every_alias_says_what_ours_says(metrics: Metrics) -> None:
    everything(metrics)
    assert value(metrics, "num_requests_waiting") == 2
    assert value(metrics, "num_requests_running") == 5
    assert value(metrics, "kv_cache_usage_perc") == 0.07
    assert value(metrics, "prompt_tokens_total") == 4
    assert value(metrics, "generation_tokens_total") == 6
    assert value(metrics, "time_to_first_token_seconds_sum") == 0.002
    assert value(metrics, "time_to_first_token_seconds_bucket", le="0.002") == 1
    assert value(metrics, "inter_token_latency_seconds_count") == 5
    assert value(metrics, "e2e_request_latency_seconds_sum") == 0.1
    assert value(metrics, "request_queue_time_seconds_sum") == 0.001
    assert value(metrics, "request_success_total", finished_reason="stop") is None
    assert value(metrics, "request_success_total", finished_reason="length") == 1


def test_a_histogram_keeps_its_order(metrics: Metrics) -> None:
    everything(metrics)
    bounds = [
        float(sample.labels["le"])
        for sample in samples(metrics)
        if sample.name == "vllm:time_to_first_token_seconds_bucket"
    ]
    assert len(bounds) == 21
    assert bounds == sorted(bounds)


def test_every_finish_reason_has_one_of_vllm() -> None:
    ours = {name.removeprefix("FINISH_REASON_").lower() for name in FinishReason.keys()}  # noqa: SIM118 - an enum
    assert FINISHED_REASONS.keys() == ours - {"unspecified"}


def test_ends_are_added_up_and_rejections_left_out(metrics: Metrics) -> None:
    for outcome, reason in [
        ("ok", "eos"),
        ("ok", "stop_string"),
        ("ok", "time_limit"),
        ("cancelled", ""),
        ("deadline", "expired"),
        ("error", "not_finite"),
        ("unavailable", ""),
        ("invalid", "bad_constraint"),
        ("overloaded", ""),
    ]:
        metrics.count_request("poems", 3, outcome, reason)
    metrics.count_request("", "", "unavailable", "")
    ends = {
        sample.labels["finished_reason"]: sample.value
        for sample in samples(metrics)
        if sample.name == "vllm:request_success_total"
    }
    assert ends == {"stop": 2, "length": 1, "abort": 2, "error": 2}


def test_a_cache_without_blocks_is_not_divided_by(metrics: Metrics) -> None:
    metrics.set_version_state("poems", 3, "loading")
    metrics.blocks.labels("poems", 3)
    metrics.blocks_used.labels("poems", 3)
    assert value(metrics, "kv_cache_usage_perc") is None
