"""Faster modules in the place of a model's own: the same results, in every architecture."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine import linears
from rhapsode_server.engine.attention import ATTENTION
from rhapsode_server.engine.host_memory import Memory
from rhapsode_server.engine.linears import (
    PackedLinear,
    can_pack,
    leave_files,
    num_rows_computed,
    pack,
    replaced_bytes,
    trim,
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
    leave_files(loaded.model)
    return ModelRunner(loaded=loaded, vocabulary_size=VOCABULARY_SIZE, max_sequences=64)


@packs
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "gemma2", "gpt_oss", "phi3", "opt", "gpt_neox"])
def test_every_linear_layer_is_replaced_and_proven(load: Any, architecture: str) -> None:
    runner = load(architecture)
    parameter_count = runner.loaded.parameter_count
    runner = fast(runner)
    assert (runner.loaded.dtype, runner.loaded.parameter_count) == ("float32", parameter_count)
    left = [type(module) for module in runner.loaded.model.modules()]
    assert not {nn.Linear, Conv1D, NewGELUActivation} & set(left)
    assert replaced_bytes(runner.loaded.model) > 4 * VOCABULARY_SIZE * 64, "the head is one of them"
    prove(runner)


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
    monkeypatch.setattr(linears, "host_memory", lambda: Memory(total=needed * 9, free=needed + spare))
    assert isinstance(pack(model).model.lm_head, PackedLinear) == is_packed


def test_without_onednn_layers_stay(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = pack(load("gpt2").loaded).model
    assert [module for module in model.modules() if isinstance(module, Conv1D)]
    assert replaced_bytes(model) == 0


@packs
def test_a_layer_that_this_machine_gets_wrong_is_named(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(PackedLinear):
        def forward(self, input_RI: torch.Tensor) -> torch.Tensor:
            return super().forward(input_RI) * 1.001

    monkeypatch.setattr(linears, "PackedLinear", Wrong)
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


def test_weights_that_are_shared_stay_so_when_the_files_are_left(load: Any) -> None:
    model = load("gpt2").loaded.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = {tensor.data_ptr() for tensor in model.parameters()}
    leave_files(model)
    assert not places & {tensor.data_ptr() for tensor in model.parameters()}
    assert model.lm_head.weight is model.transformer.wte.weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
