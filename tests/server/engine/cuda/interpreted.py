"""The kernels themselves, run by Triton's interpreter on a CPU. `test_kernels.py` starts this in a process of its own,
because Triton has to know before it is imported."""

import pytest
import torch
from rhapsode_server.engine.cuda import attention, attention_kernel, draw_kernel, operators, reference
from rhapsode_server.engine.request import EngineRequest, SamplingParameters
from support.paged_cases import CASES, Case
from support.sampling import check_rows_not_finite
from support.tiny_models import tiny_model

from .conftest import Load, make_engine
from .test_runner import assert_alike, plain, run

CPU = torch.device("cpu")


def test_these_are_the_kernels() -> None:
    assert operators._kernels("attention_kernel", CPU) is attention_kernel
    assert operators._kernels("draw_kernel", CPU) is draw_kernel


@pytest.mark.parametrize("name", CASES)
def test_attention_is_that_of_a_row_alone(name: str) -> None:
    CASES[name].check(operators.paged_decode, 1e-5)


# The interpreter multiplies matrices of bfloat16 by their bits, so that of these only a single row can be tried.
@pytest.mark.parametrize("case", [Case(dtype=torch.float16), Case(dtype=torch.bfloat16, kv_heads=4)])
def test_attention_in_reduced_types(case: Case) -> None:
    case.check(operators.paged_decode, 0.03)


@pytest.mark.parametrize(
    ("dtype", "vocabulary"), [(torch.float32, 1), (torch.float32, 2500), (torch.bfloat16, 320), (torch.float16, 320)]
)
def test_the_draw_equals_its_torch_form(dtype: torch.dtype, vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (torch.randn(12, vocabulary, generator=generator) * 4).to(dtype)
    logits[0] = 1.0  # all alike: the lowest id
    seeds = torch.randint(-(1 << 63), (1 << 63) - 1, (12,), generator=generator)
    positions = torch.randint(0, 1 << 31, (12,), generator=generator)
    temperatures = torch.tensor([0.0, 0.0, 0.1, 0.7, 1.0, 5.0] * 2, dtype=torch.float64)
    row = (seeds, positions, temperatures)
    assert draw_kernel.draw(logits, *row).tolist() == reference.draw(logits, *row).tolist()


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_draws_nothing(value: float) -> None:
    check_rows_not_finite(draw_kernel.draw, value)


def test_the_engine_gives_the_same_tokens(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph is replayed, a prompt is packed beside it, a prefix is taken over: all by the kernels."""
    monkeypatch.setattr(attention, "_SPLITS", (1,))  # they are slow enough
    runner = load(tiny_model("gpt_oss", num_hidden_layers=1), max_sequences=2)
    requests = [
        EngineRequest(
            request_id=id_,
            prompt_ids=tuple(range(5, 22 + id_)),
            max_new_tokens=3,
            sampling=SamplingParameters(temperature=id_ / 2, seed=id_),
        )
        for id_ in range(2)
    ]
    actual = run(make_engine(runner, max_sequences=2, prefix_cache=True), requests, arrivals_per_step=1)
    assert_alike(actual, run(make_engine(plain(runner), depth=1), requests))
    assert actual[1].num_cached_tokens == 16
    assert runner.decoder.num_rows_by_graph == runner.decoder.num_rows > 0
