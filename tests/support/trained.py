"""Tiny models that really learned something, and the versions that a trainer would make of them."""

import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path

import torch
from rhapsode_trainer.publish.canary import record_canary, record_tokenizer
from transformers import PreTrainedModel

from support.publishing import tiny_tokenizer
from support.tiny_models import tiny_model

_ROWS, _LENGTH = 8, 64
_LEARNING_RATE = 3e-3
_NUM_CHARACTERS = 60_000
_PROMPT = "Shall I compare thee to a summer's day? Thou art more lovely"


def checkpoints(architecture: str, *, seed: int, steps: int, every: int) -> Iterator[PreTrainedModel]:
    """One model as it learns from poems, after so many steps each; it goes on to change when the next is asked for."""
    model = tiny_model(architecture, seed=seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.div_(4)  # as transformers initialises
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        rows = poem_rows(generator)
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % every == 0:
            yield model


def write_version(folder: Path, model: PreTrainedModel) -> Path:
    """What servers read of a version, its canary among it. Returns the folder."""
    model.save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    canary = record_canary(model, tokenizer.encode(_PROMPT).ids, record_tokenizer(folder / "tokenizer.json"))
    (folder / "canary.json").write_text(json.dumps(canary.as_dict()))
    return folder


@cache
def _ids() -> torch.Tensor:
    lines = (resources.files("rhapsode_trainer.data") / "poems" / "poems.jsonl").read_text(encoding="utf-8")
    text = "\n\n".join(json.loads(line)["text"] for line in lines.splitlines())[:_NUM_CHARACTERS]
    return torch.tensor(tiny_tokenizer().encode(text).ids)


def poem_rows(generator: torch.Generator) -> torch.Tensor:
    """Token ids of a few passages."""
    starts = torch.randint(len(_ids()) - _LENGTH, (_ROWS,), generator=generator).tolist()
    return torch.stack([_ids()[start : start + _LENGTH] for start in starts])
