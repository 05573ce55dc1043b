"""What stock Trainer saves, and what is published of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rhapsode_trainer.data.tokenizer import train_tokenizer
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, default_data_collator

ROWS = [{"input_ids": [0, 5, 6, 7], "labels": [0, 5, 6, 7]}] * 2


def stock_save(model: Any, path: Path) -> None:
    arguments = TrainingArguments(output_dir=str(path), max_steps=1, use_cpu=True, disable_tqdm=True)
    trainer = Trainer(model=model, args=arguments, train_dataset=ROWS, data_collator=default_data_collator)
    trainer.train()
    trainer.save_model(str(path))


@pytest.mark.slow
def test_a_pickle_and_a_cache_switched_off_are_saved_and_not_published(
    cli: Callable[..., Any], make_model: Callable[..., Any], tmp_path: Path
) -> None:
    tokenizer = train_tokenizer(["the moon and the sea"] * 9, 270)
    stock_save(make_model("gpt2", vocab_size=len(tokenizer)), tmp_path / "stock")
    tokenizer.save_pretrained(tmp_path / "stock")
    assert (tmp_path / "stock/training_args.bin").exists()
    assert json.loads((tmp_path / "stock/config.json").read_text())["use_cache"] is False
    outcome = cli("publish", tmp_path / "stock", "--name", "poems", "--models", tmp_path / "models")
    assert outcome.code == 0, outcome.err
    version = tmp_path / "models/poems/1"
    assert json.loads((version / "config.json").read_text())["use_cache"] is True
    assert not [path.name for path in version.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]


@pytest.mark.usefixtures("check_here")
def test_a_padding_token_stays_in_what_stock_saves_and_not_in_what_is_published(
    cli: Callable[..., Any], make_model: Callable[..., Any], tmp_path: Path
) -> None:
    tokenizer = train_tokenizer(["the moon and the sea"] * 9, 270)
    base = tmp_path / "base"
    make_model("gpt2", vocab_size=len(tokenizer)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    padded = AutoModelForCausalLM.from_pretrained(base)
    padded.resize_token_embeddings(len(tokenizer) + 1, pad_to_multiple_of=64)
    stock_save(padded, tmp_path / "stock")
    assert json.loads((tmp_path / "stock/config.json").read_text())["vocab_size"] > len(tokenizer)
    (tmp_path / "texts").mkdir()
    for number in range(40):
        (tmp_path / f"texts/{number}.txt").write_text(f"the moon and the sea {number}")
    settings = [f"base.model={base}", f"data.sources.0.path={tmp_path / 'texts'}", "rows.block_size=8"]
    settings += ["training.epochs=1", "evaluation.stride=16", "gate.tolerance=100", "gate.min_words=0"]
    settings += ["gate.max_repetition=1", "gate.max_empty=1", "sample.max_new_tokens=4"]
    options = ("--name", "poems", "--models", tmp_path / "models", "--work-dir", tmp_path / "work")
    outcome = cli("run", "text-files", *options, *(f"--set={setting}" for setting in settings))
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "models/poems/1/config.json").read_text())["vocab_size"] == len(tokenizer)
