"""`TrainingArguments` from what a recipe says: what a run depends on is fixed, what would go wrong is refused."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from ..config import TrainingConfig
from ..errors import ConfigError

# Evaluation, saving and reporting are ours, and the plan of rows is already shuffled. A loss that is not finite is
# shown as it is: Trainer's filter would put the mean of the others in its place.
_FIXED: Mapping[str, Any] = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "train_sampling_strategy": "sequential",
    "logging_nan_inf_filter": False,
}
# Every parameter of a language model takes part in every step: looking for those that do not costs a pass each time.
_DEFAULTS: Mapping[str, Any] = {"ddp_find_unused_parameters": False}
# Else the host waits in each step until the device has taken the batch.
_CUDA_DEFAULTS: Mapping[str, Any] = {"accelerator_config": {"non_blocking": True}}
_CHOSEN_HERE = ("seed", "output_dir", "dataloader_pin_memory", "enable_jit_checkpoint")


def training_arguments(config: TrainingConfig, *, seed: int, output_dir: Path) -> TrainingArguments:
    """The recipe's arguments beside those that a run depends on. Raises ConfigError, naming the field."""
    _check(config.arguments)
    cuda = torch.cuda.is_available()
    fixed = {**_FIXED, "seed": seed, "output_dir": str(output_dir), "dataloader_pin_memory": cuda}
    defaults = {**_DEFAULTS, **(_CUDA_DEFAULTS if cuda else {})}
    try:
        arguments = TrainingArguments(**fixed, **{**defaults, **config.arguments})
        device = arguments.device
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"training.arguments: {error}") from None
    if arguments.fp16 and device.type != "cuda":
        raise ConfigError(f"training.arguments.fp16: needs a CUDA device, and training is to run on the {device.type}")
    return arguments


def _check(chosen: Mapping[str, Any]) -> None:
    known = {field.name: field.default for field in fields(TrainingArguments) if field.init}
    for name, value in chosen.items():
        if name not in known or name in (*_FIXED, *_CHOSEN_HERE):
            raise ConfigError(
                f"training.arguments.{name}: not an argument of TrainingArguments that a recipe can choose"
            )
        # Of these transformers itself complains in the middle of training, if at all.
        is_number, default = isinstance(value, int | float), known[name]
        if isinstance(default, int | float) and not isinstance(default, bool) and not is_number:
            raise ConfigError(f"training.arguments.{name}: {value!r} is not a number")


def half_precision() -> dict[str, bool]:
    """The argument for mixed precision that suits the device: bf16, fp16 on older CUDA devices, none on a CPU."""
    if not torch.cuda.is_available():
        return {}
    return {"bf16": True} if torch.cuda.is_bf16_supported(including_emulation=False) else {"fp16": True}


def rows_per_step(arguments: TrainingArguments) -> int:
    """How many rows one optimizer step consumes, over all processes."""
    return int(arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size)


def rows_needed(arguments: TrainingArguments) -> int:
    """How many rows the fixed number of steps consumes."""
    return int(arguments.max_steps) * rows_per_step(arguments)
