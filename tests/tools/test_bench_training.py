"""The quick form of the benchmark of training: complete and comparable. What its ratios are is noise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STOCK_SHORT, STOCK_FULL = {"Trainer, padded", "Trainer, joined"}, {"Trainer, joined"}


@pytest.mark.slow
def test_the_table_is_complete_and_its_losses_are_comparable(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks/training.py"), "--quick", "--rounds=1", f"--json={figures}"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(figures.read_text())["rows"]
    ways = {data: {row["way"] for row in rows if row["data"] == data} for data in ("short documents", "full blocks")}
    assert ways == {"short documents": {*STOCK_SHORT, "rhapsode"}, "full blocks": {*STOCK_FULL, "rhapsode"}}
    assert done.stdout.count("\n| ") == 1 + len(rows)
    for row in rows:
        assert len(row["seconds"]) == 1
        assert row["tokens_per_second"] > 0
        assert 0 <= row["padding_share"] < (0.6 if row["way"] == "Trainer, padded" else 0.1)
    losses = [row["nats_per_token"] for row in rows]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=0.05)
