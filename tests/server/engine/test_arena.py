"""Places in one memory: none reaches into another, none is lost, and the system may give large pages for them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_server.engine.arena import Arena, room_for
from torch import Tensor

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

shapes = st.lists(st.integers(0, 5), max_size=3)
types = st.sampled_from([torch.float32, torch.int8, torch.float64, torch.bool])


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    tensor = torch.empty(draw(shapes), dtype=draw(types))
    return tensor.permute(draw(st.permutations(range(tensor.dim()))))


@given(st.lists(tensors(), max_size=8), st.integers(0, 2000))
def test_no_place_reaches_into_another(originals: list[Tensor], num_bytes: int) -> None:
    arena = Arena(num_bytes)
    places = [arena.like(original) for original in originals]
    for number, place in enumerate(places):
        place.fill_(number)
    for number, (place, original) in enumerate(zip(places, originals, strict=True)):
        assert (place.shape, place.stride(), place.dtype) == (original.shape, original.stride(), original.dtype)
        assert bool((place == torch.tensor(number).to(place.dtype)).all())
    assert arena.num_bytes_used == sum(map(room_for, originals))


def test_what_is_cleared_is_given_again() -> None:
    arena, tensor = Arena(256), torch.empty(16)
    first = arena.like(tensor).data_ptr()
    assert arena.like(tensor).data_ptr() == first + 64
    arena.clear()
    assert arena.like(tensor).data_ptr() == first


def test_a_view_of_much_takes_room_for_itself_alone() -> None:
    assert room_for(torch.empty(1_000_000)[:16]) == 64


@pytest.mark.skipif(not LARGE_PAGES.exists(), reason="this system has no pages of 2 MB")
def test_large_pages_are_asked_for() -> None:
    place = Arena(3 << 20).like(torch.empty(2 << 20, dtype=torch.uint8))
    assert place.data_ptr() % (2 << 20) == 0
    assert "hg" in flags_of_mapping(place.data_ptr()), "proc(5): huge page advise flag"
    place.fill_(1)


def flags_of_mapping(address: int) -> list[str]:
    flags, is_there = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first:
            begin, end = (int(part, 16) for part in first.split("-"))
            is_there = begin <= address < end
        elif first == "VmFlags:" and is_there:
            flags = rest
    return flags
