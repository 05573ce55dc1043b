"""Text to read and to measure: the same prompts, seeds and decoding before and after training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..config import SampleConfig
from ..errors import ConfigError

Stage = Literal["before", "champion", "after"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One continuation, with all that decided it: `index` is its place among those drawn with the same seed."""

    stage: Stage
    prompt: str
    seed: int
    index: int
    text: str


def draw_sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: SampleConfig, stage: Stage
) -> Sample:
    """Continues the prompt with the model's own generation settings, up to the end of its context."""
    [sample] = draw_samples(
        model, tokenizer, [config.prompt], stage=stage, seed=config.seed, max_new_tokens=config.max_new_tokens
    )
    return sample


def draw_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    stage: Stage,
    seed: int,
    max_new_tokens: int,
    count: int = 1,
    postprocess: Callable[[str], str] = lambda text: text,
    check: Callable[[], None] = lambda: None,
) -> list[Sample]:
    """Continues each prompt `count` times with the model's own generation settings, up to the end of its context.

    Prompts are drawn one after the other, each from `seed`: what a prompt gets does not depend on the others. `check`
    is called before each and may raise. Raises ConfigError, naming the prompt, when there is no room to continue it.
    """
    samples: list[Sample] = []
    for prompt in prompts:
        check()
        ids = _encode(model, tokenizer, prompt)
        torch.manual_seed(seed)
        texts = _continue(model, tokenizer, ids.expand(count, -1), max_new_tokens)
        samples += [
            Sample(stage=stage, prompt=prompt, seed=seed, index=index, text=postprocess(text))
            for index, text in enumerate(texts)
        ]
    return samples


def _encode(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> torch.Tensor:
    """Shape [1, tokens of the prompt]."""
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    context = model.config.max_position_embeddings
    if not 1 <= len(ids) < context:
        raise ConfigError(f"prompt {prompt[:40]!r}: {len(ids)} tokens cannot be continued in a context of {context}")
    return torch.tensor([ids], device=model.device)


@torch.no_grad()
def _continue(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor, max_new_tokens: int
) -> list[str]:
    length = ids.shape[1]
    model.eval()
    output = cast(Any, model).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=min(max_new_tokens, model.config.max_position_embeddings - length),
        pad_token_id=tokenizer.eos_token_id,
        use_cache=True,
    )
    return [str(tokenizer.decode(row[length:], skip_special_tokens=True)) for row in output]
