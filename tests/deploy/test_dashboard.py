"""The committed dashboard: that of tools/board, and one that Grafana can lay out."""

import json
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from support.promql import grafana_query

ROOT = Path(__file__).parents[2]
BOARD = json.loads((ROOT / "deploy" / "grafana" / "rhapsode.json").read_text("utf-8"))
PANELS = BOARD["panels"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel.get("targets", ())]
QUERIES += [(mark["name"], mark["expr"]) for mark in BOARD["annotations"]["list"]]


def generate(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "tools" / "generate_dashboard.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_committed_dashboard_is_that_of_the_code() -> None:
    done = generate(ROOT, "--check")
    assert done.returncode == 0, done.stderr


def test_a_change_is_noticed_and_taken_over(tmp_path: Path) -> None:
    for folder in ("tools", "deploy/grafana"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    contents = tmp_path / "tools" / "board" / "contents.py"
    contents.write_text(contents.read_text("utf-8").replace('title="Rhapsode"', 'title="Another"'), "utf-8")
    done = generate(tmp_path, "--check")
    assert done.returncode == 1
    assert "deploy/grafana/rhapsode.json is not what tools/board gives" in done.stderr
    assert generate(tmp_path).returncode == 0
    changed = json.loads((tmp_path / "deploy" / "grafana" / "rhapsode.json").read_text("utf-8"))
    assert changed == BOARD | {"title": "Another"}


@pytest.mark.parametrize(("title", "expr"), QUERIES)
def test_a_query_is_valid(title: str, expr: str) -> None:
    assert isinstance(promql_parser.parse(grafana_query(expr)), promql_parser.Expr), title


def covers(panel: dict[str, Any], other: dict[str, Any]) -> bool:
    a, b = panel["gridPos"], other["gridPos"]
    apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
    return not (apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"])


def test_no_panel_covers_another() -> None:
    assert not [(a["title"], b["title"]) for a, b in combinations(PANELS, 2) if covers(a, b)]
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)


def test_panels_and_their_queries_have_names_of_their_own() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        names = [target["refId"] for target in panel.get("targets", ())]
        assert len(names) == len(set(names))


def test_every_panel_says_what_it_shows() -> None:
    assert all(panel["description"].endswith(".") for panel in PANELS if panel["type"] != "row")


def test_every_variable_of_a_query_can_be_chosen() -> None:
    names = {variable["name"] for variable in BOARD["templating"]["list"]}
    assert names == {"datasource", "instance", "model"}
    assert not [expr for _, expr in QUERIES if "$" in grafana_query(expr)]
