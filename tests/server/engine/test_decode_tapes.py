"""Decode steps from tapes give, bit for bit, what the model's own Python gives."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from rhapsode_server.engine import kernels
from rhapsode_server.engine.attention import ATTENTION
from rhapsode_server.engine.batch import Draw, Row
from rhapsode_server.engine.decode_tapes import MOST_ROWS, DecodeTapes
from rhapsode_server.engine.linears import pack, trim
from rhapsode_server.engine.request import SamplingParameters
from rhapsode_server.engine.runner import ModelRunner
from support.tiny_models import CONFIGURATIONS, VOCABULARY_SIZE, tiny_model
from torch import Tensor, nn

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="without kernels nothing is recorded")

REFUSED = {"gpt_neo", "bloom", "stablelm", "gptj"}  # by the loader: their attention is their own
LENGTHS = (5, 1, 9, 3)


def row(slot: int, start: int, token_ids: Sequence[int]) -> Row:
    end = start + len(token_ids)
    return Row(
        slot=slot,
        start=start,
        num_tokens=len(token_ids),
        token_ids=tuple(token_ids),
        num_reserved_tokens=64,
        draw=Draw(parameters=SamplingParameters(), position=end),
    )


def steps() -> Iterator[list[Row]]:
    """Prompts, then decodes of all, some, others and all again, in changing order."""
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(VOCABULARY_SIZE, (count,), generator=generator).tolist()

    lengths = list(LENGTHS)
    yield [row(slot, 0, ids(length)) for slot, length in enumerate(lengths)]
    for slots in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 0), (1, 3), (3, 1), (2,), (0,), (0, 1, 2, 3), (2, 1, 0)):
        rows = []
        for slot in slots:
            rows.append(row(slot, lengths[slot], ids(1)))
            lengths[slot] += 1
        yield rows


def logits_of(runner: ModelRunner, tapes: DecodeTapes | None) -> list[Tensor]:
    runner.tapes = tapes
    runner.loaded.model.set_attn_implementation(ATTENTION)
    logits = [runner.forward(rows).logits_RV.clone() for rows in steps()]
    runner.kv_cache.release(range(len(LENGTHS)))
    return logits


def assert_equal_bits(runner: ModelRunner) -> None:
    tapes = runner.tapes
    assert tapes
    from_tapes = logits_of(runner, tapes)
    assert tapes.num_replays == 5, "the first of each number of rows is recorded"
    for ours, expected in zip(from_tapes, logits_of(runner, None), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("architecture", [name for name in CONFIGURATIONS if name not in REFUSED])
def test_every_architecture(load: Any, architecture: str) -> None:
    assert_equal_bits(load(architecture))


def test_with_our_kernels(load: Any) -> None:
    runner = load("gpt2")
    pack(runner.loaded)
    trim(runner.loaded.model)
    assert_equal_bits(runner)


class _Peeking(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y * 2 if y.max().item() > 1e9 else y


def test_a_model_that_looks_at_values_runs_without(load: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model("gpt2")
    runner = load(model)
    runner.loaded.model.transformer.ln_f = _Peeking(runner.loaded.model.transformer.ln_f)
    tapes = runner.tapes
    with caplog.at_level(logging.INFO, logger="rhapsode.engine"):
        ours = logits_of(runner, tapes)
    assert "cannot be recorded, and take a little longer: what aten::item gives depends on values" in caplog.text
    assert tapes.num_replays == 0
    assert all(map(torch.equal, ours, logits_of(runner, None)))


class _Counting(nn.Module):
    """What its Python adds changes from call to call, so that no replay can be right."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y: Tensor = self.inner(x)
        return y + self.calls


def test_a_replay_that_differs_is_the_last(load: Any) -> None:
    runner = load("gpt2")
    runner.loaded.model.transformer.ln_f = _Counting(runner.loaded.model.transformer.ln_f)
    tapes = runner.tapes
    logits_of(runner, tapes)
    assert tapes.num_replays == 0
    assert not tapes.can_compute(list(steps())[1])


def test_only_rows_that_do_nothing_but_decode_are_taken(load: Any) -> None:
    tapes = load("gpt2").tapes
    decoding = row(0, 5, [1])
    assert tapes.can_compute([decoding] * MOST_ROWS)
    assert not tapes.can_compute([])
    assert not tapes.can_compute([decoding] * (MOST_ROWS + 1))
    assert not tapes.can_compute([decoding, row(1, 5, [1, 2])])
    assert not tapes.can_compute([row(0, 0, [1])])
    assert not tapes.can_compute([decoding._replace(draw=None)])
