"""What dashboard and alerts ask for, asked of a server that has gone through all that they tell of."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from rhapsode_client import Client, InvalidRequest
from support.damage import truncate
from support.fleet import Fleet
from support.operators import Operator, operating
from support.prometheus import PROMETHEUS, PrometheusProcess, needs_prometheus, running_prometheus
from support.promql import grafana_query, selectors
from support.publishing import publish_tiny
from support.servers import ServerProcess, running_server

ROOT = Path(__file__).parents[2]
BOARD = json.loads((ROOT / "deploy" / "grafana" / "rhapsode.json").read_text("utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
# Those that need it show what not every machine has.
EVERYWHERE = [panel for panel in PANELS if " Needs " not in panel["description"]]
QUERIES = [grafana_query(target["expr"]) for panel in EVERYWHERE for target in panel["targets"]]
QUERIES += [grafana_query(mark["expr"]) for mark in BOARD["annotations"]["list"]]
GROUPS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text("utf-8"))["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule["expr"] for rule in RULES if "alert" in rule}
# Prometheus makes these, kube-state-metrics those, and the rules the last.
FOREIGN = re.compile(r"up$|kube_|rhapsode:")
SECONDS = 30.0


def make_calls(address: str) -> None:
    with Client(address, timeout=60) as client:
        for seed in range(4):
            client.generate("the sea, the sea and the stars above it", seed=seed, max_new_tokens=8, ignore_eos=True)
        client.tokenize("the sea")
        with pytest.raises(InvalidRequest):
            client.generate("the sea", temperature=-1)


def go_through_everything(operator: Operator, fleet: Fleet) -> None:
    """Calls, a swap, a version that is refused, one that is rolled back and one that is started again."""
    server = operator.server
    make_calls(server.address)
    fleet.promote(fleet.copy(1))
    operator.until_serving(2)
    make_calls(server.address)
    fleet.promote(fleet.copy(2, truncate("config.json")))
    server.wait_log("poems version 3 is quarantined")
    for version in (2, 1):
        before = len(server.log)
        os.kill(operator.worker_of(version), signal.SIGKILL)
        server.wait_log("poems version 1: serving", after=before)
    make_calls(server.address)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    fleet = Fleet(tmp_path_factory.mktemp("models"))
    publish_tiny(fleet.root, fleet.name)
    return fleet


@pytest.fixture(scope="module")
def server(fleet: Fleet) -> Iterator[ServerProcess]:
    with running_server(fleet.root, "--threads", "1", "--standby", "off") as server:
        yield server


@pytest.fixture(scope="module")
def prometheus(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusProcess | None]:
    """Scrapes the server from its beginning; None where it is not installed."""
    if PROMETHEUS is None:
        yield None
        return
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), server.metrics_url.split("/")[2]) as prometheus:
        yield prometheus


@pytest.fixture(scope="module")
def lived(server: ServerProcess, fleet: Fleet, prometheus: PrometheusProcess | None) -> ServerProcess:
    """The server after all that."""
    with operating(server, 1) as operator:
        go_through_everything(operator, fleet)
    return server


@pytest.fixture(scope="module")
def asked(lived: ServerProcess, prometheus: PrometheusProcess) -> PrometheusProcess:
    """A Prometheus that has seen all that. It scrapes on: a query that has no data yet is asked again."""
    deadline = time.monotonic() + SECONDS
    while silent := [query for query in QUERIES if not prometheus.query(query)]:
        assert time.monotonic() < deadline, "no data:\n" + "\n".join(silent)
        time.sleep(0.2)
    return prometheus


def exported(server: ServerProcess) -> dict[str, set[str]]:
    """The labels of every series."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
        families = text_string_to_metric_families(response.read().decode())
        samples = [sample for family in families for sample in family.samples]
    labels: dict[str, set[str]] = {}
    for sample in samples:
        labels.setdefault(sample.name, {"instance", "job"}).update(sample.labels)
    return labels


def test_every_series_is_exported_with_the_labels_that_are_asked_for(lived: ServerProcess) -> None:
    labels = exported(lived)
    for expr in [*QUERIES, *(rule["expr"] for rule in RULES)]:
        for name, wanted in selectors(expr):
            if not FOREIGN.match(name):
                assert name in labels, f"{expr}: the server does not export {name}"
                assert wanted <= labels[name], f"{expr}: {name} has the labels {sorted(labels[name])} only"


@needs_prometheus
def test_every_query_of_the_dashboard_has_data(asked: PrometheusProcess) -> None:
    values = [sample["value"][1] for query in QUERIES for sample in asked.query(query)]
    assert len(values) >= len(QUERIES)


@needs_prometheus
def test_legends_name_labels_that_the_answers_have(asked: PrometheusProcess) -> None:
    for panel in EVERYWHERE:
        for target in panel["targets"]:
            for sample in asked.query(grafana_query(target["expr"])):
                assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= set(sample["metric"]), panel[
                    "title"
                ]


@needs_prometheus
def test_alerts_say_what_happened_and_nothing_else(asked: PrometheusProcess) -> None:
    raised = {alert for alert, expr in ALERTS.items() if asked.query(expr)}
    assert raised == {"RhapsodeVersionQuarantined", "RhapsodeSwapRefused", "RhapsodeRolledBack"}


@needs_prometheus
def test_the_dashboard_is_drawn_without_grafana(asked: PrometheusProcess, tmp_path: Path) -> None:
    page = tmp_path / "dashboard.html"
    command = [sys.executable, str(ROOT / "tools" / "draw_dashboard.py"), asked.url, str(page), "--minutes", "1"]
    subprocess.run(command, check=True, timeout=60)
    html = page.read_text("utf-8")
    for panel in PANELS:
        assert f"<h2>{panel['title']}</h2>" in html
    assert html.count("No data") == len(PANELS) - len(EVERYWHERE)
    assert html.count("<polyline") > len(EVERYWHERE)


def test_drawing_says_when_prometheus_is_not_there(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "tools" / "draw_dashboard.py"),
        "http://127.0.0.1:1",
        str(tmp_path / "a.html"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("draw_dashboard: ")
    assert "Traceback" not in done.stderr
