"""int8 weights: close to the layer that they replace, the same in any batch, and in every linear layer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine import quantize as quantizing
from rhapsode_server.engine.build import build_engine
from rhapsode_server.engine.kernels.int8 import int8_kernels
from rhapsode_server.engine.linears import replaced_bytes
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.proof import prove
from rhapsode_server.engine.quantize import Int8Linear, TorchRows, quantize
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.engine.runner import ModelRunner
from support.tiny_models import VOCABULARY_SIZE, tiny_model
from support.trained import checkpoints, poem_rows
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


@pytest.fixture
def kernels() -> Any:
    return int8_kernels() or pytest.skip("the kernels are not built here")


BOUNDS = {"highest_level": 127, "smallest": 1e-12}


@settings(deadline=None, max_examples=200)
@given(
    rows=st.integers(0, 9),
    columns=st.integers(1, 300),
    spare=st.integers(0, 3),
    exponent=st.integers(-44, 33),
    is_halves=st.booleans(),
    outlier=st.sampled_from([0, 30, 1000]),
    levels=st.sampled_from([63, 127]),
    has_bias=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_kernels_give_what_torch_gives(
    rows: int,
    columns: int,
    spare: int,
    exponent: int,
    is_halves: bool,
    outlier: int,
    levels: int,
    has_bias: bool,
    seed: int,
) -> None:
    kernels = int8_kernels()
    if kernels is None:
        pytest.skip("the kernels are not built here")
    generator = torch.Generator().manual_seed(seed)
    inputs_RI = torch.randn(rows, columns, generator=generator)
    inputs_RI[::2, :1] += outlier
    if is_halves:  # between two levels, where rounding goes to the even one
        inputs_RI = (inputs_RI * 2).round() / 2
    inputs_RI *= 10.0**exponent
    expected, actual = (
        each.quantize(inputs_RI, lambda count: count + spare, highest_level=levels, smallest=1e-12)
        for each in (TorchRows(), kernels)
    )
    assert torch.equal(actual[0][:rows], expected[0][:rows])
    assert torch.equal(actual[1], expected[1])
    assert torch.equal(actual[2], expected[2])
    assert actual[0].shape == expected[0].shape == (rows + len(actual[2]) + spare, columns)
    # The compiler may leave out a rounding before the rest is taken.
    rests = slice(rows, rows + len(actual[2]))
    assert ((actual[0][rests].int() - expected[0][rests].int()).abs() <= 1).all()
    product_CO, bias_O = torch.randn(len(actual[0]), columns, generator=generator), torch.randn(columns)
    arguments = (expected[1], bias_O if has_bias else None, expected[2])
    expected_RO = TorchRows().dequantize(product_CO, *arguments, highest_level=levels)
    actual_RO = kernels.dequantize(product_CO.clone(), *arguments, highest_level=levels)
    assert torch.allclose(actual_RO, expected_RO, rtol=1e-6, atol=1e-6 * max(1.0, 10.0**exponent))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 3e38, 1e-42])
def test_the_kernels_know_what_is_no_ordinary_number(kernels: Any, value: float) -> None:
    inputs_RI = torch.randn(3, 40)
    inputs_RI[1, 7] = value
    (expected, expected_R1, _), (actual, actual_R1, _) = (
        each.quantize(inputs_RI, lambda count: count, **BOUNDS) for each in (TorchRows(), kernels)
    )
    assert torch.equal(actual[[0, 2]], expected[[0, 2]])
    assert torch.allclose(actual_R1, expected_R1, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("outlier", [0.0, 50.0, 1e4])
def test_one_huge_activation_costs_the_others_nothing(outlier: float) -> None:
    torch.manual_seed(0)
    weight, inputs_RI = torch.randn(64, 512), torch.randn(5, 512)
    inputs_RI[2, 100] = outlier
    weight[:, 100] = 0  # so that the others decide
    exact_RO = inputs_RI @ weight.T
    error_R = (Int8Linear(weight, None)(inputs_RI) - exact_RO).norm(dim=1) / exact_RO.norm(dim=1)
    assert error_R.max() < (0.02 if outlier < 100 else 0.3)


def test_without_kernels_the_layer_is_the_same(kernels: Any) -> None:
    torch.manual_seed(0)
    made, inputs_RI = Int8Linear(torch.randn(96, 64), torch.randn(96)), torch.randn(1, 33, 64)
    expected = made(inputs_RI)
    made.rows = TorchRows()
    assert torch.allclose(made(inputs_RI), expected, rtol=1e-6, atol=1e-6)


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
    assert replaced_bytes(loaded.model) > loaded.vocabulary_size * 64, "the layer that gives the logits is one of them"
    prove(ModelRunner(loaded=loaded, vocabulary_size=VOCABULARY_SIZE, max_sequences=2))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_trained_model_keeps_its_perplexity(load: Any, architecture: str) -> None:
    (model,) = checkpoints(architecture, seed=0, steps=40, every=40)
    runner, rows = load(model.eval()), poem_rows(torch.Generator().manual_seed(1))
    with torch.inference_mode():
        exact = runner.loaded.model(input_ids=rows, labels=rows).loss
        reduced = quantize(runner.loaded).model(input_ids=rows, labels=rows).loss
    assert exact < 4.5, "it did learn something"
    assert abs(float((reduced - exact).exp()) - 1) < 0.01


def test_a_layer_that_this_machine_gets_wrong_is_named(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizing, "_ZERO_POINT", quantizing._ZERO_POINT + 20)
    with pytest.raises(ModelRefused, match=r"^canary_off: Int8Linear for transformer\.h\.0\.attn\.c_attn is off by"):
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
