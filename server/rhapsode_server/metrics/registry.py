"""All series of one server."""

import platform
from importlib.metadata import version as distribution_version

from prometheus_client import Gauge, ProcessCollector

from rhapsode_server.metrics.engine import EngineSeries
from rhapsode_server.metrics.requests import RequestSeries
from rhapsode_server.metrics.usage import UsageSeries
from rhapsode_server.metrics.versions import VersionSeries
from rhapsode_server.metrics.vllm import VllmNames


class Metrics(RequestSeries, EngineSeries, VersionSeries, UsageSeries):
    """In a registry of its own. Times are in seconds.

    With `vllm_names` what vLLM exports as well has its names besides. Call it from the event loop's thread; the scrape
    reads in another one.
    """

    def __init__(self, *, vllm_names: bool = False) -> None:
        super().__init__()
        ProcessCollector(registry=self.registry)
        build_info = Gauge(
            "rhapsode_build_info", "1, for the versions in its labels.", ("version", "python"), registry=self.registry
        )
        build_info.labels(distribution_version("rhapsode-server"), platform.python_version()).set(1)
        if vllm_names:
            self.registry.register(VllmNames(self, self))
