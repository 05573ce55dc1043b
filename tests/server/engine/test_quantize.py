"""int8 weights: close to the layer that they replace, the same in any batch, and in every linear layer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rhapsode_server.engine import quantize as quantizing
from rhapsode_server.engine.build import build_engine
from rhapsode_server.engine.kernels.int8 import int8_kernel
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.proof import prove
from rhapsode_server.engine.quantize import Int8Linear, Int8PanelLinear, quantize
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.engine.runner import ModelRunner
from support.tiny_models import VOCABULARY_SIZE, tiny_model
from support.trained import checkpoints, poem_rows
from torch import nn
from transformers.pytorch_utils import Conv1D

Kind = type[Int8Linear] | type[Int8PanelLinear]

has_kernel = pytest.mark.skipif(not int8_kernel(), reason="no AVX-512 VNNI on this machine, or no kernels were built")


@pytest.fixture(params=[Int8Linear, pytest.param(Int8PanelLinear, marks=has_kernel)])
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    outputs=st.integers(1, 140),
    inputs=st.integers(1, 70),
    rows=st.integers(1, 9),
    has_bias=st.booleans(),
    size=st.sampled_from([1e-4, 1.0, 1e4]),
)
def test_it_is_close_to_the_linear_layer(
    kind: Kind, outputs: int, inputs: int, rows: int, has_bias: bool, size: float
) -> None:
    torch.manual_seed(outputs * inputs)
    exact, inputs_RI = nn.Linear(inputs, outputs, bias=has_bias), torch.randn(rows, inputs) * size
    with torch.inference_mode():
        made = kind(exact.weight, exact.bias)(inputs_RI)
        # Rounding of a weight and of an activation, each at most half a level of 127, summed over the inputs.
        largest = exact.weight.abs().amax() * inputs_RI.abs().amax(1, keepdim=True)
        assert ((made - exact(inputs_RI)).abs() <= inputs * largest * (1 / 127 + 1e-5) + 1e-6).all()


@pytest.mark.parametrize("rows", [33, 200])
def test_a_row_does_not_depend_on_its_batch_not_even_on_a_huge_one_beside_it(kind: Kind, rows: int) -> None:
    torch.manual_seed(0)
    made, inputs_RI = kind(torch.randn(96, 64), torch.randn(96)), torch.randn(rows, 64)
    inputs_RI[5] *= 1e4
    together = made(inputs_RI)
    alone = torch.cat([made(row[None]) for row in inputs_RI])
    assert torch.equal(together, alone)


@has_kernel
@settings(deadline=None, max_examples=200)
@given(
    rows=st.integers(0, 120),
    inputs=st.integers(1, 300),
    outputs=st.integers(1, 140),
    exponent=st.integers(-30, 30),
    is_halves=st.booleans(),
    outlier=st.sampled_from([0, 30, 1000]),
    has_bias=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_kernel_gives_what_onednn_gives(
    rows: int, inputs: int, outputs: int, exponent: int, is_halves: bool, outlier: int, has_bias: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs_RI = torch.randn(rows, inputs, generator=generator)
    inputs_RI[::2, :1] += outlier
    if is_halves:  # between two levels, where rounding goes to the even one
        inputs_RI = (inputs_RI * 2).round() / 2
    inputs_RI *= 10.0**exponent
    weight_OI = torch.randn(outputs, inputs, generator=generator)
    bias_O = torch.randn(outputs, generator=generator) if has_bias else None
    expected_RO, actual_RO = (each(weight_OI, bias_O)(inputs_RI) for each in (Int8Linear, Int8PanelLinear))
    # The compiler may leave out a rounding before the rest of a row is taken: a 254th of a level for each input.
    level_R1 = inputs_RI.abs().amax(1, keepdim=True) / 127 / 254 * is_coarse(inputs_RI)
    bound_RO = 1e-5 * (1 + expected_RO.abs().amax(1, keepdim=True)) + level_R1 * weight_OI.abs().sum(1)
    assert ((actual_RO - expected_RO).abs() <= bound_RO).all()


def is_coarse(inputs_RI: torch.Tensor) -> torch.Tensor:
    """[R, 1]: whether a row has a second one."""
    return inputs_RI.abs().amax(1, keepdim=True) > 9.9 * inputs_RI.square().mean(1, keepdim=True).sqrt()


@has_kernel
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e37, 1e-42])
def test_the_kernel_knows_what_is_no_ordinary_number(value: float) -> None:
    inputs_RI, weight_OI = torch.randn(3, 40), torch.randn(70, 40)
    inputs_RI[1, 7] = value
    expected_RO, actual_RO = (each(weight_OI, None)(inputs_RI) for each in (Int8Linear, Int8PanelLinear))
    assert torch.allclose(actual_RO[[0, 2]], expected_RO[[0, 2]], rtol=1e-5, atol=1e-5)
    assert torch.equal(actual_RO[1].isfinite(), expected_RO[1].isfinite())
    assert actual_RO[1].isfinite().all() == (abs(value) < torch.inf)


@pytest.mark.parametrize("outlier", [0.0, 50.0, 1e4])
def test_one_huge_activation_costs_the_others_nothing(kind: Kind, outlier: float) -> None:
    torch.manual_seed(0)
    weight, inputs_RI = torch.randn(64, 512), torch.randn(5, 512)
    inputs_RI[2, 100] = outlier
    weight[:, 100] = 0  # so that the others decide
    exact_RO = inputs_RI @ weight.T
    error_R = (kind(weight, None)(inputs_RI) - exact_RO).norm(dim=1) / exact_RO.norm(dim=1)
    assert error_R.max() < (0.02 if outlier < 100 else 0.3)


@pytest.mark.parametrize("zeros", ["weight", "inputs"])
def test_nothing_but_zeros_gives_the_bias(kind: Kind, zeros: str) -> None:
    weight, inputs_RI, bias = torch.randn(8, 16), torch.randn(3, 16), torch.randn(8)
    (weight if zeros == "weight" else inputs_RI).zero_()
    assert torch.equal(kind(weight, bias)(inputs_RI), bias.expand(3, 8))


def test_what_is_not_finite_stays_so(kind: Kind) -> None:
    made, inputs_RI = kind(torch.randn(8, 16), None), torch.randn(2, 16)
    inputs_RI[1, 3] = torch.nan
    outputs = made(inputs_RI)
    assert outputs[0].isfinite().all()
    assert outputs[1].isnan().all()


@pytest.fixture(params=[False, pytest.param(True, marks=has_kernel)], ids=["oneDNN", "kernel"])
def with_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the machine has the instructions."""
    if not request.param:
        monkeypatch.setattr(quantizing, "int8_kernel", lambda: None)
    return bool(request.param)


@pytest.mark.usefixtures("with_kernel")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "opt", "gpt_neox"])
def test_every_linear_layer_is_replaced_and_the_engine_runs_it_exactly(load: Any, architecture: str) -> None:
    runner = load(architecture)
    before = runner.loaded
    loaded = quantize(before)
    assert (loaded.dtype, loaded.parameter_count) == ("int8", before.parameter_count)
    assert not [name for name, module in loaded.model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    assert not isinstance(loaded.model.get_output_embeddings(), nn.Linear)
    prove(ModelRunner(loaded=loaded, vocabulary_size=VOCABULARY_SIZE, max_sequences=2))


@pytest.mark.usefixtures("with_kernel")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_trained_model_keeps_its_perplexity(load: Any, architecture: str) -> None:
    (model,) = checkpoints(architecture, seed=0, steps=40, every=40)
    runner, rows = load(model.eval()), poem_rows(torch.Generator().manual_seed(1))
    with torch.inference_mode():
        exact = runner.loaded.model(input_ids=rows, labels=rows).loss
        reduced = quantize(runner.loaded).model(input_ids=rows, labels=rows).loss
    assert exact < 4.5, "it did learn something"
    assert abs(float((reduced - exact).exp()) - 1) < 0.01


def test_a_layer_that_this_machine_gets_wrong_is_named(
    load: Any, monkeypatch: pytest.MonkeyPatch, with_kernel: bool
) -> None:
    monkeypatch.setattr(quantizing, "_ZERO_POINT", quantizing._ZERO_POINT + 20)
    monkeypatch.setattr("rhapsode_server.engine.kernels.int8._ZERO_LEVEL", 148)
    name = "Int8PanelLinear" if with_kernel else "Int8Linear"
    with pytest.raises(ModelRefused, match=rf"^canary_off: {name} for transformer\.h\.0\.attn\.c_attn is off by"):
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
