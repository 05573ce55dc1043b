"""What training starts from: a model and its tokenizer, from scratch or from a base."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .config import BaseConfig, Recipe
from .data.corpus import Corpus
from .data.tokenizer import train_tokenizer
from .errors import ConfigError
from .publish.source import load_source
from .training.model import build_model, generation_config


@dataclass(slots=True, kw_only=True)
class Prepared:
    """`pad` is the id that fills rows; `vocab_size` the number of tokens that are published."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    end_of_text: int
    pad: int
    vocab_size: int

    def unpad(self) -> None:
        """Take back the padding token that was added for training: nobody is ever to draw it."""
        if self.model.config.vocab_size != self.vocab_size:
            self.model.resize_token_embeddings(self.vocab_size)


def prepare(recipe: Recipe, corpus: Corpus) -> Prepared:
    """In fp32; fresh weights depend on the seed alone. Raises ConfigError and SourceError."""
    if recipe.base is not None:
        return _from_base(recipe, recipe.base)
    assert recipe.tokenizer is not None
    assert recipe.model is not None
    texts = [text for document in corpus.train for text in (document.prompt, document.text) if text]
    tokenizer = train_tokenizer(texts, recipe.tokenizer.vocab_size)
    model = build_model(recipe.model, recipe.generation, tokenizer, recipe.seed)
    return _prepared(recipe, model, tokenizer, pad=_end_of_text(tokenizer))


def _from_base(recipe: Recipe, base: BaseConfig) -> Prepared:
    model, tokenizer = load_source(base_folder(base))
    model = model.float()
    torch.manual_seed(recipe.seed)
    model.generation_config = generation_config(
        recipe.generation, bos_token_id=model.config.bos_token_id, eos_token_id=_end_of_text(tokenizer)
    )
    if not base.pad_token:
        return _prepared(recipe, model, tokenizer, pad=_end_of_text(tokenizer))
    # The tokenizer that is published does not know it: only rows do, and the model while it is trained.
    pad = len(tokenizer)
    prepared = _prepared(recipe, model, tokenizer, pad=pad)
    model.resize_token_embeddings(pad + 1)
    return prepared


def _prepared(recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, pad: int) -> Prepared:
    block_size, context = recipe.rows.block_size, model.config.max_position_embeddings
    if block_size > context:
        raise ConfigError(f"rows.block_size: {block_size} is more than the model's context of {context}")
    return Prepared(
        model=model,
        tokenizer=tokenizer,
        end_of_text=_end_of_text(tokenizer),
        pad=pad,
        vocab_size=model.config.vocab_size,
    )


def base_folder(base: BaseConfig) -> Path:
    """The folder of the base model; one of the hub is downloaded at its pinned revision. Raises ConfigError."""
    folder = Path(base.model)
    if folder.is_dir():
        return folder
    if not base.revision:
        raise ConfigError(f"base.model: no folder {base.model}; for a model of the hub give base.revision, its commit")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns: Sequence[str] = ("*.json", "*.safetensors", "merges.txt", "vocab.txt", "*.model")
    try:
        return Path(snapshot_download(base.model, revision=base.revision, allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ConfigError(f"base.model: {base.model} at {base.revision} cannot be had: {error}") from None


def _end_of_text(tokenizer: PreTrainedTokenizerFast) -> int:
    if tokenizer.eos_token_id is None:
        raise ConfigError("base.model: its tokenizer has no token that ends a text")
    return int(tokenizer.eos_token_id)
