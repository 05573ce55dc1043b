"""Low-rank adapters (Hu et al. 2021) by peft: trained beside frozen weights, then merged into an ordinary model."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    from peft import PeftModel
    from torch.nn import Module
    from transformers import PreTrainedModel

AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """`r` is the rank; the product of the two factors is scaled by alpha / r; `dropout` falls on what goes into them.

    `target_modules` holds names of linear modules, separated by commas (`c_attn,c_proj`), or is `auto`: every linear
    module except the output layer.
    """

    r: int
    alpha: float
    dropout: float
    target_modules: str

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"r: {self.r!r} is less than 1")
        if not self.alpha > 0:
            raise ValueError(f"alpha: {self.alpha!r} is not more than 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: {self.dropout!r} is not between 0 and 1")
        if not all(self.target_names):
            raise ValueError(f"target_modules: {self.target_modules!r} has an empty name")

    @property
    def target_names(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.target_modules.split(","))


def attach(model: "PreTrainedModel", settings: LoraSettings) -> "PeftModel":
    """Wraps `model`, in place: its weights are frozen; the factors to be trained are drawn from torch's generator.

    The output is unchanged at first. Raises ConfigError for a module that cannot be adapted, or without peft.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ConfigError("lora: needs a library: pip install 'rhapsode-trainer[lora]'") from None
    from transformers.pytorch_utils import Conv1D

    targets = _targets(model, settings)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides it by r and takes any number
        lora_dropout=settings.dropout,
        target_modules=sorted(targets),
        # GPT-2's Conv1D keeps its weight as (in, out), nn.Linear as (out, in).
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in targets.values()),
    )
    with warnings.catch_warnings():
        # peft asks the model by an attribute that transformers has renamed.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(model, config)


def merge(model: "PeftModel") -> "PreTrainedModel":
    """The model that was wrapped, with the factors added to its weights: nothing of the adapter is left in it."""
    merged: PreTrainedModel = model.merge_and_unload()
    return merged.requires_grad_(True)


def save_adapter(model: "PeftModel", folder: Path) -> None:
    """Writes the factors alone (safetensors) and their settings."""
    model.save_pretrained(str(folder), save_embedding_layers=False)


def _targets(model: "PreTrainedModel", settings: LoraSettings) -> dict[str, "Module"]:
    """The modules to adapt by their full names. A module that shares its weight with another is none of them."""
    found: dict[str, Module] = {}
    linear = dict(_linear_modules(model))
    for target in settings.target_names:
        modules = linear if target == AUTO else _named(model, target)
        for name, module in modules.items():
            if name not in linear:
                raise ConfigError(f"lora.target_modules: {name!r} is not a linear module, but {type(module).__name__}")
            if not _is_embedding(model, module):
                found[name] = module
            elif target != AUTO:
                raise ConfigError(f"lora.target_modules: {name!r} is an embedding or the output layer: not adapted")
    return found


def _named(model: "PreTrainedModel", target: str) -> dict[str, "Module"]:
    modules = {name: module for name, module in model.named_modules() if f".{name}".endswith(f".{target}")}
    if not modules:
        known = sorted({name.rpartition(".")[2] for name, _ in _linear_modules(model)})
        raise ConfigError(f"lora.target_modules: the model has no {target!r}; it has: {', '.join(known)}")
    return modules


def _linear_modules(model: "PreTrainedModel") -> Iterator[tuple[str, "Module"]]:
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    return ((name, module) for name, module in model.named_modules() if isinstance(module, (Linear, Conv1D)))


def _is_embedding(model: "PreTrainedModel", module: Any) -> bool:
    """The output layer often is the input embedding too: what is added to one would change the other."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return any(end is not None and module.weight is end.weight for end in ends)
