"""A training job on a tiny model that tests kill. Importing takes seconds, so one process imports and forks each job.

    trainer_job.py < JOBS

A line of standard input is a job: FOLDER FIFO CLOCK_OFFSET (seconds by which its clock is ahead). Standard output tells
its process id, and its wait status once it is over. FIFO gets a line whenever a phase begins: `tokenise`, `train`,
`checkpoint`, `train STEP` (that checkpoint is saved), `publish`, and `done`. Exit code 75: interrupted.
"""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rhapsode_contract.model_directory import Lease, ModelFolder, lease, publish
from rhapsode_trainer.checkpoints import Checkpoints
from rhapsode_trainer.config import load_recipe
from rhapsode_trainer.data.tokenizer import train_tokenizer
from rhapsode_trainer.environment import prepare_libraries, silence_libraries
from rhapsode_trainer.errors import Interrupted
from rhapsode_trainer.identity import run_key, version_with_key
from rhapsode_trainer.interruption import Interruption, watch_signals
from rhapsode_trainer.publish.loading import load_model
from rhapsode_trainer.training.model import build_model
from rhapsode_trainer.training.saving import Saving
from rhapsode_trainer.training.train import rows_needed, train, training_arguments

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.packing import pack

RECIPE = load_recipe(
    "quickstart",
    [
        *("model.n_embd=16", "model.n_head=2", "model.n_layer=1", "model.n_positions=32"),
        *("training.arguments.max_steps=10", "training.arguments.per_device_train_batch_size=2"),
    ],
)
TEXTS = [f"The {word} of {other},\nand the {other} of {word}s.\n" * 8 for word in ("sea", "sky") for other in "abcdef"]


class Announcing(Checkpoints):
    """Tells when a checkpoint is begun and when it is saved."""

    def save(self, step: int, write: Any) -> Path:
        announce("checkpoint")
        path = super().save(step, write)
        announce(f"train {step}")
        return path


def announce(line: str) -> None:
    os.write(FIFO, f"{line}\n".encode())


def job(path: Path, interruption: Interruption) -> None:
    key = run_key(recipe=RECIPE.as_dict(), data={}, base=None)
    folder, checkpoints = ModelFolder(path / "models/poems"), Announcing(path=path / "work/poems", key=key)
    with Lease.acquire(folder, owner="job") as held:
        if version_with_key(folder, key) is None:
            announce("tokenise")
            tokenizer = train_tokenizer(TEXTS, 300)
            ids = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
            model = build_model(RECIPE.model, RECIPE.generation, tokenizer, seed=0)
            interruption.check()
            announce("train")
            train_model(model, ids, path, checkpoints, interruption)
            announce("publish")
            publish_model(folder, held, model, key, interruption)
        checkpoints.clear()
    announce("done")


def train_model(model: Any, ids: list[list[int]], path: Path, checkpoints: Checkpoints, stop: Interruption) -> None:
    arguments = training_arguments(RECIPE.training, seed=0, output_dir=path)
    rows = pack(lambda: list(ids), end_of_text=0, block_size=16, rows=rows_needed(arguments), seed=0)
    options: dict[str, Any] = {"optimizer": "muon", "checkpoints": checkpoints, "saving": Saving(steps=2)}
    train(model, rows, arguments, report=lambda done, total, loss: None, interruption=stop, **options)


def publish_model(folder: ModelFolder, held: Lease, model: Any, key: str, interruption: Interruption) -> None:
    def write(staging: Path) -> None:
        model.save_pretrained(staging)
        (staging / "lineage.json").write_text(json.dumps({"key": key}))
        interruption.check()

    def load(version: Path) -> None:
        load_model(version, torch.float32)
        interruption.check()

    about = {"dtype": "float32", "parameter_count": model.num_parameters(), "actor": "job", "reason": "test"}
    publish(folder, held, write=write, load_check=load, **about)


def run(path: str, fifo: str, clock_offset: str) -> int:
    global FIFO
    FIFO = os.open(fifo, os.O_WRONLY)
    lease.time = SimpleNamespace(time=lambda: time.time() + float(clock_offset))
    try:
        with watch_signals() as interruption:
            job(Path(path), interruption)
    except Interrupted as error:
        return error.exit_code
    return 0


def serve() -> None:
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            code = 1
            try:
                code = run(*line.split())
            finally:
                os._exit(code)
        print(process, flush=True)
        print(os.waitpid(process, 0)[1], flush=True)


if __name__ == "__main__":
    prepare_libraries()
    silence_libraries()
    torch.set_num_threads(1)
    serve()
