"""Two processes on the CPU (gloo) are one run: the loss curve of one process with the doubled batch, one writer."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from rhapsode_trainer.training.processes import Processes
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("worker.py")


def test_one_process_decides_alone() -> None:
    processes = Processes()
    assert processes.main
    assert processes.largest(3, -7) == (3, -7)
    assert processes.from_main("value") == "value"
    processes.wait()


def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    together.mkdir()
    alone.mkdir()
    _launch(together)
    _worker().attempt(alone, "straight", None, None)

    assert losses(together, "straight") == pytest.approx(losses(alone, "straight"), rel=1e-5)
    ours, reference = weights(together, "straight"), weights(alone, "straight")
    torch.testing.assert_close(ours, reference, atol=1e-4, rtol=0)
    assert losses(together, "resumed") == losses(together, "straight")
    assert torch.equal(weights(together, "resumed"), ours)

    messages = {(together / f"interrupted-{rank}").read_text() for rank in (0, 1)}
    assert messages == {
        "stopped by SIGTERM: nothing was published. The next run starts from the checkpoint of step 4."
    }, "a signal to one process stops both, at the same step"
    names = {path.name for path in (together / "checkpoints/checkpoint-6").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", "loop.json", "MANIFEST.json"} <= names
    assert [path.name for path in (together / "checkpoints/.staging").iterdir()] == []


def losses(folder: Path, name: str) -> list[float]:
    log = json.loads((folder / f"{name}.json").read_text())
    return [entry["loss"] for entry in log if "loss" in entry]


def weights(folder: Path, name: str) -> torch.Tensor:
    tensors = load_file(folder / name / "model.safetensors")
    return torch.cat([tensors[key].flatten() for key in sorted(tensors)])


def _launch(folder: Path) -> None:
    """`accelerate launch` starts several processes on a CPU only if it takes them for GPUs."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    options = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *options, str(WORKER), str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
