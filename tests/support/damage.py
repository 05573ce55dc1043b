"""Ways in which a version can be wrong. Each is applied to its folder, or to the model before it is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

WEIGHTS = "model.safetensors"


def truncate(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def flip(name: str, at: float = 0.5) -> Callable[[Path], None]:
    """One bit of the byte that stands `at` this part of the file."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[int(at * (len(content) - 1))] ^= 1
        (folder / name).write_bytes(content)

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def exchange(name: str, other: Path) -> Callable[[Path], None]:
    """With the file of the same name in `other`."""
    return lambda folder: Path(shutil.copyfile(other / name, folder / name)).touch()


def edit_weights(change: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def edit_json(name: str, **fields: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(document | fields))

    return damage


def put_nan(weights: dict[str, Tensor]) -> None:
    weights["transformer.h.1.mlp.c_fc.weight"][3, 5] = torch.nan


def reshape(weights: dict[str, Tensor]) -> None:
    name = "transformer.h.1.mlp.c_fc.weight"
    weights[name] = weights[name].T.contiguous()


def swap_layers(weights: dict[str, Tensor]) -> None:
    for name in [each for each in weights if each.startswith("transformer.h.0.")]:
        other = name.replace(".h.0.", ".h.1.")
        weights[name], weights[other] = weights[other], weights[name]


def swap_merges(folder: Path) -> None:
    """Two merges of the tokenizer change places: other texts become other ids."""
    document = json.loads((folder / "tokenizer.json").read_text())
    merges = document["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    (folder / "tokenizer.json").write_text(json.dumps(document))


def add_word(folder: Path) -> None:
    """The tokenizer knows an id that the model has not."""
    document = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary["beyond"] = max(vocabulary.values()) + 1
    (folder / "tokenizer.json").write_text(json.dumps(document))


def fails_from_position(model: PreTrainedModel, position: int) -> PreTrainedModel:
    """Every weight is finite, and so is every logit before this position; from there on they are NaN."""
    with torch.no_grad():
        row = model.transformer.wpe.weight[position:]
        row[:, ::2], row[:, 1::2] = 3e38, -3e38
    return model
