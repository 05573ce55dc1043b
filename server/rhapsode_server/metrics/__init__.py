"""What Prometheus sees of a server. docs/metrics.md describes every series."""

from rhapsode_server.metrics.exporter import MetricsServer
from rhapsode_server.metrics.registry import Metrics
from rhapsode_server.metrics.versions import SWAP_RESULTS

__all__ = ["SWAP_RESULTS", "Metrics", "MetricsServer"]
