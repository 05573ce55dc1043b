"""The loss of a causal language model without the logits of all its tokens.

Logits are the largest tensor of a training step: 13 GB in float32 for 65,536 tokens of GPT-2, and the gradient once
more. Here the head is multiplied, the loss taken and its gradients computed chunk by chunk in the forward pass, so that
the logits of one chunk exist at a time. That needs no knowledge of the architecture: while it is in training, the head
of the model lets hidden states through, and the function that transformers gives logits to gets these.

Shapes: N tokens, D hidden size, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad

from .precision import product_dtype

# A chunk of float32 logits that stays in the caches of a CPU; on CUDA, one that fills the device.
_CHUNK_BYTES = {"cpu": 16 * 2**20, "cuda": 2**30}
_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


@contextmanager
def chunked_loss(model: Any) -> Iterator[None]:
    """Within the block, `model` computes its training loss in chunks; in eval mode everything is as before.

    `model` is a causal language model of transformers, not wrapped. Raises ValueError if its head is no linear layer.
    """
    head: Any = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        raise ValueError(f"the head is not a linear layer but {type(head).__name__}")
    project, logits_loss = head.forward, model.loss_function

    def loss(logits: Tensor, labels: Tensor, vocab_size: int, **options: Any) -> Tensor:
        if not head.training:
            plain: Tensor = logits_loss(logits, labels, vocab_size=vocab_size, **options)
            return plain
        return causal_loss(logits, labels, head.weight, head.bias, **options)

    vars(head)["forward"] = lambda hidden: hidden if head.training else project(hidden)
    model.loss_function = loss
    try:
        yield
    finally:
        del head.forward, model._loss_function


def causal_loss(
    hidden: Tensor,
    labels: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None = None,
    *,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = -100,
    shift_labels: Tensor | None = None,
    **others: Any,
) -> Tensor:
    """Cross entropy of the next token in nats, as `ForCausalLMLoss` of transformers has it.

    Summed over all labels but `ignore_index`, divided by `num_items_in_batch`, else by their number. `hidden` is
    (..., T, D) and `labels` (..., T); the hidden state at t predicts the label at t + 1, or `shift_labels` at t.
    """
    targets = pad(labels, (0, 1), value=ignore_index)[..., 1:] if shift_labels is None else shift_labels
    targets_N, hidden_ND = targets.flatten().to(hidden.device), hidden.flatten(0, -2)
    learned_N = targets_N != ignore_index
    count = learned_N.sum() if num_items_in_batch is None else num_items_in_batch
    if _knows_shapes(hidden):
        hidden_ND, targets_N = hidden_ND[learned_N], targets_N[learned_N]
        learned_N = learned_N[learned_N]
    options = targets_N, learned_N, torch.is_grad_enabled()
    total: Tensor = _SummedLoss.apply(hidden_ND, weight_VD, bias_V, *options)  # type: ignore[no-untyped-call]
    return total / (count.to(total.device) if isinstance(count, Tensor) else count)


def _knows_shapes(tensor: Tensor) -> bool:
    """Whether rows without a target can be left out: elsewhere the host would wait for the device to count them."""
    return tensor.device.type == "cpu"


class _SummedLoss(torch.autograd.Function):
    """The sum over tokens. Gradients are kept as they are and scaled in the end: fp16 would not hold 1/N of them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        learned_N: Tensor,
        differentiable: bool,
    ) -> Tensor:
        wanted = tuple(differentiable and needed for needed in ctx.needs_input_grad[:3])
        dtype = product_dtype(hidden_ND)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            total, gradients = _sum_with_gradients(hidden_ND, weight_VD, bias_V, targets_N, learned_N, wanted, dtype)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [None if gradient is None else gradient * scale for gradient in ctx.saved_tensors]
        return (*gradients, None, None, None)


def _sum_with_gradients(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    learned_N: Tensor,
    wanted: tuple[bool, ...],
    dtype: torch.dtype,
) -> tuple[Tensor, _Gradients]:
    """Products in `dtype`, softmax and sums over chunks in float32."""
    weight, bias = weight_VD.to(dtype), None if bias_V is None else bias_V.to(dtype)
    total = torch.zeros((), device=hidden_ND.device)
    to_hidden = torch.empty_like(hidden_ND) if wanted[0] else None
    to_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if wanted[1] else None
    to_bias = torch.zeros_like(bias_V, dtype=torch.float32) if bias_V is not None and wanted[2] else None
    for part in _chunks(len(hidden_ND), len(weight_VD), hidden_ND.device.type):
        hidden, targets, learned = hidden_ND[part].to(dtype), targets_N[part, None], learned_N[part, None]
        logs = torch.log_softmax(linear(hidden, weight, bias), dim=-1, dtype=torch.float32)
        targets = targets.where(learned, 0)
        total -= logs.gather(1, targets).where(learned, 0).sum()
        if not any(wanted):
            continue
        to_logits = logs.exp_().scatter_add_(1, targets, torch.full_like(targets, -1, dtype=logs.dtype))
        if not _knows_shapes(hidden):
            to_logits.masked_fill_(~learned, 0)
        if to_bias is not None:
            to_bias += to_logits.sum(dim=0)
        to_logits = to_logits.to(dtype)
        if to_hidden is not None:
            to_hidden[part] = to_logits @ weight
        if to_weight is not None:
            _add_product(to_weight, to_logits.T, hidden)
    in_kind = None if to_weight is None else to_weight.to(weight_VD.dtype)
    return total, (to_hidden, in_kind, to_bias if bias_V is None or to_bias is None else to_bias.to(bias_V.dtype))


def _chunks(tokens: int, vocabulary: int, device: str) -> Iterator[slice]:
    rows = max(1, _CHUNK_BYTES.get(device, _CHUNK_BYTES["cuda"]) // (4 * vocabulary))
    yield from (slice(start, start + rows) for start in range(0, tokens, rows))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left @ right to `total`, which is float32: a sum over a chunk may be more than fp16 holds."""
    if left.dtype == torch.float32:
        total.addmm_(left, right)
    elif left.is_cuda:
        total += torch.mm(left, right, out_dtype=torch.float32)
    else:
        total += left @ right
