"""What is told of processes and GPUs."""

from dataclasses import replace

from rhapsode_server.engine.usage import Usage
from rhapsode_server.metrics import Metrics
from support.series import GPU, samples, value

MIB = 1 << 20


def of_device(metrics: Metrics, name: str, device: str = "cuda:0") -> float | None:
    return metrics.registry.get_sample_value(f"rhapsode_device_{name}", {"device": device})


def test_the_memory_of_a_version_is_that_of_its_processes(metrics: Metrics) -> None:
    metrics.set_usage("poems", 3, "one", Usage(memory=5 * MIB))
    metrics.set_usage("poems", 3, "other", Usage(memory=7 * MIB))
    metrics.set_usage("poems", 3, "one", Usage(memory=6 * MIB))
    assert value(metrics, "worker_memory_bytes") == 13 * MIB
    assert not [sample for sample in samples(metrics) if "device" in sample.labels]


def test_a_process_that_ended_takes_nothing(metrics: Metrics) -> None:
    metrics.set_usage("poems", 3, "one", Usage(memory=5 * MIB, device=GPU))
    metrics.set_usage("poems", 3, "one", None)
    metrics.set_usage("poems", 3, "one", None)
    assert value(metrics, "worker_memory_bytes") is None
    assert of_device(metrics, "memory_bytes") is None


def test_a_gpu_is_told_once_with_its_latest_report(metrics: Metrics) -> None:
    metrics.set_usage("poems", 3, "one", Usage(memory=5 * MIB, device=replace(GPU, utilization=None)))
    assert of_device(metrics, "utilization_ratio") is None
    metrics.set_usage("poems", 4, "one", Usage(memory=5 * MIB, device=GPU))
    metrics.set_usage("odes", 1, "one", Usage(memory=5 * MIB, device=replace(GPU, name="cuda:1", memory_used=9)))
    assert of_device(metrics, "memory_bytes") == 8 << 30
    assert of_device(metrics, "memory_used_bytes") == 6 << 30
    assert of_device(metrics, "utilization_ratio") == 0.75
    assert of_device(metrics, "memory_used_bytes", "cuda:1") == 9


def test_it_goes_with_the_version(metrics: Metrics) -> None:
    metrics.set_usage("poems", 3, "one", Usage(memory=5 * MIB, device=GPU))
    metrics.forget("poems", 3)
    metrics.set_usage("poems", 3, "one", Usage(memory=5 * MIB, device=GPU))
    assert value(metrics, "worker_memory_bytes") is None
    assert of_device(metrics, "memory_bytes") is None
