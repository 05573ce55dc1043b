"""int8 weights: close to the layer that they replace, the same in any batch, and in every linear layer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine import quantize as quantizing
from rhapsode_server.engine.build import build_engine
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.proof import prove
from rhapsode_server.engine.quantize import Int8Linear, int8_bytes, quantize
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.engine.runner import ModelRunner
from support.tiny_models import VOCABULARY_SIZE, tiny_model
from torch import nn
from transformers.pytorch_utils import Conv1D


@settings(deadline=None)
@given(
    outputs=st.integers(1, 40),
    inputs=st.integers(1, 70),
    rows=st.integers(1, 9),
    has_bias=st.booleans(),
    size=st.sampled_from([1e-4, 1.0, 1e4]),
)
def test_it_is_close_to_the_linear_layer(outputs: int, inputs: int, rows: int, has_bias: bool, size: float) -> None:
    torch.manual_seed(outputs * inputs)
    exact, inputs_RI = nn.Linear(inputs, outputs, bias=has_bias), torch.randn(rows, inputs) * size
    with torch.inference_mode():
        made = Int8Linear(exact.weight, exact.bias)(inputs_RI)
        # Rounding of a weight and of an activation, each at most half a level of 127, summed over the inputs.
        largest = exact.weight.abs().amax() * inputs_RI.abs().amax(1, keepdim=True)
        assert ((made - exact(inputs_RI)).abs() <= inputs * largest * (1 / 127 + 1e-5) + 1e-6).all()


def test_a_row_does_not_depend_on_its_batch_not_even_on_a_huge_one_beside_it() -> None:
    torch.manual_seed(0)
    made, inputs_RI = Int8Linear(torch.randn(96, 64), torch.randn(96)), torch.randn(33, 64)
    inputs_RI[5] *= 1e4
    together = made(inputs_RI)
    alone = torch.cat([made(row[None]) for row in inputs_RI])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("zeros", ["weight", "inputs"])
def test_nothing_but_zeros_gives_the_bias(zeros: str) -> None:
    weight, inputs_RI, bias = torch.randn(8, 16), torch.randn(3, 16), torch.randn(8)
    (weight if zeros == "weight" else inputs_RI).zero_()
    assert torch.equal(Int8Linear(weight, bias)(inputs_RI), bias.expand(3, 8))


def test_what_is_not_finite_stays_so() -> None:
    made, inputs_RI = Int8Linear(torch.randn(8, 16), None), torch.randn(2, 16)
    inputs_RI[1, 3] = torch.nan
    outputs = made(inputs_RI)
    assert outputs[0].isfinite().all()
    assert outputs[1].isnan().all()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "opt", "gpt_neox"])
def test_every_linear_layer_is_replaced_and_the_engine_runs_it_exactly(load: Any, architecture: str) -> None:
    runner = load(architecture)
    before = runner.loaded
    loaded = quantize(before)
    assert (loaded.dtype, loaded.parameter_count) == ("int8", before.parameter_count)
    assert not [name for name, module in loaded.model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    assert int8_bytes(loaded.model) > loaded.vocabulary_size * 64, "the layer that gives the logits is one of them"
    prove(ModelRunner(loaded=loaded, vocabulary_size=VOCABULARY_SIZE, max_sequences=2))


def test_a_layer_that_this_machine_gets_wrong_is_named(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizing, "_ZERO_POINT", quantizing._ZERO_POINT + 20)
    with pytest.raises(ModelRefused, match=r"^canary_off: transformer\.h\.0\.attn\.c_attn in int8 is off by"):
        quantize(load("gpt2").loaded)


def build(path: Path, **overrides: Any) -> Any:
    tiny_model("llama").save_pretrained(path)
    settings = {"path": str(path), "vocabulary_size": VOCABULARY_SIZE, "device": "cpu", "max_sequences": 2}
    return build_engine(EngineOptions(**settings | overrides))


def test_it_takes_a_fraction_of_the_memory(tmp_path: Path) -> None:
    exact, reduced = (build(tmp_path, quantization=name, kv_cache_memory=2**20) for name in ("none", "int8"))
    assert reduced.loaded.dtype == "int8"
    cache = 2**20 // (16 * 768) * 16 * 768
    # The embedding stays as it is.
    assert (reduced.memory_bytes - cache) < 0.5 * (exact.memory_bytes - cache)


def test_it_is_for_float32(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"^load_failed: --quantization int8 is for --device cpu --dtype float32"):
        build(tmp_path, quantization="int8", dtype="bfloat16")
