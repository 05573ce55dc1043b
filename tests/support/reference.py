"""What transformers itself generates: the oracle of the engine."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel


def generate_greedily(model: PreTrainedModel, prompt_ids: Sequence[int], max_new_tokens: int) -> list[int]:
    """The completion of one prompt alone, the end token included if there is one."""
    ids = torch.tensor([prompt_ids])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return output[0, len(prompt_ids) :].tolist()


def random_prompts(count: int, longest: int, vocabulary_size: int, seed: int = 0) -> list[list[int]]:
    """Prompts of 1 to `longest` tokens without the end token 0."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(1, vocabulary_size, (length,), generator=generator).tolist() for length in lengths]


def margin_where_they_part(
    model: PreTrainedModel, prompt_ids: Sequence[int], expected: Sequence[int], actual: Sequence[int]
) -> float:
    """How far apart the two candidates' logits are where two greedy completions part. 0 when they do not."""
    at = next((i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b), None)
    if at is None:
        return 0.0 if len(expected) == len(actual) else float("inf")
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt_ids, *expected[:at]]])).logits[0, -1]
    return abs(float(logits[expected[at]] - logits[actual[at]]))
