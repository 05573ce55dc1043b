"""A tiny training run: a GPT-2 with dropout, packed rows of random tokens."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rhapsode_trainer.checkpoints import Checkpoints
from rhapsode_trainer.config import load_recipe
from rhapsode_trainer.interruption import watch_signals
from rhapsode_trainer.training.train import rows_needed, train, training_arguments
from support.packing import pack

ARGUMENTS = {"max_steps": 8, "per_device_train_batch_size": 2, "learning_rate": 0.01, "logging_steps": 1}


def make_rows(count: int, block_size: int = 16) -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(3)
    texts = [torch.randint(1, 250, (length,), generator=generator).tolist() for length in (3, 9, 5, 20, 11)]
    return list(pack(lambda: list(texts), end_of_text=0, block_size=block_size, rows=count, seed=0))


class TinyRun:
    """A model that trains in `path`; each `train` is a new attempt with a fresh model."""

    def __init__(self, path: Path, make_model: Callable[..., Any], **changes: Any) -> None:
        self.path = path
        self.make_model = make_model
        self.warnings: list[str] = []
        config = dataclasses.replace(load_recipe("quickstart").training, arguments={**ARGUMENTS, **changes})
        self.arguments = training_arguments(config, seed=5, output_dir=path)
        self.checkpoints = Checkpoints(path=path / "checkpoints", key="key", warn=self.warnings.append)
        self.optimizer = "trainer"
        self.model: Any = None
        self.steps: list[int] = []
        self.on_step: Callable[[int], None] = lambda step: None

    def report(self, done: int, total: int, loss: float | None) -> None:
        self.steps.append(done)
        self.on_step(done)

    def train(self, **options: Any) -> list[dict[str, float]]:
        self.model = self.make_model("gpt2")
        self.steps.clear()
        options = {"checkpoints": self.checkpoints, **options}
        with watch_signals() as interruption:
            return train(
                self.model,
                options.pop("rows", None) or make_rows(rows_needed(self.arguments)),
                self.arguments,
                optimizer=self.optimizer,
                report=self.report,
                interruption=interruption,
                **options,
            )

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])

    def saved(self) -> list[int]:
        return sorted(int(path.name.removeprefix("checkpoint-")) for path in self.checkpoints.path.glob("checkpoint-*"))


@pytest.fixture
def tiny(tmp_path: Path, make_model: Callable[..., Any]) -> Callable[..., TinyRun]:
    """Makes runs, each in a folder of its own."""
    made = []

    def make(**changes: Any) -> TinyRun:
        made.append(TinyRun(tmp_path / f"run-{len(made)}", make_model, **changes))
        return made[-1]

    return make
