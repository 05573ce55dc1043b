"""Muon: momentum whose update is orthogonalised, for the matrices inside a model; AdamW for everything else.

Keller Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024), https://kellerjordan.github.io/posts/muon.
The update is scaled by 0.2 sqrt(max(rows, columns)), which gives it the size of an AdamW update (Liu et al. 2025, "Muon
is scalable for LLM training"), so that both halves share one learning rate and one weight decay.

torch.optim.Muon orthogonalises matrix by matrix in bfloat16, which is slow on most CPUs. Here all matrices of one shape
go together, in their own precision.

Shapes: N matrices of one shape, R rows, C columns.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Parameter groups with `muon: True` hold matrices for Muon; the others go to AdamW."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "muon": False})
        self._momentum = momentum
        self._adamw = torch.optim.AdamW(self._others(), lr=lr, betas=betas, eps=eps, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "no optimizer of a Trainer is given a closure"
        # Both halves are one optimizer to schedulers and checkpoints: groups and state are shared.
        self._adamw.param_groups, self._adamw.state = self._others(), self.state
        self._adamw.step()
        for group in self.param_groups:
            if group["muon"]:
                self._step_matrices(group)

    def _others(self) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if not group["muon"]]

    def _step_matrices(self, group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for matrix in group["params"]:
            if matrix.grad is not None:
                by_shape[matrix.shape].append(matrix)
        for shape, matrices in by_shape.items():
            updates_NRC = orthogonalise(torch.stack([self._nesterov(matrix) for matrix in matrices]))
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(matrices, list(updates_NRC.unbind()), alpha=-0.2 * max(shape) ** 0.5 * group["lr"])

    def _nesterov(self, matrix: Tensor) -> Tensor:
        assert matrix.grad is not None
        state = self.state[matrix]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(matrix)
        state["momentum"].lerp_(matrix.grad, 1 - self._momentum)
        update: Tensor = matrix.grad.lerp(state["momentum"], self._momentum)
        return update


def orthogonalise(matrices_NRC: Tensor) -> Tensor:
    """Brings all singular values near 1 by a quintic Newton-Schulz iteration; shapes and singular vectors stay."""
    a, b, c = _COEFFICIENTS
    wide = matrices_NRC.shape[-2] <= matrices_NRC.shape[-1]
    x = matrices_NRC if wide else matrices_NRC.mT
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def parameter_groups(model: PreTrainedModel, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices of the blocks for Muon; embeddings and head, then vectors (without decay), for AdamW."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    head = model.get_output_embeddings()
    embeddings.add(id(head.weight) if head is not None else 0)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [p for p in parameters if p.ndim == 2 and id(p) not in embeddings]
    tables = [p for p in parameters if p.ndim >= 2 and (p.ndim > 2 or id(p) in embeddings)]
    vectors = [p for p in parameters if p.ndim < 2]
    return [
        {"params": matrices, "weight_decay": weight_decay, "muon": True},
        {"params": tables, "weight_decay": weight_decay, "muon": False},
        {"params": vectors, "weight_decay": 0.0, "muon": False},
    ]
