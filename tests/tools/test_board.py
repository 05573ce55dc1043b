"""The pieces of the dashboard and of its picture."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from board.chart import Line, Style, line_chart, runs, stacked
from board.grafana import Dashboard, Panel, Query, Row, Variable, render
from board.page import Answer, draw, named
from board.prometheus import Prometheus, Series, Span, expand
from board.units import readable, ticks

SPAN = Span(start=0.0, end=10.0, step=1.0)


def line(*values: float, start: float = 0.0, name: str = "a") -> Line:
    return Line(name=name, colour="#fff", points=[(start + index, value) for index, value in enumerate(values)])


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.00725, "s", "7.25 ms"),
        (0.0, "s", "0"),
        (90.0, "s", "1.5 min"),
        (4e-7, "s", "0.4 us"),
        (1536.0, "bytes", "1.5 KiB"),
        (721.4, "short", "721"),
        (12_345.0, "short", "12.3k"),
        (0.0144, "percentunit", "1.44%"),
        (1.0, "percentunit", "100%"),
        (15.83, "reqps", "15.8/s"),
        (float("nan"), "s", "none"),
    ],
)
def test_a_number_is_written_for_a_reader(value: float, unit: str, text: str) -> None:
    assert readable(value, unit) == text


@pytest.mark.parametrize(
    ("top", "unit", "levels"),
    [
        (7.0, "short", [0, 2, 4, 6, 8]),
        (1.0, "percentunit", [0, 0.5, 1]),
        (0.0, "s", [0, 1]),
        (900 * 2**20, "bytes", [0, 500 * 2**20, 1000 * 2**20]),
    ],
)
def test_an_axis_has_round_levels_that_reach_the_top(top: float, unit: str, levels: list[float]) -> None:
    assert ticks(top, unit) == levels
    assert ticks(top, unit)[-1] >= top


def test_lines_are_stacked_on_those_that_are_there() -> None:
    first, second = stacked([line(1, float("nan"), 3), line(10, 20, start=1.0)])
    assert [value for _, value in first.points] == [1, 0, 3]
    assert [value for _, value in second.points] == [10, 23]


def test_a_gap_is_not_bridged() -> None:
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, float("nan")), (3.0, 4.0), (4.0, 5.0)]
    assert list(runs(points, 1.5)) == [points[:2], points[3:]]
    assert list(runs([], 1.5)) == []


def test_lines_stay_within_the_picture() -> None:
    style = Style(unit="percentunit", maximum=1, is_stacked=False)
    picture = line_chart([line(0.5, 3.0)], SPAN, style, (200, 100), marks=[5.0])
    assert picture.count("<polyline") == 1
    assert 'points="62.0,43.0 74.6,8.0"' in picture
    assert picture.count('class="mark"') == 1


def test_a_legend_names_the_labels() -> None:
    assert named("{{model}} p95", {"model": "poems"}) == "poems p95"
    assert named("{{model}}", {}) == ""


def test_values_of_labels_are_no_markup() -> None:
    panel = Panel(title="a", description="b.", queries=(Query(expr="up", legend="{{model}}"),))
    rows = (Row(title="r", panels=(panel,)),)
    board = render(Dashboard(title="t", uid="u", description="d", variables=(), marks={}, rows=rows))
    series = Series(labels={"model": "<script>"}, points=((0.0, 1.0), (1.0, 1.0)))
    page = draw(board, {2: [Answer(legend="{{model}}", series=[series])]}, SPAN, [])
    assert "&lt;script&gt;" in page
    assert "<script>" not in page


def test_variables_stand_for_everything() -> None:
    query = 'rate(x{instance=~"$instance", model=~"$model"}[$__rate_interval])'
    assert expand(query, "20s") == 'rate(x{instance=~".*", model=~".*"}[20s])'


@pytest.mark.parametrize(("field", "value"), [("kind", "pie"), ("width", 25), ("width", 0)])
def test_a_panel_that_grafana_could_not_draw_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        Panel(title="a", description="b.", queries=(), **{field: value})


def test_panels_wrap_at_the_right_edge() -> None:
    panels = tuple(Panel(title=name, description="b.", queries=(Query(expr="up"),), width=10) for name in "abc")
    board = Dashboard(
        title="t",
        uid="u",
        description="d",
        variables=(Variable(name="model", metric="up"),),
        marks={},
        rows=(Row(title="r", panels=panels), Row(title="s", panels=panels[:1])),
    )
    places = {panel["title"]: panel["gridPos"] for panel in render(board)["panels"][:-1]}
    assert [(places[name]["x"], places[name]["y"]) for name in "rabcs"] == [(0, 0), (0, 1), (10, 1), (0, 9), (0, 17)]


def test_a_prometheus_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(OSError, match="refused"):
        Prometheus(url="http://127.0.0.1:1").at("up", 0.0)
