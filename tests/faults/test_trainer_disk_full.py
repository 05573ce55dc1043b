"""The disk is full when a training job saves a checkpoint."""

import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rhapsode_trainer.checkpoints import Checkpoints
from rhapsode_trainer.config import load_recipe
from rhapsode_trainer.data.tokenizer import train_tokenizer
from rhapsode_trainer.errors import CheckpointError
from rhapsode_trainer.interruption import Interruption
from rhapsode_trainer.training.model import build_model
from rhapsode_trainer.training.saving import Saving
from rhapsode_trainer.training.train import train, training_arguments

SMALL = ["model.n_embd=32", "model.n_head=2", "model.n_layer=1", "model.n_positions=32"]
STEPS = ["training.arguments.max_steps=6", "training.arguments.per_device_train_batch_size=1"]
RECIPE = load_recipe("quickstart", [*SMALL, *STEPS])
ROW = {"input_ids": [0, 5, 9, 3], "position_ids": [0, 1, 2, 3], "labels": [0, 5, 9, 3]}


def attempt(path: Path, checkpoints: Checkpoints, on_step: Callable[[int], None]) -> tuple[list[int], torch.Tensor]:
    model = build_model(RECIPE.model, RECIPE.generation, train_tokenizer(["a b"], 300), seed=0)
    arguments = training_arguments(RECIPE.training, seed=0, output_dir=path)
    steps = []

    def report(done: int, total: int, loss: float | None) -> None:
        steps.append(done)
        on_step(done)

    train(
        model,
        [ROW] * 6,
        arguments,
        optimizer="trainer",
        report=report,
        interruption=Interruption(),
        checkpoints=checkpoints,
        saving=Saving(steps=2),
    )
    return steps, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("limit", [1 << 9, 1 << 15, 1 << 17], ids=["no room", "no room for weights", "for optimizer"])
def test_a_full_disk_ends_the_job_with_a_clear_error_and_costs_nothing_that_was_saved(
    limit: int, tmp_path: Path
) -> None:
    """No file may grow beyond the limit, which no writer can tell from a full disk and which needs no privilege."""
    _, expected = attempt(tmp_path, Checkpoints(path=tmp_path / "undisturbed", key="key"), lambda step: None)
    checkpoints = Checkpoints(path=tmp_path / "checkpoints", key="key")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(step: int) -> None:
        if step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    try:
        with pytest.raises(CheckpointError, match=r"cannot write .*checkpoint-4 \([\d,]+ bytes are free there\)"):
            attempt(tmp_path, checkpoints, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in checkpoints.path.iterdir()] == ["checkpoint-2"]

    steps, weights = attempt(tmp_path, checkpoints, lambda step: None)
    assert steps == [3, 4, 5, 6]
    assert torch.equal(weights, expected)
