"""A tape does what the work did, with what its tensors hold now."""

from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_server.engine import tape as tapes
from rhapsode_server.engine.arena import Arena
from rhapsode_server.engine.tape import NotRecordable, Tape, recording
from torch import Tensor

Work = Callable[[Tensor], Tensor]


def view_and_add(x: Tensor) -> Tensor:
    return x.view(3, 4).t() + 1


def in_place(x: Tensor) -> Tensor:
    y = x * 2
    y[1:3] = x[5:7]
    y.relu_()
    return y.reshape(4, 3)


def several_outputs(x: Tensor) -> Tensor:
    values, places = x.view(3, 4).max(dim=1)
    return torch.cat([values, places.float()])


def normed(x: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(torch.nn.functional.gelu(x), (12,))


def with_types(x: Tensor) -> Tensor:
    half = x.bfloat16() * x.bfloat16()
    return half.float() + torch.arange(12) // 5


def gathered(x: Tensor) -> Tensor:
    return x[x.abs().argsort()].cumsum(0).split(5)[1].contiguous()


def made_anew(x: Tensor) -> Tensor:
    out = torch.empty(12)
    out[:6], out[6:] = x[6:], x[:6]
    return torch.stack([out, torch.zeros(12), torch.full_like(x, 3)])


WORKS = [view_and_add, in_place, several_outputs, normed, with_types, gathered, made_anew]


def recorded(work: Work, input: Tensor, arena: Arena) -> tuple[Tape, Tensor]:
    with recording(arena) as tape:
        output = work(input)
    return tape, output


@pytest.mark.parametrize("num_bytes", [0, 256, 100_000], ids="arena of {}".format)
@pytest.mark.parametrize("work", WORKS)
@torch.inference_mode()
def test_a_replay_reads_what_is_there_now(work: Work, num_bytes: int) -> None:
    x = torch.randn(12, generator=torch.Generator().manual_seed(0))
    tape, output = recorded(work, x, Arena(num_bytes))
    assert torch.equal(output, work(x))
    for seed in (1, 2):
        x.copy_(torch.randn(12, generator=torch.Generator().manual_seed(seed)))
        tape.replay()
        assert torch.equal(output, work(x))


@given(order=st.lists(st.integers(0, len(WORKS) - 1), max_size=20))
@torch.inference_mode()
def test_tapes_that_share_memory_are_replayed_in_any_order(order: list[int]) -> None:
    arena, x = Arena(4096), torch.zeros(12)
    made = [recorded(work, x, arena) for work in WORKS]
    assert len({output.untyped_storage().data_ptr() for _, output in made}) == 1
    for step, number in enumerate(order):
        x.copy_(torch.randn(12, generator=torch.Generator().manual_seed(step)))
        tape, output = made[number]
        tape.replay()
        assert torch.equal(output, WORKS[number](x))


@torch.inference_mode()
def test_an_operation_writes_into_its_place_where_it_can() -> None:
    tape, output = recorded(lambda x: (x + 1).bfloat16(), torch.arange(12.0), Arena(4096))
    add, to_bfloat16 = (cast("partial[object]", call) for call in tape.calls)
    assert add.func is torch.ops.aten.add.out
    assert to_bfloat16.args[0][0] is output


def test_an_arena_counts_what_it_could_not_give() -> None:
    arena = Arena(64)
    recorded(lambda x: x + 1 + 2, torch.zeros(12), arena)
    assert arena.num_bytes_used == 128


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x * x.sum().item(),
        lambda x: x if x[0] > 0 else -x,
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x.clone() if torch.equal(x, x) else x,
    ],
)
@torch.inference_mode()
def test_what_depends_on_values_cannot_be_recorded(work: Work) -> None:
    with pytest.raises(NotRecordable, match="aten::"):
        recorded(work, torch.ones(12), Arena(0))


def test_calls_are_noted_while_a_tape_is_recorded_and_only_then() -> None:
    heard: list[str] = []
    tapes.call(heard.append, "before")
    with recording(Arena(0)) as tape:
        tapes.call(heard.append, "recorded")
        tapes.note(lambda: lambda: heard.append("noted"))
    tapes.call(heard.append, "after")
    tape.replay()
    assert heard == ["before", "recorded", "after", "recorded", "noted"]


def test_the_end_of_a_recording_is_the_end_even_when_it_fails() -> None:
    with pytest.raises(ZeroDivisionError), recording(Arena(0)) as tape:
        raise ZeroDivisionError
    tapes.call(lambda: None)
    assert tape.calls == []
