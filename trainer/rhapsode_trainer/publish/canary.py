"""The canary: what this model says, token by token, so that whoever loads it can prove to have the same model.

Shapes: T tokens of prompt and continuation, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

SCHEMA_VERSION = 1
PROMPT_TOKENS = 16
CONTINUATION_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A greedy continuation; for each of its tokens the log-probability (natural, temperature 1, whole vocabulary) and
    the margin between the best and the second best log-probability, all teacher-forced in fp32."""

    schema_version: int
    prompt_ids: list[int]
    continuation_ids: list[int]
    logprobs: list[float]
    margins: list[float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def record_canary(model: PreTrainedModel, prompt_ids: Sequence[int]) -> Canary:
    """Continues the prompt greedily (past EOS) and scores the continuation in one forward. `model` is in fp32."""
    context = getattr(model.config, "max_position_embeddings", None) or PROMPT_TOKENS + CONTINUATION_TOKENS
    prompt = list(prompt_ids[: min(PROMPT_TOKENS, context // 2)])
    assert prompt, "a canary needs a prompt"
    continuation = _continue_greedily(model, prompt, min(CONTINUATION_TOKENS, context - len(prompt)))
    logprobs, margins = score(model, prompt, continuation)
    return Canary(
        schema_version=SCHEMA_VERSION,
        prompt_ids=prompt,
        continuation_ids=continuation,
        logprobs=logprobs,
        margins=margins,
    )


def score(
    model: PreTrainedModel, prompt: Sequence[int], continuation: Sequence[int]
) -> tuple[list[float], list[float]]:
    """Log-probability and top-1 margin of each token of the continuation."""
    logprobs_TV = _logits(model, [*prompt, *continuation[:-1]])[len(prompt) - 1 :].log_softmax(dim=-1)
    logprobs_T = logprobs_TV.gather(1, torch.tensor(continuation)[:, None])[:, 0]
    best_T2 = logprobs_TV.topk(2, dim=-1).values
    return logprobs_T.tolist(), (best_T2[:, 0] - best_T2[:, 1]).tolist()


def _continue_greedily(model: PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(_logits(model, ids)[-1].argmax()))
    return ids[len(prompt) :]


@torch.no_grad()
def _logits(model: PreTrainedModel, ids: list[int]) -> Tensor:
    model.eval()
    logits_1TV = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
    logits_TV: Tensor = logits_1TV[0].float().cpu()
    return logits_TV
