"""A dashboard's JSON and the data of its queries as one HTML page without scripts.

It is not Grafana: panels stand where Grafana would put them and show what their queries give, and that is all.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from board.chart import GROUND, Line, Style, line_chart
from board.prometheus import Series, Span
from board.units import readable

JSON = Mapping[str, Any]

PALETTE = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d", "#ffee52", "#ff7383")
NAMED = {
    "green": "#73bf69",
    "blue": "#5794f2",
    "light-blue": "#8ab8ff",
    "purple": "#b877d9",
    "light-purple": "#ca95e5",
    "yellow": "#fade2a",
    "orange": "#ff9830",
    "red": "#f2495c",
    "dark-red": "#c4162a",
}
COLUMN, ROW, GAP, TITLE, LEGEND = 60, 30, 8, 26, 34
STYLE = f"""
body {{ margin: 0; background: #111217; color: #ccccdc; font: 13px sans-serif; }}
#board {{ position: relative; width: {24 * COLUMN + GAP}px; }}
.panel {{ position: absolute; background: {GROUND}; border: 1px solid #2a2d34; border-radius: 3px; overflow: hidden; }}
.row {{ position: absolute; font-size: 16px; font-weight: 600; padding: 6px 2px; }}
h2 {{ font-size: 13px; margin: 0; padding: 6px 10px 2px; font-weight: 500; }}
svg text {{ fill: #9a9ba5; font-size: 11px; }}
.grid {{ stroke: #2a2d34; }}
.mark {{ stroke: #5794f2; stroke-dasharray: 3 3; }}
.legend {{ padding: 0 10px; font-size: 11px; height: {LEGEND}px; overflow: hidden; line-height: 15px; }}
.legend i {{ display: inline-block; width: 12px; height: 3px; margin: 0 4px 3px 10px; }}
.big {{ font-size: 34px; text-align: center; padding-top: 12px; }}
.none {{ text-align: center; padding-top: 40px; color: #7b7c85; }}
table {{ width: 100%; border-collapse: collapse; font-size: 12px; }}
td, th {{ text-align: left; padding: 4px 10px; border-bottom: 1px solid #2a2d34; }}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a query of a panel gave."""

    legend: str
    series: Sequence[Series]


def draw(board: JSON, answers: Mapping[int, Sequence[Answer]], span: Span, marks: Sequence[float]) -> str:
    """The page; `answers` by the number of the panel, a query each."""
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    panels = "".join(_placed(panel, answers.get(panel["id"], ()), span, marks) for panel in board["panels"])
    return (
        f"<!doctype html><meta charset='utf-8'><title>{escape(board['title'])}</title><style>{STYLE}</style>"
        f"<div id='board' style='height: {bottom * ROW + GAP}px'>{panels}</div>"
    )


def size(board: JSON) -> tuple[int, int]:
    """Width and height of the page in pixels."""
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    return 24 * COLUMN + GAP, bottom * ROW + GAP


def _placed(panel: JSON, answers: Sequence[Answer], span: Span, marks: Sequence[float]) -> str:
    position = panel["gridPos"]
    width, height = position["w"] * COLUMN - GAP, position["h"] * ROW - GAP
    place = f"left: {position['x'] * COLUMN + GAP}px; top: {position['y'] * ROW + GAP}px; width: {width}px"
    if panel["type"] == "row":
        return f"<div class='row' style='{place}'>{escape(panel['title'])}</div>"
    body = _body(panel, answers, span, marks, width, height - TITLE)
    return f"<div class='panel' style='{place}; height: {height}px'><h2>{escape(panel['title'])}</h2>{body}</div>"


def _body(panel: JSON, answers: Sequence[Answer], span: Span, marks: Sequence[float], width: int, height: int) -> str:
    if not any(answer.series for answer in answers):
        return "<div class='none'>No data</div>"
    if panel["type"] == "stat":
        return _stat(panel, answers[0].series[0])
    if panel["type"] == "table":
        return _table(answers[0].series)
    lines = _lines(panel, answers)
    defaults = panel["fieldConfig"]["defaults"]
    style = Style(
        unit=defaults["unit"],
        maximum=defaults.get("max"),
        is_stacked=defaults["custom"]["stacking"]["mode"] == "normal",
    )
    return line_chart(lines, span, style, (width, height - LEGEND), marks) + _legend(lines)


def _lines(panel: JSON, answers: Sequence[Answer]) -> list[Line]:
    overrides = panel["fieldConfig"]["overrides"]
    chosen = {each["matcher"]["options"]: each["properties"][0]["value"]["fixedColor"] for each in overrides}
    found = [(named(answer.legend, each.labels), each.points) for answer in answers for each in answer.series]
    return [
        Line(name=name, colour=NAMED[chosen[name]] if name in chosen else PALETTE[number % len(PALETTE)], points=points)
        for number, (name, points) in enumerate(found)
    ]


def _stat(panel: JSON, series: Series) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    value = series.points[-1][1]
    steps = defaults["thresholds"]["steps"]
    colour = [step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]
    return f"<div class='big' style='color: {NAMED[colour]}'>{escape(readable(value, defaults['unit']))}</div>"


def _table(series: Sequence[Series]) -> str:
    columns = sorted({name for each in series for name in each.labels})
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    lines = sorted([each.labels.get(name, "") for name in columns] for each in series)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<table><tr>{head}</tr>{rows}</table>"


def _legend(lines: Sequence[Line]) -> str:
    entries = (f"<i style='background: {line.colour}'></i>{escape(line.name)}" for line in lines)
    return f"<div class='legend'>{''.join(entries)}</div>"


def named(legend: str, labels: Mapping[str, str]) -> str:
    """`legend` with the values of the labels that it names in double braces."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), legend)
