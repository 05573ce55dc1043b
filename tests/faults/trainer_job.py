"""`rhapsode-train run` on a tiny model, for tests that kill it. Importing takes seconds: one process imports and forks.

    trainer_job.py < RUNS

A line of standard input is a run: FOLDER FIFO CLOCK_OFFSET (seconds by which its clock is ahead). Standard output tells
its process id, and its wait status once it is over. FIFO gets a line whenever a phase begins, as `status.json` names
them, and also `checkpoint` when one is begun and `saved STEP` when it is there. What it prints is in FOLDER/log.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rhapsode_contract.model_directory import lease
from rhapsode_trainer import run as run_module
from rhapsode_trainer.__main__ import main
from rhapsode_trainer.checkpoints import Checkpoints
from rhapsode_trainer.environment import prepare_libraries, silence_libraries
from rhapsode_trainer.publish import load_check, version
from rhapsode_trainer.status import Status

assert run_module, "imported once, for all runs"

TEXTS = [f"The {word} of {other},\nand the {other} of {word}s.\n" * 8 for word in ("sea", "sky") for other in "abcdef"]
SETTINGS = [
    *("model.n_embd=16", "model.n_head=2", "model.n_layer=1", "model.n_positions=32", "rows.block_size=16"),
    *("training.arguments.max_steps=10", "training.arguments.per_device_train_batch_size=2"),
    *("training.arguments.warmup_steps=1", "training.save_steps=2", "tokenizer.vocab_size=300"),
    *("sample.max_new_tokens=4", "sample.count=1", "gate.tolerance=100", "gate.max_repetition=1", "gate.max_empty=1"),
    *("evaluation.stride=16", "gate.min_words=0", "gate.canary_text=''"),
]


class Announcements:
    """Tells the test what happens, by wrapping what a run calls."""

    def __init__(self, fifo: str) -> None:
        self._fifo = os.open(fifo, os.O_WRONLY)

    def say(self, line: str) -> None:
        os.write(self._fifo, f"{line}\n".encode())

    def wrap(self) -> None:
        phase, save = Status.phase, Checkpoints.save

        def announced_phase(status: Status, name: str) -> None:
            phase(status, name)
            self.say(name.replace(" ", "-"))

        def announced_save(checkpoints: Checkpoints, step: int, write: Callable[[Path], None]) -> Path:
            self.say("checkpoint")
            path = save(checkpoints, step, write)
            self.say(f"saved {step}")
            return path

        replacements: list[tuple[Any, str, Any]] = [
            (Status, "phase", announced_phase),
            (Checkpoints, "save", announced_save),
            # In a process of its own it would import torch again, every time.
            (version, "check_in_fresh_process", load_check.check),
        ]
        for owner, name, replacement in replacements:
            setattr(owner, name, replacement)


def command(folder: Path) -> list[str]:
    data = folder / "texts.jsonl"
    if not data.exists():
        folder.mkdir(exist_ok=True)
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    source = [f"data.sources=[{{path: {data}, format: jsonl}}]", "data.held_out=0.2"]
    places = ["--name", "poems", "--models", str(folder / "models"), "--work-dir", str(folder / "work")]
    return ["rhapsode-train", "run", "quickstart", *places, *(f"--set={each}" for each in (*source, *SETTINGS))]


def run(path: str, fifo: str, clock_offset: str) -> int:
    folder = Path(path)
    sys.argv = command(folder)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    Announcements(fifo).wrap()
    lease.time = SimpleNamespace(time=lambda: time.time() + float(clock_offset))
    try:
        main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
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
