"""The loss curve as an SVG that stands inside a page and takes its colours from it, light or dark."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Point = tuple[float, float]

# Drawn in colours that stand for the variables of the page, which are put in their place.
_COLOURS = {"#010203": "var(--ink)", "#040506": "var(--grid)", "#070809": "var(--first)", "#0a0b0c": "var(--second)"}
_INK, _GRID, _FIRST, _SECOND = _COLOURS


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """(step, loss in nats per token) of training and of validation. A loss that is NaN is a gap."""

    training: Sequence[Point]
    validation: Sequence[Point]


def curve_of(log: Sequence[Mapping[str, Any]]) -> Curve:
    """From the log of training: entries with `step` and `loss` or `validation_loss`."""
    return Curve(training=_points(log, "loss"), validation=_points(log, "validation_loss"))


def _points(log: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    points = [(float(entry["step"]), entry[name]) for entry in log if name in entry and "step" in entry]
    return [(step, math.nan if loss is None else float(loss)) for step, loss in points]


def draw_curve(curve: Curve) -> str:
    """An `<svg>` element without size, styled by the variables --ink, --grid, --first and --second."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "rhapsode", "font.family": "sans-serif", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        axes = figure.add_subplot()
        _plot(axes, curve)
        _style(axes)
        target = io.StringIO()
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    return _embedded(target.getvalue())


def _plot(axes: Any, curve: Curve) -> None:
    for points, colour, label, marker in (
        (curve.training, _FIRST, "training", None),
        (curve.validation, _SECOND, "validation", "o"),
    ):
        if points:
            steps, losses = zip(*points, strict=True)
            axes.plot(steps, losses, color=colour, label=label, marker=marker, markersize=4, linewidth=1.6)
    if curve.training or curve.validation:
        axes.legend(frameon=False, labelcolor=_INK)


def _style(axes: Any) -> None:
    axes.set_xlabel("step", color=_INK)
    axes.set_ylabel("loss, nats per token", color=_INK)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.tick_params(color=_GRID, labelcolor=_INK, length=0)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(_GRID)


def _embedded(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for colour, variable in _COLOURS.items():
        svg = svg.replace(colour, variable)
    return svg
