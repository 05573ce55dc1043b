import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine.noise import gumbel, hash_tokens, row_keys
from torch import Tensor

DOCUMENT = (Path(__file__).parents[3] / "docs" / "sampling.md").read_text()
SEEDS = st.integers(0, 2**64 - 1)
POSITIONS = st.integers(0, 2**32 - 1)
TOKENS = st.integers(0, 2**31 - 1)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors: several threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def published() -> dict[str, Callable[..., Any]]:
    """The functions of the Python reference in the document."""
    names: dict[str, Any] = {}
    exec(re.search(r"```python\n(.*?)```", DOCUMENT, re.DOTALL).group(1), names)
    return names


def published_vectors() -> list[tuple[int, int, int, int, float]]:
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| 0x([0-9A-F]{8}) \| (\S+) \|$", DOCUMENT, re.MULTILINE)
    return [(int(seed), int(position), int(token), int(h, 16), float(g)) for seed, position, token, h, g in rows]


REFERENCE = published()


def keys(draws: list[tuple[int, int]]) -> Tensor:
    return torch.tensor([row_keys(seed, position) for seed, position in draws], dtype=torch.int32)


def ids(tokens: list[int]) -> Tensor:
    return torch.tensor(tokens, dtype=torch.int32)


def unsigned(hashes: Tensor) -> Tensor:
    return hashes.long() & 0xFFFFFFFF


def uniforms(tokens: Tensor, draws: list[tuple[int, int]]) -> Tensor:
    return unsigned(hash_tokens(tokens, keys(draws))).double() / 2**32


def test_document_has_vectors() -> None:
    assert len(published_vectors()) >= 9


@pytest.mark.parametrize(("seed", "position", "token", "expected_hash", "expected_noise"), published_vectors())
def test_vectors(seed: int, position: int, token: int, expected_hash: int, expected_noise: float) -> None:
    assert REFERENCE["token_hash"](seed, position, token) == expected_hash
    assert REFERENCE["noise"](seed, position, token) == pytest.approx(expected_noise, abs=1e-6)
    assert unsigned(hash_tokens(ids([token]), keys([(seed, position)]))).item() == expected_hash
    assert gumbel(ids([token]), keys([(seed, position)])).item() == pytest.approx(expected_noise, abs=4e-6)


@settings(deadline=None)
@given(
    draws=st.lists(st.tuples(SEEDS, POSITIONS), min_size=1, max_size=5),
    tokens=st.lists(TOKENS, min_size=1, max_size=40),
)
def test_equals_reference(draws: list[tuple[int, int]], tokens: list[int]) -> None:
    hashes = unsigned(hash_tokens(ids(tokens), keys(draws))).tolist()
    assert hashes == [[REFERENCE["token_hash"](*draw, token) for token in tokens] for draw in draws]
    expected = torch.tensor([[REFERENCE["noise"](*draw, token) for token in tokens] for draw in draws])
    torch.testing.assert_close(gumbel(ids(tokens), keys(draws)), expected, atol=4e-6, rtol=0)


def test_rows_may_have_their_own_tokens() -> None:
    draws, tokens = [(3, 4), (5, 6)], [[9, 8, 7], [1, 2, 3]]
    alone = torch.cat([gumbel(ids(row), keys([draw])) for row, draw in zip(tokens, draws, strict=True)])
    assert torch.equal(gumbel(torch.tensor(tokens, dtype=torch.int32), keys(draws)), alone)


def test_extremes_are_finite_and_accurate(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = [0, 1, 2, 100, 2**23, 2**24 + 1, 2**31 - 129, 2**31 - 1, 2**31, 2**32 - 1]
    bits = torch.tensor([h - 2**32 if h >= 2**31 else h for h in hashes], dtype=torch.int32)
    monkeypatch.setattr("rhapsode_server.engine.noise.hash_tokens", lambda tokens, keys: bits.clone())
    monkeypatch.setitem(REFERENCE, "token_hash", lambda seed, position, token: hashes[token])
    expected = torch.tensor([REFERENCE["noise"](0, 0, index) for index in range(len(hashes))])
    noise = gumbel(ids([0]), keys([(0, 0)]))
    torch.testing.assert_close(noise, expected, atol=4e-6, rtol=0)
    assert noise.min() > -2.82
    assert noise.max() < 22.19


@pytest.mark.parametrize(("seed", "position"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**32)])
def test_out_of_range_is_a_programming_error(seed: int, position: int) -> None:
    with pytest.raises(AssertionError):
        row_keys(seed, position)


NEIGHBOURS = {
    "tokens": (torch.arange(200_000, dtype=torch.int32), [(11, 12)]),
    "positions": (ids([464]), [(11, position) for position in range(50_000)]),
    "seeds": (ids([464]), [(seed, 12) for seed in range(50_000)]),
    "high seeds": (ids([464]), [(seed << 32, 12) for seed in range(50_000)]),
}


@pytest.mark.parametrize(("tokens", "draws"), NEIGHBOURS.values(), ids=NEIGHBOURS.keys())
def test_uniform_and_independent_along(tokens: Tensor, draws: list[tuple[int, int]]) -> None:
    u = uniforms(tokens, draws).flatten()
    n = len(u)
    pairs = torch.bincount((u[:-1] * 16).long() * 16 + (u[1:] * 16).long(), minlength=256)
    chi_square = ((pairs - n / 256) ** 2 / (n / 256)).sum().item()
    assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5
    assert abs(torch.corrcoef(torch.stack((u[:-1], u[1:])))[0, 1].item()) < 5 / n**0.5


def test_every_bit_is_balanced() -> None:
    n = 200_000
    h = unsigned(hash_tokens(torch.arange(n, dtype=torch.int32), keys([(1, 1)])))[0]
    ones = torch.stack([(h >> bit & 1).sum() for bit in range(32)])
    assert ((ones - n / 2).abs() < 5 * (n / 4) ** 0.5).all()


def test_rows_of_neighbouring_draws_are_uncorrelated() -> None:
    """A seed and a position may be swapped, or both moved, without meeting the same noise."""
    draws = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (1, 2), (1 << 32, 0), (1 << 32, 1), (0x9E3779B9, 0)]
    n = 50_000
    noise = gumbel(torch.arange(n, dtype=torch.int32), keys(draws))
    correlation = torch.corrcoef(noise) - torch.eye(len(draws))
    assert correlation.abs().max() < 5 / n**0.5


def test_follows_the_gumbel_distribution() -> None:
    n = 400_000
    noise = gumbel(torch.arange(n, dtype=torch.int32), keys([(2, 3)])).double()[0]
    assert abs(noise.mean().item() - 0.5772157) < 5 * 1.2825 / n**0.5
    for level in (-1.0, 0.0, 2.0, 5.0, 8.0):
        expected = 1 - torch.tensor(-level, dtype=torch.float64).exp().neg().exp().item()
        observed = (noise > level).double().mean().item()
        assert abs(observed - expected) < 5 * (expected * (1 - expected) / n) ** 0.5
