"""Lines over time, as SVG."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby, pairwise

from board.prometheus import Point, Span
from board.units import readable, ticks

LEFT, RIGHT, TOP, BOTTOM = 62, 12, 8, 22
GROUND = "#181b1f"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A series as it is drawn."""

    name: str
    colour: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """`maximum` ends the axis; None: at the largest value."""

    unit: str
    maximum: float | None
    is_stacked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where values go on a picture of `width` x `height` pixels."""

    span: Span
    top: float
    width: int
    height: int

    def x(self, time: float) -> float:
        inner = self.width - LEFT - RIGHT
        return LEFT + inner * (time - self.span.start) / (self.span.end - self.span.start)

    def y(self, value: float) -> float:
        inner = self.height - TOP - BOTTOM
        return TOP + inner * (1 - value / self.top)


def line_chart(lines: Sequence[Line], span: Span, style: Style, size: tuple[int, int], marks: Sequence[float]) -> str:
    """A picture of `size`, width and height; `marks` are times at which a line is drawn across."""
    drawn = stacked(lines) if style.is_stacked else lines
    values = [value for line in drawn for _, value in line.points if value == value]
    levels = ticks(style.maximum or max(values, default=1.0), style.unit)
    frame = Frame(span=span, top=levels[-1], width=size[0], height=size[1])
    # From the uppermost down: each area covers the lower part of the one above it.
    areas = [part for line in reversed(drawn) for part in _area(frame, line)] if style.is_stacked else []
    parts = [*_grid(frame, levels, style.unit), *areas, *_marks(frame, marks), *_lines(frame, drawn)]
    return f'<svg width="{frame.width}" height="{frame.height}">{"".join(parts)}</svg>'


def stacked(lines: Sequence[Line]) -> list[Line]:
    """Each on top of those before it."""
    sums: dict[float, float] = {}
    result = []
    for line in lines:
        for moment, value in line.points:
            sums[moment] = sums.get(moment, 0.0) + (value if value == value else 0.0)
        result.append(replace(line, points=[(moment, sums[moment]) for moment, _ in line.points]))
    return result


def _grid(frame: Frame, levels: list[float], unit: str) -> Iterator[str]:
    for level in levels:
        y = frame.y(level)
        yield f'<line class="grid" x1="{LEFT}" x2="{frame.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(readable(level, unit))}</text>'
    for quarter in range(1, 5):
        moment = frame.span.start + (frame.span.end - frame.span.start) * quarter / 5
        clock = time.strftime("%H:%M:%S", time.gmtime(moment))
        yield f'<text x="{frame.x(moment):.1f}" y="{frame.height - 5}" text-anchor="middle">{clock}</text>'


def _marks(frame: Frame, marks: Sequence[float]) -> Iterator[str]:
    for moment in marks:
        x = frame.x(moment)
        yield f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{frame.height - BOTTOM}"/>'


def _lines(frame: Frame, lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        for run in runs(line.points, 1.5 * frame.span.step):
            yield f'<polyline fill="none" stroke="{line.colour}" stroke-width="1.6" points="{_path(frame, run)}"/>'


def _area(frame: Frame, line: Line) -> Iterator[str]:
    for run in runs(line.points, 1.5 * frame.span.step):
        path = _path(frame, [(run[0][0], 0.0), *run, (run[-1][0], 0.0)])
        yield f'<polygon fill="{GROUND}" points="{path}"/>'
        yield f'<polygon fill="{line.colour}" fill-opacity="0.3" points="{path}"/>'


def _path(frame: Frame, points: Sequence[Point]) -> str:
    return " ".join(f"{frame.x(moment):.1f},{frame.y(min(value, frame.top)):.1f}" for moment, value in points)


def runs(points: Sequence[Point], gap: float) -> Iterator[list[Point]]:
    """Stretches in which a value follows the other: a line must not bridge what was not there."""
    present = [point for point in points if point[1] == point[1]]
    breaks = [0]
    for before, after in pairwise(present):
        breaks.append(breaks[-1] + (after[0] - before[0] > gap))
    for _, run in groupby(zip(breaks, present, strict=False), key=lambda each: each[0]):
        yield [point for _, point in run]
