"""Tokens/s by callers as bars, as SVG."""

from collections.abc import Iterator, Sequence

from performance.tables import OURS, Result, systems

WIDTH, TOP, PLOT, LEGEND_ROW = 760, 56, 250, 22
LEFT, GAP = 56, 26
COLOURS = {
    "rhapsode float32": "#6741d9",
    "rhapsode int8": "#a78bfa",
    "transformers continuous batching float32": "#e8772e",
    "transformers generate() float32": "#f2b788",
    "CTranslate2 float32": "#2b8a8a",
    "CTranslate2 int8": "#86c5c5",
}
STYLE = """
  .ground { fill: #ffffff; stroke: #d8d8e0; }
  text { fill: #33333d; font: 13px system-ui, sans-serif; }
  .title { font-size: 15px; font-weight: 600; }
  .small { font-size: 11px; }
  .grid { stroke: #e4e4ea; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #1d1e26; stroke: #3a3b46; }
    text { fill: #dcdce4; }
    .grid { stroke: #34353f; }
  }
"""


def throughput_chart(closed: Sequence[Result]) -> str:
    """Of those systems that have a colour; the engine alone is no system that one can call."""
    rows = [row for row in closed if row["system"] in COLOURS]
    shown = systems(rows)
    callers = sorted({row["callers"] for row in rows})
    top = _round_up(max(row["tokens_per_second"] for row in rows))
    height = TOP + PLOT + 50 + LEGEND_ROW * -(-len(shown) // 2)
    parts = [*_grid(top), *_bars(rows, shown, callers, top), *_legend(shown, TOP + PLOT + 50)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="tokens per second by number of callers">\n<style>{STYLE}</style>\n'
        f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>\n'
        f'<text class="title" x="20" y="30">GPT-2 124M on 2 cores: tokens per second by number of callers</text>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _round_up(value: float, step: int = 100) -> int:
    return int(-(-value // step) * step)


def _grid(top: int) -> Iterator[str]:
    for value in range(0, top + 1, 100):
        y = _y(value, top)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 20}" y1="{y}" y2="{y}"/>'
        yield f'<text class="small" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{value}</text>'


def _bars(rows: Sequence[Result], shown: Sequence[str], callers: Sequence[int], top: int) -> Iterator[str]:
    group = (WIDTH - LEFT - 20) / len(callers)
    bar = (group - GAP) / len(shown)
    for row in rows:
        left = LEFT + callers.index(row["callers"]) * group + GAP / 2
        x, value = left + shown.index(row["system"]) * bar, row["tokens_per_second"]
        y, colour = _y(value, top), COLOURS[row["system"]]
        size = f'width="{bar - 3:.1f}" height="{TOP + PLOT - y:.1f}"'
        yield f'<rect x="{x:.1f}" y="{y}" {size} rx="2" fill="{colour}"/>'
        if row["system"].startswith(OURS):
            middle = f'x="{x + bar / 2 - 1:.1f}" text-anchor="middle"'
            yield f'<text class="small" {middle} y="{y - 4:.1f}">{value:.0f}</text>'
    for number, count in enumerate(callers):
        x = LEFT + (number + 0.5) * group
        label = f"{count} caller{'s' if count > 1 else ''}"
        yield f'<text x="{x:.1f}" y="{TOP + PLOT + 20}" text-anchor="middle">{label}</text>'


def _legend(shown: Sequence[str], top: int) -> Iterator[str]:
    for number, system in enumerate(shown):
        x, y = LEFT + number % 2 * 330, top + number // 2 * LEGEND_ROW
        yield f'<rect x="{x}" y="{y - 10}" width="12" height="12" rx="2" fill="{COLOURS[system]}"/>'
        yield f'<text x="{x + 20}" y="{y + 1}">{system}</text>'


def _y(value: float, top: int) -> float:
    return round(TOP + PLOT * (1 - value / top), 1)
