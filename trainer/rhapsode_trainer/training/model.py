"""A model with fresh weights, from what a recipe says about its architecture."""

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from ..errors import ConfigError

# What transformers itself finds out only when it generates, which is after training.
_RANGES = {
    "temperature": (1e-6, 100.0),
    "top_k": (0, 2**31),
    "top_p": (1e-6, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (1e-6, 1.0),
    "repetition_penalty": (1e-6, 100.0),
}


def build_model(
    architecture: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast, seed: int
) -> PreTrainedModel:
    """A causal language model in fp32 for the vocabulary of `tokenizer`; the weights depend on nothing but `seed`."""
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = _configuration(architecture, vocab_size=len(tokenizer), **ids)
    torch.manual_seed(seed)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except (ValueError, TypeError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        raise ConfigError(f"model: {error}") from None
    model.generation_config = generation_config(generation, **ids)
    return model


def _configuration(architecture: Mapping[str, Any], **facts: int | None) -> Any:
    options = dict(architecture)
    model_type = options.pop("model_type")
    try:
        known = AutoConfig.for_model(model_type)
    except ValueError:
        raise ConfigError(f"model.model_type: transformers knows no {model_type!r}") from None
    for name, value in options.items():
        if not hasattr(known, name) or name in facts:
            raise ConfigError(f"model.{name}: not a setting of {type(known).__name__} that a recipe can choose")
        if isinstance(value, int) and value < 0:
            raise ConfigError(f"model.{name}: {value} is negative")
    try:
        return AutoConfig.for_model(model_type, **options, **facts)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ConfigError(f"model: {' '.join(str(error).split())}") from None


def generation_config(options: Mapping[str, Any], **ids: int | None) -> GenerationConfig:
    """What a recipe says about generation, and the token ids. Raises ConfigError, naming the setting."""
    known = GenerationConfig().to_dict()
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"generation.{name}: not a setting of GenerationConfig")
        least, most = _RANGES.get(name, (-inf, inf))
        if name in _RANGES and (isinstance(value, str) or not least <= value <= most):
            raise ConfigError(f"generation.{name}: {value!r} is not a number from {least:g} to {most:g}")
    config = GenerationConfig(**options, **ids)
    try:
        config.validate(strict=True)
    except ValueError as error:
        raise ConfigError(f"generation: {error}") from None
    return config
