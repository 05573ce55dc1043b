"""What Prometheus reads over HTTP."""

import urllib.request

import pytest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families
from rhapsode_server.metrics import Metrics, MetricsServer
from support.series import everything


@pytest.mark.parametrize("vllm_names", [False, True])
def test_the_text_is_what_prometheus_reads(vllm_names: bool) -> None:
    metrics = Metrics(vllm_names=vllm_names)
    everything(metrics)
    server = MetricsServer(metrics, "127.0.0.1", 0)
    try:
        with urllib.request.urlopen(server.url, timeout=10) as response:
            read = {family.name: family for family in text_string_to_metric_families(response.read().decode())}
        request = urllib.request.Request(server.url, headers={"Accept": CONTENT_TYPE_LATEST})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            assert response.read().endswith(b"# EOF\n")
    finally:
        server.close()
    written = {family.name: family for family in metrics.registry.collect()}
    assert read.keys() == written.keys()
    assert all(family.documentation and family.samples for family in read.values())
    for name, family in read.items():
        if name.startswith(("rhapsode_", "vllm:")):
            assert [(each.name, each.labels, each.value) for each in family.samples] == [
                (each.name, each.labels, each.value) for each in written[name].samples
            ]


def test_a_port_in_use_is_an_error(metrics: Metrics) -> None:
    server = MetricsServer(metrics, "127.0.0.1", 0)
    try:
        with pytest.raises(OSError, match="in use"):
            MetricsServer(metrics, "127.0.0.1", server.port)
    finally:
        server.close()
