"""The canary: what this model says, token by token, so that whoever loads it can prove to have the same model; and what
its tokenizer makes of some texts, so that whoever loads that can prove to have the same tokenizer.

Shapes: T tokens of prompt and continuation, V vocabulary.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

SCHEMA_VERSION = 1
PROMPT_TOKENS = 16
CONTINUATION_TOKENS = 32
PROBES = (
    "",
    "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n",
    "  leading,   inner and trailing whitespace \t\n\n\n   ",
    "emoji \N{GRINNING FACE}\N{FAMILY}\N{ZERO WIDTH JOINER}\N{ROCKET} \N{REGIONAL INDICATOR SYMBOL LETTER D}",
    "combining e\N{COMBINING ACUTE ACCENT} a\N{COMBINING DIAERESIS}\N{COMBINING CEDILLA}, composed \xe9",
    "right to left \N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED} \N{ARABIC LETTER SEEN}\N{ARABIC LETTER LAM}",
    "\N{CJK UNIFIED IDEOGRAPH-8A69} \N{KATAKANA LETTER U} \N{FULLWIDTH LATIN CAPITAL LETTER A} \x00 \x7f \ufffd",
    "def f(x):\n\treturn {'a': 1.5e-3, \"b\": [x]}  # 1234567890 <tag> <|endoftext|> </s> don't won't",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerProbe:
    """A text and its ids, without added special tokens."""

    text: str
    ids: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerRecord:
    """`sha256` of the tokenizer.json, in hexadecimal, and what it gives for `PROBES`."""

    sha256: str
    probes: list[TokenizerProbe]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A greedy continuation; for each of its tokens the log-probability (natural, temperature 1, whole vocabulary) and
    the margin between the best and the second best log-probability, all teacher-forced in fp32."""

    schema_version: int
    prompt_ids: list[int]
    continuation_ids: list[int]
    logprobs: list[float]
    margins: list[float]
    tokenizer: TokenizerRecord | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def record_canary(
    model: PreTrainedModel, prompt_ids: Sequence[int], tokenizer: TokenizerRecord | None = None
) -> Canary:
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
        tokenizer=tokenizer,
    )


def record_tokenizer(file: Path) -> TokenizerRecord:
    """Of a tokenizer.json, read as servers read it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    probes = [TokenizerProbe(text=text, ids=tokenizer.encode(text, add_special_tokens=False).ids) for text in PROBES]
    return TokenizerRecord(sha256=hashlib.sha256(file.read_bytes()).hexdigest(), probes=probes)


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
