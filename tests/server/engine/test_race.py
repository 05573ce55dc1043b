from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine import race
from rhapsode_server.engine.noise import gumbel, largest_gumbel, least_v, row_keys
from torch import Tensor

INF = float("inf")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors: several threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def keys(rows: int, seed: int) -> Tensor:
    return torch.tensor([row_keys(seed + row, row) for row in range(rows)], dtype=torch.int32)


def both_ways(x_RV: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    keys_R2 = keys(len(x_RV), seed)
    (drawn_R, peak_R1), (plain_R, plain_peak_R1) = race.draw(x_RV, keys_R2), race.draw_plainly(x_RV, keys_R2)
    assert torch.equal(peak_R1.nan_to_num(), plain_peak_R1.nan_to_num())
    return drawn_R, plain_R


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**40),
    vocabulary=st.sampled_from([1, 64, 1536, 1551, 5000, 20_011]),
    spread=st.sampled_from([0.0, 0.5, 3.0, 10.0, 1e4]),
    shift=st.sampled_from([0.0, -80.0, 1e5]),
    masked=st.sampled_from([0.0, 0.5, 0.999]),
)
def test_equals_the_plain_draw(seed: int, vocabulary: int, spread: float, shift: float, masked: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_RV = torch.randn(3, vocabulary, generator=generator) * spread + shift
    x_RV[torch.rand(3, vocabulary, generator=generator) < masked] = -INF
    x_RV[:, seed % vocabulary] = shift
    drawn_R, plain_R = both_ways(x_RV, seed)
    assert torch.equal(drawn_R, plain_R)


def test_is_seldom_drawn_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    num_plain = 0
    plainly = race.draw_plainly

    def counted(x_RV: Tensor, keys_R2: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal num_plain
        num_plain += len(x_RV)
        return plainly(x_RV, keys_R2)

    monkeypatch.setattr(race, "draw_plainly", counted)
    for spread in (0.0, 0.5, 2.0, 6.0):
        x_RV = torch.randn(50, 20_000, generator=torch.Generator().manual_seed(1)) * spread
        race.draw(x_RV, keys(50, 7))
    assert num_plain <= 2


def test_a_row_of_no_use_spoils_no_other() -> None:
    x_RV = torch.randn(5, 5000, generator=torch.Generator().manual_seed(2))
    healthy_R, _ = both_ways(x_RV, 3)
    x_RV[1, 40], x_RV[2, 40], x_RV[3] = float("nan"), INF, -INF
    drawn_R, _ = both_ways(x_RV, 3)
    assert drawn_R[[0, 4]].tolist() == healthy_R[[0, 4]].tolist()
    assert ((drawn_R >= 0) & (drawn_R < 5000)).all()


def test_no_noise_exceeds_its_bound_and_large_noise_is_near_it() -> None:
    keys_R2, ids_V = keys(20, 0), torch.arange(50_000, dtype=torch.int32)
    noise_RV = gumbel(ids_V, keys_R2)
    gap_RV = largest_gumbel(least_v(50_000, keys_R2)) - noise_RV
    assert gap_RV.amin() > -1e-5
    assert gap_RV[noise_RV > 5].median() < 0.02
