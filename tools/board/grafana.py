"""A dashboard as values, and the JSON that Grafana (10 or later) loads of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

JSON = dict[str, Any]

SCHEMA_VERSION = 39
GRID_WIDTH = 24
DATASOURCE: JSON = {"type": "prometheus", "uid": "${datasource}"}
KINDS = ("timeseries", "stat", "table")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """PromQL; `legend` may hold labels in double braces."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """`width` is of 24 columns. `maximum` ends the axis; `red_above` colours a stat, `colours` lines by their legends.

    `needs` names what not every server has, such as a GPU: there the panel stays empty.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    is_stacked: bool = False
    maximum: float | None = None
    red_above: float | None = None
    colours: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: must be one of {', '.join(KINDS)}, not {self.kind}")
        if not 0 < self.width <= GRID_WIDTH:
            raise ValueError(f"width: must be from 1 to {GRID_WIDTH}, not {self.width}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels under a title, laid out from left to right."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """What a viewer chooses of the values of a label of a metric; `$name` in queries, all of them at first."""

    name: str
    metric: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """`marks` are drawn across all panels, at the times at which their query has a value."""

    title: str
    uid: str
    description: str
    variables: tuple[Variable, ...]
    marks: dict[str, Query]
    rows: tuple[Row, ...]


def render(dashboard: Dashboard) -> JSON:
    """As Grafana loads it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["rhapsode"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [_mark(name, query) for name, query in dashboard.marks.items()]},
        "templating": {"list": [_datasource_variable(), *map(_variable, dashboard.variables)]},
        "panels": list(_placed(dashboard.rows)),
    }


def _mark(name: str, query: Query) -> JSON:
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "blue",
        "expr": query.expr,
        "titleFormat": query.legend,
    }


def _datasource_variable() -> JSON:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(variable: Variable) -> JSON:
    query = f"label_values({variable.metric}, {variable.name})"
    return {
        "name": variable.name,
        "label": variable.name.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": variable.name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _placed(rows: Sequence[Row]) -> Iterator[JSON]:
    numbers, top = count(1), 0
    for row in rows:
        position = {"x": 0, "y": top, "w": GRID_WIDTH, "h": 1}
        yield {
            "id": next(numbers),
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": position,
            "panels": [],
        }
        left, top, height = 0, top + 1, 0
        for panel in row.panels:
            if left + panel.width > GRID_WIDTH:
                left, top, height = 0, top + height, 0
            position = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            yield {"id": next(numbers), **_panel(panel), "gridPos": position}
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _panel(panel: Panel) -> JSON:
    is_table = panel.kind == "table"
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description + (f" Needs {panel.needs}." if panel.needs else ""),
        "datasource": DATASOURCE,
        "targets": [_target(query, chr(ord("A") + index), is_table) for index, query in enumerate(panel.queries)],
        "fieldConfig": {
            "defaults": _defaults(panel),
            "overrides": [_coloured(*each) for each in panel.colours.items()],
        },
        "options": _OPTIONS[panel.kind],
        **({"transformations": _TABLE_COLUMNS} if is_table else {}),
    }


def _target(query: Query, name: str, is_table: bool) -> JSON:
    shape = {"instant": True, "format": "table"} if is_table else {"range": True, "format": "time_series"}
    return {"refId": name, "datasource": DATASOURCE, "expr": query.expr, "legendFormat": query.legend, **shape}


def _coloured(name: str, colour: str) -> JSON:
    fixed = {"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}
    return {"matcher": {"id": "byName", "options": name}, "properties": [fixed]}


def _defaults(panel: Panel) -> JSON:
    defaults: JSON = {"unit": panel.unit}
    if panel.kind != "table":
        defaults["min"] = 0
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.is_stacked else "none", "group": "A"}
        defaults["custom"] = {"fillOpacity": 30 if panel.is_stacked else 8, "showPoints": "never", "stacking": stacking}
    if panel.kind == "stat":
        defaults["color"] = {"mode": "thresholds"}
        defaults["thresholds"] = {"mode": "absolute", "steps": _steps(panel.red_above)}
    return defaults


def _steps(red_above: float | None) -> list[JSON]:
    if red_above is None:
        return [{"color": "blue", "value": None}]
    return [{"color": "green", "value": None}, {"color": "red", "value": red_above}]


_OPTIONS: dict[str, JSON] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area", "colorMode": "value"},
    "table": {"showHeader": True},
}
_TABLE_COLUMNS = [{"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}]
