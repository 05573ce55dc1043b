"""What the engine processes take of their machine."""

from collections.abc import Hashable, Iterator

from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from rhapsode_server.engine.usage import Usage
from rhapsode_server.metrics.series import VERSION_LABELS, Series

Reports = dict[tuple[str, str], dict[Hashable, Usage]]


class UsageSeries(Series):
    """The latest report of each engine process, for as long as the process is there."""

    def __init__(self) -> None:
        super().__init__()
        self._reports: Reports = {}
        self.registry.register(_Usage(self._reports))

    def set_usage(self, model: str, version: int, process: Hashable, usage: Usage | None) -> None:
        """What one of the version's processes takes; None when it has ended."""
        reports = dict(self._reports.get((model, str(version)), {}))
        reports.pop(process, None)
        if usage and not self._is_gone(model, version):
            reports[process] = usage
        # As a whole: the scrape reads in another thread.
        self._reports[model, str(version)] = reports

    def forget(self, model: str, version: int) -> None:
        self._reports.pop((model, str(version)), None)
        super().forget(model, version)


class _Usage(Collector):
    """Several processes may compute on one device: what it says of itself is told once."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def collect(self) -> Iterator[GaugeMetricFamily]:
        reports = {labels: list(each.values()) for labels, each in list(self._reports.items())}
        memory = _gauge("worker_memory_bytes", "Resident memory of engine processes.", *VERSION_LABELS)
        for labels, usages in reports.items():
            if usages:
                memory.add_metric(labels, sum(usage.memory for usage in usages))
        yield memory
        yield from _devices([usage for usages in reports.values() for usage in usages])


def _devices(usages: list[Usage]) -> Iterator[GaugeMetricFamily]:
    total = _gauge("device_memory_bytes", "Memory of a GPU.", "device")
    used = _gauge("device_memory_used_bytes", "Memory of a GPU that is taken, by whatever program.", "device")
    busy = _gauge("device_utilization_ratio", "Part of the last moments in which a GPU computed.", "device")
    for name, device in {usage.device.name: usage.device for usage in usages if usage.device}.items():
        total.add_metric([name], device.memory_total)
        used.add_metric([name], device.memory_used)
        if device.utilization is not None:
            busy.add_metric([name], device.utilization)
    yield from (total, used, busy)


def _gauge(name: str, help: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"rhapsode_{name}", help, labels=labels)
