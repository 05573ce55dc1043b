"""The canary catches every version that is not what its publisher recorded, at every dtype, and no other.

The models are tiny and really trained. With RHAPSODE_SOAK=1 there are a hundred of them.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rhapsode_server.engine.build import build_engine
from rhapsode_server.engine.kernels.int8 import int8_kernel
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.quantize import Int8Linear, Int8PanelLinear
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.models.files import read_files
from safetensors.torch import load_file, save_file
from support.tiny_models import VOCABULARY_SIZE
from support.trained import checkpoints, write_version
from torch import Tensor

ARCHITECTURES = ("gpt2", "llama")
SOAK = "RHAPSODE_SOAK" in os.environ
NUM_SEEDS = 5 if SOAK else 1
STEPS, EVERY = (400, 40) if SOAK else (80, 40)
PRECISIONS: dict[str, dict[str, str]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "int8": {"quantization": "int8"},
}
Damage = Callable[[Path], None]


def build(version: Path, precision: str) -> str:
    """As a worker does. Returns what is said of the canary."""
    settings: dict[str, Any] = {"device": "cpu", "threads": 1, "max_sequences": 2, **PRECISIONS[precision]}
    return build_engine(EngineOptions(path=str(version), vocabulary_size=VOCABULARY_SIZE, **settings)).canary


@pytest.fixture(scope="module", params=ARCHITECTURES)
def versions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Versions of one architecture; each seed's follow each other as fine-tunes of the one before."""
    root = tmp_path_factory.mktemp(request.param)
    made: Iterator[Path] = (
        write_version(root / f"{seed}-{number}", model)
        for seed in range(NUM_SEEDS)
        for number, model in enumerate(checkpoints(request.param, seed=seed, steps=STEPS, every=EVERY))
    )
    return list(made)


@pytest.fixture
def version(versions: Sequence[Path], tmp_path: Path) -> Path:
    """The last of them, to be spoiled."""
    for file in versions[-1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_good_version_passes(versions: Sequence[Path], precision: str) -> None:
    for version in versions:
        read_files(version)
        assert "nats" in build(version, precision)


def edit_weights(version: Path, edit: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    weights = edit(load_file(version / "model.safetensors"))
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()}, version / "model.safetensors", {"format": "pt"}
    )


def swap_two_layers(version: Path) -> None:
    other = {"0": "1", "1": "0"}

    def swapped(name: str) -> str:
        return ".".join(other.get(part, part) for part in name.split("."))

    edit_weights(version, lambda weights: {swapped(name): weight for name, weight in weights.items()})


def change_one_layer_a_little(version: Path) -> None:
    """By a hundredth. What a fifth of that does is near the bound, on whichever side the machine's training ends."""
    edit_weights(version, lambda weights: {name: w * 1.01 if ".1." in name else w for name, w in weights.items()})


def move_the_positions(version: Path) -> None:
    """One table of positions, learned or computed, for another."""
    config = json.loads((version / "config.json").read_text())
    if config["model_type"] == "gpt2":
        edit_weights(version, lambda weights: {n: w.roll(1, 0) if "wpe" in n else w for n, w in weights.items()})
    else:
        config["rope_parameters"]["rope_theta"] *= 2
        (version / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("damage", [swap_two_layers, change_one_layer_a_little, move_the_positions])
def test_a_version_that_says_something_else_is_refused(version: Path, damage: Damage, precision: str) -> None:
    damage(version)
    with pytest.raises(ModelRefused, match=r"^canary_off: the weights in float32 .*nats a token, above 0.0001"):
        build(version, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_weights_of_another_fine_tune_are_refused(versions: Sequence[Path], version: Path, precision: str) -> None:
    (version / "model.safetensors").write_bytes((versions[-2] / "model.safetensors").read_bytes())
    with pytest.raises(ModelRefused, match=r"^canary_off"):
        build(version, precision)


INT8_LAYER = Int8PanelLinear if int8_kernel() else Int8Linear


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_int8_scales_that_are_off_are_refused_in_whatever_layer(
    version: Path, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_layers = count_linear_layers(version, monkeypatch)
    assert num_layers > 10
    for layer in range(num_layers):
        spoil_scales(monkeypatch, layer, factor)
        with pytest.raises(ModelRefused, match=rf"^canary_off: {INT8_LAYER.__name__} for [\w.]+ is off by "):
            build(version, "int8")
        monkeypatch.undo()


def count_linear_layers(version: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    made: list[Any] = []
    init = INT8_LAYER.__init__

    def counted(self: Any, *tensors: Any) -> None:
        init(self, *tensors)
        made.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(INT8_LAYER, "__init__", counted)
        build(version, "int8")
    return len(made)


def spoil_scales(monkeypatch: pytest.MonkeyPatch, layer: int, factor: float) -> None:
    init, numbers = INT8_LAYER.__init__, iter(range(1000))

    def spoiled(self: Any, *tensors: Any) -> None:
        init(self, *tensors)
        if next(numbers) == layer:
            self.scales_O *= factor

    monkeypatch.setattr(INT8_LAYER, "__init__", spoiled)


@pytest.mark.parametrize("at", [0, 5, 20, -2])
def test_two_merges_exchanged_are_refused(version: Path, at: int) -> None:
    file = version / "tokenizer.json"
    document = json.loads(file.read_text())
    merges = document["model"]["merges"]
    merges[at], merges[at + 1] = merges[at + 1], merges[at]
    file.write_text(json.dumps(document))
    with pytest.raises(ModelRefused, match=r"^tokenizer_mismatch: tokenizer\.json"):
        read_files(version)
