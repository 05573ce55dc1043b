"""Training with `transformers.Trainer`, its traps removed, and the fast ways switched on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel, TrainingArguments, default_data_collator
from transformers.trainer_utils import unwrap_peft_model

from ..budget import Budget
from ..checkpoints import Checkpoints
from ..errors import ConfigError
from ..interruption import Interruption
from .arguments import half_precision, rows_needed, rows_per_step, training_arguments
from .compiling import pays
from .fast import FastPath, compile_layers, fast_path
from .loop import EpochEnd, Hooks, Loop
from .muon import Muon, parameter_groups
from .progress import Reporter
from .saving import Saving
from .speed import Speed

__all__ = ["half_precision", "rows_needed", "rows_per_step", "train", "training_arguments"]

Rows = Iterable[Mapping[str, Any]]  # a datasets.Dataset is one


def train(
    model: PreTrainedModel,
    rows: Rows,
    arguments: TrainingArguments,
    *,
    optimizer: str,
    report: Reporter,
    interruption: Interruption,
    checkpoints: Checkpoints | None = None,
    saving: Saving | None = None,
    budget: Budget | None = None,
    epoch_ends: Sequence[int] = (),
    on_epoch_end: EpochEnd | None = None,
    compiled: str = "never",
    speed: Speed | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[dict[str, float]]:
    """Trains `model` in place on the rows of the whole run, in their order, and returns the log.

    Goes on from the newest of `checkpoints`, which must be those of the same rows and arguments, and leaves one at the
    end. After each step in `epoch_ends` `on_epoch_end` gets the number of the epoch (from 1); what it returns is logged
    beside `epoch_end`. With a `budget` there may be fewer steps than `arguments.max_steps`. `compiled` is
    `training.compile` of a recipe. `speed` measures; `tell` is told where the model does not go the fast ways.

    Raises Interrupted after a signal, once a checkpoint is saved, CheckpointError and ConfigError.
    """
    if checkpoints is not None:  # a step is so many rows of the plan only while it consumes the same number of them
        checkpoints = replace(checkpoints, key=f"{checkpoints.key}, {rows_per_step(arguments)} rows a step")
    plan, speed = _whole_steps(rows, arguments), speed or Speed()
    path = _fast_path(model, plan, arguments, compiled, tell)
    speed.means = {"loss": path.loss, "attention": path.attention, "compiled": path.compiled}
    hooks = Hooks(
        report=report,
        interruption=interruption,
        checkpoints=checkpoints,
        saving=saving or Saving(),
        budget=budget,
        epoch_ends=epoch_ends,
        on_epoch_end=on_epoch_end,
        measuring=path.suspended,
        speed=speed,
    )
    loop = make_trainer(model, plan, arguments, optimizer, hooks, path.collate)
    with path.active():
        loop.run()
    interruption.check()
    # Trainer switches the cache off for training and would leave that in the configuration that is published.
    model.config.use_cache = True
    return loop.state.log_history


def make_trainer(
    model: PreTrainedModel,
    rows: Rows,
    arguments: TrainingArguments,
    optimizer: str,
    hooks: Hooks | None = None,
    collate: Any = default_data_collator,
) -> Loop:
    """A Trainer whose loss is exact. Rows carry no attention mask: with one, packed documents would see each other."""
    _correct(model)
    return Loop(
        hooks or Hooks(),
        model=model,
        args=arguments,
        train_dataset=_whole_steps(rows, arguments).with_format("torch"),
        data_collator=collate,
        optimizers=(_muon(model, arguments) if optimizer == "muon" else None, None),
    )


def _correct(model: PreTrainedModel) -> None:
    """GPT-2 and others get no loss type by their class name, and then Trainer counts a target too many in each row."""
    bare: Any = unwrap_peft_model(model)
    bare.loss_type = "ForCausalLM"
    model.config.use_cache = False


def _fast_path(
    model: PreTrainedModel,
    plan: datasets.Dataset,
    arguments: TrainingArguments,
    compiled: str,
    tell: Callable[[str], None],
) -> FastPath:
    _correct(model)
    torch.nn.Module.to(model, arguments.device)
    path = fast_path(model, plan, arguments, tell)
    tokens, cuda = len(plan) * len(plan[0]["input_ids"]), arguments.device.type == "cuda"
    if pays(compiled, cuda=cuda, tokens=tokens, parameters=model.num_parameters()):
        try:
            compile_layers(path, model)
        except ValueError as error:
            raise ConfigError(f"training.compile: {error}") from None
    return path


def _whole_steps(rows: Rows, arguments: TrainingArguments) -> datasets.Dataset:
    """The rows, and as many without targets as the last step lacks: several processes would fill it with first rows."""
    plan = rows if isinstance(rows, datasets.Dataset) else datasets.Dataset.from_list([dict(row) for row in rows])
    missing = rows_needed(arguments) - len(plan)
    assert missing < rows_per_step(arguments), "the rows of the whole run"
    if missing <= 0:
        return plan
    last = plan.with_format(None)[-1]
    filler = datasets.Dataset.from_list(
        [{**last, "labels": [-100] * len(last["labels"])}] * missing, features=plan.features
    )
    return datasets.concatenate_datasets([plan, filler])


def _muon(model: PreTrainedModel, arguments: TrainingArguments) -> Muon:
    return Muon(
        parameter_groups(model, arguments.weight_decay),
        lr=arguments.learning_rate,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        eps=arguments.adam_epsilon,
    )
