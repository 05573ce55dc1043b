"""Exact likelihood of documents: every token once, weighted by tokens, whatever the batch size.

`Trainer`'s own eval_loss is a mean of batch means, wrong by (T-1)/T for some architectures, and drops NaN batches.

Shapes: B windows in a batch, T tokens of the longest window, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from .scores import Likelihood, total

__all__ = ["Likelihood", "Window", "score_documents", "split_windows", "total"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Tokens that go through the model together; targets from index `first` on count, the others are context."""

    document: int
    ids: Sequence[int]
    first: int


def split_windows(
    document: int, ids: Sequence[int], context: int, stride: int, first_target: int = 1
) -> Iterator[Window]:
    """Covers every token of `ids` from `first_target` on exactly once as a target, with at most `context` inputs a
    window.

    A further window begins `stride` tokens later, so all its targets but the first window's see at least
    `context - stride` tokens. How much a target sees depends on its place alone, not on `first_target`.
    """
    assert 1 <= stride <= context
    assert first_target >= 1
    start, scored = 0, first_target
    while scored < len(ids):
        if scored - start <= context:
            end = min(start + context + 1, len(ids))
            yield Window(document=document, ids=ids[start:end], first=scored - start)
            scored = end
        start += stride


def score_documents(
    model: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    sizes: Sequence[int],
    *,
    context: int,
    stride: int,
    batch_size: int,
    first_targets: Sequence[int] | None = None,
    check: Callable[[], None] = lambda: None,
) -> list[Likelihood]:
    """One Likelihood for each document: `documents` are ids that begin with the token that everything is conditioned
    on and end with EOS, `sizes` the bytes of their texts. With `first_targets`, what stands before that index of a
    document (a prompt) is context only. `check` is called before each batch and may raise."""
    firsts = [1] * len(documents) if first_targets is None else first_targets
    stride = min(stride, context)
    windows = [
        window
        for index, (ids, first) in enumerate(zip(documents, firsts, strict=True))
        for window in split_windows(index, ids, context, stride, first)
    ]
    windows.sort(key=lambda window: len(window.ids))  # rows of like length: little padding
    nats = [0.0] * len(documents)
    model.eval()
    for start in range(0, len(windows), batch_size):
        check()
        batch = windows[start : start + batch_size]
        for window, value in zip(batch, _window_nats(model, batch), strict=True):
            nats[window.document] += value
    return [
        Likelihood(nats=value, tokens=len(ids) - first, bytes=size)
        for value, ids, first, size in zip(nats, documents, firsts, sizes, strict=True)
    ]


@torch.no_grad()
def _window_nats(model: PreTrainedModel, windows: Sequence[Window]) -> list[float]:
    inputs_BT, targets_BT = _batch(windows)
    device = model.device
    # Padding stands on the right, where causal attention never looks, so no mask is needed.
    logits_BTV = model(input_ids=inputs_BT.to(device), use_cache=False).logits.float()
    losses_BT = cross_entropy(
        logits_BTV.flatten(0, 1), targets_BT.to(device).flatten(), ignore_index=-100, reduction="none"
    ).view_as(targets_BT)
    sums: list[float] = losses_BT.double().sum(dim=1).tolist()
    return sums


def _batch(windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
    longest = max(len(window.ids) for window in windows) - 1
    inputs_BT = torch.zeros(len(windows), longest, dtype=torch.long)
    targets_BT = torch.full((len(windows), longest), -100)
    for row, window in enumerate(windows):
        ids = torch.tensor(window.ids)
        inputs_BT[row, : len(ids) - 1] = ids[:-1]
        targets_BT[row, window.first - 1 : len(ids) - 1] = ids[window.first :]
    return inputs_BT, targets_BT
