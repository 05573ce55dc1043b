import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

# Few steps of a model so small that an end-to-end run takes a second beside its imports.
TINY_RUN = [
    "--set=model.n_embd=16",
    "--set=model.n_head=2",
    "--set=model.n_layer=1",
    "--set=model.n_positions=64",
    "--set=rows.block_size=64",
    "--set=training.arguments.max_steps=4",
    "--set=training.arguments.per_device_train_batch_size=2",
    "--set=training.arguments.warmup_steps=1",
    "--set=evaluation.batch_size=32",
    "--set=evaluation.stride=64",
    "--set=tokenizer.vocab_size=300",
    "--set=sample.max_new_tokens=8",
]


@pytest.fixture(scope="session")
def tiny_run() -> list[str]:
    return TINY_RUN


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., object]:
    """Builds a tiny causal language model with random weights, large enough to tell tokens apart."""

    def make(kind: str, *, vocab_size: int = 300, context: int = 32) -> object:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        common = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3}
        if kind == "gpt2":
            sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": context}
            return GPT2LMHeadModel(GPT2Config(**common, **sizes)).eval()
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        limits = {"num_key_value_heads": 2, "max_position_embeddings": context}
        return LlamaForCausalLM(LlamaConfig(**common, **sizes, **limits)).eval()

    return make


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `rhapsode-train` with the given arguments in this process."""
    from rhapsode_trainer.__main__ import main

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["rhapsode-train", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return Outcome(int(stopped.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def check_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The load check in this process: a fresh one spends seconds on imports, and other tests pay for it."""
    from rhapsode_trainer.publish import load_check, version

    monkeypatch.setattr(version, "check_in_fresh_process", load_check.check)
