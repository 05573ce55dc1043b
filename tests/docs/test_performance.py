"""docs/performance.md holds the figures of benchmarks/results and no others."""

import json
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "tools"))

from generate_performance import main, pages  # noqa: E402
from performance.chart import COLOURS, throughput_chart  # noqa: E402
from performance.page import render  # noqa: E402
from performance.tables import goals, throughput  # noqa: E402


def test_what_is_committed_is_what_the_results_give(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["generate_performance.py", "--check"])
    assert main() == 0, capsys.readouterr().err
    assert all(path.exists() for path in pages())


def test_every_goal_is_there_met_or_missed():
    found = json.loads((RESULTS / "serving-cpu.json").read_text("utf-8"))["goals"]
    rows = goals(found).splitlines()[2:]
    assert [row.endswith("| met |") for row in rows] == [goal["is_met"] for goal in found]
    assert all(goal["what"] in row for goal, row in zip(found, rows, strict=True))


def test_another_run_gives_other_figures(tmp_path: Path):
    shutil.copytree(RESULTS, tmp_path, dirs_exist_ok=True)
    results = json.loads((tmp_path / "serving-cpu.json").read_text("utf-8"))
    results["closed"][0]["tokens_per_second"] = 4321.0
    results["goals"][0] |= {"reached": 9.87, "is_met": True}
    (tmp_path / "serving-cpu.json").write_text(json.dumps(results), "utf-8")
    page = render(tmp_path)
    assert "| 4321.0 |" in page
    assert "| 9.87 | met |" in page


def test_a_table_has_a_gap_where_nothing_was_measured():
    rows = [
        {"system": "a", "callers": 1, "tokens_per_second": 1.25},
        {"system": "b", "callers": 4, "tokens_per_second": 2.0},
    ]
    assert throughput(rows).splitlines()[2:] == ["| a | 1.2 |  |", "| b |  | 2.0 |"]


def test_a_bar_is_as_high_as_its_figure():
    systems = list(COLOURS)[:2]
    rows = [
        {"system": system, "callers": 1, "tokens_per_second": value}
        for system, value in zip(systems, (100, 50), strict=True)
    ]
    svg = ElementTree.fromstring(throughput_chart(rows))
    heights = [
        float(each.attrib["height"])
        for colour in (COLOURS[system] for system in systems)
        for each in svg.iter("{http://www.w3.org/2000/svg}rect")
        if each.attrib.get("fill") == colour and each.attrib["height"] != "12"
    ]
    assert heights == [250.0, 125.0]
