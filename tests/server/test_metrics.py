"""The series that Prometheus reads."""

import urllib.request

import pytest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families
from rhapsode_server.engine.engine import EngineStats
from rhapsode_server.metrics import Metrics, MetricsServer

POEMS = {"model": "poems", "version": "3"}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"rhapsode_{name}", POEMS | labels)


def a_step(metrics: Metrics, version: int = 3, rows: int = 5) -> None:
    stats = EngineStats(
        waiting=2,
        running=5,
        blocks_used=7,
        blocks_retained=9,
        blocks_total=100,
        batch_rows=rows,
        batch_tokens=12 * rows,
        cached_tokens=32,
    )
    metrics.observe_step("poems", version, stats, 0.004)


def everything(metrics: Metrics, version: int = 3) -> None:
    a_step(metrics, version)
    metrics.count_request("poems", version, "ok", "length")
    metrics.count_prompt_tokens("poems", version, 4)
    metrics.count_generated_tokens("poems", version, 6)
    metrics.observe_inter_token("poems", version, 5, 0.1)
    metrics.observe_request("poems", version, queue=0.001, first_token=0.002, total=0.1)
    metrics.set_version_state("poems", version, "serving")
    metrics.count_worker_restart("poems", version)
    metrics.count_quarantine("poems", "load_failed")
    metrics.count_worker_exit("poems", version, "crashed")
    metrics.set_traffic("poems", {version: 1})
    metrics.set_override("poems", False)
    metrics.count_swap("poems", "moved")
    metrics.observe_swap("poems", "standby", 4.0)
    metrics.set_standby(True)


def test_a_step_sets_the_gauges_and_counts_the_forward(metrics: Metrics) -> None:
    a_step(metrics)
    assert value(metrics, "requests_waiting") == 2
    assert value(metrics, "requests_running") == 5
    assert (value(metrics, "kv_blocks_used"), value(metrics, "kv_blocks")) == (7, 100)
    assert value(metrics, "kv_blocks_retained") == 9
    assert value(metrics, "model_forwards_total") == 1
    assert (value(metrics, "batch_size_bucket", le="4.0"), value(metrics, "batch_size_bucket", le="8.0")) == (0, 1)
    assert value(metrics, "batch_tokens_sum") == 60
    assert value(metrics, "step_duration_seconds_sum") == 0.004


def test_the_hit_rate_is_cached_over_prompt_tokens(metrics: Metrics) -> None:
    for _ in range(2):
        metrics.count_prompt_tokens("poems", 3, 40)
        a_step(metrics)
    cached, asked = value(metrics, "cached_tokens_total"), value(metrics, "prompt_tokens_total")
    assert cached is not None
    assert asked is not None
    assert cached / asked == 0.8


def test_a_step_that_ran_nothing_is_no_forward(metrics: Metrics) -> None:
    a_step(metrics, rows=0)
    assert value(metrics, "requests_waiting") == 2
    assert not value(metrics, "model_forwards_total")
    assert not value(metrics, "batch_size_count")


def test_latencies_resolve_from_a_quarter_of_a_millisecond(metrics: Metrics) -> None:
    metrics.observe_request("poems", 3, queue=0.0002, first_token=0.0004, total=200.0)
    assert value(metrics, "queue_time_seconds_bucket", le="0.00025") == 1
    assert value(metrics, "time_to_first_token_seconds_bucket", le="0.00025") == 0
    assert value(metrics, "time_to_first_token_seconds_bucket", le="0.0005") == 1
    assert value(metrics, "request_duration_seconds_bucket", le="131.072") == 0


def test_what_a_request_did_not_reach_is_not_observed(metrics: Metrics) -> None:
    metrics.observe_request("poems", 3, queue=None, first_token=None, total=1.0)
    assert value(metrics, "queue_time_seconds_count") is None
    assert value(metrics, "time_to_first_token_seconds_count") is None
    assert value(metrics, "request_duration_seconds_count") == 1


def test_tokens_that_came_together_share_the_time(metrics: Metrics) -> None:
    metrics.observe_inter_token("poems", 3, 1, 0.003)
    metrics.observe_inter_token("poems", 3, 4, 0.004)
    metrics.observe_inter_token("poems", 3, 0, 9.0)
    assert value(metrics, "inter_token_latency_seconds_bucket", le="0.001") == 4
    assert value(metrics, "inter_token_latency_seconds_bucket", le="0.004") == 5
    assert value(metrics, "inter_token_latency_seconds_bucket", le="+Inf") == 5
    assert value(metrics, "inter_token_latency_seconds_count") == 5
    assert value(metrics, "inter_token_latency_seconds_sum") == pytest.approx(0.007)


def test_a_version_is_in_one_state(metrics: Metrics) -> None:
    for state in ("loading", "warming", "warming", "serving"):
        metrics.set_version_state("poems", 3, state)
    states = [sample.labels["state"] for sample in samples(metrics) if sample.name == "rhapsode_version_state"]
    assert states == ["serving"]


def test_a_version_that_goes_takes_its_series_with_it(metrics: Metrics) -> None:
    everything(metrics, 3)
    everything(metrics, 4)
    metrics.forget("poems", 3)
    metrics.forget("poems", 3)
    ours = [sample for sample in samples(metrics) if sample.name.startswith("rhapsode_")]
    assert not [sample for sample in ours if sample.labels.get("version") == "3"]
    assert len({sample.name for sample in ours if sample.labels.get("version") == "4"}) > 20
    assert [sample.value for sample in ours if sample.name == "rhapsode_quarantines_total"] == [2]
    metrics.set_version_state("poems", 3, "loading")
    everything(metrics, 3)
    assert value(metrics, "model_forwards_total") == 1


def samples(metrics: Metrics) -> list:
    return [sample for family in metrics.registry.collect() for sample in family.samples]


def test_the_text_over_http_is_what_prometheus_reads(metrics: Metrics) -> None:
    everything(metrics)
    server = MetricsServer(metrics, "127.0.0.1", 0)
    try:
        with urllib.request.urlopen(server.url, timeout=10) as response:
            families = {family.name: family for family in text_string_to_metric_families(response.read().decode())}
        request = urllib.request.Request(server.url, headers={"Accept": CONTENT_TYPE_LATEST})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            assert response.read().endswith(b"# EOF\n")
    finally:
        server.close()
    assert {name for name in families if name.startswith("rhapsode_")} == {
        "rhapsode_requests",
        "rhapsode_calls",
        "rhapsode_prompt_tokens",
        "rhapsode_cached_tokens",
        "rhapsode_generated_tokens",
        "rhapsode_time_to_first_token_seconds",
        "rhapsode_queue_time_seconds",
        "rhapsode_request_duration_seconds",
        "rhapsode_inter_token_latency_seconds",
        "rhapsode_requests_waiting",
        "rhapsode_requests_running",
        "rhapsode_kv_blocks_used",
        "rhapsode_kv_blocks_retained",
        "rhapsode_kv_blocks",
        "rhapsode_model_forwards",
        "rhapsode_step_duration_seconds",
        "rhapsode_batch_size",
        "rhapsode_batch_tokens",
        "rhapsode_version_state",
        "rhapsode_worker_restarts",
        "rhapsode_quarantines",
        "rhapsode_build_info",
        "rhapsode_worker_exits",
        "rhapsode_traffic_weight",
        "rhapsode_traffic_override",
        "rhapsode_swaps",
        "rhapsode_swap_seconds",
        "rhapsode_standby_ready",
        "rhapsode_model_directory_readable",
    }
    assert all(family.documentation for family in families.values())


def test_a_port_in_use_is_an_error(metrics: Metrics) -> None:
    server = MetricsServer(metrics, "127.0.0.1", 0)
    try:
        with pytest.raises(OSError, match="in use"):
            MetricsServer(metrics, "127.0.0.1", server.port)
    finally:
        server.close()


def test_what_comes_late_does_not_bring_a_version_back(metrics: Metrics) -> None:
    everything(metrics)
    metrics.forget("poems", 3)
    metrics.count_request("poems", 3, "ok", "length")
    metrics.count_generated_tokens("poems", 3, 6)
    metrics.observe_inter_token("poems", 3, 5, 0.1)
    metrics.observe_request("poems", 3, queue=0.001, first_token=0.002, total=0.1)
    metrics.count_prompt_tokens("poems", 3, 4)
    a_step(metrics)
    metrics.count_worker_restart("poems", 3)
    metrics.count_worker_exit("poems", 3, "crashed")
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    assert not [sample for sample in samples if sample.labels.get("version") == "3"]
    metrics.set_version_state("poems", 3, "loading")
    metrics.count_request("poems", 3, "ok", "length")
    assert value(metrics, "requests_total", outcome="ok", finish_reason="length") == 1


def weights(metrics: Metrics) -> dict[tuple[str, str], float]:
    found = [sample for sample in samples(metrics) if sample.name == "rhapsode_traffic_weight"]
    return {(sample.labels["model"], sample.labels["version"]): sample.value for sample in found}


def test_the_weights_are_those_of_the_last_split(metrics: Metrics) -> None:
    metrics.set_traffic("poems", {3: 90, 4: 10})
    metrics.set_traffic("stories", {3: 1})
    metrics.set_traffic("poems", {4: 100, 5: 0})
    assert weights(metrics) == {("poems", "4"): 100, ("poems", "5"): 0, ("stories", "3"): 1}
    metrics.forget("poems", 4)
    metrics.set_traffic("poems", {5: 1})
    metrics.set_traffic("stories", {})
    assert weights(metrics) == {("poems", "5"): 1}


def test_an_override_begins_and_ends(metrics: Metrics) -> None:
    metrics.set_override("poems", True)
    metrics.set_override("stories", True)
    metrics.set_override("poems", False)
    assert metrics.registry.get_sample_value("rhapsode_traffic_override", {"model": "poems"}) == 0
    assert metrics.registry.get_sample_value("rhapsode_traffic_override", {"model": "stories"}) == 1


def test_swaps_outlive_the_version(metrics: Metrics) -> None:
    everything(metrics)
    metrics.observe_swap("poems", "warm", 0.3)
    metrics.count_swap("poems", "rolled_back")
    metrics.forget("poems", 3)
    sample = metrics.registry.get_sample_value
    assert [
        sample("rhapsode_swaps_total", {"model": "poems", "result": result}) for result in ("moved", "rolled_back")
    ] == [1, 1]
    assert sample("rhapsode_swap_seconds_sum", {"model": "poems", "start": "standby"}) == 4
    assert sample("rhapsode_swap_seconds_bucket", {"model": "poems", "start": "warm", "le": "0.2"}) == 0
    assert sample("rhapsode_swap_seconds_bucket", {"model": "poems", "start": "warm", "le": "0.4"}) == 1
    metrics.observe_swap("poems", "cold", 300.0)
    assert sample("rhapsode_swap_seconds_bucket", {"model": "poems", "start": "cold", "le": "409.6"}) == 1


def test_swaps_are_counted_from_0(metrics: Metrics) -> None:
    metrics.set_traffic("poems", {3: 1})
    metrics.count_swap("poems", "refused")
    metrics.set_traffic("poems", {4: 1})
    sample = metrics.registry.get_sample_value
    results = ("moved", "rolled_back", "refused")
    assert [sample("rhapsode_swaps_total", {"model": "poems", "result": each}) for each in results] == [0, 0, 1]


def test_exits_are_counted_by_reason(metrics: Metrics) -> None:
    for reason in ("killed", "hung", "killed"):
        metrics.count_worker_exit("poems", 3, reason)
    assert value(metrics, "worker_exits_total", reason="killed") == 2
    metrics.forget("poems", 3)
    metrics.count_worker_exit("poems", 3, "stopped")
    assert value(metrics, "worker_exits_total", reason="stopped") is None


def test_the_standby(metrics: Metrics) -> None:
    assert metrics.registry.get_sample_value("rhapsode_standby_ready") == 0
    metrics.set_standby(True)
    assert metrics.registry.get_sample_value("rhapsode_standby_ready") == 1
