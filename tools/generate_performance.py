"""Generates docs/performance.md and its chart from benchmarks/results, or with --check says whether they are its.

python tools/generate_performance.py [--check]
"""

import argparse
import json
import sys
from pathlib import Path

from performance.chart import throughput_chart
from performance.page import render

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def pages() -> dict[Path, str]:
    """What is generated, by file."""
    closed = json.loads((RESULTS / "serving-cpu.json").read_text("utf-8"))["closed"]
    return {
        ROOT / "docs" / "performance.md": render(RESULTS),
        ROOT / "docs" / "images" / "throughput.svg": throughput_chart(closed),
    }


def main() -> int:
    """Exit code 1: what is committed is not what the results give."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    check, code = parser.parse_args().check, 0
    for path, text in pages().items():
        if not check:
            path.write_text(text, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != text:
            print(f"{path.relative_to(ROOT)} is not what benchmarks/results give: run `make docs`.", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
