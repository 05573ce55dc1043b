"""Benchmarks are run from the repository root, which is where they are imported from."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
