"""Faster modules in the place of a model's own: the same results, in every architecture."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine import linears
from rhapsode_server.engine.attention import ATTENTION
from rhapsode_server.engine.host_memory import Memory
from rhapsode_server.engine.kernels.gelu import TanhGELU
from rhapsode_server.engine.kernels.linear import linear_kernel
from rhapsode_server.engine.linears import (
    PackedLinear,
    PanelEmbedding,
    PanelLinear,
    can_pack,
    num_rows_computed,
    pack,
    settle,
    trim,
    weights_bytes,
)
from rhapsode_server.engine.proof import prove
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.engine.request import EngineRequest
from rhapsode_server.engine.runner import ModelRunner
from support.reference import generate_greedily, margin_where_they_part, random_prompts
from support.tiny_models import VOCABULARY_SIZE, tiny_model
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from .conftest import make_engine

packs = pytest.mark.skipif(not can_pack(), reason="oneDNN is not in this torch, or this is no x86-64")
has_panels = pytest.mark.skipif(not linear_kernel(), reason="no AVX-512 on this machine, or no kernels were built")


@pytest.fixture(params=[pytest.param("oneDNN", marks=packs), pytest.param("panels", marks=has_panels)])
def layer_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[nn.Module]]:
    """What `pack` makes of a layer on a machine that has only the one, or both."""
    with monkeypatch.context() as patch:
        if request.param == "oneDNN":
            patch.setattr(linears, "linear_kernel", lambda: None)
        yield PackedLinear if request.param == "oneDNN" else PanelLinear


@packs
@settings(deadline=None)
@given(outputs=st.integers(1, 40), inputs=st.integers(1, 70), rows=st.integers(0, 70), has_bias=st.booleans())
def test_a_packed_layer_is_the_linear_layer(outputs: int, inputs: int, rows: int, has_bias: bool) -> None:
    torch.manual_seed(outputs * inputs)
    exact, inputs_RI = nn.Linear(inputs, outputs, bias=has_bias), torch.randn(rows, inputs)
    with torch.inference_mode():
        made = PackedLinear(exact.weight, exact.bias)
        assert torch.allclose(made(inputs_RI), exact(inputs_RI), rtol=1e-5, atol=1e-5)
        assert made(inputs_RI[None]).shape == (1, rows, outputs)


@has_panels
@settings(deadline=None)
@given(outputs=st.integers(1, 200), inputs=st.integers(1, 300), rows=st.integers(0, 200), has_bias=st.booleans())
def test_a_layer_in_panels_is_the_linear_layer(outputs: int, inputs: int, rows: int, has_bias: bool) -> None:
    torch.manual_seed(outputs * inputs)
    exact, inputs_RI = nn.Linear(inputs, outputs, bias=has_bias), torch.randn(rows, inputs)
    with torch.inference_mode():
        made = PanelLinear(exact.weight, exact.bias)
        assert torch.allclose(made(inputs_RI).double(), exact.double()(inputs_RI.double()), rtol=1e-5, atol=1e-5)
        assert made(inputs_RI[None]).shape == (1, rows, outputs)
        assert torch.equal(made(inputs_RI.t().contiguous().t()), made(inputs_RI)), "of any strides"


@has_panels
@given(rows=st.integers(2, 200), seed=st.integers(0, 100))
def test_what_a_row_gives_does_not_depend_on_the_rows_beside_it(rows: int, seed: int) -> None:
    torch.manual_seed(seed)
    made, inputs_RI = PanelLinear(torch.randn(70, 300), torch.randn(70)), torch.randn(rows, 300)
    row = seed % rows
    assert torch.equal(made(inputs_RI)[row], made(inputs_RI[row : row + 1])[0])


@has_panels
def test_what_is_not_finite_stays_in_its_row() -> None:
    made, inputs_RI = PanelLinear(torch.randn(70, 30), None), torch.randn(9, 30)
    inputs_RI[4, 7] = torch.nan
    output_RO = made(inputs_RI)
    assert output_RO[4].isnan().all()
    assert output_RO[[0, 1, 2, 3, 5, 6, 7, 8]].isfinite().all()


def test_without_the_registers_there_is_no_kernel_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rhapsode_server.engine.kernels.linear.library", lambda: None)
    linear_kernel.cache_clear()
    assert linear_kernel() is None
    linear_kernel.cache_clear()


@given(rows=st.integers(0, 5000))
def test_there_are_few_numbers_of_rows_and_little_is_computed_for_nothing(rows: int) -> None:
    computed = num_rows_computed(rows)
    assert rows <= computed <= rows + max(0, rows - 1) // 4
    assert num_rows_computed(computed) == computed
    assert rows == 0 or computed >> max(0, computed.bit_length() - 4) << max(0, computed.bit_length() - 4) == computed


def test_512_rows_take_32_kernels() -> None:
    assert len({num_rows_computed(rows) for rows in range(1, 513)}) == 32


def fast(runner: ModelRunner) -> ModelRunner:
    loaded = pack(runner.loaded)
    trim(loaded.model)
    settle(loaded.model)
    return ModelRunner(loaded=loaded, vocabulary_size=VOCABULARY_SIZE, max_sequences=64)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "gemma2", "gpt_oss", "phi3", "opt", "gpt_neox"])
def test_every_linear_layer_is_replaced_and_proven(load: Any, architecture: str, layer_kind: type[nn.Module]) -> None:
    runner = load(architecture)
    parameter_count = runner.loaded.parameter_count
    runner = fast(runner)
    assert (runner.loaded.dtype, runner.loaded.parameter_count) == ("float32", parameter_count)
    left = [type(module) for module in runner.loaded.model.modules()]
    assert not {nn.Linear, Conv1D, NewGELUActivation} & set(left)
    assert layer_kind in left
    assert not isinstance(runner.loaded.model.get_output_embeddings(), nn.Linear)
    prove(runner)


@pytest.mark.usefixtures("layer_kind")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_greedy_equals_generate(load: Any, architecture: str) -> None:
    model = tiny_model(architecture)
    runner = fast(load(model))
    runner.loaded.model.set_attn_implementation(ATTENTION)
    engine = make_engine(runner)
    prompts = random_prompts(9, 60, VOCABULARY_SIZE)
    tokens: list[list[int]] = [[] for _ in prompts]
    for id_, prompt in enumerate(prompts):
        engine.submit(EngineRequest(request_id=id_, prompt_ids=tuple(prompt), max_new_tokens=5 + id_))
    while engine.has_work:
        for event in engine.step().events:
            if event.token_id is not None:
                tokens[event.request_id].append(event.token_id)
    for id_, prompt in enumerate(prompts):
        expected = generate_greedily(model, prompt, 5 + id_)
        error = margin_where_they_part(model, prompt, expected, tokens[id_])
        assert tokens[id_][: len(expected)] == expected or error < 1e-3


@packs
@pytest.mark.parametrize(("spare", "is_packed"), [(-1, False), (0, True)])
def test_a_shared_head_is_packed_if_there_is_room(
    load: Any, monkeypatch: pytest.MonkeyPatch, spare: int, is_packed: bool
) -> None:
    model = load("gpt2").loaded
    needed = 4 * (model.parameter_count + VOCABULARY_SIZE * 64)
    monkeypatch.setattr(linears, "linear_kernel", lambda: None)
    monkeypatch.setattr(linears, "host_memory", lambda: Memory(total=needed * 9, free=needed + spare))
    assert isinstance(pack(model).model.lm_head, PackedLinear) == is_packed


@has_panels
def test_a_shared_head_is_there_once(load: Any) -> None:
    """GPT-2's embedding reads from the head's panels; Gemma's, which also scales, keeps its own."""
    model = load("gpt2").loaded.model
    token_ids = torch.tensor([[0, VOCABULARY_SIZE - 1, 7]])
    expected = model.transformer.wte(token_ids)
    num_bytes = weights_bytes(model)
    model = pack(load("gpt2").loaded).model
    assert isinstance(model.transformer.wte, PanelEmbedding)
    assert torch.equal(model.transformer.wte(token_ids), expected)
    assert weights_bytes(model) <= num_bytes
    assert not isinstance(pack(load("gemma2").loaded).model.get_input_embeddings(), PanelEmbedding)


def test_without_onednn_or_a_kernel_layers_stay(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "linear_kernel", lambda: None)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = pack(load("gpt2").loaded).model
    assert [module for module in model.modules() if isinstance(module, Conv1D)]


def test_a_layer_that_this_machine_gets_wrong_is_named(
    load: Any, monkeypatch: pytest.MonkeyPatch, layer_kind: type[nn.Module]
) -> None:
    class Wrong(layer_kind):  # type: ignore[valid-type,misc]
        def forward(self, input_RI: torch.Tensor) -> Any:
            return super().forward(input_RI) * 1.001

    monkeypatch.setattr(linears, layer_kind.__name__, Wrong)
    with pytest.raises(ModelRefused, match=r"^canary_off: Wrong for transformer\.h\.0\.attn\.c_attn is off by 0.001"):
        pack(load("gpt2").loaded)


@given(seed=st.integers(0, 1000))
def test_gelu_in_one_pass_is_the_gelu_of_gpt2(seed: int) -> None:
    model = nn.Sequential(NewGELUActivation())
    values = torch.randn(300, generator=torch.Generator().manual_seed(seed)) * 4
    expected = model(values)
    trim(model)
    assert isinstance(model[0], nn.GELU)
    assert torch.allclose(model(values), expected, rtol=1e-5, atol=1e-6)


@given(length=st.integers(0, 20_000))
@settings(deadline=None)
def test_the_kernel_of_gelu_is_torchs(length: int) -> None:
    torch.manual_seed(length)
    values = torch.cat((torch.randn(length) * 4, torch.tensor([0.0, 1e30, -1e30, torch.inf, torch.nan])))
    expected = nn.GELU(approximate="tanh")(values.double()).float()
    assert torch.allclose(TanhGELU()(values), expected, rtol=1e-5, atol=1e-6, equal_nan=True)
    half = values[:length].half()
    assert torch.equal(TanhGELU()(half), nn.GELU(approximate="tanh")(half)), "what the kernel is not for, torch does"


def test_weights_that_are_shared_stay_so_when_the_files_are_left(load: Any) -> None:
    model = load("gpt2").loaded.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = {tensor.data_ptr() for tensor in model.parameters()}
    settle(model)
    assert not places & {tensor.data_ptr() for tensor in model.parameters()}
    assert model.lm_head.weight is model.transformer.wte.weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
