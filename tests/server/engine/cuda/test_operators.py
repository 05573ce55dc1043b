"""The operators in their torch form: the oracle of the kernels has oracles too."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine.batch import Draw
from rhapsode_server.engine.cuda import reference
from rhapsode_server.engine.cuda.operators import draw, paged_decode
from rhapsode_server.engine.noise import row_keys, row_keys_of
from rhapsode_server.engine.request import SamplingParameters
from rhapsode_server.engine.sampler import sample
from support.paged_cases import CASES, Case
from support.sampling import check_rows_not_finite

SEEDS = st.integers(0, (1 << 64) - 1)
POSITIONS = st.integers(0, (1 << 31) - 1)


@pytest.mark.parametrize("name", CASES)
def test_attention_is_that_of_a_row_alone(name: str) -> None:
    CASES[name].check(paged_decode, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attention_in_reduced_types(dtype: torch.dtype) -> None:
    Case(dtype=dtype).check(paged_decode, 0.03)


def test_torch_may_trust_what_the_operators_say_of_themselves() -> None:
    arguments, _ = (case := Case(has_sinks=True)).arguments(*case._sequences())
    torch.library.opcheck(paged_decode, tuple(arguments.values()))
    row = (torch.tensor([1, 2]), torch.tensor([3, 4]), torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.library.opcheck(draw, (torch.randn(2, 9), *row))


@given(st.lists(st.tuples(SEEDS, POSITIONS), min_size=1, max_size=5))
def test_keys_are_those_of_the_host(rows: list[tuple[int, int]]) -> None:
    seeds = torch.tensor([seed - (1 << 64) if seed >> 63 else seed for seed, _ in rows])
    keys = row_keys_of(seeds, torch.tensor([position for _, position in rows]))
    assert keys.dtype == torch.int32
    assert keys.tolist() == [list(row_keys(seed, position)) for seed, position in rows]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(SEEDS, POSITIONS, st.sampled_from([0.0, 0.1, 0.7, 1.0, 5.0])), min_size=1, max_size=6),
    st.integers(1, 4000),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_it_draws_as_the_sampler_does(rows: list[tuple[int, int, float]], vocabulary: int, dtype: torch.dtype) -> None:
    logits = (torch.randn(len(rows), vocabulary, generator=torch.Generator().manual_seed(1)) * 4).to(dtype)
    draws = [
        Draw(parameters=SamplingParameters(temperature=temperature, seed=seed), position=position)
        for seed, position, temperature in rows
    ]
    seeds = torch.tensor([seed - (1 << 64) if seed >> 63 else seed for seed, _, _ in rows])
    positions = torch.tensor([position for _, position, _ in rows])
    temperatures = torch.tensor([temperature for _, _, temperature in rows], dtype=torch.float64)
    assert draw(logits, seeds, positions, temperatures).tolist() == sample(logits, draws).tolist()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_draws_nothing(value: float) -> None:
    check_rows_not_finite(reference.draw, value)
