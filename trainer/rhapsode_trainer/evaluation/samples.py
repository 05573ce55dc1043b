"""Text to read: the same prompt, seed and decoding before and after training."""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..config import SampleConfig
from ..errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One continuation, with all that decided it."""

    stage: Literal["before", "after"]
    prompt: str
    seed: int
    text: str


@torch.no_grad()
def draw_sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: SampleConfig, stage: Literal["before", "after"]
) -> Sample:
    """Continues the prompt with the model's own generation settings, up to the end of its context."""
    prompt = torch.tensor([tokenizer.encode(config.prompt, add_special_tokens=False)], device=model.device)
    room = model.config.max_position_embeddings - prompt.shape[1]
    if room < 1:
        raise ConfigError(
            f"sample.prompt: {prompt.shape[1]} tokens leave no room in a context of {room + prompt.shape[1]}"
        )
    model.eval()
    torch.manual_seed(config.seed)
    output = cast(Any, model).generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=min(config.max_new_tokens, room),
        pad_token_id=tokenizer.eos_token_id,
        use_cache=True,
    )
    text = str(tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True))
    return Sample(stage=stage, prompt=config.prompt, seed=config.seed, text=text)
