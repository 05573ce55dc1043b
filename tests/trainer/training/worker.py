"""One of several processes that train together, for test_processes.py.

    worker.py FOLDER

Trains from the beginning to the end; then again, interrupted by a signal to the last process alone; then the rest.
Writes the log and the weights of each to FOLDER, by the main process only.
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from rhapsode_trainer.checkpoints import Checkpoints
from rhapsode_trainer.config import load_recipe
from rhapsode_trainer.errors import Interrupted
from rhapsode_trainer.interruption import Interruption
from rhapsode_trainer.training.processes import begin_together, is_main, world_size
from rhapsode_trainer.training.saving import Saving
from rhapsode_trainer.training.train import rows_needed, train, training_arguments
from transformers import GPT2Config, GPT2LMHeadModel

ROWS_A_STEP = 4
STEPS = 6


def rows(count: int) -> list[dict[str, list[int]]]:
    """Some targets are left out, so that the processes have different numbers of them."""
    tokens = torch.randint(1, 60, (count, 12), generator=torch.Generator().manual_seed(1)).tolist()
    return [
        {"input_ids": ids, "position_ids": list(range(12)), "labels": [-100] * (row % 7) + ids[row % 7 :]}
        for row, ids in enumerate(tokens)
    ]


def make_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 64}
    dropout = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **dropout, bos_token_id=0, eos_token_id=0))


def attempt(folder: Path, name: str, checkpoints: Checkpoints | None, stop_at: int | None) -> None:
    chosen: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": ROWS_A_STEP // world_size(),
        "logging_steps": 1,
        "learning_rate": 0.01,
        "use_cpu": True,
    }
    config = dataclasses.replace(load_recipe("quickstart").training, arguments=chosen)
    arguments = training_arguments(config, seed=0, output_dir=folder)
    assert rows_needed(arguments) == STEPS * ROWS_A_STEP
    interruption = Interruption()

    def report(done: int, total: int, loss: float | None) -> None:
        if done == stop_at and int(os.environ.get("RANK", "0")) == world_size() - 1:
            interruption.note(signal.SIGTERM)

    model = make_model()
    log = train(
        model,
        rows(STEPS * ROWS_A_STEP - 1),  # the last step is one row short
        arguments,
        optimizer="trainer",
        report=report,
        interruption=interruption,
        checkpoints=checkpoints,
        saving=Saving(steps=2),
    )
    if is_main():
        (folder / f"{name}.json").write_text(json.dumps(log))
        model.save_pretrained(folder / name)


def main(folder: Path) -> None:
    assert begin_together(is_main())
    assert not begin_together(not is_main())
    checkpoints = Checkpoints(path=folder / "checkpoints", key="key")
    attempt(folder, "straight", None, None)
    try:
        attempt(folder, "stopped", checkpoints, 3)
    except Interrupted as error:
        (folder / f"interrupted-{os.environ.get('RANK', '0')}").write_text(str(error))
    attempt(folder, "resumed", checkpoints, None)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
