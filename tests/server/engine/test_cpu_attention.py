"""The attention of CPUs against row by row in float64."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine import kernels
from rhapsode_server.engine.attention import AttentionOptions
from rhapsode_server.engine.batch import Row
from rhapsode_server.engine.cpu_attention import CpuBatch, cpu_attention
from rhapsode_server.engine.kv_cache import KVCache
from rhapsode_server.engine.row_attention import RowBatch
from torch import Tensor

needs_kernels = pytest.mark.skipif(kernels.library() is None, reason="the kernels are not built")
PLAIN = AttentionOptions(scaling=None, sliding_window=None, softcap=None, sinks=None)


@dataclass(frozen=True, kw_only=True)
class Shape:
    num_key_heads: int = 2
    group: int = 1
    key_dim: int = 16
    value_dim: int = 16

    def inputs(self, num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as models give them: views of one product, heads behind tokens."""
        widths = [self.num_key_heads * self.group * self.key_dim]
        widths += [self.num_key_heads * self.key_dim, self.num_key_heads * self.value_dim]
        parts = torch.randn(1, num_tokens, sum(widths)).split(widths, dim=2)
        dims = (self.key_dim, self.key_dim, self.value_dim)
        return tuple(part.unflatten(2, (-1, dim)).transpose(1, 2) for part, dim in zip(parts, dims, strict=True))


class Sides:
    """The same rows for both, in as many layers as are asked for."""

    def __init__(self, shape: Shape = Shape(), options: AttentionOptions = PLAIN, num_layers: int = 2) -> None:
        self.shape, self.options, self.num_layers = shape, options, num_layers
        self.cache, self.exact_cache = KVCache(), KVCache()

    def step(self, rows: Sequence[Row]) -> Iterator[tuple[Tensor, Tensor]]:
        """Actual and exact [P, N, V] of each layer."""
        batch, exact = CpuBatch(rows, self.cache), RowBatch(rows, self.exact_cache)
        for layer in range(self.num_layers):
            inputs = self.shape.inputs(sum(row.num_tokens for row in rows))
            actual = batch.attend(*inputs, self.options)
            assert batch.num_layers_seen == layer + 1
            yield actual[0], exact.attend(*(tensor.double() for tensor in inputs), self.options)[0]

    def check(self, rows: Sequence[Row]) -> None:
        for actual, exact in self.step(rows):
            torch.testing.assert_close(actual.double(), exact, rtol=1e-5, atol=1e-5)


def row(slot: int, start: int, num_tokens: int = 1, **more: Any) -> Row:
    room = more.pop("num_reserved_tokens", 200)
    return Row(slot=slot, start=start, num_tokens=num_tokens, token_ids=None, num_reserved_tokens=room, **more)


def in_chunks(chunks: Sequence[Sequence[int]]) -> Iterator[list[Row]]:
    """Steps in which every sequence that has not ended computes its next chunk."""
    for step in range(max(map(len, chunks))):
        yield [
            row(3 * number, sum(mine[:step]), mine[step], num_reserved_tokens=sum(mine))
            for number, mine in enumerate(chunks)
            if step < len(mine)
        ]


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[Callable[[int], None]]:
    """What is here is so small that a second thread only costs, unless a test asks for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


shapes = st.builds(
    Shape,
    num_key_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 8]),
    key_dim=st.sampled_from([1, 4, 16, 20, 64, 80, 128, 256]),
    value_dim=st.sampled_from([1, 16, 24, 64, 96, 256]),
)
decoded = st.builds(lambda first, count: [first, *[1] * count], st.integers(1, 70), st.integers(1, 4))
sequences = st.one_of(decoded, st.lists(st.integers(1, 9), min_size=1, max_size=5))


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(
    shape=shapes,
    chunks=st.lists(sequences, min_size=1, max_size=5),
    decodes_first=st.booleans(),
    scaling=st.sampled_from([None, 0.3]),
    window=st.sampled_from([None, 1, 5, 16, 40]),
    softcap=st.sampled_from([None, 0.5, 30.0]),
    has_sinks=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_it_equals_row_by_row(shape, chunks, decodes_first, scaling, window, softcap, has_sinks, seed):
    torch.manual_seed(seed)
    sinks = torch.randn(shape.num_key_heads * shape.group) * 3 if has_sinks else None
    sides = Sides(shape, AttentionOptions(scaling=scaling, sliding_window=window, softcap=softcap, sinks=sinks))
    for rows in in_chunks(chunks):
        sides.check(sorted(rows, key=lambda row: row.num_tokens > 1) if decodes_first else rows)


@needs_kernels
def test_many_threads_write_what_one_writes(threads):
    """Enough tokens to wake them."""
    results = []
    for num_threads in (3, 1):
        threads(num_threads)
        torch.manual_seed(0)
        sides = Sides(Shape(num_key_heads=4, group=2, key_dim=64, value_dim=64))
        lengths = [150, 3, 90, 199]
        sides.check([row(slot, 0, length) for slot, length in enumerate(lengths)])
        decodes = [row(slot, length) for slot, length in enumerate(lengths)]
        results.append([actual for actual, _ in sides.step(decodes)])
    assert all(one.equal(other) for one, other in zip(*results, strict=True))


@needs_kernels
def test_vectors_with_gaps_are_read_too():
    torch.manual_seed(0)
    sides = Sides(num_layers=1)
    sides.check([row(0, 0, 5)])
    gaps = [tensor.repeat_interleave(3, -1)[..., ::3] for tensor in sides.shape.inputs(1)]
    assert {tensor.stride(-1) for tensor in gaps} == {3}
    expected = CpuBatch([row(0, 5)], sides.cache).attend(*(tensor.contiguous() for tensor in gaps), PLAIN)
    assert CpuBatch([row(0, 5)], sides.cache).attend(*gaps, PLAIN).equal(expected)


@needs_kernels
def test_a_row_begins_with_the_tokens_of_another():
    torch.manual_seed(0)
    sides = Sides()
    sides.check([row(0, 0, 10)])
    sides.check([row(0, 10), row(1, 7, prefix_slot=0), row(2, 4, 5, prefix_slot=0)])
    sides.check([row(0, 11), row(1, 8), row(2, 9)])


@needs_kernels
def test_what_is_released_is_begun_anew():
    torch.manual_seed(0)
    sides = Sides()
    sides.check([row(5, 0, 4), row(1, 0, 4)])
    for cache in (sides.cache, sides.exact_cache):
        cache.release([5])
    sides.check([row(1, 4), row(5, 0)])
    sides.check([row(1, 5), row(5, 1)])


@needs_kernels
@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_row(spoilt: float):
    torch.manual_seed(0)
    sides = Sides(Shape(group=2), num_layers=1)
    sides.check([row(slot, 0, 20) for slot in range(3)])
    inputs = sides.shape.inputs(3)
    clean = CpuBatch([row(slot, 20) for slot in range(3)], sides.cache).attend(*inputs, PLAIN)[0]
    for tensor in inputs:
        spoilt_inputs = [each.clone() for each in inputs]
        next(each for each, original in zip(spoilt_inputs, inputs, strict=True) if original is tensor)[0, :, 1] = spoilt
        actual = CpuBatch([row(slot, 20) for slot in range(3)], sides.cache).attend(*spoilt_inputs, PLAIN)[0]
        assert not actual[1].isfinite().any()
        assert actual[[0, 2]].equal(clean[[0, 2]])


@needs_kernels
def test_large_scores_do_not_overflow():
    torch.manual_seed(0)
    sides = Sides(options=AttentionOptions(scaling=200.0, sliding_window=None, softcap=None, sinks=torch.zeros(2)))
    for rows in in_chunks([[30, 1, 1], [1, 1, 1]]):
        for actual, exact in sides.step(rows):
            torch.testing.assert_close(actual.double(), exact, rtol=1e-3, atol=1e-3)


@needs_kernels
@pytest.mark.parametrize("wrong", [row(0, 8), row(1, 4), row(9, 4)], ids=["full", "released", "unknown"])
def test_a_token_without_room_is_a_mistake_and_writes_nothing(wrong: Row):
    sides = Sides(num_layers=1)
    sides.check([row(0, 0, 8, num_reserved_tokens=8), row(1, 0, 4)])
    sides.cache.release([1])
    with pytest.raises(AssertionError, match="room"):
        CpuBatch([wrong], sides.cache).attend(*sides.shape.inputs(1), PLAIN)


def test_other_types_go_row_by_row():
    assert cpu_attention(torch.bfloat16) is RowBatch


def test_without_kernels_it_goes_row_by_row(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "library", lambda: None)
    assert cpu_attention(torch.float32) is RowBatch


@needs_kernels
def test_with_kernels_it_does_not():
    assert cpu_attention(torch.float32) is CpuBatch
