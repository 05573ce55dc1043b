import math
import random
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rhapsode_server.engine.noise import gumbel, row_keys
from rhapsode_server.engine.request import NOT_FINITE, SamplingParameters
from rhapsode_server.engine.sampler import sample
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

NAN, INF = float("nan"), float("inf")

sampling = st.builds(
    SamplingParameters,
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.5]),
    top_k=st.sampled_from([0, 0, 1, 5, 40, 300, 10_000]),
    top_p=st.sampled_from([1.0, 1.0, 0.05, 0.5, 0.9, 0.99]),
    seed=st.integers(0, 2**64 - 1),
)
batches = st.lists(st.tuples(sampling, st.integers(0, 100_000)), min_size=1, max_size=6)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors: several threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_logits(rows: int, vocabulary: int, seed: int = 0, spread: float = 3.0) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread - 80


def warped(logits_V: Tensor, row: SamplingParameters) -> Tensor:
    """What transformers' warpers leave; top_p in float64, so that the oracle's own rounding decides nothing."""
    x_1V = TemperatureLogitsWarper(row.temperature)(None, logits_V[None].float())
    if row.top_k:
        x_1V = TopKLogitsWarper(row.top_k)(None, x_1V)
    if row.top_p < 1:
        x_1V = TopPLogitsWarper(row.top_p)(None, x_1V.double())
    return x_1V[0]


def drawn(x_V: Tensor, seed: int, position: int) -> int:
    """The draw by definition: noise for the whole vocabulary, then the largest sum."""
    keys = torch.tensor([row_keys(seed, position)], dtype=torch.int32)
    noise_V = gumbel(torch.arange(len(x_V), dtype=torch.int32), keys)[0]
    return int((x_V.double() + noise_V).argmax())


def expected(logits_V: Tensor, row: SamplingParameters, position: int) -> int:
    return int(logits_V.argmax()) if row.temperature == 0 else drawn(warped(logits_V, row), row.seed, position)


def near_boundary(logits_V: Tensor, row: SamplingParameters) -> bool:
    """True if top_p falls within rounding of a sum of probabilities: either answer is right there."""
    if row.temperature == 0 or row.top_p == 1:
        return False
    probabilities_V = warped(logits_V, SamplingParameters(temperature=row.temperature, top_k=row.top_k)).double()
    sums_V = probabilities_V.softmax(0).sort(descending=True).values.cumsum(0)
    return bool((sums_V - row.top_p).abs().min() < 1e-6)


def draw_many(logits_V: Tensor, row: SamplingParameters, count: int) -> Tensor:
    """Draws of one row at `count` positions, as a histogram over the vocabulary."""
    tokens = sample(logits_V.expand(count, -1), [row] * count, range(count))
    return torch.bincount(tokens, minlength=len(logits_V))


def mixed_batch(rows: int, vocabulary: int = 3000) -> tuple[Tensor, list[SamplingParameters], list[int]]:
    choices = random.Random(5)
    parameters = [
        SamplingParameters(
            temperature=choices.choice([0.0, 0.5, 1.0, 2.0]),
            top_k=choices.choice([0, 0, 10, 700]),
            top_p=choices.choice([1.0, 0.3, 0.95]),
            seed=choices.getrandbits(64),
        )
        for _ in range(rows)
    ]
    return random_logits(rows, vocabulary, seed=6), parameters, [choices.randrange(2000) for _ in range(rows)]


@settings(deadline=None)
@given(
    batch=batches, seed=st.integers(0, 2**32), vocabulary=st.sampled_from([1, 2, 30, 2000]), spread=st.floats(0.5, 6)
)
def test_equals_whole_vocabulary_reference(
    batch: list[tuple[SamplingParameters, int]], seed: int, vocabulary: int, spread: float
) -> None:
    logits_RV = random_logits(len(batch), vocabulary, seed, spread)
    parameters, positions = [row for row, _ in batch], [position for _, position in batch]
    assume(not any(map(near_boundary, logits_RV, parameters)))
    assert sample(logits_RV, parameters, positions).tolist() == list(map(expected, logits_RV, parameters, positions))


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(0, 1.0), (50, 1.0), (50, 0.9), (0, 0.45), (0, 0.95), (5000, 1.0), (20_000, 0.99)]
)
@pytest.mark.parametrize("spread", [0.01, 4.0])
def test_large_vocabulary_equals_reference(top_k: int, top_p: float, spread: float) -> None:
    """From candidates that settle at once to those that widen to the whole vocabulary, in one batch."""
    logits_RV = random_logits(5, 20_000, spread=spread) * torch.tensor([[1.0], [0.5], [2.0], [0.1], [4.0]])
    parameters = [SamplingParameters(temperature=1.0, top_k=top_k, top_p=top_p, seed=r) for r in range(5)]
    positions = range(100, 105)
    assert not any(map(near_boundary, logits_RV, parameters))
    assert sample(logits_RV, parameters, positions).tolist() == list(map(expected, logits_RV, parameters, positions))


@settings(deadline=None)
@given(
    logits=st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    top_k=st.integers(1, 12),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_top_k_keeps_ties_as_transformers_does(logits: list[int], top_k: int, temperature: float) -> None:
    row = SamplingParameters(temperature=temperature, top_k=top_k, seed=9)
    logits_V = torch.tensor(logits, dtype=torch.float32)
    tokens = sample(logits_V.expand(20, -1), [row] * 20, range(20)).tolist()
    assert tokens == [drawn(warped(logits_V, row), row.seed, position) for position in range(20)]


def test_ties_beyond_the_candidates_are_kept() -> None:
    flat_V = torch.zeros(1000)
    for row in (
        SamplingParameters(temperature=1.0, top_k=1),
        SamplingParameters(temperature=1.0, top_p=0.01),
        SamplingParameters(temperature=1.0, top_k=3, top_p=0.5),
    ):
        tokens = sample(flat_V.expand(20, -1), [row] * 20, range(20)).tolist()
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
    along_positions = [(SamplingParameters(temperature=1.0, seed=8), position) for position in range(count)]
    along_seeds = [(SamplingParameters(temperature=1.0, seed=seed), 8) for seed in range(count)]
    for draws in (along_positions, along_seeds):
        tokens = sample(logits_V.expand(count, -1), [row for row, _ in draws], [position for _, position in draws])
        pairs = torch.bincount(tokens[:-1] * 4 + tokens[1:], minlength=16)
        expected_pairs = (logits_V.exp()[:, None] * logits_V.exp()).flatten() * count
        chi_square = ((pairs - expected_pairs) ** 2 / expected_pairs).sum().item()
        assert chi_square < 15 + 4 * math.sqrt(2 * 15)


def test_a_row_draws_the_same_alone_and_in_any_batch() -> None:
    logits_RV, parameters, positions = mixed_batch(32)
    together = sample(logits_RV, parameters, positions)
    alone = [sample(logits_RV[r : r + 1], parameters[r : r + 1], positions[r : r + 1]).item() for r in range(32)]
    assert together.tolist() == alone
    assert torch.equal(sample(logits_RV.flip(0), parameters[::-1], positions[::-1]), together.flip(0))


def test_greedy_is_argmax_with_the_lowest_id_first() -> None:
    logits_RV = random_logits(8, 5000)
    logits_RV[:, [70, 900, 4999]] = 1.0
    greedy = SamplingParameters(temperature=0.0, top_k=3, top_p=0.1, seed=3)
    tokens_R = sample(logits_RV, [greedy] * 8, range(8))
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
    logits_RV, parameters, positions = mixed_batch(32)
    healthy = sample(logits_RV, parameters, positions)
    for bad in range(32):
        broken_RV = logits_RV.clone()
        broken_RV[bad] = breaks(logits_RV[bad])
        tokens = sample(broken_RV, parameters, positions)
        assert tokens[bad] == NOT_FINITE
        assert torch.equal(tokens[torch.arange(32) != bad], healthy[torch.arange(32) != bad])


def test_masked_tokens_are_never_drawn() -> None:
    logits_RV, parameters, positions = mixed_batch(32)
    open_ids = torch.tensor([4, 77, 2999])
    masked_RV = torch.full_like(logits_RV, -INF).index_copy(1, open_ids, logits_RV[:, open_ids])
    tokens = sample(masked_RV, parameters, positions)
    assert torch.isin(tokens, open_ids).all()
    assert tokens.unique().tolist() == open_ids.tolist()


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_extreme_seeds(seed: int) -> None:
    logits_V = random_logits(1, 50)[0]
    row = SamplingParameters(temperature=1.0, seed=seed)
    assert sample(logits_V[None], [row], [2**32 - 1]).item() == drawn(logits_V, seed, 2**32 - 1)


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-7])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (9, 1.0), (0, 0.9)])
def test_tiny_temperatures_are_greedy_not_errors(temperature: float, top_k: int, top_p: float) -> None:
    logits_RV = random_logits(4, 500)
    row = SamplingParameters(temperature=temperature, top_k=top_k, top_p=top_p)
    assert torch.equal(sample(logits_RV, [row] * 4, range(4)), logits_RV.argmax(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_drawn_in_float32(dtype: torch.dtype) -> None:
    logits_RV, parameters, positions = mixed_batch(32)
    half_RV = logits_RV.to(dtype)
    assert torch.equal(sample(half_RV, parameters, positions), sample(half_RV.float(), parameters, positions))


def test_logits_are_left_unchanged() -> None:
    logits_RV, parameters, positions = mixed_batch(32)
    before_RV = logits_RV.clone()
    sample(logits_RV, parameters, positions)
    assert torch.equal(logits_RV, before_RV)


def test_no_rows() -> None:
    assert sample(torch.empty(0, 10), [], []).tolist() == []


def test_an_accelerator_is_never_waited_for() -> None:
    """A meta tensor has no values: any decision that read one would raise."""
    logits_RV, parameters, positions = mixed_batch(32)
    assert sample(logits_RV.to("meta"), parameters, positions).shape == (32,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_draws_as_the_cpu_does_without_waiting() -> None:
    logits_RV, parameters, positions = mixed_batch(32)
    on_device_RV = logits_RV.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        tokens_R = sample(on_device_RV, parameters, positions)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert tokens_R.tolist() == sample(logits_RV, parameters, positions).tolist()
