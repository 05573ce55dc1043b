"""The paged cache against one of extents."""

import pytest
import torch
from rhapsode_server.engine.batch import Row
from rhapsode_server.engine.cuda.cache import PagedCache
from rhapsode_server.engine.kv_cache import KVCache
from torch import Tensor

KV_HEADS, KEY_DIM, VALUE_DIM, LAYERS = 2, 4, 3, 2
CPU = torch.device("cpu")


def row(slot: int, start: int, num_tokens: int, blocks: tuple[int, ...] = (), prefix_slot: int | None = None) -> Row:
    return Row(
        slot=slot,
        start=start,
        num_tokens=num_tokens,
        token_ids=(1,) * num_tokens,
        num_reserved_tokens=60,
        prefix_slot=prefix_slot,
        blocks=blocks,
    )


def random(num_tokens: int) -> tuple[Tensor, Tensor]:
    return torch.randn(KV_HEADS, num_tokens, KEY_DIM), torch.randn(KV_HEADS, num_tokens, VALUE_DIM)


class Both:
    """Does the same with both caches, and compares what they hold."""

    def __init__(self) -> None:
        self.paged, self.extents = PagedCache(num_slots=4, max_tokens=60, device=CPU), KVCache()

    def forward(self, *rows: Row) -> None:
        self.paged.begin(rows)
        for layer in range(LAYERS):
            for each in rows:
                keys, values = random(each.num_tokens)
                ours = self.paged.append(layer, each, keys, values)
                theirs = self.extents.append(layer, each, keys, values)
                assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_sequences_lie_apart_whatever_their_blocks() -> None:
    both = Both()
    both.forward(row(0, 0, 20, blocks=(3, 0, 5)), row(2, 0, 1, blocks=(1,)))
    both.forward(row(0, 20, 1), row(2, 1, 15), row(1, 0, 30, blocks=(2, 4)))
    both.forward(row(0, 21, 25), row(1, 30, 2))
    assert both.paged.bytes_per_token(slot=0) == both.extents.bytes_per_token(slot=0)


def test_a_slot_begins_anew() -> None:
    both = Both()
    both.forward(row(0, 0, 20, blocks=(0, 1)), row(1, 0, 9, blocks=(2,)))
    both.paged.release([0])
    both.extents.release([0])
    both.forward(row(0, 0, 5, blocks=(2, 1)), row(2, 0, 7, blocks=(0,)))
    both.forward(row(0, 5, 20), row(2, 7, 1))


@pytest.mark.parametrize("num_tokens", [1, 16, 17, 32, 39])
def test_what_another_has_computed_is_taken_over(num_tokens: int) -> None:
    both = Both()
    both.forward(row(0, 0, 39, blocks=(0, 4, 2)))
    both.forward(row(1, num_tokens, 3, blocks=(1, 3, 7), prefix_slot=0), row(0, 39, 1))
    both.forward(row(1, num_tokens + 3, 1), row(0, 40, 1))


def test_growing_moves_nothing_out_of_place() -> None:
    both = Both()
    both.forward(row(0, 0, 20, blocks=(1, 0)))
    both.paged.grow(100)
    both.paged.grow(50)
    assert [len(tensor) for layer in both.paged.layers for tensor in layer] == [101] * 4
    both.forward(row(0, 20, 2), row(1, 0, 3, blocks=(99,)))


def test_a_slot_that_never_began_is_scratch() -> None:
    both = Both()
    both.forward(row(0, 0, 20, blocks=(0, 1)))
    scratch = torch.tensor([both.paged.scratch_slot, 3])
    places = both.paged.places(scratch, torch.tensor([0, 17]))
    both.paged.store(0, places, *random(2))
    both.forward(row(0, 20, 1))
