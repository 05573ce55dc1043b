"""The series of a server, filled and read."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.samples import Sample
from rhapsode_server.engine.engine import EngineStats
from rhapsode_server.engine.usage import DeviceUsage, Usage
from rhapsode_server.metrics import Metrics

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
POEMS = {"model": "poems", "version": "3"}
GPU = DeviceUsage(name="cuda:0", memory_used=6 << 30, memory_total=8 << 30, utilization=0.75)


@dataclass(slots=True, kw_only=True)
class Queue:
    num_waiting: int
    num_running: int


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Of version 3 of poems, unless labels say otherwise."""
    return metrics.registry.get_sample_value(f"rhapsode_{name}", POEMS | labels)


def samples(metrics: Metrics) -> list[Sample]:
    return [sample for family in metrics.registry.collect() for sample in family.samples]


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
    """Something in every series that a server may have."""
    a_step(metrics, version)
    metrics.follow_queue("poems", version, lambda: Queue(num_waiting=2, num_running=5))
    metrics.count_call("Generate", "ok")
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
    metrics.set_decision("poems", 1.8e9)
    metrics.count_swap("poems", "moved")
    metrics.observe_swap("poems", "standby", 4.0)
    metrics.set_standby(True)
    metrics.set_usage("poems", version, "a process", Usage(memory=1 << 20, device=GPU))


def exported_name(family: Metric) -> str:
    """As in queries: counters end in _total."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def label_names(families: Iterable[Metric]) -> dict[str, set[str]]:
    """By the exported name, of the families that have samples."""
    return {
        exported_name(family): {label for sample in family.samples for label in sample.labels} - {"le"}
        for family in families
        if family.samples
    }


def described_series() -> dict[str, tuple[str, set[str]]]:
    """The type and the labels of each series, from the tables of docs/metrics.md."""
    rows = re.findall(r"^\| `([\w:]+)` \| (counter|gauge|histogram) \|([^|]*)\|", PAGE, re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
