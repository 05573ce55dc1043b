import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_trainer.errors import Interrupted
from rhapsode_trainer.evaluation.likelihood import Likelihood, score_documents, split_windows, total

CONTEXT, STRIDE = 32, 10


def documents() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = [1, 2, 3, 31, 32, 33, 34, 50, 90, 17, 8]
    return [[0, *torch.randint(1, 300, (length,), generator=generator).tolist(), 0] for length in lengths]


def hand_loop(model: Any, ids: list[int], first_target: int = 1) -> float:
    """One token at a time, each with exactly the context that its window gives it."""
    nats, start = 0.0, 0
    for target in range(first_target, len(ids)):
        while target - start > CONTEXT:
            start += STRIDE
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:target]])).logits[0, -1].double()
        nats -= torch.log_softmax(logits, dim=-1)[ids[target]].item()
    return nats


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("prompts", [False, True])
def test_likelihood_equals_a_hand_loop_at_every_batch_size(
    kind: str, prompts: bool, make_model: Callable[..., Any]
) -> None:
    model, texts = make_model(kind, context=CONTEXT), documents()
    firsts = [len(ids) // 2 + 1 if prompts else 1 for ids in texts]
    expected = [hand_loop(model, ids, first) for ids, first in zip(texts, firsts, strict=True)]
    sizes = list(range(1, len(texts) + 1))
    for batch_size in (1, 2, 8, 32):
        options = {"context": CONTEXT, "stride": STRIDE, "batch_size": batch_size}
        parts = score_documents(model, texts, sizes, **options, first_targets=firsts if prompts else None)
        assert [part.nats for part in parts] == pytest.approx(expected, rel=1e-5)
        whole = total(parts)
        assert whole.nats / whole.tokens == pytest.approx(sum(expected) / whole.tokens, abs=1e-5)
        expected_tokens = sum(len(ids) - first for ids, first in zip(texts, firsts, strict=True))
        assert whole.tokens == expected_tokens, "every token that is no prompt and the EOS, once"
        assert whole.bytes == sum(sizes), "the EOS stands for no bytes"


@given(st.integers(2, 200), st.integers(1, 40), st.data())
def test_windows_cover_every_target_once(length: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    first_target = data.draw(st.integers(1, length))
    windows = list(split_windows(0, range(length), context, stride, first_target))
    targets = [target for window in windows for target in window.ids[window.first :]]
    assert targets == list(range(first_target, length))
    assert all(len(window.ids) <= context + 1 for window in windows)
    assert all(window.first >= 1 + context - stride for window in windows if window.ids[0] > 0)


@given(st.integers(2, 120), st.integers(1, 30), st.data())
def test_what_a_target_sees_does_not_depend_on_the_prompt_before_it(
    length: int, context: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, context))
    first_target = data.draw(st.integers(1, length - 1))
    whole, story = (_sees(length, context, stride, first) for first in (1, first_target))
    assert story == {target: start for target, start in whole.items() if target >= first_target}


def _sees(length: int, context: int, stride: int, first_target: int) -> dict[int, int]:
    """For each target, the first token that stands in its window."""
    windows = split_windows(0, range(length), context, stride, first_target)
    return {target: window.ids[0] for window in windows for target in window.ids[window.first :]}


def test_a_nan_is_never_dropped(make_model: Callable[..., Any]) -> None:
    model = make_model("gpt2")
    with torch.no_grad():
        model.transformer.wte.weight[7] = math.nan
    parts = score_documents(
        model, [[0, 1, 0], [0, 7, 0], [0, 2, 0]], [1, 1, 1], context=CONTEXT, stride=STRIDE, batch_size=2
    )
    assert math.isnan(total(parts).nats)
    assert math.isnan(total(parts).perplexity)


def test_scoring_can_be_left_between_batches(make_model: Callable[..., Any]) -> None:
    def stop() -> None:
        raise Interrupted("now")

    with pytest.raises(Interrupted):
        score_documents(make_model("gpt2"), [[0, 1, 0]], [1], context=32, stride=8, batch_size=1, check=stop)


def test_perplexity_and_bits_per_byte() -> None:
    value = Likelihood(nats=10 * math.log(4), tokens=10, bytes=5)
    assert value.perplexity == pytest.approx(4)
    assert value.bits_per_byte == pytest.approx(4)
    assert Likelihood(nats=1e9, tokens=1, bytes=1).perplexity == math.inf
