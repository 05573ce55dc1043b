from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine.batch import Draw
from rhapsode_server.engine.processors import is_processed, process
from rhapsode_server.engine.request import SamplingParameters
from support.sampling import pack, processed
from torch import Tensor
from transformers import MinNewTokensLengthLogitsProcessor

VOCABULARY = 40
INF = float("inf")

ids = st.integers(0, VOCABULARY - 1)
logits = st.lists(
    st.one_of(st.integers(-3, 3).map(float), st.floats(-50, 50, width=32), st.just(-INF)),
    min_size=VOCABULARY,
    max_size=VOCABULARY,
).map(lambda values: torch.tensor(values, dtype=torch.float32))
# From few ids, so that they repeat and sequences match.
histories = st.lists(st.integers(0, 7), min_size=1, max_size=30).map(tuple)
masks = st.lists(st.booleans(), min_size=VOCABULARY, max_size=VOCABULARY).map(pack)
penalties = st.floats(-100, 100, width=32)
sequences = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=4).map(tuple), max_size=6, unique=True).map(tuple)
PARAMETERS = {
    "logit_bias": st.dictionaries(ids, penalties, max_size=8).map(lambda bias: tuple(bias.items())),
    "repetition_penalty": st.sampled_from([0.01, 0.5, 1.0, 1.3, 100.0]),
    "presence_penalty": penalties,
    "frequency_penalty": penalties,
    "banned_sequences": sequences,
    "allowed_token_ids": st.lists(ids, min_size=1, max_size=20, unique=True).map(tuple),
}
BESIDE = {"suppressed_ids": st.lists(ids, max_size=5).map(tuple), "allowed_mask": st.none() | masks}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors: several threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@st.composite
def draws(draw: st.DrawFn, *names: str) -> Draw:
    """Draws with these parameters, and everything else off."""
    history = draw(histories)
    parameters = {name: draw(PARAMETERS[name]) for name in names if name in PARAMETERS}
    beside = {name: draw(BESIDE[name]) for name in names if name in BESIDE}
    return Draw(
        parameters=SamplingParameters(**parameters),
        position=len(history),
        history=history,
        num_prompt_tokens=draw(st.integers(0, len(history))),
        **beside,
    )


all_draws = draws(*PARAMETERS, *BESIDE)


@pytest.mark.parametrize("name", [*PARAMETERS, *BESIDE])
@settings(deadline=None, max_examples=60)
@given(data=st.data(), logits_V=logits)
def test_each_equals_its_oracle(name: str, data: st.DataObject, logits_V: Tensor) -> None:
    draw = data.draw(draws(name))
    assert torch.equal(process(logits_V[None], [draw])[0], processed(logits_V, draw))


@settings(deadline=None)
@given(draw=all_draws, logits_V=logits)
def test_all_combined_equal_the_oracles_in_order(draw: Draw, logits_V: Tensor) -> None:
    assert torch.equal(process(logits_V[None], [draw])[0], processed(logits_V, draw))


@settings(deadline=None)
@given(rows=st.lists(st.tuples(all_draws | draws(), logits), min_size=1, max_size=5))
def test_rows_do_not_touch_each_other(rows: list[tuple[Draw, Tensor]]) -> None:
    logits_RV = torch.stack([logits_V for _, logits_V in rows])
    together_RV = process(logits_RV, [draw for draw, _ in rows])
    for processed_V, (draw, logits_V) in zip(together_RV, rows, strict=True):
        assert torch.equal(processed_V, process(logits_V[None], [draw])[0])


@settings(deadline=None)
@given(draw=all_draws, logits_V=logits)
def test_what_is_not_processed_would_not_change(draw: Draw, logits_V: Tensor) -> None:
    if not is_processed(draw):
        assert torch.equal(process(logits_V[None], [draw])[0], logits_V)


def test_suppressed_ids_are_those_of_min_new_tokens() -> None:
    logits_V = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(0))
    oracle = MinNewTokensLengthLogitsProcessor(prompt_length_to_skip=3, min_new_tokens=2, eos_token_id=[5, 9])
    draw = Draw(parameters=SamplingParameters(), position=4, suppressed_ids=(5, 9))
    assert torch.equal(process(logits_V[None], [draw]), oracle(torch.tensor([[1, 2, 3, 4]]), logits_V[None]))


def test_a_sequence_is_banned_only_where_it_would_be_completed() -> None:
    row = SamplingParameters(banned_sequences=((3,), (1, 2, 4), (2, 5), (1, 1)))
    draw = Draw(parameters=row, position=3, history=(7, 1, 2))
    banned = process(torch.zeros(1, VOCABULARY), [draw])[0].isinf().nonzero().flatten()
    assert banned.tolist() == [3, 4, 5]


def test_half_precision_is_processed_in_float32_and_left_unchanged() -> None:
    logits_RV = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(0)).bfloat16()
    before_RV = logits_RV.clone()
    row = SamplingParameters(repetition_penalty=1.3, logit_bias=((3, 0.001),))
    draw = Draw(parameters=row, position=2, history=(3, 4))
    assert torch.equal(process(logits_RV, [draw])[0], processed(logits_RV[0], draw))
    assert torch.equal(logits_RV, before_RV)


@pytest.mark.parametrize("vocabulary_size", [1, 31, 32, 33, 1000])
def test_a_mask_of_any_size(vocabulary_size: int) -> None:
    allowed = (torch.rand(vocabulary_size, generator=torch.Generator().manual_seed(1)) < 0.5).tolist()
    draw = Draw(parameters=SamplingParameters(), position=0, allowed_mask=pack(allowed))
    assert process(torch.zeros(1, vocabulary_size), [draw])[0].isfinite().tolist() == allowed


def test_ids_beyond_the_vocabulary_are_passed_over() -> None:
    row = SamplingParameters(
        repetition_penalty=2.0,
        presence_penalty=1.0,
        logit_bias=((1, 1.0), (VOCABULARY, 5.0), (2, 3.0)),
        allowed_token_ids=(1, VOCABULARY),
        banned_sequences=((VOCABULARY + 1,),),
    )
    draw = Draw(parameters=row, position=2, history=(1, VOCABULARY), suppressed_ids=(VOCABULARY,))
    alone = Draw(parameters=replace(row, allowed_token_ids=(VOCABULARY,)), position=0)
    x_RV = process(torch.zeros(2, VOCABULARY), [draw, alone])
    assert x_RV[0, 1] == 1 / 2 - 1
    assert x_RV[0].isfinite().sum() == 1
    assert x_RV[1].isneginf().all()
