"""New texts are in the folder, the schedule trains on them, and the server follows."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from rhapsode_client import Client
from rhapsode_trainer.data.tokenizer import train_tokenizer
from support.publishing import publish_tiny
from support.servers import running_server
from transformers import GPT2Config, GPT2LMHeadModel

from .conftest import BIN, EXAMPLES

SMALL = (
    "rows.block_size=32",
    "evaluation.stride=32",
    "sample.max_new_tokens=12",
    "training.epochs=1",
    "training.arguments.learning_rate=0.003",
    "gate.tolerance=1",
    "gate.max_repetition=1",
    "gate.max_empty=1",
    "gate.min_words=0",
)


def line(number: int) -> str:
    return f"Once the sea sang to star {number}, and {number} ships listened until the star was still."


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the schedule runs: a tiny model to start from, which is served already, and a few texts."""
    tokenizer = train_tokenizer([line(number) for number in range(64)], 320)
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=320, bos_token_id=0, eos_token_id=0, **sizes))
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    publish_tiny(tmp_path / "models", "notes")
    (tmp_path / "texts").mkdir()
    for number in range(40):
        text = "\n".join(line(number + other) for other in range(4))
        (tmp_path / "texts" / f"{number:03}.txt").write_text(text)
    return tmp_path


def retrain(place: Path, *fields: str) -> subprocess.CompletedProcess[str]:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"BASE": "base", "OMP_NUM_THREADS": "1", "PATH": path}
    command = [str(EXAMPLES / "retraining" / "retrain.sh"), *(f"--set={each}" for each in (*SMALL, *fields))]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.slow
def test_the_server_follows_what_the_schedule_publishes(place: Path) -> None:
    flags = ("--threads", "1", "--standby", "off")
    with running_server(place / "models", *flags) as server, Client(server.address, timeout=60) as client:
        round_ = retrain(place)
        assert "Published: models/notes/2" in round_.stdout, round_.stdout + round_.stderr
        server.wait_log("requests go to version 2 (100%)")
        assert client.generate("Once the sea", max_new_tokens=4).version == 2
    assert "nothing new: version 2" in retrain(place).stdout


def test_a_round_that_fails_says_so(place: Path) -> None:
    failed = retrain(place, "training.epochs=oh")
    assert failed.returncode == 2
    assert "training.epochs" in failed.stderr
