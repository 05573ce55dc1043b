"""Exact likelihood of documents: every token once, weighted by tokens, whatever the batch size.

`Trainer`'s own eval_loss is a mean of batch means, wrong by (T-1)/T for some architectures, and drops NaN batches.

Shapes: B windows in a batch, T tokens of the longest window, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """Negative log-likelihood in nats of `tokens` predicted tokens that stand for `bytes` bytes of text.

    The token that ends a document is predicted and counted as a token; it stands for no bytes.
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """Per token; of use only between models that share a tokenizer. NaN stays NaN; too large is infinity."""
        mean = self.nats / self.tokens
        return math.inf if mean > 700 else math.exp(mean)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Tokens that go through the model together; targets from index `first` on count, the others are context."""

    document: int
    ids: Sequence[int]
    first: int


def split_windows(document: int, ids: Sequence[int], context: int, stride: int) -> Iterator[Window]:
    """Covers every token of `ids` but the first exactly once as a target, with at most `context` inputs a window.

    A further window begins `stride` tokens later, so all its targets but the first window's see at least
    `context - stride` tokens.
    """
    assert 1 <= stride <= context
    start, scored = 0, 1
    while scored < len(ids):
        end = min(start + context + 1, len(ids))
        yield Window(document=document, ids=ids[start:end], first=scored - start)
        start, scored = start + stride, end


def score_documents(
    model: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    sizes: Sequence[int],
    *,
    context: int,
    stride: int,
    batch_size: int,
    check: Callable[[], None] = lambda: None,
) -> list[Likelihood]:
    """One Likelihood for each document: `documents` are ids that begin with the token that everything is conditioned
    on and end with EOS, `sizes` the bytes of their texts. `check` is called before each batch and may raise."""
    stride = min(stride, context)
    windows = [window for index, ids in enumerate(documents) for window in split_windows(index, ids, context, stride)]
    windows.sort(key=lambda window: len(window.ids))  # rows of like length: little padding
    nats = [0.0] * len(documents)
    model.eval()
    for start in range(0, len(windows), batch_size):
        check()
        batch = windows[start : start + batch_size]
        for window, value in zip(batch, _window_nats(model, batch), strict=True):
            nats[window.document] += value
    return [
        Likelihood(nats=value, tokens=len(ids) - 1, bytes=size)
        for value, ids, size in zip(nats, documents, sizes, strict=True)
    ]


def total(parts: Sequence[Likelihood]) -> Likelihood:
    """The likelihood of all documents together."""
    return Likelihood(
        nats=math.fsum(part.nats for part in parts),
        tokens=sum(part.tokens for part in parts),
        bytes=sum(part.bytes for part in parts),
    )


@torch.no_grad()
def _window_nats(model: PreTrainedModel, windows: Sequence[Window]) -> list[float]:
    inputs_BT, targets_BT = _batch(windows)
    device = model.device
    # Padding stands on the right, where causal attention never looks, so no mask is needed.
    logits_BTV = model(input_ids=inputs_BT.to(device), use_cache=False).logits.float()
    losses_BT = cross_entropy(logits_BTV.transpose(1, 2), targets_BT.to(device), ignore_index=-100, reduction="none")
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
