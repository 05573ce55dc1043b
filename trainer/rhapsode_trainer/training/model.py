"""A model with fresh weights, from what a recipe says about its architecture."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from ..errors import ConfigError


def build_model(
    architecture: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast, seed: int
) -> PreTrainedModel:
    """A causal language model in fp32 for the vocabulary of `tokenizer`; the weights depend on nothing but `seed`."""
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = _configuration(architecture, vocab_size=len(tokenizer), **ids)
    torch.manual_seed(seed)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, TypeError, AttributeError) as error:
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
    for name in options:
        if not hasattr(known, name) or name in facts:
            raise ConfigError(f"model.{name}: not a setting of {type(known).__name__} that a recipe can choose")
    try:
        return AutoConfig.for_model(model_type, **options, **facts)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"model: {error}") from None


def generation_config(options: Mapping[str, Any], **ids: int | None) -> GenerationConfig:
    """What a recipe says about generation, and the token ids. Raises ConfigError, naming the setting."""
    known = GenerationConfig().to_dict()
    for name in options:
        if name not in known:
            raise ConfigError(f"generation.{name}: not a setting of GenerationConfig")
    config = GenerationConfig(**options, **ids)
    try:
        config.validate(strict=True)
    except ValueError as error:
        raise ConfigError(f"generation: {error}") from None
    return config
