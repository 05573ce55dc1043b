"""The chunked loss against the model's own: the oracle is the stock forward and its backward."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_trainer.training import loss as module
from rhapsode_trainer.training.loss import causal_loss, chunked_loss
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.loss.loss_utils import ForCausalLMLoss

ROWS = 7  # in a chunk: the last one is smaller than the others


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_BYTES", {"cpu": 4 * 300 * ROWS, "cuda": 1})


def untied(make_model: Callable[..., Any]) -> Any:
    torch.manual_seed(1)
    sizes = {"vocab_size": 300, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    return GPT2LMHeadModel(
        GPT2Config(**sizes, tie_word_embeddings=False, initializer_range=0.3, bos_token_id=0, eos_token_id=0)
    )


def with_bias(make_model: Callable[..., Any]) -> Any:
    model = untied(make_model)
    model.lm_head.bias = torch.nn.Parameter(torch.randn(300))
    return model


MODELS: dict[str, Callable[..., Any]] = {
    "gpt2": lambda make_model: make_model("gpt2"),
    "llama": lambda make_model: make_model("llama"),
    "untied": untied,
    "with bias": with_bias,
}


def batch(rows: int = 3, length: int = 20) -> dict[str, torch.Tensor]:
    """The first row begins with a prompt, the last is not learned at all."""
    ids = torch.randint(1, 300, (rows, length), generator=torch.Generator().manual_seed(2))
    labels = ids.clone()
    labels[0, :9] = -100
    labels[-1] = -100
    return {"input_ids": ids, "labels": labels}


def step(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss, and the gradients by name; no dropout, but the head in training."""
    model.loss_type = "ForCausalLM"
    model.eval().get_output_embeddings().train()
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("count", [None, 11, torch.tensor(1000)])
@pytest.mark.parametrize("drops", [True, False])
def test_loss_and_gradients_are_those_of_the_stock_forward(
    kind: str, count: Any, drops: bool, make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_knows_shapes", lambda tensor: drops)
    model = MODELS[kind](make_model)
    inputs = batch() if count is None else {**batch(), "num_items_in_batch": count}
    expected, gradients = step(model, inputs)
    with chunked_loss(model):
        loss, own = step(model, inputs)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(own[name], gradient, rtol=1e-5, atol=2e-6 * scale, msg=name)
    again, _ = step(model, inputs)
    assert torch.equal(again, expected), "afterwards the model is what it was"


@settings(deadline=None, max_examples=40)
@given(
    tokens=st.integers(1, 30),
    vocabulary=st.integers(2, 40),
    chunk=st.integers(1, 4000),
    seed=st.integers(0, 2**31),
    masked=st.floats(0, 1),
)
def test_any_shape_mask_and_chunk_gives_the_stock_loss(
    tokens: int, vocabulary: int, chunk: int, seed: int, masked: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, tokens, 5, generator=generator)
    weight = torch.randn(vocabulary, 5, generator=generator)
    labels = torch.randint(vocabulary, (2, tokens), generator=generator)
    labels[torch.rand(2, tokens, generator=generator) < masked] = -100
    expected = ForCausalLMLoss(hidden @ weight.T, labels, vocabulary)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_BYTES", {"cpu": chunk, "cuda": 1})
        loss = causal_loss(hidden, labels, weight)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_shifted_labels_are_taken_as_they_are() -> None:
    hidden, weight, shifted = torch.randn(1, 6, 4), torch.randn(9, 4), torch.tensor([[1, 2, -100, 3, 4, 5]])
    expected = ForCausalLMLoss(hidden @ weight.T, None, 9, shift_labels=shifted)
    torch.testing.assert_close(causal_loss(hidden, shifted, weight, shift_labels=shifted), expected)


def test_in_bfloat16_it_is_as_near_to_the_truth_as_the_stock_loss(make_model: Callable[..., Any]) -> None:
    model, inputs = make_model("gpt2"), batch(rows=8, length=32)
    truth, exact = step(copy.deepcopy(model).double(), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        stock, stock_gradients = step(model, inputs)
        with chunked_loss(model):
            loss, own = step(model, inputs)
    assert loss.dtype == torch.float32
    assert abs(loss - truth) <= abs(stock - truth) + 1e-3
    for name, gradient in exact.items():
        size = gradient.norm()
        assert (own[name] - gradient).norm() <= (stock_gradients[name] - gradient).norm() + 0.02 * size, name


def test_a_loss_that_is_no_number_stays_none(make_model: Callable[..., Any]) -> None:
    model, inputs = make_model("gpt2"), batch()
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    with chunked_loss(model):
        loss, gradients = step(model, inputs)
    assert loss.isnan()
    assert gradients["transformer.ln_f.weight"].isnan().any()


def test_no_target_at_all_is_no_number_as_in_the_stock_loss() -> None:
    hidden, weight = torch.randn(1, 6, 4), torch.randn(9, 4)
    labels = torch.full((1, 6), -100)
    assert causal_loss(hidden, labels, weight).isnan()
    assert causal_loss(hidden, labels, weight, num_items_in_batch=5) == 0


def test_small_gradients_survive_a_scale_that_half_precision_needs() -> None:
    """What a gradient scaler multiplies the loss with comes to the gradients in float32."""
    hidden = torch.randn(1, 200, 4, requires_grad=True)
    weight, labels = torch.randn(50, 4, requires_grad=True), torch.randint(50, (1, 200))
    (causal_loss(hidden, labels, weight, num_items_in_batch=10**9) * 2.0**16).backward()
    assert (hidden.grad != 0).all(dim=-1)[0, :-1].all()
    assert (weight.grad != 0).all()


class _Largest(TorchDispatchMode):
    """Remembers how many elements the largest tensor had that an operation made."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_only_the_logits_of_one_chunk_exist(make_model: Callable[..., Any]) -> None:
    model, inputs = make_model("gpt2"), batch(rows=8, length=32)
    with _Largest() as stock:
        step(model, inputs)
    with chunked_loss(model), _Largest() as chunked:
        step(model, inputs)
    assert stock.elements >= 8 * 32 * 300
    assert chunked.elements <= max(300 * 16, 8 * 32 * 64), "the weight of the head, or what a layer makes"


def test_without_gradients_none_are_computed(make_model: Callable[..., Any]) -> None:
    model, inputs = make_model("gpt2"), batch()
    expected, _ = step(model, inputs)
    with chunked_loss(model), torch.no_grad():
        model.get_output_embeddings().train()
        loss = model(**inputs).loss
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert loss.grad_fn is None


def test_in_eval_mode_logits_and_loss_are_the_model_s_own(make_model: Callable[..., Any]) -> None:
    model, inputs = make_model("gpt2").eval(), batch()
    model.loss_type = "ForCausalLM"
    with torch.no_grad():
        expected = model(**inputs)
        with chunked_loss(model):
            result = model(**inputs)
    assert torch.equal(result.logits, expected.logits)
    assert torch.equal(result.loss, expected.loss)


def test_a_frozen_head_gets_no_gradient(make_model: Callable[..., Any]) -> None:
    hidden = torch.randn(1, 9, 4, requires_grad=True)
    weight = torch.randn(20, 4)
    causal_loss(hidden, torch.randint(20, (1, 9)), weight).backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_a_head_of_another_kind_is_refused(make_model: Callable[..., Any]) -> None:
    model = make_model("gpt2")
    model.set_output_embeddings(torch.nn.Sequential(model.lm_head))
    with pytest.raises(ValueError, match="Sequential"), chunked_loss(model):
        pass
