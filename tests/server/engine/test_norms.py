"""The kernel of norms against torch's in twice the precision, and which norms of models it takes the place of."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine import kernels
from rhapsode_server.engine.kernels import norm
from rhapsode_server.engine.kernels.norm import FastNorm, fast_norm, replace_norms
from support.tiny_models import tiny_model
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="the kernels are not built")


def layer_norm(num_inputs: int, has_bias: bool) -> nn.Module:
    made = nn.LayerNorm(num_inputs, eps=1e-5, bias=has_bias)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def rms_norm(num_inputs: int) -> nn.Module:
    made = LlamaRMSNorm(num_inputs, eps=1e-6)
    nn.init.normal_(made.weight)
    return made


@pytest.mark.parametrize("kind", ["layer", "layer without bias", "RMS"])
@given(num_rows=st.integers(0, 40), num_inputs=st.integers(1, 200), offset=st.sampled_from([0.0, 3.0]))
@settings(max_examples=40)
@torch.no_grad()
def test_it_computes_what_torch_does(kind: str, num_rows: int, num_inputs: int, offset: float) -> None:
    torch.manual_seed(num_rows)
    exact = rms_norm(num_inputs) if kind == "RMS" else layer_norm(num_inputs, kind == "layer")
    made = fast_norm(exact)
    assert made
    inputs_RI = torch.randn(2, num_rows, num_inputs) + offset
    actual_RI = made(inputs_RI)
    torch.testing.assert_close(actual_RI.double(), exact.double()(inputs_RI.double()).double(), rtol=1e-4, atol=1e-4)
    assert inputs_RI.shape == actual_RI.shape


@torch.no_grad()
def test_a_row_does_not_depend_on_others_or_on_how_many_threads_there_are() -> None:
    made, inputs_RI = fast_norm(layer_norm(700, has_bias=True)), torch.randn(300, 700)
    assert made
    alone = torch.cat([made(row_I[None]) for row_I in inputs_RI])
    assert torch.equal(made(inputs_RI), alone)
    transposed = inputs_RI.t().contiguous().t()
    assert torch.equal(made(transposed), alone), "of any strides"


@torch.no_grad()
def test_nan_is_not_lost_and_other_types_are_torchs() -> None:
    exact = layer_norm(40, has_bias=True)
    made, inputs_RI = fast_norm(exact), torch.randn(3, 40)
    assert made
    inputs_RI[1, 7] = torch.nan
    assert made(inputs_RI).isnan().any(1).tolist() == [False, True, False]
    doubled = exact.double()
    assert torch.equal(made(inputs_RI[:1].double()), doubled(inputs_RI[:1].double()))


def classes(model: Any) -> set[str]:
    return {type(module).__name__ for module in model.modules() if "Norm" in type(module).__name__}


@pytest.mark.parametrize(
    ("architecture", "left"),
    [("gpt2", "LayerNorm"), ("opt", "LayerNorm"), ("llama", "LlamaRMSNorm"), ("qwen3", "Qwen3RMSNorm")],
)
def test_all_norms_of_a_model_are_replaced(architecture: str, left: str) -> None:
    model = tiny_model(architecture)
    num_norms = sum(type(module).__name__ == left for module in model.modules())
    replace_norms(model)
    fast = [module for module in model.modules() if isinstance(module, FastNorm)]
    assert len(fast) == num_norms > 0
    assert classes(model) == {"FastNorm", left}, "which holds the weights"


def test_a_norm_of_another_kind_stays() -> None:
    model = tiny_model("gemma2")
    before = classes(model)
    assert before
    nn.init.normal_(model.model.norm.weight)
    replace_norms(model)
    assert not isinstance(model.model.norm, FastNorm)


def test_without_the_kernel_all_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm, "_kernel", lambda: None)
    assert fast_norm(layer_norm(8, has_bias=True)) is None
    assert fast_norm(nn.Linear(8, 8)) is None
    assert fast_norm(nn.LayerNorm(8, elementwise_affine=False)) is None
