"""The benchmark for CUDA, on a CPU and a small model: it runs through; what it measures there means nothing."""

import json
from pathlib import Path

import pytest
import torch
from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.cuda.runner import DEPTH, cuda_runner, eager_runner
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.loader import load_model
from rhapsode_server.engine.proof import prove
from rhapsode_server.engine.scheduler import Scheduler
from support.recorded_graphs import Recording
from support.tiny_models import VOCABULARY_SIZE, tiny_model

from benchmarks import cuda


def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["cuda.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cuda.main()
    assert capsys.readouterr().out == "No CUDA device is here: nothing was measured.\n"


def test_it_measures_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(cuda, "RESULTS", tmp_path / "results" / "cuda.json")
    monkeypatch.setattr(cuda, "TOKEN_IDS", VOCABULARY_SIZE)
    monkeypatch.setattr(cuda, "count_kernels", lambda work: 240)
    engine = tiny_engine(tmp_path, rows=4)
    steps = [cuda.measure_steps(engine, rows, 1e9, num_steps=8) for rows in (1, 4)]
    loop = cuda.measure_open_loop(engine, 0.5, 2000, seconds=0.3)
    assert not engine.has_work
    cuda.report({"device": "none"}, [9.0, 4.0], steps, [loop])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(("| 1 |", "| 4 |", "| 50% |"))]
    assert "100.0%" in next(line for line in lines if line.startswith("| 50%")), "all decode rows run by graph"
    assert json.loads(cuda.RESULTS.read_text())["steps"][1]["rows"] == 4


def tiny_engine(folder: Path, rows: int) -> Engine:
    tiny_model("gpt2").save_pretrained(folder / "version")
    loaded = load_model(folder / "version", device=torch.device("cpu"), dtype=torch.float32)
    eager = eager_runner(loaded, vocabulary_size=VOCABULARY_SIZE, max_sequences=rows)
    prove(eager)
    runner = cuda_runner(eager, num_blocks=300, max_rows=rows, capture=Recording())
    pool = BlockPool(num_blocks=300, block_size=16)
    return Engine(Scheduler(pool=pool, max_sequences=rows, max_batch_tokens=512), runner, depth=DEPTH)
