"""Tiny versions in a model directory, published through the real contract."""

import json
from collections.abc import Callable
from pathlib import Path

from rhapsode_contract.model_directory import Lease, ModelDirectory, publish
from rhapsode_trainer.publish.canary import record_canary, record_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel

from support.tiny_models import VOCABULARY_SIZE, tiny_model

_TEXTS = [
    "the sea, the sea and the stars above it, where the winds are singing still",
    "no star is alone, and no ship that ever sailed came home the same",
    "and she sang of the harbour, the lanterns, the long evenings after rain",
] * 3


def tiny_tokenizer() -> Tokenizer:
    """Byte-level BPE with exactly the vocabulary of the tiny models; id 0 is the end of text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY_SIZE
    return tokenizer


def publish_model(
    root: Path,
    name: str,
    model: PreTrainedModel,
    *,
    spoil: Callable[[Path], None] | None = None,
    canary: bool = False,
) -> int:
    """Publish `model` with the tiny tokenizer as the next champion.

    `canary` records one, as the trainer does. `spoil` changes files before they are sealed, after all is written.
    """

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        tiny_tokenizer().save(str(folder / "tokenizer.json"))
        if canary:
            write_canary(folder, model)
        if spoil:
            spoil(folder)

    folder = ModelDirectory(root).model(name)
    with Lease.acquire(folder, owner="test", ttl=60) as lease:
        return publish(
            folder,
            lease,
            write=write,
            dtype="float32",
            parameter_count=sum(parameter.numel() for parameter in model.parameters()),
            actor="test",
            reason="a test",
        )


def write_canary(folder: Path, model: PreTrainedModel) -> None:
    """What the trainer would record of `model`."""
    canary = record_canary(model, tiny_tokenizer().encode(_TEXTS[0]).ids, record_tokenizer(folder / "tokenizer.json"))
    (folder / "canary.json").write_text(json.dumps(canary.as_dict()), encoding="utf-8")


def publish_tiny(
    root: Path, name: str, architecture: str = "gpt2", *, seed: int = 0, canary: bool = False
) -> PreTrainedModel:
    """Publish a tiny model and return it, as the oracle of what the server answers."""
    model = tiny_model(architecture, seed=seed)
    publish_model(root, name, model, canary=canary)
    return model
