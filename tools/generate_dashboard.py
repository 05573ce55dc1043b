"""Generates deploy/grafana/rhapsode.json, or with --check says whether it is the committed one.

python tools/generate_dashboard.py [--check]
"""

import argparse
import json
import sys
from pathlib import Path

from board.contents import DASHBOARD
from board.grafana import render

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "deploy" / "grafana" / "rhapsode.json"


def main() -> int:
    """Exit code 1: the committed file is not what tools/board gives."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    check = parser.parse_args().check
    text = json.dumps(render(DASHBOARD), indent=2) + "\n"
    if not check:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(text, "utf-8")
    elif not FILE.exists() or FILE.read_text("utf-8") != text:
        name = FILE.relative_to(ROOT)
        print(f"{name} is not what tools/board gives: run `make dashboard` and commit it.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
