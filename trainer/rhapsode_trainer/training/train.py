"""Training with `transformers.Trainer`, its traps removed."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    default_data_collator,
)
from transformers.trainer_callback import PrinterCallback

from ..config import TrainingConfig
from ..errors import ConfigError
from ..interruption import Interruption
from .muon import Muon, parameter_groups
from .progress import Reporter

# Evaluation, saving and reporting are ours, and the plan of rows is already shuffled.
_FIXED: Mapping[str, Any] = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "train_sampling_strategy": "sequential",
    "logging_nan_inf_filter": False,
}


def training_arguments(config: TrainingConfig, *, seed: int, output_dir: Path) -> TrainingArguments:
    """The recipe's arguments beside those that a run depends on. Raises ConfigError, naming the field."""
    known = {field.name for field in fields(TrainingArguments) if field.init}
    taken = {*_FIXED, "seed", "output_dir", "dataloader_pin_memory"}
    for name in config.arguments:
        if name not in known or name in taken:
            raise ConfigError(
                f"training.arguments.{name}: not an argument of TrainingArguments that a recipe can choose"
            )
    fixed = {**_FIXED, "seed": seed, "output_dir": str(output_dir), "dataloader_pin_memory": torch.cuda.is_available()}
    try:
        return TrainingArguments(**fixed, **config.arguments)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"training.arguments: {error}") from None


def rows_needed(arguments: TrainingArguments) -> int:
    """How many rows the fixed number of steps consumes."""
    return int(arguments.max_steps * arguments.train_batch_size * arguments.gradient_accumulation_steps)


def train(
    model: PreTrainedModel,
    rows: Iterable[Mapping[str, list[int]]],
    arguments: TrainingArguments,
    *,
    optimizer: str,
    report: Reporter,
    interruption: Interruption,
) -> list[dict[str, float]]:
    """Trains `model` in place on packed rows and returns the log. Raises Interrupted, with the model half trained."""
    trainer = make_trainer(model, rows, arguments, optimizer)
    trainer.add_callback(_Watch(report, interruption))
    trainer.train()
    interruption.check()
    # Trainer switches the cache off for training and would leave that in the configuration that is published.
    model.config.use_cache = True
    return trainer.state.log_history


def make_trainer(
    model: PreTrainedModel, rows: Iterable[Mapping[str, list[int]]], arguments: TrainingArguments, optimizer: str
) -> Trainer:
    """A Trainer whose loss is exact: GPT-2 and others get no loss type by their class name, and then Trainer counts a
    target too many in each row. Rows carry no attention mask: with one, packed documents would see each other."""
    model.loss_type = "ForCausalLM"
    model.config.use_cache = False
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_list([dict(row) for row in rows]),
        data_collator=default_data_collator,
        optimizers=(_muon(model, arguments) if optimizer == "muon" else None, None),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _muon(model: PreTrainedModel, arguments: TrainingArguments) -> Muon:
    return Muon(
        parameter_groups(model, arguments.weight_decay),
        lr=arguments.learning_rate,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        eps=arguments.adam_epsilon,
    )


class _Watch(TrainerCallback):
    """Reports each step and ends training at the step in which a signal arrives."""

    def __init__(self, report: Reporter, interruption: Interruption) -> None:
        self._report = report
        self._interruption = interruption

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        losses = [entry["loss"] for entry in state.log_history[-1:] if "loss" in entry]
        self._report(state.global_step, losses[-1] if losses else None)
        if self._interruption.requested:
            control.should_training_stop = True
