"""What is told of versions, and that it goes with them."""

from rhapsode_server.metrics import Metrics
from support.series import a_step, everything, samples, value


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


def test_an_engine_that_ends_late_does_not_bring_a_version_back(metrics: Metrics) -> None:
    everything(metrics)
    metrics.forget("poems", 3)
    a_step(metrics)
    metrics.count_worker_restart("poems", 3)
    metrics.count_worker_exit("poems", 3, "crashed")
    metrics.count_request("poems", 3, "ok", "length")
    assert not [sample for sample in samples(metrics) if sample.labels.get("version") == "3"]
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


def of_model(metrics: Metrics, name: str, model: str = "poems", **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"rhapsode_{name}", {"model": model, **labels})


def test_an_override_begins_and_ends(metrics: Metrics) -> None:
    metrics.set_override("poems", True)
    metrics.set_override("stories", True)
    metrics.set_override("poems", False)
    assert (of_model(metrics, "traffic_override"), of_model(metrics, "traffic_override", "stories")) == (0, 1)


def test_swaps_outlive_the_version(metrics: Metrics) -> None:
    everything(metrics)
    metrics.observe_swap("poems", "warm", 0.3)
    metrics.count_swap("poems", "rolled_back")
    metrics.forget("poems", 3)
    assert [of_model(metrics, "swaps_total", result=result) for result in ("moved", "rolled_back")] == [1, 1]
    assert of_model(metrics, "swap_seconds_sum", start="standby") == 4
    assert of_model(metrics, "swap_seconds_bucket", start="warm", le="0.2") == 0
    assert of_model(metrics, "swap_seconds_bucket", start="warm", le="0.4") == 1
    metrics.observe_swap("poems", "cold", 300.0)
    assert of_model(metrics, "swap_seconds_bucket", start="cold", le="409.6") == 1


def test_swaps_and_restarts_are_counted_from_0(metrics: Metrics) -> None:
    metrics.set_version_state("poems", 3, "loading")
    assert value(metrics, "worker_restarts_total") == 0
    metrics.set_traffic("poems", {3: 1})
    metrics.count_swap("poems", "refused")
    metrics.set_traffic("poems", {4: 1})
    results = ("moved", "rolled_back", "refused")
    assert [of_model(metrics, "swaps_total", result=each) for each in results] == [0, 0, 1]


def test_exits_are_counted_by_reason(metrics: Metrics) -> None:
    for reason in ("killed", "hung", "killed"):
        metrics.count_worker_exit("poems", 3, reason)
    assert value(metrics, "worker_exits_total", reason="killed") == 2
    metrics.forget("poems", 3)
    metrics.count_worker_exit("poems", 3, "stopped")
    assert value(metrics, "worker_exits_total", reason="stopped") is None


def test_the_decision_and_the_standby(metrics: Metrics) -> None:
    assert metrics.registry.get_sample_value("rhapsode_standby_ready") == 0
    metrics.set_standby(True)
    assert metrics.registry.get_sample_value("rhapsode_standby_ready") == 1
    metrics.set_decision("poems", 1.5e9)
    metrics.set_decision("poems", 1.6e9)
    assert of_model(metrics, "last_decision_timestamp_seconds") == 1.6e9
