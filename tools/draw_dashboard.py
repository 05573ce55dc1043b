"""Draws deploy/grafana/rhapsode.json with the data of a Prometheus, as a picture, where there is no Grafana.

python tools/draw_dashboard.py http://127.0.0.1:9090 docs/images/dashboard.png --minutes 5

The output may end in .html too; a .png takes Chromium.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from board.chart import runs
from board.page import Answer, draw, size
from board.prometheus import Prometheus, Span, expand

ROOT = Path(__file__).resolve().parents[1]
DASHBOARD = ROOT / "deploy" / "grafana" / "rhapsode.json"
POINTS = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Asks for a span of time."""

    prometheus: Prometheus
    span: Span
    rate_interval: str

    def answer(self, target: Mapping[str, Any]) -> Answer:
        """What a query of a panel, or of a mark, gives."""
        expr = expand(target["expr"], self.rate_interval)
        if target.get("instant"):
            return Answer(legend="", series=self.prometheus.at(expr, self.span.end))
        return Answer(legend=target.get("legendFormat", ""), series=self.prometheus.over(expr, self.span))


def page(board: Mapping[str, Any], source: Source) -> str:
    """The whole dashboard as HTML."""
    answers = {panel["id"]: [source.answer(each) for each in panel.get("targets", ())] for panel in board["panels"]}
    marks = [
        run[0][0]
        for mark in board["annotations"]["list"]
        for series in source.answer(mark).series
        for run in runs(series.points, 1.5 * source.span.step)
    ]
    return draw(board, answers, source.span, marks)


def photograph(html: str, width: int, height: int, output: Path) -> None:
    """Raises FileNotFoundError without Chromium, CalledProcessError when it fails."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise FileNotFoundError("a .png takes Chromium: install it, or name a file that ends in .html")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "dashboard.html")
        source.write_text(html, "utf-8")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        command += [
            "--no-first-run",
            "--disable-sync",
            "--disable-component-update",
            f"--user-data-dir={folder}/profile",
        ]
        command += ["--hide-scrollbars", f"--window-size={width},{height}", f"--screenshot={output.absolute()}"]
        subprocess.run([*command, source.as_uri()], check=True, capture_output=True, timeout=120)


def main() -> int:
    """Exit code 1: Prometheus does not answer, or there is no browser."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("prometheus", help="URL of a Prometheus that scrapes the servers")
    parser.add_argument("output", type=Path, help="the .png or .html to write")
    parser.add_argument("--minutes", type=float, default=60, help="how far back (default: 60)")
    parser.add_argument("--rate-interval", default="1m", help="over which rates are taken (default: 1m)")
    given = parser.parse_args()
    board = json.loads(DASHBOARD.read_text("utf-8"))
    end = time.time()
    span = Span(start=end - 60 * given.minutes, end=end, step=60 * given.minutes / POINTS)
    try:
        prometheus = Prometheus(url=given.prometheus.rstrip("/"))
        html = page(board, Source(prometheus=prometheus, span=span, rate_interval=given.rate_interval))
        if given.output.suffix == ".html":
            given.output.write_text(html, "utf-8")
        else:
            photograph(html, *size(board), given.output)
    except OSError as error:
        print(f"draw_dashboard: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
