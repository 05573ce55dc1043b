"""The model: GPT-2 with random weights, as transformers saves it and as a model directory. Speed knows no weights."""

from pathlib import Path

import torch
from rhapsode_contract.model_directory import Lease, ModelDirectory, publish
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.serving.limits import Shape
from benchmarks.serving.workload import END_OF_TEXT, gpt2_tokenizer

MODEL_NAME = "gpt2"


def make_model(root: Path, *, tiny: bool = False, seed: int = 0) -> None:
    """Writes `root`/saved and the model directory `root`/models."""
    torch.manual_seed(seed)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2) if tiny else GPT2Config()
    model = GPT2LMHeadModel(config).eval()
    save(model, root / "saved")
    folder = ModelDirectory(root / "models").model(MODEL_NAME)
    with Lease.acquire(folder, owner="benchmark", ttl=600) as lease:
        publish(
            folder,
            lease,
            write=lambda path: save(model, path),
            dtype="float32",
            parameter_count=sum(parameter.numel() for parameter in model.parameters()),
            actor="benchmark",
            reason="a benchmark",
        )


def save(model: GPT2LMHeadModel, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=gpt2_tokenizer(), bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, unk_token=END_OF_TEXT
    )
    tokenizer.save_pretrained(folder)


def read_shape(root: Path) -> Shape:
    return Shape.of(GPT2Config.from_pretrained(root / "saved"))
