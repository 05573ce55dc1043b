import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from rhapsode_server.engine import sampler
from rhapsode_server.engine.batch import Draw
from rhapsode_server.engine.request import NOT_FINITE, NOTHING_LEFT, SamplingParameters
from rhapsode_server.engine.sampler import sample
from support.sampling import drawn, expected, near_limit, pack, processed, warped
from torch import Tensor

NAN, INF = float("nan"), float("inf")
EVEN_IDS = pack([True, False] * 1500)
NO_MASKS = {"allowed_token_ids": (), "banned_sequences": (), "logit_bias": ()}

ANY_FILTER = {
    "top_k": st.sampled_from([0, 0, 1, 5, 40, 300, 10_000]),
    "top_p": st.sampled_from([1.0, 1.0, 0.05, 0.5, 0.9, 0.99]),
    "min_p": st.sampled_from([0.0, 0.0, 0.01, 0.3, 1.0]),
    "typical_p": st.sampled_from([1.0, 1.0, 0.1, 0.6, 0.95]),
}
sampling = st.builds(
    SamplingParameters,
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.5]),
    seed=st.integers(0, 2**64 - 1),
    **ANY_FILTER,
)
# The fields that are left out stay at their defaults: hypothesis would fill those of a named tuple.
batches = st.lists(
    st.builds(lambda row, position: Draw(row, position), sampling, st.integers(0, 100_000)), min_size=1, max_size=6
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors: several threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_logits(rows: int, vocabulary: int, seed: int = 0, spread: float = 3.0) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread - 80


def draws_at(positions: Sequence[int], row: SamplingParameters) -> list[Draw]:
    return [Draw(parameters=row, position=position) for position in positions]


def draw_many(logits_V: Tensor, row: SamplingParameters, count: int) -> Tensor:
    """Draws of one row at `count` positions, as a histogram over the vocabulary."""
    tokens = sample(logits_V.expand(count, -1), draws_at(range(count), row))
    return torch.bincount(tokens, minlength=len(logits_V))


def mixed_draw(choices: random.Random, vocabulary: int) -> Draw:
    """Every parameter, each of them off more often than on."""

    def sometimes(value: object, off: object) -> object:
        return choices.choice([value, off, off])

    history = tuple(choices.choices(range(vocabulary), k=30))
    row = SamplingParameters(
        temperature=choices.choice([0.0, 0.5, 1.0, 2.0]),
        top_k=sometimes(choices.choice([10, 700]), 0),
        top_p=sometimes(choices.choice([0.3, 0.95]), 1.0),
        min_p=sometimes(0.02, 0.0),
        typical_p=sometimes(0.8, 1.0),
        repetition_penalty=sometimes(1.3, 1.0),
        presence_penalty=sometimes(0.5, 0.0),
        frequency_penalty=sometimes(-0.4, 0.0),
        seed=choices.getrandbits(64),
        logit_bias=sometimes(((3, 4.0), (8, -2.0)), ()),
        allowed_token_ids=sometimes(tuple(range(0, vocabulary, 3)), ()),
        banned_sequences=sometimes(((4,), (history[-1], 9)), ()),
    )
    return Draw(
        parameters=row,
        position=choices.randrange(2000),
        history=history,
        num_prompt_tokens=12,
        suppressed_ids=sometimes((6, 40), ()),
        allowed_mask=sometimes(pack(choices.choices([True, False], k=vocabulary)), None),
    )


def mixed_batch(rows: int, vocabulary: int = 3000, seed: int = 5) -> tuple[Tensor, list[Draw]]:
    choices = random.Random(seed)
    return random_logits(rows, vocabulary, seed=seed + 1), [mixed_draw(choices, vocabulary) for _ in range(rows)]


def near(logits_V: Tensor, draw: Draw) -> bool:
    x_V = processed(logits_V, draw)
    return bool(x_V.amax().isfinite()) and near_limit(x_V, draw.parameters)


@pytest.fixture(params=["cpu", "accelerator"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters are computed in different ways by different devices; both run here."""
    if request.param == "accelerator":
        method = sampler._method
        monkeypatch.setattr(
            sampler, "_method", lambda row, vocabulary_size, is_cpu: method(row, vocabulary_size, False)
        )


@pytest.mark.usefixtures("way")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    draws=batches, seed=st.integers(0, 2**32), vocabulary=st.sampled_from([1, 2, 30, 2000]), spread=st.floats(0.5, 6)
)
def test_equals_transformers_and_the_noise_by_definition(
    draws: list[Draw], seed: int, vocabulary: int, spread: float
) -> None:
    logits_RV = random_logits(len(draws), vocabulary, seed, spread)
    assume(not any(map(near, logits_RV, draws)))
    assert sample(logits_RV, draws).tolist() == list(map(expected, logits_RV, draws))


@pytest.mark.usefixtures("way")
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_every_parameter_in_one_batch_equals_transformers(seed: int) -> None:
    logits_RV, draws = mixed_batch(12, 300, seed)
    assume(not any(map(near, logits_RV, draws)))
    assert sample(logits_RV, draws).tolist() == list(map(expected, logits_RV, draws))


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(0, 1.0), (50, 1.0), (50, 0.9), (0, 0.45), (0, 0.95), (5000, 1.0), (20_000, 0.99)]
)
@pytest.mark.parametrize("min_p", [0.0, 0.1])
@pytest.mark.parametrize("spread", [0.01, 4.0])
def test_large_vocabulary_equals_reference(top_k: int, top_p: float, min_p: float, spread: float) -> None:
    """From winners that are kept at once to those that are refused many times, in one batch."""
    logits_RV = random_logits(5, 20_000, spread=spread) * torch.tensor([[1.0], [0.5], [2.0], [0.1], [4.0]])
    draws = [
        Draw(
            parameters=SamplingParameters(temperature=1.0, top_k=top_k, top_p=top_p, min_p=min_p, seed=r),
            position=100 + r,
        )
        for r in range(5)
    ]
    assert not any(map(near, logits_RV, draws))
    assert sample(logits_RV, draws).tolist() == list(map(expected, logits_RV, draws))


def test_ties_beyond_the_candidates_are_kept() -> None:
    flat_V = torch.zeros(1000)
    for row in (
        SamplingParameters(temperature=1.0, top_k=1),
        SamplingParameters(temperature=1.0, top_p=0.01),
        SamplingParameters(temperature=1.0, top_k=3, top_p=0.5),
        SamplingParameters(temperature=1.0, top_k=3, min_p=1.0, typical_p=0.1),
    ):
        tokens = sample(flat_V.expand(20, -1), draws_at(range(20), row)).tolist()
        assert tokens == [drawn(flat_V, row.seed, position) for position in range(20)]


@pytest.mark.parametrize(("top_p", "kept"), [(0.39, 1), (0.41, 3), (0.79, 3), (0.81, 4), (1e-9, 1)])
def test_top_p_keeps_tokens_tied_with_the_last(top_p: float, kept: int) -> None:
    logits_V = torch.tensor([0.4, 0.2, 0.2, 0.15, 0.05]).log()
    counts_V = draw_many(logits_V, SamplingParameters(temperature=1.0, top_p=top_p), 500)
    assert (counts_V > 0).tolist() == [index < kept for index in range(5)]


@pytest.mark.parametrize(
    "row",
    [
        SamplingParameters(temperature=1.0, seed=1),
        SamplingParameters(temperature=0.6, seed=2),
        SamplingParameters(temperature=1.0, top_k=7, seed=3),
        SamplingParameters(temperature=1.3, top_p=0.8, seed=4),
        SamplingParameters(temperature=1.0, top_k=15, top_p=0.9, seed=2**64 - 1),
        SamplingParameters(temperature=0.9, min_p=0.2, seed=5),
        SamplingParameters(temperature=1.0, typical_p=0.7, seed=6),
        SamplingParameters(temperature=1.2, top_k=15, top_p=0.95, min_p=0.05, typical_p=0.9, seed=7),
    ],
    ids=str,
)
def test_draws_follow_the_filtered_distribution(row: SamplingParameters) -> None:
    logits_V = random_logits(1, 20, spread=1.0)[0]
    probabilities_V = warped(logits_V, row).softmax(0)
    count = 40_000
    counts_V = draw_many(logits_V, row, count)
    kept_V = probabilities_V > 0
    assert counts_V[~kept_V].sum() == 0
    expected_V = probabilities_V[kept_V] * count
    chi_square = ((counts_V[kept_V] - expected_V) ** 2 / expected_V).sum().item()
    freedom = int(kept_V.sum()) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


def test_neighbouring_positions_and_seeds_draw_independently() -> None:
    logits_V = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    count = 20_000
    along_positions = draws_at(range(count), SamplingParameters(temperature=1.0, seed=8))
    rows = [SamplingParameters(temperature=1.0, seed=seed) for seed in range(count)]
    along_seeds = [Draw(parameters=row, position=8) for row in rows]
    for draws in (along_positions, along_seeds):
        tokens = sample(logits_V.expand(count, -1), draws)
        pairs = torch.bincount(tokens[:-1] * 4 + tokens[1:], minlength=16)
        expected_pairs = (logits_V.exp()[:, None] * logits_V.exp()).flatten() * count
        chi_square = ((pairs - expected_pairs) ** 2 / expected_pairs).sum().item()
        assert chi_square < 15 + 4 * math.sqrt(2 * 15)


@pytest.mark.parametrize("vocabulary", [50, 3000])
def test_a_row_draws_the_same_alone_and_in_any_batch(vocabulary: int) -> None:
    logits_RV, draws = mixed_batch(64, vocabulary)
    together = sample(logits_RV, draws)
    alone = [sample(logits_RV[r : r + 1], draws[r : r + 1]).item() for r in range(64)]
    assert together.tolist() == alone
    assert torch.equal(sample(logits_RV.flip(0), draws[::-1]), together.flip(0))


def test_greedy_is_argmax_with_the_lowest_id_first() -> None:
    logits_RV = random_logits(8, 5000)
    logits_RV[:, [70, 900, 4999]] = 1.0
    greedy = SamplingParameters(temperature=0.0, top_k=3, top_p=0.1, min_p=0.5, typical_p=0.1, seed=3)
    tokens_R = sample(logits_RV, draws_at(range(8), greedy))
    assert torch.equal(tokens_R, logits_RV.argmax(1))
    assert tokens_R.tolist() == [70] * 8
    assert tokens_R.dtype == torch.int64


BROKEN: dict[str, Callable[[Tensor], Tensor]] = {
    "one nan": lambda x_V: x_V.index_fill(0, torch.tensor([17]), NAN),
    "all nan": lambda x_V: torch.full_like(x_V, NAN),
    "one inf": lambda x_V: x_V.index_fill(0, torch.tensor([17]), INF),
    "inf and nan": lambda x_V: x_V.index_fill(0, torch.tensor([17]), INF).index_fill(0, torch.tensor([3]), NAN),
    "all masked": lambda x_V: torch.full_like(x_V, -INF),
}


@pytest.mark.parametrize("breaks", BROKEN.values(), ids=BROKEN.keys())
def test_a_bad_row_fails_alone(breaks: Callable[[Tensor], Tensor]) -> None:
    logits_RV, draws = mixed_batch(32)
    healthy = sample(logits_RV, draws)
    for bad in range(32):
        broken_RV = logits_RV.clone()
        broken_RV[bad] = breaks(logits_RV[bad])
        tokens = sample(broken_RV, draws)
        assert tokens[bad] == NOT_FINITE
        assert torch.equal(tokens[torch.arange(32) != bad], healthy[torch.arange(32) != bad])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "nothing_left",
    [
        Draw(parameters=SamplingParameters(allowed_token_ids=(4,), banned_sequences=((4,),)), position=0),
        Draw(parameters=SamplingParameters(allowed_token_ids=(4, 5)), position=0, suppressed_ids=(4, 5)),
        Draw(parameters=SamplingParameters(), position=0, allowed_mask=pack([False] * 3000)),
        Draw(
            parameters=SamplingParameters(allowed_token_ids=(5,)), position=0, allowed_mask=pack([True, False] * 1500)
        ),
    ],
    ids=["banned", "suppressed", "empty mask", "constraint"],
)
def test_a_row_that_may_draw_nothing_fails_alone(nothing_left: Draw, temperature: float) -> None:
    logits_RV, draws = mixed_batch(8)
    healthy = sample(logits_RV, draws)
    draws[3] = nothing_left._replace(parameters=replace(nothing_left.parameters, temperature=temperature))
    tokens = sample(logits_RV, draws)
    assert tokens[3] == NOTHING_LEFT
    assert torch.equal(tokens[torch.arange(8) != 3], healthy[torch.arange(8) != 3])


def test_masked_tokens_are_never_drawn() -> None:
    logits_RV, draws = mixed_batch(32)
    plain = [Draw(parameters=replace(draw.parameters, **NO_MASKS), position=draw.position) for draw in draws]
    open_ids = torch.tensor([4, 77, 2999])
    masked_RV = torch.full_like(logits_RV, -INF).index_copy(1, open_ids, logits_RV[:, open_ids])
    tokens = sample(masked_RV, plain)
    assert torch.isin(tokens, open_ids).all()
    assert tokens.unique().tolist() == open_ids.tolist()


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_extreme_seeds(seed: int) -> None:
    logits_V = random_logits(1, 50)[0]
    row = SamplingParameters(temperature=1.0, seed=seed)
    assert sample(logits_V[None], draws_at([2**32 - 1], row)).item() == drawn(logits_V, seed, 2**32 - 1)


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-7])
@pytest.mark.parametrize(
    "filters",
    [{}, {"top_k": 9}, {"top_p": 0.9}, {"min_p": 0.5}, {"typical_p": 0.5}],
    ids=str,
)
def test_tiny_temperatures_are_greedy_not_errors(temperature: float, filters: dict[str, float]) -> None:
    logits_RV = random_logits(4, 500)
    row = SamplingParameters(temperature=temperature, **filters)
    assert torch.equal(sample(logits_RV, draws_at(range(4), row)), logits_RV.argmax(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_drawn_in_float32(dtype: torch.dtype) -> None:
    logits_RV, draws = mixed_batch(32)
    half_RV = logits_RV.to(dtype)
    assert torch.equal(sample(half_RV, draws), sample(half_RV.float(), draws))


def test_logits_are_left_unchanged() -> None:
    logits_RV, draws = mixed_batch(32)
    before_RV = logits_RV.clone()
    sample(logits_RV, draws)
    assert torch.equal(logits_RV, before_RV)


def test_part_of_a_padded_vocabulary() -> None:
    logits_RV, draws = mixed_batch(16)
    padded_RV = torch.cat((logits_RV, torch.full((16, 40), 1e9)), dim=1)
    assert torch.equal(sample(padded_RV[:, :3000], draws), sample(logits_RV, draws))


def test_no_rows() -> None:
    assert sample(torch.empty(0, 10), []).tolist() == []


def test_an_accelerator_is_never_waited_for() -> None:
    """A meta tensor has no values: any decision that read one would raise."""
    logits_RV, draws = mixed_batch(32)
    assert sample(logits_RV.to("meta"), draws).shape == (32,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_draws_as_the_cpu_does_without_waiting() -> None:
    logits_RV, draws = mixed_batch(32)
    on_device_RV = logits_RV.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        tokens_R = sample(on_device_RV, draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert tokens_R.tolist() == sample(logits_RV, draws).tolist()
