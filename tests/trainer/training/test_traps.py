"""What goes wrong with a stock Trainer, in the same run in which ours goes right. Its loss is in test_training.py."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rhapsode_trainer.config import BaseConfig, load_recipe
from rhapsode_trainer.data.corpus import Corpus
from rhapsode_trainer.data.tokenizer import train_tokenizer
from rhapsode_trainer.errors import ConfigError
from rhapsode_trainer.preparing import base_folder, prepare
from rhapsode_trainer.training.train import training_arguments
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

ROWS = [{"input_ids": [0, 5, 6, 7] * 4, "labels": [0, 5, 6, 7] * 4}] * 4


def stock_trainer(model: Any, path: Path, **options: Any) -> Trainer:
    chosen = {"max_steps": 3, "learning_rate": 0.01, "logging_steps": 1, **options.pop("arguments", {})}
    arguments = TrainingArguments(output_dir=str(path), disable_tqdm=True, use_cpu=True, save_strategy="no", **chosen)
    options = {"train_dataset": ROWS, "data_collator": default_data_collator, **options}
    return Trainer(model=model, args=arguments, **options)


def test_the_cache_is_on_again_after_training(tiny: Callable[..., Any], tmp_path: Path) -> None:
    stock = stock_trainer(tiny().make_model("gpt2"), tmp_path)
    stock.train()
    assert stock.model.config.use_cache is False, "and so it is saved"
    run = tiny()
    run.train()
    assert run.model.config.use_cache is True
    ids = torch.tensor([[1, 2, 3]])
    assert stock.model(ids).past_key_values is None
    assert run.model(ids).past_key_values is not None


class _Break(TrainerCallback):
    """Makes every loss from the second step on NaN."""

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        with torch.no_grad():
            options["model"].get_input_embeddings().weight.fill_(math.nan)


def test_a_loss_that_is_no_number_is_shown(
    tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = stock_trainer(tiny().make_model("gpt2"), tmp_path, callbacks=[_Break()])
    stock.train()
    assert all(math.isfinite(entry["loss"]) for entry in stock.state.log_history if "loss" in entry)

    run = tiny(max_steps=3)

    def spoil(step: int) -> None:
        with torch.no_grad():
            run.model.get_input_embeddings().weight.fill_(math.nan)

    run.on_step = spoil
    losses = [entry["loss"] for entry in run.train() if "loss" in entry]
    assert [math.isnan(loss) for loss in losses] == [False, True, True]


def test_fp16_without_a_device_for_it_is_refused(tmp_path: Path) -> None:
    assert TrainingArguments(output_dir=str(tmp_path), use_cpu=True, fp16=True).fp16, "accepted without a word"
    config = load_recipe("quickstart").training
    chosen = {**config.arguments, "fp16": True, "use_cpu": True}
    with pytest.raises(ConfigError, match=r"training\.arguments\.fp16: needs a CUDA device"):
        training_arguments(dataclasses.replace(config, arguments=chosen), seed=0, output_dir=tmp_path)


def test_a_base_model_in_bf16_is_trained_in_fp32(make_model: Callable[..., Any], tmp_path: Path) -> None:
    make_model("gpt2").bfloat16().save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16
    train_tokenizer(["a text"], 300).save_pretrained(tmp_path)
    recipe = load_recipe(
        "quickstart", ["model=null", "tokenizer=null", f"base={{model: {tmp_path}}}", "rows.block_size=8"]
    )
    assert (
        prepare(recipe, Corpus(train=(), validation=(), held_out=(), files={}, skipped={})).model.dtype == torch.float32
    )


def test_a_base_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"base\.model: no folder nobody/nothing; .* give base\.revision"):
        base_folder(BaseConfig(model="nobody/nothing"))
    with pytest.raises(ConfigError, match=r"base\.model: nobody/nothing at 0000 cannot be had"):
        base_folder(BaseConfig(model="nobody/nothing", revision="0000"))


def test_the_end_of_a_text_is_learned_where_padding_is_the_same_token(tiny: Callable[..., Any], tmp_path: Path) -> None:
    vocabulary = {"<end>": 0, **{f"w{index}": index for index in range(1, 300)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>")
    documents = [[1, 2, 3, 0], [4, 5, 0]] * 4
    options = {"arguments": {"max_steps": 60, "learning_rate": 0.03}}
    stock = stock_trainer(
        tiny().make_model("gpt2"),
        tmp_path,
        train_dataset=[{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in documents],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        **options,
    )
    stock.train()
    run = tiny(max_steps=60, learning_rate=0.03)
    row = {"input_ids": [0, 1, 2, 3, 0, 4, 5, 0], "position_ids": [0, 1, 2, 3, 0, 1, 2, 0]}
    run.train(rows=[{**row, "labels": row["input_ids"]}] * 120)
    assert _probability_of_the_end(stock.model, [1, 2, 3]) < 0.1
    assert _probability_of_the_end(run.model, [0, 1, 2, 3]) > 0.8


def _probability_of_the_end(model: Any, ids: list[int]) -> float:
    with torch.no_grad():
        return float(model.eval()(torch.tensor([ids])).logits[0, -1].softmax(-1)[0])
