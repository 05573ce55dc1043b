"""Whether a model trains by a fast way as it trains by its own: the same loss, the same gradients."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ROWS, _TOKENS = 2, 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """The loss of one batch, and its gradients by the parameters that are trained."""

    loss: Tensor
    gradients: Sequence[Tensor | None]

    def agrees(self, other: "Outcome", tolerance: float) -> bool:
        """Each gradient to `tolerance` of its size, or a hundredth of that of the size of all."""
        sizes = [_size(gradient) for gradient in other.gradients]
        allowed = 0.01 * torch.stack([torch.zeros(()), *sizes]).norm()
        pairs = zip(self.gradients, other.gradients, sizes, strict=True)
        return bool((self.loss - other.loss).abs() <= tolerance * other.loss.abs()) and all(
            bool(_difference(own, theirs) <= tolerance * (size + allowed)) for own, theirs, size in pairs
        )


def outcome(model: Any, batch: Mapping[str, Any]) -> Outcome:
    """Loss and gradients without dropout; nothing is left in the parameters."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with without_dropout(model):
        loss = model(**{name: _moved(value, model.device) for name, value in batch.items()}, use_cache=False).loss
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return Outcome(loss.detach().cpu(), gradients)


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """In eval mode but for the head, which has no dropout, and whose mode says whether it is trained."""
    training = model.training
    model.eval()
    model.get_output_embeddings().train()
    try:
        yield
    finally:
        model.train(training)


def probe_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
    """A few tokens of the first rows. The first quarter is not learned, as if it were a prompt; packed rows get a
    document that begins in the middle."""
    return [_short(rows[index]) for index in range(min(_ROWS, len(rows)))]


def _short(row: Mapping[str, Any]) -> dict[str, Tensor]:
    ids = torch.as_tensor(row["input_ids"])[:_TOKENS].long()
    labels, places = ids.clone(), torch.arange(len(ids))
    labels[: len(ids) // 4] = -100
    short = {"input_ids": ids, "labels": labels}
    return short if "position_ids" not in row else {**short, "position_ids": places % -(-len(ids) // 2)}


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _size(gradient: Tensor | None) -> Tensor:
    return torch.zeros(()) if gradient is None else torch.linalg.vector_norm(gradient.float()).cpu()


def _difference(own: Tensor | None, other: Tensor | None) -> Tensor:
    if own is None or other is None:
        return _size(other if own is None else own)
    return _size(own.float() - other.float())
